//! `ssefs key last-used`.

use serde_json::json;

use super::args::OneKeyArgs;
use super::session::Session;
use super::table::members;
use crate::cli::exit::Outcome;
use crate::keys::audit::AuditRecord;

pub(super) fn run(session: &Session, args: &OneKeyArgs) -> Outcome {
    let key_id = session.id_of(&args.key)?;
    let last = session.kms.key_last_usage(&session.who, &key_id.0)?;
    let Some(last) = last else {
        let answer = json!({"KeyId": key_id, "LastUsedDate": null});
        return session.print(answer, || format!("key {key_id} has not been used"));
    };
    let answer = json!({
        "KeyId": key_id,
        "LastUsedDate": last.time.to_string(),
        "Operation": last.event_name(),
        "KeyVersion": last.key_version(),
        "UserIdentity": {
            "UserName": last.identity().user_name,
            "Uid": last.identity().uid,
            "Executable": last.identity().executable,
        },
        "VolumeId": last.volume_id(),
        "FileId": last.file_id(),
        "Path": last.path(),
    });
    session.print(answer, || text(&key_id.0, &last))
}

fn text(key_id: &str, last: &AuditRecord) -> String {
    let (who, owned) = (last.identity(), |text: Option<&str>| text.map(str::to_owned));
    let user = match &who.user_name {
        Some(name) => format!("{name} ({})", who.uid),
        None => who.uid.to_string(),
    };
    members(&[
        ("key id", Some(key_id.to_owned())),
        ("last used", Some(last.time.to_string())),
        ("for", Some(last.event_name().to_owned())),
        ("by user", Some(user)),
        ("by program", who.executable.clone()),
        ("file", owned(last.path())),
        ("file id", owned(last.file_id())),
        ("volume id", owned(last.volume_id())),
        ("material version", last.key_version().map(|version| version.to_string())),
    ])
}
