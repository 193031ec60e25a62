//! What an open file knows of itself: keys, header, state, size and pages of entries. The
//! operations on it are in the files beside this one, each an `impl` of [`Content`].

use std::ops::Range;
use std::sync::Arc;

use super::block_ranges::BlockRanges;
use super::commit;
use super::counted::Counted;
use super::durability::Durable;
use super::error::VolumeError;
use super::gather::Gather;
use super::mounted::Volume;
use super::own_page::OwnPage;
use super::pages::{EntryPages, Page};
use super::presealed::Allowance;
use crate::crypto::{AeadKey, Derivation, MacKey, Secret};
use crate::format::{
    BlockIndex, CipherOffset, ContentSum, DATA_KEY_LABEL, DIGEST_KEY_LABEL, DigestKey, Envelope,
    FileId, Header, PageIndex, PlainSize, SEALS_LIMIT, STATE_MAC_LABEL, StateFlags, StateRecord,
    blocks_in, entry_place,
};
use crate::store::BackingFile;

/// The keys of one file, derived from its DEK.
pub(super) struct FileKeys {
    /// Seals blocks.
    pub(super) data: AeadKey,
    /// Authenticates the state record.
    pub(super) state: MacKey,
    /// Sums up the tags of the blocks.
    pub(super) digest: DigestKey,
}

impl FileKeys {
    pub(super) fn derive(dek: &Secret) -> Self {
        let keys = Derivation::new(dek);
        Self {
            data: AeadKey::new(&keys.key(DATA_KEY_LABEL)),
            state: MacKey::new(&keys.key(STATE_MAC_LABEL)),
            digest: DigestKey::new(&keys.key(DIGEST_KEY_LABEL)),
        }
    }
}

/// The part of a file that exists once it has a DEK.
pub(super) struct Sealing {
    /// `None` while the DEK is withdrawn, because its key may not be used.
    pub(super) keys: Option<Arc<FileKeys>>,
    pub(super) header: Header,
    pub(super) pages: EntryPages,
    /// The state record in page 0 of `pages`.
    pub(super) state: StateRecord,
    /// The content digest of the entries in `pages` and on the backing store; means something
    /// only where `state` says that it is kept.
    pub(super) sum: ContentSum,
    /// The sum that `state` tells.
    pub(super) told: ContentSum,
    /// Whether page 0 is in the backing file. It is not while the file is empty: the header
    /// then goes with the first write.
    pub(super) on_disk: bool,
    /// Seals made so far, and those of the allowance; `state.seal_count` is an upper bound of it
    /// that is on disk.
    pub(super) seals: u64,
}

impl Sealing {
    /// The keys, unless the DEK is withdrawn.
    pub(super) fn keys(&self) -> Result<&Arc<FileKeys>, VolumeError> {
        self.keys.as_ref().ok_or_else(|| {
            let file = self.header.prologue.file_id;
            VolumeError::Withdrawn { file }
        })
    }

    /// The envelope that the DEK is wrapped in now.
    pub(super) fn envelope(&self) -> Option<&Envelope> {
        self.header.envelopes[usize::from(self.state.envelope_slot)].as_ref()
    }
}

/// An open file, under its lock.
pub(super) struct Content {
    pub(super) volume: Arc<Volume>,
    pub(super) backing: Arc<Counted>,
    /// Whether `backing` may be written.
    pub(super) writable: bool,
    /// `None` while the file is empty and nobody has wanted to write it.
    pub(super) sealing: Option<Sealing>,
    /// The plaintext size.
    pub(super) size: PlainSize,
    /// Skipped blocks that may still be filled.
    pub(super) gaps: BlockRanges,
    /// What a power cut cannot take.
    pub(super) durable: Durable,
    /// Blocks that wait for the next commit.
    pub(super) gather: Gather,
    /// What those who seal ahead may take.
    pub(super) allowance: Arc<Allowance>,
    /// Entries may be ahead of the data that they describe: a block that does not open as its
    /// newer generation may open as the one before.
    pub(super) unsettled: bool,
    /// The volume knows how the file was left.
    pub(super) ended: bool,
}

