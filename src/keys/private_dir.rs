//! A directory that only its owner can enter, and atomic replacement of the files in it. It owns
//! the rules for files that hold secrets: what others could read or write is refused, with the
//! command that mends it. A file is replaced whole or not at all, and only under the lock.

use std::fs::{DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use data_encoding::HEXLOWER;
use rustix::fd::OwnedFd;
use rustix::fs::{
    AtFlags, CWD, Dir, FileType, FlockOperation, Mode, OFlags, Stat, flock, fstat, fsync, mkdirat,
    openat, renameat, statat, unlinkat,
};
use rustix::io::Errno;
use rustix::process::geteuid;
use zeroize::Zeroizing;

use super::error::KeyError;
use crate::crypto::random_array;

/// The directory, open. Files are named relative to it, so that it may be renamed meanwhile.
pub(super) struct PrivateDir {
    fd: OwnedFd,
    path: PathBuf,
    owner: u32,
}

/// What tells one content of a file from another without reading it. Files here are replaced
/// and never written again, so each content has an inode of its own, except that the number of
/// one replaced twice may come back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    inode: u64,
    changed: Duration,
    len: u64,
}

/// What was read of a file.
pub(super) struct Content {
    /// Its bytes; wiped when dropped.
    pub(super) bytes: Zeroizing<Vec<u8>>,
    /// The stamp of exactly this content.
    pub(super) stamp: Stamp,
}

/// The right to write into the directory, held against other processes and threads.
pub(super) struct DirLock<'a> {
    dir: &'a PrivateDir,
    _file: OwnedFd,
}

/// New content of a file, durable beside it; dropped, it is as if it had never been.
pub(super) struct Staged<'a> {
    lock: &'a DirLock<'a>,
    temporary: Option<String>,
    name: String,
}

