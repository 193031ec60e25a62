//! Tells that a file is being read from one end to the other, and what of it the kernel is to
//! fetch meanwhile. Its own read-ahead is small for most disks, and several threads that read
//! piece after piece do not look to it as if one followed the other.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

/// How one file was read last. Where threads overtake each other, a hint may come late or twice.
#[derive(Debug, Default)]
pub(super) struct Stream {
    /// Where the last large read ended.
    reached: AtomicU64,
    /// How much was read in a row.
    run: AtomicU64,
}

impl Stream {
    /// Notes a read of `len` bytes at `offset`, and gives what to fetch ahead of it, if anything.
    pub(super) fn note(&self, offset: u64, len: u64) -> Option<Range<u64>> {
        if len < LARGE {
            return None;
        }
        let end = offset.saturating_add(len);
        let before = self.reached.swap(end, Ordering::Relaxed);
        if before.abs_diff(offset) > NEAR {
            self.run.store(len, Ordering::Relaxed);
            return None;
        }
        let run = self.run.fetch_add(len, Ordering::Relaxed).saturating_add(len);
        let step = end / STEP;
        let is_due = run >= LONG && offset / STEP < step;
        let from = (step + 1) * STEP;
        is_due.then(|| from..from + AHEAD)
    }
}

/// Smaller reads are no part of a stream, in bytes.
const LARGE: u64 = 64 << 10;
/// How far the next read of a stream may be from the end of the last one, as the kernel has
/// several under way.
const NEAR: u64 = 1 << 20;
/// So much in a row is a stream. More than the kernel reads around one access to mapped memory.
const LONG: u64 = 1 << 20;
/// How often there is a hint: once in so many bytes.
const STEP: u64 = 1 << 20;
/// How much each hint asks for; the half of it was asked for before.
const AHEAD: u64 = 2 * STEP;

#[cfg(test)]
mod tests {
    use super::*;

    const PIECE: u64 = 128 << 10;

    fn hints(offsets: impl IntoIterator<Item = u64>) -> Vec<Range<u64>> {
        let stream = Stream::default();
        offsets.into_iter().filter_map(|offset| stream.note(offset, PIECE)).collect()
    }

    #[test]
    fn a_stream_is_fetched_a_step_ahead_without_gaps() {
        let hints = hints((0..64).map(|piece| piece * PIECE));
        assert_eq!(hints[0], 2 << 20..4 << 20);
        assert!(hints.windows(2).all(|two| two[1].start == two[0].start + STEP));
        assert_eq!(hints.len(), 8);
    }

    #[test]
    fn threads_that_overtake_each_other_are_one_stream() {
        let hints = hints((0..64).map(|piece| (piece ^ 1) * PIECE));
        assert!(hints.len() >= 7, "{hints:?}");
    }

    #[test]
    fn a_stream_may_begin_anywhere_and_again() {
        let from = |start: u64| (0..32).map(move |piece| start + piece * PIECE);
        assert!(hints(from(100 << 20)).len() >= 3);
        assert_eq!(hints(from(0).chain(from(0))).len(), 2 * hints(from(0)).len());
    }

    #[test]
    fn reads_here_and_there_are_no_stream() {
        assert_eq!(hints((0..64).map(|piece| piece * 7 % 64 * (4 << 20))), []);
        // What the kernel reads around one access.
        let around = |at: u64| (0..6).map(move |piece| at + piece * PIECE);
        assert_eq!(hints((0..8).flat_map(|at| around(at * (9 << 20)))), []);
    }

    #[test]
    fn small_reads_are_no_stream() {
        let stream = Stream::default();
        assert!((0..4096).all(|block| stream.note(block * 4096, 4096).is_none()));
        assert_eq!(stream.note(u64::MAX - 4096, PIECE), None);
    }
}
