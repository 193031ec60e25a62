//! New versions of key material: by age, now, and by import.

use serde_json::{Value, json};

use super::args::{ImportArgs, OneKeyArgs, RotationArgs};
use super::session::{Session, date, dated};
use super::table::{columns, members};
use crate::cli::exit::{Exit, Failure, Outcome};
use crate::crypto::Secret;
use crate::keys::kms::{KeyRotation, RotationStatus};
use crate::keys::{KeyError, read_key, read_key_file};

pub(super) fn rotate(session: &Session, args: &OneKeyArgs) -> Outcome {
    let key_id = session.id_of(&args.key)?;
    let version = session.kms.rotate_key_on_demand(&session.who, &key_id.0)?;
    session.print(json!({"KeyId": key_id, "CurrentKeyVersion": version}), || {
        format!("key {key_id} encrypts with version {version} now; older versions go on decrypting")
    })
}

/// Changes how a key rotates, if that is asked for, and shows it.
pub(super) fn run(session: &Session, args: &RotationArgs) -> Outcome {
    let key_id = session.id_of(&args.key.key)?;
    let (kms, who) = (&session.kms, &session.who);
    if let Some(days) = args.days {
        kms.enable_key_rotation(who, &key_id.0, days)?;
    } else if args.off {
        kms.disable_key_rotation(who, &key_id.0)?;
    }
    let status = kms.key_rotation_status(who, &key_id.0)?;
    let rotations = kms.list_key_rotations(who, &key_id.0)?;
    let mut answer = dated(&status);
    answer["KeyId"] = Value::from(key_id.0.as_str());
    answer["Rotations"] = dated(&rotations);
    session.print(answer, || format!("{}\n{}", status_text(&key_id.0, &status), table(&rotations)))
}

pub(super) fn import(session: &Session, args: &ImportArgs) -> Outcome {
    let key_id = session.id_of(&args.key.key)?;
    let material = material(args)?;
    let version = session.kms.import_key_material(&session.who, &key_id.0, material)?;
    session.print(json!({"KeyId": key_id, "CurrentKeyVersion": version}), || {
        format!("key {key_id} has this material as version {version}; keep a copy of your own")
    })
}

fn material(args: &ImportArgs) -> Outcome<Secret> {
    // Whatever is wrong with it, it is the key and not the keystore.
    let unusable = |error: KeyError| Failure::new(Exit::Key, format!("key material: {error}"));
    match (&args.file, args.key_fd) {
        (Some(path), _) => read_key_file(path).map_err(unusable),
        (None, Some(number)) => {
            let file = crate::sys::fd::take(number).map_err(|_| {
                let problem = "no descriptor of that number was passed to this command";
                Failure::new(Exit::Key, format!("--key-fd {number}: {problem}"))
            })?;
            read_key(file, &format!("descriptor {number}")).map_err(unusable)
        }
        (None, None) => Err(Failure::new(Exit::Usage, "give a FILE, '-' or --key-fd")),
    }
}

fn status_text(key_id: &str, status: &RotationStatus) -> String {
    let period = status.rotation_period_in_days.map(|days| format!("every {days} days"));
    members(&[
        ("key id", Some(key_id.to_owned())),
        ("rotates", Some(period.unwrap_or_else(|| "only when it is told to".to_owned()))),
        ("next", status.next_rotation_date.map(date)),
        ("rotated on demand", Some(format!("{} times", status.on_demand_rotations))),
    ])
}

fn table(rotations: &[KeyRotation]) -> String {
    let heading = ["VERSION", "MADE", "BY", "USED FOR", "MATERIAL ID"].map(str::to_owned);
    let rows = rotations.iter().map(|one| {
        [
            one.key_version.to_string(),
            date(one.rotation_date),
            one.rotation_type.name().to_owned(),
            if one.current { "encrypting and decrypting" } else { "decrypting" }.to_owned(),
            one.key_material_id.clone(),
        ]
    });
    columns(&[heading].into_iter().chain(rows).collect::<Vec<_>>())
}
