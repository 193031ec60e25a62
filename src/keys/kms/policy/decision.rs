//! The decision: policy, grants and one request in, allowed or not and by what out.
//!
//! A decision over user ids costs no allocation and no system call. The requester's groups are
//! read from the system only where a statement or grant for groups fits the request otherwise.

use std::collections::BTreeMap;
use std::fmt;

use super::statement::{Effect, Statement};
use super::{ActionSet, Policy};
use crate::keys::identity::Identity;
use crate::keys::kms::{Action, Grant};

/// Who asks for what.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    who: Who<'a>,
    action: Action,
    context: &'a BTreeMap<String, String>,
}

#[derive(Clone, Copy)]
enum Who<'a> {
    Process(&'a Identity),
    Assumed { uid: u32, groups: &'a [u32] },
}

/// What a policy and grants say to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision<'a> {
    /// Something allows it and nothing denies it.
    Allowed {
        /// What.
        by: Source<'a>,
    },
    /// A statement denies it.
    Denied {
        /// Which.
        by: Source<'a>,
    },
    /// Nothing allows it.
    NotAllowed,
}

/// A statement or a grant, as messages name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source<'a> {
    /// A statement of the policy.
    Statement {
        /// Counted from 1.
        number: usize,
        /// Its `Sid`.
        sid: Option<&'a str>,
    },
    /// A grant, by its id.
    Grant(&'a str),
}

/// Decides. An explicit `Deny` wins; else an `Allow` of the policy or a grant; else it is not
/// allowed.
pub fn decide<'a>(policy: &'a Policy, grants: &'a [Grant], request: &Request<'_>) -> Decision<'a> {
    let fitting = |effect: Effect| {
        let statements = policy.statements.iter();
        statements.filter(move |one| one.effect == effect && one.covers(request))
    };
    let uid = request.uid();
    let denying = fitting(Effect::Deny)
        .find(|statement| statement.is_for_user(uid) || statement.is_for_group_of(request));
    if let Some(statement) = denying {
        return Decision::Denied { by: statement.source() };
    }
    let granting = || grants.iter().filter(|grant| grant.covers(request));
    // What needs no groups first: they may have to be read from the system.
    let by = fitting(Effect::Allow)
        .find(|statement| statement.is_for_user(uid))
        .map(Statement::source)
        .or_else(|| granting().find(|grant| grant.is_for_user(uid)).map(Grant::source))
        .or_else(|| {
            let mut statements = fitting(Effect::Allow);
            statements.find(|statement| statement.is_for_group_of(request)).map(Statement::source)
        })
        .or_else(|| granting().find(|grant| grant.is_for_group_of(request)).map(Grant::source));
    match by {
        Some(by) => Decision::Allowed { by },
        None => Decision::NotAllowed,
    }
}

impl<'a> Request<'a> {
    /// Of a process, with the encryption context of the operation.
    pub fn new(
        identity: &'a Identity,
        action: Action,
        context: &'a BTreeMap<String, String>,
    ) -> Self {
        Self { who: Who::Process(identity), action, context }
    }

    /// Of whoever has this user id and exactly these groups, to try a policy.
    pub fn simulated(
        uid: u32,
        groups: &'a [u32],
        action: Action,
        context: &'a BTreeMap<String, String>,
    ) -> Self {
        Self { who: Who::Assumed { uid, groups }, action, context }
    }

    /// What is asked for.
    pub fn action(&self) -> Action {
        self.action
    }

    pub(in crate::keys::kms) fn context(&self) -> &'a BTreeMap<String, String> {
        self.context
    }

    pub(in crate::keys::kms) fn uid(&self) -> u32 {
        match self.who {
            Who::Process(identity) => identity.caller().uid,
            Who::Assumed { uid, .. } => uid,
        }
    }

    pub(in crate::keys::kms) fn groups(&self) -> &'a [u32] {
        match self.who {
            Who::Process(identity) => identity.groups(),
            Who::Assumed { groups, .. } => groups,
        }
    }

    /// Whether the groups can be read: the kernel tells no process for callers of another PID
    /// namespace.
    pub(super) fn knows_groups(&self) -> bool {
        match self.who {
            Who::Process(identity) => identity.caller().pid != 0,
            Who::Assumed { .. } => true,
        }
    }
}

impl Decision<'_> {
    /// Whether the request is allowed.
    pub fn is_allowed(&self) -> bool {
        matches!(self, Self::Allowed { .. })
    }
}

impl Statement {
    pub(super) fn source(&self) -> Source<'_> {
        Source::Statement { number: self.number, sid: self.sid.as_deref() }
    }
}

impl fmt::Display for Source<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Statement { number, sid: Some(sid) } => {
                write!(f, "statement {number} ({sid:?})")
            }
            Self::Statement { number, sid: None } => write!(f, "statement {number}"),
            Self::Grant(id) => write!(f, "grant {id}"),
        }
    }
}

impl fmt::Display for Decision<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Allowed { by } => write!(f, "allowed by {by}"),
            Self::Denied { by } => write!(f, "denied by {by}"),
            Self::NotAllowed => f.write_str("not allowed by any statement or grant"),
        }
    }
}

/// Actions whose requests have an encryption context.
pub(in crate::keys::kms) fn cryptographic_actions() -> ActionSet {
    [
        Action::Decrypt,
        Action::Encrypt,
        Action::GenerateDataKey,
        Action::ReEncryptFrom,
        Action::ReEncryptTo,
    ]
    .into_iter()
    .collect()
}
