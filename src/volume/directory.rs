//! The directory `.ssefs` at the root of a volume: descriptor, epoch record, lock.

use std::ffi::{OsStr, OsString};
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::durability::Durability;
use super::epochs::Epochs;
use super::error::VolumeError;
use super::journal::Journal;
use super::left_behind::LeftBehind;
use super::mounted::{Aside, Volume};
use crate::crypto::Secret;
use crate::format::{DESCRIPTOR_NAME, Descriptor, EPOCHS_NAME, METADATA_DIR, PAGE_LEN};
use crate::keys::Keyring;
use crate::store::disk::DiskFile;
use crate::store::tree::{DirFd, DiskTree, FileLock, OpenFlags};
use crate::store::{BackingFile, SyncScope};

/// What a backing directory holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DirectoryKind {
    /// Nothing: a volume may be made in it.
    Empty,
    /// A volume.
    Volume,
    /// Files, but no volume descriptor.
    Foreign,
}

/// How a volume is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct VolumeUse {
    /// Nothing is changed, not even an epoch is begun.
    pub read_only: bool,
    /// What is promised for the time after a power cut.
    pub durability: Durability,
}

/// The metadata directory of a volume, locked for this mount.
pub struct VolumeDirectory {
    metadata: Metadata,
    /// Held for as long as the volume is in use; `None` where the medium is read-only.
    lock: Option<FileLock>,
    holder: String,
    /// Whether the holder's note goes with it; a read-only mount ends without a change.
    clears_note: bool,
}

impl VolumeDirectory {
    /// What `tree` holds. A metadata directory without a descriptor is left over from a first
    /// mount that was cut short, and counts as nothing.
    pub fn examine(tree: &DiskTree) -> Result<DirectoryKind, VolumeError> {
        let mut entries = tree.read_dir(tree.root())?;
        let mut foreign = false;
        let mut metadata = false;
        while let Some(entry) = entries.next_entry()? {
            match entry.name.as_encoded_bytes() {
                b"." | b".." | b"lost+found" => {}
                name if name == METADATA_DIR.as_bytes() => metadata = true,
                _ => foreign = true,
            }
            if metadata && foreign {
                break;
            }
        }
        if metadata {
            let directory = tree.open_dir(tree.root(), OsStr::new(METADATA_DIR))?;
            match tree.stat(&directory, OsStr::new(DESCRIPTOR_NAME)) {
                Ok(_) => return Ok(DirectoryKind::Volume),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(if foreign { DirectoryKind::Foreign } else { DirectoryKind::Empty })
    }

    /// Takes the volume for this process, which `holder` describes for whoever comes second.
    /// Makes the metadata directory of a new volume; one that exists is not changed.
    ///
    /// A read-only medium cannot be locked, and need not be: nobody can change it.
    pub fn claim(tree: Arc<DiskTree>, holder: &str) -> Result<Self, VolumeError> {
        Self::claim_within(tree, holder, Duration::ZERO)
    }

    /// The same, where nothing else can be done while the volume is in use: a holder that was
    /// killed lets go only once each of its threads is gone, some moments after it has vanished
    /// from the list of processes.
    pub fn claim_patiently(tree: Arc<DiskTree>, holder: &str) -> Result<Self, VolumeError> {
        Self::claim_within(tree, holder, DEATH_TAKES)
    }

    fn claim_within(
        tree: Arc<DiskTree>,
        holder: &str,
        patience: Duration,
    ) -> Result<Self, VolumeError> {
        let name = OsStr::new(METADATA_DIR);
        let metadata = match tree.open_dir(tree.root(), name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                tree.mkdir(tree.root(), name, 0o700)?;
                tree.sync_dir(tree.root())?;
                tree.open_dir(tree.root(), name)?
            }
            opened => opened?,
        };
        let lock_name = OsStr::new(LOCK_NAME);
        let lock = match lock_within(&tree, &metadata, lock_name, patience) {
            Ok(Some(lock)) => Some(lock),
            Ok(None) => {
                let held_by = read_small(&tree, &metadata, lock_name)?.unwrap_or_default();
                let held_by = String::from_utf8_lossy(&held_by).trim().to_owned();
                let holder = if held_by.is_empty() { UNNOTED.to_owned() } else { held_by };
                return Err(VolumeError::InUse { holder });
            }
            Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => None,
            Err(error) => return Err(error.into()),
        };
        let metadata = Metadata { tree, directory: metadata };
        Ok(Self { metadata, lock, holder: holder.to_owned(), clears_note: false })
    }

    /// Looks at a volume that another process may hold; only for reading.
    pub fn observe(tree: Arc<DiskTree>) -> Result<Self, VolumeError> {
        let directory = tree.open_dir(tree.root(), OsStr::new(METADATA_DIR))?;
        let metadata = Metadata { tree, directory };
        Ok(Self { metadata, lock: None, holder: String::new(), clears_note: false })
    }

    /// The descriptor; `None` in a volume that is still to be made.
    pub fn descriptor(&self) -> Result<Option<Descriptor>, VolumeError> {
        self.metadata.descriptor()
    }

    /// Makes the volume: the descriptor comes last, as with it the volume exists.
    pub fn create(&self, descriptor: &Descriptor, volume_key: &Secret) -> Result<(), VolumeError> {
        let epochs = Epochs::initial(descriptor.volume_id, volume_key);
        self.replace(OsStr::new(EPOCHS_NAME), &epochs)?;
        self.update(descriptor)
    }

    /// Replaces the descriptor, for a further key slot.
    pub fn update(&self, descriptor: &Descriptor) -> Result<(), VolumeError> {
        self.metadata.update(descriptor)
    }

    /// Begins an epoch and gives the volume, ready to open its files.
    pub fn start(
        mut self,
        descriptor: &Descriptor,
        volume_key: &Secret,
        keyring: Keyring,
        use_as: VolumeUse,
    ) -> Result<Arc<Volume>, VolumeError> {
        let VolumeUse { read_only, durability } = use_as;
        // Only now is it known that the keys are the right ones: a refusal changes nothing.
        if let Some(lock) = &self.lock {
            self.clears_note = !read_only;
            if let Err(error) = lock.note(&self.holder) {
                // On a full disk, say: the lock holds all the same, only namelessly.
                log::debug!("the volume's lock does not name its holder: {error}");
            }
        }
        let (id, directory) = (descriptor.volume_id, Arc::new(self));
        let epochs = Epochs::begin(Arc::clone(&directory), id, volume_key, read_only)?;
        let current = epochs.current();
        let unclean = |epoch| !epochs.ended_cleanly(epoch) && (read_only || epoch != current);
        let left = Arc::clone(&directory);
        let left_behind = LeftBehind::read(left, id, volume_key, read_only, unclean)
            // Nothing was written in the epoch; why the volume is refused is told already.
            .inspect_err(|_| _ = epochs.end_cleanly())?;
        let journal = match durability {
            Durability::Power if !read_only => {
                Some(Journal::new(directory, id, current, volume_key))
            }
            // Nothing is ever gathered.
            Durability::Power | Durability::Process => None,
        };
        let aside = Aside { journal, left_behind };
        Ok(Arc::new(Volume::new(id, keyring, epochs, durability, aside)))
    }

    /// The names of its files.
    pub(super) fn names(&self) -> io::Result<Vec<OsString>> {
        let Metadata { tree, directory } = &self.metadata;
        let (mut stream, mut names) = (tree.read_dir(directory)?, Vec::new());
        while let Some(entry) = stream.next_entry()? {
            names.push(entry.name.to_owned());
        }
        Ok(names)
    }

    /// Opens a file for reading.
    pub(super) fn open(&self, name: &OsStr) -> io::Result<DiskFile> {
        let Metadata { tree, directory } = &self.metadata;
        Ok(tree.open_file(directory, name, OpenFlags::READ)?.into())
    }

    /// Makes a file that is not there yet.
    pub(super) fn make(&self, name: &OsStr) -> io::Result<DiskFile> {
        let Metadata { tree, directory } = &self.metadata;
        Ok(tree.create_file(directory, name, OpenFlags::READ_WRITE, 0o600)?.into())
    }

    /// Makes the names durable.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.metadata.tree.sync_dir(&self.metadata.directory)
    }

