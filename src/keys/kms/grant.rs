//! Grants: a right of one user or group to use one CMK, beside its policy. A grant only allows,
//! and only what uses the key; whoever may revoke it is up to the policy.

use std::collections::BTreeMap;

use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};

use super::policy::{ActionSet, Principal, Request, Source, cryptographic_actions, listed_names};
use super::{Action, ErrorCode, KmsError};
use crate::crypto::random_array;

/// A grant, in the shape of AWS.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub struct Grant {
    grant_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    grantee_principal: Principal,
    operations: ActionSet,
    #[serde(skip_serializing_if = "Option::is_none")]
    constraints: Option<Constraints>,
    /// Seconds since 1970-01-01 UTC.
    creation_date: u64,
    /// The user id of whoever made it.
    issuing_account: u32,
}

/// Which encryption contexts a grant is for. It binds what uses the key, not `DescribeKey`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Constraints {
    /// Exactly these pairs.
    EncryptionContextEquals(BTreeMap<String, String>),
    /// These pairs and perhaps others.
    EncryptionContextSubset(BTreeMap<String, String>),
}

impl Grant {
    /// What a grant can allow.
    pub const OPERATIONS: [Action; 6] = [
        Action::Decrypt,
        Action::DescribeKey,
        Action::Encrypt,
        Action::GenerateDataKey,
        Action::ReEncryptFrom,
        Action::ReEncryptTo,
    ];

    /// A new grant with a random id, made by user `issuer` at `now` in seconds since 1970-01-01
    /// UTC.
    pub fn new(
        name: Option<String>,
        grantee: Principal,
        operations: &[Action],
        constraints: Option<Constraints>,
        issuer: u32,
        now: u64,
    ) -> Result<Self, KmsError> {
        let refuse = |message: String| Err(KmsError::new(ErrorCode::Validation, message));
        let names = || Self::OPERATIONS.map(Action::name).join(", ");
        if operations.is_empty() {
            return refuse(format!("a grant needs operations: some of {}", names()));
        }
        if let Some(other) = operations.iter().find(|one| !Self::OPERATIONS.contains(one)) {
            let other = other.name();
            return refuse(format!("{other} cannot be granted, only {}", names()));
        }
        let is_name = |name: &String| {
            (1..=MAX_NAME_LEN).contains(&name.len()) && !name.chars().any(char::is_control)
        };
        if !name.as_ref().is_none_or(is_name) {
            return refuse(format!(
                "the name of a grant has 1 to {MAX_NAME_LEN} bytes and no control characters"
            ));
        }
        if constraints.as_ref().is_some_and(|constraints| constraints.pairs().is_empty()) {
            return refuse("the constraint of a grant names no pair: leave it out".to_owned());
        }
        if grantee.id().is_none() {
            return refuse(format!("the system knows no {grantee}"));
        }
        Ok(Self {
            grant_id: HEXLOWER.encode(&random_array::<32>()),
            name,
            grantee_principal: grantee,
            operations: operations.iter().copied().collect(),
            constraints,
            creation_date: now,
            issuing_account: issuer,
        })
    }

    /// Its id: 64 hexadecimal digits.
    pub fn id(&self) -> &str {
        &self.grant_id
    }

    /// Its name, if it was given one.
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// Who may use the key.
    pub fn grantee(&self) -> &Principal {
        &self.grantee_principal
    }

    /// For what.
    pub fn operations(&self) -> ActionSet {
        self.operations
    }

    /// In which encryption contexts.
    pub fn constraints(&self) -> Option<&Constraints> {
        self.constraints.as_ref()
    }

    /// When it was made, in seconds since 1970-01-01 UTC.
    pub fn creation_date(&self) -> u64 {
        self.creation_date
    }

    /// The user id of whoever made it.
    pub fn issuer(&self) -> u32 {
        self.issuing_account
    }

    /// Whether operation and constraint fit, whoever asks.
    pub(super) fn covers(&self, request: &Request<'_>) -> bool {
        let action = request.action();
        let fits = || self.constraints.as_ref().is_none_or(|one| one.hold(request.context()));
        self.operations.contains(action) && (!self.constrains(action) || fits())
    }

    /// Whether it matters to this action in which encryption context it is done.
    pub(super) fn constrains(&self, action: Action) -> bool {
        self.constraints.is_some() && cryptographic_actions().contains(action)
    }

