//! Handles of open files, under the numbers that the kernel has for them. Numbers are never used
//! again.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, RwLock};

use super::locks::{read, shard, write};
use super::open_table::{InodeUse, OpenInode};
use super::types::{Handle, NodeId};

/// What each handle stands for.
pub struct HandleTable<T> {
    shards: Box<[RwLock<Shard<T>>]>,
    next: AtomicU64,
}

type Shard<T> = HashMap<Handle, Arc<T>>;

/// An open file as one `open` gave it.
pub struct FileHandle {
    /// The file, shared with other handles.
    pub used: InodeUse,
    /// Opened for reading.
    pub readable: bool,
    /// Opened for writing.
    pub writable: bool,
    /// Opened by the superuser, whose changes leave set-user-id and set-group-id bits alone.
    pub by_superuser: bool,
}

impl<T> HandleTable<T> {
    /// Without handles.
    pub fn new() -> Self {
        let shards = (0..SHARDS).map(|_| RwLock::default()).collect();
        Self { shards, next: AtomicU64::new(1) }
    }

    /// A handle for what was opened.
    pub fn insert(&self, opened: T) -> Handle {
        let handle = Handle(self.next.fetch_add(1, Ordering::Relaxed));
        write(self.shard(handle)).insert(handle, Arc::new(opened));
        handle
    }

    /// What a handle stands for.
    pub fn find(&self, handle: Handle) -> Option<Arc<T>> {
        read(self.shard(handle)).get(&handle).cloned()
    }

    /// Ends a handle.
    pub fn remove(&self, handle: Handle) -> Option<Arc<T>> {
        write(self.shard(handle)).remove(&handle)
    }

    /// Ends all handles.
    pub fn remove_all(&self) -> Vec<Arc<T>> {
        self.shards
            .iter()
            .flat_map(|shard| std::mem::take(&mut *write(shard)).into_values())
            .collect()
    }

    /// How many handles there are.
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| read(shard).len()).sum()
    }

    fn shard(&self, handle: Handle) -> &RwLock<Shard<T>> {
        shard(&self.shards, handle.0)
    }
}

impl FileHandle {
    /// The file.
    pub fn inode(&self) -> &Arc<OpenInode> {
        self.used.inode()
    }

    /// The node that it was opened by.
    pub fn node(&self) -> NodeId {
        self.inode().node()
    }
}

const SHARDS: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_never_given_twice() {
        let table = HandleTable::new();
        let first = table.insert("first");
        assert_eq!(*table.find(first).unwrap(), "first");
        assert_eq!(*table.remove(first).unwrap(), "first");
        assert!(table.find(first).is_none() && table.remove(first).is_none());
        assert_ne!(table.insert("second"), first);
        assert_eq!((table.len(), table.remove_all().len(), table.len()), (1, 1, 0));
    }
}
