//! Deletion of keys, which ends every file under them: not while files still need the key, and
//! not while that cannot be seen, unless it is forced.

use serde_json::json;

use super::args::{OneKeyArgs, ScheduleDeletionArgs};
use super::session::{Session, date};
use crate::cli::exit::{Exit, Failure, Outcome};
use crate::cli::references::{References, VolumeReferences, count};
use crate::format::KeyId;

pub(super) fn schedule(session: &Session, args: &ScheduleDeletionArgs) -> Outcome {
    let key_id = session.id_of(&args.key.key)?;
    let references = count(session.kms.keystore(), &args.volumes, &key_id)?;
    if !args.force {
        refuse_references(&key_id, &references)?;
    }
    let deletion = session.kms.schedule_key_deletion(&session.who, &key_id.0, args.days)?;
    let answer = json!({
        "KeyId": key_id,
        "DeletionDate": date(deletion),
        "KeyState": "PendingDeletion",
        "PendingWindowInDays": args.days,
        "References": references,
    });
    session.print(answer, || {
        format!(
            "key {key_id} cannot be used any more and will be deleted on {}; until then \
             'ssefs key cancel-deletion {key_id}' keeps it",
            date(deletion)
        )
    })
}

pub(super) fn cancel(session: &Session, args: &OneKeyArgs) -> Outcome {
    let key_id = session.id_of(&args.key)?;
    session.kms.cancel_key_deletion(&session.who, &key_id.0)?;
    session.print(json!({"KeyId": key_id, "KeyState": "Disabled"}), || {
        format!("key {key_id} is kept, and disabled: 'ssefs key enable {key_id}' lets it be used")
    })
}

fn refuse_references(key_id: &KeyId, volumes: &[VolumeReferences]) -> Outcome {
    let (mut files, mut needing, mut unseen) = (0, Vec::new(), Vec::new());
    for volume in volumes {
        let (found, problem) = match &volume.found {
            References::Files(found) => (*found, None),
            References::AtLeast(found, problem) => (*found, Some(problem)),
            References::Unknown(problem) => (0, Some(problem)),
        };
        files += found;
        if found > 0 {
            needing.push(volume.backing.as_str());
        }
        if let Some(problem) = problem {
            unseen.push(format!("{} ({problem})", volume.backing));
        }
    }
    if files > 0 {
        let at_least = if unseen.is_empty() { "" } else { "at least " };
        let count = match files {
            1 => "1 file still needs".to_owned(),
            files => format!("{files} files still need"),
        };
        return Err(Failure::new(
            Exit::Key,
            format!(
                "key {key_id}: {at_least}{count} it, in {}; move them to another key with \
                 'ssefs rewrap', or give --force to lose them with the key",
                needing.join(", ")
            ),
        ));
    }
    if !unseen.is_empty() {
        return Err(Failure::new(
            Exit::Backing,
            format!(
                "key {key_id}: whether files need it cannot be seen in {}; mend that, or give \
                 --force",
                unseen.join(", ")
            ),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(found: &[(&str, References)]) -> Option<(Exit, String)> {
        let volume = |(backing, found): &(&str, References)| VolumeReferences {
            volume_id: String::new(),
            backing: (*backing).to_owned(),
            last_seen: 0,
            found: found.clone(),
        };
        let volumes: Vec<_> = found.iter().map(volume).collect();
        let refused = refuse_references(&KeyId("k".into()), &volumes).err()?;
        Some((refused.exit, refused.message))
    }

    #[test]
    fn files_and_unseen_volumes_stand_in_the_way() {
        assert_eq!(refused(&[]), None);
        assert_eq!(refused(&[("/a", References::Files(0))]), None);
        let two = [("/a", References::Files(2)), ("/b", References::Files(0))];
        let (exit, message) = refused(&two).unwrap();
        assert_eq!(exit, Exit::Key);
        assert!(message.starts_with("key k: 2 files still need it, in /a; move"), "{message}");
        let some = [("/a", References::AtLeast(1, "b: damaged".into()))];
        let (exit, message) = refused(&some).unwrap();
        assert_eq!(exit, Exit::Key);
        assert!(message.starts_with("key k: at least 1 file still needs it, in /a"), "{message}");
        for unseen in [References::AtLeast(0, "gone".into()), References::Unknown("gone".into())] {
            let (exit, message) = refused(&[("/c", unseen)]).unwrap();
            assert_eq!(exit, Exit::Backing);
            assert!(message.contains("cannot be seen in /c (gone); mend that"), "{message}");
        }
    }
}