    pub(super) fn is_for_user(&self, uid: u32) -> bool {
        let grantee = &self.grantee_principal;
        !grantee.is_group() && grantee.id() == Some(uid)
    }

    pub(super) fn is_for_group_of(&self, request: &Request<'_>) -> bool {
        let grantee = &self.grantee_principal;
        grantee.is_group() && grantee.id().is_some_and(|gid| request.groups().contains(&gid))
    }

    pub(super) fn source(&self) -> Source<'_> {
        Source::Grant(&self.grant_id)
    }

    /// Why it does not allow the request; `None` where it does.
    pub(super) fn misses(&self, request: &Request<'_>) -> Option<String> {
        let action = request.action();
        if !self.operations.contains(action) {
            return Some(format!("is not about {}", action.name()));
        }
        if !self.is_for_user(request.uid()) && !self.is_for_group_of(request) {
            let grantee = std::slice::from_ref(&self.grantee_principal);
            return Some(format!("is for {}", listed_names(grantee)));
        }
        if self.covers(request) {
            return None;
        }
        let constraints = self.constraints.as_ref()?;
        Some(match constraints {
            Constraints::EncryptionContextEquals(pairs) => {
                format!("its constraint wants exactly the encryption context {pairs:?}")
            }
            Constraints::EncryptionContextSubset(pairs) => {
                format!("its constraint wants {pairs:?} in the encryption context")
            }
        })
    }
}

impl Constraints {
    /// The pairs that it names.
    pub fn pairs(&self) -> &BTreeMap<String, String> {
        match self {
            Self::EncryptionContextEquals(pairs) | Self::EncryptionContextSubset(pairs) => pairs,
        }
    }

    fn hold(&self, context: &BTreeMap<String, String>) -> bool {
        match self {
            Self::EncryptionContextEquals(pairs) => pairs == context,
            Self::EncryptionContextSubset(pairs) => {
                pairs.iter().all(|(name, value)| context.get(name) == Some(value))
            }
        }
    }
}

const MAX_NAME_LEN: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    fn make(name: Option<&str>, operations: &[Action]) -> Result<Grant, KmsError> {
        let grantee = Principal::user("1001").unwrap();
        Grant::new(name.map(str::to_owned), grantee, operations, None, 0, 1_700_000_000)
    }

    #[test]
    fn it_is_kept_in_the_shape_of_aws() {
        let mut grant = make(Some("for alice"), &[Action::Encrypt, Action::Decrypt]).unwrap();
        grant.constraints = Some(Constraints::EncryptionContextSubset(
            [("dept".to_owned(), "hr".to_owned())].into(),
        ));
        let value = serde_json::to_value(&grant).unwrap();
        assert_eq!(grant.id().len(), 64);
        let expected = serde_json::json!({
            "GrantId": grant.id(),
            "Name": "for alice",
            "GranteePrincipal": {"User": "1001"},
            "Operations": ["Decrypt", "Encrypt"],
            "Constraints": {"EncryptionContextSubset": {"dept": "hr"}},
            "CreationDate": 1_700_000_000,
            "IssuingAccount": 0,
        });
        assert_eq!(value, expected);
        assert_eq!(serde_json::from_value::<Grant>(value).unwrap(), grant);
        assert_ne!(make(None, &[Action::Decrypt]).unwrap().id(), grant.id());
    }

    #[test]
    fn what_cannot_be_granted() {
        for (name, operations, expected) in [
            (None, &[][..], "a grant needs operations: some of Decrypt, DescribeKey"),
            (None, &[Action::Decrypt, Action::PutKeyPolicy], "PutKeyPolicy cannot be granted"),
            (Some(""), &[Action::Decrypt], "has 1 to 256 bytes"),
            (Some("a\nb"), &[Action::Decrypt], "no control characters"),
        ] {
            let error = make(name, operations).err().unwrap().to_string();
            assert!(error.starts_with("ValidationException: "), "{error}");
            assert!(error.contains(expected), "{error}");
        }
        let operations = [Action::Decrypt];
        let none = Constraints::EncryptionContextEquals(BTreeMap::new());
        let alice = Principal::user("1001").unwrap();
        assert!(Grant::new(None, alice, &operations, Some(none), 0, 1).is_err());
        let unknown = Principal::group("no-such-group").unwrap();
        let error = Grant::new(None, unknown, &operations, None, 0, 1).err().unwrap().to_string();
        assert!(error.ends_with("the system knows no group no-such-group"), "{error}");
    }
}