impl PrivateDir {
    /// Opens it; one that others may enter is refused.
    pub(super) fn open(path: &Path) -> Result<Self, KeyError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = openat(CWD, path, flags, Mode::empty()).map_err(|error| io_error(path, error))?;
        let stat = fstat(&fd).map_err(|error| io_error(path, error))?;
        refuse_shared(path, &stat, "700")?;
        Ok(Self { fd, path: path.to_owned(), owner: stat.st_uid })
    }

    /// Opens it, making it and missing parents first, all with mode 0700.
    pub(super) fn open_or_create(path: &Path) -> Result<Self, KeyError> {
        let missing: Vec<&Path> = path.ancestors().take_while(|dir| !dir.exists()).collect();
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(|source| KeyError::Io { path: path.to_owned(), source })?;
        for made in missing.iter().rev() {
            let parent = made.parent().filter(|parent| !parent.as_os_str().is_empty());
            let parent = parent.unwrap_or(Path::new("."));
            File::open(parent)
                .and_then(|dir| dir.sync_all())
                .map_err(|source| KeyError::Io { path: parent.to_owned(), source })?;
        }
        Self::open(path)
    }

    /// Opens the directory `name` in it, making it first with mode 0700.
    pub(super) fn subdirectory(&self, name: &str) -> Result<Self, KeyError> {
        let path = self.path_of(name);
        match mkdirat(&self.fd, name, Mode::RWXU) {
            Ok(()) => self.sync()?,
            Err(Errno::EXIST) => {}
            Err(error) => return Err(io_error(&path, error)),
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd =
            openat(&self.fd, name, flags, Mode::empty()).map_err(|error| io_error(&path, error))?;
        refuse_shared(&path, &fstat(&fd).map_err(|error| io_error(&path, error))?, "700")?;
        Ok(Self { fd, path, owner: self.owner })
    }

    /// Opens a file of it for reading and writing; one that it makes has mode 0600.
    pub(super) fn open_file(&self, name: &str, further: OFlags) -> Result<OwnedFd, KeyError> {
        let path = self.path_of(name);
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC | further;
        let fd = openat(&self.fd, name, flags, Mode::RUSR | Mode::WUSR)
            .map_err(|error| io_error(&path, error))?;
        let stat = fstat(&fd).map_err(|error| io_error(&path, error))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(KeyError::Unsafe { path, problem: "is not a regular file".to_owned() });
        }
        refuse_shared(&path, &stat, "600")?;
        Ok(fd)
    }

    /// Whether the name still stands for the open file.
    pub(super) fn holds(&self, name: &str, fd: &OwnedFd) -> bool {
        let named = statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW);
        let identity = |stat: Stat| (stat.st_dev, stat.st_ino);
        matches!((named, fstat(fd)), (Ok(named), Ok(open)) if identity(named) == identity(open))
    }

    /// Makes what was created and renamed in it durable.
    pub(super) fn sync(&self) -> Result<(), KeyError> {
        fsync(&self.fd).map_err(|error| io_error(&self.path, error))
    }

    /// Where it was opened.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The user that it belongs to.
    pub(super) fn owner(&self) -> u32 {
        self.owner
    }

    /// The path of a file in it, for messages.
    pub(super) fn path_of(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The content of a file of at most `limit` bytes; `None` if there is no such file.
    pub(super) fn read(
        &self,
        name: &str,
        limit: usize,
    ) -> Result<Option<Zeroizing<Vec<u8>>>, KeyError> {
        Ok(self.read_stamped(name, limit)?.map(|content| content.bytes))
    }

    /// The same with the stamp of what was read.
    pub(super) fn read_stamped(
        &self,
        name: &str,
        limit: usize,
    ) -> Result<Option<Content>, KeyError> {
        let path = self.path_of(name);
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fd = match openat(&self.fd, name, flags, Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => return Ok(None),
            Err(error) => return Err(io_error(&path, error)),
        };
        let stat = fstat(&fd).map_err(|error| io_error(&path, error))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            let problem = "is not a regular file".to_owned();
            return Err(KeyError::Unsafe { path, problem });
        }
        refuse_shared(&path, &stat, "600")?;
        // Files are replaced, never grown: a buffer of their size is enough, and a larger one
        // would cost more to wipe than the file to read.
        let size = usize::try_from(stat.st_size).unwrap_or(usize::MAX);
        match read_bounded(File::from(fd), limit.min(size)) {
            Ok(Some(bytes)) => Ok(Some(Content { bytes, stamp: Stamp::of(&stat) })),
            Ok(None) => {
                Err(KeyError::Damaged { path, problem: format!("is longer than {limit} bytes") })
            }
            Err(source) => Err(KeyError::Io { path, source }),
        }
    }

    /// Whether there is such a file.
    pub(super) fn contains(&self, name: &str) -> Result<bool, KeyError> {
        Ok(self.stamp(name)?.is_some())
    }

    /// The stamp of a file, by one system call; `None` if there is no such file.
    pub(super) fn stamp(&self, name: &str) -> Result<Option<Stamp>, KeyError> {
        match statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(Stamp::of(&stat))),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(io_error(&self.path_of(name), error)),
        }
    }

    /// The stamp of the directory itself, by one system call that looks up no name: another one
    /// once a file of it was replaced, made or removed.
    pub(super) fn own_stamp(&self) -> Result<Stamp, KeyError> {
        fstat(&self.fd).map(|stat| Stamp::of(&stat)).map_err(|error| io_error(&self.path, error))
    }

    /// The names in it.
    pub(super) fn names(&self) -> Result<Vec<String>, KeyError> {
        let failed = |error| io_error(&self.path, error);
        let mut names = Vec::new();
        for entry in Dir::read_from(&self.fd).map_err(failed)? {
            names.push(entry.map_err(failed)?.file_name().to_string_lossy().into_owned());
        }
        Ok(names)
    }

    /// Waits until nobody else writes. What a killed writer left half done is removed: while
    /// the lock is held, no temporary file belongs to anyone.
    pub(super) fn lock(&self) -> Result<DirLock<'_>, KeyError> {
        let path = self.path_of(LOCK_NAME);
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(&self.fd, LOCK_NAME, flags, Mode::RUSR | Mode::WUSR)
            .map_err(|error| io_error(&path, error))?;
        refuse_shared(&path, &fstat(&file).map_err(|error| io_error(&path, error))?, "600")?;
        let mut operation = FlockOperation::NonBlockingLockExclusive;
        loop {
            match flock(&file, operation) {
                Ok(()) => break,
                Err(Errno::WOULDBLOCK) => {
                    log::debug!("{}: waiting for another process to finish", path.display());
                    operation = FlockOperation::LockExclusive;
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(io_error(&path, error)),
            }
        }
        let lock = DirLock { dir: self, _file: file };
        for name in self.names()?.iter().filter(|name| name.starts_with(TEMPORARY_PREFIX)) {
            lock.remove(name)?;
        }
        Ok(lock)
    }
}

