//! The file system: inodes, handles, directory operations, permissions, errno. Neutral to the
//! transport: plain functions over plain types, replies written into buffers of the caller.

mod types;

pub use types::{
    AttributeChange, Attributes, DirectoryEntry, DirectorySink, Entry, FsOptions, FsStatistics,
    Handle, NodeId, Opened, SeekTarget, TimeChange, Timestamp,
};
