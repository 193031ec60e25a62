//! What this thread does to the files and directories of a backing directory, told to an
//! observer as it happens. Only tests set one; a release build has nothing of it.
//!
//! With it a test knows in which order writes, syncs and changes of names come, which is what a
//! power cut is about.

use std::io::IoSlice;
use std::os::fd::BorrowedFd;

use super::SyncScope;

/// What has just been done, without an error.
#[derive(Debug, Clone, Copy)]
pub enum Event<'a> {
    /// To a file.
    File(BorrowedFd<'a>, FileEvent<'a>),
    /// The names in a directory were made durable.
    DirectorySynced,
    /// Everything was made durable.
    FileSystemSynced,
}

/// What was done to a file.
#[derive(Debug, Clone, Copy)]
pub enum FileEvent<'a> {
    Written { bufs: &'a [IoSlice<'a>], offset: u64 },
    SizeSet(u64),
    Allocated { offset: u64, len: u64, keep_size: bool },
    Punched { offset: u64, len: u64 },
    Synced(SyncScope),
}

#[cfg(debug_assertions)]
mod listening {
    use std::cell::RefCell;

    use super::Event;

    /// Who is told. It must not use the store itself.
    pub type Observer = Box<dyn FnMut(&Event<'_>)>;

    thread_local! {
        static OBSERVER: RefCell<Option<Observer>> = const { RefCell::new(None) };
    }

    /// From now on tells `observer`, or nobody, what this thread does.
    pub fn observe(observer: Option<Observer>) {
        OBSERVER.set(observer);
    }

    pub(in crate::store) fn tell(event: &Event<'_>) {
        OBSERVER.with_borrow_mut(|observer| {
            if let Some(observer) = observer {
                observer(event);
            }
        });
    }
}

#[cfg(debug_assertions)]
pub(super) use listening::tell;
#[cfg(debug_assertions)]
pub use listening::{Observer, observe};

#[cfg(not(debug_assertions))]
#[inline]
pub(super) fn tell(_: &Event<'_>) {}
