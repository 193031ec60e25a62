//! The content digest of an open file: kept up with each change of an entry, counted anew where
//! it is not known, compared at open where that needs no more than page 0.

use std::ops::Range;

use super::content::Content;
use super::error::VolumeError;
use super::pages::{Page, entry_in};
use crate::format::{BlockIndex, ContentSum, Entry, FIRST_ENTRIES, blocks_in};

impl Content {
    /// The sum after the page with the entry of `block` has changed from `old` to `new`.
    pub(super) fn sum_after(
        &self,
        block: BlockIndex,
        old: &Page,
        new: &Page,
    ) -> Result<ContentSum, VolumeError> {
        let sealing = self.sealing()?;
        let key = &sealing.keys()?.digest;
        let mut sum = sealing.sum;
        for block in (block.group_start().0..block.group_end().0).map(BlockIndex) {
            // What is malformed was no part of the sum, or is not what was summed up.
            let [old, new] = [old, new].map(|page| entry_in(page, block).unwrap_or(Entry::Hole));
            if old != new {
                key.replace(&mut sum, block, &old, &new);
            }
        }
        Ok(sum)
    }

    /// Sums up the entries of `blocks`, which begin with a group.
    pub(super) fn sum_of(&self, blocks: Range<BlockIndex>) -> Result<ContentSum, VolumeError> {
        let mut sum = ContentSum::default();
        let mut group = blocks.start;
        while group < blocks.end {
            // A group that the backing file has nothing of has no entries.
            let next = match group.0 {
                0 => Some(group),
                _ => self.skip_backing_hole(group)?,
            };
            let Some(next) = next.filter(|next| *next < blocks.end) else { break };
            let page = self.entry_page_uncached(next)?;
            let key = &self.sealing()?.keys()?.digest;
            let end = next.group_end().min(blocks.end);
            for block in (next.0..end.0).map(BlockIndex) {
                key.add(&mut sum, block, &entry_in(&page, block).unwrap_or(Entry::Hole));
            }
            group = next.group_end();
        }
        Ok(sum)
    }

    /// The blocks from `cut` on, which begin a group, are about to go.
    pub(super) fn leave_out_of_sum(&mut self, cut: BlockIndex) -> Result<(), VolumeError> {
        let blocks = blocks_in(self.size);
        if !self.sealing()?.state.flags.digest_kept || cut.0 >= blocks {
            return Ok(());
        }
        let sum = match blocks - cut.0 <= cut.0 {
            true => self.sealing()?.sum.without(self.sum_of(cut..BlockIndex(blocks))?),
            false => self.sum_of(BlockIndex(0)..cut)?,
        };
        self.sealing_mut()?.sum = sum;
        Ok(())
    }

    /// Takes the digest of a file whose epoch ended cleanly from its record. Where all entries
    /// are in page 0 they are compared with it; a file that has no digest yet then gets one.
    pub(super) fn take_digest(&mut self) -> Result<(), VolumeError> {
        let blocks = blocks_in(self.size);
        let all_in_first_page = blocks <= FIRST_ENTRIES;
        let found = match all_in_first_page {
            true => Some(self.sum_of(BlockIndex(0)..BlockIndex(blocks))?),
            false => None,
        };
        let sealing = self.sealing()?;
        let state = sealing.state;
        if !state.flags.digest_kept {
            if let Some(found) = found {
                let sealing = self.sealing_mut()?;
                (sealing.sum, sealing.told) = (found, found);
                sealing.state.flags.digest_kept = true;
            }
            return Ok(());
        }
        let told = sealing.keys()?.digest.unmask(&state.digest, state.sequence, state.epoch)?;
        if found.is_some_and(|found| found != told) {
            return Err(VolumeError::Replayed { file: self.file_id() });
        }
        let sealing = self.sealing_mut()?;
        (sealing.sum, sealing.told) = (told, told);
        Ok(())
    }

    /// Counts the digest anew from the entries that are there, which a recovery has put in
    /// line with the data.
    pub(super) fn renew_digest(&mut self) -> Result<(), VolumeError> {
        let sum = self.sum_of(BlockIndex(0)..BlockIndex(blocks_in(self.size)))?;
        self.sealing_mut()?.sum = sum;
        Ok(())
    }
}
