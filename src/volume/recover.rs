//! Recovery of a file whose epoch did not end cleanly, at its first open: finishes a change of
//! size, puts every entry in line with the data that is there, cuts a tail that was never
//! synced at its first block that does not open. What it cannot mend it leaves for the reader
//! to find, as `EIO`.

use std::collections::BTreeMap;

use super::content::Content;
use super::error::VolumeError;
use super::gather::Gathered;
use super::own_page::OwnPage;
use super::pages::{Page, entry_in, set_entry_in};
use crate::format::{
    BLOCK_LEN, BlockIndex, Entry, PAGE_LEN, PlainOffset, PlainSize, StateFlags, StateRecord,
    blocks_in, first_entries, first_entries_mut, stored_len,
};
use crate::store::BackingFile;
use crate::sys::fail_point;

impl Content {
    /// Recovers the file. Through a backing file that may not be written nothing is changed:
    /// then blocks are read as whichever generation opens.
    pub(super) fn recover(&mut self) -> Result<(), VolumeError> {
        self.unsettled = true;
        if !self.writable {
            let waiting = self.gather.take_all();
            let looked = self.look_through(&waiting);
            self.gather_again(waiting);
            return looked;
        }
        // Where a sync has failed, what is read is not what is on the medium: nothing may build
        // on it until the file is opened anew.
        self.durable.check()?;
        let waiting = self.gather.take_all();
        let found = self.recover_on_disk(&waiting);
        self.gather_again(waiting);
        self.conclude_recovery(&found?)
    }

    /// Recovery up to where what is on disk is in order.
    fn recover_on_disk(&mut self, waiting: &Waiting) -> Result<Found, VolumeError> {
        let file = self.file_id();
        let StateRecord { size, epoch, flags, .. } = self.sealing()?.state;
        log::info!("file {file}: last written in epoch {epoch}, recovering");
        self.read_entries_again()?;
        let floor = self.durable.size();
        self.end_allowance();
        // Whatever is there is not to be written over without its entry.
        self.durable.begin_again(self.size);

        // The end may lie in a tag page whose first block was never written.
        self.backing.set_size(Self::cipher_end(self.size).0)?;
        if flags.resizing {
            match self.finish_resize() {
                Ok(()) => self.commit_now()?,
                // Its last block, before or after, was never synced and did not come.
                Err(VolumeError::Integrity { block, problem, .. }) => log::warn!(
                    "file {file}: a change of size cannot be finished: block {block}: {problem}"
                ),
                Err(error) => return Err(error),
            }
        }
        let found = self.align_all_entries(PlainSize(size), floor, waiting)?;
        fail_point::hit("volume.recover.after_align");
        if let Some(end) = found.cut_at {
            log::warn!(
                "file {file}: its tail from byte {} on was never synced and does not open, cut off",
                end.0
            );
            self.size = end;
            self.backing.set_size(Self::cipher_end(self.size).0)?;
            self.durable.cut_to(end);
            // Before the entries go: without them what was cut off would come back as a hole.
            self.order_now()?;
        }
        self.clear_entries_past_end()?;
        Ok(found)
    }

    /// Puts what waits into the file while its record still names the epoch that crashed, so that
    /// it is found again wherever this breaks off; then the record names this epoch.
    fn conclude_recovery(&mut self, found: &Found) -> Result<(), VolumeError> {
        let file = self.file_id();
        let state = self.sealing()?.state;
        let may_have_holes = state.flags.may_have_holes || found.new_holes;
        let had_gathered = self.has_gathered();
        if had_gathered {
            if may_have_holes != state.flags.may_have_holes {
                let flags = StateFlags { may_have_holes, ..state.flags };
                self.put_state(StateRecord { flags, ..state })?;
            }
            self.commit_now()?;
            // What a sync of the journal was answered for must not cease to count there before it
            // is in the file for good, whatever this mount promises.
            self.flush_now()?;
        }
        self.renew_digest()?;
        let state = self.sealing()?.state;
        let flags = StateFlags { may_have_holes, resizing: false, digest_kept: true };
        let (size, epoch) = (self.size.0, self.volume.epoch());
        let durable_size = state.durable_size.min(size);
        fail_point::hit("volume.recover.before_state");
        self.put_state(StateRecord { size, durable_size, epoch, flags, ..state })?;
        match had_gathered {
            true => self.flush_now()?,
            false => self.order_now()?,
        }
        self.durable.recovered(self.size);
        self.unsettled = false;
        if found.reverted + found.lost > 0 {
            log::info!(
                "file {file}: {} blocks put back to the generation on disk, {} lost",
                found.reverted,
                found.lost
            );
        }
        Ok(())
    }

    /// Finds out how far a file reaches that may not be written: what would be cut off does not
    /// count.
    fn look_through(&mut self, waiting: &Waiting) -> Result<(), VolumeError> {
        let state = self.sealing()?.state;
        let target = PlainSize(state.size);
        if state.flags.resizing && target < self.size && self.tail_has_length_for(target)? {
            self.size = target;
        }
        self.gaps.insert(blocks_in(target)..blocks_in(self.size));
        let floor = self.durable.size();
        let mut block = BlockIndex(floor.0 / BLOCK_LEN);
        while block.0 < blocks_in(self.size) {
            if block == block.group_start() && block.0 > 0 {
                let Some(next) = self.skip_backing_hole(block)? else { break };
                block = next;
            }
            let page = self.entry_page_uncached(block)?;
            let end = block.group_end().0.min(blocks_in(self.size));
            for block in (block.0..end).map(BlockIndex) {
                let Ok(entry) = entry_in(&page, block) else { continue };
                if waiting.contains_key(&block) {
                    continue;
                }
                let found = self.standing(block, &entry, self.may_be_hole(block))?;
                if let Some(size) = found.ends_file_at(block, floor) {
                    self.size = size;
                    return Ok(());
                }
            }
            block = block.group_end();
        }
        Ok(())
    }

