//! Encrypted files of a volume: read, write, truncate, sync, recover. Knows nothing of FUSE and
//! inodes.

mod error;

pub use error::VolumeError;
