//! `ssefs key policy simulate`: whether a request would be allowed and why, statement by
//! statement; or, without a request, who may do what.

use serde_json::{Value, json};

use super::args::SimulateArgs;
use super::grant::action;
use super::policy::read_policy;
use super::session::{Session, context, usage};
use super::table::columns;
use crate::cli::exit::Outcome;
use crate::format::KeyId;
use crate::keys::identity::user_name;
use crate::keys::kms::policy::{
    ActionSet, Explanation, Principal, Reach, Request, Source, explain, groups_of_user, reach,
};
use crate::keys::kms::{Action, Decision, Grant, Policy};

pub(super) fn run(session: &Session, args: &SimulateArgs) -> Outcome {
    let key_id = session.id_of(&args.key.key)?;
    let policy = match &args.policy {
        Some(path) => read_policy(path)?,
        None => session.kms.key_policy(&session.who, &key_id.0)?,
    };
    let grants = session.kms.list_grants(&session.who, &key_id.0)?;
    match (&args.user, &args.action) {
        (Some(user), Some(action)) => one(session, args, &policy, &grants, user, action),
        _ => all(session, &key_id, &policy, &grants),
    }
}

/// One request, explained.
fn one(
    session: &Session,
    args: &SimulateArgs,
    policy: &Policy,
    grants: &[Grant],
    user: &str,
    asked: &str,
) -> Outcome {
    let action = action(asked)?;
    let context = context(&args.context.pairs)?;
    let principal = Principal::user(user).map_err(usage)?;
    let uid = principal.id().ok_or_else(|| usage(format!("the system knows no {principal}")))?;
    let groups = match args.groups.as_slice() {
        [] => groups_of_user(uid),
        named => named.iter().map(|name| gid(name)).collect::<Outcome<_>>()?,
    };
    let request = Request::simulated(uid, &groups, action, &context);
    let explanation = explain(policy, grants, &request);
    session.print(explained(&explanation, action), || {
        let who = named_user(uid);
        let mut text = format!("{} for {who}: {}\n", action.name(), explanation.decision);
        for finding in &explanation.findings {
            let (source, effect) = (&finding.source, finding.effect);
            text.push_str(&match &finding.misses {
                None => format!("  {source}: {effect}\n"),
                Some(why) => format!("  {source}: {effect}, but {why}\n"),
            });
        }
        text
    })
}

/// In the names of AWS's policy simulator.
fn explained(explanation: &Explanation<'_>, action: Action) -> Value {
    let decision = match explanation.decision {
        Decision::Allowed { .. } => "allowed",
        Decision::Denied { .. } => "explicitDeny",
        Decision::NotAllowed => "implicitDeny",
    };
    let findings = explanation.findings.iter().map(|finding| {
        json!({
            "Source": source(&finding.source),
            "Effect": finding.effect.to_string(),
            "Applies": finding.misses.is_none(),
            "Reason": finding.misses,
        })
    });
    let by = match &explanation.decision {
        Decision::Allowed { by } | Decision::Denied { by } => source(by),
        Decision::NotAllowed => Value::Null,
    };
    json!({
        "EvalActionName": format!("kms:{}", action.name()),
        "EvalDecision": decision,
        "DecidedBy": by,
        "Statements": findings.collect::<Vec<_>>(),
    })
}

fn source(source: &Source<'_>) -> Value {
    match source {
        Source::Statement { number, sid } => json!({"Statement": number, "Sid": sid}),
        Source::Grant(id) => json!({"GrantId": id}),
    }
}

/// Everybody whom the policy or a grant names, and everybody else.
fn all(session: &Session, key_id: &KeyId, policy: &Policy, grants: &[Grant]) -> Outcome {
    let mut principals = policy.principals();
    for grantee in grants.iter().map(Grant::grantee) {
        if !principals.contains(&grantee) {
            principals.push(grantee);
        }
    }
    let mut rows = Vec::new();
    for principal in principals {
        let reach = principal.id().map(|id| match principal.is_group() {
            true => reach(policy, grants, NOBODY, &[id]),
            false => reach(policy, grants, id, &groups_of_user(id)),
        });
        rows.push((name(principal), reach.unwrap_or_default(), member(principal)));
    }
    let others = reach(policy, grants, NOBODY, &[]);
    rows.push(("everybody else".to_owned(), others, json!("*")));
    let answer = rows.iter().map(|(_, reach, principal)| {
        let names = |set: ActionSet| set.iter().map(Action::name).collect::<Vec<_>>();
        json!({
            "Principal": principal,
            "Allowed": names(reach.always),
            "AllowedInSomeContexts": names(reach.sometimes),
        })
    });
    let answer = json!({"KeyId": key_id, "Principals": answer.collect::<Vec<_>>()});
    session.print(answer, || {
        let heading = ["WHO", "MAY", "MAY IN SOME ENCRYPTION CONTEXTS"].map(str::to_owned);
        let rows = rows.iter().map(|(name, Reach { always, sometimes }, _)| {
            [name.clone(), actions(*always), actions(*sometimes)]
        });
        columns(&[heading].into_iter().chain(rows).collect::<Vec<_>>())
    })
}

/// In the shortest words.
fn actions(set: ActionSet) -> String {
    let names = |set: ActionSet| set.iter().map(Action::name).collect::<Vec<_>>().join(", ");
    let missing = set.complement();
    match (set.iter().count(), missing.iter().count()) {
        (0, _) => "-".to_owned(),
        (_, 0) => "everything".to_owned(),
        (_, 1..=3) => format!("everything but {}", names(missing)),
        _ => names(set),
    }
}

fn name(principal: &Principal) -> String {
    match (principal.id(), principal.is_group()) {
        (None, _) => format!("{principal} (unknown to this system)"),
        (Some(uid), false) => named_user(uid),
        (Some(gid), true) if principal.text() == gid.to_string() => principal.to_string(),
        (Some(gid), true) => format!("{principal} ({gid})"),
    }
}

fn named_user(uid: u32) -> String {
    match user_name(uid) {
        Some(name) => format!("user {name} ({uid})"),
        None => format!("user {uid}"),
    }
}

fn member(principal: &Principal) -> Value {
    match principal.is_group() {
        true => json!({"Group": principal.text()}),
        false => json!({"User": principal.text()}),
    }
}

fn gid(name: &str) -> Outcome<u32> {
    let principal = Principal::group(name).map_err(usage)?;
    principal.id().ok_or_else(|| usage(format!("the system knows no {principal}")))
}

/// A user id that no user has.
const NOBODY: u32 = u32::MAX;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn actions_in_the_shortest_words() {
        let all: ActionSet = Action::ALL.into_iter().collect();
        assert_eq!(actions(all), "everything");
        assert_eq!(actions(ActionSet::default()), "-");
        let two: ActionSet = [Action::Decrypt, Action::Encrypt].into_iter().collect();
        assert_eq!(actions(two), "Decrypt, Encrypt");
        assert_eq!(actions(two.complement()), "everything but Decrypt, Encrypt");
    }
}
