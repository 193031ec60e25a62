//! The options of kms mode, from the command line and after `-o`.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::ops::RangeInclusive;
use std::time::Duration;

use clap::Args;

use super::exit::{Exit, Failure, Outcome};
use crate::keys::audit::{AuditOptions, AuditSync};
use crate::keys::kms::{AuditLevel, BucketKeyLimits, CONTEXT_PREFIX, KmsOptions};

/// What kms mode is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KmsChoices {
    /// `key_id=`: the CMK of new files, by id or alias.
    pub key_id: Option<String>,
    /// `bucket_key`
    pub bucket_key: bool,
    /// `bucket_key_ttl=`, `bucket_key_uses=`
    pub bucket_key_limits: BucketKeyLimits,
    /// `context=`, any number of times.
    pub context: BTreeMap<String, String>,
    /// `audit_level=`
    pub level: AuditLevel,
    /// `audit=`, `audit_sync=`, `audit_segment=`
    pub audit: AuditOptions,
}

/// The same on the command line.
#[derive(Debug, Args)]
pub struct KmsArgs {
    /// Mode 'kms': the key of new files, as an id or alias/NAME; an existing volume remembers
    /// the one that it was made with
    #[arg(long, value_name = "KEY")]
    pub key_id: Option<String>,

    /// Mode 'kms': wrap many files under one short-lived bucket key, as S3 Bucket Keys do;
    /// fewer uses of the key, less detail in the audit log
    #[arg(long)]
    pub bucket_key: bool,

    /// Mode 'kms': bind NAME=VALUE to new files; key policies and the audit log see it
    #[arg(long, value_name = "NAME=VALUE")]
    pub context: Vec<String>,

    /// Mode 'kms': what happens when the audit log cannot be written: 'required' refuses the
    /// key's use, 'best-effort' goes on without a record [default: required]
    #[arg(long, value_name = "WHEN")]
    pub audit: Option<String>,

    /// Mode 'kms': sync the audit log 'always' before a key is used, or at an 'interval' of a
    /// second [default: interval]
    #[arg(long, value_name = "WHEN")]
    pub audit_sync: Option<String>,

    /// Mode 'kms': record all 'opens', or only 'uses' of the key, without those served from
    /// memory [default: opens]
    #[arg(long, value_name = "LEVEL")]
    pub audit_level: Option<String>,
}

impl Default for KmsChoices {
    fn default() -> Self {
        Self {
            key_id: None,
            bucket_key: false,
            bucket_key_limits: BucketKeyLimits::DEFAULT,
            context: BTreeMap::new(),
            level: AuditLevel::Opens,
            audit: AuditOptions {
                sync: AuditSync::Interval(SYNC_INTERVAL),
                lease: true,
                ..AuditOptions::default()
            },
        }
    }
}

impl KmsChoices {
    /// Takes what the command line says on top.
    pub fn and_take(mut self, args: &KmsArgs) -> Outcome<Self> {
        let named = [
            ("key_id", args.key_id.as_ref()),
            ("audit", args.audit.as_ref()),
            ("audit_sync", args.audit_sync.as_ref()),
            ("audit_level", args.audit_level.as_ref()),
        ];
        let context = args.context.iter().map(|pair| ("context", Some(pair)));
        for (name, value) in named.into_iter().chain(context) {
            if let Some(value) = value {
                self.take(name, OsStr::new(value)).expect("each of these is known")?;
            }
        }
        self.bucket_key |= args.bucket_key;
        Ok(self)
    }

    /// How the provider is to use CMKs.
    pub fn provider_options(&self) -> KmsOptions {
        KmsOptions {
            context: self.context.clone(),
            level: self.level,
            bucket_keys: self.bucket_key.then_some(self.bucket_key_limits),
        }
    }

    /// Takes an option with a value; `None` if there is none of this name.
    pub fn take(&mut self, name: &str, value: &OsStr) -> Option<Outcome> {
        let outcome = match name {
            "key_id" => text(name, value).map(|key_id| self.key_id = Some(key_id)),
            "bucket_key_ttl" => number(name, value, 1..=86_400)
                .map(|seconds| self.bucket_key_limits.lifetime = Duration::from_secs(seconds)),
            "bucket_key_uses" => {
                number(name, value, 1..=1 << 30).map(|uses| self.bucket_key_limits.uses = uses)
            }
            "context" => text(name, value).and_then(|pair| self.take_pair(&pair)),
            "audit" => choice(name, value, ["required", "best-effort"])
                .map(|index| self.audit.best_effort = index == 1),
            "audit_sync" => choice(name, value, ["always", "interval"]).map(|index| {
                self.audit.sync = match index {
                    0 => AuditSync::Always,
                    _ => AuditSync::Interval(SYNC_INTERVAL),
                };
            }),
            "audit_level" => choice(name, value, ["opens", "uses"]).map(|index| {
                self.level = if index == 0 { AuditLevel::Opens } else { AuditLevel::Uses };
            }),
            "audit_segment" => number(name, value, 1..=4096)
                .map(|mebibytes| self.audit.segment_size = mebibytes << 20),
            _ => return None,
        };
        Some(outcome)
    }

    fn take_pair(&mut self, pair: &str) -> Outcome {
        let refused = |problem: &str| {
            Failure::new(Exit::Usage, format!("encryption context '{pair}': {problem}"))
        };
        let Some((name, value)) = pair.split_once('=').filter(|(name, _)| !name.is_empty()) else {
            return Err(refused("it is given as NAME=VALUE"));
        };
        if name.starts_with(CONTEXT_PREFIX) {
            return Err(refused("names that begin with 'ssefs:' are given by ssefs itself"));
        }
        self.context.insert(name.to_owned(), value.to_owned());
        // It has its place in the header of each file.
        if self.context.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>()
            > MAX_CONTEXT_BYTES
        {
            return Err(refused("all pairs together are longer than 512 bytes"));
        }
        Ok(())
    }
}

fn text(name: &str, value: &OsStr) -> Outcome<String> {
    match value.to_str() {
        Some(text) if !text.is_empty() => Ok(text.to_owned()),
        _ => Err(bad_value(name, value, "a text is missing")),
    }
}

/// A number in digits only: `u64::from_str` would take a sign.
pub fn number(name: &str, value: &OsStr, range: RangeInclusive<u64>) -> Outcome<u64> {
    let digits = value.to_str().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    let number = digits.and_then(|digits| digits.parse().ok());
    number.filter(|number| range.contains(number)).ok_or_else(|| {
        let (least, most) = range.into_inner();
        bad_value(name, value, &format!("{least} to {most} is possible"))
    })
}

fn choice(name: &str, value: &OsStr, names: [&str; 2]) -> Outcome<usize> {
    names.iter().position(|name| value == *name).ok_or_else(|| {
        let [first, second] = names;
        bad_value(name, value, &format!("'{first}' or '{second}' is possible"))
    })
}

/// The refusal of an option's value.
pub fn bad_value(name: &str, value: &OsStr, problem: &str) -> Failure {
    let value = value.to_string_lossy();
    Failure::new(Exit::Usage, format!("option '{name}={value}': {problem}"))
}

const SYNC_INTERVAL: Duration = Duration::from_secs(1);
const MAX_CONTEXT_BYTES: usize = 512;
