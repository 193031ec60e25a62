//! Deletion of keys, which ends every file under them: not while files still need the key,
//! unless it is forced.

use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::args::{OneKeyArgs, ScheduleDeletionArgs};
use super::session::{Session, date};
use crate::cli::exit::{Exit, Failure, Outcome};
use crate::format::KeyId;
use crate::keys::Keystore;
use crate::store::disk::DiskFile;
use crate::volume::describe;

/// What still needs a key.
#[derive(Debug, Default)]
pub struct References {
    /// How many files, over all volumes.
    pub files: u64,
    /// The backing directories that have them.
    pub volumes: Vec<PathBuf>,
    /// Backing directories that could not be looked through, and why.
    pub unseen: Vec<String>,
}

/// Counts the files that need a key, in the volumes that are known and those given.
pub type CountReferences<'a> = &'a dyn Fn(&Keystore, &KeyId, &[PathBuf]) -> Outcome<References>;

pub(super) fn schedule(
    session: &Session,
    args: &ScheduleDeletionArgs,
    count_references: CountReferences<'_>,
) -> Outcome {
    let key_id = session.id_of(&args.key.key)?;
    let references = count_references(session.kms.keystore(), &key_id, &args.volumes)?;
    if !args.force {
        refuse_references(&key_id, &references)?;
    }
    let date_of = session.kms.schedule_key_deletion(&session.who, &key_id.0, args.days)?;
    let answer = json!({
        "KeyId": key_id,
        "DeletionDate": date(date_of),
        "KeyState": "PendingDeletion",
        "PendingWindowInDays": args.days,
        "ReferencingFiles": references.files,
    });
    session.print(answer, || {
        format!(
            "key {key_id} cannot be used any more and will be deleted on {}; until then \
             'ssefs key cancel-deletion {key_id}' keeps it",
            date(date_of)
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

fn refuse_references(key_id: &KeyId, references: &References) -> Outcome {
    let way_out = "move them with 'ssefs rewrap', or give --force to lose them with the key";
    if references.files > 0 {
        let volumes: Vec<_> =
            references.volumes.iter().map(|path| path.display().to_string()).collect();
        let count = match references.files {
            1 => "1 file still needs".to_owned(),
            files => format!("{files} files still need"),
        };
        return Err(Failure::new(
            Exit::Key,
            format!("key {key_id}: {count} it, in {}; {way_out}", volumes.join(", ")),
        ));
    }
    match references.unseen.as_slice() {
        [] => Ok(()),
        unseen => Err(Failure::new(
            Exit::Backing,
            format!(
                "key {key_id}: whether files need it could not be seen in {}; mend that, or give \
                 --force",
                unseen.join(", ")
            ),
        )),
    }
}

/// Counts in the volumes given, by the headers of their files. A file that has no header, or one
/// that cannot be read, makes its volume an unseen one unless it is empty.
pub fn count_in_given_volumes(
    _: &Keystore,
    key_id: &KeyId,
    volumes: &[PathBuf],
) -> Outcome<References> {
    let mut references = References::default();
    for volume in volumes {
        match count_below(volume, key_id) {
            Ok(0) => {}
            Ok(files) => {
                references.files += files;
                references.volumes.push(volume.clone());
            }
            Err(problem) => references.unseen.push(problem),
        }
    }
    Ok(references)
}

fn count_below(directory: &Path, key_id: &KeyId) -> Result<u64, String> {
    let failed =
        |path: &Path, problem: &dyn std::fmt::Display| format!("{}: {problem}", path.display());
    let mut count = 0;
    let mut left = vec![directory.to_owned()];
    while let Some(directory) = left.pop() {
        for entry in fs::read_dir(&directory).map_err(|error| failed(&directory, &error))? {
            let entry = entry.map_err(|error| failed(&directory, &error))?;
            let (path, kind) = (entry.path(), entry.file_type());
            let kind = kind.map_err(|error| failed(&path, &error))?;
            if kind.is_dir() && entry.file_name() != ".ssefs" {
                left.push(path);
            } else if kind.is_file() {
                let file = File::open(&path).map_err(|error| failed(&path, &error))?;
                let described = describe(&DiskFile::from(OwnedFd::from(file)));
                let described = described.map_err(|error| failed(&path, &error))?;
                count += u64::from(described.is_some_and(|one| one.envelope.key_id == *key_id));
            }
        }
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_and_unseen_volumes_stand_in_the_way() {
        let key_id = KeyId("k".into());
        let refused = |references| refuse_references(&key_id, &references).unwrap_err();
        assert!(refuse_references(&key_id, &References::default()).is_ok());
        let two = References { files: 2, volumes: vec!["/a".into(), "/b".into()], unseen: vec![] };
        let failure = refused(two);
        assert_eq!(failure.exit, Exit::Key);
        assert!(failure.message.starts_with("key k: 2 files still need it, in /a, /b; move them"));
        let unseen = References { unseen: vec!["/c: gone".into()], ..References::default() };
        let failure = refused(unseen);
        assert_eq!(failure.exit, Exit::Backing);
        assert!(failure.message.contains("could not be seen in /c: gone; mend that"));
    }
}