    /// Removes a file.
    pub(super) fn remove(&self, name: &OsStr) -> io::Result<()> {
        self.metadata.tree.unlink(&self.metadata.directory, name)
    }

    pub(super) fn read(&self, name: &OsStr) -> Result<Option<Vec<u8>>, VolumeError> {
        self.metadata.read(name)
    }

    pub(super) fn replace(&self, name: &OsStr, bytes: &[u8]) -> Result<(), VolumeError> {
        self.metadata.replace(name, bytes)
    }
}

impl Drop for VolumeDirectory {
    fn drop(&mut self) {
        let noted = self.lock.as_ref().filter(|_| self.clears_note);
        // A note left behind would only name the last holder to whoever meets the next one.
        if let Some(Err(error)) = noted.map(|lock| lock.note("")) {
            log::debug!("the note in the volume's lock stays: {error}");
        }
    }
}

/// The right to change a volume's key slots and the keys of its files, held against every other
/// rewrap, whether the volume is mounted or not. A mount does not change the descriptor once it
/// stands.
pub struct RewrapLock {
    metadata: Metadata,
    _lock: FileLock,
}

impl RewrapLock {
    /// Takes it for the volume in `tree`.
    pub fn take(tree: Arc<DiskTree>) -> Result<Self, VolumeError> {
        let directory = tree.open_dir(tree.root(), OsStr::new(METADATA_DIR))?;
        let lock = tree
            .try_lock(&directory, OsStr::new(REWRAP_LOCK_NAME))?
            .ok_or_else(|| VolumeError::InUse { holder: "another rewrap".to_owned() })?;
        Ok(Self { metadata: Metadata { tree, directory }, _lock: lock })
    }

    /// The descriptor; `None` in a volume that is still to be made.
    pub fn descriptor(&self) -> Result<Option<Descriptor>, VolumeError> {
        self.metadata.descriptor()
    }

