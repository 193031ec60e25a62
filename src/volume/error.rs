//! Why a file of a volume could not be read or written. Each variant names the object.

use std::io;

use crate::format::{FileId, FormatError, KeyId, VolumeId};
use crate::keys::KeyError;

/// A failed operation on an encrypted file or a volume.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// The backing store failed; the error is the caller's to see.
    #[error("backing store: {0}")]
    Backing(#[from] io::Error),
    /// The key was refused or could not be had.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The header is not what version 1 allows, or does not authenticate.
    #[error("header refused: {0}")]
    Header(#[from] FormatError),
    /// The file's header names another volume.
    #[error("file {file} belongs to volume {found}, not to this one")]
    OtherVolume {
        /// The file.
        file: FileId,
        /// The volume that its header names.
        found: VolumeId,
    },
    /// A block, or the file's size, does not authenticate.
    #[error("file {file}: block {block}: {problem}")]
    Integrity {
        /// The file.
        file: FileId,
        /// The block.
        block: u64,
        /// What was found.
        problem: &'static str,
    },
    /// The blocks are not those that the header was written for: each opens by itself.
    #[error(
        "file {file}: its blocks are not those that its header tells of; an older block was put \
         back, or taken away"
    )]
    Replayed {
        /// The file.
        file: FileId,
    },
    /// A change was begun, failed, and is still to be finished or undone by a recovery.
    #[error("file {file}: a change that failed is still to be undone")]
    Unsettled {
        /// The file.
        file: FileId,
    },
    /// The file's size is not the authenticated one.
    #[error("file {file}: size {found} where the header says {expected}")]
    SizeMismatch {
        /// The file.
        file: FileId,
        /// The plaintext size that the backing file's size tells.
        found: u64,
        /// The authenticated plaintext size.
        expected: u64,
    },
    /// As many blocks were sealed under the DEK as is safe (NIST SP 800-38D, 8.3).
    #[error("file {file}: its DEK has sealed 2^32 blocks; give it a new one with 'ssefs rekey'")]
    SealsExhausted {
        /// The file.
        file: FileId,
    },
    /// The key may not be used any more: the DEK was taken from those who have the file open.
    #[error(
        "file {file}: its DEK was withdrawn, as its key is not usable; enable the key and \
             open the file anew"
    )]
    Withdrawn {
        /// The file.
        file: FileId,
    },
    /// An envelope was offered that whoever sent it did not authenticate for this file, or for
    /// the envelope that it has now.
    #[error("file {file}: another envelope was offered, but not for what the file has now")]
    NotItsEnvelope {
        /// The file.
        file: FileId,
    },
    /// The key that the file is to be moved to was not given to this mount.
    #[error("file {file}: is to be moved to key {key_id}, which this mount does not hold")]
    KeyNotHeld {
        /// The file.
        file: FileId,
        /// The key.
        key_id: KeyId,
    },
    /// Beyond the largest size, 4 EiB.
    #[error("beyond the largest file size")]
    TooLarge,
    /// A write through a backing file that is open for reading only.
    #[error("file is open for reading only")]
    ReadOnly,
    /// Another mount holds the volume.
    #[error("volume is in use by {holder}")]
    InUse {
        /// Process and mount point, as that mount noted them.
        holder: String,
    },
    /// The volume's own files under `.ssefs`.
    #[error("volume: {0}")]
    Volume(String),
}
