//! Recovery of a file whose epoch did not end cleanly, at its first open: finishes a change of
//! size, puts every entry in line with the data that is there, cuts a tail that was never
//! synced at its first block that does not open. What it cannot mend it leaves for the reader
//! to find, as `EIO`.

use super::content::Content;
use super::error::VolumeError;
use super::pages::{Page, entry_in, set_entry_in};
use crate::format::{
    BLOCK_LEN, BlockIndex, Entry, PAGE_LEN, PlainSize, StateFlags, StateRecord, blocks_in,
    first_entries, first_entries_mut, stored_len,
};
use crate::sys::fail_point;

impl Content {
    /// Recovers the file. Through a backing file that may not be written nothing is changed:
    /// then blocks are read as whichever generation opens.
    pub(super) fn recover(&mut self) -> Result<(), VolumeError> {
        self.unsettled = true;
        let target = PlainSize(self.sealing()?.state.size);
        let resizing = self.sealing()?.state.flags.resizing;
        if !self.writable {
            if resizing && target < self.size && self.tail_has_length_for(target)? {
                self.size = target;
            }
            self.gaps.append(blocks_in(target)..blocks_in(self.size));
            return Ok(());
        }
        let file = self.file_id();
        let epoch = self.sealing()?.state.epoch;
        log::info!("file {file}: last written in epoch {epoch}, recovering");
        self.read_entries_again()?;

        // The end may lie in a tag page whose first block was never written.
        self.backing.set_size(Self::cipher_end(self.size).0)?;
        if resizing {
            self.finish_resize()?;
        }
        let found = self.align_all_entries(target)?;
        fail_point::hit("volume.recover.after_align");
        if let Some(end) = found.cut_at {
            log::warn!(
                "file {file}: its tail from byte {} on was never synced and does not open, cut off",
                end.plain_start().0
            );
            self.size = PlainSize(end.plain_start().0);
            self.backing.set_size(Self::cipher_end(self.size).0)?;
        }
        self.clear_entries_past_end()?;
        let state = self.sealing()?.state;
        let flags = StateFlags {
            may_have_holes: state.flags.may_have_holes || found.new_holes,
            resizing: false,
        };
        let (size, epoch) = (self.size.0, self.volume.epoch());
        let durable_size = state.durable_size.min(size);
        fail_point::hit("volume.recover.before_state");
        self.put_state(StateRecord { size, durable_size, epoch, flags, ..state })?;
        self.unsettled = false;
        if found != Found::default() {
            log::info!(
                "file {file}: {} blocks put back to the generation on disk, {} lost",
                found.reverted,
                found.lost
            );
        }
        Ok(())
    }

    /// Drops what is remembered of entries: those on disk count.
    fn read_entries_again(&mut self) -> Result<(), VolumeError> {
        let mut page: Page = [0; PAGE_LEN as usize];
        self.backing.read_at(&mut page, 0)?;
        let sealing = self.sealing_mut()?;
        sealing.pages.forget_tags();
        *first_entries_mut(&mut sealing.pages.first) = *first_entries(&page);
        Ok(())
    }

    /// Goes through all blocks and marks as newer the generation that the data on disk is.
    fn align_all_entries(&mut self, authenticated: PlainSize) -> Result<Found, VolumeError> {
        let mut found = Found::default();
        let mut group = BlockIndex(0);
        while group.0 < blocks_in(self.size) && found.cut_at.is_none() {
            let next = match self.skip_backing_hole(group)? {
                Some(next) if group.0 > 0 => next,
                _ if group.0 > 0 => BlockIndex(blocks_in(self.size)),
                _ => group,
            };
            if next > group {
                found.new_holes |= next.plain_start().0 > authenticated.0;
                group = next;
                continue;
            }
            self.align_group(group, authenticated, &mut found)?;
            group = group.group_end();
        }
        Ok(found)
    }

    fn align_group(
        &mut self,
        group: BlockIndex,
        authenticated: PlainSize,
        found: &mut Found,
    ) -> Result<(), VolumeError> {
        let old = self.entry_page(group)?;
        let mut page: Box<Page> = Box::new(*old);
        let end = group.group_end().0.min(blocks_in(self.size));
        for block in (group.0..end).map(BlockIndex) {
            // A malformed entry is tampering, not a crash: pages are written whole.
            let Ok(entry) = entry_in(&page, block) else {
                found.lost += 1;
                continue;
            };
            match self.judge(block, &entry, authenticated)? {
                Verdict::AsItIs => {}
                Verdict::NewHole => found.new_holes = true,
                Verdict::Replace(entry) => {
                    set_entry_in(&mut page, block, &entry);
                    found.reverted += 1;
                }
                Verdict::Lost if block.plain_start().0 >= self.durable.0 => {
                    found.cut_at = Some(block);
                    break;
                }
                Verdict::Lost => found.lost += 1,
            }
        }
        if *page != *old {
            self.put_entry_page(group, page)?;
        }
        Ok(())
    }

    fn judge(
        &self,
        block: BlockIndex,
        entry: &Entry,
        authenticated: PlainSize,
    ) -> Result<Verdict, VolumeError> {
        let past_authenticated = block.plain_start().0 >= authenticated.0;
        let hole_allowed = self.may_be_hole(block) || past_authenticated;
        if *entry == Entry::Hole {
            if !hole_allowed {
                return Ok(Verdict::Lost);
            }
            self.clear_punched_data(block)?;
            return Ok(Verdict::NewHole);
        }
        Ok(match self.entry_that_opens(block, entry, hole_allowed)? {
            Some(found) if found == *entry => Verdict::AsItIs,
            Some(found) => Verdict::Replace(found),
            None => Verdict::Lost,
        })
    }

    /// Finishes the punching of a block whose entry is gone already: only zeros tell later that
    /// a new entry was written and its data was not.
    pub(super) fn clear_punched_data(&self, block: BlockIndex) -> Result<(), VolumeError> {
        let mut cipher = [0; BLOCK_LEN as usize];
        let cipher = &mut cipher[..stored_len(block, self.size)];
        let start = block.cipher_start().0;
        let read = self.backing.read_at(cipher, start)?;
        if cipher[..read].iter().any(|byte| *byte != 0) {
            self.backing.punch(start, read as u64)?;
        }
        Ok(())
    }

    /// Whether the file ends where its state says, for one whose epoch ended cleanly.
    pub(super) fn check_clean(&self, backing_size: u64) -> Result<(), VolumeError> {
        let sealing = self.sealing()?;
        let expected = sealing.state.size;
        let fits = Self::cipher_end(PlainSize(expected)).0 == backing_size;
        if !fits || sealing.state.flags.resizing {
            let (file, found) = (self.file_id(), self.size.0);
            return Err(VolumeError::SizeMismatch { file, found, expected });
        }
        let blocks = blocks_in(self.size);
        for block in (blocks..BlockIndex(0).group_end().0).map(BlockIndex) {
            if entry_in(&sealing.pages.first, block) != Ok(Entry::Hole) {
                return Err(self.tampered(block, "an entry past the end of the file"));
            }
        }
        Ok(())
    }
}

/// What recovery came upon.
#[derive(Debug, Default, PartialEq, Eq)]
struct Found {
    reverted: u64,
    lost: u64,
    new_holes: bool,
    cut_at: Option<BlockIndex>,
}

enum Verdict {
    AsItIs,
    NewHole,
    Replace(Entry),
    Lost,
}
