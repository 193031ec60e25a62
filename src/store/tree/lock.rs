//! One user of a volume at a time: a lock that ends with the process, however it ends.

use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{FlockOperation, OFlags, flock, ftruncate, openat};
use rustix::io::{Errno, pwrite, retry_on_intr};

use super::{DirFd, DiskTree, component, permissions};

/// An exclusive lock, held until this is dropped.
#[derive(Debug)]
pub struct FileLock {
    fd: OwnedFd,
}

impl FileLock {
    /// Replaces the file's text, which tells whoever finds it locked by whom. Does nothing
    /// where the file may only be read.
    pub fn note(&self, text: &str) -> io::Result<()> {
        match ftruncate(&self.fd, 0) {
            Err(Errno::INVAL | Errno::BADF) => return Ok(()),
            other => other?,
        }
        retry_on_intr(|| pwrite(&self.fd, text.as_bytes(), 0))?;
        Ok(())
    }
}

impl Drop for FileLock {
    fn drop(&mut self) {
        // Closing alone would leave the lock to a child that inherited the descriptor. It can
        // only fail for a descriptor that is not open.
        let _ = flock(&self.fd, FlockOperation::Unlock);
    }
}

impl DiskTree {
    /// Locks the file `name`, made with mode 0600 where it is missing; `None` when another
    /// process or another [`FileLock`] of this one holds it.
    pub fn try_lock(&self, dir: &DirFd, name: &OsStr) -> io::Result<Option<FileLock>> {
        let name = component(name)?;
        let flags = OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let open = |access| retry_on_intr(|| openat(dir, name, access | flags, permissions(0o600)));
        // Some network file systems want a writable descriptor; a read-only one has none.
        let fd = match open(OFlags::RDWR) {
            Err(Errno::ROFS | Errno::ACCESS) => open(OFlags::RDONLY)?,
            other => other?,
        };
        match retry_on_intr(|| flock(&fd, FlockOperation::NonBlockingLockExclusive)) {
            Ok(()) => Ok(Some(FileLock { fd })),
            Err(Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}
