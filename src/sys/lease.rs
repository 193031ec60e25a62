//! Read leases (fcntl(2), `F_SETLEASE`): while one is held nobody has the file open for
//! writing, and whoever wants to is kept waiting until it is let go. Its holder hears of that
//! by `SIGIO`, which ends a process that does not handle it.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Takes a read lease on a file that is open for reading. It ends with the descriptor.
///
/// # Errors
/// `EAGAIN` when somebody has the file open for writing, `EACCES` when it is another user's,
/// `EINVAL` where the file system has no leases.
pub fn take(file: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: the descriptor is open for as long as it is borrowed; the argument is a number.
    match unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, libc::F_RDLCK) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Whether the lease stands, and nobody waits for its end.
pub fn stands(file: BorrowedFd<'_>) -> io::Result<bool> {
    // SAFETY: the descriptor is open for as long as it is borrowed; there is no argument.
    match unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETLEASE) } {
        -1 => Err(io::Error::last_os_error()),
        found => Ok(found == libc::F_RDLCK),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{File, OpenOptions};
    use std::os::fd::AsFd;
    use std::os::unix::fs::OpenOptionsExt;
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;

    use super::*;

    #[test]
    fn a_writer_and_a_lease_exclude_each_other() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let reader = File::open(file.path()).unwrap();
        let refused = take(reader.as_fd()).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EAGAIN), "the writer is open");
        let path = file.into_temp_path();
        take(reader.as_fd()).unwrap();
        assert!(stands(reader.as_fd()).unwrap());
        let unwaited = {
            let _io =
                signal_hook::flag::register(libc::SIGIO, Arc::new(AtomicBool::new(false))).unwrap();
            OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK).open(&path)
        };
        assert_eq!(unwaited.unwrap_err().raw_os_error(), Some(libc::EAGAIN));
        assert!(!stands(reader.as_fd()).unwrap(), "somebody wants to write");
    }
}
