//! Changing the size. A change that takes several writes is announced in the state record
//! first, with its target, so that recovery finishes what a crash has cut short.

use super::content::Content;
use super::error::VolumeError;
use super::own_page::OwnPage;
use super::pages::{entry_in, set_entry_in};
use super::read::opens_as;
use crate::format::{
    BLOCK_LEN, BlockIndex, ContentSum, Entry, MAX_PLAIN_SIZE, PageIndex, PlainSize, StateFlags,
    StateRecord, blocks_in, entry_place, stored_len,
};
use crate::store::BackingFile;
use crate::sys::fail_point;

impl Content {
    /// Cuts or extends the file; what is added reads as zeros.
    pub(super) fn set_size(&mut self, size: PlainSize) -> Result<(), VolumeError> {
        if size > MAX_PLAIN_SIZE {
            return Err(VolumeError::TooLarge);
        }
        if !self.writable {
            return Err(VolumeError::ReadOnly);
        }
        self.refuse_withdrawn()?;
        if size.0 == 0 && size != self.size {
            return self.empty();
        }
        self.commit_now()?;
        if size == self.size {
            let backing_size = self.backing.size()?;
            return Ok(self.backing.set_size(backing_size)?);
        }
        self.begin_change(2)?;
        let changed_from = BlockIndex(blocks_in(self.size.min(size)).saturating_sub(1));
        self.barrier_now(&(changed_from..BlockIndex(blocks_in(self.size.max(size)))))?;
        let before = self.size;
        let changed = if size < before { self.shrink(size) } else { self.grow(size) };
        if changed.is_err() && self.sealing()?.state.flags.resizing {
            self.abandon_resize(before);
        }
        changed
    }

    /// Makes the backing file empty. The DEK stays at hand for what is written next.
    fn empty(&mut self) -> Result<(), VolumeError> {
        self.backing.set_size(0)?;
        self.size = PlainSize(0);
        self.discard();
        // Nothing may come to lie in the file before what it held is gone for good.
        self.durable.note_whole_in_flight();
        self.durable.cut_to(self.size);
        self.gaps.clear();
        self.unsettled = false;
        let epoch = self.volume.epoch();
        let Some(sealing) = &mut self.sealing else { return Ok(()) };
        sealing.on_disk = false;
        sealing.pages.forget_all_tags();
        sealing.sum = ContentSum::default();
        let first = sealing.pages.first_mut();
        first.fill(0);
        sealing.header.encode_into(first)?;
        let state = StateRecord {
            size: 0,
            durable_size: 0,
            epoch,
            flags: StateFlags { digest_kept: true, ..StateFlags::default() },
            ..sealing.state
        };
        self.put_state(state)
    }

    fn shrink(&mut self, size: PlainSize) -> Result<(), VolumeError> {
        let tail = BlockIndex(blocks_in(size) - 1);
        let tail_len = stored_len(tail, size);
        let announced = tail_len < stored_len(tail, self.size);
        // With the old durable size in the record recovery would take what is appended after
        // the cut, and lost, for damage.
        if !announced && self.sealing()?.state.durable_size > size.0 {
            let state = self.sealing()?.state;
            self.put_state(StateRecord { durable_size: size.0, ..state })?;
        }
        if announced {
            self.announce(size)?;
            fail_point::hit("volume.resize.after_announce");
            self.reseal_tail(tail, tail_len)?;
            fail_point::hit("volume.resize.after_reseal");
            if self.has_gathered() {
                // The cut takes the rest of the block with it: its new data must be there first.
                self.commit_now()?;
                self.order_now()?;
            }
        }
        self.cut(size)?;
        // The state also where it was not announced: a gap that is written into what was cut
        // off is told from lost blocks by lying past the authenticated size.
        self.conclude()
    }

    /// Cuts the backing file behind a last block that has its length already.
    fn cut(&mut self, size: PlainSize) -> Result<(), VolumeError> {
        let durable_cut = size < self.durable.size();
        let end = BlockIndex(blocks_in(size).saturating_sub(1)).group_end();
        let sum = self.sealing()?.sum;
        self.leave_out_of_sum(end)?;
        if let Err(error) = self.backing.set_size(Self::cipher_end(size).0) {
            self.sealing_mut()?.sum = sum;
            return Err(error.into());
        }
        fail_point::hit("volume.resize.after_cut");
        self.size = size;
        self.gaps.remove(blocks_in(size)..u64::MAX);
        self.durable.note_change();
        self.durable.cut_to(size);
        if durable_cut {
            // Blocks without entries must not come back.
            self.order_now()?;
        }
        let cleared = self.clear_entries_past_end();
        if cleared.is_err() {
            self.mark_unsettled();
        }
        cleared
    }

