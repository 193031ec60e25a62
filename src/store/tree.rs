//! The backing directory as `fs` uses it. Every operation starts from a directory's descriptor
//! and one name, or from an [`Located`] object: never from a remembered path, and never through
//! a symbolic link, so what lies outside the backing directory is out of reach.
//!
//! A name is one component: empty ones, `.`, `..` and names with a slash are `EINVAL`.
//! Kernel errors are returned as they are. Modes hold the permission bits with set-uid,
//! set-gid and sticky; the caller keeps the umask at 0 if it wants them to the bit.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, RenameFlags, fcntl_setfl, mkdirat, mknodat, openat,
    readlinkat, renameat_with, symlinkat, unlinkat,
};
use rustix::io::{Errno, retry_on_intr};

use super::flushes;
use super::observer::{Event, tell};

mod located;
mod lock;
mod open_file;
mod replace;
mod resolve;
mod stat;
mod stream;
mod xattr;

pub use located::{DirFd, Located};
pub use lock::FileLock;
pub use open_file::TimeSet;
pub use stat::{FileKind, FileSystemStat, Stat, Timestamp};
pub use stream::{DirEntry, DirStream};
pub use xattr::XattrMode;

/// A backing directory, open.
#[derive(Debug)]
pub struct DiskTree {
    root: DirFd,
    /// Kept open, as each descriptor is told once of an error that came since it was opened.
    for_sync: Option<OwnedFd>,
}

impl DiskTree {
    /// Opens the directory at `path`, whose last component may be a symbolic link.
    ///
    /// # Errors
    /// `ENOTDIR` for what is no directory; an error naming `/proc` where that is not mounted.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = DirFd::new(rustix::fs::open(path, flags, Mode::empty())?);
        root.located().check_proc()?;
        // Where it may not be read, that is told when it is to be synced.
        let for_sync = root.open_for_reading().ok();
        Ok(Self { root, for_sync })
    }

    /// The backing directory itself.
    pub fn root(&self) -> &DirFd {
        &self.root
    }

    /// The directory `name`; a symbolic link is `ENOTDIR`.
    pub fn open_dir(&self, parent: &DirFd, name: &OsStr) -> io::Result<DirFd> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(DirFd::new(openat(parent, component(name)?, flags, Mode::empty())?))
    }

    /// The directory at the end of `components`, from the root; of any depth.
    pub fn resolve<N: AsRef<OsStr>>(&self, components: &[N]) -> io::Result<DirFd> {
        resolve::walk(self, components)
    }

    /// The attributes of `name`, of the link itself where it is one. One system call.
    pub fn stat(&self, dir: &DirFd, name: &OsStr) -> io::Result<Stat> {
        stat::at(dir.as_fd(), component(name)?)
    }

    /// `name`, whatever it is, to act on without opening it.
    pub fn locate(&self, dir: &DirFd, name: &OsStr) -> io::Result<Located> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(Located::new(openat(dir, component(name)?, flags, Mode::empty())?))
    }

    /// Opens the regular file `name`.
    ///
    /// # Errors
    /// `ELOOP` for a symbolic link, `EINVAL`, `EISDIR` or `ENXIO` for anything else that is
    /// no regular file; a FIFO or device is never waited for.
    pub fn open_file(&self, dir: &DirFd, name: &OsStr, flags: OpenFlags) -> io::Result<OwnedFd> {
        Ok(self.open_file_with_stat(dir, name, flags)?.0)
    }

    /// The same, with the file's attributes, which opening it has to look at anyway.
    pub fn open_file_with_stat(
        &self,
        dir: &DirFd,
        name: &OsStr,
        flags: OpenFlags,
    ) -> io::Result<(OwnedFd, Stat)> {
        let name = component(name)?;
        open_regular(flags, |flags| openat(dir, name, flags | OFlags::NOFOLLOW, Mode::empty()))
    }

    /// Creates and opens the regular file `name`; `EEXIST` when there is anything.
    pub fn create_file(
        &self,
        dir: &DirFd,
        name: &OsStr,
        flags: OpenFlags,
        mode: u32,
    ) -> io::Result<OwnedFd> {
        let flags = flags.access.flags() | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let name = component(name)?;
        Ok(retry_on_intr(|| openat(dir, name, flags, permissions(mode)))?)
    }

    /// Creates a directory.
    pub fn mkdir(&self, dir: &DirFd, name: &OsStr, mode: u32) -> io::Result<()> {
        Ok(mkdirat(dir, component(name)?, permissions(mode))?)
    }

    /// Creates what `mode` says (`S_IFMT` bits and permissions); `rdev` counts for devices.
    pub fn mknod(&self, dir: &DirFd, name: &OsStr, mode: u32, rdev: u64) -> io::Result<()> {
        let kind = FileType::from_raw_mode(mode);
        Ok(mknodat(dir, component(name)?, kind, permissions(mode), rdev)?)
    }

    /// Creates a symbolic link that holds `target`.
    pub fn symlink(&self, dir: &DirFd, name: &OsStr, target: &OsStr) -> io::Result<()> {
        Ok(symlinkat(target, dir, component(name)?)?)
    }

    /// What the symbolic link holds; `EINVAL` for anything else.
    pub fn readlink(&self, dir: &DirFd, name: &OsStr) -> io::Result<OsString> {
        let target = readlinkat(dir, component(name)?, Vec::new())?;
        Ok(OsString::from_vec(target.into_bytes()))
    }

    /// Removes a name of anything but a directory.
    pub fn unlink(&self, dir: &DirFd, name: &OsStr) -> io::Result<()> {
        Ok(unlinkat(dir, component(name)?, AtFlags::empty())?)
    }

    /// Removes an empty directory.
    pub fn rmdir(&self, dir: &DirFd, name: &OsStr) -> io::Result<()> {
        Ok(unlinkat(dir, component(name)?, AtFlags::REMOVEDIR)?)
    }

    /// Moves a name, replacing or exchanging with what is there as `mode` says.
    pub fn rename(
        &self,
        from_dir: &DirFd,
        from: &OsStr,
        to_dir: &DirFd,
        to: &OsStr,
        mode: RenameMode,
    ) -> io::Result<()> {
        let flags = match mode {
            RenameMode::Replace => RenameFlags::empty(),
            RenameMode::NoReplace => RenameFlags::NOREPLACE,
            RenameMode::Exchange => RenameFlags::EXCHANGE,
        };
        Ok(renameat_with(from_dir, component(from)?, to_dir, component(to)?, flags)?)
    }

    /// Opens the directory for reading its entries.
    pub fn read_dir(&self, dir: &DirFd) -> io::Result<DirStream> {
        Ok(DirStream::new(dir.open_for_reading()?))
    }

    /// The same without setting the access time; an error where this process may not ask for that.
    pub fn read_dir_unnoticed(&self, dir: &DirFd) -> io::Result<DirStream> {
        Ok(DirStream::new(dir.open_unnoticed()?))
    }

    /// Makes the names in the directory durable.
    pub fn sync_dir(&self, dir: &DirFd) -> io::Result<()> {
        let dir = dir.open_for_reading()?;
        flushes::count();
        retry_on_intr(|| rustix::fs::fsync(&dir))?;
        tell(&Event::DirectorySynced);
        Ok(())
    }

    /// Makes all of the file system durable on which the backing directory lies.
    pub fn sync_file_system(&self) -> io::Result<()> {
        flushes::count();
        match &self.for_sync {
            Some(fd) => rustix::fs::syncfs(fd)?,
            None => rustix::fs::syncfs(self.root.open_for_reading()?)?,
        }
        tell(&Event::FileSystemSynced);
        Ok(())
    }

    /// Space and inodes of the file system on which the backing directory lies.
    pub fn stat_file_system(&self) -> io::Result<FileSystemStat> {
        stat::file_system(self.root.as_fd())
    }
}

