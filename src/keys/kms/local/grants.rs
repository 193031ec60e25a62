//! Grants of keys. Keys are named by their ids here.

use super::LocalKms;
use super::call::Call;
use crate::keys::identity::Identity;
use crate::keys::kms::action::Action;
use crate::keys::kms::error::{ErrorCode, KmsError};
use crate::keys::kms::grant::{Constraints, Grant};
use crate::keys::kms::policy::Principal;

/// What shall be granted.
pub struct GrantRequest<'a> {
    /// What people know the grant by.
    pub name: Option<String>,
    /// To whom.
    pub grantee: Principal,
    /// For which operations.
    pub operations: &'a [Action],
    /// In which encryption contexts.
    pub constraints: Option<Constraints>,
}

impl LocalKms {
    /// Adds a grant to a key. Asked for again with the same name and the same content, the one
    /// that is there is returned.
    pub fn create_grant(
        &self,
        who: &Identity,
        key: &str,
        request: GrantRequest<'_>,
    ) -> Result<Grant, KmsError> {
        let mut call = Call::change(Action::CreateGrant, who);
        call.parameter("name", request.name.as_deref());
        call.parameter("granteePrincipal", request.grantee.to_string());
        let operations: Vec<_> = request.operations.iter().map(|action| action.name()).collect();
        call.parameter("operations", operations);
        if let Some(constraints) = &request.constraints {
            let constraints = serde_json::to_value(constraints).expect("pairs have a JSON form");
            call.parameter("constraints", constraints);
        }
        self.change(call, key, |record, call, now| {
            let GrantRequest { name, grantee, operations, constraints } = request;
            let issuer = who.caller().uid;
            let grant = Grant::new(name, grantee, operations, constraints, issuer, now)?;
            let same = record.grants.iter().find(|found| is_repeated(found, &grant));
            let (grant, is_new) = match same {
                Some(found) => (found.clone(), false),
                None => (grant, true),
            };
            if is_new {
                if record.grants.len() >= MAX_GRANTS {
                    let key_id = &record.key_id;
                    let message = format!("key {key_id} has {MAX_GRANTS} grants: revoke some");
                    return Err(KmsError::new(ErrorCode::LimitExceeded, message));
                }
                record.grants.push(grant.clone());
            }
            call.additional("grantId", grant.id());
            Ok(grant)
        })
    }

    /// The grants of a key.
    pub fn list_grants(&self, who: &Identity, key: &str) -> Result<Vec<Grant>, KmsError> {
        self.audited(Call::read(Action::ListGrants, who), |call| {
            Ok(self.find_by_id_only(call, key)?.grants().to_vec())
        })
    }

    /// Takes a grant back.
    pub fn revoke_grant(&self, who: &Identity, key: &str, grant_id: &str) -> Result<(), KmsError> {
        let mut call = Call::change(Action::RevokeGrant, who);
        call.parameter("grantId", grant_id);
        self.change(call, key, |record, _, _| {
            let before = record.grants.len();
            record.grants.retain(|grant| grant.id() != grant_id);
            if record.grants.len() == before {
                let key_id = &record.key_id;
                let message = format!("key {key_id} has no grant {grant_id}: list its grants");
                return Err(KmsError::new(ErrorCode::NotFound, message));
            }
            Ok(())
        })
    }
}

/// Whether a request was made before: the same but for id and date, and with a name.
fn is_repeated(found: &Grant, asked: &Grant) -> bool {
    asked.name().is_some()
        && found.name() == asked.name()
        && found.grantee() == asked.grantee()
        && found.operations() == asked.operations()
        && found.constraints() == asked.constraints()
}

const MAX_GRANTS: usize = 1000;
