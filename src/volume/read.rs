//! Reading: one contiguous read of ciphertext, tag pages included, then each block is opened
//! straight into the caller's buffer; blocks that wait for a commit are opened from there.
//! Nothing that did not authenticate leaves this file.

use std::ops::Deref;
use std::sync::Arc;

use super::content::{Content, Sealing, block_aad};
use super::error::VolumeError;
use super::own_page::OwnPage;
use super::pages::{Page, entry_in};
use crate::format::{
    BLOCK_LEN, BlockIndex, CipherOffset, Entry, Marked, PAGE_LEN, PageIndex, PlainOffset,
    PlainSize, Sealed, blocks_in, entry_place, stored_len,
};
use crate::store::BackingFile;
use crate::sys::buffer::with_scratch;

impl Content {
    /// Reads into `buf` from `offset`; less than its length only at the end of the file.
    pub(super) fn read(&self, offset: PlainOffset, buf: &mut [u8]) -> Result<usize, VolumeError> {
        let left = self.size.0.saturating_sub(offset.0);
        let len = buf.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let mut done = 0;
        while done < len {
            let at = PlainOffset(offset.0 + done as u64);
            let span = (SPAN_BLOCKS * BLOCK_LEN as usize - at.within_block()).min(len - done);
            self.read_span(at, &mut buf[done..done + span])?;
            done += span;
        }
        Ok(len)
    }

    /// Reads the whole of one block, which must lie within the file; returns its length.
    pub(super) fn read_block(
        &self,
        block: BlockIndex,
        buf: &mut [u8; BLOCK_LEN as usize],
    ) -> Result<usize, VolumeError> {
        let len = stored_len(block, self.size);
        self.read_span(block.plain_start(), &mut buf[..len])?;
        Ok(len)
    }

    /// Opens `cipher` as `block`, of its stored length in a file of this size, into `plain`.
    pub(super) fn open_block(
        &self,
        sealing: &Sealing,
        block: BlockIndex,
        entry: &Entry,
        cipher: &[u8],
        plain: &mut [u8],
    ) -> Result<(), VolumeError> {
        let marked = match entry {
            Entry::Hole if self.may_be_hole(block) => {
                plain.fill(0);
                return Ok(());
            }
            Entry::Hole => return Err(self.tampered(block, "zeroed where there are no holes")),
            Entry::Stored(marked) => marked,
        };
        let opened = opens_as(sealing, block, &marked.current, cipher, plain)
            || self.unsettled && self.opens_as_previous(sealing, block, marked, cipher, plain);
        if opened { Ok(()) } else { Err(self.tampered(block, "does not authenticate")) }
    }

    /// Whether `cipher` is what the block was before its entry was written: the generation
    /// before, or a hole.
    fn opens_as_previous(
        &self,
        sealing: &Sealing,
        block: BlockIndex,
        marked: &Marked,
        cipher: &[u8],
        plain: &mut [u8],
    ) -> bool {
        match &marked.previous {
            Some(previous) => opens_as(sealing, block, previous, cipher, plain),
            None => {
                plain.fill(0);
                self.may_be_hole(block) && cipher.iter().all(|byte| *byte == 0)
            }
        }
    }

    /// Reads a span within the file, of at most [`SPAN_BLOCKS`] blocks.
    fn read_span(&self, offset: PlainOffset, out: &mut [u8]) -> Result<(), VolumeError> {
        let sealing = self.sealing()?;
        let first = offset.block();
        let end = BlockIndex(blocks_in(PlainSize(offset.0 + out.len() as u64)));
        let last = BlockIndex(end.0 - 1);
        let (leading, start) = self.leading_page(sealing, first)?;
        let stop = last.cipher_start().0 + stored_len(last, self.size) as u64;
        with_scratch((stop - start.0) as usize, |scratch| {
            let read = self.backing.read_at(scratch, start.0)?;
            let run = Run { bytes: &scratch[..read], start };
            let mut page = match leading {
                Some(page) => page,
                None => self.page_in_run(sealing, &run, first, end)?,
            };
            let mut out = out;
            for block in (first.0..end.0).map(BlockIndex) {
                if block != first && block == block.group_start() {
                    page = self.page_in_run(sealing, &run, block, end)?;
                }
                let entry = entry_in(&page, block).map_err(|_| self.tampered(block, BAD_ENTRY))?;
                let len = stored_len(block, self.size);
                let cipher = match self.gather.find(block) {
                    Some(waiting) => waiting.cipher(),
                    None => run.slice(block.cipher_start(), len),
                };
                let skip = if block == first { offset.within_block() } else { 0 };
                let (target, rest) = out.split_at_mut((len - skip).min(out.len()));
                out = rest;
                if target.len() == len {
                    self.open_block(sealing, block, &entry, cipher, target)?;
                } else {
                    let mut whole = [0; BLOCK_LEN as usize];
                    self.open_block(sealing, block, &entry, cipher, &mut whole[..len])?;
                    target.copy_from_slice(&whole[skip..skip + target.len()]);
                }
            }
            Ok(())
        })
    }

