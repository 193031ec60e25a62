//! Aliases of keys. An alias that stands for a key needs that key's permission; one whose key is
//! gone belongs to the owner of the keystore.

use super::call::Call;
use super::{LocalKms, allowed};
use crate::format::KeyId;
use crate::keys::identity::Identity;
use crate::keys::keystore::KeystoreLock;
use crate::keys::kms::action::Action;
use crate::keys::kms::alias::{Alias, AliasName, Aliases};
use crate::keys::kms::error::{ErrorCode, KmsError};

impl LocalKms {
    /// Gives a key, named by its id, an alias.
    pub fn create_alias(&self, who: &Identity, alias: &str, key: &str) -> Result<(), KmsError> {
        self.create_alias_under(None, who, alias, key)
    }

    /// Lets an alias stand for another key, named by its id. Files that were made through the
    /// alias go on naming the old key.
    pub fn update_alias(&self, who: &Identity, alias: &str, key: &str) -> Result<(), KmsError> {
        self.change_aliases(None, Action::UpdateAlias, who, alias, |aliases, name, call, now| {
            call.parameter("targetKeyId", key);
            let key_id = self.alias_target(call, key, now)?;
            let old = aliases.move_to(name, &key_id, now)?;
            call.parameter("previousKeyId", old.0.as_str());
            self.check_right_to(call, &old, now)
        })
    }

    /// Removes an alias; the key that it stands for stays.
    pub fn delete_alias(&self, who: &Identity, alias: &str) -> Result<(), KmsError> {
        self.change_aliases(None, Action::DeleteAlias, who, alias, |aliases, name, call, now| {
            let key_id = aliases.key_of(name)?.clone();
            self.check_right_to(call, &key_id, now)?;
            call.key_id = Some(key_id);
            aliases.remove(name)
        })
    }

    /// The aliases of one key, named by its id, or all.
    pub fn list_aliases(&self, who: &Identity, key: Option<&str>) -> Result<Vec<Alias>, KmsError> {
        self.audited(Call::read(Action::ListAliases, who), |call| {
            self.owner_only(who, Action::ListAliases)?;
            if let Some(key) = key {
                call.parameter("keyId", key);
                call.key_id = Some(self.cmk(&self.id_only(key)?)?.id().clone());
            }
            Ok(Aliases::read(&self.keystore)?.list(call.key_id.as_ref()))
        })
    }

    /// [`Self::create_alias`], for who may hold the lock already.
    pub(super) fn create_alias_under(
        &self,
        lock: Option<KeystoreLock<'_>>,
        who: &Identity,
        alias: &str,
        key: &str,
    ) -> Result<(), KmsError> {
        self.change_aliases(lock, Action::CreateAlias, who, alias, |aliases, name, call, now| {
            call.parameter("targetKeyId", key);
            let key_id = self.alias_target(call, key, now)?;
            aliases.add(name.clone(), key_id, now)
        })
    }

    fn change_aliases(
        &self,
        lock: Option<KeystoreLock<'_>>,
        action: Action,
        who: &Identity,
        alias: &str,
        edit: impl FnOnce(&mut Aliases, &AliasName, &mut Call<'_>, u64) -> Result<(), KmsError>,
    ) -> Result<(), KmsError> {
        let mut call = Call::change(action, who);
        call.parameter("aliasName", alias);
        self.audited(call, |call| {
            let name = AliasName::parse(alias)?;
            let lock = lock.map_or_else(|| self.keystore.lock(), Ok)?;
            let mut aliases = Aliases::read(&self.keystore)?;
            edit(&mut aliases, &name, call, self.now())?;
            let staged = aliases.stage(&lock)?;
            self.record(call)?;
            Ok(staged.publish()?)
        })
    }

    /// The key that an alias shall stand for, which must allow it in policy and state.
    fn alias_target(&self, call: &mut Call<'_>, key: &str, now: u64) -> Result<KeyId, KmsError> {
        let key_id = self.id_only(key)?;
        let record = self.record_to_change(&key_id, now)?;
        call.key_id = Some(key_id.clone());
        allowed(&record, call.who, call.action, call.context)?;
        let refused = record.lifecycle.check(call.action, now);
        refused.map_err(|refusal| refusal.of_key(&key_id))?;
        Ok(key_id)
    }

    /// Whether the caller may take an alias away from this key.
    fn check_right_to(&self, call: &Call<'_>, key_id: &KeyId, now: u64) -> Result<(), KmsError> {
        match self.record_to_change(key_id, now) {
            Ok(record) => allowed(&record, call.who, call.action, call.context),
            Err(KmsError::Refused { code: ErrorCode::NotFound, .. }) => {
                self.owner_only(call.who, call.action)
            }
            Err(error) => Err(error),
        }
    }
}