impl Content {
    /// Of a backing file of which nothing is known yet.
    pub(super) fn closed(
        volume: &Arc<Volume>,
        backing: Arc<dyn BackingFile>,
        writable: bool,
    ) -> Self {
        Self {
            volume: Arc::clone(volume),
            backing: Arc::new(Counted::new(backing)),
            writable,
            sealing: None,
            size: PlainSize(0),
            gaps: BlockRanges::default(),
            durable: Durable::new(volume.durability(), PlainSize(0)),
            gather: Gather::new(volume.gathered()),
            allowance: Arc::default(),
            unsettled: false,
            ended: false,
        }
    }

    /// The file's id, for messages; zeros while it has none.
    pub(super) fn file_id(&self) -> FileId {
        self.sealing.as_ref().map_or(FileId([0; 16]), |sealing| sealing.header.prologue.file_id)
    }

    /// The sealing of a file that has content, or a DEK ready for it; refused while the DEK is
    /// withdrawn.
    pub(super) fn sealing(&self) -> Result<&Sealing, VolumeError> {
        let sealing = self.sealing.as_ref().ok_or(VolumeError::ReadOnly)?;
        sealing.keys().map(|_| sealing)
    }

    pub(super) fn sealing_mut(&mut self) -> Result<&mut Sealing, VolumeError> {
        self.sealing()?;
        self.sealing.as_mut().ok_or(VolumeError::ReadOnly)
    }

    /// Whether the file has a DEK that is withdrawn.
    pub(super) fn is_withdrawn(&self) -> bool {
        self.sealing.as_ref().is_some_and(|sealing| sealing.keys.is_none())
    }

    /// Refuses a change that would need no key, to a file that nobody may use now.
    pub(super) fn refuse_withdrawn(&self) -> Result<(), VolumeError> {
        self.sealing.as_ref().map_or(Ok(()), |sealing| sealing.keys().map(drop))
    }

    /// Whether `block` may be all zeros without a seal.
    pub(super) fn may_be_hole(&self, block: BlockIndex) -> bool {
        let flagged = |sealing: &Sealing| sealing.state.flags.may_have_holes;
        self.sealing.as_ref().is_some_and(flagged) || self.gaps.contains(block.0)
    }

    /// Must come before the first change to blocks: makes sure that the state on disk names
    /// this epoch and leaves room for `seals` more seals. For a file whose header is not on
    /// disk yet it only prepares the state that goes with the first write.
    pub(super) fn begin_change(&mut self, seals: u64) -> Result<(), VolumeError> {
        if !self.writable {
            return Err(VolumeError::ReadOnly);
        }
        let epoch = self.volume.epoch();
        let file = self.file_id();
        if self.sealing()?.seals + seals > SEALS_LIMIT {
            // What may be left of the allowance is for this one.
            self.end_allowance();
        }
        let sealing = self.sealing_mut()?;
        let wanted = sealing.seals + seals;
        if wanted > SEALS_LIMIT {
            return Err(VolumeError::SealsExhausted { file });
        }
        if sealing.state.epoch == epoch && wanted <= sealing.state.seal_count {
            return Ok(());
        }
        let mut state = sealing.state;
        state.epoch = epoch;
        if wanted > state.seal_count {
            let reserved = sealing.seals.clamp(SEALS_RESERVED.start, SEALS_RESERVED.end);
            state.seal_count = (wanted + reserved).min(SEALS_LIMIT);
            if sealing.state.seal_count < SEALS_WARNING && state.seal_count >= SEALS_WARNING {
                log::warn!(
                    "file {file}: its DEK has sealed 2^31 blocks of the 2^32 that are safe; \
                     give it a new one with 'ssefs rekey'"
                );
            }
        }
        let first_in_epoch = sealing.on_disk && sealing.state.epoch != epoch;
        self.put_state(state)?;
        if first_in_epoch {
            // A power cut must not leave changes under a record that tells of none.
            self.durable.note_whole_in_flight();
        }
        Ok(())
    }

    /// What comes before the first change by a write of `len` bytes. Blocks that it skips are not
    /// sealed.
    pub(super) fn begin_write(&mut self, len: u64) -> Result<(), VolumeError> {
        self.begin_change(blocks_in(PlainSize(len)) + WRITE_MORE)
    }

