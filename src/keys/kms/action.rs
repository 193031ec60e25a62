//! What can be asked of a CMK. The names are those of AWS KMS: in a policy with `kms:` before
//! them, in the audit log as they are.

/// An operation that a key policy allows or denies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Action {
    CancelKeyDeletion,
    CreateAlias,
    CreateGrant,
    CreateKey,
    Decrypt,
    DeleteAlias,
    DescribeKey,
    DisableKey,
    DisableKeyRotation,
    EnableKey,
    EnableKeyRotation,
    Encrypt,
    GenerateDataKey,
    GetKeyLastUsage,
    GetKeyPolicy,
    GetKeyRotationStatus,
    ImportKeyMaterial,
    ListAliases,
    ListGrants,
    ListKeyRotations,
    ListKeys,
    PutKeyPolicy,
    ReEncryptFrom,
    ReEncryptTo,
    RevokeGrant,
    RotateKeyOnDemand,
    ScheduleKeyDeletion,
    UpdateAlias,
    UpdateKeyDescription,
}

impl Action {
    /// All of them, by name.
    pub const ALL: [Self; 29] = [
        Self::CancelKeyDeletion,
        Self::CreateAlias,
        Self::CreateGrant,
        Self::CreateKey,
        Self::Decrypt,
        Self::DeleteAlias,
        Self::DescribeKey,
        Self::DisableKey,
        Self::DisableKeyRotation,
        Self::EnableKey,
        Self::EnableKeyRotation,
        Self::Encrypt,
        Self::GenerateDataKey,
        Self::GetKeyLastUsage,
        Self::GetKeyPolicy,
        Self::GetKeyRotationStatus,
        Self::ImportKeyMaterial,
        Self::ListAliases,
        Self::ListGrants,
        Self::ListKeyRotations,
        Self::ListKeys,
        Self::PutKeyPolicy,
        Self::ReEncryptFrom,
        Self::ReEncryptTo,
        Self::RevokeGrant,
        Self::RotateKeyOnDemand,
        Self::ScheduleKeyDeletion,
        Self::UpdateAlias,
        Self::UpdateKeyDescription,
    ];

    /// Its name, as in `kms:NAME`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::CancelKeyDeletion => "CancelKeyDeletion",
            Self::CreateAlias => "CreateAlias",
            Self::CreateGrant => "CreateGrant",
            Self::CreateKey => "CreateKey",
            Self::Decrypt => "Decrypt",
            Self::DeleteAlias => "DeleteAlias",
            Self::DescribeKey => "DescribeKey",
            Self::DisableKey => "DisableKey",
            Self::DisableKeyRotation => "DisableKeyRotation",
            Self::EnableKey => "EnableKey",
            Self::EnableKeyRotation => "EnableKeyRotation",
            Self::Encrypt => "Encrypt",
            Self::GenerateDataKey => "GenerateDataKey",
            Self::GetKeyLastUsage => "GetKeyLastUsage",
            Self::GetKeyPolicy => "GetKeyPolicy",
            Self::GetKeyRotationStatus => "GetKeyRotationStatus",
            Self::ImportKeyMaterial => "ImportKeyMaterial",
            Self::ListAliases => "ListAliases",
            Self::ListGrants => "ListGrants",
            Self::ListKeyRotations => "ListKeyRotations",
            Self::ListKeys => "ListKeys",
            Self::PutKeyPolicy => "PutKeyPolicy",
            Self::ReEncryptFrom => "ReEncryptFrom",
            Self::ReEncryptTo => "ReEncryptTo",
            Self::RevokeGrant => "RevokeGrant",
            Self::RotateKeyOnDemand => "RotateKeyOnDemand",
            Self::ScheduleKeyDeletion => "ScheduleKeyDeletion",
            Self::UpdateAlias => "UpdateAlias",
            Self::UpdateKeyDescription => "UpdateKeyDescription",
        }
    }

    /// The action of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|action| action.name() == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_action_is_found_by_its_name_and_in_order() {
        assert!(Action::ALL.is_sorted());
        for action in Action::ALL {
            assert_eq!(Action::from_name(action.name()), Some(action));
        }
        assert_eq!(Action::from_name("decrypt"), None);
    }
}
