//! Which files still need a key: counted by their headers, with no key at hand. What cannot be
//! looked into counts as unknown, never as none.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;

use super::exit::Outcome;
use super::walk::{Found, Step, walk};
use crate::format::{KeyId, VolumeId};
use crate::keys::Keystore;
use crate::store::disk::DiskFile;
use crate::store::tree::{DiskTree, OpenFlags};
use crate::volume::{RewrapLock, VolumeError, describe};

/// A volume and what in it needs a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VolumeReferences {
    /// The volume.
    pub volume_id: String,
    /// Its backing directory, as far as it is known.
    pub backing: String,
    /// When it was mounted last, in seconds since 1970-01-01 UTC; 0 if that is not known.
    pub last_seen: u64,
    /// What was found.
    pub found: References,
}

/// What in a volume needs a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum References {
    /// So many files, and its descriptor counted as one where the key opens the volume.
    Files(u64),
    /// At least so many, and some that could not be looked into, for this reason.
    AtLeast(u64, String),
    /// It could not be looked into, for this reason.
    Unknown(String),
}

impl References {
    /// Whether it is certain that nothing needs the key.
    pub fn is_none(&self) -> bool {
        *self == Self::Files(0)
    }
}

/// For each volume known to the keystore, and each backing directory in `further`, what still
/// needs the key.
pub fn count(
    keystore: &Keystore,
    further: &[PathBuf],
    key_id: &KeyId,
) -> Outcome<Vec<VolumeReferences>> {
    let mut all = Vec::new();
    for known in keystore.known_volumes()? {
        let found = in_volume(&known.backing, Some(known.volume), key_id);
        all.push(VolumeReferences {
            volume_id: known.volume.to_string(),
            backing: known.backing.display().to_string(),
            last_seen: known.last_seen,
            found: found.map_or_else(References::Unknown, |(_, found)| found),
        });
    }
    for backing in further {
        let (volume_id, found) = match in_volume(backing, None, key_id) {
            Ok((volume, found)) => (volume.to_string(), found),
            Err(reason) => (String::new(), References::Unknown(reason)),
        };
        if !all.iter().any(|known| known.volume_id == volume_id) {
            let backing = backing.display().to_string();
            all.push(VolumeReferences { volume_id, backing, last_seen: 0, found });
        }
    }
    Ok(all)
}

/// What needs the key in the volume at `backing`, which must be `expected` if that is given.
fn in_volume(
    backing: &Path,
    expected: Option<VolumeId>,
    key_id: &KeyId,
) -> Result<(VolumeId, References), String> {
    let tree = DiskTree::open(backing).map_err(|error| error.to_string())?;
    let tree = Arc::new(tree);
    let descriptor = RewrapLock::descriptor_of(Arc::clone(&tree))
        .map_err(|error| error.to_string())?
        .ok_or("there is no volume any more")?;
    if expected.is_some_and(|expected| expected != descriptor.volume_id) {
        return Err(format!("volume {} is there now", descriptor.volume_id));
    }
    let opens = descriptor.key_slots.iter().any(|slot| slot.envelope.key_id == *key_id);
    let (mut files, mut problem) = (u64::from(opens), None);
    walk(&tree, &mut |step| {
        match step {
            Step::File(found) => match needs(&tree, &found, key_id) {
                Ok(needed) => files += u64::from(needed),
                Err(error) => note(&mut problem, &found.path, &error.to_string()),
            },
            Step::Failed(path, error) => note(&mut problem, &path, &error.to_string()),
        }
        ControlFlow::Continue(())
    });
    let found = match problem {
        None => References::Files(files),
        Some(problem) => References::AtLeast(files, problem),
    };
    Ok((descriptor.volume_id, found))
}

fn needs(tree: &DiskTree, found: &Found, key_id: &KeyId) -> Result<bool, VolumeError> {
    let file = match tree.open_file(&found.directory, &found.name, OpenFlags::READ) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        opened => DiskFile::from(opened?),
    };
    let described = describe(&file)?;
    Ok(described.is_some_and(|description| description.envelope.key_id == *key_id))
}

fn note(problem: &mut Option<String>, path: &Path, error: &str) {
    problem.get_or_insert_with(|| format!("{}: {error}", path.display()));
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::cli::unlock::{UnlockPlan, unlock};
    use crate::format::Mode;
    use crate::keys::Access;

    /// A volume with three files under one key.
    fn volume(scratch: &Path) -> (VolumeId, KeyId) {
        let backing = scratch.join("backing");
        std::fs::create_dir(&backing).unwrap();
        let tree = Arc::new(DiskTree::open(&backing).unwrap());
        let plan = UnlockPlan {
            backing: backing.clone(),
            mode: Mode::Managed,
            source: None,
            keystore: scratch.join("keystore"),
            protect_keystore: false,
            rotation_days: 0,
            kms: Default::default(),
            cache_entries: 0,
            cache_ttl: Duration::ZERO,
            read_only: false,
            durability: crate::volume::Durability::default(),
        };
        let volume = unlock(Arc::clone(&tree), &plan, "a test").unwrap();
        std::fs::write(backing.join("empty"), b"").unwrap();
        for name in ["one", "two", "three"] {
            let disk =
                tree.create_file(tree.root(), name.as_ref(), OpenFlags::READ_WRITE, 0o600).unwrap();
            let disk = Arc::new(DiskFile::from(disk));
            let access = Access::own(&PathBuf::new);
            let file = volume.open_file(disk, true, &access).unwrap();
            file.prepare_write(&access).unwrap();
            file.write(0, b"content").unwrap();
            file.settle().unwrap();
        }
        volume.end_epoch().unwrap();
        let tree = Arc::new(DiskTree::open(&backing).unwrap());
        let descriptor = RewrapLock::descriptor_of(tree).unwrap().unwrap();
        (volume.id(), descriptor.key_slots[0].envelope.key_id.clone())
    }

    #[test]
    fn files_are_counted_and_what_cannot_be_read_is_unknown() {
        let scratch = tempfile::tempdir().unwrap();
        let (id, key_id) = volume(scratch.path());
        let keystore = Keystore::open(&scratch.path().join("keystore")).unwrap();
        let backing = scratch.path().join("backing");
        let found = |key_id: &KeyId| {
            let all = count(&keystore, std::slice::from_ref(&backing), key_id).unwrap();
            assert_eq!((all.len(), all[0].volume_id.clone()), (1, id.to_string()));
            all[0].found.clone()
        };
        assert_eq!(found(&key_id), References::Files(4), "three files and the volume itself");
        assert!(found(&KeyId("another".into())).is_none());
        keystore.remember_volume(id, &backing, 1).unwrap();
        assert_eq!(found(&key_id), References::Files(4), "known and given: counted once");
        std::fs::write(backing.join("foreign"), b"not ours").unwrap();
        let References::AtLeast(4, problem) = found(&key_id) else { panic!("foreign file") };
        assert!(problem.starts_with("foreign: "), "{problem}");
        assert!(!found(&KeyId("another".into())).is_none(), "one file is not known");
        std::fs::rename(&backing, scratch.path().join("moved")).unwrap();
        let all = count(&keystore, &[], &key_id).unwrap();
        assert!(matches!(&all[0].found, References::Unknown(_)), "{all:?}");
        keystore.remember_volume(VolumeId([9; 16]), &scratch.path().join("moved"), 1).unwrap();
        let all = count(&keystore, &[], &key_id).unwrap();
        assert!(all.iter().all(|volume| matches!(volume.found, References::Unknown(_))));
    }
}