    /// The record to come after the one in page 0: with the next sequence, the content digest,
    /// and gaps that the size covers told as holes.
    pub(super) fn next_state(
        &self,
        state: StateRecord,
        sum: ContentSum,
    ) -> Result<StateRecord, VolumeError> {
        let gaps = self.gaps.begin_before(blocks_in(PlainSize(state.size)));
        let sealing = self.sealing()?;
        let flags =
            StateFlags { may_have_holes: state.flags.may_have_holes || gaps, ..state.flags };
        let sequence = sealing.state.sequence + 1;
        let digest = match flags.digest_kept {
            true => sealing.keys()?.digest.mask(sum, sequence, state.epoch),
            false => state.digest,
        };
        Ok(StateRecord { sequence, flags, digest, ..state })
    }

    /// Puts `state` into page 0, and page 0 into the backing file if it is there already.
    pub(super) fn put_state(&mut self, state: StateRecord) -> Result<(), VolumeError> {
        let backing = Arc::clone(&self.backing);
        let state = self.next_state(state, self.sealing()?.sum)?;
        self.durable.note_change();
        let sealing = self.sealing_mut()?;
        let mut page = OwnPage::copy_of(&sealing.pages.first);
        let key = &sealing.keys()?.state;
        if sealing.on_disk {
            sealing.header.encode_state(&state, key, &mut page);
            if let Err(error) = commit::write_page(&*backing, PageIndex(0), &page) {
                // Which of the two records is on disk is not known.
                self.mark_unsettled();
                return Err(error.into());
            }
        } else {
            sealing.header.encode_both_states(&state, key, &mut page);
        }
        sealing.pages.put(PageIndex(0), page);
        (sealing.state, sealing.told) = (state, sealing.sum);
        Ok(())
    }

    /// Writes page 0 of a file that has none yet.
    pub(super) fn put_header(&mut self) -> Result<(), VolumeError> {
        let backing = Arc::clone(&self.backing);
        let sealing = self.sealing_mut()?;
        if !sealing.on_disk {
            if let Err(error) = commit::write_page(&*backing, PageIndex(0), &sealing.pages.first) {
                // With a part of a header the file could not be opened any more.
                if backing.set_size(0).is_err() {
                    self.mark_unsettled();
                }
                return Err(error.into());
            }
            sealing.on_disk = true;
        }
        Ok(())
    }

    /// Whether the state record is to be written, because the file has become more than it tells.
    /// Seals that were reserved and are not made do not count while it is `in_use`.
    pub(super) fn is_behind(&self, in_use: bool) -> bool {
        let Some(sealing) = &self.sealing else { return false };
        if sealing.keys.is_none() || !sealing.on_disk || !self.writable {
            // It was settled when the DEK was withdrawn, and nothing has changed since.
            return false;
        }
        let made = sealing.seals - self.allowance.left();
        let unused = sealing.state.seal_count.saturating_sub(made);
        let told = !sealing.state.flags.digest_kept || sealing.told == sealing.sum;
        let current = sealing.state.size == self.size.0
            && self.gaps.is_empty()
            && (in_use || unused <= UNUSED_SEALS_KEPT)
            && told;
        !current
    }

    /// Writes the state record if it is behind what the file has become. Tries again what a
    /// failed write could not undo.
    pub(super) fn settle(&mut self, in_use: bool) -> Result<(), VolumeError> {
        if self.unsettled && self.writable && !self.is_withdrawn() {
            if self.sealing()?.on_disk {
                self.recover()?;
            } else {
                self.backing.set_size(0)?;
                self.unsettled = false;
            }
            self.volume.note_settled(self.file_id());
        }
        if !self.is_behind(in_use) {
            return Ok(());
        }
        self.end_allowance();
        let size = self.size.0;
        let durable = self.durable.size().0.min(size);
        let sealing = self.sealing_mut()?;
        let state = sealing.state;
        if !in_use && state.seal_count >= SEALS_WARNING {
            // The warning was given for what was reserved; from below it would be given again.
            sealing.seals = sealing.seals.max(SEALS_WARNING);
        }
        let seal_count = if in_use { state.seal_count } else { sealing.seals };
        self.put_state(StateRecord { size, durable_size: durable, seal_count, ..state })?;
        self.gaps.clear();
        Ok(())
    }

