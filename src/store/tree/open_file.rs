//! Attributes of a file that is open already, which work when it has no name any more.

use std::ffi::OsStr;
use std::io;

use rustix::fs::{Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, fchmod, fchown, futimens};

use super::located::owner;
use super::xattr::{self, Target, XattrMode};
use super::{Stat, permissions, stat};
use crate::store::disk::DiskFile;

/// What becomes of a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimeSet {
    /// It stays.
    Omit,
    /// The time of the call, by the clock of the kernel.
    Now,
    /// Seconds since 1970, negative before, plus nanoseconds below 1,000,000,000.
    At { secs: i64, nanos: u32 },
}

impl DiskFile {
    /// Its attributes.
    pub fn stat(&self) -> io::Result<Stat> {
        stat::of(self.fd())
    }

    /// Sets the permission bits.
    pub fn chmod(&self, mode: u32) -> io::Result<()> {
        Ok(fchmod(self.fd(), permissions(mode))?)
    }

    /// Sets the owner, the group, or both.
    pub fn chown(&self, uid: Option<u32>, gid: Option<u32>) -> io::Result<()> {
        let (uid, gid) = owner(uid, gid);
        Ok(fchown(self.fd(), uid, gid)?)
    }

    /// Sets the access and modification times.
    pub fn set_times(&self, atime: TimeSet, mtime: TimeSet) -> io::Result<()> {
        Ok(futimens(self.fd(), &timestamps(atime, mtime))?)
    }

    /// The value of an extended attribute.
    pub fn xattr(&self, name: &OsStr) -> io::Result<Vec<u8>> {
        xattr::value(Target::Open(self.fd()), name)
    }

    /// The names of all extended attributes, each ended by a zero byte.
    pub fn xattr_names(&self) -> io::Result<Vec<u8>> {
        xattr::names(Target::Open(self.fd()))
    }

    /// Sets an extended attribute.
    pub fn set_xattr(&self, name: &OsStr, value: &[u8], mode: XattrMode) -> io::Result<()> {
        xattr::set(Target::Open(self.fd()), name, value, mode)
    }

    /// Removes an extended attribute.
    pub fn remove_xattr(&self, name: &OsStr) -> io::Result<()> {
        xattr::remove(Target::Open(self.fd()), name)
    }
}

pub(super) fn timestamps(atime: TimeSet, mtime: TimeSet) -> Timestamps {
    Timestamps { last_access: timespec(atime), last_modification: timespec(mtime) }
}

fn timespec(time: TimeSet) -> Timespec {
    match time {
        TimeSet::Omit => Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        TimeSet::Now => Timespec { tv_sec: 0, tv_nsec: UTIME_NOW },
        TimeSet::At { secs, nanos } => Timespec { tv_sec: secs, tv_nsec: nanos.into() },
    }
}