    /// The same of a volume that is only looked at, which needs no lock.
    pub fn descriptor_of(tree: Arc<DiskTree>) -> Result<Option<Descriptor>, VolumeError> {
        let directory = tree.open_dir(tree.root(), OsStr::new(METADATA_DIR))?;
        Metadata { tree, directory }.descriptor()
    }

    /// Replaces the descriptor, all or nothing; one that could not be read again is refused.
    pub fn update(&self, descriptor: &Descriptor) -> Result<(), VolumeError> {
        Descriptor::decode(&descriptor.encode())?;
        self.metadata.update(descriptor)
    }
}

/// The files of the metadata directory.
struct Metadata {
    tree: Arc<DiskTree>,
    directory: DirFd,
}

impl Metadata {
    fn descriptor(&self) -> Result<Option<Descriptor>, VolumeError> {
        let text = self.read(OsStr::new(DESCRIPTOR_NAME))?;
        Ok(text.map(|text| Descriptor::decode(&text)).transpose()?)
    }

    fn update(&self, descriptor: &Descriptor) -> Result<(), VolumeError> {
        self.replace(OsStr::new(DESCRIPTOR_NAME), &descriptor.encode())
    }

    fn read(&self, name: &OsStr) -> Result<Option<Vec<u8>>, VolumeError> {
        read_small(&self.tree, &self.directory, name)
    }

    /// Replaces a file, all or nothing. Where there is no room for a second one it is written
    /// over, so that a volume on a full disk can still be mounted and cleaned up.
    fn replace(&self, name: &OsStr, bytes: &[u8]) -> Result<(), VolumeError> {
        match self.tree.replace_file(&self.directory, name, bytes, 0o600) {
            Err(error) if is_out_of_space(&error) => match self.write_over(name, bytes)? {
                true => Ok(()),
                false => Err(error.into()),
            },
            replaced => Ok(replaced?),
        }
    }

    /// Writes over a file in place where that takes one page and no new space: a page is
    /// written whole, so a crash leaves the old text or the new. The text is filled up with
    /// blanks, which JSON ignores, so that nothing of the old one stays behind it.
    fn write_over(&self, name: &OsStr, bytes: &[u8]) -> Result<bool, VolumeError> {
        let file =
            DiskFile::from(self.tree.open_file(&self.directory, name, OpenFlags::READ_WRITE)?);
        let size = file.size()?;
        if size == 0 || size > PAGE_LEN || bytes.len() as u64 > PAGE_LEN {
            return Ok(false);
        }
        let mut padded = bytes.to_vec();
        padded.resize(padded.len().max(size as usize), b' ');
        file.write_at(&[IoSlice::new(&padded)], 0)?;
        file.sync(SyncScope::All)?;
        Ok(true)
    }
}

fn lock_within(
    tree: &DiskTree,
    directory: &DirFd,
    name: &OsStr,
    patience: Duration,
) -> io::Result<Option<FileLock>> {
    let begun = Instant::now();
    loop {
        match tree.try_lock(directory, name)? {
            None if begun.elapsed() < patience => std::thread::sleep(patience / 30),
            tried => return Ok(tried),
        }
    }
}

fn is_out_of_space(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// A file of the metadata directory; `None` if there is none.
fn read_small(
    tree: &DiskTree,
    directory: &DirFd,
    name: &OsStr,
) -> Result<Option<Vec<u8>>, VolumeError> {
    let file = match tree.open_file(directory, name, OpenFlags::READ) {
        Ok(file) => DiskFile::from(file),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let size = file.size()?;
    if size > LARGEST {
        let name = name.display();
        return Err(VolumeError::Volume(format!(".ssefs/{name} is {size} bytes long, too long")));
    }
    let mut bytes = vec![0; size as usize];
    let read = file.read_at(&mut bytes, 0)?;
    bytes.truncate(read);
    Ok(Some(bytes))
}

/// Who holds a lock without a note.
const UNNOTED: &str = "a process that is just mounting or unmounting it";
const LOCK_NAME: &str = "lock";
/// Until then a holder of the lock may be one that was killed.
const DEATH_TAKES: Duration = Duration::from_millis(300);
const REWRAP_LOCK_NAME: &str = "rewrap";
/// No file of the metadata directory is longer: a bound on what is read before it is checked.
const LARGEST: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    /// The lock of a killed daemon outlives its entry in the list of processes.
    #[test]
    fn a_holder_that_is_just_dying_is_waited_for() {
        let scratch = tempfile::tempdir().unwrap();
        let claim = || {
            let tree = Arc::new(DiskTree::open(scratch.path()).unwrap());
            VolumeDirectory::claim_patiently(tree, "a test")
        };
        let dying = claim().unwrap();
        std::thread::scope(|scope| {
            let second = scope.spawn(claim);
            std::thread::sleep(DEATH_TAKES / 10);
            drop(dying);
            let held = second.join().unwrap().unwrap();
            assert!(matches!(claim(), Err(VolumeError::InUse { .. })));
            drop(held);
        });
        claim().unwrap();
    }
}
