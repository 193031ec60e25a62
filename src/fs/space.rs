//! The space of files that were just removed. A file without a name is held until the kernel has
//! forgotten it, which it says a moment after the removal has returned: who lacks space in
//! between waits for that.

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::{FileSystem, FsError};

/// When a file lost its last name.
pub struct Removals {
    begun: Instant,
    /// In milliseconds since then; 0 while none has.
    last: AtomicU64,
}

impl Default for Removals {
    fn default() -> Self {
        Self { begun: Instant::now(), last: AtomicU64::new(0) }
    }
}

impl Removals {
    /// A file has lost a name.
    pub fn note(&self) {
        self.last.store(self.now(), Ordering::Relaxed);
    }

    fn any_lately(&self) -> bool {
        let last = self.last.load(Ordering::Relaxed);
        last > 0 && self.now().saturating_sub(last) < LATELY_MILLIS
    }

    fn now(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX).max(1)
    }
}

impl FileSystem {
    /// Does what takes space; where there is none left and files were removed lately, again.
    pub(super) fn with_space<T>(
        &self,
        attempt: impl Fn() -> Result<T, FsError>,
    ) -> Result<T, FsError> {
        for wait in WAITS_MILLIS {
            match attempt() {
                Err(error) if lacks_space(&error) && self.removals.any_lately() => {
                    thread::sleep(Duration::from_millis(wait));
                }
                result => return result,
            }
        }
        attempt()
    }
}

fn lacks_space(error: &FsError) -> bool {
    error.is(Errno::NOSPC) || error.is(Errno::DQUOT)
}

const LATELY_MILLIS: u64 = 1000;
/// A quarter of a second in all, for a program that fills a disk up and removes files meanwhile.
const WAITS_MILLIS: [u64; 8] = [1, 2, 4, 8, 16, 32, 64, 128];

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::super::tests::{Fixture, os};
    use super::super::{NodeId, error::refused};

    use super::*;

    #[test]
    fn who_lacks_space_waits_for_what_was_just_removed() {
        let fx = Fixture::new();
        let attempts = Cell::new(0);
        let fails = |times, errno| {
            attempts.set(0);
            fx.fs.with_space(|| {
                attempts.set(attempts.get() + 1);
                if attempts.get() > times { Ok(()) } else { refused(NodeId::ROOT, errno) }
            })
        };
        assert!(fails(1, Errno::NOSPC).unwrap_err().is(Errno::NOSPC), "nothing was removed");
        fx.create(NodeId::ROOT, "file", b"text");
        fx.fs.unlink(NodeId::ROOT, os("file")).unwrap();
        fails(3, Errno::NOSPC).unwrap();
        fails(1, Errno::DQUOT).unwrap();
        assert!(fails(1, Errno::IO).unwrap_err().is(Errno::IO));
        assert_eq!(attempts.get(), 1);
        assert!(fails(99, Errno::NOSPC).unwrap_err().is(Errno::NOSPC));
        assert_eq!(attempts.get(), 1 + WAITS_MILLIS.len());
    }
}
