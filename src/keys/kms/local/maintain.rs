//! What the KMS does by itself: rotation of keys that are due, destruction of keys whose waiting
//! period is over. Both are recorded under the names that CloudTrail has for them.

use super::LocalKms;
use super::call::Call;
use crate::format::KeyId;
use crate::keys::identity::Identity;
use crate::keys::kms::action::Action;
use crate::keys::kms::alias::Aliases;
use crate::keys::kms::error::KmsError;
use crate::keys::kms::record::CmkRecord;
use crate::keys::kms::state::Command;

impl LocalKms {
    /// Rotates the keys that are due at `now`, in seconds since 1970-01-01 UTC, and destroys
    /// those whose day of deletion has come. What fails for one key does not keep the others
    /// from it; the first error is returned.
    pub fn maintain(&self, now: u64) -> Result<(), KmsError> {
        let mut first_error = None;
        for key_id in CmkRecord::ids(&self.keystore)? {
            if let Err(error) = self.maintain_key(&key_id, now) {
                log::warn!("maintenance of key {key_id}: {error}");
                first_error.get_or_insert(error);
            }
        }
        first_error.map_or(Ok(()), Err)
    }

    fn maintain_key(&self, key_id: &KeyId, now: u64) -> Result<(), KmsError> {
        let Some((record, _)) = CmkRecord::read(&self.keystore, key_id)? else { return Ok(()) };
        if record.lifecycle.is_deleted(now) {
            return self.destroy(key_id, now);
        }
        self.rotate_if_due(key_id, now)
    }

    /// Adds a version if the key is due.
    pub(super) fn rotate_if_due(&self, key_id: &KeyId, now: u64) -> Result<(), KmsError> {
        let is_due = |record: &CmkRecord| record.lifecycle.is_due(now);
        let read = || -> Result<_, KmsError> {
            Ok(CmkRecord::read(&self.keystore, key_id)?.map(|(record, _)| record).filter(is_due))
        };
        if read()?.is_none() {
            return Ok(());
        }
        let own = Identity::own();
        let call = Call::by_itself("RotateKey", Action::RotateKeyOnDemand, &own, key_id);
        self.audited(call, |call| {
            let lock = self.keystore.lock()?;
            let Some(mut record) = read()? else {
                call.drop_event();
                return Ok(());
            };
            if let Some(added) = record.command(Command::Tick, None, now)? {
                call.version(added);
                call.additional("rotationType", added.rotation.name());
            }
            let staged = record.stage(&lock)?;
            self.record(call)?;
            staged.publish()?;
            let version = record.lifecycle.newest_version();
            log::info!("rotated CMK {key_id} to version {version}");
            Ok(())
        })
    }

    /// Removes a key with its aliases: first these, so that none is left without its key. Its
    /// sealed record is unlinked, not overwritten.
    fn destroy(&self, key_id: &KeyId, now: u64) -> Result<(), KmsError> {
        let own = Identity::own();
        let call = Call::by_itself("DeleteKey", Action::ScheduleKeyDeletion, &own, key_id);
        self.audited(call, |call| {
            let lock = self.keystore.lock()?;
            match CmkRecord::read(&self.keystore, key_id)? {
                Some((record, _)) if record.lifecycle.is_deleted(now) => {}
                _ => {
                    call.drop_event();
                    return Ok(());
                }
            }
            let mut aliases = Aliases::read(&self.keystore)?;
            let staged = aliases.remove_of(key_id).then(|| aliases.stage(&lock)).transpose()?;
            self.record(call)?;
            if let Some(staged) = staged {
                staged.publish()?;
            }
            lock.remove::<CmkRecord>(&key_id.0)?;
            log::info!("deleted CMK {key_id}");
            Ok(())
        })
    }
}
