//! What of a large file that is being written the kernel is to begin to write out meanwhile. By
//! itself it leaves that lying until somebody syncs, who then waits for all of it, or until half a
//! minute has passed. Of two who write one file in places far apart neither is seen.

use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::io::Errno;

use super::FileSystem;
use super::open_table::OpenInode;
use crate::format::PlainOffset;
use crate::sys::write_out::begin_write_out;

impl FileSystem {
    /// To come after a write, when no lock is held: the kernel may have to wait for the disk. One
    /// thread at a time does, so that others serve meanwhile.
    pub(super) fn write_out(&self, inode: &OpenInode, offset: u64, len: u64) {
        let Some(range) = inode.write_out().note(offset, len) else { return };
        if self.writing_out.swap(true, Ordering::Acquire) {
            return;
        }
        let [from, to] =
            [range.start, range.end].map(|at| PlainOffset(at).block().cipher_start().0);
        let begun = begin_write_out(inode.disk().fd(), from..to);
        self.writing_out.store(false, Ordering::Release);
        if let Err(error) = begun
            && !is_not_known(&error)
        {
            // The kernel does not tell of all of these again when the file is synced.
            inode.file().note_sync_failed(&error);
        }
    }
}

/// Whether the file system below does not do that, which harms nothing.
fn is_not_known(error: &io::Error) -> bool {
    let harmless =
        [Errno::INVAL, Errno::SPIPE, Errno::BADF, Errno::NOSYS, Errno::OPNOTSUPP, Errno::INTR];
    Errno::from_io_error(error).is_some_and(|errno| harmless.contains(&errno))
}

/// How one file was written last, in the plaintext. Where threads overtake each other, some of it
/// may be told twice or not at all.
#[derive(Debug, Default)]
pub(super) struct WriteOut {
    /// Where the first large write began of those that lie close together.
    begun: AtomicU64,
    /// How far they have come.
    reached: AtomicU64,
    /// How much they have written.
    run: AtomicU64,
}

impl WriteOut {
    /// Notes a write of `len` bytes at `offset`, and gives what is to be written out now, if
    /// anything.
    fn note(&self, offset: u64, len: u64) -> Option<Range<u64>> {
        if len < LARGE {
            return None;
        }
        let end = offset.saturating_add(len);
        let begun = self.begun.fetch_min(offset, Ordering::Relaxed).min(offset);
        let reached = self.reached.fetch_max(end, Ordering::Relaxed).max(end);
        let before = self.run.fetch_add(len, Ordering::Relaxed);
        let run = before.saturating_add(len);
        let passed = reached.saturating_sub(begun);
        let is_dense = passed / 2 <= run.saturating_add(NEAR);
        let is_first_time = run / 2 <= passed.saturating_add(NEAR);
        if !(is_dense && is_first_time) {
            self.begun.store(offset, Ordering::Relaxed);
            self.reached.store(end, Ordering::Relaxed);
            self.run.store(len, Ordering::Relaxed);
            return None;
        }
        // Each piece comes in four of these, as the threads do not write in order.
        let is_due = passed >= LONG && before / STEP < run / STEP;
        let stop = end.saturating_sub(NEAR);
        (is_due && stop > 0).then(|| stop.saturating_sub(4 * STEP)..stop)
    }
}

/// Smaller writes do not count, in bytes.
const LARGE: u64 = 64 << 10;
/// How far apart writes are that threads have under way at one time.
const NEAR: u64 = 2 << 20;
/// Of a file that is not removed before it has got so large.
const LONG: u64 = 16 << 20;
/// How often something is written out: once in so many bytes.
const STEP: u64 = 4 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    const PIECE: u64 = 1 << 20;

    fn told(offsets: impl IntoIterator<Item = u64>) -> Vec<Range<u64>> {
        let written = WriteOut::default();
        offsets.into_iter().filter_map(|offset| written.note(offset, PIECE)).collect()
    }

    fn pieces(count: u64) -> impl Iterator<Item = u64> {
        (0..count).map(|piece| piece * PIECE)
    }

    fn is_without_gaps(ranges: &[Range<u64>]) -> bool {
        let ends = ranges.iter().scan(0, |end, range| {
            let before = *end;
            *end = range.end.max(before);
            Some(before)
        });
        ranges.iter().zip(ends).all(|(range, end)| range.start <= end)
    }

    #[test]
    fn a_large_file_is_written_out_behind_who_writes_it() {
        let ranges = told(pieces(64));
        assert_eq!((ranges.len(), &ranges[0]), (13, &(0..14 << 20)));
        assert!(is_without_gaps(&ranges) && ranges[12].end == 62 << 20, "{ranges:?}");
        assert!(told(pieces(15)).is_empty());
    }

    #[test]
    fn also_where_writes_overtake_each_other_or_begin_far_in() {
        let mixed = told((0..64).map(|piece| ((piece / 8 * 8) + piece * 5 % 8) << 20));
        assert!(mixed.len() >= 12 && is_without_gaps(&mixed), "{mixed:?}");
        let appended = told(pieces(64).map(|offset| offset + (1 << 40)));
        assert!(appended.len() >= 11 && appended.iter().all(|range| range.end > 1 << 40));
    }

    #[test]
    fn not_what_is_written_again_or_here_and_there() {
        for count in [4, 6, 8, 12, 15] {
            assert!(told((0..40).flat_map(|_| pieces(count))).is_empty(), "{count}");
        }
        assert!(told((0..400).map(|piece| (piece * 7919 % 400) << 26)).is_empty());
        let small = WriteOut::default();
        assert!((0..100_000).all(|block| small.note(block * 4096, 4096).is_none()));
    }

    #[test]
    fn the_end_of_the_number_range_is_no_stream() {
        let written = WriteOut::default();
        written.note(u64::MAX - PIECE, PIECE);
        assert!(written.note(u64::MAX, u64::MAX).is_none_or(|range| range.start <= range.end));
    }
}
