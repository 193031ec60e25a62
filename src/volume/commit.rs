//! The one place that orders writes to a backing file.
//!
//! Process death: entries are written before the data that they describe, in file order within
//! one call where the two are contiguous, so a block reads as it was before or after the write
//! in flight. A page is written whole.
//!
//! Power cut: what is durable is written over only by a commit, in this order: the pages of
//! entries, each with the old generation and the new one, and page 0 with its state record; a
//! sync; the blocks. The size of the backing file has grown before. The next sync makes the
//! blocks durable; until then they are in flight, and not changed again.

use std::io::{self, IoSlice};
use std::ops::Range;
use std::sync::{Arc, PoisonError};

use super::content::Content;
use super::counted::Counted;
use super::error::VolumeError;
use super::file::EncryptedFile;
use super::pages::Page;
use crate::format::{BlockIndex, CipherOffset, PageIndex, StateRecord};
use crate::store::{BackingFile, SyncScope};
use crate::sys::fail_point;

/// Sealed blocks with the pages of their entries, ready to be written.
pub(super) struct SealedRun<'a> {
    /// The page with the entries of the first blocks, if it does not lie at the start of
    /// `region`.
    pub(super) leading: Option<(PageIndex, &'a Page)>,
    /// Where `region` lies.
    pub(super) start: CipherOffset,
    /// Pages of entries and blocks as they lie in the file, contiguous.
    pub(super) region: &'a [u8],
}

/// Writes a run. On an error some of it may have been written, entries always first.
pub(super) fn write_run(backing: &dyn BackingFile, run: &SealedRun<'_>) -> io::Result<()> {
    if let Some((index, page)) = run.leading {
        write_page(backing, index, page)?;
        fail_point::hit("volume.write.after_entries");
    }
    backing.write_at(&[IoSlice::new(run.region)], run.start.0)
}

/// Writes one page of entries, or page 0.
pub(super) fn write_page(
    backing: &dyn BackingFile,
    index: PageIndex,
    page: &Page,
) -> io::Result<()> {
    backing.write_at(&[IoSlice::new(page)], index.start().0)
}

impl EncryptedFile {
    /// Writes the blocks that are gathered; wanted when a writer closes the file. They are
    /// durable after the next [`Self::sync`]. Readers do not wait for the sync in between.
    pub fn commit(&self) -> Result<(), VolumeError> {
        if !self.reading().has_gathered() {
            return Ok(());
        }
        let _alone = self.commits.lock().unwrap_or_else(PoisonError::into_inner);
        self.commit_alone()
    }

    /// Makes what was written durable. After one failure no sync of this file succeeds until
    /// it is opened anew.
    pub fn sync(&self, scope: SyncScope) -> Result<(), VolumeError> {
        let _alone = self.commits.lock().unwrap_or_else(PoisonError::into_inner);
        self.commit_alone()?;
        self.writing().settle(true)?;
        self.flush_alone(scope)
    }

    /// Syncs what changes of `blocks` have to wait for, if there still is something.
    pub(super) fn barrier(&self, blocks: &Range<BlockIndex>) -> Result<(), VolumeError> {
        let _alone = self.commits.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.reading().must_wait(blocks) {
            return Ok(());
        }
        self.commit_alone()?;
        self.flush_alone(SyncScope::Data)
    }

    /// Syncs the backing file as it is.
    pub(super) fn flush(&self, scope: SyncScope) -> Result<(), VolumeError> {
        let _alone = self.commits.lock().unwrap_or_else(PoisonError::into_inner);
        self.flush_alone(scope)
    }

    fn commit_alone(&self) -> Result<(), VolumeError> {
        loop {
            let broken_off = {
                let mut content = self.writing();
                if !content.begin_commit()? {
                    return Ok(());
                }
                content.gather.broken_off()
            };
            if let Err(error) = self.flush_alone(SyncScope::Data) {
                self.writing().gather.abandon_commit();
                return Err(error);
            }
            let mut content = self.writing();
            content.end_commit()?;
            // Another one, for which the file was taken meanwhile, may have failed with its blocks.
            if content.gather.broken_off() == broken_off {
                return Ok(());
            }
        }
    }

    fn flush_alone(&self, scope: SyncScope) -> Result<(), VolumeError> {
        let backing = self.writing().begin_flush();
        let flushed = backing.sync(scope);
        Ok(self.writing().durable.end_flush(flushed)?)
    }
}

