//! Why work on many files left one of them.

use std::io;

use rustix::io::Errno;
use serde::Serialize;

use crate::keys::KeyError;
use crate::volume::VolumeError;

/// Why a file was left as it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// No key for it was given.
    NoKey,
    /// Its key, its mode bits or the file system refuse.
    Denied,
    /// Its header is damaged, or it is no file of this volume.
    Damaged,
    /// It is being executed, or was changed again and again.
    Busy,
    /// Another error.
    Failed,
}

impl Reason {
    /// In JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::NoKey => "no_key",
            Self::Denied => "denied",
            Self::Damaged => "damaged",
            Self::Busy => "busy",
            Self::Failed => "failed",
        }
    }

    /// In a sentence.
    pub const fn text(self) -> &'static str {
        match self {
            Self::NoKey => "no key",
            Self::Denied => "denied",
            Self::Damaged => "damaged",
            Self::Busy => "busy",
            Self::Failed => "failed",
        }
    }

    /// Of an error of the file or its key.
    pub fn of(error: &VolumeError) -> Self {
        match error {
            VolumeError::Backing(error) => Self::of_io(error),
            VolumeError::Key(error) => Self::of_key(error),
            VolumeError::KeyNotHeld { .. } => Self::NoKey,
            VolumeError::NotItsEnvelope { .. } | VolumeError::Unsettled { .. } => Self::Busy,
            VolumeError::ReadOnly | VolumeError::Withdrawn { .. } => Self::Denied,
            VolumeError::Header(_)
            | VolumeError::OtherVolume { .. }
            | VolumeError::Integrity { .. }
            | VolumeError::Replayed { .. }
            | VolumeError::SizeMismatch { .. } => Self::Damaged,
            VolumeError::SealsExhausted { .. }
            | VolumeError::TooLarge
            | VolumeError::InUse { .. }
            | VolumeError::Volume(_) => Self::Failed,
        }
    }

    /// Of an error of a system call.
    pub fn of_io(error: &io::Error) -> Self {
        match error.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::ACCESS | Errno::PERM | Errno::ROFS | Errno::NOKEY) => Self::Denied,
            Some(Errno::TXTBSY | Errno::BADMSG | Errno::STALE) => Self::Busy,
            _ => Self::Failed,
        }
    }

    /// Of an error of a key.
    pub fn of_key(error: &KeyError) -> Self {
        match error {
            KeyError::ModeNotAvailable { .. }
            | KeyError::NotFound { .. }
            | KeyError::VersionNotFound { .. }
            | KeyError::WrongKey => Self::NoKey,
            KeyError::NotUsable { .. } | KeyError::Denied { .. } => Self::Denied,
            KeyError::UnwrapFailed { .. } | KeyError::Format(_) => Self::Damaged,
            KeyError::Unsafe { .. }
            | KeyError::Unusable(_)
            | KeyError::Damaged { .. }
            | KeyError::Audit { .. }
            | KeyError::Wiped
            | KeyError::Io { .. } => Self::Failed,
        }
    }
}
