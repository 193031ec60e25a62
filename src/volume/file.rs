//! An open encrypted file, shared by all handles of its inode.

use std::io;
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use super::content::{Content, FileKeys, SEALS_RESERVED, Sealing};
use super::counted::Counted;
use super::describe::Description;
use super::durability::Durable;
use super::error::VolumeError;
use super::mounted::Volume;
use super::pages::{EntryPages, Page};
use super::presealed::{Allowance, Presealed};
use crate::crypto::Secret;
use crate::format::{
    CipherOffset, ContentSum, FileId, FormatError, Header, PAGE_LEN, PlainOffset, PlainSize,
    Prologue, StateFlags, StateRecord, Suite, is_foreign, plain_size,
};
use crate::keys::{Access, Binding, KeyError};
use crate::store::{BackingFile, SyncScope};

/// An open file. All methods may be called from many threads at once: reads share, changes
/// exclude.
pub struct EncryptedFile {
    /// Held by a commit or sync from its first step to its last, across the sync itself, while
    /// the content goes on serving. Outside of `content`.
    pub(super) commits: Mutex<()>,
    /// Held across the backing I/O of one request; never across a key server's answer, and
    /// across a sync only where a change of size or a hole takes several ordered steps.
    /// Innermost but for the locks of the tag pages and of the allowance.
    content: RwLock<Content>,
    /// The content's, for those who seal ahead.
    pub(super) allowance: Arc<Allowance>,
}

impl EncryptedFile {
    /// Opens a backing file: authorises, unwraps the DEK, authenticates the header, recovers
    /// what a crash has left. `backing_size` is how large `backing` is, `writable` says whether it
    /// may be written.
    pub(super) fn open(
        volume: &Arc<Volume>,
        backing: Arc<dyn BackingFile>,
        backing_size: u64,
        writable: bool,
        access: &Access<'_>,
    ) -> Result<Self, VolumeError> {
        let content = Content::closed(volume, backing, writable);
        if backing_size == 0 {
            return Ok(Self::of(content));
        }
        let page = read_first_page(&*content.backing, backing_size)?;
        if volume.has_crashed() && page.iter().all(|byte| *byte == 0) {
            log::warn!("a file whose first write did not reach the backing store is empty");
            if writable {
                content.backing.set_size(0)?;
            }
            return Ok(Self::of(content));
        }
        let header = Header::parse(&page)?;
        let Prologue { file_id, volume_id, .. } = header.prologue;
        if volume_id != volume.id() {
            return Err(VolumeError::OtherVolume { file: file_id, found: volume_id });
        }
        let Unlocked { keys, state, .. } = unlock(volume, &header, &page, access)?;
        let file = Self::open_unlocked(content, backing_size, page, header, keys, state)?;
        if writable {
            volume.left_behind().forget(file_id);
        }
        Ok(file)
    }

    /// Opens a backing file whose header was authenticated.
    pub(super) fn open_unlocked(
        mut content: Content,
        backing_size: u64,
        page: Box<Page>,
        header: Header,
        keys: FileKeys,
        state: StateRecord,
    ) -> Result<Self, VolumeError> {
        let volume = Arc::clone(&content.volume);
        let file_id = header.prologue.file_id;
        let seals = state.seal_count;
        let pages = EntryPages::new(page, volume.tag_pages());
        let (sum, told) = Default::default();
        let keys = Some(Arc::new(keys));
        content.sealing =
            Some(Sealing { keys, header, pages, state, sum, told, on_disk: true, seals });
        content.size = plain_size(CipherOffset(backing_size));
        if volume.ended_cleanly(state.epoch, file_id) {
            content.check_clean(backing_size)?;
            content.take_digest()?;
            content.durable = volume.durable_when_opened(file_id, state.epoch, content.size);
        } else {
            content.durable = Durable::new(volume.durability(), PlainSize(state.durable_size));
            if state.epoch == volume.epoch() {
                volume.strand_unsynced(file_id);
            }
            content.gather_left_behind()?;
            content.recover()?;
        }
        Ok(Self::of(content))
    }

    fn of(content: Content) -> Self {
        let allowance = Arc::clone(&content.allowance);
        Self { commits: Mutex::default(), content: RwLock::new(content), allowance }
    }

