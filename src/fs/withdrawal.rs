//! Taking DEKs from open files whose keys may no longer be used.

use super::{FileSystem, NodeId};

impl FileSystem {
    /// Withdraws the DEKs of open files whose keys have become unusable, closes idle files, and
    /// drops such DEKs from the cache; to be called every few seconds. `invalidate` makes the
    /// kernel send what was written to a file and drop what it has cached of it: before, so that
    /// nothing that was written is lost, and after, so that nothing readable stays.
    pub fn withdraw_unusable(&self, invalidate: impl Fn(NodeId)) {
        self.volume.keyring().sweep();
        self.open.close_all_idle();
        for used in self.open.all() {
            let inode = used.inode();
            if !inode.file().is_to_be_withdrawn() {
                continue;
            }
            invalidate(inode.node());
            {
                let _alone = inode.open_alone();
                self.settle(inode, false).unwrap_or_else(|error| error.report());
                inode.file().withdraw();
            }
            invalidate(inode.node());
        }
    }
}
