//! Objects of the backing directory held by an `O_PATH` descriptor: pinned, so that no rename
//! or unlink changes what an operation acts on. The calls that the kernel has only for paths go
//! through `/proc/self/fd`, whose links lead to the object itself even if it is a symbolic link.

use std::ffi::{CStr, OsStr, OsString};
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;

use rustix::fs::{
    AtFlags, CWD, Gid, Mode, OFlags, Uid, chmod, chownat, linkat, open, openat, readlinkat,
    utimensat,
};

use super::open_file::{TimeSet, timestamps};
use super::xattr::{self, Target, XattrMode};
use super::{OpenFlags, Stat, component, open_regular, permissions, stat};

/// Any object: file, directory, symbolic link, FIFO, socket or device.
#[derive(Debug)]
pub struct Located {
    fd: OwnedFd,
}

impl Located {
    pub(super) fn new(fd: OwnedFd) -> Self {
        Self { fd }
    }

    /// Its attributes.
    pub fn stat(&self) -> io::Result<Stat> {
        stat::of(self.fd.as_fd())
    }

    /// Sets the permission bits; `EOPNOTSUPP` for a symbolic link.
    pub fn chmod(&self, mode: u32) -> io::Result<()> {
        Ok(chmod(self.proc_path().as_c_str(), permissions(mode))?)
    }

    /// Sets the owner, the group, or both.
    pub fn chown(&self, uid: Option<u32>, gid: Option<u32>) -> io::Result<()> {
        let (uid, gid) = owner(uid, gid);
        Ok(chownat(&self.fd, c"", uid, gid, AtFlags::EMPTY_PATH)?)
    }

    /// Sets the access and modification times.
    pub fn set_times(&self, atime: TimeSet, mtime: TimeSet) -> io::Result<()> {
        let times = timestamps(atime, mtime);
        Ok(utimensat(CWD, self.proc_path().as_c_str(), &times, AtFlags::empty())?)
    }

    /// Opens the regular file, even when it has no name any more. Errors as of
    /// [`super::DiskTree::open_file`].
    pub fn reopen(&self, flags: OpenFlags) -> io::Result<OwnedFd> {
        Ok(self.reopen_with_stat(flags)?.0)
    }

    /// The same, with the file's attributes.
    pub fn reopen_with_stat(&self, flags: OpenFlags) -> io::Result<(OwnedFd, Stat)> {
        let path = self.proc_path();
        open_regular(flags, |flags| open(path.as_c_str(), flags, Mode::empty()))
    }

    /// What the symbolic link holds; `ENOENT` for anything else.
    pub fn readlink(&self) -> io::Result<OsString> {
        Ok(OsString::from_vec(readlinkat(&self.fd, c"", Vec::new())?.into_bytes()))
    }

    /// Gives it one more name; `EPERM` for a directory, `ENOENT` once it has no name left.
    pub fn link_to(&self, dir: &DirFd, name: &OsStr) -> io::Result<()> {
        let path = self.proc_path();
        Ok(linkat(CWD, path.as_c_str(), dir, component(name)?, AtFlags::SYMLINK_FOLLOW)?)
    }

    /// The value of an extended attribute.
    pub fn xattr(&self, name: &OsStr) -> io::Result<Vec<u8>> {
        xattr::value(Target::Object(self.proc_path().as_c_str()), name)
    }

    /// The names of all extended attributes, each ended by a zero byte.
    pub fn xattr_names(&self) -> io::Result<Vec<u8>> {
        xattr::names(Target::Object(self.proc_path().as_c_str()))
    }

    /// Sets an extended attribute.
    pub fn set_xattr(&self, name: &OsStr, value: &[u8], mode: XattrMode) -> io::Result<()> {
        xattr::set(Target::Object(self.proc_path().as_c_str()), name, value, mode)
    }

    /// Removes an extended attribute.
    pub fn remove_xattr(&self, name: &OsStr) -> io::Result<()> {
        xattr::remove(Target::Object(self.proc_path().as_c_str()), name)
    }

    /// Tells plainly that `/proc` is missing, before something fails for that reason later.
    pub(super) fn check_proc(&self) -> io::Result<()> {
        let through_proc =
            open(self.proc_path().as_c_str(), OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
                .map(Self::new)
                .map_err(io::Error::from);
        let found = through_proc.and_then(|object| object.stat());
        match found {
            Ok(found) if found.identity() == self.stat()?.identity() => Ok(()),
            _ => Err(io::Error::new(
                io::ErrorKind::NotFound,
                "/proc is not mounted here, or shows another process",
            )),
        }
    }

    pub(super) fn proc_path(&self) -> ProcPath {
        ProcPath::new(self.fd.as_fd())
    }
}

/// A directory.
#[derive(Debug)]
pub struct DirFd {
    located: Located,
}

impl DirFd {
    pub(super) fn new(fd: OwnedFd) -> Self {
        Self { located: Located::new(fd) }
    }

    /// The directory as an object, for its attributes.
    pub fn located(&self) -> &Located {
        &self.located
    }

    /// Another descriptor of the same directory.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self::new(self.located.fd.try_clone()?))
    }

    pub(super) fn open_for_reading(&self) -> io::Result<OwnedFd> {
        self.open(OFlags::empty())
    }

    pub(super) fn open_unnoticed(&self) -> io::Result<OwnedFd> {
        self.open(OFlags::NOATIME)
    }

    fn open(&self, more: OFlags) -> io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | more;
        Ok(openat(self, c".", flags, Mode::empty())?)
    }
}

impl AsFd for DirFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.located.fd.as_fd()
    }
}

/// `/proc/self/fd/N`, made without an allocation.
pub(super) struct ProcPath {
    text: [u8; 32],
}

impl ProcPath {
    fn new(fd: BorrowedFd<'_>) -> Self {
        let mut text = [0; 32];
        write!(&mut text[..31], "/proc/self/fd/{}", fd.as_raw_fd())
            .expect("14 bytes and a number of at most 10 digits fit into 31");
        Self { text }
    }

    pub(super) fn as_c_str(&self) -> &CStr {
        CStr::from_bytes_until_nul(&self.text).expect("the last byte stays zero")
    }
}

/// The all-ones id means "leave alone" to the kernel, as `None` does.
pub(super) fn owner(uid: Option<u32>, gid: Option<u32>) -> (Option<Uid>, Option<Gid>) {
    let valid = |id: &u32| *id != u32::MAX;
    (uid.filter(valid).map(Uid::from_raw), gid.filter(valid).map(Gid::from_raw))
}