    /// Asks whether the caller may use the file's key; needed at each further open of a file
    /// that is open already. A DEK that was withdrawn is had again.
    pub fn authorise(&self, access: &Access<'_>) -> Result<(), VolumeError> {
        let content = self.reading();
        let Some(sealing) = &content.sealing else { return Ok(()) };
        if sealing.keys.is_none() {
            drop(content);
            return self.restore(access);
        }
        let Some(envelope) = sealing.envelope() else { return Ok(()) };
        Ok(content.volume.keyring().authorise(envelope, content.binding(sealing), access)?)
    }

    /// Makes a DEK for an empty file on behalf of the caller who wants to write it. It is kept
    /// in memory until the first write puts it on disk with the header.
    pub fn prepare_write(&self, access: &Access<'_>) -> Result<(), VolumeError> {
        let volume = {
            let content = self.reading();
            if content.sealing.is_some() {
                return Ok(());
            }
            Arc::clone(&content.volume)
        };
        let file = FileId::random();
        let binding = Binding { volume: volume.id(), file };
        let generated = volume.keyring().generate(binding, access)?;
        let prologue = Prologue { suite: Suite::Aes256Gcm, file_id: file, volume_id: volume.id() };
        let header = Header::new(prologue, generated.envelope)?;
        let keys = FileKeys::derive(&generated.dek);
        let mut page: Box<Page> = Box::new([0; PAGE_LEN as usize]);
        header.encode_into(&mut page)?;
        let (sum, epoch) = (ContentSum::default(), volume.epoch());
        let state = StateRecord {
            sequence: 1,
            size: 0,
            durable_size: 0,
            epoch,
            seal_count: SEALS_RESERVED.start,
            flags: StateFlags { digest_kept: true, ..StateFlags::default() },
            envelope_slot: 0,
            digest: keys.digest.mask(sum, 1, epoch),
        };
        header.encode_both_states(&state, &keys.state, &mut page);
        let pages = EntryPages::new(page, volume.tag_pages());
        let keys = Some(Arc::new(keys));
        let (on_disk, seals) = (false, 0);
        let sealing = Sealing { keys, header, pages, state, sum, told: sum, on_disk, seals };
        let mut content = self.writing();
        if content.sealing.is_none() {
            content.sealing = Some(sealing);
        }
        Ok(())
    }

    /// Takes a backing file that may be written in place of one that may only be read; both
    /// are the same file.
    pub fn replace_backing(&self, backing: Arc<dyn BackingFile>) -> Result<(), VolumeError> {
        let mut content = self.writing();
        content.backing = Arc::new(Counted::new(backing));
        content.writable = true;
        if !content.unsettled {
            return Ok(());
        }
        // Nothing was written yet: those gaps were only what recovery could not look into.
        content.gaps.clear();
        content.gather_left_behind()?;
        content.recover()?;
        content.volume.left_behind().forget(content.file_id());
        Ok(())
    }

    /// The file's id; zeros while it is empty.
    pub fn file_id(&self) -> FileId {
        self.reading().file_id()
    }

    /// Whether the backing file may be written.
    pub fn is_writable(&self) -> bool {
        self.reading().writable
    }

    /// The plaintext size in bytes.
    pub fn size(&self) -> u64 {
        self.reading().size.0
    }

    /// Reads into `buf`; less than its length only at the end of the file.
    pub fn read(&self, offset: u64, buf: &mut [u8]) -> Result<usize, VolumeError> {
        self.reading().read(PlainOffset(offset), buf)
    }

    /// Writes all of `data`, or fails and leaves what was there.
    pub fn write(&self, offset: u64, data: &[u8]) -> Result<(), VolumeError> {
        self.preseal(offset, data, |presealed| self.write_presealed(offset, data, presealed))?
    }

    /// The same, with what [`Self::preseal`] has sealed.
    pub fn write_presealed(
        &self,
        offset: u64,
        data: &[u8],
        mut presealed: Option<Presealed<'_>>,
    ) -> Result<(), VolumeError> {
        let offset = PlainOffset(offset);
        loop {
            let mut content = self.writing();
            let blocks = content.blocks_changed_by(offset, data.len() as u64)?;
            content.begin_write(data.len() as u64)?;
            if content.must_wait(&blocks) {
                drop(content);
                self.barrier(&blocks)?;
                continue;
            }
            content.write(offset, data, presealed.as_mut())?;
            let due = content.gather.is_full();
            drop(content);
            return if due { self.commit() } else { Ok(()) };
        }
    }

