//! The beginning of a file as memory. What is written there is in the file at once, as after
//! write(2): it outlives a process that is killed. But there is no error to return: on a file
//! that is cut, or a medium that fails, the process dies of `SIGBUS`.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::atomic::Ordering;

use rustix::fs::{FallocateFlags, fallocate, fstatfs};

use super::mapping::Mapping;

/// Bytes shared with a file.
pub struct SharedFile {
    mapping: Mapping,
}

impl SharedFile {
    /// The first `len` bytes of `file`, which then has them and room for them on its medium.
    /// Refused on file systems that may need more room to change a byte that has its place, as
    /// those that copy on write do.
    pub fn new(file: BorrowedFd<'_>, len: usize) -> io::Result<Self> {
        let kind = u64::try_from(fstatfs(file)?.f_type).unwrap_or_default();
        if !CHANGED_IN_PLACE.contains(&kind) {
            return Err(io::ErrorKind::Unsupported.into());
        }
        fallocate(file, FallocateFlags::empty(), 0, len as u64)?;
        Ok(Self { mapping: Mapping::of_file(file, len)? })
    }

    /// To be called before each stretch of writes: an error tells what `SIGBUS` would tell.
    pub fn make_writable(&self) -> io::Result<()> {
        self.mapping.make_writable()
    }

    /// Copies bytes into it.
    pub fn write(&mut self, offset: usize, bytes: &[u8]) {
        self.mapping.write(offset, bytes);
    }

    /// Stores a number so that who sees it sees all that was written before.
    pub fn publish(&mut self, offset: usize, number: u32) {
        self.mapping.counter(offset).store(number.to_le(), Ordering::Release);
    }
}

/// ext2 to ext4, and tmpfs: `f_type` of statfs(2). XFS copies what another file shares.
const CHANGED_IN_PLACE: [u64; 2] = [0xef53, 0x0102_1994];

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn what_is_written_is_in_the_file_at_once() {
        let file = tempfile::tempfile_in("/dev/shm").or_else(|_| tempfile::tempfile()).unwrap();
        let mut shared = SharedFile::new(file.as_fd(), 8192).unwrap();
        assert_eq!(file.metadata().unwrap().len(), 8192);
        shared.make_writable().unwrap();
        shared.write(4090, b"over the edge");
        shared.publish(8, 0x0102_0304);
        let mut bytes = [0; 13];
        file.read_exact_at(&mut bytes, 4090).unwrap();
        assert_eq!(&bytes, b"over the edge");
        let mut number = [0; 4];
        file.read_exact_at(&mut number, 8).unwrap();
        assert_eq!(number, [4, 3, 2, 1]);
    }

    #[test]
    fn a_file_without_pages_is_refused() {
        let proc = std::fs::File::open("/proc/self/status").unwrap();
        assert!(SharedFile::new(proc.as_fd(), 4096).is_err());
    }

    #[test]
    #[should_panic(expected = "outside of the mapping")]
    fn nothing_is_written_behind_its_end() {
        let file = tempfile::tempfile_in("/dev/shm").or_else(|_| tempfile::tempfile()).unwrap();
        SharedFile::new(file.as_fd(), 4096).unwrap().write(4090, b"over the edge");
    }
}
