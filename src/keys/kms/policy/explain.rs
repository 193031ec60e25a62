//! Why a decision is as it is, statement by statement, and who may do what under a policy. For
//! people who try a policy: slower than a decision, and of the same outcome.

use super::decision::{Decision, Request, Source, decide};
use super::statement::{Effect, Statement};
use super::{ActionSet, Policy, Principal};
use crate::keys::kms::{Action, Grant};

/// A decision with what each statement and grant had to say.
pub struct Explanation<'a> {
    /// The outcome.
    pub decision: Decision<'a>,
    /// Statements in their order, then grants.
    pub findings: Vec<Finding<'a>>,
}

/// One statement or grant and the request.
pub struct Finding<'a> {
    /// Which.
    pub source: Source<'a>,
    /// What it does where it applies.
    pub effect: Effect,
    /// Why it does not apply; `None` where it does.
    pub misses: Option<String>,
}

/// What somebody may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Reach {
    /// In every encryption context.
    pub always: ActionSet,
    /// In some, because of a condition or constraint.
    pub sometimes: ActionSet,
}

/// Explains the decision of a request.
pub fn explain<'a>(
    policy: &'a Policy,
    grants: &'a [Grant],
    request: &Request<'_>,
) -> Explanation<'a> {
    let of_statements = policy.statements.iter().map(|statement| Finding {
        source: statement.source(),
        effect: statement.effect,
        misses: statement.misses(request),
    });
    let of_grants = grants.iter().map(|grant| Finding {
        source: grant.source(),
        effect: Effect::Allow,
        misses: grant.misses(request),
    });
    Explanation {
        decision: decide(policy, grants, request),
        findings: of_statements.chain(of_grants).collect(),
    }
}

/// What whoever has this user id and these groups may do, over all encryption contexts.
pub fn reach(policy: &Policy, grants: &[Grant], uid: u32, groups: &[u32]) -> Reach {
    let no_context = Default::default();
    let allowed = |action: Action, conditions_hold: bool| {
        let request = Request::simulated(uid, groups, action, &no_context);
        // A condition that stands in the way of an Allow fails; one that a Deny needs holds.
        let applies = |statement: &&Statement, conditions_hold: bool| {
            statement.actions.contains(action)
                && (conditions_hold || statement.conditions.is_empty())
                && (statement.is_for_user(uid) || statement.is_for_group_of(&request))
        };
        let of = |effect| policy.statements.iter().filter(move |one| one.effect == effect);
        let denied = of(Effect::Deny).any(|one| applies(&one, !conditions_hold));
        let mut granting = grants.iter().filter(|grant| {
            grant.operations().contains(action)
                && (conditions_hold || !grant.constrains(action))
                && (grant.is_for_user(uid) || grant.is_for_group_of(&request))
        });
        let allowed = of(Effect::Allow).any(|one| applies(&one, conditions_hold));
        !denied && (allowed || granting.next().is_some())
    };
    let with = |conditions_hold| -> ActionSet {
        Action::ALL.into_iter().filter(|action| allowed(*action, conditions_hold)).collect()
    };
    let (always, possible) = (with(false), with(true));
    let sometimes = possible.iter().filter(|action| !always.contains(*action)).collect();
    Reach { always, sometimes }
}

impl Statement {
    fn misses(&self, request: &Request<'_>) -> Option<String> {
        let action = request.action();
        if !self.actions.contains(action) {
            return Some(format!("is not about {}", action.name()));
        }
        if !self.is_for_user(request.uid()) && !self.is_for_group_of(request) {
            return Some(format!("is for {}", listed_names(self.principals())));
        }
        let failing = self.conditions.iter().find(|one| !one.holds(request.context()))?;
        Some(format!("its condition does not hold: {failing}"))
    }
}

/// Names for people; those that the system does not know are marked.
pub(in crate::keys::kms) fn listed_names(listed: &[Principal]) -> String {
    let names = listed.iter().map(|principal| match principal.id() {
        Some(_) => principal.to_string(),
        None => format!("{principal} (unknown to this system)"),
    });
    names.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn policy() -> Policy {
        Policy::parse(
            r#"{"Statement": [
                {"Effect": "Allow", "Principal": {"User": "1001"}, "Action": "kms:Decrypt"},
                {"Effect": "Allow", "Principal": {"Group": ["5000", "no-such-group"]},
                 "Action": ["kms:Decrypt", "kms:Encrypt"],
                 "Condition": {"StringLike": {"kms:EncryptionContext:dept": "h*"}}},
                {"Effect": "Deny", "Principal": "*", "Action": "kms:Decrypt",
                 "Condition": {"Null": {"kms:EncryptionContext:dept": "true"}}}]}"#,
        )
        .unwrap()
    }

    #[test]
    fn every_statement_and_grant_says_why_not() {
        let policy = policy();
        let grants = [
            Grant::new(None, Principal::user("7").unwrap(), &[Action::Decrypt], None, 0, 1)
                .unwrap(),
            Grant::new(None, Principal::user("1002").unwrap(), &[Action::Encrypt], None, 0, 1)
                .unwrap(),
        ];
        let context = BTreeMap::new();
        let request = Request::simulated(1002, &[5000], Action::Decrypt, &context);
        let explanation = explain(&policy, &grants, &request);
        assert_eq!(explanation.decision.to_string(), "denied by statement 3");
        let misses: Vec<_> =
            explanation.findings.iter().map(|one| one.misses.as_deref().unwrap_or("")).collect();
        let expected = [
            "is for user 1001",
            "its condition does not hold: StringLike kms:EncryptionContext:dept [\"h*\"]",
            "",
            "is for user 7",
            "is not about Decrypt",
        ];
        assert_eq!(misses, expected);
        let elsewhere = Request::simulated(9, &[], Action::Encrypt, &context);
        let misses = explain(&policy, &[], &elsewhere).findings.remove(1).misses.unwrap();
        assert_eq!(misses, "is for group 5000, group no-such-group (unknown to this system)");
    }

    #[test]
    fn who_may_do_what() {
        let policy = policy();
        let set = |actions: &[Action]| actions.iter().copied().collect::<ActionSet>();
        let none = ActionSet::default();
        for (uid, groups, always, sometimes) in [
            (1001, &[][..], none, set(&[Action::Decrypt])),
            (1002, &[5000], none, set(&[Action::Decrypt, Action::Encrypt])),
            (1003, &[], none, none),
        ] {
            assert_eq!(reach(&policy, &[], uid, groups), Reach { always, sometimes }, "{uid}");
        }
        let owner = reach(&Policy::default_for(5), &[], 5, &[]);
        assert_eq!(owner.always, Action::ALL.into_iter().collect());
        let grants = [Grant::new(
            None,
            Principal::user("1003").unwrap(),
            &[Action::Encrypt, Action::DescribeKey],
            Some(crate::keys::kms::Constraints::EncryptionContextSubset(
                [("a".to_owned(), "b".to_owned())].into(),
            )),
            0,
            1,
        )
        .unwrap()];
        let granted = reach(&policy, &grants, 1003, &[]);
        assert_eq!(granted.always, set(&[Action::DescribeKey]));
        assert_eq!(granted.sometimes, set(&[Action::Encrypt]));
    }
}
