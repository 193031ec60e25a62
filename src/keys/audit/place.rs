//! The files of a log in the keystore's directory `audit`: segments, head, lock and public key.
//! It owns their names, how they are opened and the lock between processes; not their content.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::io::Errno;

use super::head::{HEAD_LEN, Head};
use super::pending;
use super::registration::{LogKeys, to_pem};
use crate::crypto::MacKey;
use crate::keys::error::KeyError;
use crate::keys::keystore::Keystore;
use crate::keys::private_dir::PrivateDir;

/// The open files of a log.
pub(super) struct Place {
    dir: PrivateDir,
    lock: Arc<OwnedFd>,
    head: Arc<OwnedFd>,
    pending: Arc<OwnedFd>,
}

/// The right to append, held against other processes.
pub(super) struct PlaceLock {
    file: Arc<OwnedFd>,
    waited: bool,
}

/// That somebody waits for the lock: a shared `flock` on the head's file, which nobody needs for
/// anything else. Who keeps the lock over a burst looks for it.
pub(super) struct Announcement<'a, F: AsFd>(&'a F);

/// What is found of the head.
pub(super) enum FoundHead {
    /// No file, or an empty one.
    Absent,
    /// Bytes that are not a head of this log.
    Damaged,
    /// The head.
    Is(Head),
}

impl Place {
    /// Opens the files, making what is missing.
    pub(super) fn open(keystore: &Keystore) -> Result<Self, KeyError> {
        let dir = keystore.subdirectory(DIR_NAME)?;
        let lock = Arc::new(dir.open_file(LOCK_NAME, OFlags::CREATE)?);
        let head = Arc::new(dir.open_file(HEAD_NAME, OFlags::CREATE)?);
        let pending = Arc::new(dir.open_file(PENDING_NAME, OFlags::CREATE)?);
        Ok(Self { dir, lock, head, pending })
    }

    /// Waits for the right to append.
    ///
    /// The wait is bounded: who holds the lock may itself be waiting for us. A process that was
    /// killed keeps its locks until each of its threads is gone, and one that waits for the
    /// answer of a mount goes only when it has that answer.
    pub(super) fn lock(&self) -> Result<PlaceLock, KeyError> {
        let (mut waiting, mut announced) = (None::<Instant>, None);
        let mut pause = FIRST_PAUSE;
        loop {
            match flock(&self.lock, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {
                    let file = Arc::clone(&self.lock);
                    return Ok(PlaceLock { file, waited: waiting.is_some() });
                }
                Err(Errno::INTR) => {}
                Err(Errno::WOULDBLOCK)
                    if waiting.get_or_insert_with(Instant::now).elapsed() < LONGEST_WAIT =>
                {
                    if announced.is_none() {
                        announced = Announcement::make(&self.head);
                    }
                    std::thread::sleep(pause);
                    pause = (2 * pause).min(LONGEST_PAUSE);
                }
                Err(error) => return Err(self.failed(LOCK_NAME, error)),
            }
        }
    }

    /// Whether somebody waits for the lock.
    pub(super) fn is_waited_for(&self) -> bool {
        match flock(&self.head, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {
                let _ = flock(&self.head, FlockOperation::Unlock);
                false
            }
            Err(error) => error == Errno::WOULDBLOCK,
        }
    }

    /// Leaves the lock, which is free, to those who wait until they have it.
    pub(super) fn give_way(&self) {
        let begun = Instant::now();
        while begun.elapsed() < LONGEST_WAY && self.is_waited_for() {
            std::thread::sleep(FIRST_PAUSE);
        }
    }

    /// Whether the names still stand for the open files: somebody may have moved them away.
    pub(super) fn holds(&self, keystore: &Keystore, segment: u32, file: &OwnedFd) -> bool {
        let files =
            [(LOCK_NAME, &self.lock), (HEAD_NAME, &self.head), (PENDING_NAME, &self.pending)];
        let same_dir = keystore
            .subdirectory(DIR_NAME)
            .is_ok_and(|dir| files.iter().all(|(name, file)| dir.holds(name, file)));
        same_dir && self.dir.holds(&segment_name(segment), file)
    }

