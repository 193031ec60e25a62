//! The local KMS over one keystore. It owns the order of every operation: find the key, check
//! the caller's right, check the key's state, do it, record it, and only then let it be seen.
//!
//! A change is written durably beside the old record, then its event is recorded, then it is
//! made visible by a rename, all under the keystore's lock: without its event nothing changes,
//! and a kill at any point leaves the old record or the new one. The result of a use is handed
//! out only after its event has been recorded. Each refusal is an event too.

mod aliases;
mod call;
mod cryptography;
mod grants;
mod keys;
mod last_use;
mod lifecycle;
mod maintain;
mod material;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

pub use cryptography::{DataKey, Decrypted, Encrypted};
pub use grants::GrantRequest;
pub use keys::{CreateKey, KeyMetadata};
pub use material::{KeyRotation, RotationStatus};

use super::action::Action;
use super::alias::AliasName;
use super::alias_cache::AliasCache;
use super::cmk::{Cmk, CmkCache, Look, not_found};
use super::error::{ErrorCode, KmsError};
use super::policy::{Decision, Request, decide};
use super::record::{CmkRecord, canonical_id};
use crate::format::KeyId;
use crate::keys::audit::AuditLog;
use crate::keys::clock::unix_now;
use crate::keys::identity::Identity;
use crate::keys::keystore::Keystore;
use call::Call;

/// The CMKs of a keystore. All methods may be called from many threads at once, and other
/// processes may use the keystore at the same time.
///
/// A key that is used or described is named by its id or by an alias; where it is changed, by its
/// id only, as an alias could be moved meanwhile. The key's policy and grants decide who may do
/// what with it. Making and listing keys belongs to no key: it is allowed to the owner of the
/// keystore and to root, who can read the keystore anyway.
pub struct LocalKms {
    keystore: Arc<Keystore>,
    audit: Arc<AuditLog>,
    cmks: CmkCache,
    aliases: AliasCache,
    clock: Clock,
}

/// Tells the date, in seconds since 1970-01-01 UTC.
pub type Clock = Box<dyn Fn() -> u64 + Send + Sync>;

impl LocalKms {
    /// The KMS of `keystore`, which records every use and change in `audit`.
    pub fn new(keystore: Arc<Keystore>, audit: Arc<AuditLog>) -> Self {
        Self::with_clock(keystore, audit, Box::new(unix_now))
    }

    /// The same with another clock.
    pub fn with_clock(keystore: Arc<Keystore>, audit: Arc<AuditLog>, clock: Clock) -> Self {
        let cmks = CmkCache::new(Arc::clone(&keystore));
        let aliases = AliasCache::new(Arc::clone(&keystore));
        Self { keystore, audit, cmks, aliases, clock }
    }

    /// The keystore.
    pub fn keystore(&self) -> &Arc<Keystore> {
        &self.keystore
    }

    /// The audit log.
    pub fn audit(&self) -> &Arc<AuditLog> {
        &self.audit
    }

    /// The key that an id or alias names. It is not looked up whether an id is of a key.
    pub fn resolve(&self, named: &str) -> Result<KeyId, KmsError> {
        if named.starts_with(AliasName::PREFIX) {
            let name = AliasName::parse(named)?;
            return self.aliases.aliases()?.key_of(&name).cloned();
        }
        canonical_id(named).ok_or_else(|| not_found(&self.keystore, named))
    }

    /// The CMK as it is now, in whatever state. Costs one system call while it has not changed.
    pub fn cmk(&self, key_id: &KeyId) -> Result<Arc<Cmk>, KmsError> {
        self.cmks.cmk(key_id, self.now())
    }

    /// What tells by itself that this snapshot is still the newest.
    pub(super) fn look(&self, cmk: &Arc<Cmk>) -> Option<Look> {
        self.cmks.look(cmk)
    }

    /// Whether the snapshot is still the newest. Costs one system call.
    pub(super) fn is_unchanged(&self, look: &Look, now: Instant) -> bool {
        self.cmks.is_unchanged(look, now)
    }

    /// Whether `who` may do this with the key now, by its policy, grants and state. Records
    /// nothing.
    pub fn authorise(
        &self,
        cmk: &Cmk,
        who: &Identity,
        action: Action,
        context: &BTreeMap<String, String>,
    ) -> Result<(), KmsError> {
        allowed(&cmk.record, who, action, context)?;
        self.check_usable(cmk, action)
    }

