//! What a power cut cannot take from an open file, and what has to be synced before more of it
//! may change.
//!
//! After a power cut any of the writes since the last sync of the backing file may be missing.
//! So a block that a sync covers may be written over only once its entry, which then holds the
//! old generation and the new one, is synced; and not a second time before the new data is, or
//! a third generation would push the one that is on the medium out of the entry.

use std::io;
use std::ops::Range;

use super::block_ranges::BlockRanges;
use super::journal::Kept;
use crate::format::{BLOCK_LEN, BlockIndex, PlainSize, blocks_in};
use crate::store::errno_of;

/// What a mount promises for the time after a power cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// What was synced reads at that value or a newer one, also after a power cut.
    #[default]
    Power,
    /// Nothing is lost when the daemon dies; a power cut may damage what was being written.
    Process,
}

/// How far an open file is durable.
pub(super) struct Durable {
    promise: Durability,
    /// So much of the plaintext was on the medium when it was last synced.
    size: PlainSize,
    /// Changed since the last sync began, below `size`.
    in_flight: Changes,
    flushing: Option<Flushing>,
    /// The first sync that failed, as the errno; what it did not write may be gone for good.
    failed: Option<i32>,
    /// Counts changes of the file, and how many of them are synced.
    changed: u64,
    synced: u64,
    /// So many of the changes of the backing file itself are on the medium, or are as good as
    /// there; `None` where that is not known.
    reached: Option<u64>,
}

/// Changes that are not synced, and that further changes of the same blocks must wait for.
#[derive(Default)]
struct Changes {
    blocks: BlockRanges,
    /// Promised records of such blocks.
    kept: Vec<Kept>,
    /// Whatever comes next must wait: the size or the state record changes what blocks mean.
    whole: bool,
}

impl Changes {
    fn add(&mut self, other: Self) {
        self.blocks.insert_all(other.blocks);
        self.kept.extend(other.kept);
        self.whole |= other.whole;
    }
}

/// A sync that goes on.
struct Flushing {
    changes: Changes,
    /// How much of the plaintext is durable when it succeeds.
    size: PlainSize,
    changed: u64,
    reached: u64,
}

impl Durable {
    /// Of a file of which the first `size` bytes are durable.
    pub(super) fn new(promise: Durability, size: PlainSize) -> Self {
        Self {
            promise,
            size,
            in_flight: Changes::default(),
            flushing: None,
            failed: None,
            changed: 0,
            synced: 0,
            reached: Some(0),
        }
    }

    /// The same of a file that was closed before all of it was synced: what of it is in flight is
    /// not known any more, but for these promised records.
    pub(super) fn of_unsynced(promise: Durability, size: PlainSize, kept: Vec<Kept>) -> Self {
        let mut durable = Self { reached: None, ..Self::new(promise, size) };
        durable.note_whole_in_flight();
        durable.hold(kept);
        durable
    }

    /// Recovery begins, of a file of `size` bytes: whatever is there may be durable. A sync that
    /// has failed stays failed: what it did not write, recovery reads from memory as if it were
    /// on the medium.
    pub(super) fn begin_again(&mut self, size: PlainSize) {
        let kept = self.take_kept();
        *self = Self { failed: self.failed, reached: None, ..Self::new(self.promise, size) };
        self.in_flight.kept = kept;
    }

    /// So much of the plaintext survives a power cut.
    pub(super) fn size(&self) -> PlainSize {
        self.size
    }

    /// Sets the size after a recovery, which has synced all there is.
    pub(super) fn recovered(&mut self, size: PlainSize) {
        self.size = size;
        self.in_flight = Changes { kept: self.take_kept(), ..Changes::default() };
        self.flushing = None;
        self.synced = self.changed;
    }

    /// The promised records of what is in flight.
    pub(super) fn take_kept(&mut self) -> Vec<Kept> {
        let flushing = self.flushing.as_mut().map(|flushing| &mut flushing.changes.kept);
        let mut kept = flushing.map(std::mem::take).unwrap_or_default();
        kept.append(&mut self.in_flight.kept);
        kept
    }

