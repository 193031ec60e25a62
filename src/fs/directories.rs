//! Descriptors of directories that were used lately, bounded, so that reaching a file costs one
//! system call where its directory is at hand, and any number of directories costs no more
//! descriptors than the bound.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex};

use lru::LruCache;
use rustix::process::{Resource, getrlimit};

use super::locks::{lock, shard};
use super::types::NodeId;
use crate::store::tree::DirFd;

/// The root, and directories that were used lately.
pub struct DirectoryCache {
    root: Arc<DirFd>,
    shards: Box<[Mutex<Shard>]>,
}

type Shard = LruCache<NodeId, Arc<DirFd>>;

impl DirectoryCache {
    /// With the bound that the process's limit of open files allows.
    pub fn new(root: DirFd) -> Self {
        let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        let quarter = usize::try_from(limit / 4).unwrap_or(usize::MAX);
        let capacity = quarter.min(MOST).div_ceil(SHARDS);
        let capacity = NonZeroUsize::new(capacity).unwrap_or(NonZeroUsize::MIN);
        let shards = (0..SHARDS).map(|_| Mutex::new(LruCache::new(capacity))).collect();
        Self { root: Arc::new(root), shards }
    }

    /// The descriptor of a directory, if it is at hand.
    pub fn find(&self, node: NodeId) -> Option<Arc<DirFd>> {
        if node == NodeId::ROOT {
            return Some(Arc::clone(&self.root));
        }
        lock(self.shard(node)).get(&node).cloned()
    }

    /// Keeps a descriptor at hand, perhaps in place of the one that was not used for longest.
    pub fn insert(&self, node: NodeId, directory: Arc<DirFd>) {
        // The one that is replaced is closed after the lock is released.
        let replaced = lock(self.shard(node)).push(node, directory);
        drop(replaced);
    }

    /// Lets go of a directory that was removed or is not known any more.
    pub fn remove(&self, node: NodeId) {
        let removed = lock(self.shard(node)).pop(&node);
        drop(removed);
    }

    /// How many descriptors are at hand, without the root's.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).len()).sum()
    }

    fn shard(&self, node: NodeId) -> &Mutex<Shard> {
        shard(&self.shards, node.0)
    }
}

const SHARDS: usize = 16;
/// The most descriptors in all, whatever the process may open.
const MOST: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::tree::DiskTree;

    #[test]
    fn any_number_of_directories_stays_within_the_bound() {
        let scratch = tempfile::tempdir().unwrap();
        let tree = DiskTree::open(scratch.path()).unwrap();
        let cache = DirectoryCache::new(tree.root().try_clone().unwrap());
        let directory = Arc::new(tree.root().try_clone().unwrap());
        for id in 2..5000 {
            cache.insert(NodeId(id), Arc::clone(&directory));
        }
        assert!((1..=MOST).contains(&cache.len()), "{}", cache.len());
        assert!(cache.find(NodeId::ROOT).is_some() && cache.find(NodeId(2)).is_none());
        assert!(cache.find(NodeId(4999)).is_some());
        cache.remove(NodeId(4999));
        assert!(cache.find(NodeId(4999)).is_none());
    }
}
