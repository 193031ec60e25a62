//! The keystore: a private directory of sealed records and the root key that they are sealed
//! under. It owns where the directory lies, who may use it and how its root key is kept.
//! Records are replaced atomically, by one process at a time, and read without a lock.

use std::env;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::process::geteuid;

use super::error::KeyError;
use super::keystore_record::{Record, file_name, id_in_name, is_record, open, seal};
use super::passphrase::{Passphrase, recommended_argon2id};
use super::private_dir::{DirLock, PrivateDir, Staged, Stamp};
use super::root_key::{self, RootKeyFile};
use crate::crypto::{Secret, derive};

/// An open keystore.
pub struct Keystore {
    dir: PrivateDir,
    record_key: Secret,
    audit_key: Secret,
}

/// The right to write records, held against other processes and threads. Taken before any lock
/// of a provider and of the audit log.
pub(super) struct KeystoreLock<'a> {
    keystore: &'a Keystore,
    lock: DirLock<'a>,
}

/// Which file a record is in, worked out once for [`Keystore::stamp`].
pub(super) struct RecordFile(String);

/// A new record, durable beside the one that it is to replace; dropped, nothing has changed.
pub(super) struct StagedRecord<'a>(Staged<'a>);

impl Keystore {
    /// Where the keystore is: `explicit`, else `$SSEFS_KEYSTORE`, else `/var/lib/ssefs` for
    /// root and `$XDG_DATA_HOME/ssefs` or `~/.local/share/ssefs` for others.
    pub fn locate(explicit: Option<&Path>) -> PathBuf {
        locate_in(explicit, geteuid().is_root(), |name| env::var_os(name).map(PathBuf::from))
    }

    /// Opens the keystore at `path`.
    pub fn open(path: &Path) -> Result<Self, KeyError> {
        let dir = PrivateDir::open(path)?;
        let root = match root_key::read(&dir)? {
            Some(RootKeyFile::Plain(root)) => root,
            Some(RootKeyFile::Protected(_)) => return Err(protected(path)),
            None => return Err(not_a_keystore(path)),
        };
        Ok(Self::with_root(dir, &root))
    }

    /// Opens the keystore at `path`, making it with a root key of its own if there is none.
    pub fn open_or_create(path: &Path) -> Result<Self, KeyError> {
        let dir = PrivateDir::open_or_create(path)?;
        let root = match root_key::read(&dir)? {
            Some(found) => found,
            None => {
                let lock = dir.lock()?;
                match root_key::read(&dir)? {
                    Some(found) => found,
                    None => {
                        refuse_orphans(&dir)?;
                        let root = Secret::random();
                        root_key::write_plain(&lock, &root)?;
                        log::info!("made the keystore {}", path.display());
                        RootKeyFile::Plain(root)
                    }
                }
            }
        };
        match root {
            RootKeyFile::Plain(root) => Ok(Self::with_root(dir, &root)),
            RootKeyFile::Protected(_) => Err(protected(path)),
        }
    }

    /// Opens the keystore at `path` whose root key a passphrase protects.
    pub fn open_protected(path: &Path, passphrase: &Passphrase) -> Result<Self, KeyError> {
        let dir = PrivateDir::open(path)?;
        let root = match root_key::read(&dir)? {
            Some(RootKeyFile::Protected(sealed)) => sealed.open(passphrase, path)?,
            Some(RootKeyFile::Plain(_)) => {
                return Err(KeyError::Unusable(format!(
                    "the keystore {} is not protected by a passphrase",
                    path.display()
                )));
            }
            None => return Err(not_a_keystore(path)),
        };
        Ok(Self::with_root(dir, &root))
    }

    /// Makes a keystore at `path` whose root key `passphrase` protects; there must be none yet.
    pub fn create_protected(path: &Path, passphrase: &Passphrase) -> Result<Self, KeyError> {
        let dir = PrivateDir::open_or_create(path)?;
        let root = Secret::random();
        {
            let lock = dir.lock()?;
            if root_key::read(&dir)?.is_some() {
                return Err(KeyError::Unusable(format!(
                    "there is a keystore at {} already",
                    path.display()
                )));
            }
            refuse_orphans(&dir)?;
            root_key::write_protected(&lock, &root, passphrase, recommended_argon2id())?;
        }
        log::info!("made the keystore {}, protected by a passphrase", path.display());
        Ok(Self::with_root(dir, &root))
    }

