//! Objects as calls act on them: by descriptor, so that what has no name any more still works
//! and no rename leads a call astray.

use std::ffi::{OsStr, OsString};
use std::io;
use std::sync::Arc;

use crate::store::disk::DiskFile;
use crate::store::tree::{DirFd, Located, Stat, TimeSet, XattrMode};

/// An object that is held, because its last known name is gone.
#[derive(Debug)]
pub enum Pinned {
    /// A directory, in which names may still be looked for, in vain.
    Directory(Arc<DirFd>),
    /// Anything else.
    Other(Located),
}

/// An object that was reached and is the one that was meant.
pub enum Reached {
    /// By the descriptor of an open file.
    Open(Arc<DiskFile>),
    /// By a directory's descriptor.
    Directory(Arc<DirFd>),
    /// By what was pinned at the removal of its last name.
    Pinned(Arc<Pinned>),
    /// By its name.
    Named(Located),
}

impl Pinned {
    pub(super) fn located(&self) -> &Located {
        match self {
            Self::Directory(directory) => directory.located(),
            Self::Other(located) => located,
        }
    }
}

impl Reached {
    /// Its attributes.
    pub fn stat(&self) -> io::Result<Stat> {
        self.each(DiskFile::stat, Located::stat)
    }

    /// Sets the permission bits.
    pub fn chmod(&self, mode: u32) -> io::Result<()> {
        self.each(|file| file.chmod(mode), |object| object.chmod(mode))
    }

    /// Sets the owner, the group, or both.
    pub fn chown(&self, uid: Option<u32>, gid: Option<u32>) -> io::Result<()> {
        self.each(|file| file.chown(uid, gid), |object| object.chown(uid, gid))
    }

    /// Sets the access and modification times.
    pub fn set_times(&self, atime: TimeSet, mtime: TimeSet) -> io::Result<()> {
        self.each(|file| file.set_times(atime, mtime), |object| object.set_times(atime, mtime))
    }

    /// The value of an extended attribute.
    pub fn xattr(&self, name: &OsStr) -> io::Result<Vec<u8>> {
        self.each(|file| file.xattr(name), |object| object.xattr(name))
    }

    /// The names of all extended attributes, each ended by a zero byte.
    pub fn xattr_names(&self) -> io::Result<Vec<u8>> {
        self.each(DiskFile::xattr_names, Located::xattr_names)
    }

    /// Sets an extended attribute.
    pub fn set_xattr(&self, name: &OsStr, value: &[u8], mode: XattrMode) -> io::Result<()> {
        self.each(
            |file| file.set_xattr(name, value, mode),
            |object| object.set_xattr(name, value, mode),
        )
    }

    /// Removes an extended attribute.
    pub fn remove_xattr(&self, name: &OsStr) -> io::Result<()> {
        self.each(|file| file.remove_xattr(name), |object| object.remove_xattr(name))
    }

    /// What a symbolic link holds; `None` for an object that is reached as an open file.
    pub fn read_link(&self) -> Option<io::Result<OsString>> {
        self.located().map(Located::readlink)
    }

    /// The object, unless it is reached as an open file.
    pub fn located(&self) -> Option<&Located> {
        match self {
            Self::Open(_) => None,
            Self::Directory(directory) => Some(directory.located()),
            Self::Pinned(pinned) => Some(pinned.located()),
            Self::Named(located) => Some(located),
        }
    }

    fn each<T>(
        &self,
        of_file: impl FnOnce(&DiskFile) -> T,
        of_object: impl FnOnce(&Located) -> T,
    ) -> T {
        match self {
            Self::Open(file) => of_file(file),
            Self::Directory(directory) => of_object(directory.located()),
            Self::Pinned(pinned) => of_object(pinned.located()),
            Self::Named(located) => of_object(located),
        }
    }
}