    /// Commits what has been gathered for `age`, and syncs what has not been synced since
    /// `unsynced_too`: to be called now and then.
    pub fn keep_up(&self, age: Duration, unsynced_too: bool) -> Result<(), VolumeError> {
        let (old, unsynced) = {
            let content = self.reading();
            if content.is_withdrawn() {
                return Ok(());
            }
            (content.gather.is_older_than(age), content.durable.is_unsynced())
        };
        match unsynced && unsynced_too {
            true => self.sync(SyncScope::Data),
            false if old => self.commit(),
            false => Ok(()),
        }
    }

    /// Whether something waits for a commit, and may wait a little longer than until the close: all
    /// is well with the file, and what waits outlives the process.
    pub fn may_linger(&self) -> bool {
        let content = self.reading();
        content.has_gathered()
            && !content.gather.is_full()
            && !content.unsettled
            && !content.is_withdrawn()
            && !content.has_failed()
    }

    /// Whether something waits for a commit.
    pub fn has_gathered(&self) -> bool {
        self.reading().has_gathered()
    }

    /// Whether [`Self::keep_up`] would do anything now or later.
    pub fn is_unsynced(&self) -> bool {
        let content = self.reading();
        content.has_gathered() || content.durable.is_unsynced()
    }

    /// Cuts or extends the file; what is added reads as zeros.
    pub fn set_size(&self, size: u64) -> Result<(), VolumeError> {
        self.writing().set_size(PlainSize(size))?;
        self.commit_unkept()
    }

    /// Reserves space; grows the file to cover the range unless `keep_size`.
    pub fn allocate(&self, offset: u64, len: u64, keep_size: bool) -> Result<(), VolumeError> {
        self.writing().allocate(offset, len, keep_size)?;
        self.commit_unkept()
    }

    /// Makes the range read as zeros and frees its space; the size stays.
    pub fn punch_hole(&self, offset: u64, len: u64) -> Result<(), VolumeError> {
        self.writing().punch_hole(offset, len)?;
        self.commit_unkept()
    }

    /// Makes the range read as zeros and reserves its space.
    pub fn zero_range(&self, offset: u64, len: u64, keep_size: bool) -> Result<(), VolumeError> {
        self.writing().zero_range(offset, len, keep_size)?;
        self.commit_unkept()
    }

    /// Commits if that is due: what would not outlive the process is not acknowledged.
    fn commit_unkept(&self) -> Result<(), VolumeError> {
        let due = self.reading().gather.is_full();
        if due { self.commit() } else { Ok(()) }
    }

    /// The first offset from `offset` on that may hold data; `None` if there is none.
    pub fn next_data(&self, offset: u64) -> Result<Option<u64>, VolumeError> {
        self.reading().next_data(offset)
    }

    /// The first offset from `offset` on in a hole or at the end; `None` past the end.
    pub fn next_hole(&self, offset: u64) -> Result<Option<u64>, VolumeError> {
        self.reading().next_hole(offset)
    }

    /// Whether [`Self::settle_while`] would write nothing.
    pub fn is_settled(&self, in_use: bool) -> bool {
        // What a change left that broke off is not known to `reading`.
        let Ok(content) = self.content.read() else { return false };
        let must_flush = content.size.0 == 0 && content.durable.whole_in_flight();
        !must_flush && !content.has_gathered() && !content.unsettled && !content.is_behind(in_use)
    }

    /// Writes the state record if it is behind; wanted when the last writer closes the file.
    pub fn settle(&self) -> Result<(), VolumeError> {
        self.settle_while(false)
    }

    /// The same; of a file that is `in_use` by who goes on writing, the seals that its record
    /// reserves for that stay.
    pub fn settle_while(&self, in_use: bool) -> Result<(), VolumeError> {
        self.commit()?;
        let mut content = self.writing();
        if content.size.0 == 0 && content.durable.whole_in_flight() {
            // Opened anew, the file would not tell what must not be written before this.
            content.flush_now()?;
        }
        content.settle(in_use)
    }

    /// A sync of the backing file by another descriptor has failed: none of this file succeeds
    /// from now on, and who opens it anew recovers what is to be had.
    pub fn note_sync_failed(&self, error: &io::Error) {
        self.writing().durable.note_failed(error);
    }

    /// How often the backing file was changed through this one.
    pub fn changes(&self) -> u64 {
        self.reading().backing.changes()
    }

