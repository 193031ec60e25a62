//! The decision: policy, grants and one request in, allowed or not and by what out.
//!
//! A decision over user ids costs no allocation and no system call. The requester's groups are
//! read from the system only where a statement or grant for groups fits the request otherwise.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;

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

    /// Whether the groups can be read. The kernel tells no process for callers of another PID
    /// namespace, and `/proc` may be mounted so that it hides those of other users.
    pub(super) fn knows_groups(&self) -> bool {
        match self.who {
            Who::Process(identity) => {
                let pid = identity.caller().pid;
                pid != 0 && File::open(format!("/proc/{pid}/status")).is_ok()
            }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::Caller;
    use crate::keys::kms::Constraints;
    use crate::keys::kms::policy::Principal;

    const ALICE: u32 = 1001;
    const BOB: u32 = 1002;
    const STAFF: u32 = 5000;
    const AUDIT: u32 = 5001;

    fn policy(statements: &[&str]) -> Policy {
        Policy::parse(&format!(r#"{{"Statement": [{}]}}"#, statements.join(","))).unwrap()
    }

    fn grant(grantee: Result<Principal, String>, constraints: Option<Constraints>) -> Grant {
        let actions = [Action::Decrypt, Action::DescribeKey];
        Grant::new(None, grantee.unwrap(), &actions, constraints, 0, 7).unwrap()
    }

    fn pairs(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn decrypt(policy: &Policy, grants: &[Grant], uid: u32, groups: &[u32]) -> String {
        let context = pairs(&[("dept", "hr")]);
        let request = Request::simulated(uid, groups, Action::Decrypt, &context);
        decide(policy, grants, &request).to_string()
    }

    #[test]
    fn deny_wins_then_allow_then_nothing() {
        let policy = policy(&[
            r#"{"Sid": "staff", "Effect": "Allow", "Principal": {"Group": 5000},
                "Action": "kms:Decrypt"}"#,
            r#"{"Effect": "Deny", "Principal": {"User": [1002]}, "Action": "kms:*"}"#,
            r#"{"Effect": "Deny", "Principal": {"Group": "5001"}, "Action": "kms:De*"}"#,
            r#"{"Effect": "Allow", "Principal": {"User": "1001"}, "Action": "kms:Encrypt"}"#,
        ]);
        for (uid, groups, expected) in [
            (ALICE, &[STAFF][..], "allowed by statement 1 (\"staff\")"),
            (ALICE, &[], "not allowed by any statement or grant"),
            (ALICE, &[STAFF, AUDIT], "denied by statement 3"),
            (BOB, &[STAFF], "denied by statement 2"),
            (BOB, &[], "denied by statement 2"),
            (0, &[0], "not allowed by any statement or grant"),
        ] {
            assert_eq!(decrypt(&policy, &[], uid, groups), expected, "{uid} {groups:?}");
        }
    }

    #[test]
    fn a_deny_on_a_condition_denies_only_there() {
        let policy = policy(&[
            r#"{"Effect": "Allow", "Principal": "*", "Action": "kms:Decrypt"}"#,
            r#"{"Effect": "Deny", "Principal": "*", "Action": "kms:*", "Condition":
                {"StringNotEquals": {"kms:EncryptionContext:dept": ["hr", "it"]}}}"#,
        ]);
        let decide = |context: &[(&str, &str)]| {
            let context = pairs(context);
            let request = Request::simulated(ALICE, &[], Action::Decrypt, &context);
            decide(&policy, &[], &request).is_allowed()
        };
        assert!(decide(&[("dept", "hr")]) && decide(&[("dept", "it"), ("x", "y")]));
        assert!(!decide(&[("dept", "sales")]) && !decide(&[("Dept", "hr")]) && !decide(&[]));
    }

    #[test]
    fn grants_allow_beside_the_policy_and_no_deny_is_overcome() {
        let nothing =
            policy(&[r#"{"Effect": "Allow", "Principal": {"User": "0"}, "Action": "kms:*"}"#]);
        let (to_alice, to_staff) =
            (grant(Principal::user("1001"), None), grant(Principal::group("5000"), None));
        let grants = [to_alice, to_staff];
        let allowed = |number: usize| format!("allowed by grant {}", grants[number].id());
        assert_eq!(decrypt(&nothing, &grants, ALICE, &[STAFF]), allowed(0));
        assert_eq!(decrypt(&nothing, &grants, BOB, &[1, STAFF]), allowed(1));
        assert!(decrypt(&nothing, &grants, BOB, &[1]).starts_with("not allowed"));
        let denying = policy(&[
            r#"{"Effect": "Deny", "Principal": {"Group": "5000"}, "Action": "kms:Decrypt"}"#,
        ]);
        assert_eq!(decrypt(&denying, &grants, ALICE, &[STAFF]), "denied by statement 1");
        assert_eq!(decrypt(&denying, &grants, ALICE, &[]), allowed(0));
    }

    #[test]
    fn a_constraint_of_a_grant_binds_the_use_of_the_key_only() {
        let nothing =
            policy(&[r#"{"Effect": "Allow", "Principal": {"User": "0"}, "Action": "kms:*"}"#]);
        let context = || pairs(&[("dept", "hr")]);
        for (constraints, exact, more, less) in [
            (Constraints::EncryptionContextEquals(context()), true, false, false),
            (Constraints::EncryptionContextSubset(context()), true, true, false),
        ] {
            let grants = [grant(Principal::user("1001"), Some(constraints))];
            let allowed = |action, pairs: &BTreeMap<String, String>| {
                let request = Request::simulated(ALICE, &[], action, pairs);
                decide(&nothing, &grants, &request).is_allowed()
            };
            assert_eq!(allowed(Action::Decrypt, &context()), exact);
            let further = pairs(&[("dept", "hr"), ("year", "2026")]);
            assert_eq!(allowed(Action::Decrypt, &further), more);
            assert_eq!(allowed(Action::Decrypt, &pairs(&[("dept", "it")])), less);
            assert_eq!(allowed(Action::Decrypt, &pairs(&[])), less);
            assert!(allowed(Action::DescribeKey, &pairs(&[])));
            assert!(!allowed(Action::Encrypt, &context()));
        }
    }

    #[test]
    fn a_name_that_the_system_does_not_know_is_nobody() {
        let policy = policy(&[
            r#"{"Effect": "Deny", "Principal": {"User": "no-such-user"}, "Action": "kms:*"}"#,
            r#"{"Effect": "Allow", "Principal": {"User": "root", "Group": "no-such-group"},
                "Action": "kms:*"}"#,
        ]);
        assert_eq!(decrypt(&policy, &[], 0, &[]), "allowed by statement 2");
        assert!(decrypt(&policy, &[], u32::MAX, &[u32::MAX]).starts_with("not allowed"));
    }

    #[test]
    fn the_process_itself_is_asked_for_its_groups() {
        let own = Identity::own();
        let gid = own.caller().gid;
        let policy = policy(&[&format!(
            r#"{{"Effect": "Allow", "Principal": {{"Group": {gid}}}, "Action": "kms:Decrypt"}}"#
        )]);
        let context = BTreeMap::new();
        assert!(decide(&policy, &[], &Request::new(&own, Action::Decrypt, &context)).is_allowed());
        assert!(!decide(&policy, &[], &Request::new(&own, Action::Encrypt, &context)).is_allowed());
    }

    #[test]
    fn a_group_is_denied_to_a_process_whose_groups_are_hidden() {
        let everybody = r#"{"Effect": "Allow", "Principal": "*", "Action": "kms:*"}"#;
        let deny = r#"{"Effect": "Deny", "Principal": {"Group": 5000}, "Action": "kms:Decrypt"}"#;
        let context = BTreeMap::new();
        for pid in [0, u32::MAX] {
            let hidden = Identity::of(Caller { uid: ALICE, gid: ALICE, pid });
            let request = Request::new(&hidden, Action::Decrypt, &context);
            assert!(decide(&policy(&[everybody]), &[], &request).is_allowed());
            let denied = policy(&[everybody, deny]);
            assert_eq!(decide(&denied, &[], &request).to_string(), "denied by statement 2");
        }
        let own = Identity::own();
        let request = Request::new(&own, Action::Decrypt, &context);
        assert!(decide(&policy(&[everybody, deny]), &[], &request).is_allowed());
    }

    #[test]
    fn the_default_lets_its_owner_do_all_and_nobody_else_anything() {
        let policy = Policy::default_for(ALICE);
        let context = BTreeMap::new();
        for action in Action::ALL {
            for (uid, allowed) in [(ALICE, true), (BOB, false), (0, false)] {
                let request = Request::simulated(uid, &[0, ALICE], action, &context);
                assert_eq!(decide(&policy, &[], &request).is_allowed(), allowed);
            }
        }
    }

    #[test]
    fn a_decision_over_user_ids_allocates_nothing() {
        let user = |uid: u32, action: &str| {
            let principal = format!(r#"{{"User": ["{uid}", "root"]}}"#);
            format!(r#"{{"Effect": "Allow", "Principal": {principal}, "Action": "{action}"}}"#)
        };
        let statements: Vec<_> = (2000..2020).map(|uid| user(uid, "kms:*")).collect();
        let last = user(ALICE, "kms:Decrypt");
        let condition = r#"{"Effect": "Deny", "Principal": "*", "Action": "kms:*", "Condition":
            {"StringEqualsIgnoreCase": {"kms:EncryptionContext:dept": ["IT", "Sales*"]},
             "StringNotLike": {"kms:EncryptionContext:dept": "*r"}}}"#;
        let mut all: Vec<&str> = statements.iter().map(String::as_str).collect();
        all.extend([last.as_str(), condition]);
        let policy = policy(&all);
        // The name is looked up once.
        assert!(decrypt(&policy, &[], ALICE, &[]).starts_with("allowed by statement 21"));
        let context = pairs(&[("dept", "hr")]);
        let request = Request::simulated(ALICE, &[], Action::Decrypt, &context);
        let used = allocation_counter::measure(|| {
            assert!(decide(&policy, &[], &request).is_allowed());
        });
        assert_eq!(used.count_total, 0);
    }

    #[test]
    fn who_is_locked_out() {
        let own = Identity::own();
        let uid = own.caller().uid;
        assert!(Policy::default_for(uid).lets(&own, Action::PutKeyPolicy));
        assert!(!Policy::default_for(uid + 1).lets(&own, Action::PutKeyPolicy));
        let only_in_context =
            policy(&[r#"{"Effect": "Allow", "Principal": "*", "Action": "kms:*", "Condition":
                {"StringEquals": {"kms:EncryptionContext:a": "b"}}}"#]);
        assert!(!only_in_context.lets(&own, Action::PutKeyPolicy));
    }

    #[test]
    fn a_policy_is_kept_as_it_was_put() {
        let text = r#"{ "Statement": {"Principal": "*", "Effect": "Allow", "Action": "kms:*"} }"#;
        let policy = Policy::parse(text).unwrap();
        let kept = serde_json::to_string(&policy).unwrap();
        let again: Policy = serde_json::from_str(&kept).unwrap();
        assert_eq!((again.to_json().as_str(), &again), (text, &policy));
        assert!(serde_json::from_str::<Policy>(r#""{}""#).is_err());
    }
}
