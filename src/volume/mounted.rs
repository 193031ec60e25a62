//! A volume in use: its id, its keys, its epoch.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::durability::{Durability, Durable};
use super::epochs::Epochs;
use super::error::VolumeError;
use super::file::EncryptedFile;
use super::journal::{Journal, Kept};
use super::left_behind::LeftBehind;
use super::pages::TAG_PAGES;
use super::unsynced::Unsynced;
use crate::format::{FileId, PlainSize, VolumeId};
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
    /// A sync of everything has failed in this epoch.
    has_failed: AtomicBool,
    /// Of some of these, what a sync was answered for and their own backing files may not have. It
    /// stays to the end of the mount: where a sync has failed, what is read of a file afterwards
    /// need not be what the medium holds.
    stranded: Mutex<HashMap<FileId, Vec<Kept>>>,
    durability: Durability,
    unsynced: Unsynced,
    /// The bytes that all files have gathered.
    gathered: Arc<AtomicU64>,
    /// How many tag pages all files have in memory.
    tag_pages: Arc<AtomicUsize>,
    aside: Aside,
}

/// Where gathered blocks outlive a process.
pub(super) struct Aside {
    /// Of this mount; `None` where nothing is gathered.
    pub(super) journal: Option<Arc<Journal>>,
    /// Of those before.
    pub(super) left_behind: LeftBehind,
}

impl Volume {
    pub(super) fn new(
        id: VolumeId,
        keyring: Keyring,
        epochs: Epochs,
        durability: Durability,
        aside: Aside,
    ) -> Self {
        Self {
            id,
            keyring,
            epochs,
            unsettled: Mutex::default(),
            any_unsettled: AtomicBool::new(false),
            has_failed: AtomicBool::new(false),
            stranded: Mutex::default(),
            durability,
            unsynced: Unsynced::default(),
            gathered: Arc::default(),
            tag_pages: Arc::default(),
            aside,
        }
    }

    /// Opens one of its files: authorises, unwraps, authenticates, recovers if it must.
    pub fn open_file(
        self: &Arc<Self>,
        backing: Arc<dyn BackingFile>,
        writable: bool,
        access: &Access<'_>,
    ) -> Result<EncryptedFile, VolumeError> {
        let size = backing.size()?;
        self.open_file_of_size(backing, size, writable, access)
    }

    /// The same for who knows already how large the backing file is.
    pub fn open_file_of_size(
        self: &Arc<Self>,
        backing: Arc<dyn BackingFile>,
        size: u64,
        writable: bool,
        access: &Access<'_>,
    ) -> Result<EncryptedFile, VolumeError> {
        EncryptedFile::open(self, backing, size, writable, access)
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
        self.epochs.forget_unclean()?;
        self.aside.left_behind.forget_all();
        Ok(())
    }

    /// What is promised for the time after a power cut.
    pub fn durability(&self) -> Durability {
        self.durability
    }

    /// Whether any file has something that waits for a commit.
    pub fn has_gathered(&self) -> bool {
        self.gathered_bytes() > 0
    }

    /// How many bytes wait for a commit, in all files.
    pub fn gathered_bytes(&self) -> u64 {
        self.gathered.load(Ordering::Relaxed)
    }

    /// Whether the journal holds so much of closed files and removed ones that a sync of everything
    /// is due, after which it need not.
    pub fn journal_is_large(&self) -> bool {
        self.unsynced.kept() > MANY_KEPT
    }

    /// Whether the tag pages of open files have taken all the memory that is for them, so that
    /// files that are opened now get little of it.
    pub fn is_full_of_tag_pages(&self) -> bool {
        self.tag_pages.load(Ordering::Relaxed) >= TAG_PAGES
    }

    /// Gives back the space of the journal if nothing is in it; wanted now and then.
    pub fn empty_journal(&self) {
        if let Some(Err(error)) = self.journal().map(|journal| journal.empty()) {
            log::warn!("the journal cannot be emptied: {error}");
        }
    }

    /// Files that were closed before everything written to them was synced. To be asked before
    /// a sync of the whole backing file system, and told to [`Self::note_all_synced`] after it.
    pub fn unsynced_now(&self) -> Option<u64> {
        self.unsynced.now()
    }

    /// Everything written before [`Self::unsynced_now`] gave `until` is synced.
    pub fn note_all_synced(&self, until: u64) {
        if self.has_failed.load(Ordering::Acquire) {
            // Of a file that was open when a sync failed it is not known.
            self.give_up_unsynced();
        }
        self.unsynced.note_synced(until);
    }