    /// Whether the file may stay open while nobody uses it, because opening it anew would mend
    /// nothing and ask for no other DEK. Then it forgets what it can read again.
    pub fn rest(&self) -> bool {
        if !self.is_settled(false) {
            return false;
        }
        let content = self.reading();
        let sealing = content.sealing.as_ref().filter(|sealing| sealing.on_disk);
        let rests = sealing.is_some() && !content.is_withdrawn() && !content.has_failed();
        if let Some(sealing) = sealing.filter(|_| rests) {
            sealing.pages.forget_tags();
        }
        rests
    }

    /// Forgets what it can read again. Where a sync has failed, what comes back may be older.
    pub fn forget_pages(&self) {
        let content = self.reading();
        let is_well = !content.unsettled && !content.has_failed();
        if let Some(sealing) = content.sealing.as_ref().filter(|_| is_well) {
            sealing.pages.forget_tags();
        }
    }

    /// Lets go of what waits for a commit, of a file that nobody can open any more. What was
    /// promised stays in the journal, as a power cut may bring the file back.
    pub fn discard(&self) {
        self.writing().discard();
    }

    /// Tells the volume how the file is left: to come before it is opened anew. From then on
    /// nothing is asked of it but to be dropped, which tells it too where nobody has.
    pub fn end(&self) {
        self.writing().end();
    }

    /// What the header says; `None` while the file is empty.
    pub fn description(&self) -> Option<Description> {
        let content = self.reading();
        let sealing = content.sealing.as_ref().filter(|sealing| sealing.on_disk)?;
        let envelope = sealing.envelope()?.clone();
        Some(Description::new(&sealing.header.prologue, envelope, &sealing.state, content.size))
    }

    pub(super) fn reading(&self) -> RwLockReadGuard<'_, Content> {
        self.content.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn writing(&self) -> RwLockWriteGuard<'_, Content> {
        self.content.write().unwrap_or_else(|poisoned| {
            // A change broke off where it should not have: what it left is for recovery to see.
            self.content.clear_poison();
            let mut content = poisoned.into_inner();
            content.mark_unsettled();
            content
        })
    }
}

impl Drop for EncryptedFile {
    fn drop(&mut self) {
        self.end();
    }
}

/// Page 0 of a backing file of `size` bytes, more than none.
pub(super) fn read_first_page(
    backing: &dyn BackingFile,
    size: u64,
) -> Result<Box<Page>, VolumeError> {
    let mut page: Box<Page> = Box::new([0; PAGE_LEN as usize]);
    let read = backing.read_at(&mut *page, 0)?;
    if is_foreign(size) || read < page.len() {
        // The magic tells somebody else's short file from a header of ours that was cut.
        Prologue::decode(page.first_chunk().expect("a page holds a prologue"))?;
        return Err(FormatError::TruncatedHeader { found: read as u64 }.into());
    }
    Ok(page)
}

/// What is wrong with a record of an epoch that has not begun.
pub(super) const EPOCH_TO_COME: &str = "state record (epoch to come)";

/// What an unlocked header gives.
pub(super) struct Unlocked {
    pub(super) dek: Secret,
    pub(super) keys: FileKeys,
    /// Authenticated.
    pub(super) state: StateRecord,
}

/// Unwraps the DEK by the envelope that is claimed to be in force, else by the spare one, and
/// authenticates the state.
pub(super) fn unlock(
    volume: &Volume,
    header: &Header,
    page: &Page,
    access: &Access<'_>,
) -> Result<Unlocked, VolumeError> {
    let Prologue { file_id, volume_id, .. } = header.prologue;
    let binding = Binding { volume: volume_id, file: file_id };
    let mut refused = None;
    for (_, envelope) in header.slots_by_claim(page) {
        let dek = match volume.keyring().dek(envelope, binding, access) {
            Ok(dek) => dek,
            // Not allowed is not to be tried again with another key.
            Err(error @ (KeyError::Denied { .. } | KeyError::NotUsable { .. })) => {
                return Err(error.into());
            }
            Err(error) => {
                refused.get_or_insert(error);
                continue;
            }
        };
        let keys = FileKeys::derive(&dek);
        let state = match header.verify(page, &keys.state, false) {
            Ok(state) => state,
            Err(error) => match header.verify(page, &keys.state, true) {
                Ok(state) if !volume.ended_cleanly(state.epoch, file_id) => state,
                _ => return Err(error.into()),
            },
        };
        if state.epoch > volume.epoch() {
            return Err(FormatError::Malformed { what: EPOCH_TO_COME }.into());
        }
        return Ok(Unlocked { dek, keys, state });
    }
    Err(refused.map_or(FormatError::Malformed { what: "envelope (none)" }.into(), Into::into))
}
