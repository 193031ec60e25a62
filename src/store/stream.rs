//! Tells that a file is being read from one end to the other, and what of it the kernel is to
//! fetch meanwhile. Its own read-ahead is small for most disks, and several threads that read
//! piece after piece do not look to it as if one followed the other. Of two who read one file in
//! places far apart neither is seen.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

/// How one file was read last. Where threads overtake each other, a hint may come late, twice or
/// not at all.
#[derive(Debug, Default)]
pub(super) struct Stream {
    /// Where the last large read ended.
    reached: AtomicU64,
    /// Where the first of those began that followed one another.
    begun: AtomicU64,
    /// How much they have read.
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
            self.begin(offset, len);
            return None;
        }
        let run = self.run.fetch_add(len, Ordering::Relaxed).saturating_add(len);
        let passed = end.saturating_sub(self.begun.load(Ordering::Relaxed));
        if run / 2 > passed.saturating_add(NEAR) {
            // It went back, or over the same again: what comes now counts anew.
            self.begin(offset, len);
            return None;
        }
        // Not what skips most of it.
        let is_whole = run / 2 <= passed && passed / 2 <= run;
        let step = end / STEP;
        let is_due = run >= LONG && is_whole && offset / STEP < step;
        let from = step.saturating_add(1).saturating_mul(STEP);
        is_due.then_some(from..from.saturating_add(AHEAD))
    }

    fn begin(&self, offset: u64, len: u64) {
        self.begun.store(offset, Ordering::Relaxed);
        self.run.store(len, Ordering::Relaxed);
    }
}

/// Smaller reads are no part of a stream, in bytes.
const LARGE: u64 = 64 << 10;
/// How far the next read of a stream may be from the end of the last one: the kernel may have twice
/// its read-ahead under way.
const NEAR: u64 = 2 << 20;
/// So much in a row is a stream. More than the kernel reads around one access to mapped memory,
/// unless it is told to read ahead further.
const LONG: u64 = 1 << 20;
/// How often there is a hint: once in so many bytes.
const STEP: u64 = 1 << 20;
/// How much each hint asks for. Half of it was asked for before, but for what did not come.
const AHEAD: u64 = 2 * STEP;

#[cfg(test)]
mod tests {
    use super::*;

    const PIECE: u64 = 128 << 10;

    fn hints(offsets: impl IntoIterator<Item = u64>) -> Vec<Range<u64>> {
        let stream = Stream::default();
        offsets.into_iter().filter_map(|offset| stream.note(offset, PIECE)).collect()
    }

    fn pieces(count: u64) -> impl Iterator<Item = u64> + Clone {
        (0..count).map(|piece| piece * PIECE)
    }

    #[test]
    fn a_stream_is_fetched_ahead_without_gaps() {
        let hints = hints(pieces(64));
        assert_eq!(hints[0], 2 << 20..4 << 20);
        assert!(hints.windows(2).all(|two| two[1].start == two[0].start + STEP));
        assert_eq!(hints.len(), 8);
    }

    #[test]
    fn threads_that_overtake_each_other_are_one_stream() {
        let hints = hints(pieces(64).map(|offset| offset ^ PIECE));
        assert!(hints.windows(2).all(|two| two[1].start <= two[0].end), "{hints:?}");
        assert_eq!(hints.last().unwrap().end, (8 << 20) + STEP + AHEAD);
    }

    #[test]
    fn one_of_twelve_that_comes_last_does_not_end_a_stream() {
        for late in 0..12 {
            let order = (0..12).filter(move |piece| *piece != late).chain([late]);
            let windows = (0..40).flat_map(|window| order.clone().map(move |at| window * 12 + at));
            let hinted: u64 = hints(windows.map(|piece| piece * PIECE)).len() as u64;
            assert!(hinted >= 57, "{late}: {hinted} of 60 MiB");
        }
    }

    #[test]
    fn what_was_read_backwards_or_again_may_become_a_stream() {
        let back = pieces(800).map(|offset| (100 << 20) - offset);
        assert!(hints(back.chain(pieces(64))).len() >= 6);
        let again = (0..200).flat_map(|_| pieces(8));
        assert!(hints(again.chain(pieces(64))).len() >= 6);
    }

    #[test]
    fn a_stream_may_begin_anywhere_and_again() {
        let once = hints(pieces(64)).len();
        assert_eq!(hints(pieces(64).map(|offset| (100 << 20) + offset)).len(), once);
        assert_eq!(hints(pieces(64).chain(pieces(64))).len(), 2 * once);
    }

    #[test]
    fn reads_here_and_there_are_no_stream() {
        assert_eq!(hints((0..64).map(|piece| piece * 7 % 64 * (4 << 20))), []);
        // What the kernel reads around one access.
        let around = |at: u64| pieces(6).map(move |offset| at + offset);
        assert_eq!(hints((0..8).flat_map(|at| around(at * (9 << 20)))), []);
        // A piece of each MiB, from the end to the beginning, and the same again and again.
        assert_eq!(hints((0..64).map(|piece| piece << 20)), []);
        assert_eq!(hints(pieces(64).map(|offset| (100 << 20) - offset)), []);
        let again = hints((0..64).map(|_| 0));
        assert!(again.len() < 8, "{again:?}");
    }

    #[test]
    fn small_reads_are_no_stream() {
        let stream = Stream::default();
        assert!((0..4096).all(|block| stream.note(block * 4096, 4096).is_none()));
    }

    #[test]
    fn the_largest_offsets_are_survived() {
        let stream = Stream::default();
        for _ in 0..64 {
            stream.note(u64::MAX - PIECE, PIECE);
            stream.note(u64::MAX, u64::MAX);
        }
    }
}
