//! Holes: punching, zeroing, reserving, and finding them. A block's all-zero entry is a hole
//! once the state record says that the file may have some; that is made sure first.

use super::content::Content;
use super::error::VolumeError;
use super::own_page::OwnPage;
use super::pages::{Page, entry_in, set_entry_in};
use super::read::BAD_ENTRY;
use crate::format::{
    BLOCK_LEN, BlockIndex, CipherOffset, Entry, MAX_PLAIN_SIZE, PAGE_LEN, PlainOffset, PlainSize,
    StateFlags, StateRecord, blocks_in, entry_place, plain_size,
};
use crate::store::BackingFile;
use crate::sys::fail_point;

impl Content {
    /// Makes the range read as zeros and frees what it can; the size stays.
    pub(super) fn punch_hole(&mut self, offset: u64, len: u64) -> Result<(), VolumeError> {
        let end = offset.saturating_add(len).min(self.size.0);
        if !self.writable {
            return Err(VolumeError::ReadOnly);
        }
        if offset >= end {
            return Ok(());
        }
        self.commit_now()?;
        self.order_holes()?;
        self.begin_change(2)?;
        self.barrier_now(&(PlainOffset(offset).block()..BlockIndex(end.div_ceil(BLOCK_LEN))))?;
        let first = BlockIndex(offset.div_ceil(BLOCK_LEN));
        let stop =
            BlockIndex(if end == self.size.0 { blocks_in(self.size) } else { end / BLOCK_LEN });
        if first >= stop {
            return self.zero_within_blocks(offset, end);
        }
        if offset < first.plain_start().0 {
            self.zero_within_blocks(offset, first.plain_start().0)?;
        }
        if stop.plain_start().0 < end {
            self.zero_within_blocks(stop.plain_start().0, end)?;
        }
        self.allow_holes()?;
        // All entries before any data: where a power cut leaves entries that tell of data which
        // is gone, nothing opens.
        let covered = first < self.durable.covered();
        self.for_groups(first, stop, Self::clear_entries_in_group)?;
        if covered {
            self.order_now().inspect_err(|_| self.mark_unsettled())?;
        }
        fail_point::hit("volume.punch.after_entries");
        self.for_groups(first, stop, Self::free_in_group)?;
        match covered {
            true => self.durable.note_in_flight(first..stop),
            false => self.durable.note_change(),
        }
        Ok(())
    }

    /// Does something with the part of each group that lies in the range, groups that hold
    /// nothing left out.
    fn for_groups(
        &mut self,
        first: BlockIndex,
        stop: BlockIndex,
        change: fn(&mut Self, BlockIndex, BlockIndex) -> Result<(), VolumeError>,
    ) -> Result<(), VolumeError> {
        let mut block = first;
        while block < stop {
            if let Some(next) = self.punch_empty_groups(block, stop)? {
                block = next;
                continue;
            }
            let group_stop = block.group_end().min(stop);
            change(self, block, group_stop)?;
            block = group_stop;
        }
        Ok(())
    }

    /// As [`Self::punch_hole`], with the space reserved and the size grown unless `keep_size`.
    pub(super) fn zero_range(
        &mut self,
        offset: u64,
        len: u64,
        keep_size: bool,
    ) -> Result<(), VolumeError> {
        self.punch_hole(offset, len)?;
        self.allocate(offset, len, keep_size)
    }

    /// Reserves space for the range on the backing store, entries included; grows the file to
    /// cover it unless `keep_size`.
    pub(super) fn allocate(
        &mut self,
        offset: u64,
        len: u64,
        keep_size: bool,
    ) -> Result<(), VolumeError> {
        let end = offset.checked_add(len).filter(|end| *end <= MAX_PLAIN_SIZE.0);
        let end = end.ok_or(VolumeError::TooLarge)?;
        if !self.writable {
            return Err(VolumeError::ReadOnly);
        }
        self.refuse_withdrawn()?;
        if len == 0 {
            return Ok(());
        }
        let (page, _) = entry_place(PlainOffset(offset).block());
        let stop = Self::cipher_end(PlainSize(end)).0;
        self.backing.allocate(page.start().0, stop - page.start().0, true)?;
        if !keep_size && end > self.size.0 {
            self.set_size(PlainSize(end))?;
        }
        Ok(())
    }

    /// The first offset from `offset` on that is not in a hole; `None` if there is none.
    pub(super) fn next_data(&self, offset: u64) -> Result<Option<u64>, VolumeError> {
        if offset >= self.size.0 {
            return Ok(None);
        }
        if !self.has_holes() {
            return Ok(Some(offset));
        }
        let blocks = blocks_in(self.size);
        let mut block = PlainOffset(offset).block();
        while block.0 < blocks {
            let page = self.entry_page(block)?;
            let group_end = block.group_end().0.min(blocks);
            for found in (block.0..group_end).map(BlockIndex) {
                if !self.is_hole(&page, found)? {
                    return Ok(Some(offset.max(found.plain_start().0)));
                }
            }
            block = match self.skip_backing_hole(BlockIndex(group_end))? {
                Some(next) => next,
                None => return Ok(None),
            };
        }
        Ok(None)
    }

