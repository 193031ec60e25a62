//! Threads that help with large files. Their number is bounded over all files that are checked
//! at once: a file takes those that are free, and does without where there are none.

use std::sync::atomic::{AtomicUsize, Ordering};

/// The threads that are free.
pub struct SpareThreads {
    free: AtomicUsize,
}

/// Some of them, until this is dropped.
pub(super) struct Taken<'a> {
    from: &'a SpareThreads,
    count: usize,
}

impl SpareThreads {
    /// So many.
    pub fn new(count: usize) -> Self {
        Self { free: AtomicUsize::new(count) }
    }

    /// As many as are free, at most `wanted`.
    pub(super) fn take(&self, wanted: usize) -> Taken<'_> {
        let left = |free: usize| Some(free - free.min(wanted));
        let before = self.free.fetch_update(Ordering::Relaxed, Ordering::Relaxed, left);
        Taken { from: self, count: before.unwrap_or(0).min(wanted) }
    }
}

impl Taken<'_> {
    pub(super) fn count(&self) -> usize {
        self.count
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        self.from.free.fetch_add(self.count, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_are_given_than_there_are() {
        let spare_threads = SpareThreads::new(3);
        let first = spare_threads.take(2);
        let second = spare_threads.take(2);
        assert_eq!((first.count(), second.count(), spare_threads.take(1).count()), (2, 1, 0));
        drop(first);
        assert_eq!(spare_threads.take(9).count(), 2);
    }
}
