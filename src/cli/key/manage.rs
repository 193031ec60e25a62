//! Making, listing and describing keys, and switching them on and off.

use serde_json::json;

use super::args::{CreateArgs, OneKeyArgs, OriginName, UpdateDescriptionArgs};
use super::policy::read_policy;
use super::session::{Session, date, dated};
use super::table::{columns, members};
use crate::cli::exit::Outcome;
use crate::keys::kms::{AliasName, CreateKey, KeyMetadata, Origin};

pub(super) fn create(session: &Session, args: &CreateArgs) -> Outcome {
    let policy = args.policy.as_deref().map(read_policy).transpose()?;
    let request = CreateKey {
        description: args.description.as_deref().unwrap_or_default(),
        alias: args.alias.as_deref(),
        rotation_days: args.rotation_days,
        policy,
        bypass_lockout_check: args.force,
        origin: match args.origin {
            OriginName::Local => None,
            OriginName::External => Some(Origin::External),
        },
    };
    let metadata = session.kms.create_key(&session.who, request)?;
    session.print(json!({"KeyMetadata": dated(&metadata)}), || text(&metadata))
}

pub(super) fn list(session: &Session) -> Outcome {
    let keys = session.kms.list_keys(&session.who)?;
    session.print(json!({"Keys": dated(&keys)}), || {
        let heading = ["KEY ID", "STATE", "VERSION", "ALIASES", "DESCRIPTION"].map(str::to_owned);
        let rows = keys.iter().map(|one| {
            [
                one.key_id.to_string(),
                one.key_state.name().to_owned(),
                one.current_key_version.map_or("-".to_owned(), |version| version.to_string()),
                aliases(one),
                one.description.clone(),
            ]
        });
        columns(&[heading].into_iter().chain(rows).collect::<Vec<_>>())
    })
}

pub(super) fn describe(session: &Session, args: &OneKeyArgs) -> Outcome {
    let metadata = session.kms.describe_key(&session.who, &args.key)?;
    session.print(json!({"KeyMetadata": dated(&metadata)}), || text(&metadata))
}

pub(super) fn update_description(session: &Session, args: &UpdateDescriptionArgs) -> Outcome {
    let key_id = session.id_of(&args.key.key)?;
    session.kms.update_description(&session.who, &key_id.0, &args.description)?;
    session.print(json!({"KeyId": key_id}), || format!("key {key_id} has a new description"))
}

pub(super) fn enable(session: &Session, args: &OneKeyArgs) -> Outcome {
    let key_id = session.id_of(&args.key)?;
    session.kms.enable_key(&session.who, &key_id.0)?;
    session.print(json!({"KeyId": key_id}), || format!("key {key_id} is enabled"))
}

pub(super) fn disable(session: &Session, args: &OneKeyArgs) -> Outcome {
    let key_id = session.id_of(&args.key)?;
    session.kms.disable_key(&session.who, &key_id.0)?;
    session.print(json!({"KeyId": key_id}), || {
        format!("key {key_id} is disabled: its files cannot be opened until it is enabled")
    })
}

fn text(key: &KeyMetadata) -> String {
    let not_empty = |text: String| (!text.is_empty()).then_some(text);
    members(&[
        ("key id", Some(key.key_id.to_string())),
        ("aliases", not_empty(aliases(key))),
        ("description", not_empty(key.description.clone())),
        ("state", Some(key.key_state.name().to_owned())),
        ("origin", Some(key.origin.name().to_owned())),
        ("created", Some(date(key.creation_date))),
        ("deleted on", key.deletion_date.map(date)),
        ("material version", key.current_key_version.map(|version| version.to_string())),
        ("material id", key.current_key_material_id.clone()),
    ])
}

fn aliases(key: &KeyMetadata) -> String {
    key.aliases.iter().map(AliasName::as_str).collect::<Vec<_>>().join(", ")
}
