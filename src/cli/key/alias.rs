//! `ssefs key alias`.

use serde_json::json;

use super::args::AliasCommand;
use super::session::{Session, date, dated};
use super::table::columns;
use crate::cli::exit::Outcome;

pub(super) fn run(session: &Session, command: &AliasCommand) -> Outcome {
    let (kms, who) = (&session.kms, &session.who);
    match command {
        AliasCommand::Create(args) => {
            let (alias, key_id) = (&args.alias.alias, session.id_of(&args.key)?);
            kms.create_alias(who, alias, &key_id.0)?;
            session.print(json!({"AliasName": alias, "TargetKeyId": key_id}), || {
                format!("{alias} stands for key {key_id}")
            })
        }
        AliasCommand::Move(args) => {
            let (alias, key_id) = (&args.alias.alias, session.id_of(&args.key)?);
            kms.update_alias(who, alias, &key_id.0)?;
            session.print(json!({"AliasName": alias, "TargetKeyId": key_id}), || {
                format!(
                    "{alias} stands for key {key_id} now; files go on using the key that they \
                     were made with"
                )
            })
        }
        AliasCommand::Delete(args) => {
            kms.delete_alias(who, &args.alias)?;
            session.print(json!({"AliasName": args.alias}), || {
                format!("{} stands for no key any more", args.alias)
            })
        }
        AliasCommand::List(args) => {
            let key_id = args.key.as_deref().map(|key| session.id_of(key)).transpose()?;
            let aliases = kms.list_aliases(who, key_id.as_ref().map(|id| id.0.as_str()))?;
            session.print(json!({"Aliases": dated(&aliases)}), || {
                let heading = ["ALIAS", "KEY ID", "LAST CHANGED"].map(str::to_owned);
                let rows = aliases.iter().map(|one| {
                    [
                        one.alias_name.to_string(),
                        one.target_key_id.to_string(),
                        date(one.last_updated_date),
                    ]
                });
                columns(&[heading].into_iter().chain(rows).collect::<Vec<_>>())
            })
        }
    }
}
