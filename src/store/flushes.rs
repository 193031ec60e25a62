//! How often this process has asked the kernel to flush files, directories or the file system
//! of a backing directory: what durability costs, as `ssefs stats` shows it.

use std::sync::atomic::{AtomicU64, Ordering};

/// The flushes so far, also those that failed.
pub fn asked_for() -> u64 {
    ASKED_FOR.load(Ordering::Relaxed)
}

/// Counts one.
pub(super) fn count() {
    ASKED_FOR.fetch_add(1, Ordering::Relaxed);
}

static ASKED_FOR: AtomicU64 = AtomicU64::new(0);

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;

    use super::*;
    use crate::store::disk::DiskFile;
    use crate::store::tree::DiskTree;
    use crate::store::{BackingFile, SyncScope};

    #[test]
    fn each_kind_of_flush_counts() {
        // Tests that run beside this one may count too.
        let before = asked_for();
        let scratch = tempfile::tempdir().unwrap();
        let tree = DiskTree::open(scratch.path()).unwrap();
        tree.sync_dir(tree.root()).unwrap();
        tree.sync_file_system().unwrap();
        let file = DiskFile::from(OwnedFd::from(tempfile::tempfile().unwrap()));
        file.sync(SyncScope::Data).unwrap();
        file.sync(SyncScope::All).unwrap();
        assert!(asked_for() >= before + 4);
    }
}
