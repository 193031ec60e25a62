//! A backing file in memory that records every change, and makes of the record what a power cut
//! may leave. Knows nothing of what the bytes mean.
//!
//! The model of a power cut: what a sync covered is there. Of the changes since the last sync
//! before the cut any subset is there: each page of a write by itself, each change of size, each
//! punched range. A page goes to the medium as it stood in the cache, so one that is there brings
//! all earlier writes of its own bytes along, whatever became of those. A page of which nothing
//! was durable before may be torn into sectors of 512 bytes, all others are written whole.

use std::io::{self, IoSlice};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::memory::MemoryFile;
use super::{BackingFile, SyncScope};

/// A file in memory whose changes are recorded.
#[derive(Debug)]
pub struct RecordedFile {
    /// Innermost: held for the length of one change.
    journal: Mutex<Journal>,
    live: Arc<MemoryFile>,
}

impl RecordedFile {
    /// A file that holds, durably, what `base` holds now.
    pub fn over(base: &MemoryFile) -> Self {
        let journal = Journal::over(base);
        Self { live: Arc::clone(&journal.live), journal: Mutex::new(journal) }
    }

    /// An empty file.
    pub fn new() -> Self {
        Self::over(&MemoryFile::new())
    }

    /// From now on these syncs are answered and not done: what a missing barrier does.
    pub fn drop_syncs(&self, which: DroppedSyncs) {
        let mut journal = self.lock();
        (journal.dropped, journal.syncs) = (which, 0);
    }

    /// How many records there are so far.
    pub fn position(&self) -> usize {
        self.lock().records.len()
    }

    /// The stretches between syncs so far.
    pub fn segments(&self) -> Vec<Segment> {
        self.lock().segments()
    }

    /// A file of its own with the present contents: what the death of a process leaves.
    pub fn snapshot(&self) -> MemoryFile {
        self.live.snapshot()
    }

    fn lock(&self) -> MutexGuard<'_, Journal> {
        self.journal.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for RecordedFile {
    fn default() -> Self {
        Self::new()
    }
}

impl BackingFile for RecordedFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.live.read_at(buf, offset)
    }

    fn write_at(&self, bufs: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        self.lock().write_at(bufs, offset)
    }

    fn size(&self) -> io::Result<u64> {
        self.live.size()
    }

    fn set_size(&self, size: u64) -> io::Result<()> {
        self.lock().set_size(size)
    }

    fn allocate(&self, offset: u64, len: u64, keep_size: bool) -> io::Result<()> {
        self.lock().allocate(offset, len, keep_size)
    }

    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        self.lock().punch(offset, len)
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<u64>> {
        self.live.next_data(offset)
    }

    fn sync(&self, scope: SyncScope) -> io::Result<()> {
        self.lock().sync(scope);
        Ok(())
    }
}

/// Which syncs are answered and not done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DroppedSyncs {
    None,
    All,
    /// Those of this scope.
    Of(SyncScope),
    /// One of them, counted from 0.
    Nth(usize),
}

/// The changes of one file in order, and what it holds now.
#[derive(Debug)]
pub struct Journal {
    base: Arc<MemoryFile>,
    live: Arc<MemoryFile>,
    records: Vec<Record>,
    dropped: DroppedSyncs,
    /// Syncs that were asked for since `dropped` was set.
    syncs: usize,
}

impl Journal {
    /// Of a file that holds, durably, what `base` holds now.
    pub fn over(base: &MemoryFile) -> Self {
        let (base, live) = (Arc::new(base.snapshot()), Arc::new(base.snapshot()));
        Self { base, live, records: Vec::new(), dropped: DroppedSyncs::None, syncs: 0 }
    }

    /// A write, as one change for each page that it touches.
    pub fn write_at(&mut self, bufs: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        let before = self.live.size()?;
        self.live.write_at(bufs, offset)?;
        let len: u64 = bufs.iter().map(|buf| buf.len() as u64).sum();
        if len == 0 {
            return Ok(());
        }
        let size = self.live.size()?;
        if size > before {
            self.records.push(Record::Change(Change::Grow { size, by_write: true }));
        }
        for page in offset / PAGE..(offset + len).div_ceil(PAGE) {
            let mut image = vec![0; PAGE as usize];
            let read = self.live.read_at(&mut image, page * PAGE)?;
            image.truncate(read);
            self.records.push(Record::Change(Change::Page { page, image }));
        }
        Ok(())
    }

    /// A change of size.
    pub fn set_size(&mut self, size: u64) -> io::Result<()> {
        let before = self.live.size()?;
        self.live.set_size(size)?;
        if size != before {
            self.records.push(Record::Change(Change::SetSize { size }));
        }
        Ok(())
    }

    /// A reservation, which changes at most the size.
    pub fn allocate(&mut self, offset: u64, len: u64, keep_size: bool) -> io::Result<()> {
        let before = self.live.size()?;
        self.live.allocate(offset, len, keep_size)?;
        let size = self.live.size()?;
        if size > before {
            self.records.push(Record::Change(Change::Grow { size, by_write: false }));
        }
        Ok(())
    }

