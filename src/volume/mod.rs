//! Encrypted files of a volume: read, write, truncate, sync, recover, check. Knows nothing of
//! FUSE and inodes.
//!
//! A volume is found and locked through [`VolumeDirectory`], becomes a [`Volume`] with its keys,
//! and opens backing files as [`EncryptedFile`]s.

mod block_ranges;
mod check;
mod commit;
mod content;
mod counted;
mod describe;
mod digest;
mod directory;
mod durability;
mod epochs;
mod error;
mod file;
mod foreseen;
mod gather;
mod holes;
mod journal;
mod journal_sync;
mod left_behind;
mod mounted;
mod own_page;
mod pages;
mod presealed;
mod read;
mod recover;
mod resize;
mod rewrap;
mod undo;
mod unsynced;
mod withdrawal;
mod write;

pub use check::{
    CheckScope, FileReport, Finding, Findings, Problem, Salvaged, Severity, SpareThreads, Watcher,
};
pub use describe::{Description, describe};
pub use directory::{DirectoryKind, RewrapLock, VolumeDirectory, VolumeUse};
pub use durability::Durability;
pub use error::VolumeError;
pub use file::EncryptedFile;
pub use mounted::Volume;
pub use presealed::Presealed;
pub use rewrap::{ClosedFile, RewrapRequest, UnlockedFile};
