//! Why a key could not be had. Each variant names the key.

use std::io;
use std::path::PathBuf;

use crate::format::{FormatError, KeyId, Mode};

/// A refusal by a key provider, the keystore or the keyring.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// No provider for this mode was given to the mount.
    #[error("no {mode} key was given to this mount (key {key_id})")]
    ModeNotAvailable {
        /// The mode that the envelope asks for.
        mode: Mode,
        /// The key that the envelope names.
        key_id: KeyId,
    },
    /// The provider does not hold this key.
    #[error("key {key_id} is not here: {hint}")]
    NotFound {
        /// The key that was asked for.
        key_id: KeyId,
        /// Where it was looked for and what to do.
        hint: String,
    },
    /// The provider holds the key but not this version of its material.
    #[error("key {key_id} has no material version {version}")]
    VersionNotFound {
        /// The key.
        key_id: KeyId,
        /// The version that is missing.
        version: u32,
    },
    /// The key is disabled or pending deletion.
    #[error("key {key_id} is {state}")]
    NotUsable {
        /// The key.
        key_id: KeyId,
        /// Its state, as AWS KMS names it.
        state: &'static str,
    },
    /// The caller may not use the key.
    #[error("user {uid} may not use key {key_id} for {operation}")]
    Denied {
        /// The key.
        key_id: KeyId,
        /// The caller's user id.
        uid: u32,
        /// The action that was refused, as AWS KMS names it.
        operation: &'static str,
    },
    /// The supplied key is not the one that the volume was made with.
    #[error("wrong key: it is not the key of this volume")]
    WrongKey,
    /// The wrapped DEK does not open: it or its encryption context was altered or moved.
    #[error("wrapped DEK does not open under key {key_id} version {version}: altered or moved")]
    UnwrapFailed {
        /// The key.
        key_id: KeyId,
        /// The version of its material.
        version: u32,
    },
    /// Bytes of an envelope or a keystore record were refused.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// A keystore file is readable or writable by others.
    #[error("{path}: {problem}")]
    Unsafe {
        /// The file or directory.
        path: PathBuf,
        /// What is wrong with it and what to do.
        problem: String,
    },
    /// A key, passphrase or key file that cannot be used as given.
    #[error("{0}")]
    Unusable(String),
    /// A keystore file does not authenticate, or is not what it should be.
    #[error("{path}: {problem}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The audit log could not be written: without its record the key is not used.
    #[error("audit log {path}: {problem}; without its record the key is not used")]
    Audit {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The keys were wiped, because the volume is being unmounted.
    #[error("the keys of this mount have been wiped, it is being unmounted")]
    Wiped,
    /// Reading or writing the keystore or key file failed.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The error.
        source: io::Error,
    },
}
