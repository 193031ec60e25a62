//! Shutting a file system down as a power cut would: what its log does not have on disk is lost,
//! and every later call on it fails. Only tests of power cuts use it.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Shuts down the whole file system that `directory` lies in, without flushing its log. It has to
/// be unmounted and mounted again. Needs root. XFS and ext4 know it, under one number.
pub fn lose_what_is_not_logged(directory: BorrowedFd<'_>) -> io::Result<()> {
    let flags: u32 = GOING_DOWN_NO_LOG_FLUSH;
    // SAFETY: the descriptor is open for as long as it is borrowed, and the call reads four bytes
    // of `flags`, which outlives it.
    match unsafe { libc::ioctl(directory.as_raw_fd(), GOING_DOWN, &raw const flags) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// `XFS_IOC_GOINGDOWN` and `EXT4_IOC_SHUTDOWN`: `_IOR('X', 125, __u32)`.
const GOING_DOWN: libc::Ioctl = 0x8004_587d;
/// `XFS_FSOP_GOING_FLAGS_NOLOGFLUSH` and `EXT4_GOING_FLAGS_NOLOGFLUSH`.
const GOING_DOWN_NO_LOG_FLUSH: u32 = 2;

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn a_file_system_that_cannot_is_refused() {
        let directory = std::fs::File::open("/proc").unwrap();
        let error = lose_what_is_not_logged(directory.as_fd()).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOTTY));
    }
}
