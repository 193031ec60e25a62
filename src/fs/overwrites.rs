//! Whether writes make files longer or write over what is there. The kernel does well to send what
//! it has gathered early in the first case, while the program goes on, and late in the second,
//! when blocks have been written again or have got neighbours.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::Thread;

use super::FileSystem;

/// Counts overwrites, and wakes who wants to know of them.
#[derive(Default)]
pub(super) struct Overwrites {
    count: AtomicU64,
    watcher: OnceLock<Thread>,
    awaited: AtomicBool,
}

impl Overwrites {
    /// Notes one.
    pub(super) fn note(&self) {
        let count = self.count.fetch_add(1, Ordering::Relaxed) + 1;
        if count.is_multiple_of(STEP)
            && self.awaited.load(Ordering::Relaxed)
            && let Some(watcher) = self.watcher.get()
        {
            watcher.unpark();
        }
    }
}

impl FileSystem {
    /// Writes so far that ended well within their file.
    pub fn overwrites(&self) -> u64 {
        self.overwrites.count.load(Ordering::Relaxed)
    }

    /// Has `watcher` unparked now and then while overwrites come, as long as they are awaited.
    /// The first one stays.
    pub fn await_overwrites(&self, watcher: &Thread, awaited: bool) {
        self.overwrites.watcher.get_or_init(|| watcher.clone());
        self.overwrites.awaited.store(awaited, Ordering::Relaxed);
    }
}

/// After so many the watcher is woken.
const STEP: u64 = 64;

#[cfg(test)]
mod tests {
    use super::super::tests::{Fixture, ROOT_CALLER};
    use super::super::{AttributeChange, NodeId};

    #[test]
    fn what_makes_a_file_longer_does_not_count() {
        let fx = Fixture::new();
        let file = fx.create(NodeId::ROOT, "file", b"");
        let handle = fx.fs.open(ROOT_CALLER, file, libc::O_RDWR).unwrap().handle;
        let write = |offset, len| fx.fs.write(handle, offset, &vec![1; len], false).unwrap();
        let mib = 1 << 20;
        for place in 0..20 {
            write(place * mib, mib as usize);
        }
        // The last page again, with more at its end, as a log grows, and one that was overtaken.
        write(20 * mib - 4096, 5000);
        write(15 * mib, mib as usize);
        assert_eq!(fx.fs.overwrites(), 0);
        write(0, 1);
        write(2 * mib, mib as usize);
        assert_eq!(fx.fs.overwrites(), 2);
        let cut = AttributeChange { size: Some(0), ..Default::default() };
        fx.fs.set_attributes(ROOT_CALLER, file, Some(handle), &cut).unwrap();
        write(0, 4096);
        assert_eq!(fx.fs.overwrites(), 2);
        fx.fs.release(handle).unwrap();
    }

    #[test]
    fn who_awaits_them_is_woken() {
        let fx = Fixture::new();
        let file = fx.create(NodeId::ROOT, "file", b"text");
        let handle = fx.fs.open(ROOT_CALLER, file, libc::O_RDWR).unwrap().handle;
        fx.fs.write(handle, 17 << 20, b"x", false).unwrap();
        fx.fs.await_overwrites(&std::thread::current(), true);
        for _ in 0..super::STEP {
            fx.fs.write(handle, 0, b"x", false).unwrap();
        }
        std::thread::park();
        assert_eq!(fx.fs.overwrites(), super::STEP);
        fx.fs.release(handle).unwrap();
    }
}
