//! What was asked of the file system, counted without locks, and the report of it.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

use super::FileSystem;
use crate::store::flushes;

/// A report of the mount's state, as `ssefs stats` shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Stats {
    /// The daemon's process id.
    pub pid: u32,
    /// How requests of the kernel reach it.
    pub transport: &'static str,
    /// Objects that the kernel knows.
    pub nodes: u64,
    /// Files that are open, hard links counted once.
    pub open_files: u64,
    /// Handles on them.
    pub handles: u64,
    /// Flushes of files, directories and the file system below, since the mount.
    pub backing_flushes: u64,
    /// Files that were fetched from the disk because others of their directories were opened, since
    /// the mount.
    pub files_fetched_ahead: u64,
    /// The cache of unwrapped DEKs.
    pub dek_cache: DekCacheStats,
    /// Calls since the mount.
    pub operations: OperationCounts,
}

/// The cache of unwrapped DEKs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct DekCacheStats {
    /// How many DEKs it may hold.
    pub capacity: u64,
    /// After how many seconds an entry is dropped.
    pub ttl_s: u64,
    /// How many it holds.
    pub entries: u64,
    /// Openings that found their DEK.
    pub hits: u64,
    /// Openings that had to unwrap.
    pub misses: u64,
    /// Entries dropped for lack of room.
    pub evictions: u64,
    /// Entries dropped for their age.
    pub expired: u64,
}

impl FileSystem {
    /// The state of the mount at this time.
    pub fn statistics_report(&self) -> Stats {
        let cache = self.volume.keyring().stats();
        Stats {
            pid: std::process::id(),
            transport: self.transport.get().copied().unwrap_or("none"),
            nodes: self.nodes.len(),
            open_files: self.open.len() as u64,
            handles: self.files.len() as u64,
            backing_flushes: flushes::asked_for(),
            files_fetched_ahead: self.files_fetched(),
            dek_cache: DekCacheStats {
                capacity: cache.capacity,
                ttl_s: cache.ttl_s,
                entries: cache.entries,
                hits: cache.hits,
                misses: cache.misses,
                evictions: cache.evictions,
                expired: cache.expired,
            },
            operations: self.counters.report(),
        }
    }
}

/// Declares the counters once, as they are counted and as they are reported.
macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Calls by what was asked for.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
        pub struct OperationCounts {
            $($(#[$doc])* pub $name: u64,)*
        }

        /// Counts calls. Each counter has a cache line of its own.
        #[derive(Default)]
        pub(super) struct Counters {
            $(pub $name: Counter,)*
        }

        impl Counters {
            fn report(&self) -> OperationCounts {
                OperationCounts { $($name: self.$name.0.load(Ordering::Relaxed),)* }
            }
        }
    };
}

counters! {
    /// Names looked up.
    lookups,
    /// Look-ups taken back.
    forgets,
    /// Attributes asked for.
    attributes,
    /// Permissions asked for.
    access_checks,
    /// Attributes changed.
    changes,
    /// Symbolic links read.
    links_read,
    /// Objects made.
    creations,
    /// Names removed.
    removals,
    /// Names moved.
    renames,
    /// Names added.
    links,
    /// Files opened.
    opens,
    /// Reads.
    reads,
    /// Writes.
    writes,
    /// Flushes, which the kernel asks for once.
    flushes,
    /// Handles closed.
    releases,
    /// Files and directories synced.
    syncs,
    /// Directories opened; none where the kernel does not ask for it.
    directories_opened,
    /// Pages of directories read.
    directories_read,
    /// Extended attributes asked for, listed and changed.
    extended_attributes,
    /// Space reserved or freed.
    allocations,
    /// Searches for data and holes.
    seeks,
    /// Ranges copied.
    copies,
    /// Space of the file system asked for.
    statistics,
}

/// One counter.
#[derive(Default)]
#[repr(align(64))]
pub(super) struct Counter(AtomicU64);

impl Counters {
    /// Counts one call.
    pub(super) fn count(&self, which: impl FnOnce(&Self) -> &Counter) {
        which(self).0.fetch_add(1, Ordering::Relaxed);
    }
}
