//! Why a call failed, with the object that it concerned, and the errno that the caller sees.
//! Each error is logged once, by [`FsError::report`], where the reply is sent; nothing else in
//! `fs` logs a failure that it returns.

use std::io;
use std::path::PathBuf;

use log::{error, warn};
use rustix::io::Errno;

use super::types::{Handle, NodeId};
use crate::keys::KeyError;
use crate::store::errno_of;
use crate::volume::VolumeError;

/// A failed call.
#[derive(Debug, thiserror::Error)]
pub enum FsError {
    /// The rules of a file system refuse the call; nothing is wrong.
    #[error("node {}: {errno}", .node.0)]
    Refused {
        /// The object.
        node: NodeId,
        /// The reason.
        errno: Errno,
    },
    /// The backing directory refused.
    #[error("node {}: {source}", .node.0)]
    Backing {
        /// The object.
        node: NodeId,
        /// The error of the system call.
        source: io::Error,
    },
    /// The encrypted file could not be opened, read or changed.
    #[error("{}: {source}", .path.display())]
    Volume {
        /// The object.
        node: NodeId,
        /// Its path below the mount point, as far as it is known.
        path: PathBuf,
        /// What is wrong.
        source: VolumeError,
    },
    /// The object is no longer where it was, and what is there now is another one.
    #[error("node {}: it was removed or replaced underneath", .node.0)]
    Stale {
        /// The object.
        node: NodeId,
    },
    /// No such open file or directory.
    #[error("handle {}: not open, or not open for this", .handle.0)]
    BadHandle {
        /// The handle.
        handle: Handle,
    },
    /// The file system is mounted read-only.
    #[error("mounted read-only")]
    ReadOnly,
}

impl FsError {
    /// The error number that the caller sees, positive.
    pub fn errno(&self) -> i32 {
        match self {
            Self::Refused { errno, .. } => errno.raw_os_error(),
            Self::Backing { source, .. } => errno_of(source),
            Self::Volume { source, .. } => of_volume(source),
            Self::Stale { .. } => Errno::STALE.raw_os_error(),
            Self::BadHandle { .. } => Errno::BADF.raw_os_error(),
            Self::ReadOnly => Errno::ROFS.raw_os_error(),
        }
    }

    /// Logs what an administrator must hear of: data that does not authenticate, a key that
    /// could not be had, a store that fails. What a program did wrong is its own affair.
    pub fn report(&self) {
        match self {
            Self::Volume {
                source:
                    VolumeError::Key(_)
                    | VolumeError::KeyNotHeld { .. }
                    | VolumeError::NotItsEnvelope { .. },
                ..
            } => warn!("{self}"),
            Self::Volume { source: VolumeError::Backing(source), .. }
            | Self::Backing { source, .. } => {
                if is_store_failure(source) {
                    error!("{self}");
                }
            }
            // The last of them was logged when it was withdrawn.
            Self::Volume {
                source:
                    VolumeError::TooLarge | VolumeError::ReadOnly | VolumeError::Withdrawn { .. },
                ..
            } => {}
            Self::Volume { .. } => error!("{self}"),
            Self::Stale { .. } => warn!("{self}"),
            Self::Refused { .. } | Self::BadHandle { .. } | Self::ReadOnly => {}
        }
    }

    /// Whether it says that the name does not exist.
    pub fn is_not_found(&self) -> bool {
        self.errno() == Errno::NOENT.raw_os_error()
    }

    pub(super) fn is(&self, errno: Errno) -> bool {
        self.errno() == errno.raw_os_error()
    }
}

/// Names the object that an error of the backing directory concerned.
pub(super) trait At<T> {
    /// The error, if it is one, with its object.
    fn at(self, node: NodeId) -> Result<T, FsError>;
}

impl<T> At<T> for io::Result<T> {
    fn at(self, node: NodeId) -> Result<T, FsError> {
        self.map_err(|source| FsError::Backing { node, source })
    }
}

/// A refusal by the rules of the file system.
pub(super) fn refused<T>(node: NodeId, errno: Errno) -> Result<T, FsError> {
    Err(FsError::Refused { node, errno })
}

/// Whether a system call failed with this error.
pub(super) fn is_errno(error: &io::Error, errno: Errno) -> bool {
    error.raw_os_error() == Some(errno.raw_os_error())
}

