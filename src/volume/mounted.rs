//! A volume in use: its id, its keys, its epoch.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::epochs::Epochs;
use super::error::VolumeError;
use super::file::EncryptedFile;
use crate::format::{FileId, VolumeId};
use crate::keys::{Access, Keyring};
use crate::store::BackingFile;

/// A volume in use.
pub struct Volume {
    id: VolumeId,
    keyring: Keyring,
    epochs: Epochs,
    /// Files in which a failed write could not be undone in this epoch, and a flag that spares
    /// the lock while there is none.
    unsettled: Mutex<HashSet<FileId>>,
    any_unsettled: AtomicBool,
}

impl Volume {
    pub(super) fn new(id: VolumeId, keyring: Keyring, epochs: Epochs) -> Self {
        Self {
            id,
            keyring,
            epochs,
            unsettled: Mutex::default(),
            any_unsettled: AtomicBool::new(false),
        }
    }

    /// Opens one of its files: authorises, unwraps, authenticates, recovers if it must.
    pub fn open_file(
        self: &Arc<Self>,
        backing: Arc<dyn BackingFile>,
        writable: bool,
        access: &Access<'_>,
    ) -> Result<EncryptedFile, VolumeError> {
        EncryptedFile::open(self, backing, writable, access)
    }

    /// The volume's id.
    pub fn id(&self) -> VolumeId {
        self.id
    }

    /// Its keys.
    pub fn keyring(&self) -> &Keyring {
        &self.keyring
    }

    /// The epoch of this mount.
    pub fn epoch(&self) -> u64 {
        self.epochs.current()
    }

    /// Whether nothing may be changed.
    pub fn read_only(&self) -> bool {
        self.epochs.read_only()
    }

    /// How many earlier epochs did not end cleanly.
    pub fn unclean_epochs(&self) -> usize {
        self.epochs.unclean()
    }

    /// Takes all earlier epochs for clean. Only for who has opened, recovered and synced every
    /// file of the volume.
    pub fn forget_unclean_epochs(&self) -> Result<(), VolumeError> {
        self.epochs.forget_unclean()
    }

    /// Ends the epoch: cleanly, if every file's state is in place and synced. To be called after
    /// all files are settled and the backing file system is synced.
    pub fn end_epoch(&self) -> Result<(), VolumeError> {
        if self.any_unsettled.load(Ordering::Acquire) {
            log::warn!(
                "some failed writes could not be undone; recovery follows at the next mount"
            );
            return Ok(());
        }
        self.epochs.end_cleanly()
    }

    /// Whether everything written to `file` in `epoch` is known to be in place.
    pub(super) fn ended_cleanly(&self, epoch: u64, file: FileId) -> bool {
        if self.read_only() || epoch != self.epoch() {
            return self.epochs.ended_cleanly(epoch);
        }
        !self.any_unsettled.load(Ordering::Acquire)
            || !self.unsettled.lock().unwrap_or_else(PoisonError::into_inner).contains(&file)
    }

    pub(super) fn note_unsettled(&self, file: FileId) {
        let mut unsettled = self.unsettled.lock().unwrap_or_else(PoisonError::into_inner);
        unsettled.insert(file);
        self.any_unsettled.store(true, Ordering::Release);
    }

    pub(super) fn note_settled(&self, file: FileId) {
        let mut unsettled = self.unsettled.lock().unwrap_or_else(PoisonError::into_inner);
        unsettled.remove(&file);
        self.any_unsettled.store(!unsettled.is_empty(), Ordering::Release);
    }
}
