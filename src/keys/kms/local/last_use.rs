//! When a key was last used, as the audit log tells.

use super::LocalKms;
use super::call::Call;
use crate::keys::audit::{AuditReader, AuditRecord};
use crate::keys::identity::Identity;
use crate::keys::kms::action::Action;
use crate::keys::kms::error::KmsError;

impl LocalKms {
    /// The last successful use of a key, named by its id, that the audit log has.
    pub fn key_last_usage(
        &self,
        who: &Identity,
        key: &str,
    ) -> Result<Option<AuditRecord>, KmsError> {
        self.audited(Call::read(Action::GetKeyLastUsage, who), |call| {
            let key_id = self.find_by_id_only(call, key)?.id().clone();
            Ok(AuditReader::of(&self.keystore)?.last_use(&key_id)?)
        })
    }
}
