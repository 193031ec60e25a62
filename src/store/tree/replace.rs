//! Replacing a small file at once: a reader, and a crash at any instant, sees the old contents
//! or the new, never a part.

use std::ffi::{OsStr, OsString};
use std::io::{self, IoSlice};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::io::Errno;

use super::{DirFd, DiskTree, OpenFlags, RenameMode, component};
use crate::store::disk::DiskFile;
use crate::store::{BackingFile, SyncScope};

impl DiskTree {
    /// Gives the regular file `name` these contents and permissions, durably, whether it
    /// exists or not. A crash may leave a file called `.NAME.PID.N.new` beside it.
    pub fn replace_file(
        &self,
        dir: &DirFd,
        name: &OsStr,
        bytes: &[u8],
        mode: u32,
    ) -> io::Result<()> {
        component(name)?;
        let (temporary, file) = self.create_temporary(dir, name)?;
        let replaced = file
            .write_at(&[IoSlice::new(bytes)], 0)
            .and_then(|()| file.chmod(mode))
            .and_then(|()| file.sync(SyncScope::All))
            .and_then(|()| self.rename(dir, &temporary, dir, name, RenameMode::Replace));
        if let Err(error) = replaced {
            // The first error is the one to tell; a file left over does no harm.
            let _ = self.unlink(dir, &temporary);
            return Err(error);
        }
        self.sync_dir(dir)
    }

    fn create_temporary(&self, dir: &DirFd, name: &OsStr) -> io::Result<(OsString, DiskFile)> {
        loop {
            let number = COUNTER.fetch_add(1, Ordering::Relaxed);
            let mut temporary = OsString::from(".");
            temporary.push(name);
            temporary.push(format!(".{}.{number}.new", std::process::id()));
            match self.create_file(dir, &temporary, OpenFlags::READ_WRITE, 0o600) {
                Ok(fd) => return Ok((temporary, fd.into())),
                // Left over from a crash of a process with the same id: try the next number.
                Err(error) if error.raw_os_error() == Some(Errno::EXIST.raw_os_error()) => {}
                Err(error) => return Err(error),
            }
        }
    }
}

static COUNTER: AtomicU32 = AtomicU32::new(0);
