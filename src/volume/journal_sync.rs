//! Syncs that the journal answers: where all that has changed since the file was synced waits for
//! a commit, its records are made durable instead of its blocks, by one sync that is shared with
//! other files. The commit comes later, and the records stay until it is durable.

use std::sync::Arc;

use super::content::Content;
use super::error::VolumeError;
use super::file::EncryptedFile;
use super::journal::{Journal, Kept};
use crate::store::SyncScope;

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
            && self.durable.has_reached(self.backing.changes());
        if !is_all {
            return None;
        }
        let newest = journal.newest();
        let is_new = self.gather.promise()?;
        Some(Promise { journal, is_new, newest })
    }

    /// Lets go of what waits. Of that what is promised stays until the file is synced.
    pub(super) fn discard(&mut self) {
        let kept = self.take_promised();
        self.durable.hold(kept);
    }

    /// Leaves what is promised and could not be written to the journal, if there is any; lets go of
    /// the rest.
    pub(super) fn strand(&mut self) -> bool {
        let mut kept = self.take_promised();
        kept.extend(self.durable.take_kept());
        let stays = !kept.is_empty();
        self.volume.strand(self.file_id(), kept);
        stays
    }

    fn take_promised(&mut self) -> Vec<Kept> {
        let waiting = self.gather.take_all().into_values();
        let kept = waiting.flat_map(|gathered| gathered.before.into_iter().chain(gathered.kept));
        kept.filter(Kept::is_promised).collect()
    }
}
