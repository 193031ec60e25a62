//! Syncs that the journal answers: where all that has changed since the file was synced waits for
//! a commit, its records are made durable instead of its blocks, by one sync that is shared with
//! other files. The commit comes later, and the records stay until it is durable.

use std::io::{self, IoSlice};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::io::Errno;

use super::content::Content;
use super::error::VolumeError;
use super::file::EncryptedFile;
use super::journal::{Journal, Kept};
use crate::store::{BackingFile, SyncScope};

impl EncryptedFile {
    /// Does as [`Self::sync`], by the journal, if that can be; only attributes are synced in the
    /// backing file itself. False, and nothing done, if it cannot.
    pub fn sync_in_journal(&self, scope: SyncScope) -> Result<bool, VolumeError> {
        if !self.sync_data_in_journal() {
            return Ok(false);
        }
        match scope {
            SyncScope::Data => {}
            SyncScope::All => self.flush(scope)?,
        }
        Ok(true)
    }

    fn sync_data_in_journal(&self) -> bool {
        let Some(promise) = self.writing().promise() else { return false };
        match promise.is_new.then(|| promise.journal.sync()) {
            Some(Err(error)) => {
                let file = self.file_id();
                log::warn!("file {file}: synced by itself, as the journal cannot be ({error})");
                return false;
            }
            Some(Ok(())) => self.writing().gather.note_promised(promise.newest),
            None => {}
        }
        true
    }
}

/// What is about to be promised.
struct Promise {
    journal: Arc<Journal>,
    /// Whether any of it was not promised before.
    is_new: bool,
    /// Its newest record, or a newer one.
    newest: u64,
}

impl Content {
    /// Promises what waits for a commit, if that is all that a power cut could take. From now on,
    /// before the journal is synced: a commit that comes meanwhile must not let go of it.
    fn promise(&mut self) -> Option<Promise> {
        let journal = Arc::clone(self.volume.journal()?);
        let state = &self.sealing.as_ref().filter(|sealing| sealing.on_disk)?.state;
        let is_all = !state.flags.resizing
            && !self.unsettled
            && self.has_gathered()
            && self.durable.has_reached(self.changes.count());
        if !is_all {
            return None;
        }
        let newest = journal.newest();
        let is_new = self.gather.promise()?;
        Some(Promise { journal, is_new, newest })
    }

    /// Leaves what is promised and could not be written to the journal, if there is any; lets go of
    /// the rest.
    pub(super) fn strand(&mut self) -> bool {
        let waiting = self.gather.take_all().into_values();
        let kept = waiting.flat_map(|gathered| gathered.before.into_iter().chain(gathered.kept));
        let mut kept: Vec<Kept> = kept.filter(Kept::is_promised).collect();
        kept.extend(self.durable.take_kept());
        let stays = !kept.is_empty();
        self.volume.strand(self.file_id(), kept);
        stays
    }
}

/// Counts what is done to a backing file.
#[derive(Clone, Default)]
pub(super) struct Changes(Arc<AtomicU64>);

impl Changes {
    pub(super) fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// The file, whose changes are counted here from now on.
    pub(super) fn counted(&self, inner: Arc<dyn BackingFile>) -> Arc<dyn BackingFile> {
        Arc::new(Counted { inner, changes: self.clone(), failed: Mutex::default() })
    }

    fn note(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

struct Counted {
    inner: Arc<dyn BackingFile>,
    changes: Changes,
    /// The errno of a sync that has failed: the kernel tells of it once, to one of two who sync.
    failed: Mutex<Option<i32>>,
}

impl BackingFile for Counted {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.inner.read_at(buf, offset)
    }

    fn write_at(&self, bufs: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        self.changes.note();
        self.inner.write_at(bufs, offset)
    }

    fn size(&self) -> io::Result<u64> {
        self.inner.size()
    }

    fn set_size(&self, size: u64) -> io::Result<()> {
        self.changes.note();
        self.inner.set_size(size)
    }

    fn allocate(&self, offset: u64, len: u64, keep_size: bool) -> io::Result<()> {
        self.changes.note();
        self.inner.allocate(offset, len, keep_size)
    }

    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        self.changes.note();
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
            *failed = Some(error.raw_os_error().unwrap_or(Errno::IO.raw_os_error()));
        }
        synced
    }
}
