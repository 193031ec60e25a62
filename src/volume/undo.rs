//! What is done after a failed write: each block's entry is put back in line with the data that
//! is there, as far as the backing store lets it.

use std::ops::Range;

use super::commit;
use super::content::Content;
use super::error::VolumeError;
use super::own_page::SpanPages;
use super::pages::{entry_in, set_entry_in};
use crate::format::{BlockIndex, ContentSum, Entry, PlainSize, blocks_in, entry_place};
use crate::store::BackingFile;

impl Content {
    /// After a failed write: some entries may be ahead of their data. Puts each block's entry
    /// back in line with the data that is there, and the size back. What cannot be put back now
    /// is left to recovery: readers fall back to the generation before.
    pub(super) fn undo(
        &mut self,
        blocks: &Range<BlockIndex>,
        mut pages: SpanPages,
        mut sum: ContentSum,
    ) {
        let attempt = self.align_entries(blocks, &mut pages, &mut sum).and_then(|()| {
            self.sealing_mut()?.sum = sum;
            self.size = self.size_with_tail_on_disk(&pages);
            if !self.sealing()?.on_disk {
                return Ok(self.backing.set_size(0)?);
            }
            let end = Self::cipher_end(self.size);
            self.backing.set_size(end.0)?;
            pages.retain(|index| index.start() < end);
            for (index, page) in pages.iter() {
                commit::write_page(&*self.backing, index, page)?;
            }
            Ok(())
        });
        if let Err(error) = attempt {
            log::error!(
                "file {}: a failed write could not be undone ({error}); where a block's newer \
                 generation is not there its earlier one is used",
                self.file_id()
            );
            self.mark_unsettled();
        }
        // Either way these pages are the nearest to what is on disk.
        if self.keep_pages(pages).is_err() {
            self.mark_unsettled();
        }
    }

    /// The size, given that the last block may have been reached by a write that made it longer
    /// or shorter.
    fn size_with_tail_on_disk(&self, pages: &SpanPages) -> PlainSize {
        let Some(tail) = blocks_in(self.size).checked_sub(1).map(BlockIndex) else {
            return self.size;
        };
        let page = pages.get(entry_place(tail).0);
        match page.map(|page| entry_in(page, tail)) {
            Some(Ok(Entry::Stored(marked))) => {
                PlainSize(tail.plain_start().0 + u64::from(marked.current.len))
            }
            _ => self.size,
        }
    }

    /// Sets the entries of `blocks` to what the data on disk says; those past the end to none.
    fn align_entries(
        &self,
        blocks: &Range<BlockIndex>,
        pages: &mut SpanPages,
        sum: &mut ContentSum,
    ) -> Result<(), VolumeError> {
        let existing = blocks_in(self.size);
        for block in (blocks.start.0..blocks.end.0).map(BlockIndex) {
            let page = pages.of_mut(block);
            let sealed = entry_in(page, block)?;
            let entry = match block.0 < existing {
                true => self.settled_entry(block, &sealed)?,
                false => Entry::Hole,
            };
            self.sealing()?.keys()?.digest.replace(sum, block, &sealed, &entry);
            set_entry_in(page, block, &entry);
        }
        Ok(())
    }
}