impl Content {
    /// Whether blocks wait for a commit. Of a file that may not be written those are what a
    /// mount before this one has left in its journal.
    pub(super) fn has_gathered(&self) -> bool {
        self.writable && !self.gather.is_empty()
    }

    /// Syncs what must not come back once there are holes where there was data.
    pub(super) fn order_holes(&self) -> Result<(), VolumeError> {
        self.volume.journal().map_or(Ok(()), |journal| Ok(journal.order_holes()?))
    }

    /// Whether a change of `blocks` must wait for a sync.
    pub(super) fn must_wait(&self, blocks: &Range<BlockIndex>) -> bool {
        self.durable.must_wait(blocks) || self.gather.is_committing(blocks)
    }

    /// The commit and what follows it, for whoever needs the file to itself meanwhile: a change
    /// of size, a hole, the last close.
    pub(super) fn commit_now(&mut self) -> Result<(), VolumeError> {
        if !self.begin_commit()? {
            return Ok(());
        }
        if let Err(error) = self.flush_now() {
            self.gather.abandon_commit();
            return Err(error);
        }
        self.end_commit()
    }

    /// Syncs now if a change of `blocks` must wait for it.
    pub(super) fn barrier_now(&mut self, blocks: &Range<BlockIndex>) -> Result<(), VolumeError> {
        if !self.must_wait(blocks) {
            return Ok(());
        }
        self.commit_now()?;
        self.flush_now()
    }

    /// Syncs what orders two steps of a change, where a power cut is to leave one of them.
    pub(super) fn order_now(&mut self) -> Result<(), VolumeError> {
        if self.durable.is_promised() { self.flush_now() } else { Ok(()) }
    }

    pub(super) fn flush_now(&mut self) -> Result<(), VolumeError> {
        let backing = self.begin_flush();
        let flushed = backing.sync(SyncScope::Data);
        Ok(self.durable.end_flush(flushed)?)
    }

    fn begin_flush(&mut self) -> Arc<Counted> {
        // What it may come to cover is not to be sealed ahead.
        self.end_allowance();
        let all_written = self.gather.is_empty();
        self.durable.begin_flush(all_written.then_some(self.size), self.backing.changes());
        Arc::clone(&self.backing)
    }

    /// The first step of a commit: entries and record. False if nothing waits.
    fn begin_commit(&mut self) -> Result<bool, VolumeError> {
        if !self.has_gathered() {
            return Ok(false);
        }
        // Where a sync has failed the entries may not be on the medium, whatever a later one
        // says: what is durable is not to be written over.
        self.durable.check()?;
        self.gather.begin_commit();
        let written = self.write_entries();
        fail_point::hit("volume.commit.after_entries");
        if written.is_err() {
            self.gather.abandon_commit();
        }
        written.map(|()| true)
    }

    fn write_entries(&mut self) -> Result<(), VolumeError> {
        for (index, page) in self.sealing()?.pages.ahead() {
            write_page(&*self.backing, index, &page)?;
            self.sealing_mut()?.pages.put_shared(index, page);
        }
        let state = self.sealing()?.state;
        let size = if state.flags.resizing { state.size } else { self.size.0 };
        // A recovery treats as durable what it may not write over; it does not claim it to be.
        let durable = if self.unsettled { state.durable_size } else { self.durable.size().0 };
        let durable_size = durable.min(size);
        self.put_state(StateRecord { size, durable_size, ..state })
    }

    /// The last step of a commit: the blocks.
    fn end_commit(&mut self) -> Result<(), VolumeError> {
        fail_point::hit("volume.commit.after_flush");
        let had_reached = self.durable.has_reached(self.backing.changes());
        match self.gather.write_committing(&*self.backing) {
            Ok(written) => {
                fail_point::hit("volume.commit.after_blocks");
                for blocks in written {
                    self.durable.note_in_flight(blocks);
                }
                let (kept, all_promised) = self.gather.end_commit();
                self.durable.hold(kept);
                if had_reached && all_promised {
                    self.durable.note_reached(self.backing.changes());
                }
                Ok(())
            }
            Err(error) => {
                // With both generations in their entries that does no harm, until a third comes.
                self.gather.break_off_commit();
                Err(error.into())
            }
        }
    }
}
