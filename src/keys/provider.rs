//! The trait that a source of DEKs implements. Two verbs carry everything: generate a DEK with
//! its envelope, and unwrap one from an envelope. Wrapping a DEK that exists serves rewrap and
//! the volume key. Authorisation is a verb of its own because it is asked at every open, also
//! when the DEK is in the cache.

use std::path::PathBuf;

use rustix::process::{getegid, geteuid, getpid};

use super::error::KeyError;
use crate::crypto::Secret;
use crate::format::{Envelope, FileId, KeyId, Mode, VolumeId};

/// Who asks: the process behind the file system call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Caller {
    /// User id.
    pub uid: u32,
    /// Group id; further groups are looked up by `pid` when they are needed.
    pub gid: u32,
    /// Process (thread) id, 0 where the kernel does not tell.
    pub pid: u32,
}

/// What the DEK is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Opening a file that has content.
    Open,
    /// Making a file, or giving an empty one its first content.
    Create,
    /// Work of ssefs itself: the volume key, rewrap.
    Maintain,
    /// Reading a file to see whether it is whole; nobody gets to see its content.
    Check,
}

/// One request for a DEK: by whom and for what.
pub struct Access<'a> {
    /// Who.
    pub caller: Caller,
    /// For what.
    pub operation: Operation,
    /// The path at this time, for the audit log; worked out only when it is wanted.
    pub path: &'a dyn Fn() -> PathBuf,
    /// The CMK that the directory names for new files, if it names one.
    pub key_id: Option<&'a KeyId>,
}

impl<'a> Access<'a> {
    /// The request of ssefs itself, for maintenance at `path`.
    pub fn own(path: &'a dyn Fn() -> PathBuf) -> Self {
        Self { caller: Caller::own(), operation: Operation::Maintain, path, key_id: None }
    }

    /// The request of a check of the file at `path`.
    pub fn check(path: &'a dyn Fn() -> PathBuf) -> Self {
        Self { operation: Operation::Check, ..Self::own(path) }
    }
}

impl Caller {
    /// This process.
    pub fn own() -> Self {
        let pid = getpid().as_raw_nonzero().get().unsigned_abs();
        Self { uid: geteuid().as_raw(), gid: getegid().as_raw(), pid }
    }
}

/// What a wrap is bound to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Binding {
    /// The volume.
    pub volume: VolumeId,
    /// The file, or [`FileId::VOLUME`] for the volume key.
    pub file: FileId,
}

/// A new DEK.
pub struct Generated {
    /// The DEK.
    pub dek: Secret,
    /// Its envelope.
    pub envelope: Envelope,
}

/// A source of DEKs for one mode. All methods may be called from many threads at once.
pub trait KeyProvider: Send + Sync {
    /// The mode that it serves; envelopes of other modes are not for it.
    fn mode(&self) -> Mode;

    /// Makes a DEK and wraps it under the newest material.
    fn generate(&self, binding: Binding, access: &Access<'_>) -> Result<Generated, KeyError> {
        let dek = Secret::random();
        let envelope = self.wrap(&dek, None, binding, access)?;
        Ok(Generated { dek, envelope })
    }

    /// Wraps a DEK that exists under the newest material. `previous` is the envelope that it had
    /// before, of this or another provider: its date and the user's pairs carry over.
    fn wrap(
        &self,
        dek: &Secret,
        previous: Option<&Envelope>,
        binding: Binding,
        access: &Access<'_>,
    ) -> Result<Envelope, KeyError>;

    /// Unwraps the DEK of an envelope of this mode. May block, for a key server.
    fn unwrap(
        &self,
        envelope: &Envelope,
        binding: Binding,
        access: &Access<'_>,
    ) -> Result<Secret, KeyError>;

    /// Whether the caller may use the envelope's key now; asked at every open, and answered from
    /// memory. With `cached` the DEK is at hand and is used on the strength of this answer, so
    /// that the use is recorded here; otherwise [`Self::unwrap`] follows and records it.
    fn authorise(
        &self,
        envelope: &Envelope,
        binding: Binding,
        access: &Access<'_>,
        cached: bool,
    ) -> Result<(), KeyError>;

    /// Whether the envelope's key may be used at all now, whoever asks. Files that are open lose
    /// their DEK when it may not.
    fn check(&self, _envelope: &Envelope) -> Result<(), KeyError> {
        Ok(())
    }

    /// Whether a key has become unusable since this was last asked: DEKs that it wrapped are
    /// then dropped from the cache.
    fn has_withdrawn(&self) -> bool {
        false
    }

    /// The id of the key that the caller names, by id or alias, for files still to be made.
    fn resolve(&self, name: &str, _access: &Access<'_>) -> Result<KeyId, KeyError> {
        Err(KeyError::Unusable(format!("key {name}: mode {} has no keys to choose", self.mode())))
    }

    /// Puts what is to be recorded on stable storage; called every second and at the end.
    fn flush(&self) -> Result<(), KeyError> {
        Ok(())
    }

    /// The work of a day, such as rotation by age; `now` in seconds since 1970-01-01 UTC.
    fn maintain(&self, _now: u64) -> Result<(), KeyError> {
        Ok(())
    }
}