    /// The page with the entries of `first` and where to start reading: at that page if it is
    /// near and not cached, so that one read fetches both.
    fn leading_page<'a>(
        &self,
        sealing: &'a Sealing,
        first: BlockIndex,
    ) -> Result<(Option<PageRef<'a>>, CipherOffset), VolumeError> {
        let (index, _) = entry_place(first);
        let start = first.cipher_start();
        if index == PageIndex(0) {
            return Ok((Some(PageRef::Borrowed(&sealing.pages.first)), start));
        }
        if let Some(page) = sealing.pages.tag_page(index) {
            return Ok((Some(PageRef::Shared(page)), start));
        }
        if start.0 - index.start().0 > NEAR {
            return Ok((Some(PageRef::Shared(self.entry_page(first)?)), start));
        }
        Ok((None, index.start()))
    }

    /// The page with the entries of `block`, which was read with the run. It is kept unless the
    /// run covers all that it describes.
    fn page_in_run<'a>(
        &self,
        sealing: &Sealing,
        run: &Run<'a>,
        block: BlockIndex,
        end: BlockIndex,
    ) -> Result<PageRef<'a>, VolumeError> {
        let (index, _) = entry_place(block);
        if let Some(page) = sealing.pages.tag_page(index) {
            return Ok(PageRef::Shared(page));
        }
        let bytes = run.slice(index.start(), PAGE_LEN as usize);
        let page: &Page = bytes
            .try_into()
            .map_err(|_| self.tampered(block, "the page of its entry is cut off"))?;
        if block != block.group_start() || end < block.group_end() {
            sealing.pages.keep(index, OwnPage::copy_of(page).share());
        }
        Ok(PageRef::Borrowed(page))
    }
}

/// Whether `cipher` opens as `sealed`; then `plain` holds the plaintext.
pub(super) fn opens_as(
    sealing: &Sealing,
    block: BlockIndex,
    sealed: &Sealed,
    cipher: &[u8],
    plain: &mut [u8],
) -> bool {
    let Ok(keys) = sealing.keys() else { return false };
    usize::from(sealed.len) == plain.len()
        && cipher.len() == plain.len()
        && keys.data.open(&sealed.nonce, &block_aad(block), cipher, &sealed.tag, plain).is_ok()
}

/// Bytes of the backing file from `start` on.
struct Run<'a> {
    bytes: &'a [u8],
    start: CipherOffset,
}

impl<'a> Run<'a> {
    /// The bytes at `at`; fewer than `len` where the backing file was cut.
    fn slice(&self, at: CipherOffset, len: usize) -> &'a [u8] {
        let from = ((at.0 - self.start.0) as usize).min(self.bytes.len());
        &self.bytes[from..(from + len).min(self.bytes.len())]
    }
}

enum PageRef<'a> {
    Borrowed(&'a Page),
    Shared(Arc<Page>),
}

impl Deref for PageRef<'_> {
    type Target = Page;

    fn deref(&self) -> &Page {
        match self {
            Self::Borrowed(page) => page,
            Self::Shared(page) => page,
        }
    }
}

pub(super) const BAD_ENTRY: &str = "its entry is malformed";

/// The most blocks that are handled in one go: 1 MiB, the largest write, not aligned.
pub(super) const SPAN_BLOCKS: usize = 257;
/// Up to this distance, in bytes, a tag page is read together with the block behind it.
const NEAR: u64 = 16 * PAGE_LEN;
