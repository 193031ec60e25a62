//! Files that are longer than their backing files say: they grew within their last block, a sync
//! of the journal was answered for that, and the power failed before the backing file's size was
//! on the medium. Recovery brings it at the first open. Until then the journal tells the size to
//! whoever only asks for that, which takes no key: a claim, no proof.

use std::collections::HashMap;
use std::ops::Range;

use super::describe::describe;
use super::error::VolumeError;
use super::left_behind::Blocks;
use super::mounted::Volume;
use super::pages::{Page, entry_in};
use crate::format::{
    BlockIndex, CipherOffset, Entry, JournalRecord, PAGE_LEN, PlainSize, blocks_in, entry_place,
    plain_size, stored_len,
};
use crate::store::BackingFile;

impl Volume {
    /// Whether a file whose backing file has `backing_size` bytes may be longer than that says.
    pub fn may_be_longer(&self, backing_size: u64) -> bool {
        let left = self.left_behind();
        left.is_any() && {
            let size = plain_size(CipherOffset(backing_size));
            last_block(size).is_some_and(|block| left.may_grow(block, stored_len(block, size)))
        }
    }

    /// The size in bytes that recovery will find, as it seems; `None` if that is what the backing
    /// file says.
    pub fn foreseen_size(&self, backing: &dyn BackingFile) -> Result<Option<u64>, VolumeError> {
        let found = describe(backing)?.filter(|found| found.volume_id == self.id());
        let Some(found) = found else { return Ok(None) };
        let Some(block) = last_block(PlainSize(found.size)) else { return Ok(None) };
        let records = self.left_behind().records_of(found.file_id, found.epoch, block);
        if records.is_empty() {
            return Ok(None);
        }
        let mut page: Page = [0; PAGE_LEN as usize];
        backing.read_at(&mut page, entry_place(block).0.start().0)?;
        let Ok(Entry::Stored(held)) = entry_in(&page, block) else { return Ok(None) };
        let is_held = |record: &&JournalRecord| match record.base {
            Entry::Hole => false,
            Entry::Stored(base) => {
                [Some(held.current), held.previous].contains(&Some(base.current))
            }
        };
        let newest = records.iter().rev().find(is_held);
        let longer = newest.filter(|record| {
            usize::from(record.sealed.len) > stored_len(block, PlainSize(found.size))
        });
        Ok(longer.map(|record| block.plain_start().0 + u64::from(record.sealed.len)))
    }
}

/// In which last blocks files of these records may grow, from what length to what.
pub(super) fn growing<'a>(
    files: impl Iterator<Item = &'a Blocks>,
) -> HashMap<BlockIndex, Range<u16>> {
    let mut growing: HashMap<BlockIndex, Range<u16>> = HashMap::new();
    for (block, records) in files.flatten() {
        for (record, _) in records {
            let Entry::Stored(base) = record.base else { continue };
            let (from, to) = (base.current.len, record.sealed.len);
            if from < to {
                let lengths = growing.entry(*block).or_insert(from..to);
                *lengths = lengths.start.min(from)..lengths.end.max(to);
            }
        }
    }
    growing
}

fn last_block(size: PlainSize) -> Option<BlockIndex> {
    blocks_in(size).checked_sub(1).map(BlockIndex)
}