    /// The first offset from `offset` on that is in a hole or at the end of the file; `None`
    /// past the end.
    pub(super) fn next_hole(&self, offset: u64) -> Result<Option<u64>, VolumeError> {
        if offset >= self.size.0 {
            return Ok(None);
        }
        if !self.has_holes() {
            return Ok(Some(self.size.0));
        }
        let blocks = blocks_in(self.size);
        let mut block = PlainOffset(offset).block();
        while block.0 < blocks {
            let page = self.entry_page(block)?;
            let group_end = block.group_end().0.min(blocks);
            for found in (block.0..group_end).map(BlockIndex) {
                if self.is_hole(&page, found)? {
                    return Ok(Some(offset.max(found.plain_start().0)));
                }
            }
            block = BlockIndex(group_end);
        }
        Ok(Some(self.size.0))
    }

    fn has_holes(&self) -> bool {
        let flagged = self.sealing.as_ref().is_some_and(|it| it.state.flags.may_have_holes);
        flagged || !self.gaps.is_empty()
    }

    fn is_hole(&self, page: &Page, block: BlockIndex) -> Result<bool, VolumeError> {
        let entry = entry_in(page, block).map_err(|_| self.tampered(block, BAD_ENTRY))?;
        Ok(entry == Entry::Hole)
    }

    /// The first block from the group at `group` on for which the backing file may hold data or
    /// entries.
    pub(super) fn skip_backing_hole(
        &self,
        group: BlockIndex,
    ) -> Result<Option<BlockIndex>, VolumeError> {
        if group.0 >= blocks_in(self.size) {
            return Ok(None);
        }
        let (page, _) = entry_place(group);
        let stored = self.backing.next_data(page.start().0)?.map(|data| {
            // The size of a file that ended here tells the blocks before; its group counts.
            let before = plain_size(CipherOffset(data / PAGE_LEN * PAGE_LEN));
            BlockIndex(before.0 / BLOCK_LEN)
        });
        let next = stored.into_iter().chain(self.gather.first_from(group)).min();
        Ok(next.map(|block| block.group_start().max(group)))
    }

    fn allow_holes(&mut self) -> Result<(), VolumeError> {
        let state = self.sealing()?.state;
        if state.flags.may_have_holes {
            return Ok(());
        }
        let flags = StateFlags { may_have_holes: true, ..state.flags };
        self.put_state(StateRecord { flags, ..state })?;
        // Without the flag a hole is damage.
        if self.durable.size().0 > 0 { self.order_now() } else { Ok(()) }
    }

    /// Writes zeros over a range that covers no block whole, where it is not a hole already.
    fn zero_within_blocks(&mut self, offset: u64, end: u64) -> Result<(), VolumeError> {
        let mut at = offset;
        while at < end {
            let block = PlainOffset(at).block();
            let stop = end.min(block.plain_start().0 + BLOCK_LEN);
            let page = self.entry_page(block)?;
            if !self.is_hole(&page, block)? {
                self.write(PlainOffset(at), &ZEROS[..(stop - at) as usize], None)?;
            }
            at = stop;
        }
        Ok(())
    }

    /// Frees what is reserved for whole groups from `block` on that hold nothing, in one call
    /// however many they are; returns where they end, `None` if there are none.
    fn punch_empty_groups(
        &self,
        block: BlockIndex,
        stop: BlockIndex,
    ) -> Result<Option<BlockIndex>, VolumeError> {
        if block != block.group_start() {
            return Ok(None);
        }
        let next = self.skip_backing_hole(block)?.unwrap_or(stop).min(stop.group_start());
        if next <= block {
            return Ok(None);
        }
        let page_start = |block| entry_place(block).0.start().0;
        self.backing.punch(page_start(block), page_start(next) - page_start(block))?;
        Ok(Some(next))
    }

    /// Makes the entries of whole blocks, which lie in one page, those of holes.
    fn clear_entries_in_group(
        &mut self,
        first: BlockIndex,
        stop: BlockIndex,
    ) -> Result<(), VolumeError> {
        let old = self.entry_page(first)?;
        let mut page = OwnPage::copy_of(&old);
        for block in (first.0..stop.0).map(BlockIndex) {
            set_entry_in(&mut page, block, &Entry::Hole);
        }
        if *page == *old {
            return Ok(());
        }
        self.put_entry_page(first, &old, page).inspect_err(|_| self.mark_unsettled())
    }

    /// Frees the data of whole blocks whose entries are cleared.
    fn free_in_group(&mut self, first: BlockIndex, stop: BlockIndex) -> Result<(), VolumeError> {
        let start = first.cipher_start().0;
        let len = (stop.0 - first.0) * BLOCK_LEN;
        let end = (start + len).min(Self::cipher_end(self.size).0);
        // What is left of the data is to be gone before another entry is put over it.
        Ok(self.backing.punch(start, end - start).inspect_err(|_| self.mark_unsettled())?)
    }
}

const ZEROS: [u8; BLOCK_LEN as usize] = [0; BLOCK_LEN as usize];