impl DirLock<'_> {
    /// Puts `bytes` in place of the file's content, atomically and durably.
    pub(super) fn replace(&self, name: &str, bytes: &[u8]) -> Result<(), KeyError> {
        self.stage(name, bytes)?.publish()
    }

    /// Writes the new content durably beside the file; it counts only once it is published.
    pub(super) fn stage(&self, name: &str, bytes: &[u8]) -> Result<Staged<'_>, KeyError> {
        let temporary =
            format!("{TEMPORARY_PREFIX}{name}.{}", HEXLOWER.encode(&random_array::<8>()));
        let staged =
            Staged { lock: self, temporary: Some(temporary.clone()), name: name.to_owned() };
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let write = || -> io::Result<()> {
            step()?;
            let mut file =
                File::from(openat(&self.dir.fd, &temporary, flags, Mode::RUSR | Mode::WUSR)?);
            step()?;
            file.write_all(bytes)?;
            step()?;
            file.sync_all()
        };
        write().map_err(|source| KeyError::Io { path: self.dir.path_of(name), source })?;
        Ok(staged)
    }

    /// Removes the file; durable when it returns. One that is not there is no error.
    pub(super) fn remove(&self, name: &str) -> Result<(), KeyError> {
        match self.unlink(name) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(io_error(&self.dir.path_of(name), error)),
        }
        step().and_then(|()| fsync(&self.dir.fd)).map_err(|error| io_error(&self.dir.path, error))
    }

    fn unlink(&self, name: &str) -> Result<(), Errno> {
        step()?;
        unlinkat(&self.dir.fd, name, AtFlags::empty())
    }
}

impl Staged<'_> {
    /// Makes it the file's content; durable when it returns.
    pub(super) fn publish(mut self) -> Result<(), KeyError> {
        let dir = self.lock.dir;
        let temporary = self.temporary.as_ref().expect("it is published once");
        step()
            .and_then(|()| renameat(&dir.fd, temporary, &dir.fd, &self.name))
            .map_err(|error| io_error(&dir.path_of(&self.name), error))?;
        self.temporary = None;
        step()
            .and_then(|()| fsync(&dir.fd))
            .map_err(|error| io_error(&dir.path_of(&self.name), error))
    }
}

impl Drop for Staged<'_> {
    fn drop(&mut self) {
        if let Some(temporary) = self.temporary.take() {
            // Whatever made it superfluous is the error to show; the next lock tries again.
            let _ = self.lock.unlink(&temporary);
        }
    }
}

impl Stamp {
    fn of(stat: &Stat) -> Self {
        let seconds = u64::try_from(stat.st_ctime).unwrap_or_default();
        let nanoseconds = u32::try_from(stat.st_ctime_nsec).unwrap_or_default();
        let changed = Duration::new(seconds, nanoseconds);
        let len = u64::try_from(stat.st_size).unwrap_or_default();
        Self { inode: stat.st_ino, changed, len }
    }

    /// Whether a later change is sure to have another stamp: the file system's clock ticks
    /// every few milliseconds, and within a tick an inode's number may come back.
    pub(super) fn is_settled(&self) -> bool {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        now.checked_sub(self.changed).is_some_and(|age| age > SETTLING_TIME)
    }
}

/// Refuses a file or directory of the keystore that others may use, or that is not ours; `chmod`
/// is the mode that it should have.
fn refuse_shared(path: &Path, stat: &Stat, chmod: &str) -> Result<(), KeyError> {
    let (owner, own) = (stat.st_uid, geteuid().as_raw());
    if owner != own {
        let problem = format!("belongs to uid {owner}, not to uid {own} that runs this");
        return Err(KeyError::Unsafe { path: path.to_owned(), problem });
    }
    refuse_open_to_others(path, stat, chmod)
}

/// Refuses what others than its owner may read or write.
pub(super) fn refuse_open_to_others(path: &Path, stat: &Stat, chmod: &str) -> Result<(), KeyError> {
    let mode = stat.st_mode & 0o7777;
    if mode & 0o077 != 0 {
        let problem = format!("is readable by others (mode {mode:04o}): chmod {chmod} it");
        return Err(KeyError::Unsafe { path: path.to_owned(), problem });
    }
    Ok(())
}

