//! Reading records as they tell themselves, without verifying them: in order for reports,
//! backwards for the last use of a key.

use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::body::KEY_SOURCE;
use super::lines::{Line, Picture};
use super::place::DIR_NAME;
use super::time::UtcTime;
use crate::format::KeyId;
use crate::keys::error::KeyError;
use crate::keys::keystore::Keystore;

/// A log as it was at one moment.
pub struct AuditReader {
    picture: Picture,
}

/// One record.
#[derive(Debug, Clone)]
pub struct AuditRecord {
    /// Its line of JSON.
    pub json: String,
    /// When.
    pub time: UtcTime,
    fields: Fields,
}

/// How a use ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Outcome {
    /// Done.
    Success,
    /// Refused by a policy.
    Denied,
    /// Not done for another reason.
    Error,
}

/// Who, as the record tells.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct UserIdentity {
    /// The user's name then.
    pub user_name: Option<String>,
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Process id.
    pub pid: u32,
    /// The user that had logged in.
    pub login_uid: Option<u32>,
    /// The program, escaped as paths are.
    pub executable: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Fields {
    event_time: String,
    event_source: String,
    event_name: String,
    seq: u64,
    #[serde(default)]
    user_identity: UserIdentity,
    #[serde(default)]
    request_parameters: Map<String, Value>,
    #[serde(default)]
    resources: Vec<Resource>,
    #[serde(default)]
    read_only: bool,
    error_code: Option<String>,
    error_message: Option<String>,
    #[serde(default)]
    additional_event_data: Map<String, Value>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Resource {
    key_id: String,
}

impl AuditReader {
    /// The log of a keystore; empty if there is none yet.
    pub fn of(keystore: &Keystore) -> Result<Self, KeyError> {
        Self::at(&keystore.path().join(DIR_NAME))
    }

    /// The log in a directory.
    pub fn at(dir: &Path) -> Result<Self, KeyError> {
        Ok(Self { picture: Picture::take(dir)? })
    }

    /// All records in order. A line that is no record is an error of its own; the next follow.
    pub fn records(&self) -> impl Iterator<Item = Result<AuditRecord, KeyError>> + '_ {
        let lines = self.picture.lines().chain(self.left_behind());
        // A torn line is a record that is being written, or never was.
        let whole =
            lines.filter(|line| line.as_ref().map_or(true, |line| line.bytes.ends_with(b"\n")));
        whole.map(|line| line.and_then(|line| self.record(line)))
    }

    /// The same from the last to the first.
    pub fn records_backwards(&self) -> impl Iterator<Item = Result<AuditRecord, KeyError>> + '_ {
        self.lines_backwards().map(|line| line.and_then(|line| self.record(line)))
    }

    /// The newest successful use of a key's material.
    pub fn last_use(&self, key_id: &KeyId) -> Result<Option<AuditRecord>, KeyError> {
        for line in self.lines_backwards() {
            let line = line?;
            if !std::str::from_utf8(&line.bytes).is_ok_and(|text| text.contains(&key_id.0)) {
                continue;
            }
            let record = self.record(line)?;
            if record.is_use()
                && record.outcome() == Outcome::Success
                && record.key_id() == Some(key_id.0.as_str())
            {
                return Ok(Some(record));
            }
        }
        Ok(None)
    }

    fn lines_backwards(&self) -> impl Iterator<Item = Result<Line, KeyError>> + '_ {
        self.left_behind().into_iter().rev().chain(self.picture.lines_backwards())
    }

    /// What is not in the chain yet, as lines without a place there.
    fn left_behind(&self) -> Vec<Result<Line, KeyError>> {
        let records = match self.picture.left_behind() {
            Ok(left) => left.map(|left| left.records(left.put.len())).unwrap_or_default(),
            Err(error) => return vec![Err(error)],
        };
        let line = |(seq, mut bytes): (u64, Vec<u8>)| {
            bytes.extend_from_slice(format!(",\"seq\":{seq}}}\n").as_bytes());
            Line { segment: 0, number: 0, bytes }
        };
        records.into_iter().map(|record| Ok(line(record))).collect()
    }

    fn record(&self, line: Line) -> Result<AuditRecord, KeyError> {
        let damaged = |problem: String| KeyError::Damaged {
            path: self.picture.path_of(line.segment),
            problem: match line.number {
                0 => problem,
                number => format!("line {number}: {problem}"),
            },
        };
        let mut json = String::from_utf8(line.bytes)
            .map_err(|_| damaged("is not a record: no UTF-8".into()))?;
        let fields: Fields = serde_json::from_str(&json)
            .map_err(|error| damaged(format!("is not a record: {error}")))?;
        let time = UtcTime::parse(&fields.event_time)
            .ok_or_else(|| damaged("is not a record: no time".into()))?;
        json.truncate(json.trim_end().len());
        Ok(AuditRecord { json, time, fields })
    }
}

