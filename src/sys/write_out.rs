//! Writing out what the kernel holds of a file, before anybody waits for it.

use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Has the kernel begin to write out the changed pages of `range`. Does not wait until they are,
/// makes nothing durable, and keeps the pages.
///
/// # Errors
/// What the kernel says; a file system may not know of it.
pub fn begin_write_out(fd: BorrowedFd<'_>, range: Range<u64>) -> io::Result<()> {
    let (Ok(from), Ok(len)) = (range.start.try_into(), (range.end - range.start).try_into()) else {
        return Err(rustix::io::Errno::INVAL.into());
    };
    // SAFETY: the descriptor is open for as long as it is borrowed; no memory is passed.
    match unsafe { libc::sync_file_range(fd.as_raw_fd(), from, len, libc::SYNC_FILE_RANGE_WRITE) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