    /// Whether there is a keystore at `path` that a passphrase protects.
    pub fn is_protected(path: &Path) -> Result<bool, KeyError> {
        if !path.exists() {
            return Ok(false);
        }
        let root = root_key::read(&PrivateDir::open(path)?)?;
        Ok(matches!(root, Some(RootKeyFile::Protected(_))))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The user that it belongs to.
    pub(super) fn owner(&self) -> u32 {
        self.dir.owner()
    }

    /// Whether it is inside the directory `backing`, or is that directory: its keys would then
    /// lie beside what they protect.
    pub fn lies_within(&self, backing: &Path) -> bool {
        Self::would_lie_within(self.dir.path(), backing)
    }

    /// The same for a keystore at `path` that need not exist yet.
    pub fn would_lie_within(path: &Path, backing: &Path) -> bool {
        let Ok(volume) = fs::metadata(backing) else { return false };
        let Ok(absolute) = std::path::absolute(path) else { return false };
        let existing = absolute.ancestors().find_map(|dir| fs::canonicalize(dir).ok());
        existing.is_some_and(|existing| {
            existing.ancestors().any(|dir| {
                fs::metadata(dir)
                    .is_ok_and(|dir| (dir.dev(), dir.ino()) == (volume.dev(), volume.ino()))
            })
        })
    }

    /// The record `id`, if there is one.
    pub(super) fn read<R: Record>(&self, id: &str) -> Result<Option<R>, KeyError> {
        Ok(self.read_stamped(id)?.map(|(record, _)| record))
    }

    /// The record `id` and the stamp of its file.
    pub(super) fn read_stamped<R: Record>(&self, id: &str) -> Result<Option<(R, Stamp)>, KeyError> {
        let name = file_name::<R>(id);
        let Some(content) = self.dir.read_stamped(&name, MAX_RECORD_LEN)? else {
            return Ok(None);
        };
        open(&self.record_key, id, &content.bytes)
            .map(|record| Some((record, content.stamp)))
            .map_err(|problem| KeyError::Damaged { path: self.dir.path_of(&name), problem })
    }

    /// The file of the record `id`, whether there is one or not.
    pub(super) fn file_of<R: Record>(id: &str) -> RecordFile {
        RecordFile(file_name::<R>(id))
    }

    /// The stamp of a record, by one system call; `None` if there is no such record.
    pub(super) fn stamp(&self, file: &RecordFile) -> Result<Option<Stamp>, KeyError> {
        self.dir.stamp(&file.0)
    }

    /// The stamp of the keystore as a whole: another one once any record was replaced. Cheaper
    /// than that of a record.
    pub(super) fn own_stamp(&self) -> Result<Stamp, KeyError> {
        self.dir.own_stamp()
    }

    /// The path of the record `id`, for messages.
    pub(super) fn path_of<R: Record>(&self, id: &str) -> PathBuf {
        self.dir.path_of(&file_name::<R>(id))
    }

    /// The ids of all records of a kind, in order.
    pub(super) fn ids<R: Record>(&self) -> Result<Vec<String>, KeyError> {
        let names = self.dir.names()?;
        let mut ids: Vec<_> =
            names.iter().filter_map(|name| id_in_name::<R>(name)).map(str::to_owned).collect();
        ids.sort();
        Ok(ids)
    }

    /// Whether there is a record `id`.
    pub(super) fn contains<R: Record>(&self, id: &str) -> Result<bool, KeyError> {
        self.dir.contains(&file_name::<R>(id))
    }

    /// Waits for the right to write.
    pub(super) fn lock(&self) -> Result<KeystoreLock<'_>, KeyError> {
        Ok(KeystoreLock { keystore: self, lock: self.dir.lock()? })
    }

    /// The key of the audit log's MACs.
    pub(super) fn audit_key(&self) -> &Secret {
        &self.audit_key
    }

    /// The directory `name` in it, made if it is missing.
    pub(super) fn subdirectory(&self, name: &str) -> Result<PrivateDir, KeyError> {
        self.dir.subdirectory(name)
    }

    fn with_root(dir: PrivateDir, root: &Secret) -> Self {
        Self { dir, record_key: derive(root, RECORD_LABEL), audit_key: derive(root, AUDIT_LABEL) }
    }
}