    /// A punched range.
    pub fn punch(&mut self, offset: u64, len: u64) -> io::Result<()> {
        self.live.punch(offset, len)?;
        self.records.push(Record::Change(Change::Punch { offset, len }));
        Ok(())
    }

    /// A sync that was answered.
    pub fn sync(&mut self, scope: SyncScope) {
        let dropped = match self.dropped {
            DroppedSyncs::None => false,
            DroppedSyncs::All => true,
            DroppedSyncs::Of(dropped) => dropped == scope,
            DroppedSyncs::Nth(dropped) => dropped == self.syncs,
        };
        self.syncs += 1;
        if !dropped {
            self.records.push(Record::Sync);
        }
    }

    /// The stretches between syncs; the last one goes on to the end of the record.
    pub fn segments(&self) -> Vec<Segment> {
        let mut segments = Vec::new();
        let (mut durable, mut start) = (Arc::clone(&self.base), 0);
        let ends = self.records.iter().enumerate();
        let syncs = ends.filter(|(_, record)| matches!(record, Record::Sync)).map(|(at, _)| at);
        for end in syncs.chain([self.records.len()]) {
            let changes = self.records[start..end].iter().filter_map(Record::change).cloned();
            let segment = Segment { durable, changes: changes.collect(), records: start..end };
            durable = Arc::new(segment.content(&vec![Fate::Whole; segment.changes.len()]));
            segments.push(segment);
            start = end + 1;
        }
        segments
    }
}

#[derive(Debug)]
enum Record {
    Change(Change),
    Sync,
}

impl Record {
    fn change(&self) -> Option<&Change> {
        match self {
            Self::Change(change) => Some(change),
            Self::Sync => None,
        }
    }
}

/// What a power cut leaves or does not leave by itself.
#[derive(Debug, Clone)]
pub enum Change {
    /// One page, as it was after a write, up to the end of the file at that time.
    Page { page: u64, image: Vec<u8> },
    /// A change of size.
    SetSize { size: u64 },
    /// The growth that a write or a reservation brings. In the cache that of a write comes with
    /// its pages; on the medium it may be there without them.
    Grow { size: u64, by_write: bool },
    /// Bytes that were freed.
    Punch { offset: u64, len: u64 },
}

/// What became of one change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Missing,
    Whole,
    /// Of a page: the sectors whose bits are set are there, the first one in the lowest bit.
    Torn(u8),
}

/// The changes between two syncs.
#[derive(Debug, Clone)]
pub struct Segment {
    durable: Arc<MemoryFile>,
    changes: Vec<Change>,
    records: Range<usize>,
}

impl Segment {
    /// The changes whose fate is open.
    pub fn changes(&self) -> &[Change] {
        &self.changes
    }

    /// The positions in the record that it spans. It is over when the sync behind it, which is
    /// not in the range, has been answered.
    pub fn records(&self) -> Range<usize> {
        self.records.clone()
    }

    /// Whether the change may be torn: a page of which nothing was durable.
    pub fn may_tear(&self, change: usize) -> bool {
        let durable = self.durable.size().unwrap_or_default().div_ceil(PAGE);
        matches!(&self.changes[change], Change::Page { page, .. } if *page >= durable)
    }

    /// What the file holds after a cut that left each change its fate.
    pub fn content(&self, fates: &[Fate]) -> MemoryFile {
        assert_eq!(fates.len(), self.changes.len(), "each change has one fate");
        let file = self.durable.snapshot();
        for (change, fate) in self.changes.iter().zip(fates) {
            apply(&file, change, *fate).expect("what was done once can be done again");
        }
        file
    }
}

fn apply(file: &MemoryFile, change: &Change, fate: Fate) -> io::Result<()> {
    match (change, fate) {
        (_, Fate::Missing) => Ok(()),
        (Change::Page { page, image }, Fate::Whole) => {
            file.write_at(&[IoSlice::new(image)], page * PAGE)?;
            // The cache holds zeros behind the end of the file, and writes them along.
            let end = page * PAGE + image.len() as u64;
            match (page + 1) * PAGE - end {
                0 => Ok(()),
                rest => file.punch(end, rest),
            }
        }
        (Change::Page { page, image }, Fate::Torn(sectors)) => {
            let there = |sector: &usize| sectors >> sector & 1 == 1;
            for sector in (0..image.len().div_ceil(SECTOR)).filter(there) {
                let from = sector * SECTOR;
                let bytes = &image[from..image.len().min(from + SECTOR)];
                file.write_at(&[IoSlice::new(bytes)], page * PAGE + from as u64)?;
            }
            // The size is no part of the page: it never ends at a sector that is missing.
            file.set_size((page * PAGE + image.len() as u64).max(file.size()?))
        }
        (Change::SetSize { size }, _) => file.set_size(*size),
        (Change::Grow { size, .. }, _) => file.set_size((*size).max(file.size()?)),
        (Change::Punch { offset, len }, _) => file.punch(*offset, *len),
    }
}