impl AuditRecord {
    /// Its number.
    pub fn seq(&self) -> u64 {
        self.fields.seq
    }

    /// Such as `Decrypt`.
    pub fn event_name(&self) -> &str {
        &self.fields.event_name
    }

    /// Whether it is about a key, and not about the log itself.
    pub fn is_about_keys(&self) -> bool {
        self.fields.event_source == KEY_SOURCE
    }

    /// Whether a key's material was used, or was to be.
    pub fn is_use(&self) -> bool {
        self.is_about_keys() && USES.contains(&self.event_name())
    }

    /// Whether a key was changed, or was to be.
    pub fn is_change(&self) -> bool {
        self.is_about_keys() && !self.is_use() && !self.fields.read_only
    }

    /// How it ended.
    pub fn outcome(&self) -> Outcome {
        match self.fields.error_code.as_deref() {
            None => Outcome::Success,
            Some("AccessDeniedException") => Outcome::Denied,
            Some(_) => Outcome::Error,
        }
    }

    /// Who.
    pub fn identity(&self) -> &UserIdentity {
        &self.fields.user_identity
    }

    /// The key, as it was found, or as it was asked for.
    pub fn key_id(&self) -> Option<&str> {
        let found = self.fields.resources.first().map(|resource| resource.key_id.as_str());
        found.or_else(|| self.parameter("keyId"))
    }

    /// Whether this key takes part in it.
    pub fn names_key(&self, key_id: &str) -> bool {
        self.fields.resources.iter().any(|resource| resource.key_id == key_id)
            || KEY_PARAMETERS.iter().any(|name| self.parameter(name) == Some(key_id))
    }

    /// A member of `requestParameters` that is text.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.fields.request_parameters.get(name)?.as_str()
    }

    /// The path of the file, escaped.
    pub fn path(&self) -> Option<&str> {
        self.parameter("path")
    }

    /// The file's id in hexadecimal.
    pub fn file_id(&self) -> Option<&str> {
        self.parameter("fileId")
    }

    /// The volume's id.
    pub fn volume_id(&self) -> Option<&str> {
        self.parameter("volumeId")
    }

    /// Whether the DEK was in memory already.
    pub fn cache_hit(&self) -> Option<bool> {
        self.fields.additional_event_data.get("cacheHit")?.as_bool()
    }

    /// The version of the key's material.
    pub fn key_version(&self) -> Option<u64> {
        self.fields.additional_event_data.get("keyMaterialVersion")?.as_u64()
    }

    /// What a record about the log itself found.
    pub fn detail(&self, name: &str) -> Option<&Value> {
        self.fields.additional_event_data.get(name)
    }

    /// The error's name.
    pub fn error_code(&self) -> Option<&str> {
        self.fields.error_code.as_deref()
    }

    /// The error in one sentence.
    pub fn error_message(&self) -> Option<&str> {
        self.fields.error_message.as_deref()
    }
}

impl UserIdentity {
    /// The name, or the number where there was none.
    pub fn label(&self) -> String {
        self.user_name.clone().unwrap_or_else(|| format!("uid {}", self.uid))
    }
}

impl Outcome {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Denied => "denied",
            Self::Error => "error",
        }
    }
}

/// Events that use a key's material.
const USES: [&str; 5] = ["Decrypt", "Encrypt", "GenerateDataKey", "ReEncryptFrom", "ReEncryptTo"];
/// Members of `requestParameters` that name a key.
const KEY_PARAMETERS: [&str; 4] = ["keyId", "sourceKeyId", "destinationKeyId", "targetKeyId"];