impl KeystoreLock<'_> {
    /// Puts `record` in place of what is kept as `id`; durable when it returns.
    pub(super) fn write<R: Record>(&self, id: &str, record: &R) -> Result<(), KeyError> {
        self.stage(id, record)?.expect("a record stays readable").publish()
    }

    /// Writes `record` beside what is kept as `id`, to be published later; `None` if it is too
    /// long to be read again.
    pub(super) fn stage<R: Record>(
        &self,
        id: &str,
        record: &R,
    ) -> Result<Option<StagedRecord<'_>>, KeyError> {
        let sealed = seal(&self.keystore.record_key, id, record);
        if sealed.len() > MAX_RECORD_LEN {
            return Ok(None);
        }
        self.lock.stage(&file_name::<R>(id), &sealed).map(|staged| Some(StagedRecord(staged)))
    }

    /// Removes the record `id`, if there is one; durable when it returns.
    pub(super) fn remove<R: Record>(&self, id: &str) -> Result<(), KeyError> {
        self.lock.remove(&file_name::<R>(id))
    }
}

impl StagedRecord<'_> {
    /// Makes it the record; durable when it returns.
    pub(super) fn publish(self) -> Result<(), KeyError> {
        self.0.publish()
    }
}

fn locate_in(
    explicit: Option<&Path>,
    root: bool,
    variable: impl Fn(&str) -> Option<PathBuf>,
) -> PathBuf {
    let named = |name| variable(name).filter(|path| !path.as_os_str().is_empty());
    if let Some(path) = explicit.map(Path::to_owned).or_else(|| named("SSEFS_KEYSTORE")) {
        return path;
    }
    if root {
        return PathBuf::from("/var/lib/ssefs");
    }
    // The XDG base directory specification ignores relative paths.
    let data = named("XDG_DATA_HOME").filter(|path| path.is_absolute());
    let home = || named("HOME").unwrap_or_default().join(".local/share");
    data.unwrap_or_else(home).join("ssefs")
}

/// Refuses to make a root key where records of a lost one lie: they could never be opened.
fn refuse_orphans(dir: &PrivateDir) -> Result<(), KeyError> {
    if dir.names()?.iter().any(|name| is_record(name)) {
        return Err(KeyError::Damaged {
            path: dir.path_of(root_key::PLAIN_NAME),
            problem: "is missing, but records are there: put it back from a backup".into(),
        });
    }
    Ok(())
}

fn protected(path: &Path) -> KeyError {
    KeyError::Unusable(format!("the keystore {} needs its passphrase", path.display()))
}

fn not_a_keystore(path: &Path) -> KeyError {
    KeyError::Damaged { path: path.to_owned(), problem: "holds no root key".into() }
}