    /// Holds promised records of blocks that are in flight until those are synced.
    pub(super) fn hold(&mut self, kept: Vec<Kept>) {
        self.in_flight.kept.extend(kept);
    }

    /// Whether nothing that a power cut might take has been done to the backing file, which was
    /// changed `changes` times.
    pub(super) fn has_reached(&self, changes: u64) -> bool {
        self.failed.is_none() && self.reached == Some(changes)
    }

    /// The last of so many changes of the backing file need not reach the medium: what they have
    /// brought is promised elsewhere.
    pub(super) fn note_reached(&mut self, changes: u64) {
        self.reached = Some(changes);
    }

    /// Whether changes must be ordered by syncs at all.
    pub(super) fn is_promised(&self) -> bool {
        self.promise == Durability::Power
    }

    /// Up to which block a change must be gathered: those that are durable, or about to be.
    pub(super) fn covered(&self) -> BlockIndex {
        if !self.is_promised() {
            return BlockIndex(0);
        }
        let about_to_be = self.flushing.as_ref().map_or(PlainSize(0), |flushing| flushing.size);
        BlockIndex(blocks_in(self.size.max(about_to_be)))
    }

    /// Whether a change of these blocks must wait for a sync.
    pub(super) fn must_wait(&self, blocks: &Range<BlockIndex>) -> bool {
        if !self.is_promised() {
            return false;
        }
        let blocks = blocks.start.0..blocks.end.0;
        let held_up = |changes: &Changes| changes.whole || changes.blocks.meets(&blocks);
        held_up(&self.in_flight)
            || self.flushing.as_ref().is_some_and(|flushing| {
                let becoming = self.size.0 / BLOCK_LEN..blocks_in(flushing.size);
                let overlap = blocks.start < becoming.end && becoming.start < blocks.end;
                held_up(&flushing.changes) || overlap
            })
    }

    /// Notes a change of any kind.
    pub(super) fn note_change(&mut self) {
        self.changed += 1;
    }

    /// Notes that durable blocks have changed.
    pub(super) fn note_in_flight(&mut self, blocks: Range<BlockIndex>) {
        self.note_change();
        self.in_flight.blocks.insert(blocks.start.0..blocks.end.0);
    }

    /// Notes a change that everything further must wait for, if anything is durable.
    pub(super) fn note_whole_in_flight(&mut self) {
        self.note_change();
        self.in_flight.whole |= self.size.0 > 0;
    }

    /// Whether the file has changed since it was last synced.
    pub(super) fn is_unsynced(&self) -> bool {
        self.changed != self.synced
    }

    /// Whether a change that everything must wait for is not synced.
    pub(super) fn whole_in_flight(&self) -> bool {
        self.is_promised() && self.in_flight.whole
    }

    /// The file was cut: what lies behind is no more.
    pub(super) fn cut_to(&mut self, size: PlainSize) {
        self.size = self.size.min(size);
        if let Some(flushing) = &mut self.flushing {
            flushing.size = flushing.size.min(size);
        }
    }

    /// A sync of the backing file begins, after which `size` bytes of plaintext are durable;
    /// `None` where gathered blocks are still to be written.
    /// The backing file was changed `reached` times so far.
    pub(super) fn begin_flush(&mut self, size: Option<PlainSize>, reached: u64) {
        let mut changes = std::mem::take(&mut self.in_flight);
        if let Some(before) = self.flushing.take() {
            // One that goes on in another thread: this one, begun later, covers it.
            changes.add(before.changes);
        }
        let size = size.map_or(self.size, |size| self.size.max(size));
        self.flushing = Some(Flushing { changes, size, changed: self.changed, reached });
    }

    /// The sync has ended. Once one has failed, none succeeds any more: the kernel may have
    /// dropped what it could not write and takes the next sync for complete.
    pub(super) fn end_flush(&mut self, result: io::Result<()>) -> io::Result<()> {
        let result = result.inspect_err(|error| self.note_failed(error));
        let result = result.and_then(|()| self.check());
        let Some(flushing) = self.flushing.take() else { return result };
        if result.is_err() {
            self.in_flight.add(flushing.changes);
            return result;
        }
        self.size = flushing.size;
        self.synced = self.synced.max(flushing.changed);
        self.reached = self.reached.max(Some(flushing.reached));
        flushing.changes.kept.into_iter().for_each(Kept::end);
        Ok(())
    }