const PAGE: u64 = 4096;
const SECTOR: usize = 512;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::conformance_tests;

    fn write(file: &RecordedFile, offset: u64, bytes: &[u8]) {
        file.write_at(&[IoSlice::new(bytes)], offset).unwrap();
    }

    fn bytes(file: &MemoryFile) -> Vec<u8> {
        let mut bytes = vec![0; file.size().unwrap() as usize];
        file.read_at(&mut bytes, 0).unwrap();
        bytes
    }

    fn last(file: &RecordedFile) -> Segment {
        file.segments().pop().unwrap()
    }

    #[test]
    fn conforms() {
        conformance_tests::check(RecordedFile::new);
    }

    #[test]
    fn all_changes_there_is_the_file_itself() {
        let file = RecordedFile::new();
        write(&file, 100, &[1; 9000]);
        file.sync(SyncScope::Data).unwrap();
        file.punch(4096, 4096).unwrap();
        file.set_size(20_000).unwrap();
        write(&file, 19_000, &[2; 5000]);
        file.set_size(23_000).unwrap();
        file.allocate(0, 30_000, false).unwrap();
        let segment = last(&file);
        let whole = segment.content(&vec![Fate::Whole; segment.changes().len()]);
        assert!(bytes(&whole) == bytes(&file.snapshot()));
        assert_eq!(segment.records().end, file.position());
    }

    #[test]
    fn what_a_sync_covered_is_there_and_of_the_rest_any_subset() {
        let file = RecordedFile::new();
        write(&file, 0, &[1; 8192]);
        file.sync(SyncScope::All).unwrap();
        write(&file, 0, &[2; 8192]);
        file.set_size(5000).unwrap();
        let segment = last(&file);
        assert_eq!(segment.changes().len(), 3);
        let left = |fates: [Fate; 3]| bytes(&segment.content(&fates));
        use Fate::{Missing, Whole};
        assert!(left([Missing; 3]) == [1; 8192]);
        assert!(left([Missing, Whole, Missing]) == [[1; 4096], [2; 4096]].concat());
        assert!(left([Whole, Missing, Whole]) == [&[2; 4096][..], &[1; 904]].concat());
    }

    #[test]
    fn a_later_page_brings_the_earlier_bytes_of_its_page_along() {
        let file = RecordedFile::new();
        write(&file, 0, &[1; 100]);
        write(&file, 100, &[2; 100]);
        let segment = last(&file);
        use Fate::{Missing, Whole};
        // Each write has grown the file too.
        let left = segment.content(&[Missing, Missing, Missing, Whole]);
        assert!(bytes(&left) == [[1; 100], [2; 100]].concat());
        assert!(bytes(&segment.content(&[Missing, Whole, Missing, Missing])) == [1; 100]);
        assert!(bytes(&segment.content(&[Missing, Missing, Whole, Missing])) == [0; 200]);
    }

    #[test]
    fn only_a_page_that_is_new_may_be_torn() {
        let file = RecordedFile::new();
        write(&file, 0, &[1; 4096]);
        file.sync(SyncScope::Data).unwrap();
        write(&file, 0, &[2; 8192]);
        let segment = last(&file);
        let torn: Vec<_> =
            (0..segment.changes().len()).filter(|at| segment.may_tear(*at)).collect();
        assert_eq!(torn, [2], "the growth, the old page, the new page");
        let left = bytes(&segment.content(&[Fate::Missing, Fate::Missing, Fate::Torn(0b100)]));
        let expected = [&[1; 4096][..], &[0; 1024], &[2; 512], &[0; 2560]].concat();
        assert!(left == expected);
    }

    #[test]
    fn a_dropped_sync_covers_nothing() {
        for (dropped, left) in [
            (DroppedSyncs::None, 3),
            (DroppedSyncs::All, 1),
            (DroppedSyncs::Of(SyncScope::All), 2),
            (DroppedSyncs::Nth(1), 2),
            (DroppedSyncs::Nth(2), 3),
        ] {
            let file = RecordedFile::new();
            file.drop_syncs(dropped);
            write(&file, 0, &[1; 10]);
            file.sync(SyncScope::All).unwrap();
            file.sync(SyncScope::Data).unwrap();
            let segments = file.segments();
            assert_eq!(segments.len(), left, "{dropped:?}");
            let open = segments[0].changes().len();
            assert!(bytes(&segments[0].content(&vec![Fate::Missing; open])).is_empty());
        }
    }

    #[test]
    fn a_segment_starts_from_what_was_there_before() {
        let base = MemoryFile::new();
        base.write_at(&[IoSlice::new(b"base")], 0).unwrap();
        let file = RecordedFile::over(&base);
        write(&file, 2, b"xx");
        assert!(bytes(&last(&file).content(&[Fate::Missing])) == b"base");
        assert!(bytes(&last(&file).content(&[Fate::Whole])) == b"baxx");
    }
}
