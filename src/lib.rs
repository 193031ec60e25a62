//! ssefs: a FUSE file system that encrypts each file with its own data key, as S3
//! server-side encryption does for objects.
//!
//! Module ranks, imports point left only:
//! `sys, crypto < format < keys, store < volume < fs < fuse < cli`.

pub mod cli;
pub mod crypto;
pub mod format;
pub mod fs;
pub mod fuse;
pub mod keys;
pub mod store;
pub mod sys;
pub mod volume;
