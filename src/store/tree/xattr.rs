//! Extended attributes of whatever is at hand: an object, a name in a directory, an open file.

use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{
    XattrFlags, fgetxattr, flistxattr, fremovexattr, fsetxattr, getxattr, lgetxattr, listxattr,
    llistxattr, lremovexattr, lsetxattr, removexattr, setxattr,
};
use rustix::io::Errno;

use super::{DirFd, DiskTree, component};

/// What setting an attribute does with one that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum XattrMode {
    /// Sets it either way.
    Set,
    /// `EEXIST` when it is there.
    Create,
    /// `ENODATA` when it is not.
    Replace,
}

impl XattrMode {
    /// From the flags of `setxattr(2)`; unknown ones, and both at once, are `EINVAL`.
    pub fn from_raw(flags: u32) -> io::Result<Self> {
        let flags = XattrFlags::from_bits_retain(flags);
        if flags.is_empty() {
            Ok(Self::Set)
        } else if flags == XattrFlags::CREATE {
            Ok(Self::Create)
        } else if flags == XattrFlags::REPLACE {
            Ok(Self::Replace)
        } else {
            Err(Errno::INVAL.into())
        }
    }

    fn flags(self) -> XattrFlags {
        match self {
            Self::Set => XattrFlags::empty(),
            Self::Create => XattrFlags::CREATE,
            Self::Replace => XattrFlags::REPLACE,
        }
    }
}

/// By name, in one system call each; of the link itself where it is one.
impl DiskTree {
    /// The value of an extended attribute of the object `name`.
    pub fn xattr(&self, dir: &DirFd, name: &OsStr, attribute: &OsStr) -> io::Result<Vec<u8>> {
        value(Target::Name(&path_of(dir, name)?), attribute)
    }

    /// The names of all extended attributes of the object `name`, each ended by a zero byte.
    pub fn xattr_names(&self, dir: &DirFd, name: &OsStr) -> io::Result<Vec<u8>> {
        names(Target::Name(&path_of(dir, name)?))
    }

    /// Sets an extended attribute of the object `name`.
    pub fn set_xattr(
        &self,
        dir: &DirFd,
        name: &OsStr,
        attribute: &OsStr,
        value: &[u8],
        mode: XattrMode,
    ) -> io::Result<()> {
        set(Target::Name(&path_of(dir, name)?), attribute, value, mode)
    }

    /// Removes an extended attribute of the object `name`.
    pub fn remove_xattr(&self, dir: &DirFd, name: &OsStr, attribute: &OsStr) -> io::Result<()> {
        remove(Target::Name(&path_of(dir, name)?), attribute)
    }
}

/// Where the attributes are.
#[derive(Clone, Copy)]
pub(super) enum Target<'a> {
    /// A path through `/proc/self/fd`, whose last link is to be followed.
    Object(&'a CStr),
    /// A path whose last component may be a link that is meant itself.
    Name(&'a CStr),
    Open(BorrowedFd<'a>),
}

pub(super) fn value(target: Target<'_>, name: &OsStr) -> io::Result<Vec<u8>> {
    whole(|buf| match target {
        Target::Object(path) => getxattr(path, name, buf),
        Target::Name(path) => lgetxattr(path, name, buf),
        Target::Open(fd) => fgetxattr(fd, name, buf),
    })
}

pub(super) fn names(target: Target<'_>) -> io::Result<Vec<u8>> {
    whole(|buf| match target {
        Target::Object(path) => listxattr(path, buf),
        Target::Name(path) => llistxattr(path, buf),
        Target::Open(fd) => flistxattr(fd, buf),
    })
}

pub(super) fn set(
    target: Target<'_>,
    name: &OsStr,
    value: &[u8],
    mode: XattrMode,
) -> io::Result<()> {
    match target {
        Target::Object(path) => setxattr(path, name, value, mode.flags())?,
        Target::Name(path) => lsetxattr(path, name, value, mode.flags())?,
        Target::Open(fd) => fsetxattr(fd, name, value, mode.flags())?,
    }
    Ok(())
}

pub(super) fn remove(target: Target<'_>, name: &OsStr) -> io::Result<()> {
    match target {
        Target::Object(path) => removexattr(path, name)?,
        Target::Name(path) => lremovexattr(path, name)?,
        Target::Open(fd) => fremovexattr(fd, name)?,
    }
    Ok(())
}

/// Reads with a buffer that fits nearly always, then with the largest that the kernel fills.
fn whole(read: impl Fn(&mut [u8]) -> rustix::io::Result<usize>) -> io::Result<Vec<u8>> {
    let mut buf = vec![0; USUAL_BYTES];
    let len = match read(&mut buf) {
        Err(Errno::RANGE) => {
            buf.resize(MAX_BYTES, 0);
            read(&mut buf)?
        }
        other => other?,
    };
    buf.truncate(len);
    buf.shrink_to_fit();
    Ok(buf)
}

fn path_of(dir: &DirFd, name: &OsStr) -> io::Result<CString> {
    let dir = dir.located().proc_path();
    let name = component(name)?.as_bytes();
    let path = [dir.as_c_str().to_bytes(), b"/", name].concat();
    CString::new(path).map_err(|_| Errno::INVAL.into())
}

const USUAL_BYTES: usize = 256;
/// `XATTR_SIZE_MAX` and `XATTR_LIST_MAX`.
const MAX_BYTES: usize = 65536;
