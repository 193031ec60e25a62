//! Directories whose listing is to go on. The kernel asks for one piece by piece, and names the
//! directory and the position each time: what a thread has open for one piece serves its next, if
//! that comes soon. One that does not come back costs two descriptors and a buffer for a while.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use lru::LruCache;

use super::locks::{lock, shard};
use super::types::NodeId;
use crate::keys::Caller;
use crate::store::tree::{DirFd, DirStream};

/// A directory that is being listed.
pub(super) struct Listing {
    /// For the attributes of what is in it.
    pub directory: Arc<DirFd>,
    pub stream: DirStream,
}

/// Listings as they were left, one for each thread in a directory, a bounded number.
pub(super) struct PausedListings {
    shards: Box<[Mutex<Shard>]>,
}

type Shard = LruCache<Reader, Paused>;
/// A thread in a directory.
type Reader = (NodeId, u32);

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

    /// What a thread has left of this directory. Numbers of nodes are used again: another
    /// directory's is not given.
    pub fn resume(&self, node: NodeId, caller: Caller, directory: &Arc<DirFd>) -> Option<Listing> {
        let reader = (node, caller.pid);
        let paused = lock(self.shard(reader)).pop(&reader)?;
        Some(paused.listing).filter(|listing| Arc::ptr_eq(&listing.directory, directory))
    }

    /// Leaves one, perhaps in place of the one that was left first. With another thread's a reader
    /// would miss what was made before it came: who cannot be told from others leaves none.
    pub fn pause(&self, node: NodeId, caller: Caller, listing: Listing) {
        if caller.pid == 0 {
            return;
        }
        let reader = (node, caller.pid);
        let paused = Paused { listing, since: Instant::now() };
        // What is replaced is closed after the lock is released.
        let replaced = lock(self.shard(reader)).push(reader, paused);
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

    /// Numbers of directories often have their last bits in common.
    fn shard(&self, (node, pid): Reader) -> &Mutex<Shard> {
        let mixed = (node.0 ^ u64::from(pid)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        shard(&self.shards, mixed >> (u64::BITS - SHARDS.ilog2()))
    }
}

const SHARDS: usize = 16;
const MOST_IN_SHARD: usize = 8;