/// How a backing file is opened. `O_APPEND` and `O_TRUNC` are left out: both would act on
/// offsets and sizes of ciphertext.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenFlags {
    pub access: Access,
    /// Leaves the access time alone, where this process may ask for that.
    pub keep_atime: bool,
}

/// Both leave the access time alone: what reads headers and entries is not the user. See
/// [`DiskFile::count_reads`](super::disk::DiskFile::count_reads).
impl OpenFlags {
    pub const READ: Self = Self { access: Access::Read, keep_atime: true };
    pub const READ_WRITE: Self = Self { access: Access::ReadWrite, keep_atime: true };
}

/// What may be done through a descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    Read,
    Write,
    ReadWrite,
}

impl Access {
    fn flags(self) -> OFlags {
        match self {
            Self::Read => OFlags::RDONLY,
            Self::Write => OFlags::WRONLY,
            Self::ReadWrite => OFlags::RDWR,
        }
    }
}

/// What a rename does with the name that it moves to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RenameMode {
    /// Replaces what is there.
    Replace,
    /// `EEXIST` when there is anything.
    NoReplace,
    /// Gives it the name that is moved from; `ENOENT` when there is nothing.
    Exchange,
}

impl RenameMode {
    /// From the flags of `renameat2(2)`; unknown ones, both at once, and `RENAME_WHITEOUT`
    /// are `EINVAL`.
    pub fn from_raw(flags: u32) -> io::Result<Self> {
        let flags = RenameFlags::from_bits_retain(flags);
        if flags.is_empty() {
            Ok(Self::Replace)
        } else if flags == RenameFlags::NOREPLACE {
            Ok(Self::NoReplace)
        } else if flags == RenameFlags::EXCHANGE {
            Ok(Self::Exchange)
        } else {
            Err(Errno::INVAL.into())
        }
    }
}

/// Opens by `open`, which must lead to a regular file, without ever waiting for another one.
fn open_regular(
    flags: OpenFlags,
    open: impl Fn(OFlags) -> rustix::io::Result<OwnedFd>,
) -> io::Result<(OwnedFd, Stat)> {
    let access = flags.access.flags();
    let open = |extra| retry_on_intr(|| open(access | OFlags::CLOEXEC | OFlags::NONBLOCK | extra));
    let (fd, kept) = match flags.keep_atime.then(|| open(OFlags::NOATIME)) {
        Some(Err(Errno::PERM)) | None => (open(OFlags::empty())?, OFlags::empty()),
        Some(opened) => (opened?, OFlags::NOATIME),
    };
    let stat = stat::of(fd.as_fd())?;
    if stat.kind() != FileKind::Regular {
        return Err(Errno::INVAL.into());
    }
    fcntl_setfl(&fd, kept)?;
    Ok((fd, stat))
}

/// `name` if it is one component of a path.
fn component(name: &OsStr) -> io::Result<&OsStr> {
    let bytes = name.as_bytes();
    if matches!(bytes, b"" | b"." | b"..") || bytes.contains(&b'/') {
        return Err(Errno::INVAL.into());
    }
    Ok(name)
}

fn permissions(mode: u32) -> Mode {
    Mode::from_raw_mode(mode & 0o7777)
}

#[cfg(test)]
mod tests;