const RECORD_LABEL: &[u8] = b"ssefs keystore records v1";
const AUDIT_LABEL: &[u8] = b"ssefs keystore audit log v1";
const MAX_RECORD_LEN: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    use serde::{Deserialize, Serialize};

    use super::super::passphrase::tests::passphrase;
    use super::*;

    #[derive(Serialize, Deserialize, PartialEq, Debug)]
    struct Note(u32);
    impl Record for Note {
        const KIND: &'static str = "note";
    }

    #[derive(Serialize, Deserialize)]
    struct Text(String);
    impl Record for Text {
        const KIND: &'static str = "text";
    }

    fn scratch() -> (tempfile::TempDir, PathBuf) {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("keystore");
        (scratch, path)
    }

    #[test]
    fn records_survive_and_are_bound_to_their_keystore() {
        let (scratch, path) = scratch();
        assert!(Keystore::open(&path).is_err());
        let keystore = Keystore::open_or_create(&path).unwrap();
        assert_eq!(keystore.read::<Note>("a").unwrap(), None);
        keystore.lock().unwrap().write("a", &Note(1)).unwrap();
        keystore.lock().unwrap().write("a", &Note(2)).unwrap();
        let again = Keystore::open(&path).unwrap();
        assert_eq!(again.read::<Note>("a").unwrap(), Some(Note(2)));
        assert!(again.contains::<Note>("a").unwrap() && !again.contains::<Note>("b").unwrap());

        let elsewhere = Keystore::open_or_create(&scratch.path().join("other")).unwrap();
        fs::copy(path.join("note-a.record"), elsewhere.path().join("note-a.record")).unwrap();
        assert!(matches!(elsewhere.read::<Note>("a"), Err(KeyError::Damaged { .. })));
        fs::copy(path.join("note-a.record"), path.join("note-b.record")).unwrap();
        assert!(matches!(again.read::<Note>("b"), Err(KeyError::Damaged { .. })));
    }

    #[test]
    fn records_are_listed_staged_and_removed() {
        let (_scratch, path) = scratch();
        let keystore = Keystore::open_or_create(&path).unwrap();
        let lock = keystore.lock().unwrap();
        for id in ["b", "a", "c-d"] {
            lock.write(id, &Note(1)).unwrap();
        }
        drop(lock.stage("a", &Note(2)).unwrap());
        assert_eq!(keystore.read::<Note>("a").unwrap(), Some(Note(1)));
        lock.stage("a", &Note(2)).unwrap().unwrap().publish().unwrap();
        assert_eq!(keystore.read::<Note>("a").unwrap(), Some(Note(2)));
        lock.remove::<Note>("b").unwrap();
        assert_eq!(keystore.ids::<Note>().unwrap(), ["a", "c-d"]);
        assert_eq!(keystore.stamp(&Keystore::file_of::<Note>("b")).unwrap(), None);
        assert!(lock.stage("long", &Text("x".repeat(MAX_RECORD_LEN))).unwrap().is_none());
    }

    #[test]
    fn a_lost_root_key_is_not_replaced_while_records_are_there() {
        let (_scratch, path) = scratch();
        Keystore::open_or_create(&path).unwrap().lock().unwrap().write("a", &Note(1)).unwrap();
        fs::remove_file(path.join("root.key")).unwrap();
        let error = Keystore::open_or_create(&path).err().unwrap();
        assert!(error.to_string().contains("put it back from a backup"), "{error}");
        let error = Keystore::create_protected(&path, &passphrase("p")).err().unwrap();
        assert!(error.to_string().contains("put it back from a backup"), "{error}");
        assert!(!path.join("root.key").exists());
    }

    #[test]
    fn a_root_key_or_directory_open_to_others_is_refused() {
        let (_scratch, path) = scratch();
        Keystore::open_or_create(&path).unwrap();
        fs::set_permissions(path.join("root.key"), Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(Keystore::open(&path), Err(KeyError::Unsafe { .. })));
        fs::set_permissions(path.join("root.key"), Permissions::from_mode(0o600)).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o750)).unwrap();
        let refused = Keystore::open_or_create(&path);
        assert!(matches!(refused, Err(KeyError::Unsafe { .. })));
    }

    #[test]
    fn processes_that_make_it_at_once_agree_on_one_root_key() {
        let (_scratch, path) = scratch();
        std::thread::scope(|scope| {
            for writer in 0..8 {
                let path = &path;
                scope.spawn(move || {
                    let keystore = Keystore::open_or_create(path).unwrap();
                    let id = writer.to_string();
                    keystore.lock().unwrap().write(&id, &Note(writer)).unwrap();
                });
            }
        });
        let keystore = Keystore::open(&path).unwrap();
        for writer in 0..8 {
            assert_eq!(keystore.read(&writer.to_string()).unwrap(), Some(Note(writer)));
        }
    }

    #[test]
    fn it_is_told_when_it_lies_within_a_volume() {
        let scratch = tempfile::tempdir().unwrap();
        let backing = scratch.path().join("backing");
        fs::create_dir(&backing).unwrap();
        std::os::unix::fs::symlink(&backing, scratch.path().join("alias")).unwrap();
        for inside in ["backing", "backing/k", "alias/deep/k", "backing/../alias/k"] {
            let path = scratch.path().join(inside);
            assert!(Keystore::would_lie_within(&path, &backing), "{inside}");
        }
        for outside in ["k", "backing2/k", "backing/../k"] {
            let path = scratch.path().join(outside);
            assert!(!Keystore::would_lie_within(&path, &backing), "{outside}");
        }
        let keystore = Keystore::open_or_create(&scratch.path().join("alias/k")).unwrap();
        assert!(keystore.lies_within(&backing));
        assert!(!keystore.lies_within(&scratch.path().join("absent")));
    }

    #[test]
    fn the_places_in_their_order() {
        let none = |_: &str| None;
        let set = |name: &str| match name {
            "SSEFS_KEYSTORE" => Some("/env".into()),
            "XDG_DATA_HOME" => Some("/xdg".into()),
            "HOME" => Some("/home/u".into()),
            _ => None,
        };
        let without = |missing: &'static [&'static str]| {
            move |name: &str| if missing.contains(&name) { None } else { set(name) }
        };
        let located = |explicit: Option<&str>, root, variable: &dyn Fn(&str) -> Option<PathBuf>| {
            locate_in(explicit.map(Path::new), root, variable).display().to_string()
        };
        assert_eq!(located(Some("/cli"), true, &set), "/cli");
        assert_eq!(located(None, true, &set), "/env");
        assert_eq!(located(None, true, &none), "/var/lib/ssefs");
        assert_eq!(located(None, false, &without(&["SSEFS_KEYSTORE"])), "/xdg/ssefs");
        let home_only = without(&["SSEFS_KEYSTORE", "XDG_DATA_HOME"]);
        assert_eq!(located(None, false, &home_only), "/home/u/.local/share/ssefs");
    }
}