    /// After an announced change of size has failed: back to the size `before`, or on to the
    /// new one where the last block has its new length already.
    fn abandon_resize(&mut self, before: PlainSize) {
        let attempt = (|| {
            let target = PlainSize(self.sealing()?.state.size);
            let dropped = target < before && self.has_gathered();
            if dropped {
                self.drop_gathered()?;
            }
            if target < before && self.tail_has_length_for(target)? {
                let tail = BlockIndex(blocks_in(target) - 1);
                self.leave_out_of_sum(tail.group_end())?;
                self.size = target;
                self.cut(target)?;
            } else if dropped {
                // The entry on disk may tell of a block that was not written.
                return Err(VolumeError::Unsettled { file: self.file_id() });
            } else if before < self.size {
                let tail = BlockIndex(blocks_in(before) - 1);
                if let Err(error) = self.reseal_tail(tail, stored_len(tail, before))
                    && !self.tail_has_length_for(before)?
                {
                    return Err(error);
                }
                self.size = before;
                self.cut(before)?;
            }
            self.conclude()
        })();
        if let Err(error) = attempt {
            let file = self.file_id();
            log::error!("file {file}: a failed change of size is still to be finished ({error})");
            self.mark_unsettled();
        }
    }

    fn grow(&mut self, size: PlainSize) -> Result<(), VolumeError> {
        let old_blocks = blocks_in(self.size);
        let tail_partial = !self.size.0.is_multiple_of(BLOCK_LEN);
        if tail_partial && blocks_in(size) == old_blocks {
            let tail = BlockIndex(old_blocks - 1);
            self.reseal_tail(tail, stored_len(tail, size))?;
            self.backing.set_size(Self::cipher_end(size).0)?;
            self.size = size;
            return Ok(());
        }
        self.order_holes()?;
        let state = self.sealing()?.state;
        let flags = StateFlags { may_have_holes: true, resizing: tail_partial, ..state.flags };
        if tail_partial || !state.flags.may_have_holes {
            let announced = if tail_partial { size.0 } else { state.size };
            self.put_state(StateRecord { size: announced, flags, ..state })?;
        }
        let is_there = self.sealing()?.on_disk;
        self.put_header()?;
        if tail_partial {
            let tail = BlockIndex(old_blocks - 1);
            let in_other_page = entry_place(tail).0 != PageIndex(0);
            if tail >= self.durable.covered() && (is_there || in_other_page) {
                // What is written over in place must not come before its announcement. (Of a
                // new file nothing is there without page 0, which brings both.)
                self.order_now()?;
            }
            self.reseal_tail(tail, BLOCK_LEN as usize)?;
        }
        self.backing.set_size(Self::cipher_end(size).0)?;
        self.size = size;
        if !tail_partial {
            return Ok(());
        }
        // Without its announcement a size between the two would count.
        self.order_now()?;
        self.conclude()
    }

    /// Finishes a change of size that a crash has cut short.
    pub(super) fn finish_resize(&mut self) -> Result<(), VolumeError> {
        let target = PlainSize(self.sealing()?.state.size);
        if self.size < target {
            self.grow(target)?;
            self.order_now()?;
        } else if target < self.size {
            if self.tail_has_length_for(target)? {
                self.cut(target)?;
            } else {
                self.shrink(target)?;
            }
        }
        self.conclude()
    }

    /// Whether the last block of a file of `size` bytes is sealed at its length for that size.
    pub(super) fn tail_has_length_for(&self, size: PlainSize) -> Result<bool, VolumeError> {
        let tail = BlockIndex(blocks_in(size).saturating_sub(1));
        let len = stored_len(tail, size);
        let page = self.entry_page(tail)?;
        let Ok(Entry::Stored(marked)) = entry_in(&page, tail) else { return Ok(false) };
        let (mut cipher, mut plain) = ([0; BLOCK_LEN as usize], [0; BLOCK_LEN as usize]);
        let read = self.backing.read_at(&mut cipher[..len], tail.cipher_start().0)?;
        let opened =
            opens_as(self.sealing()?, tail, &marked.current, &cipher[..read], &mut plain[..len]);
        Ok(opened)
    }

    /// Sets the entries past the end to zero, in the last page that has any. Without this a
    /// later extension would find the remains of blocks that are gone.
    pub(super) fn clear_entries_past_end(&mut self) -> Result<(), VolumeError> {
        let blocks = blocks_in(self.size);
        let tail = BlockIndex(blocks.saturating_sub(1));
        self.sealing()?.pages.forget_tags();
        let old = self.entry_page(tail)?;
        let mut page = OwnPage::copy_of(&old);
        for block in (blocks..tail.group_end().0).map(BlockIndex) {
            set_entry_in(&mut page, block, &Entry::Hole);
        }
        if *page == *old {
            return Ok(());
        }
        self.put_entry_page(tail, &old, page)
    }

    fn announce(&mut self, size: PlainSize) -> Result<(), VolumeError> {
        let state = self.sealing()?.state;
        let flags = StateFlags { resizing: true, ..state.flags };
        let durable_size = state.durable_size.min(size.0);
        self.put_state(StateRecord { size: size.0, durable_size, flags, ..state })
    }

    fn conclude(&mut self) -> Result<(), VolumeError> {
        let state = self.sealing()?.state;
        let flags = StateFlags { resizing: false, ..state.flags };
        let size = self.size.0;
        let durable_size = state.durable_size.min(size);
        self.put_state(StateRecord { size, durable_size, flags, ..state })?;
        if state.flags.resizing {
            // With the announcement still there a later change of size would be undone by halves.
            self.durable.note_whole_in_flight();
        }
        Ok(())
    }
}
