//! CMKs in memory: snapshots of their records, kept while the record's file stays the same. Each
//! look costs one system call, so that a change by another process is seen by the next one that
//! looks: ssefs changes records by replacing them, which changes their directory. What somebody
//! writes into a record itself is seen within a second. A key that is past the date of its
//! deletion is not handed out.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use super::error::{ErrorCode, KmsError};
use super::grant::Grant;
use super::policy::Policy;
use super::record::{CmkRecord, canonical_id};
use super::state::{KeyState, Origin};
use crate::crypto::Secret;
use crate::format::KeyId;
use crate::keys::keystore::{Keystore, RecordFile};
use crate::keys::private_dir::Stamp;

/// A CMK as it was at one moment. Its material is in locked memory.
pub struct Cmk {
    pub(super) record: CmkRecord,
}

impl Cmk {
    /// Its id.
    pub fn id(&self) -> &KeyId {
        &self.record.key_id
    }

    /// What people know it by.
    pub fn description(&self) -> &str {
        &self.record.description
    }

    /// When it was made, in seconds since 1970-01-01 UTC.
    pub fn created(&self) -> u64 {
        self.record.created
    }

    /// Its state.
    pub fn state(&self) -> KeyState {
        self.record.lifecycle.state()
    }

    /// Where its material comes from.
    pub fn origin(&self) -> Origin {
        self.record.lifecycle.origin()
    }

    /// The number of the newest version and its material, which alone encrypts; none while the
    /// key waits for its import.
    pub fn newest(&self) -> Option<(u32, &Secret)> {
        self.record.newest().map(|newest| (newest.version, newest.secret()))
    }

    /// The material of a version, to decrypt by.
    pub fn version(&self, version: u32) -> Option<&Secret> {
        self.record.version(version).map(|found| found.secret())
    }

    /// The public name of a version's material.
    pub fn material_id(&self, version: u32) -> Option<&str> {
        self.record.version(version).map(|found| found.material_id.as_str())
    }

    /// Its key policy.
    pub fn policy(&self) -> &Policy {
        &self.record.policy
    }

    /// Its grants.
    pub fn grants(&self) -> &[Grant] {
        &self.record.grants
    }
}

/// The snapshots of a keystore's CMKs.
pub(super) struct CmkCache {
    keystore: Arc<Keystore>,
    /// Never held while the keystore is read.
    held: RwLock<HashMap<KeyId, Arc<Held>>>,
}

struct Held {
    cmk: Arc<Cmk>,
    file: RecordFile,
    /// Of the file that it was read from; `None` if that was too young to be told by its stamp
    /// from one that replaces it.
    stamp: Option<Stamp>,
    /// When the record itself was looked at last.
    looked: Mutex<Option<Look>>,
}

/// A record was the one that is held when the directory had this stamp.
#[derive(Clone, Copy)]
pub(super) struct Look {
    at: Instant,
    directory: Stamp,
}

impl Look {
    /// Whether it still counts where the directory has this stamp.
    fn stands(&self, directory: Stamp, now: Instant) -> bool {
        self.directory == directory && now - self.at < LOOK_EVERY
    }
}

impl CmkCache {
    /// An empty one.
    pub(super) fn new(keystore: Arc<Keystore>) -> Self {
        Self { keystore, held: RwLock::default() }
    }

    /// The CMK as its record is now.
    pub(super) fn cmk(&self, key_id: &KeyId, now: u64) -> Result<Arc<Cmk>, KmsError> {
        let cmk = match self.held(key_id)? {
            Some(cmk) => cmk,
            None => self.read(key_id)?,
        };
        if cmk.record.lifecycle.is_deleted(now) {
            return Err(not_found(&self.keystore, &key_id.0));
        }
        Ok(cmk)
    }

    /// What tells by itself that this snapshot is still the newest.
    pub(super) fn look(&self, cmk: &Arc<Cmk>) -> Option<Look> {
        let held = self.held.read().unwrap_or_else(PoisonError::into_inner);
        let held = held.get(cmk.id()).filter(|held| Arc::ptr_eq(&held.cmk, cmk))?;
        *held.looked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether nothing has changed since. Costs one system call.
    pub(super) fn is_unchanged(&self, look: &Look, now: Instant) -> bool {
        self.keystore.own_stamp().is_ok_and(|directory| look.stands(directory, now))
    }

    /// The snapshot, if its file is still the same.
    fn held(&self, key_id: &KeyId) -> Result<Option<Arc<Cmk>>, KmsError> {
        let held = self.held.read().unwrap_or_else(PoisonError::into_inner).get(key_id).cloned();
        let Some(held) = held else { return Ok(None) };
        let Some(stamp) = held.stamp else { return Ok(None) };
        // Before the record, so that what changes in between is seen the next time.
        let directory = self.keystore.own_stamp()?;
        let now = Instant::now();
        let mut looked = held.looked.lock().unwrap_or_else(PoisonError::into_inner);
        if looked.is_some_and(|look| look.stands(directory, now)) {
            return Ok(Some(Arc::clone(&held.cmk)));
        }
        let same = self.keystore.stamp(&held.file)? == Some(stamp);
        let settled = same && directory.is_settled();
        *looked = settled.then_some(Look { at: now, directory });
        Ok(same.then(|| Arc::clone(&held.cmk)))
    }

    fn read(&self, key_id: &KeyId) -> Result<Arc<Cmk>, KmsError> {
        let read = match canonical_id(&key_id.0) {
            Some(canonical) if canonical == *key_id => CmkRecord::read(&self.keystore, key_id)?,
            _ => None,
        };
        let mut held = self.held.write().unwrap_or_else(PoisonError::into_inner);
        let Some((record, stamp)) = read else {
            held.remove(key_id);
            return Err(not_found(&self.keystore, &key_id.0));
        };
        let cmk = Arc::new(Cmk { record });
        let stamp = stamp.is_settled().then_some(stamp);
        let file = Keystore::file_of::<CmkRecord>(&key_id.0);
        let looked = Mutex::default();
        held.insert(key_id.clone(), Arc::new(Held { cmk: Arc::clone(&cmk), file, stamp, looked }));
        Ok(cmk)
    }
}

/// How long a change to a record that does not change its directory may go unseen.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The error for a key that is not in the keystore.
pub(super) fn not_found(keystore: &Keystore, given: &str) -> KmsError {
    let message = format!(
        "the keystore {} holds no key {given:?}: `ssefs key list` shows its keys; name another \
         keystore with --keystore",
        keystore.path().display()
    );
    KmsError::new(ErrorCode::NotFound, message)
}
