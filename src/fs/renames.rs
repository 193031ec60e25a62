//! Counts renames, so that readers of names need no lock against them: they read a name, make
//! a system call with it, and ask here whether the name may have moved meanwhile.

use std::sync::atomic::{AtomicU64, Ordering};

/// The renames made so far. A rename is begun, then made on the backing directory, then
/// `applied` is counted up, then the node table learns it, then it is ended.
#[derive(Default)]
pub struct Renames {
    begun: AtomicU64,
    applied: AtomicU64,
    ended: AtomicU64,
}

/// The state of the counters at one time.
#[derive(Debug, Clone, Copy)]
pub struct Seen {
    applied: u64,
    ended: u64,
}

/// A rename that goes on until it is dropped.
pub struct Rename<'a> {
    renames: &'a Renames,
}

impl Renames {
    /// To be read before the names are.
    pub fn seen(&self) -> Seen {
        Seen {
            ended: self.ended.load(Ordering::SeqCst),
            applied: self.applied.load(Ordering::SeqCst),
        }
    }

    /// Whether any rename was going on at or after `seen`.
    pub fn any_since(&self, seen: Seen) -> bool {
        self.begun.load(Ordering::SeqCst) != seen.ended
    }

    /// Whether a rename was made on the backing directory after `seen`. To be asked under the
    /// lock of the node that is to be changed: a rename that comes later changes it again.
    pub fn applied_since(&self, seen: Seen) -> bool {
        self.applied.load(Ordering::SeqCst) != seen.applied
    }

    /// Begins a rename.
    pub fn begin(&self) -> Rename<'_> {
        self.begun.fetch_add(1, Ordering::SeqCst);
        Rename { renames: self }
    }
}

impl Rename<'_> {
    /// The backing directory has the new names, the node table not yet.
    pub fn applied(&self) {
        self.renames.applied.fetch_add(1, Ordering::SeqCst);
    }
}

impl Drop for Rename<'_> {
    fn drop(&mut self) {
        self.renames.ended.fetch_add(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_sees_renames_that_overlap_it_and_no_others() {
        let renames = Renames::default();
        drop(renames.begin());
        let quiet = renames.seen();
        assert!(!renames.any_since(quiet) && !renames.applied_since(quiet));

        let rename = renames.begin();
        let during = renames.seen();
        assert!(renames.any_since(quiet) && renames.any_since(during));
        assert!(!renames.applied_since(during));
        rename.applied();
        assert!(renames.applied_since(quiet) && renames.applied_since(during));
        drop(rename);
        assert!(renames.any_since(during), "it ended after the reader began");
        assert!(!renames.any_since(renames.seen()));
    }
}