    /// A sync of the file has failed, perhaps one by another descriptor.
    pub(super) fn note_failed(&mut self, error: &io::Error) {
        self.failed.get_or_insert(errno_of(error));
    }

    /// The error of the sync that has failed, if one has.
    pub(super) fn check(&self) -> io::Result<()> {
        self.failed.map_or(Ok(()), |errno| Err(io::Error::from_raw_os_error(errno)))
    }
}

#[cfg(test)]
mod tests {
    use rustix::io::Errno;

    use super::*;

    fn blocks(range: Range<u64>) -> Range<BlockIndex> {
        BlockIndex(range.start)..BlockIndex(range.end)
    }

    fn durable(size: u64) -> Durable {
        Durable::new(Durability::Power, PlainSize(size))
    }

    #[test]
    fn what_was_changed_waits_for_a_sync_that_began_later() {
        let mut durable = durable(10 * BLOCK_LEN);
        assert!(!durable.must_wait(&blocks(0..10)) && !durable.is_unsynced());
        durable.note_in_flight(blocks(2..4));
        assert!(durable.must_wait(&blocks(3..9)) && !durable.must_wait(&blocks(4..9)));
        durable.begin_flush(None, 0);
        durable.note_in_flight(blocks(7..8));
        assert!(durable.must_wait(&blocks(3..4)));
        durable.end_flush(Ok(())).unwrap();
        assert!(!durable.must_wait(&blocks(0..7)) && durable.must_wait(&blocks(7..8)));
        assert!(durable.is_unsynced());
    }

    #[test]
    fn what_a_sync_is_about_to_cover_counts_as_covered() {
        let mut durable = durable(BLOCK_LEN + 1);
        durable.begin_flush(Some(PlainSize(5 * BLOCK_LEN)), 0);
        assert_eq!(durable.covered(), BlockIndex(5));
        assert!(durable.must_wait(&blocks(1..2)) && durable.must_wait(&blocks(4..9)));
        assert!(!durable.must_wait(&blocks(0..1)) && !durable.must_wait(&blocks(5..9)));
        durable.end_flush(Ok(())).unwrap();
        assert_eq!((durable.size().0, durable.covered()), (5 * BLOCK_LEN, BlockIndex(5)));
        assert!(!durable.must_wait(&blocks(0..9)));
    }

    #[test]
    fn a_cut_during_a_sync_bounds_what_it_covers() {
        let mut durable = durable(8 * BLOCK_LEN);
        durable.begin_flush(Some(PlainSize(9 * BLOCK_LEN)), 0);
        durable.cut_to(PlainSize(3));
        durable.end_flush(Ok(())).unwrap();
        assert_eq!(durable.size(), PlainSize(3));
    }

    #[test]
    fn a_failed_sync_is_never_followed_by_a_success() {
        let mut durable = durable(BLOCK_LEN);
        durable.note_in_flight(blocks(0..1));
        durable.begin_flush(Some(PlainSize(BLOCK_LEN)), 0);
        let failed =
            durable.end_flush(Err(io::Error::from_raw_os_error(Errno::DQUOT.raw_os_error())));
        assert_eq!(failed.unwrap_err().raw_os_error(), Some(Errno::DQUOT.raw_os_error()));
        assert!(durable.must_wait(&blocks(0..1)));
        durable.begin_flush(Some(PlainSize(BLOCK_LEN)), 0);
        let later = durable.end_flush(Ok(())).unwrap_err();
        assert_eq!(later.raw_os_error(), Some(Errno::DQUOT.raw_os_error()));
        assert!(durable.check().is_err() && durable.is_unsynced());
    }

    #[test]
    fn without_the_promise_nothing_waits() {
        let mut durable = Durable::new(Durability::Process, PlainSize(BLOCK_LEN));
        durable.note_whole_in_flight();
        durable.note_in_flight(blocks(0..1));
        assert!(!durable.must_wait(&blocks(0..1)) && !durable.whole_in_flight());
        assert_eq!(durable.covered(), BlockIndex(0));
    }
}
