//! What a file has besides content, taken over by its copy.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{
    Stat, Timespec, Timestamps, XattrFlags, fgetxattr, flistxattr, fremovexattr, fsetxattr,
};
use rustix::io::Errno;

use super::is_own;

/// Gives `to` the extended attributes of `from`, ACLs among them, and takes away an ACL that it
/// has by its directory alone.
pub fn copy(from: &File, to: &File) -> io::Result<()> {
    let names = names(from)?;
    let mut has_acl = false;
    for name in names.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let name = OsStr::from_bytes(name);
        if is_own(name) {
            continue;
        }
        has_acl |= name == ACL;
        let value = value(from, name)?;
        if let Err(errno) = fsetxattr(to, name, &value, XattrFlags::empty())
            && self::value(to, name).ok().as_ref() != Some(&value)
        {
            let error = io::Error::from(errno);
            return Err(io::Error::new(error.kind(), format!("{}: {error}", name.display())));
        }
    }
    if has_acl {
        return Ok(());
    }
    match fremovexattr(to, ACL) {
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(()),
        removed => Ok(removed?),
    }
}

/// The access and modification times.
pub fn times(stat: &Stat) -> Timestamps {
    let time = |secs: i64, nanos: u64| Timespec {
        tv_sec: secs,
        tv_nsec: i64::try_from(nanos).expect("less than a second of nanoseconds"),
    };
    Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    }
}

fn names(file: &File) -> io::Result<Vec<u8>> {
    let mut buf = vec![0; MAX_BYTES];
    match flistxattr(file, &mut buf) {
        Ok(len) => buf.truncate(len),
        Err(Errno::OPNOTSUPP) => buf.clear(),
        Err(errno) => return Err(errno.into()),
    }
    Ok(buf)
}

fn value(file: &File, name: &OsStr) -> io::Result<Vec<u8>> {
    let mut buf = vec![0; MAX_BYTES];
    let len = fgetxattr(file, name, &mut buf)?;
    buf.truncate(len);
    Ok(buf)
}

const ACL: &str = "system.posix_acl_access";
/// `XATTR_SIZE_MAX` and `XATTR_LIST_MAX`.
const MAX_BYTES: usize = 65536;
