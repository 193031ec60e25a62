//! Making, listing and describing keys; their descriptions and policies.

use std::sync::Arc;

use serde::Serialize;

use super::LocalKms;
use super::call::Call;
use crate::format::KeyId;
use crate::keys::identity::Identity;
use crate::keys::kms::action::Action;
use crate::keys::kms::alias::{AliasName, Aliases};
use crate::keys::kms::cmk::Cmk;
use crate::keys::kms::error::{ErrorCode, KmsError};
use crate::keys::kms::policy::Policy;
use crate::keys::kms::record::CmkRecord;
use crate::keys::kms::state::{Command, KeyState, Origin};

/// What a new key shall be.
#[derive(Default)]
pub struct CreateKey<'a> {
    /// What people know it by, at most 8192 characters.
    pub description: &'a str,
    /// Its first alias.
    pub alias: Option<&'a str>,
    /// After how many days it rotates by itself.
    pub rotation_days: Option<u32>,
    /// Its policy; without one the owner of the keystore may do all.
    pub policy: Option<Policy>,
    /// Whether a policy is taken under which its author could not put another one.
    pub bypass_lockout_check: bool,
    /// Where its material comes from; made here unless told otherwise.
    pub origin: Option<Origin>,
}

/// What is shown of a key, with AWS KMS's names. Dates are in seconds since 1970-01-01 UTC.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct KeyMetadata {
    /// Its id.
    pub key_id: KeyId,
    /// Its aliases.
    pub aliases: Vec<AliasName>,
    /// What people know it by.
    pub description: String,
    /// When it was made.
    pub creation_date: u64,
    /// Whether it can be used.
    pub enabled: bool,
    /// Its state.
    pub key_state: KeyState,
    /// When it will be deleted, if that is pending.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deletion_date: Option<u64>,
    /// Where its material comes from.
    pub origin: Origin,
    /// The number of the newest version of its material.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub current_key_version: Option<u32>,
    /// The public name of that material.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub current_key_material_id: Option<String>,
}

impl LocalKms {
    /// Makes a key. With an alias this is two requests, and two events: should the second fail,
    /// the key is there without the alias.
    pub fn create_key(
        &self,
        who: &Identity,
        request: CreateKey<'_>,
    ) -> Result<KeyMetadata, KmsError> {
        let origin = request.origin.unwrap_or(Origin::AwsKms);
        let mut call = Call::change(Action::CreateKey, who);
        call.parameter("description", request.description);
        call.parameter("origin", origin.name());
        call.parameter("keySpec", KEY_SPEC);
        call.parameter("keyUsage", KEY_USAGE);
        let (lock, key_id) = self.audited(call, |call| {
            self.owner_only(who, Action::CreateKey)?;
            check_description(request.description)?;
            let policy = match request.policy {
                Some(policy) => {
                    refuse_lockout(&policy, who, request.bypass_lockout_check)?;
                    policy
                }
                None => Policy::default_for(self.keystore.owner()),
            };
            let lock = self.keystore.lock()?;
            if let Some(alias) = request.alias {
                let mut aliases = Aliases::read(&self.keystore)?;
                aliases.add(AliasName::parse(alias)?, KeyId::random(), 0)?;
            }
            let now = self.now();
            let mut record = CmkRecord::new(origin, request.description.to_owned(), policy, now);
            call.key_id = Some(record.key_id.clone());
            if let Some(days) = request.rotation_days {
                call.parameter("rotationPeriodInDays", days);
                record.command(Command::EnableRotation { days }, None, now)?;
            }
            if let Some(first) = record.newest() {
                call.version(first);
            }
            let staged = record.stage(&lock)?;
            self.record(call)?;
            staged.publish()?;
            Ok((lock, record.key_id))
        })?;
        log::info!("made CMK {key_id}");
        if let Some(alias) = request.alias {
            self.create_alias_under(Some(lock), who, alias, &key_id.0)?;
        }
        self.metadata(&*self.cmk(&key_id)?)
    }

    /// All keys. A record that cannot be read is left out, with a warning in the log.
    pub fn list_keys(&self, who: &Identity) -> Result<Vec<KeyMetadata>, KmsError> {
        self.audited(Call::read(Action::ListKeys, who), |_| {
            self.owner_only(who, Action::ListKeys)?;
            let aliases = Aliases::read(&self.keystore)?;
            let cmks = self.all_cmks()?;
            Ok(cmks.iter().map(|cmk| KeyMetadata::of(cmk, &aliases)).collect())
        })
    }