    /// The numbers of the segments, in order.
    pub(super) fn segments(&self) -> Result<Vec<u32>, KeyError> {
        let names = self.dir.names()?;
        let mut numbers: Vec<u32> = names.iter().filter_map(|name| segment_number(name)).collect();
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// Opens a segment; `None` if there is none of this number.
    pub(super) fn open_segment(&self, number: u32) -> Result<Option<OwnedFd>, KeyError> {
        match self.dir.open_file(&segment_name(number), OFlags::empty()) {
            Ok(fd) => Ok(Some(fd)),
            Err(KeyError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Makes a segment, which is durable when this returns.
    pub(super) fn create_segment(&self, number: u32) -> Result<OwnedFd, KeyError> {
        let fd = self.dir.open_file(&segment_name(number), OFlags::CREATE)?;
        self.dir.sync()?;
        Ok(fd)
    }

    /// Reads the head.
    pub(super) fn read_head(&self, mac_key: &MacKey) -> Result<FoundHead, KeyError> {
        let bytes = read_small(&self.head).map_err(|error| self.failed(HEAD_NAME, error))?;
        Ok(match Head::decode(&bytes, mac_key) {
            Some(head) => FoundHead::Is(head),
            None if bytes.is_empty() => FoundHead::Absent,
            None => FoundHead::Damaged,
        })
    }

    /// Puts the head in place of the one before.
    pub(super) fn write_head(&self, head: &[u8; HEAD_LEN]) -> io::Result<()> {
        write_at(&self.head, head, 0)
    }

    /// The head's file, to be synced without the lock.
    pub(super) fn head_file(&self) -> Arc<OwnedFd> {
        Arc::clone(&self.head)
    }

    /// The file for the records of a burst.
    pub(super) fn pending_file(&self) -> &Arc<OwnedFd> {
        &self.pending
    }

    /// What that file holds; nothing if no record is in it.
    pub(super) fn read_pending(&self) -> io::Result<Vec<u8>> {
        let mut first = [0; pending::HEAD_LEN + pending::LEN_LEN];
        let read = rustix::io::pread(&self.pending, &mut first, 0)?;
        if !pending::holds_any(&first[..read]) {
            return Ok(Vec::new());
        }
        read_beginning(&self.pending, pending::FILE_LEN)
    }

    /// No record is in that file any more.
    pub(super) fn clear_pending(&self) -> io::Result<()> {
        write_at(&self.pending, &[0; pending::LEN_LEN], pending::HEAD_LEN as u64)
    }

    /// Gives out the public key, unless it is there.
    pub(super) fn publish_key(&self, keys: &LogKeys) -> Result<(), KeyError> {
        let pem = to_pem(&keys.signer.verifying_key());
        let fd = self.dir.open_file(PUBLIC_KEY_NAME, OFlags::CREATE)?;
        let failed = |error| self.failed(PUBLIC_KEY_NAME, error);
        if read_small(&fd).map_err(failed)? == pem.as_bytes() {
            return Ok(());
        }
        rustix::fs::ftruncate(&fd, 0).map_err(|error| failed(error.into()))?;
        write_at(&fd, pem.as_bytes(), 0).map_err(failed)?;
        rustix::fs::fsync(&fd).map_err(|error| failed(error.into()))?;
        self.dir.sync()
    }

    /// The path of a segment, for messages.
    pub(super) fn path_of(&self, segment: u32) -> PathBuf {
        self.dir.path_of(&segment_name(segment))
    }

    fn failed(&self, name: &str, error: impl Into<io::Error>) -> KeyError {
        KeyError::Audit { path: self.dir.path_of(name), problem: error.into().to_string() }
    }
}

impl PlaceLock {
    /// Whether somebody else had it first.
    pub(super) const fn was_waited_for(&self) -> bool {
        self.waited
    }
}

impl Drop for PlaceLock {
    fn drop(&mut self) {
        // Cannot fail for an open descriptor; closing the file unlocks in any case.
        let _ = flock(&self.file, FlockOperation::Unlock);
    }
}

impl<'a, F: AsFd> Announcement<'a, F> {
    /// `None` while somebody else looks for one.
    pub(super) fn make(head: &'a F) -> Option<Self> {
        flock(head, FlockOperation::NonBlockingLockShared).ok().map(|()| Self(head))
    }
}

impl<F: AsFd> Drop for Announcement<'_, F> {
    fn drop(&mut self) {
        let _ = flock(self.0, FlockOperation::Unlock);
    }
}

/// The file of a segment.
pub(super) fn segment_name(number: u32) -> String {
    format!("audit-{number:08}.jsonl")
}

/// The number of the segment in a file of this name.
pub(super) fn segment_number(name: &str) -> Option<u32> {
    let digits = name.strip_prefix("audit-")?.strip_suffix(".jsonl")?;
    let number = digits.parse().ok().filter(|number| (1..=LAST_SEGMENT).contains(number))?;
    (segment_name(number) == name).then_some(number)
}

/// Writes all at this offset, with one call unless the medium takes less.
pub(super) fn write_at(fd: &OwnedFd, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::pwrite(fd, bytes, offset) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                bytes = &bytes[written..];
                offset += written as u64;
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// The bytes of a file that is small if it is what it should be; of a longer one only its
/// beginning.
fn read_small(fd: &OwnedFd) -> io::Result<Vec<u8>> {
    read_beginning(fd, SMALL_FILE_LEN)
}

fn read_beginning(fd: &OwnedFd, len: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; len];
    let mut filled = 0;
    while filled < bytes.len() {
        match rustix::io::pread(fd, &mut bytes[filled..], filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

/// All bytes from this offset to the end of the file.
pub(super) fn read_from(fd: &OwnedFd, offset: u64) -> io::Result<Vec<u8>> {
    let file = File::from(fd.try_clone()?);
    let len = file.metadata()?.len().saturating_sub(offset);
    let len = usize::try_from(len).map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))?;
    // Of a segment, which is as long as its owner let it grow: no memory is no reason to die.
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(len).map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
    bytes.resize(len, 0);
    let mut filled = 0;
    while filled < len {
        match file.read_at(&mut bytes[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

/// The directory of the log in the keystore.
pub const DIR_NAME: &str = "audit";
/// The last number that has a next one.
pub(super) const LAST_SEGMENT: u32 = u32::MAX - 1;
pub(super) const HEAD_NAME: &str = "head";
pub(super) const LOCK_NAME: &str = "lock";
pub(super) const PENDING_NAME: &str = "pending";
pub(super) const PUBLIC_KEY_NAME: &str = "public-key.pem";

/// Longer than a head and a public key are.
pub(super) const SMALL_FILE_LEN: usize = 4096;

const FIRST_PAUSE: Duration = Duration::from_micros(50);
const LONGEST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// Several times [`LONGEST_PAUSE`].
const LONGEST_WAY: Duration = Duration::from_millis(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_segments() {
        assert_eq!(segment_name(1), "audit-00000001.jsonl");
        assert_eq!(segment_number("audit-00000042.jsonl"), Some(42));
        assert_eq!(segment_number("audit-123456789.jsonl"), Some(123_456_789));
        for other in ["audit-1.jsonl", "audit-+0000001.jsonl", "audit-00000001.json", "head"] {
            assert_eq!(segment_number(other), None, "{other}");
        }
    }
}
