//! The file system as a whole: its space, syncing all of it, the end of the mount.

use std::time::Duration;

use super::error::At;
use super::{FileSystem, FsError, FsStatistics, NodeId};
use crate::sys::fail_point;

impl FileSystem {
    /// Space and inodes of the file system that the backing directory is on.
    pub fn statistics(&self, node: NodeId) -> Result<FsStatistics, FsError> {
        self.counters.count(|counts| &counts.statistics);
        fail_point::hit("fs.statistics");
        let stat = self.tree.stat_file_system().at(node)?;
        let narrow = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
        Ok(FsStatistics {
            blocks: stat.blocks,
            blocks_free: stat.blocks_free,
            blocks_available: stat.blocks_available,
            files: stat.files,
            files_free: stat.files_free,
            block_size: narrow(stat.block_bytes),
            fragment_size: narrow(stat.fragment_bytes),
            name_max: narrow(stat.name_bytes),
        })
    }

    /// Brings the headers of all open files up to date and makes everything durable. Tries all
    /// of it; the first error is the one to tell.
    pub fn sync_all(&self) -> Result<(), FsError> {
        let mut result = Ok(());
        for used in self.open.all() {
            result = result.and(self.settle(used.inode(), true));
        }
        result.and(self.sync_file_system())
    }

    /// Ends the mount, when no call comes any more: closes all handles, makes everything
    /// durable, wipes the keys. What fails is logged, as nobody waits for it.
    pub fn shut_down(&self) {
        self.paused.close(Duration::ZERO);
        for file in self.files.remove_all() {
            self.close(&file).unwrap_or_else(|error| error.report());
        }
        self.close_unused();
        if !self.is_read_only() {
            self.sync_all().unwrap_or_else(|error| error.report());
        }
        if let Err(error) = self.volume.keyring().flush() {
            log::error!("{error}");
        }
        self.volume.keyring().wipe();
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Fixture, ROOT_CALLER};
    use super::*;

    #[test]
    fn space_is_that_of_the_backing_store() {
        let fx = Fixture::new();
        let shown = fx.fs.statistics(NodeId::ROOT).unwrap();
        assert!(shown.blocks >= shown.blocks_free && shown.blocks_free >= shown.blocks_available);
        assert!(shown.block_size >= 512 && shown.fragment_size >= 512);
        assert_eq!(shown.name_max, 255);
    }

    #[test]
    fn after_the_end_nothing_is_open_and_no_key_is_left() {
        let mut fx = Fixture::new();
        let file = fx.create(NodeId::ROOT, "file", b"first");
        let handle = fx.fs.open(ROOT_CALLER, file, libc::O_RDWR).unwrap().handle;
        fx.fs.write(handle, 5, b" second", false).unwrap();
        fx.fs.open_directory(ROOT_CALLER, NodeId::ROOT).unwrap();
        fx.fs.sync_all().unwrap();
        fx.fs.shut_down();
        assert_eq!((fx.fs.open.len(), fx.fs.files.len(), fx.fs.paused.len()), (0, 0, 0));
        assert_eq!(fx.fs.statistics_report().dek_cache.entries, 0);
        fx.fs.open(ROOT_CALLER, file, libc::O_RDONLY).unwrap_err();

        fx.remount();
        let found = fx.lookup(NodeId::ROOT, "file");
        assert_eq!(fx.content(found), b"first second");
    }
}