    /// One key.
    pub fn describe_key(&self, who: &Identity, key: &str) -> Result<KeyMetadata, KmsError> {
        self.audited(Call::read(Action::DescribeKey, who), |call| {
            self.metadata(&*self.find(call, key)?)
        })
    }

    /// Changes what people know a key by.
    pub fn update_description(
        &self,
        who: &Identity,
        key: &str,
        description: &str,
    ) -> Result<(), KmsError> {
        let mut call = Call::change(Action::UpdateKeyDescription, who);
        call.parameter("description", description);
        self.change(call, key, |record, _, _| {
            check_description(description)?;
            record.description = description.to_owned();
            Ok(())
        })
    }

    /// The policy of a key.
    pub fn key_policy(&self, who: &Identity, key: &str) -> Result<Policy, KmsError> {
        self.audited(Call::read(Action::GetKeyPolicy, who), |call| {
            Ok(self.find_by_id_only(call, key)?.policy().clone())
        })
    }

    /// Gives a key another policy. One under which `who` could not put another again is refused,
    /// unless `bypass_lockout_check`.
    pub fn put_key_policy(
        &self,
        who: &Identity,
        key: &str,
        policy: Policy,
        bypass_lockout_check: bool,
    ) -> Result<(), KmsError> {
        let mut call = Call::change(Action::PutKeyPolicy, who);
        call.parameter("policy", policy.to_json());
        call.parameter("bypassPolicyLockoutSafetyCheck", bypass_lockout_check);
        self.change(call, key, |record, _, _| {
            refuse_lockout(&policy, who, bypass_lockout_check)?;
            record.policy = policy;
            Ok(())
        })
    }

    /// All keys that are not past the date of their deletion.
    pub(super) fn all_cmks(&self) -> Result<Vec<Arc<Cmk>>, KmsError> {
        let mut cmks = Vec::new();
        for key_id in CmkRecord::ids(&self.keystore)? {
            match self.cmk(&key_id) {
                Ok(cmk) => cmks.push(cmk),
                Err(KmsError::Refused { code: ErrorCode::NotFound, .. }) => {}
                Err(error) => log::warn!("a key is left out of the list: {error}"),
            }
        }
        Ok(cmks)
    }

    pub(super) fn metadata(&self, cmk: &Cmk) -> Result<KeyMetadata, KmsError> {
        Ok(KeyMetadata::of(cmk, &Aliases::read(&self.keystore)?))
    }
}

impl KeyMetadata {
    fn of(cmk: &Cmk, aliases: &Aliases) -> Self {
        let newest = cmk.record.newest();
        let aliases = aliases.list(Some(cmk.id())).into_iter().map(|alias| alias.alias_name);
        Self {
            key_id: cmk.id().clone(),
            aliases: aliases.collect(),
            description: cmk.description().to_owned(),
            creation_date: cmk.created(),
            enabled: cmk.state() == KeyState::Enabled,
            key_state: cmk.state(),
            deletion_date: cmk.record.lifecycle.deletion(),
            origin: cmk.origin(),
            current_key_version: newest.map(|newest| newest.version),
            current_key_material_id: newest.map(|newest| newest.material_id.clone()),
        }
    }
}

fn check_description(description: &str) -> Result<(), KmsError> {
    if description.chars().count() > MAX_DESCRIPTION_LEN {
        let message = format!("a description has at most {MAX_DESCRIPTION_LEN} characters");
        return Err(KmsError::new(ErrorCode::Validation, message));
    }
    Ok(())
}

fn refuse_lockout(policy: &Policy, who: &Identity, bypass: bool) -> Result<(), KmsError> {
    if bypass || policy.lets(who, Action::PutKeyPolicy) {
        return Ok(());
    }
    let message = format!(
        "under this policy user {} could not put another one: let it allow kms:PutKeyPolicy, or \
         force it",
        who.caller().uid
    );
    Err(KmsError::new(ErrorCode::MalformedPolicyDocument, message))
}

const KEY_SPEC: &str = "SYMMETRIC_DEFAULT";
const KEY_USAGE: &str = "ENCRYPT_DECRYPT";
const MAX_DESCRIPTION_LEN: usize = 8192;
