//! Backing-file I/O behind a narrow trait, so that crashes and faults can be tested
//! without a disk: `disk` is the real one, `memory`, `faulty` and `recorder` serve the tests.
//! Directories and attributes are in `tree`.
//! Knows nothing of encryption: offsets and sizes here are those of the ciphertext.

use std::io::{self, IoSlice};

use rustix::io::Errno;

pub mod disk;
pub mod faulty;
pub mod flushes;
pub mod memory;
pub mod observer;
pub mod recorder;
mod stream;
pub mod tree;

#[cfg(test)]
mod conformance_tests;

/// What a sync must make durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyncScope {
    /// The data, and the metadata that is needed to read it back (`fdatasync`).
    Data,
    /// The data and all metadata (`fsync`).
    All,
}

/// One open backing file. Offsets and lengths are in bytes of ciphertext.
///
/// Every method retries `EINTR` and short transfers by itself; the error of the system call
/// is returned as it is. All methods may be called from many threads at once.
pub trait BackingFile: Send + Sync {
    /// Fills `buf` from `offset`; returns less than `buf.len()` only at the end of the file.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Writes the buffers one after the other from `offset`, in that order. On an error
    /// a prefix may have been written.
    fn write_at(&self, bufs: &[IoSlice<'_>], offset: u64) -> io::Result<()>;

    /// The size in bytes.
    fn size(&self) -> io::Result<u64>;

    /// Cuts or extends (with zeros) to `size` bytes; all or nothing.
    fn set_size(&self, size: u64) -> io::Result<()>;

    /// Reserves space for the range; the size grows to cover it unless `keep_size`.
    fn allocate(&self, offset: u64, len: u64, keep_size: bool) -> io::Result<()>;

    /// Frees the range, which then reads as zeros; the size stays. Where the file system
    /// below cannot punch holes, zeros are written instead.
    fn punch(&self, offset: u64, len: u64) -> io::Result<()>;

    /// The first offset at or after `offset` that may hold data; `None` if there is none.
    /// A file system below without holes answers `offset` itself.
    fn next_data(&self, offset: u64) -> io::Result<Option<u64>>;

    /// Makes what was written so far durable.
    fn sync(&self, scope: SyncScope) -> io::Result<()>;
}

/// The errno of what failed; `EIO` where it was no system call.
pub fn errno_of(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(Errno::IO.raw_os_error())
}