    /// Whether the key's state allows this action now, whoever asks.
    pub fn check_usable(&self, cmk: &Cmk, action: Action) -> Result<(), KmsError> {
        let refused = cmk.record.lifecycle.check(action, self.now());
        refused.map_err(|refusal| refusal.of_key(cmk.id()))
    }

    fn now(&self) -> u64 {
        (self.clock)()
    }

    /// The CMK that `call` is about, once its caller is known to have the right.
    fn find(&self, call: &mut Call<'_>, named: &str) -> Result<Arc<Cmk>, KmsError> {
        call.parameter("keyId", named);
        let key_id = self.resolve(named)?;
        self.find_by_id(call, &key_id)
    }

    fn find_by_id(&self, call: &mut Call<'_>, key_id: &KeyId) -> Result<Arc<Cmk>, KmsError> {
        let cmk = self.cmk(key_id)?;
        call.key_id = Some(key_id.clone());
        self.authorise(&cmk, call.who, call.action, call.context)?;
        Ok(cmk)
    }

    /// The record of an existing key, to be changed under the keystore's lock.
    fn record_to_change(&self, key_id: &KeyId, now: u64) -> Result<CmkRecord, KmsError> {
        match CmkRecord::read(&self.keystore, key_id)? {
            Some((record, _)) if !record.lifecycle.is_deleted(now) => Ok(record),
            _ => Err(not_found(&self.keystore, &key_id.0)),
        }
    }

    /// [`Self::find`] where AWS KMS takes no alias.
    fn find_by_id_only(&self, call: &mut Call<'_>, named: &str) -> Result<Arc<Cmk>, KmsError> {
        call.parameter("keyId", named);
        let key_id = self.id_only(named)?;
        self.find_by_id(call, &key_id)
    }

    /// The key that an id names; an alias is refused.
    fn id_only(&self, named: &str) -> Result<KeyId, KmsError> {
        let key_id = self.resolve(named)?;
        if named.starts_with(AliasName::PREFIX) {
            let message = format!("{named} is an alias: name the key by its id here, {key_id}");
            return Err(KmsError::new(ErrorCode::Validation, message));
        }
        Ok(key_id)
    }

    /// Changes one key, named by its id: `edit` gets its record once the caller is known to have
    /// the right, and what it leaves is made visible after the event.
    fn change<T>(
        &self,
        mut call: Call<'_>,
        named: &str,
        edit: impl FnOnce(&mut CmkRecord, &mut Call<'_>, u64) -> Result<T, KmsError>,
    ) -> Result<T, KmsError> {
        call.parameter("keyId", named);
        self.audited(call, |call| {
            let lock = self.keystore.lock()?;
            let now = self.now();
            let mut record = self.record_to_change(&self.id_only(named)?, now)?;
            call.key_id = Some(record.key_id.clone());
            allowed(&record, call.who, call.action, call.context)?;
            let refused = record.lifecycle.check(call.action, now);
            refused.map_err(|refusal| refusal.of_key(&record.key_id))?;
            let result = edit(&mut record, call, now)?;
            let staged = record.stage(&lock)?;
            self.record(call)?;
            staged.publish()?;
            Ok(result)
        })
    }

    /// Whether `who` may do what belongs to no key.
    fn owner_only(&self, who: &Identity, action: Action) -> Result<(), KmsError> {
        let uid = who.caller().uid;
        if uid == 0 || uid == self.keystore.owner() {
            return Ok(());
        }
        let message = format!(
            "user {uid} is not allowed kms:{}: only the owner of the keystore {} is",
            action.name(),
            self.keystore.path().display()
        );
        Err(KmsError::new(ErrorCode::AccessDenied, message))
    }
}

/// Whether the key's policy and grants let `who` do this.
fn allowed(
    record: &CmkRecord,
    who: &Identity,
    action: Action,
    context: &BTreeMap<String, String>,
) -> Result<(), KmsError> {
    let reason = match decide(&record.policy, &record.grants, &Request::new(who, action, context)) {
        Decision::Allowed { .. } => return Ok(()),
        Decision::Denied { by } => format!("{by} denies it"),
        Decision::NotAllowed => "neither its policy nor a grant allows it".to_owned(),
    };
    let name = who.user_name().map(|name| format!(" ({name})")).unwrap_or_default();
    let (uid, action, key_id) = (who.caller().uid, action.name(), &record.key_id);
    let message = format!("user {uid}{name} is not allowed kms:{action} on key {key_id}: {reason}");
    Err(KmsError::new(ErrorCode::AccessDenied, message))
}

#[cfg(test)]
mod kill_tests;
#[cfg(test)]
mod model_tests;
#[cfg(test)]
mod tests;
