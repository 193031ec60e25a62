//! Whole blocks that are sealed before the file is locked for the write that they belong to, so
//! that several threads seal for one file at once. What the file becomes meanwhile does not
//! matter to them: a whole block is bound to its index and the key alone.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::content::{Content, FileKeys, WRITE_MORE, block_aad};
use super::error::VolumeError;
use super::file::EncryptedFile;
use super::read::SPAN_BLOCKS;
use crate::crypto::{NONCE_LEN, TAG_LEN, random_nonces};
use crate::format::{
    BLOCK_LEN, BlockIndex, CipherOffset, ContentSum, Entry, MAX_PLAIN_SIZE, PlainOffset,
    SEALS_LIMIT, Sealed, entry_place,
};
use crate::sys::buffer::with_scratch;

/// Seals of a file that are counted already and that nobody has made: those who seal ahead take
/// them without the file's lock, which a write holds while the backing store takes it.
#[derive(Default)]
pub(super) struct Allowance {
    /// Lock order: inside the content's, and taken alone.
    granted: Mutex<Option<Granted>>,
}

struct Granted {
    keys: Arc<FileKeys>,
    /// For blocks from here on.
    from: BlockIndex,
    seals: u64,
}

impl Allowance {
    /// The keys to seal `blocks` with, if there are seals for them.
    fn take(&self, blocks: &Range<BlockIndex>) -> Option<Arc<FileKeys>> {
        let mut granted = self.granted();
        let granted = granted.as_mut().filter(|granted| granted.from <= blocks.start)?;
        granted.seals = granted.seals.checked_sub(block_count(blocks))?;
        Some(Arc::clone(&granted.keys))
    }

    /// How many nobody has taken.
    pub(super) fn left(&self) -> u64 {
        self.granted().as_ref().map_or(0, |granted| granted.seals)
    }

    /// Ends it: how many nobody has taken nor will.
    pub(super) fn take_back(&self) -> u64 {
        self.granted().take().map_or(0, |granted| granted.seals)
    }

    fn granted(&self) -> MutexGuard<'_, Option<Granted>> {
        self.granted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sealed blocks, in memory that has room for the run that they begin.
pub struct Presealed<'a> {
    keys: Arc<FileKeys>,
    start: CipherOffset,
    blocks: SealedBlocks<'a>,
    region: &'a mut [u8],
}

/// What became of blocks that follow one another.
pub(super) struct SealedBlocks<'a> {
    first: BlockIndex,
    sealed: &'a [Sealed],
    /// What they add to the content digest.
    pub(super) sum: ContentSum,
}

impl EncryptedFile {
    /// Seals ahead what the write of `data` at `offset` will need, where that pays, and hands it
    /// to `write`, for [`Self::write_presealed`].
    pub fn preseal<T>(
        &self,
        offset: u64,
        data: &[u8],
        write: impl FnOnce(Option<Presealed<'_>>) -> T,
    ) -> Result<T, VolumeError> {
        let Some(blocks) = whole_blocks(offset, data.len()) else { return Ok(write(None)) };
        let keys = match self.allowance.take(&blocks) {
            Some(keys) => Some(keys),
            None => self.writing().keys_to_preseal(&blocks)?,
        };
        let Some(keys) = keys else { return Ok(write(None)) };
        let (start, _) = run_start(blocks.start);
        let last = offset + data.len() as u64 - 1;
        let end = PlainOffset(last).block().cipher_start().0 + BLOCK_LEN;
        let mut sealed = [NOT_SEALED; SPAN_BLOCKS];
        let sealed = &mut sealed[..block_count(&blocks) as usize];
        with_scratch((end - start.0) as usize, |region| {
            Ok(write(Some(Presealed::seal(keys, blocks.start, start, data, sealed, region))))
        })
    }
}

impl<'a> Presealed<'a> {
    fn seal(
        keys: Arc<FileKeys>,
        first: BlockIndex,
        start: CipherOffset,
        data: &[u8],
        sealed: &'a mut [Sealed],
        region: &'a mut [u8],
    ) -> Self {
        let mut sum = ContentSum::default();
        // Fresh for each seal: a random start for this run alone. Who gave the keys counted them.
        let mut nonces = [[0; NONCE_LEN]; SPAN_BLOCKS];
        random_nonces(&mut nonces[..sealed.len()]);
        let plains = data.as_chunks::<{ BLOCK_LEN as usize }>().0;
        let blocks = (first.0..).map(BlockIndex);
        for (((block, nonce), plain), sealed) in blocks.zip(nonces).zip(plains).zip(&mut *sealed) {
            let at = (block.cipher_start().0 - start.0) as usize;
            let cipher = &mut region[at..at + plain.len()];
            let tag = keys.data.seal(&nonce, &block_aad(block), plain, cipher);
            *sealed = Sealed { nonce, tag, len: BLOCK_LEN as u16 };
            keys.digest.add(&mut sum, block, &Entry::Hole.succeeded_by(*sealed));
        }
        let blocks = SealedBlocks { first, sealed, sum };
        Self { keys, start, blocks, region }
    }