/// Reads to the end into a buffer that is wiped; `None` if there are more than `limit` bytes.
pub(super) fn read_bounded(
    mut source: impl Read,
    limit: usize,
) -> io::Result<Option<Zeroizing<Vec<u8>>>> {
    // Wiping takes its time, so the buffer grows only as it must.
    let mut bytes = Zeroizing::new(vec![0; FIRST_READ_LEN.min(limit) + 1]);
    let mut filled = 0;
    while filled <= limit {
        if filled == bytes.len() {
            let mut larger = Zeroizing::new(vec![0; (2 * filled).min(limit + 1)]);
            larger[..filled].copy_from_slice(&bytes);
            bytes = larger;
        }
        match source.read(&mut bytes[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    if filled > limit {
        return Ok(None);
    }
    bytes.truncate(filled);
    Ok(Some(bytes))
}

fn io_error(path: &Path, error: Errno) -> KeyError {
    KeyError::Io { path: path.to_owned(), source: error.into() }
}

/// Called before each change of the disk, so that tests can stop a process there.
#[cfg(not(test))]
#[expect(clippy::unnecessary_wraps, reason = "it fails in tests")]
const fn step() -> Result<(), Errno> {
    Ok(())
}

#[cfg(test)]
fn step() -> Result<(), Errno> {
    kill::step()
}

const LOCK_NAME: &str = "lock";
const TEMPORARY_PREFIX: &str = ".tmp.";
const FIRST_READ_LEN: usize = 8 << 10;
/// Ten ticks of the slowest clock that kernels are built with.
const SETTLING_TIME: Duration = Duration::from_millis(100);

/// Stops this thread's changes of the disk after so many, as a kill would: what is called after
/// it changes nothing either.
#[cfg(test)]
pub(super) mod kill {
    use std::cell::Cell;

    use rustix::io::Errno;

    thread_local!(static STEPS_LEFT: Cell<Option<u32>> = const { Cell::new(None) });

    /// Runs `work` until it wants to change the disk for the `steps + 1`st time; whether that
    /// came.
    pub(in crate::keys) fn after<T>(steps: u32, work: impl FnOnce() -> T) -> (T, bool) {
        STEPS_LEFT.set(Some(steps));
        let result = work();
        let killed = STEPS_LEFT.take() == Some(KILLED);
        (result, killed)
    }

    pub(super) fn step() -> Result<(), Errno> {
        match STEPS_LEFT.get() {
            None => Ok(()),
            Some(KILLED) => Err(Errno::IO),
            Some(0) => {
                STEPS_LEFT.set(Some(KILLED));
                Err(Errno::IO)
            }
            Some(left) => {
                STEPS_LEFT.set(Some(left - 1));
                Ok(())
            }
        }
    }

    const KILLED: u32 = u32::MAX;
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn private() -> (tempfile::TempDir, PrivateDir) {
        let scratch = tempfile::tempdir().unwrap();
        let dir = PrivateDir::open_or_create(&scratch.path().join("a/b")).unwrap();
        (scratch, dir)
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn everything_made_is_private() {
        let (scratch, dir) = private();
        dir.lock().unwrap().replace("f", b"x").unwrap();
        assert_eq!(mode(&scratch.path().join("a")), 0o700);
        assert_eq!(mode(dir.path()), 0o700);
        assert_eq!(mode(&dir.path_of("f")), 0o600);
        assert_eq!(mode(&dir.path_of(LOCK_NAME)), 0o600);
    }

    #[test]
    fn what_others_may_use_is_refused_with_the_remedy() {
        let (_scratch, dir) = private();
        dir.lock().unwrap().replace("f", b"x").unwrap();
        for bits in [0o640, 0o604, 0o620, 0o601] {
            fs::set_permissions(dir.path_of("f"), Permissions::from_mode(bits)).unwrap();
            let error = dir.read("f", 9).unwrap_err();
            assert!(matches!(error, KeyError::Unsafe { .. }));
            assert!(error.to_string().contains(&format!("(mode {bits:04o}): chmod 600 it")));
        }
        fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
        let error = PrivateDir::open(dir.path()).err().unwrap().to_string();
        assert!(error.ends_with("is readable by others (mode 0755): chmod 700 it"), "{error}");
    }

    #[test]
    fn what_belongs_to_another_user_is_refused() {
        let (_scratch, dir) = private();
        dir.lock().unwrap().replace("f", b"x").unwrap();
        if let Err(error) = std::os::unix::fs::chown(dir.path_of("f"), Some(12_345), None) {
            println!("not tried: giving a file away needs root ({error})");
            return;
        }
        let message = dir.read("f", 9).unwrap_err().to_string();
        assert!(message.contains("belongs to uid 12345"), "{message}");
    }

    #[test]
    fn symbolic_links_and_fifos_are_refused() {
        let (_scratch, dir) = private();
        std::os::unix::fs::symlink("/etc/hostname", dir.path_of("link")).unwrap();
        assert!(dir.read("link", 99).is_err());
        rustix::fs::mknodat(&dir.fd, "fifo", FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        assert!(matches!(dir.read("fifo", 99), Err(KeyError::Unsafe { .. })));
    }

    #[test]
    fn a_kill_before_the_rename_leaves_the_old_content() {
        let (_scratch, dir) = private();
        let lock = dir.lock().unwrap();
        lock.replace("f", b"old").unwrap();
        let (result, killed) = kill::after(3, || lock.replace("f", b"new"));
        assert!(killed && result.is_err());
        drop(lock);
        assert_eq!(dir.read("f", 9).unwrap().unwrap().as_slice(), b"old");
        let leftovers = || -> usize {
            dir.names().unwrap().iter().filter(|name| name.starts_with(TEMPORARY_PREFIX)).count()
        };
        assert_eq!(leftovers(), 1);
        let lock = dir.lock().unwrap();
        assert_eq!(leftovers(), 0, "leftovers are removed under the lock");
        drop(lock.stage("f", b"dropped").unwrap());
        assert_eq!(leftovers(), 0, "so is what is not published");
        lock.stage("f", b"new").unwrap().publish().unwrap();
        assert_eq!(dir.read("f", 9).unwrap().unwrap().as_slice(), b"new");
        lock.remove("f").unwrap();
        lock.remove("f").unwrap();
        assert!(!dir.contains("f").unwrap());
    }

    #[test]
    fn a_replaced_file_has_another_stamp_once_it_has_settled() {
        let (_scratch, dir) = private();
        let lock = dir.lock().unwrap();
        assert_eq!(dir.stamp("f").unwrap(), None);
        for round in 0..20_u8 {
            lock.replace("f", &[round]).unwrap();
            let content = dir.read_stamped("f", 9).unwrap().unwrap();
            assert_eq!(content.bytes.as_slice(), [round]);
            assert_eq!(dir.stamp("f").unwrap(), Some(content.stamp));
        }
        let stamp = dir.stamp("f").unwrap().unwrap();
        assert!(!stamp.is_settled(), "it was replaced just now");
        std::thread::sleep(SETTLING_TIME + Duration::from_millis(20));
        assert!(stamp.is_settled());
        for round in 0..20 {
            lock.replace("f", &[round]).unwrap();
            assert_ne!(dir.stamp("f").unwrap(), Some(stamp));
        }
    }

    #[test]
    fn reading_is_bounded() {
        assert_eq!(read_bounded(&b"1234"[..], 4).unwrap().unwrap().as_slice(), b"1234");
        assert!(read_bounded(&b"12345"[..], 4).unwrap().is_none());
        assert!(read_bounded(io::repeat(0), 4).unwrap().is_none());
        for len in [8191, 8192, 8193, 8194, 40_000] {
            let long: Vec<u8> = (0..len).map(|index: u32| index.to_le_bytes()[1]).collect();
            let read = |limit| read_bounded(long.as_slice(), limit).unwrap();
            assert_eq!(*read(long.len()).unwrap(), long);
            assert_eq!(*read(1 << 20).unwrap(), long);
            assert!(read(long.len() - 1).is_none());
        }
        let (_scratch, dir) = private();
        dir.lock().unwrap().replace("f", b"12345").unwrap();
        assert!(matches!(dir.read("f", 4), Err(KeyError::Damaged { .. })));
        assert!(dir.read("absent", 4).unwrap().is_none());
    }

    #[test]
    fn the_lock_holds_against_other_openings() {
        let (_scratch, dir) = private();
        let other = PrivateDir::open(dir.path()).unwrap();
        let lock = dir.lock().unwrap();
        let (sender, receiver) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let lock = other.lock().unwrap();
                sender.send(()).unwrap();
                drop(lock);
            });
            let soon = std::time::Duration::from_millis(100);
            assert!(receiver.recv_timeout(soon).is_err(), "two writers at once");
            drop(lock);
            receiver.recv_timeout(std::time::Duration::from_secs(10)).unwrap();
        });
    }
}
