//! Switching keys on and off, and their deletion. Keys are named by their ids here, never by an
//! alias, which another process could move meanwhile.

use super::LocalKms;
use super::call::Call;
use crate::format::KeyId;
use crate::keys::identity::Identity;
use crate::keys::kms::action::Action;
use crate::keys::kms::error::KmsError;
use crate::keys::kms::state::Command;

impl LocalKms {
    /// Lets a key be used again. One whose rotation was due meanwhile rotates now.
    pub fn enable_key(&self, who: &Identity, key: &str) -> Result<(), KmsError> {
        let key_id =
            self.change_state(Call::change(Action::EnableKey, who), key, Command::Enable)?;
        // The key is enabled, come what may; maintenance will try the rotation again.
        if let Err(error) = self.rotate_if_due(&key_id, self.now()) {
            log::warn!("key {key_id} is due for rotation: {error}");
        }
        Ok(())
    }

    /// Lets a key not be used until it is enabled again.
    pub fn disable_key(&self, who: &Identity, key: &str) -> Result<(), KmsError> {
        self.change_state(Call::change(Action::DisableKey, who), key, Command::Disable).map(drop)
    }

    /// Lets a key be deleted after `days`, and not be used until then. The date of its deletion
    /// is returned; what is encrypted under it is lost then.
    pub fn schedule_key_deletion(
        &self,
        who: &Identity,
        key: &str,
        days: u32,
    ) -> Result<u64, KmsError> {
        let mut call = Call::change(Action::ScheduleKeyDeletion, who);
        call.parameter("pendingWindowInDays", days);
        self.change(call, key, |record, call, now| {
            record.command(Command::ScheduleDeletion { days }, None, now)?;
            let date = record.lifecycle.deletion().expect("a pending deletion has a date");
            call.additional("deletionDate", date);
            Ok(date)
        })
    }

    /// Lets a key not be deleted; it is disabled then.
    pub fn cancel_key_deletion(&self, who: &Identity, key: &str) -> Result<(), KmsError> {
        let call = Call::change(Action::CancelKeyDeletion, who);
        self.change_state(call, key, Command::CancelDeletion).map(drop)
    }

    fn change_state(&self, call: Call<'_>, key: &str, command: Command) -> Result<KeyId, KmsError> {
        self.change(call, key, |record, _, now| {
            record.command(command, None, now)?;
            Ok(record.key_id.clone())
        })
    }
}
