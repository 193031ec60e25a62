//! A question of a process to the file system that it serves itself.
//!
//! Whoever has sent a request to a FUSE file system waits for the answer, killed or not, until the
//! connection ends, which is when the last descriptor of `/dev/fuse` is closed. A thread that waits
//! for its own process would keep those descriptors after a `kill -9`, and nothing would ever end.
//! So it has none. It still keeps the memory, with any io_uring that is mapped there and holds
//! descriptors of its own: with one on `/dev/fuse` there is no asking.

use std::io;
use std::path::Path;

use rustix::fs::statvfs;

/// Returns once the file system at `path`, which this process serves by reading `/dev/fuse`, has
/// answered. A process that is killed meanwhile ends.
///
/// # Errors
/// What it answers, or what keeps it from answering.
pub fn wait_until_served(path: &Path) -> io::Result<()> {
    std::thread::scope(|scope| {
        let asking = std::thread::Builder::new().name("ask".to_owned());
        let asking = asking.spawn_scoped(scope, || {
            if let Err(error) = let_go_of_descriptors() {
                // Linux before 5.9, or a container that forbids it.
                log::debug!("a kill in this moment would leave a mount that hangs: {error}");
            }
            statvfs(path).map(drop).map_err(io::Error::from)
        })?;
        asking.join().unwrap_or_else(|_| Err(io::Error::other("the thread that asked panicked")))
    })
}

/// Gives the calling thread a table of descriptors of its own, an empty one.
fn let_go_of_descriptors() -> io::Result<()> {
    // SAFETY: takes no pointers. The descriptors are closed in the copy that `CLOSE_RANGE_UNSHARE`
    // makes for this thread, which uses none from here on; in those of all others they stay open.
    let closed =
        unsafe { libc::syscall(libc::SYS_close_range, 0_u32, u32::MAX, libc::CLOSE_RANGE_UNSHARE) };
    if closed < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn who_asks_has_no_descriptors_and_the_others_keep_theirs() {
        let mut file = tempfile::tempfile().unwrap();
        let left = std::thread::spawn(|| {
            let_go_of_descriptors().unwrap();
            // Listing them takes one.
            std::fs::read_dir("/proc/thread-self/fd").unwrap().count()
        });
        assert_eq!(left.join().unwrap(), 1);
        file.write_all(b"still open").unwrap();
        wait_until_served(Path::new("/")).unwrap();
        assert_eq!(wait_until_served(Path::new("/missing")).unwrap_err().raw_os_error(), Some(2));
    }
}