    /// The same for one file that nobody has open.
    pub fn note_file_synced(&self, file: FileId, until: u64) {
        self.unsynced.note_file_synced(file, until);
    }

    /// A sync of everything has failed. The next one will succeed, whatever did not reach the
    /// medium: files that are closed and not synced are to be recovered, now or by the next mount.
    pub fn note_sync_failed(&self) {
        self.has_failed.store(true, Ordering::Release);
        self.give_up_unsynced();
    }

    fn give_up_unsynced(&self) {
        for (file, kept) in self.unsynced.take_all() {
            self.note_unsettled(file);
            self.strand(file, kept);
        }
    }

    /// A file that needs recovery is opened: what it was closed with is among what is stranded.
    pub(super) fn strand_unsynced(&self, file: FileId) {
        if let Some((_, kept)) = self.unsynced.take(file) {
            self.strand(file, kept);
        }
    }

    /// The same for one file that nobody has open.
    pub fn note_file_sync_failed(&self, file: FileId) {
        self.note_unsettled(file);
        self.strand_unsynced(file);
    }

    /// A file is closed; of one that is not synced, so much of it is durable, and these promised
    /// records have to stay until the rest is.
    pub(super) fn note_closed(&self, file: FileId, unsynced: Option<(PlainSize, Vec<Kept>)>) {
        match unsynced {
            Some((durable, kept)) => self.unsynced.note(file, durable, kept),
            None => self.unsynced.forget(file),
        }
    }

    /// How far a file that is just opened, of `size` bytes, last written in `epoch`, is durable.
    pub(super) fn durable_when_opened(&self, file: FileId, epoch: u64, size: PlainSize) -> Durable {
        let unsynced = match epoch == self.epoch() {
            true => self.unsynced.take(file),
            false => None,
        };
        match unsynced {
            Some((durable, kept)) => Durable::of_unsynced(self.durability, durable.min(size), kept),
            None => Durable::new(self.durability, size),
        }
    }

    /// Notes the promised records of a file that could not be written: they are in the journal
    /// for whoever opens it next, in this mount or another one.
    pub(super) fn strand(&self, file: FileId, kept: Vec<Kept>) {
        if !kept.is_empty() {
            let mut stranded = self.stranded.lock().unwrap_or_else(PoisonError::into_inner);
            stranded.entry(file).or_default().extend(kept);
        }
    }

    /// Looks at those of a file.
    pub(super) fn with_stranded<T>(&self, file: FileId, look: impl FnOnce(&[Kept]) -> T) -> T {
        let stranded = self.stranded.lock().unwrap_or_else(PoisonError::into_inner);
        look(stranded.get(&file).map_or(&[], Vec::as_slice))
    }

    /// The counter of the bytes that all files have gathered.
    pub(super) fn gathered(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.gathered)
    }

    /// The counter of the tag pages of all files.
    pub(super) fn tag_pages(&self) -> Arc<AtomicUsize> {
        Arc::clone(&self.tag_pages)
    }

    /// The journal of this mount.
    pub(super) fn journal(&self) -> Option<&Arc<Journal>> {
        self.aside.journal.as_ref()
    }

    /// What earlier mounts have left in theirs.
    pub(super) fn left_behind(&self) -> &LeftBehind {
        &self.aside.left_behind
    }

    /// Whether an earlier mount did not end cleanly.
    pub(super) fn has_crashed(&self) -> bool {
        self.epochs.any_other_unclean()
    }

    /// Ends the epoch: cleanly, if every file's state is in place and synced. To be called after
    /// all files are settled and the backing file system is synced.
    pub fn end_epoch(&self) -> Result<(), VolumeError> {
        if self.any_unsettled.load(Ordering::Acquire) || self.has_failed.load(Ordering::Acquire) {
            log::warn!(
                "not all that was written is known to be in place; recovery follows at the next \
                 mount"
            );
            return Ok(());
        }
        self.epochs.end_cleanly()?;
        if let Some(journal) = self.journal() {
            journal.remove();
        }
        Ok(())
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

    /// Whatever a failed write has left in it is undone. One for which records are stranded stays
    /// what it is.
    pub(super) fn note_settled(&self, file: FileId) {
        if self.with_stranded(file, |kept| !kept.is_empty()) {
            return;
        }
        let mut unsettled = self.unsettled.lock().unwrap_or_else(PoisonError::into_inner);
        unsettled.remove(&file);
        self.any_unsettled.store(!unsettled.is_empty(), Ordering::Release);
    }
}

/// 33 MiB of journal, twice what may be gathered.
const MANY_KEPT: usize = if cfg!(test) { 64 } else { 8192 };
