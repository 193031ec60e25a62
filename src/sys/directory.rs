//! Reading a directory by `getdents64`: `rustix` ties its reader to the life of a borrowed
//! buffer, so a stream that keeps both, and steps back within the buffer, cannot be built on it.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Fills `buf` with `linux_dirent64` records from the position of `dir`; 0 at the end. A
/// buffer too small for one record is `EINVAL`.
pub fn getdents(dir: BorrowedFd<'_>, buf: &mut [u8]) -> io::Result<usize> {
    loop {
        // SAFETY: the kernel writes at most `buf.len()` bytes into `buf`, which is ours to write.
        let read = unsafe {
            libc::syscall(libc::SYS_getdents64, dir.as_raw_fd(), buf.as_mut_ptr(), buf.len())
        };
        if let Ok(len) = usize::try_from(read) {
            return Ok(len);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}
