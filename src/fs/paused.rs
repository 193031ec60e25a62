//! Directories whose listing is to go on. The kernel asks for one piece by piece, and names the
//! directory and the position each time: what was open for one piece serves the next, if that comes
//! soon. What does not come back costs nothing but a descriptor for a moment.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use lru::LruCache;

use super::locks::lock;
use super::types::NodeId;
use crate::store::tree::{DirFd, DirStream};

/// A directory that is being listed.
pub(super) struct Listing {
    /// For the attributes of what is in it.
    pub directory: Arc<DirFd>,
    pub stream: DirStream,
}

/// Listings at the position where they were left, a bounded number.
pub(super) struct PausedListings {
    shards: Box<[Mutex<Shard>]>,
}

type Shard = LruCache<(NodeId, i64), Paused>;

struct Paused {
    listing: Listing,
    since: Instant,
}

impl PausedListings {
    pub fn new() -> Self {
        let capacity = NonZeroUsize::new(MOST_IN_SHARD).expect("not zero");
        let shards = (0..SHARDS).map(|_| Mutex::new(LruCache::new(capacity))).collect();
        Self { shards }
    }

    /// The listing of this directory that was left at this position. Numbers of nodes are used
    /// again: another directory's is not given.
    pub fn resume(&self, node: NodeId, at: i64, directory: &Arc<DirFd>) -> Option<Listing> {
        let paused = lock(self.shard(node)).pop(&(node, at))?;
        Some(paused.listing).filter(|listing| Arc::ptr_eq(&listing.directory, directory))
    }

    /// Leaves one, perhaps in place of the one that was left first.
    pub fn pause(&self, node: NodeId, at: i64, listing: Listing) {
        let paused = Paused { listing, since: Instant::now() };
        // What is replaced is closed after the lock is released.
        let replaced = lock(self.shard(node)).push((node, at), paused);
        drop(replaced);
    }

    /// Closes those that were left so long ago.
    pub fn close(&self, age: Duration) {
        for shard in &self.shards {
            let is_due = |shard: &Shard| {
                shard.peek_lru().is_some_and(|(_, paused)| paused.since.elapsed() >= age)
            };
            loop {
                let mut shard = lock(shard);
                let due = is_due(&shard).then(|| shard.pop_lru());
                drop(shard);
                if due.is_none() {
                    break;
                }
            }
        }
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).len()).sum()
    }

    fn shard(&self, node: NodeId) -> &Mutex<Shard> {
        let place = node.0 % SHARDS as u64;
        &self.shards[usize::try_from(place).expect("less than the number of shards")]
    }
}

const SHARDS: usize = 16;
const MOST_IN_SHARD: usize = 8;
