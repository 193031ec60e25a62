//! The epoch of a mount: begun, durably, before the first change, and ended once everything is
//! synced. The record is authenticated under the volume key, so that nobody without it can have
//! a clean file treated as one that a crash may have torn.

use std::ffi::OsStr;
use std::sync::{Arc, Mutex, PoisonError};

use super::directory::VolumeDirectory;
use super::error::VolumeError;
use crate::crypto::{MacKey, Secret, derive};
use crate::format::{EPOCHS_NAME, EpochRecord, VolumeId};

/// The epochs of a mounted volume.
pub(super) struct Epochs {
    directory: Arc<VolumeDirectory>,
    volume: VolumeId,
    key: MacKey,
    current: u64,
    /// As it is on disk, with the current epoch among the unclean.
    record: Mutex<EpochRecord>,
    read_only: bool,
}

impl Epochs {
    /// The record of a new volume: no epoch yet.
    pub(super) fn initial(volume: VolumeId, volume_key: &Secret) -> Vec<u8> {
        let record = EpochRecord { last: 0, unclean: Vec::new() };
        record.encode(volume, &MacKey::new(&derive(volume_key, EPOCHS_LABEL)))
    }

    /// Begins the next epoch, unless the mount is read-only: that has none of its own.
    pub(super) fn begin(
        directory: Arc<VolumeDirectory>,
        volume: VolumeId,
        volume_key: &Secret,
        read_only: bool,
    ) -> Result<Self, VolumeError> {
        let key = MacKey::new(&derive(volume_key, EPOCHS_LABEL));
        let text = directory.read(OsStr::new(EPOCHS_NAME))?.ok_or_else(|| {
            VolumeError::Volume(format!(
                ".ssefs/{EPOCHS_NAME} is missing; restore it from a backup of this volume"
            ))
        })?;
        let mut record = EpochRecord::decode(&text, volume, &key)?;
        if !read_only {
            if !record.unclean.is_empty() {
                log::info!(
                    "{} earlier mounts did not end cleanly; their files are recovered when opened",
                    record.unclean.len()
                );
            }
            record.last += 1;
            record.unclean.push(record.last);
            directory.replace(OsStr::new(EPOCHS_NAME), &record.encode(volume, &key))?;
        }
        let current = record.last;
        Ok(Self { directory, volume, key, current, record: Mutex::new(record), read_only })
    }

    /// This mount's epoch; for a read-only mount the last one.
    pub(super) fn current(&self) -> u64 {
        self.current
    }

    /// Whether an epoch ended with everything in place. The current one has not ended: its
    /// files are in order all the same as long as this process lives.
    pub(super) fn ended_cleanly(&self, epoch: u64) -> bool {
        self.record.lock().unwrap_or_else(PoisonError::into_inner).is_clean(epoch)
    }

    /// Whether an epoch other than the current one did not end cleanly.
    pub(super) fn any_other_unclean(&self) -> bool {
        let record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
        let own = |epoch: &u64| !self.read_only && *epoch == self.current;
        record.unclean.iter().any(|epoch| !own(epoch))
    }

    /// Whether this mount may change anything.
    pub(super) fn read_only(&self) -> bool {
        self.read_only
    }

    /// How many epochs did not end cleanly, but for this mount's own.
    pub(super) fn unclean(&self) -> usize {
        let record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
        let own = !self.read_only;
        record.unclean.iter().filter(|epoch| !own || **epoch != self.current).count()
    }

    /// Forgets those: no file is left that was last written in one of them.
    pub(super) fn forget_unclean(&self) -> Result<(), VolumeError> {
        if self.read_only {
            return Err(VolumeError::ReadOnly);
        }
        let mut record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
        let forgotten = EpochRecord { unclean: vec![self.current], ..record.clone() };
        let text = forgotten.encode(self.volume, &self.key);
        self.directory.replace(OsStr::new(EPOCHS_NAME), &text)?;
        *record = forgotten;
        Ok(())
    }

    /// Ends the current epoch; everything written in it is synced.
    pub(super) fn end_cleanly(&self) -> Result<(), VolumeError> {
        if self.read_only {
            return Ok(());
        }
        let mut record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
        let mut ended = record.clone();
        ended.unclean.retain(|epoch| *epoch != self.current);
        let text = ended.encode(self.volume, &self.key);
        self.directory.replace(OsStr::new(EPOCHS_NAME), &text)?;
        *record = ended;
        Ok(())
    }
}

const EPOCHS_LABEL: &[u8] = b"ssefs/v1/epochs";