    /// The blocks, and the memory of a run of `len` bytes from `start` on, if they begin it
    /// under the keys that the file has now.
    pub(super) fn parts_for(
        &mut self,
        keys: &Arc<FileKeys>,
        start: CipherOffset,
        len: usize,
    ) -> Option<(&SealedBlocks<'a>, &mut [u8])> {
        let fits = Arc::ptr_eq(&self.keys, keys) && self.start == start;
        let region = if fits { self.region.get_mut(..len)? } else { return None };
        Some((&self.blocks, region))
    }
}

impl SealedBlocks<'_> {
    /// What a block was sealed to, if it is among them.
    pub(super) fn find(&self, block: BlockIndex) -> Option<Sealed> {
        let at = block.0.checked_sub(self.first.0)?;
        self.sealed.get(usize::try_from(at).ok()?).copied()
    }

    /// How many they are.
    pub(super) fn count(&self) -> usize {
        self.sealed.len()
    }
}

impl Content {
    /// The keys to seal `blocks` with, where they will be written through. Counts the seals,
    /// whatever becomes of them, and some more, for those to come: as many as the file has, up to
    /// [`ALLOWED_MAX`].
    fn keys_to_preseal(
        &mut self,
        blocks: &Range<BlockIndex>,
    ) -> Result<Option<Arc<FileKeys>>, VolumeError> {
        let from = self.durable.covered();
        if !self.writable || self.sealing.is_none() || from > blocks.start {
            return Ok(None);
        }
        if let Some(keys) = self.allowance.take(blocks) {
            // Another one has waited for the lock before.
            return Ok(Some(keys));
        }
        self.end_allowance();
        let (made, now) = (self.sealing()?.seals, block_count(blocks));
        let ahead = made.min(ALLOWED_MAX).min(SEALS_LIMIT.saturating_sub(made + now + WRITE_MORE));
        self.begin_change(now + ahead + WRITE_MORE)?;
        let sealing = self.sealing_mut()?;
        sealing.seals += now + ahead;
        let keys = Arc::clone(sealing.keys()?);
        let granted = Granted { keys: Arc::clone(&keys), from, seals: ahead };
        *self.allowance.granted() = Some(granted);
        Ok(Some(keys))
    }

    /// What was counted for seals to come does not count, as they are not made.
    pub(super) fn end_allowance(&mut self) {
        let left = self.allowance.take_back();
        if let Some(sealing) = &mut self.sealing {
            sealing.seals -= left;
        }
    }
}

pub(super) fn block_count(blocks: &Range<BlockIndex>) -> u64 {
    blocks.end.0 - blocks.start.0
}

/// Where the run starts that a write from `first` on makes, and whether the page of its first
/// entries is part of it.
pub(super) fn run_start(first: BlockIndex) -> (CipherOffset, bool) {
    match first == first.group_start() {
        true => (entry_place(first).0.start(), true),
        false => (first.cipher_start(), false),
    }
}

/// The whole blocks of a write that begins with one and has enough of them.
fn whole_blocks(offset: u64, len: usize) -> Option<Range<BlockIndex>> {
    let count = len as u64 / BLOCK_LEN;
    let end = offset.checked_add(len as u64)?;
    let worth = offset.is_multiple_of(BLOCK_LEN)
        && end <= MAX_PLAIN_SIZE.0
        && (LEAST_BLOCKS..=SPAN_BLOCKS as u64 - 1).contains(&count);
    let first = PlainOffset(offset).block();
    worth.then(|| first..BlockIndex(first.0 + count))
}

const NOT_SEALED: Sealed = Sealed { nonce: [0; NONCE_LEN], tag: [0; TAG_LEN], len: 0 };
/// With fewer blocks than these, sealing ahead costs more than others gain by it.
const LEAST_BLOCKS: u64 = 16;
/// 16 MiB are sealed before the file's lock is needed again.
const ALLOWED_MAX: u64 = 4096;