fn of_volume(error: &VolumeError) -> i32 {
    match error {
        VolumeError::Backing(source) => errno_of(source),
        VolumeError::Key(source) => of_keys(source),
        VolumeError::Withdrawn { .. } => Errno::NOKEY.raw_os_error(),
        VolumeError::TooLarge => Errno::FBIG.raw_os_error(),
        VolumeError::ReadOnly => Errno::ROFS.raw_os_error(),
        VolumeError::NotItsEnvelope { .. } => Errno::BADMSG.raw_os_error(),
        VolumeError::KeyNotHeld { .. } => Errno::KEYREJECTED.raw_os_error(),
        VolumeError::Header(_)
        | VolumeError::OtherVolume { .. }
        | VolumeError::Integrity { .. }
        | VolumeError::Replayed { .. }
        | VolumeError::Unsettled { .. }
        | VolumeError::SizeMismatch { .. }
        | VolumeError::SealsExhausted { .. }
        | VolumeError::InUse { .. }
        | VolumeError::Volume(_) => Errno::IO.raw_os_error(),
    }
}

fn of_keys(error: &KeyError) -> i32 {
    match error {
        KeyError::Denied { .. }
        | KeyError::ModeNotAvailable { .. }
        | KeyError::NotFound { .. }
        | KeyError::WrongKey
        | KeyError::Wiped => Errno::ACCESS.raw_os_error(),
        KeyError::NotUsable { .. } => Errno::NOKEY.raw_os_error(),
        KeyError::VersionNotFound { .. }
        | KeyError::UnwrapFailed { .. }
        | KeyError::Damaged { .. }
        | KeyError::Format(_)
        | KeyError::Unsafe { .. }
        | KeyError::Audit { .. }
        | KeyError::Unusable(_)
        | KeyError::Io { .. } => Errno::IO.raw_os_error(),
    }
}

/// Errors of the store itself, as against refusals and races that programs provoke.
fn is_store_failure(error: &io::Error) -> bool {
    let failures = [Errno::IO, Errno::NOMEM, Errno::NFILE, Errno::MFILE, Errno::UCLEAN];
    error.raw_os_error().is_none() || failures.iter().any(|errno| is_errno(error, *errno))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::{FileId, FormatError, KeyId, Mode};

    fn volume(source: impl Into<VolumeError>) -> i32 {
        FsError::Volume { node: NodeId(2), path: "file".into(), source: source.into() }.errno()
    }

    #[test]
    fn errors_of_the_store_pass_as_they_are() {
        for errno in [Errno::NOSPC, Errno::DQUOT, Errno::IO, Errno::NAMETOOLONG] {
            let backing = FsError::Backing { node: NodeId(2), source: errno.into() };
            assert_eq!(backing.errno(), errno.raw_os_error());
            assert_eq!(volume(io::Error::from(errno)), errno.raw_os_error());
        }
        let without = FsError::Backing { node: NodeId(2), source: io::Error::other("no number") };
        assert_eq!(without.errno(), libc::EIO);
    }

    #[test]
    fn damage_is_eio_and_keys_tell_why() {
        let file = FileId([1; 16]);
        assert_eq!(volume(VolumeError::Integrity { file, block: 3, problem: "tag" }), libc::EIO);
        assert_eq!(volume(VolumeError::SizeMismatch { file, found: 1, expected: 2 }), libc::EIO);
        assert_eq!(volume(VolumeError::SealsExhausted { file }), libc::EIO);
        assert_eq!(volume(FormatError::Foreign), libc::EIO);
        assert_eq!(volume(VolumeError::TooLarge), libc::EFBIG);
        let key_id = KeyId("k".into());
        let unwrap = KeyError::UnwrapFailed { key_id: key_id.clone(), version: 1 };
        assert_eq!(volume(unwrap), libc::EIO);
        let mode = KeyError::ModeNotAvailable { mode: Mode::Kms, key_id: key_id.clone() };
        assert_eq!(volume(mode), libc::EACCES);
        assert_eq!(volume(KeyError::NotUsable { key_id, state: "Disabled" }), libc::ENOKEY);
        assert_eq!(volume(KeyError::WrongKey), libc::EACCES);
    }
}
