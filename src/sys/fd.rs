//! File descriptors that come into the process by number. Refuses a number that this program
//! opened for itself, so that no descriptor gets two owners.

use std::fs::File;
use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::io::{FdFlags, fcntl_dupfd_cloexec, fcntl_getfd, fcntl_setfd};

/// Takes over a descriptor that the process inherited, and keeps it from children. One of
/// the standard streams is duplicated instead, and stays open.
///
/// # Errors
/// `EBADF` when nothing is open there, or something that was not inherited. Call it once for
/// a number: the second call finds the descriptor marked as the program's own.
pub fn take(raw: RawFd) -> io::Result<File> {
    if raw < 0 {
        return Err(rustix::io::Errno::BADF.into());
    }
    // SAFETY: only asked about while it is not known to be open, and no other thread closes
    // an inherited descriptor.
    let borrowed = unsafe { BorrowedFd::borrow_raw(raw) };
    let flags = fcntl_getfd(borrowed)?;
    if raw <= libc::STDERR_FILENO {
        return Ok(fcntl_dupfd_cloexec(borrowed, libc::STDERR_FILENO + 1)?.into());
    }
    // What was inherited came through an `exec`, which closes everything with this flag, and
    // Rust opens everything with it: without it the descriptor has no owner in this program.
    if flags.contains(FdFlags::CLOEXEC) {
        return Err(rustix::io::Errno::BADF.into());
    }
    fcntl_setfd(borrowed, FdFlags::CLOEXEC)?;
    // SAFETY: open, and not owned by anything else, as shown above.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) }.into())
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::fd::{AsRawFd, IntoRawFd};

    use super::*;

    #[test]
    fn an_inherited_descriptor_is_taken_once() {
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        rustix::io::write(&writer, b"key").unwrap();
        drop(writer);
        let mut file = take(reader.into_raw_fd()).unwrap();
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "key");
        assert_eq!(take(file.as_raw_fd()).unwrap_err().raw_os_error(), Some(libc::EBADF));
    }

    #[test]
    fn what_the_program_opened_or_nobody_opened_is_refused() {
        let own = File::open("/dev/null").unwrap();
        for raw in [own.as_raw_fd(), -1, 1_000_000] {
            assert_eq!(take(raw).unwrap_err().raw_os_error(), Some(libc::EBADF));
        }
    }

    #[test]
    fn a_standard_stream_is_duplicated() {
        let file = take(libc::STDERR_FILENO).unwrap();
        assert!(file.as_raw_fd() > libc::STDERR_FILENO);
        drop(file);
        take(libc::STDERR_FILENO).unwrap();
    }
}