    /// Whether a sync has failed, of which closing the file tells the volume.
    pub(super) fn has_failed(&self) -> bool {
        self.durable.check().is_err() || self.backing.has_failed()
    }

    /// Tells the volume, once, how the file is left.
    pub(super) fn end(&mut self) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        if !self.sealing.as_ref().is_some_and(|sealing| sealing.on_disk) {
            return;
        }
        let waits = self.has_gathered();
        if waits || self.durable.check().is_err() {
            self.mark_unsettled();
            let (file, stays) = (self.file_id(), self.strand());
            let what = "what was written last could not be put on the backing store";
            match (waits, stays) {
                (true, false) => log::error!("file {file}: {what} and is lost"),
                (_, true) => log::error!("file {file}: {what}; what was synced is in the journal"),
                (false, false) => {}
            }
        }
        let durable = self.durable.size();
        let kept = self.durable.take_kept();
        // A sync that the journal has answered counts, and its records stay all the same.
        let is_unsynced = self.durable.is_unsynced() || !kept.is_empty();
        let unsynced = is_unsynced.then_some((durable, kept));
        self.volume.note_closed(self.file_id(), unsynced);
    }

    /// Writes the page with the entry of `block`, changed from `old`, and takes it over.
    pub(super) fn put_entry_page(
        &mut self,
        block: BlockIndex,
        old: &Page,
        page: OwnPage,
    ) -> Result<(), VolumeError> {
        let (index, _) = entry_place(block);
        commit::write_page(&*self.backing, index, &page)?;
        self.durable.note_change();
        let sum = self.sum_after(block, old, &page)?;
        let sealing = self.sealing_mut()?;
        sealing.sum = sum;
        sealing.pages.put(index, page);
        Ok(())
    }

    /// The page that holds the entry of `block`: from the cache, or read and kept.
    pub(super) fn entry_page(&self, block: BlockIndex) -> Result<Arc<Page>, VolumeError> {
        let (page, was_read) = self.find_entry_page(block)?;
        if was_read {
            self.sealing()?.pages.keep(entry_place(block).0, Arc::clone(&page));
        }
        Ok(page)
    }

    /// The same, not kept: for whoever goes through all of them.
    pub(super) fn entry_page_uncached(&self, block: BlockIndex) -> Result<Arc<Page>, VolumeError> {
        Ok(self.find_entry_page(block)?.0)
    }

    /// The page, and whether it had to be read.
    fn find_entry_page(&self, block: BlockIndex) -> Result<(Arc<Page>, bool), VolumeError> {
        let sealing = self.sealing()?;
        let (index, _) = entry_place(block);
        if index == PageIndex(0) {
            return Ok((Arc::clone(&sealing.pages.first), false));
        }
        if let Some(page) = sealing.pages.tag_page(index) {
            return Ok((page, false));
        }
        let mut page = OwnPage::zeroed();
        let read = self.backing.read_at(&mut *page, index.start().0)?;
        if read < page.len() && block.group_start().0 < blocks_in(self.size) {
            return Err(self.tampered(block, "the page of its entry is cut off"));
        }
        Ok((page.share(), true))
    }

    /// Where the backing file ends when the plaintext has `size` bytes.
    pub(super) fn cipher_end(size: PlainSize) -> CipherOffset {
        crate::format::cipher_size(size)
    }

    /// The error for a block that does not authenticate.
    pub(super) fn tampered(&self, block: BlockIndex, problem: &'static str) -> VolumeError {
        VolumeError::Integrity { file: self.file_id(), block: block.0, problem }
    }
}

/// The AAD of a block: its index, so that a block opens in its own place only. The key binds
/// the file.
pub(super) fn block_aad(block: BlockIndex) -> [u8; 8] {
    block.0.to_le_bytes()
}

/// What a write may seal beyond the blocks that its length makes: its ends need not be theirs.
pub(super) const WRITE_MORE: u64 = 2;
const SEALS_WARNING: u64 = 1 << 31;
/// How far ahead the count on disk is, so that it need not be written with each seal: little
/// for a file with few seals, so that opening it often does not use its seals up.
pub(super) const SEALS_RESERVED: Range<u64> = 64..1 << 16;
/// Seals reserved but not made that are not worth a write of the state record.
const UNUSED_SEALS_KEPT: u64 = 1024;
