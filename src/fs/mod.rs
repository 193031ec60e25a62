//! The file system: inodes, handles, directory operations, permissions, errno. Neutral to the
//! transport: plain functions over plain types, replies written into buffers of the caller.
//!
//! Who may do what with an object is decided by the kernel from its attributes, or in a private
//! mount by `permissions` and by what lies below. There is no lock that all requests take: what is
//! locked is one open file, or for as long as a map takes a shard of a table. Shared by all are the
//! list of free places in the journal and that of memory for keys, for as long as a list takes, and
//! longer only while the journal is made, or emptied when nothing waits.

mod attributes;
mod capabilities;
mod change;
mod counters;
mod create;
mod dates;
mod description;
mod directories;
mod directory_keys;
mod error;
mod fetching;
mod file_io;
mod handles;
mod keep_up;
mod lingering;
mod listing;
mod locks;
mod names;
mod nodes;
mod open;
mod open_table;
mod overwrites;
mod paused;
mod permissions;
mod pinned;
mod ranges;
mod reach;
mod renames;
mod resized;
mod rewrap;
mod space;
mod sweep;
mod system;
mod types;
mod waits;
mod withdrawal;
mod write_out;
mod xattrs;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use rustix::io::Errno;

use self::capabilities::Capabilities;
use self::counters::Counters;
use self::directories::DirectoryCache;
use self::error::{At, refused};
use self::fetching::Fetching;
use self::handles::{FileHandle, HandleTable};
use self::keep_up::ClosedUnsynced;
use self::lingering::Lingering;
use self::nodes::{NodeTable, ObjectId};
use self::open_table::OpenTable;
use self::overwrites::Overwrites;
use self::paused::PausedListings;
use self::permissions::Daemon;
use self::resized::Resized;
use crate::format::METADATA_DIR;
use crate::store::tree::DiskTree;
use crate::volume::{Volume, VolumeError};

pub use self::counters::{OperationCounts, Stats};
pub use self::dates::rfc_3339;
pub use self::error::FsError;
pub use self::permissions::Wanted;
pub use self::types::{
    AttributeChange, Attributes, DirectoryEntry, DirectorySink, Entry, FsOptions, FsStatistics,
    Handle, NodeId, Opened, READ_AHEAD_KIB, SeekTarget, TimeChange, Timestamp,
};

/// A volume as a file system. All methods may be called from many threads at once.
pub struct FileSystem {
    volume: Arc<Volume>,
    tree: Arc<DiskTree>,
    options: FsOptions,
    read_only: AtomicBool,
    daemon: Daemon,
    nodes: NodeTable,
    directories: DirectoryCache,
    open: Arc<OpenTable>,
    files: HandleTable<FileHandle>,
    paused: PausedListings,
    fetching: Fetching,
    counters: Counters,
    closed_unsynced: ClosedUnsynced,
    lingering: Lingering,
    resized: Resized,
    overwrites: Overwrites,
    /// A thread has the kernel write out something.
    writing_out: AtomicBool,
    capabilities: Capabilities,
    transport: OnceLock<&'static str>,
}

impl FileSystem {
    /// The file system of `volume`, whose backing directory is `tree`. The process's umask must
    /// be 0.
    pub fn new(
        volume: Arc<Volume>,
        tree: Arc<DiskTree>,
        options: FsOptions,
    ) -> Result<Self, FsError> {
        let root = tree.root().try_clone().at(NodeId::ROOT)?;
        let object = ObjectId::of(&root.located().stat().at(NodeId::ROOT)?);
        Ok(Self {
            read_only: AtomicBool::new(options.read_only || volume.read_only()),
            daemon: Daemon::of_this_process(),
            nodes: NodeTable::new(object),
            directories: DirectoryCache::new(root),
            open: Arc::new(OpenTable::new(options.idle_files)),
            files: HandleTable::new(),
            paused: PausedListings::new(),
            fetching: Fetching::new(),
            counters: Counters::default(),
            closed_unsynced: ClosedUnsynced::default(),
            lingering: Lingering::default(),
            resized: Resized::default(),
            overwrites: Overwrites::default(),
            writing_out: AtomicBool::default(),
            capabilities: Capabilities::default(),
            transport: OnceLock::new(),
            volume,
            tree,
            options,
        })
    }

    /// How it was mounted.
    pub fn options(&self) -> &FsOptions {
        &self.options
    }

    /// Remembers, for the statistics, how requests reach it. The first call counts.
    pub fn set_transport(&self, name: &'static str) {
        self.transport.get_or_init(|| name);
    }

    /// Refuses or allows changes from now on.
    pub fn set_read_only(&self, read_only: bool) {
        self.read_only.store(read_only || self.volume.read_only(), Ordering::Release);
        // They are open for writing, which keeps what lies below from being made read-only.
        self.close_unused();
    }

    /// Whether changes are refused.
    pub fn is_read_only(&self) -> bool {
        self.read_only.load(Ordering::Acquire)
    }

    fn check_writable(&self) -> Result<(), FsError> {
        if self.is_read_only() { Err(FsError::ReadOnly) } else { Ok(()) }
    }

    fn volume_error(&self, node: NodeId, source: VolumeError) -> FsError {
        FsError::Volume { node, path: self.nodes.path(node), source }
    }
}

/// Whether the name is that of the volume's own directory, which programs never see.
fn is_metadata(parent: NodeId, name: &OsStr) -> bool {
    parent == NodeId::ROOT && name.as_bytes() == METADATA_DIR.as_bytes()
}

/// Refuses to make or replace the volume's own directory.
fn check_new_name(parent: NodeId, name: &OsStr) -> Result<(), FsError> {
    if is_metadata(parent, name) { refused(parent, Errno::PERM) } else { Ok(()) }
}

/// Refuses to find the volume's own directory.
fn check_old_name(parent: NodeId, name: &OsStr) -> Result<(), FsError> {
    if is_metadata(parent, name) { refused(parent, Errno::NOENT) } else { Ok(()) }
}

#[cfg(test)]
mod idle_tests;
#[cfg(test)]
mod kms_tests;
#[cfg(test)]
mod memory_tests;
#[cfg(test)]
mod tests;
