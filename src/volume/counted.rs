//! The backing file of an open file, as all that changes or syncs it goes through one place.

use std::io::{self, IoSlice};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::store::{BackingFile, SyncScope, errno_of};

/// A backing file that counts what is done to it, and of which no sync succeeds after one has
/// failed: the kernel tells of it once, to one of two who sync.
pub(super) struct Counted {
    inner: Arc<dyn BackingFile>,
    changes: AtomicU64,
    /// The errno.
    failed: Mutex<Option<i32>>,
}

impl Counted {
    pub(super) fn new(inner: Arc<dyn BackingFile>) -> Self {
        Self { inner, changes: AtomicU64::new(0), failed: Mutex::default() }
    }

    /// How often it was changed.
    pub(super) fn changes(&self) -> u64 {
        self.changes.load(Ordering::Relaxed)
    }

    /// Whether a sync has failed.
    pub(super) fn has_failed(&self) -> bool {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    fn note_change(&self) {
        self.changes.fetch_add(1, Ordering::Relaxed);
    }
}

impl BackingFile for Counted {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.inner.read_at(buf, offset)
    }

    fn write_at(&self, bufs: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        self.note_change();
        self.inner.write_at(bufs, offset)
    }

    fn size(&self) -> io::Result<u64> {
        self.inner.size()
    }

    fn set_size(&self, size: u64) -> io::Result<()> {
        self.note_change();
        self.inner.set_size(size)
    }

    fn allocate(&self, offset: u64, len: u64, keep_size: bool) -> io::Result<()> {
        self.note_change();
        self.inner.allocate(offset, len, keep_size)
    }

    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        self.note_change();
        self.inner.punch(offset, len)
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<u64>> {
        self.inner.next_data(offset)
    }

    fn sync(&self, scope: SyncScope) -> io::Result<()> {
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(errno) = *failed {
            return Err(io::Error::from_raw_os_error(errno));
        }
        let synced = self.inner.sync(scope);
        if let Err(error) = &synced {
            *failed = Some(errno_of(error));
        }
        synced
    }
}