    /// Drops what is remembered of entries: those on disk count.
    fn read_entries_again(&mut self) -> Result<(), VolumeError> {
        let mut page: Page = [0; PAGE_LEN as usize];
        self.backing.read_at(&mut page, 0)?;
        let sealing = self.sealing_mut()?;
        sealing.pages.forget_all_tags();
        *first_entries_mut(sealing.pages.first_mut()) = *first_entries(&page);
        Ok(())
    }

    /// Goes through all blocks and marks as newer the generation that the data on disk is.
    fn align_all_entries(
        &mut self,
        authenticated: PlainSize,
        floor: PlainSize,
        waiting: &Waiting,
    ) -> Result<Found, VolumeError> {
        let mut found = Found::default();
        let mut group = BlockIndex(0);
        while group.0 < blocks_in(self.size) && found.cut_at.is_none() {
            let next = match self.skip_backing_hole(group)? {
                Some(next) if group.0 > 0 => next,
                _ if group.0 > 0 => BlockIndex(blocks_in(self.size)),
                _ => group,
            };
            if next > group {
                if !self.may_be_hole(group) && group.plain_start().0 < authenticated.0 {
                    // Neither the entries nor the data of what the record tells of are there.
                    found.cut_at = Standing::Lost.ends_file_at(group, floor);
                    found.lost += u64::from(found.cut_at.is_none()) * (next.0 - group.0);
                } else {
                    found.new_holes |= next.plain_start().0 > authenticated.0;
                }
                group = next;
                continue;
            }
            let known = Known { authenticated, floor, waiting };
            self.align_group(group, &known, &mut found)?;
            group = group.group_end();
        }
        Ok(found)
    }

    fn align_group(
        &mut self,
        group: BlockIndex,
        known: &Known<'_>,
        found: &mut Found,
    ) -> Result<(), VolumeError> {
        let old = self.entry_page(group)?;
        let mut page = OwnPage::copy_of(&old);
        let end = group.group_end().0.min(blocks_in(self.size));
        for block in (group.0..end).map(BlockIndex) {
            // A malformed entry is tampering, not a crash: pages are written whole.
            let Ok(entry) = entry_in(&page, block) else {
                found.lost += 1;
                continue;
            };
            let past_authenticated = block.plain_start() >= PlainOffset(known.authenticated.0);
            let hole_allowed = self.may_be_hole(block) || past_authenticated;
            let standing = self.standing(block, &entry, hole_allowed)?;
            if entry == Entry::Hole && hole_allowed {
                self.clear_punched_data(block)?;
            }
            // Also where an entry was written and its data was not.
            found.new_holes |= matches!(standing, Standing::Opens(Entry::Hole));
            if let Standing::Opens(other) | Standing::Short(other) = standing
                && other != entry
            {
                set_entry_in(&mut page, block, &other);
                found.reverted += 1;
            }
            if known.waiting.contains_key(&block) {
                continue;
            }
            found.cut_at = standing.ends_file_at(block, known.floor);
            if found.cut_at.is_some() {
                break;
            }
            found.lost += u64::from(!matches!(standing, Standing::Opens(_)));
        }
        if *page != *old {
            self.put_entry_page(group, &old, page)?;
        }
        Ok(())
    }

    /// What the data on disk says of a block and its entry.
    fn standing(
        &self,
        block: BlockIndex,
        entry: &Entry,
        hole_allowed: bool,
    ) -> Result<Standing, VolumeError> {
        if *entry == Entry::Hole {
            return Ok(if hole_allowed { Standing::Opens(Entry::Hole) } else { Standing::Lost });
        }
        Ok(match self.entry_that_opens(block, entry, hole_allowed)? {
            Some(Entry::Stored(marked))
                if usize::from(marked.current.len) < stored_len(block, self.size) =>
            {
                Standing::Short(Entry::Stored(marked))
            }
            Some(found) => Standing::Opens(found),
            None => Standing::Lost,
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
    cut_at: Option<PlainSize>,
}

/// What is known of a file before its blocks are looked at.
struct Known<'a> {
    /// The size in its record.
    authenticated: PlainSize,
    /// The durable size in its record: what lies before it is not cut off.
    floor: PlainSize,
    waiting: &'a Waiting,
}

/// Blocks that are in memory, to be written yet: they are not missed on disk.
type Waiting = BTreeMap<BlockIndex, Gathered>;

/// How a block stands.
#[derive(Clone, Copy)]
enum Standing {
    /// It opens, by this entry, or is a hole.
    Opens(Entry),
    /// It opens by this entry, at a length that the last block of a file has: the size is there
    /// of a change whose data never came.
    Short(Entry),
    Lost,
}

impl Standing {
    /// Where the file ends because of this block: not before what was synced.
    fn ends_file_at(self, block: BlockIndex, floor: PlainSize) -> Option<PlainSize> {
        let end = match self {
            Self::Short(Entry::Stored(marked)) => {
                block.plain_start().0 + u64::from(marked.current.len)
            }
            Self::Lost => block.plain_start().0,
            Self::Opens(_) | Self::Short(Entry::Hole) => return None,
        };
        (end >= floor.0).then_some(PlainSize(end))
    }
}
