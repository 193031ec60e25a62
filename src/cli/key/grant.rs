//! `ssefs key grant`.

use serde_json::{Value, json};

use super::args::{GrantCommand, GrantCreateArgs};
use super::session::{Session, context, date, dated, usage};
use super::table::columns;
use crate::cli::exit::Outcome;
use crate::keys::kms::policy::Principal;
use crate::keys::kms::{Action, Constraints, Grant, GrantRequest};

pub(super) fn run(session: &Session, command: &GrantCommand) -> Outcome {
    let (kms, who) = (&session.kms, &session.who);
    match command {
        GrantCommand::Create(args) => {
            let key_id = session.id_of(&args.key.key)?;
            let operations = operations(&args.operations)?;
            let request = GrantRequest {
                name: args.name.clone(),
                grantee: grantee(args)?,
                operations: &operations,
                constraints: constraints(args)?,
            };
            let grant = kms.create_grant(who, &key_id.0, request)?;
            session.print(json!({"GrantId": grant.id(), "KeyId": key_id}), || {
                format!("{} may use key {key_id}: grant {}", grant.grantee(), grant.id())
            })
        }
        GrantCommand::List(args) => {
            let key_id = session.id_of(&args.key)?;
            let grants = kms.list_grants(who, &key_id.0)?;
            let answer = grants.iter().map(|grant| {
                let mut answer = dated(grant);
                answer["KeyId"] = Value::from(key_id.0.as_str());
                answer
            });
            session.print(json!({"Grants": answer.collect::<Vec<_>>()}), || table(&grants))
        }
        GrantCommand::Revoke(args) => {
            let key_id = session.id_of(&args.key.key)?;
            kms.revoke_grant(who, &key_id.0, &args.grant)?;
            session.print(json!({"GrantId": args.grant, "KeyId": key_id}), || {
                format!("grant {} on key {key_id} is revoked", args.grant)
            })
        }
    }
}

fn grantee(args: &GrantCreateArgs) -> Outcome<Principal> {
    let principal = match (&args.user, &args.group) {
        (Some(user), _) => Principal::user(user),
        (None, Some(group)) => Principal::group(group),
        (None, None) => Err("give --user or --group".to_owned()),
    };
    principal.map_err(usage)
}

fn constraints(args: &GrantCreateArgs) -> Outcome<Option<Constraints>> {
    Ok(if !args.context_equals.is_empty() {
        Some(Constraints::EncryptionContextEquals(context(&args.context_equals)?))
    } else if !args.context_subset.is_empty() {
        Some(Constraints::EncryptionContextSubset(context(&args.context_subset)?))
    } else {
        None
    })
}

fn operations(names: &[String]) -> Outcome<Vec<Action>> {
    names.iter().map(|name| action(name)).collect()
}

/// The action of this name, with or without `kms:` before it, in any case of letters.
pub(super) fn action(name: &str) -> Outcome<Action> {
    let bare = name.trim().strip_prefix("kms:").unwrap_or(name.trim());
    let found = Action::ALL.into_iter().find(|action| action.name().eq_ignore_ascii_case(bare));
    found.ok_or_else(|| {
        let all = Action::ALL.map(Action::name).join(", ");
        usage(format!("'{name}' is no action: there are {all}"))
    })
}

fn table(grants: &[Grant]) -> String {
    let heading = ["GRANT ID", "GRANTEE", "OPERATIONS", "ONLY WHERE", "MADE", "NAME"];
    let rows = grants.iter().map(|grant| {
        let operations: Vec<_> = grant.operations().iter().map(Action::name).collect();
        let only_where = match grant.constraints() {
            None => String::new(),
            Some(constraints) => {
                let pairs = constraints.pairs().iter();
                let pairs: Vec<_> = pairs.map(|(name, value)| format!("{name}={value}")).collect();
                let exactly = matches!(constraints, Constraints::EncryptionContextEquals(_));
                format!("{}{}", if exactly { "exactly " } else { "" }, pairs.join(" "))
            }
        };
        [
            grant.id().to_owned(),
            grant.grantee().to_string(),
            operations.join(","),
            only_where,
            date(grant.creation_date()),
            grant.name().unwrap_or_default().to_owned(),
        ]
    });
    columns(&[heading.map(str::to_owned)].into_iter().chain(rows).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn actions_as_people_write_them() {
        for name in ["Decrypt", "kms:Decrypt", "decrypt", " kms:decrypt "] {
            assert_eq!(action(name).unwrap(), Action::Decrypt, "{name:?}");
        }
        let failure = action("kms:Decript").unwrap_err();
        assert!(failure.message.starts_with("'kms:Decript' is no action: there are Cancel"));
    }
}
