//! Writing: blocks are sealed straight from the caller's buffer into one run laid out as it
//! lies in the file, tag pages included, and committed. A failed write is undone as far as the
//! backing store lets it.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;

use super::commit::{self, SealedRun};
use super::content::{Content, block_aad};
use super::error::VolumeError;
use super::pages::{Page, entry_in, set_entry_in};
use super::read::{BAD_ENTRY, SPAN_BLOCKS, opens_as};
use crate::crypto::{NONCE_LEN, random_nonces};
use crate::format::{
    BLOCK_LEN, BlockIndex, CipherOffset, Entry, MAX_PLAIN_SIZE, PAGE_LEN, PageIndex, PlainOffset,
    PlainSize, Sealed, StateRecord, blocks_in, entry_place, stored_len,
};
use crate::sys::buffer::with_scratch;

impl Content {
    /// Writes all of `data` at `offset`.
    pub(super) fn write(&mut self, offset: PlainOffset, data: &[u8]) -> Result<(), VolumeError> {
        let end = offset.0.checked_add(data.len() as u64);
        if end.is_none_or(|end| end > MAX_PLAIN_SIZE.0) {
            return Err(VolumeError::TooLarge);
        }
        if data.is_empty() {
            return Ok(());
        }
        self.begin_change(blocks_in(PlainSize(data.len() as u64)) + 2)?;
        let before = self.size;
        if offset.0 <= before.0 {
            return self.write_spans(offset, data);
        }
        let written = self.skip_to(offset).and_then(|()| self.write_spans(offset, data));
        if written.is_err() && self.size.0 <= offset.0 {
            self.take_back_skip(before);
        }
        written
    }

    fn write_spans(&mut self, offset: PlainOffset, data: &[u8]) -> Result<(), VolumeError> {
        let mut done = 0;
        while done < data.len() {
            let at = PlainOffset(offset.0 + done as u64);
            let room = SPAN_BLOCKS * BLOCK_LEN as usize - at.within_block();
            let span = room.min(data.len() - done);
            self.write_span(at, &data[done..done + span])?;
            done += span;
        }
        Ok(())
    }

    /// Seals the partial block at the end of the file anew with `len` bytes, zeros added, or
    /// cut to `len`. Does nothing to a hole.
    pub(super) fn reseal_tail(&mut self, block: BlockIndex, len: usize) -> Result<(), VolumeError> {
        let page = self.entry_page(block)?;
        let entry = entry_in(&page, block).map_err(|_| self.tampered(block, BAD_ENTRY))?;
        if entry == Entry::Hole && self.may_be_hole(block) {
            return Ok(());
        }
        let mut plain = [0; BLOCK_LEN as usize];
        let old_len = self.read_block(block, &mut plain)?;
        if len > old_len {
            self.write_span(
                PlainOffset(block.plain_start().0 + old_len as u64),
                &plain[old_len..len],
            )
        } else {
            self.write_blocks(block..BlockIndex(block.0 + 1), len, |_| &plain[..len])
        }
    }

    /// Prepares a write that starts past the end: fills the last block up with zeros and notes
    /// the blocks that are skipped.
    fn skip_to(&mut self, offset: PlainOffset) -> Result<(), VolumeError> {
        let old_blocks = blocks_in(self.size);
        let tail = self.size.0 % BLOCK_LEN;
        if tail != 0 && offset.block().0 >= old_blocks {
            self.reseal_tail(BlockIndex(old_blocks - 1), BLOCK_LEN as usize)?;
        }
        if offset.block().0 > old_blocks {
            self.put_header()?;
            self.gaps.append(old_blocks..offset.block().0);
        }
        Ok(())
    }

    /// After a write past the end that came to nothing: the file ends where it ended before,
    /// and nothing is skipped.
    fn take_back_skip(&mut self, before: PlainSize) {
        self.gaps.fill(blocks_in(before)..u64::MAX);
        if self.size > before
            && let Err(error) = self.set_size(before)
        {
            log::error!(
                "file {}: a failed write past the end has left {} zeros there ({error})",
                self.file_id(),
                self.size.0 - before.0
            );
        }
    }

    /// Writes a span of at most [`SPAN_BLOCKS`] blocks. The blocks before it may be skipped
    /// ones; a partial block before the end of the file is read first.
    fn write_span(&mut self, offset: PlainOffset, data: &[u8]) -> Result<(), VolumeError> {
        let end = offset.0 + data.len() as u64;
        let size = PlainSize(self.size.0.max(end));
        let blocks = offset.block()..BlockIndex(blocks_in(PlainSize(end)));
        let last = BlockIndex(blocks.end.0 - 1);
        let mut head = [0; BLOCK_LEN as usize];
        let mut tail = [0; BLOCK_LEN as usize];
        let skip = offset.within_block();
        let last_len = stored_len(last, size);
        let last_end = (end - last.plain_start().0) as usize;

        let head_partial = skip > 0 || blocks.start == last && last_end < last_len;
        if head_partial {
            self.read_existing(blocks.start, &mut head)?;
            let within = (BLOCK_LEN as usize - skip).min(data.len());
            head[skip..skip + within].copy_from_slice(&data[..within]);
        }
        let tail_partial = last_end < last_len && blocks.start != last;
        if tail_partial {
            self.read_existing(last, &mut tail)?;
            tail[..last_end].copy_from_slice(&data[data.len() - last_end..]);
        }
        let first = blocks.start;
        self.write_blocks(blocks, last_len, |block| {
            let len = if block == last { last_len } else { BLOCK_LEN as usize };
            if block == first && head_partial {
                &head[..len]
            } else if block == last && tail_partial {
                &tail[..len]
            } else {
                let from = (block.plain_start().0 - offset.0) as usize;
                &data[from..from + len]
            }
        })?;
        self.size = size;
        Ok(())
    }

    /// What a block holds so far, zeros past the end of the file.
    fn read_existing(
        &self,
        block: BlockIndex,
        buf: &mut [u8; BLOCK_LEN as usize],
    ) -> Result<(), VolumeError> {
        if block.0 < blocks_in(self.size) {
            self.read_block(block, buf)?;
        }
        Ok(())
    }

    /// Seals and commits `blocks`; `plain_of` gives the whole plaintext of each, the last one
    /// with `last_len` bytes. The size of the file is the caller's to set.
    fn write_blocks<'p>(
        &mut self,
        blocks: Range<BlockIndex>,
        last_len: usize,
        plain_of: impl Fn(BlockIndex) -> &'p [u8],
    ) -> Result<(), VolumeError> {
        let last = BlockIndex(blocks.end.0 - 1);
        let header_included = self.put_size_of_new_file(&blocks, last_len)?;
        let mut pages = self.pages_for(&blocks)?;
        let (leading, _) = entry_place(blocks.start);
        let contiguous = blocks.start == blocks.start.group_start();
        let start = if contiguous { leading.start() } else { blocks.start.cipher_start() };
        let stop = last.cipher_start().0 + last_len as u64;

        let written = with_scratch((stop - start.0) as usize, |region| {
            let sealed = self.seal_blocks(&blocks, start, region, &mut pages, plain_of);
            sealed.map_err(Failed::BeforeCommit)?;
            for (index, page) in &pages {
                if contiguous || *index != leading {
                    let at = (index.start().0 - start.0) as usize;
                    region[at..at + PAGE_LEN as usize].copy_from_slice(&**page);
                }
            }
            let leading = (!contiguous).then(|| (leading, &*pages[&leading]));
            commit::write_run(&*self.backing, &SealedRun { leading, start, region })
                .map_err(Failed::InCommit)
        });
        match written {
            Ok(()) => {
                self.keep_pages(pages)?;
                self.gaps.fill(blocks.start.0..blocks.end.0);
                self.sealing_mut()?.on_disk |= header_included;
                Ok(())
            }
            Err(Failed::BeforeCommit(error)) => Err(error),
            Err(Failed::InCommit(error)) => {
                self.undo(&blocks, pages);
                Err(error.into())
            }
        }
    }

    /// The header of a new file goes with its first block. It then tells the size that the file
    /// has after this write, so that no second write need follow. Returns whether it goes along.
    fn put_size_of_new_file(
        &mut self,
        blocks: &Range<BlockIndex>,
        last_len: usize,
    ) -> Result<bool, VolumeError> {
        let sealing = self.sealing()?;
        if sealing.on_disk {
            return Ok(false);
        }
        let size = (blocks.end.0 - 1) * BLOCK_LEN + last_len as u64;
        self.put_state(StateRecord { size, ..sealing.state })?;
        Ok(true)
    }

    /// Copies of the pages that hold the entries of `blocks`, to be changed.
    fn pages_for(
        &self,
        blocks: &Range<BlockIndex>,
    ) -> Result<BTreeMap<PageIndex, Box<Page>>, VolumeError> {
        let existing = blocks_in(self.size);
        let mut pages = BTreeMap::new();
        let mut block = blocks.start;
        while block < blocks.end {
            let page = if entry_place(block).0 == PageIndex(0) || block.group_start().0 < existing {
                Box::new(*self.entry_page(block)?)
            } else {
                Box::new([0; PAGE_LEN as usize])
            };
            pages.insert(entry_place(block).0, page);
            block = block.group_end();
        }
        Ok(pages)
    }

    /// Seals each block into its place in `region` and its entry into its page.
    fn seal_blocks<'p>(
        &mut self,
        blocks: &Range<BlockIndex>,
        start: CipherOffset,
        region: &mut [u8],
        pages: &mut BTreeMap<PageIndex, Box<Page>>,
        plain_of: impl Fn(BlockIndex) -> &'p [u8],
    ) -> Result<(), VolumeError> {
        let count = (blocks.end.0 - blocks.start.0) as usize;
        // Fresh for each seal: a random start for this run alone; `begin_change` counts them.
        let mut nonces = [[0; NONCE_LEN]; SPAN_BLOCKS];
        random_nonces(&mut nonces[..count]);
        let existing = blocks_in(self.size);
        for (block, nonce) in (blocks.start.0..blocks.end.0).map(BlockIndex).zip(nonces) {
            let page = pages.get_mut(&entry_place(block).0).expect("every page was prepared");
            let old = if block.0 < existing {
                self.entry_of_data_on_disk(page, block)?
            } else {
                Entry::Hole
            };
            let plain = plain_of(block);
            let at = (block.cipher_start().0 - start.0) as usize;
            let cipher = &mut region[at..at + plain.len()];
            let tag = self.sealing()?.keys()?.data.seal(&nonce, &block_aad(block), plain, cipher);
            let sealed = Sealed { nonce, tag, len: plain.len() as u16 };
            set_entry_in(page, block, &old.succeeded_by(sealed));
        }
        self.sealing_mut()?.seals += count as u64;
        Ok(())
    }

    /// The entry of a stored block with the generation that matches the data on disk marked as
    /// newer, so that its successor replaces the other one.
    fn entry_of_data_on_disk(&self, page: &Page, block: BlockIndex) -> Result<Entry, VolumeError> {
        let entry = entry_in(page, block).map_err(|_| self.tampered(block, BAD_ENTRY))?;
        if !self.unsettled {
            return Ok(entry);
        }
        if entry == Entry::Hole {
            self.clear_punched_data(block)?;
        }
        self.settled_entry(block, &entry)
    }

    /// As above, found by opening the data. Where nothing opens the entry is returned as it is:
    /// the block is lost already.
    fn settled_entry(&self, block: BlockIndex, entry: &Entry) -> Result<Entry, VolumeError> {
        let found = self.entry_that_opens(block, entry, self.may_be_hole(block))?;
        Ok(found.unwrap_or(*entry))
    }

    /// The entry that describes the data on disk: `entry`, its other generation, or, where that
    /// is allowed and the data is zeros, a hole over which the entry alone was written. `None`
    /// if it is none of them.
    pub(super) fn entry_that_opens(
        &self,
        block: BlockIndex,
        entry: &Entry,
        hole_allowed: bool,
    ) -> Result<Option<Entry>, VolumeError> {
        let Entry::Stored(marked) = entry else { return Ok(Some(*entry)) };
        let (mut cipher, mut plain) = ([0; BLOCK_LEN as usize], [0; BLOCK_LEN as usize]);
        let read = self.backing.read_at(&mut cipher, block.cipher_start().0)?;
        let sealing = self.sealing()?;
        let mut opens = |sealed: &Sealed| {
            let len = usize::from(sealed.len);
            len <= read && opens_as(sealing, block, sealed, &cipher[..len], &mut plain[..len])
        };
        Ok(if opens(&marked.current) {
            Some(*entry)
        } else if marked.previous.as_ref().is_some_and(&mut opens) {
            entry.reverted()
        } else if marked.previous.is_none()
            && hole_allowed
            && cipher[..stored_len(block, self.size).min(read)].iter().all(|byte| *byte == 0)
        {
            Some(Entry::Hole)
        } else {
            None
        })
    }

    /// Takes over pages that are in the backing file now.
    pub(super) fn keep_pages(
        &mut self,
        pages: BTreeMap<PageIndex, Box<Page>>,
    ) -> Result<(), VolumeError> {
        let sealing = self.sealing_mut()?;
        for (index, page) in pages {
            sealing.pages.put(index, page);
        }
        Ok(())
    }

    /// After a failed write: some entries may be ahead of their data. Puts each block's entry
    /// back in line with the data that is there, and the size back. What cannot be put back now
    /// is left to recovery: readers fall back to the generation before.
    fn undo(&mut self, blocks: &Range<BlockIndex>, mut pages: BTreeMap<PageIndex, Box<Page>>) {
        let attempt = self.align_entries(blocks, &mut pages).and_then(|()| {
            self.size = self.size_with_tail_on_disk(&pages);
            if !self.sealing()?.on_disk {
                return Ok(self.backing.set_size(0)?);
            }
            let end = Self::cipher_end(self.size);
            self.backing.set_size(end.0)?;
            pages.retain(|index, _| index.start() < end);
            for (index, page) in &pages {
                commit::write_page(&*self.backing, *index, page)?;
            }
            Ok(())
        });
        if let Err(error) = attempt {
            log::error!(
                "file {}: a failed write could not be undone ({error}); where a block's newer \
                 generation is not there its earlier one is used",
                self.file_id()
            );
            self.mark_unsettled();
        }
        // Either way these pages are the nearest to what is on disk.
        if self.keep_pages(pages).is_err() {
            self.mark_unsettled();
        }
    }

    /// The size, given that the last block may have been reached by a write that made it longer
    /// or shorter.
    fn size_with_tail_on_disk(&self, pages: &BTreeMap<PageIndex, Box<Page>>) -> PlainSize {
        let Some(tail) = blocks_in(self.size).checked_sub(1).map(BlockIndex) else {
            return self.size;
        };
        let page = pages.get(&entry_place(tail).0);
        match page.map(|page| entry_in(page, tail)) {
            Some(Ok(Entry::Stored(marked))) => {
                PlainSize(tail.plain_start().0 + u64::from(marked.current.len))
            }
            _ => self.size,
        }
    }

    /// Sets the entries of `blocks` to what the data on disk says; those past the end to none.
    fn align_entries(
        &self,
        blocks: &Range<BlockIndex>,
        pages: &mut BTreeMap<PageIndex, Box<Page>>,
    ) -> Result<(), VolumeError> {
        let existing = blocks_in(self.size);
        for block in (blocks.start.0..blocks.end.0).map(BlockIndex) {
            let page = pages.get_mut(&entry_place(block).0).expect("every page was prepared");
            let entry = if block.0 < existing {
                let entry = entry_in(page, block)?;
                self.settled_entry(block, &entry)?
            } else {
                Entry::Hole
            };
            set_entry_in(page, block, &entry);
        }
        Ok(())
    }

    /// From now on, and until recovery has seen to it, either generation of a block may be the
    /// one on disk.
    pub(super) fn mark_unsettled(&mut self) {
        self.unsettled = true;
        self.volume.note_unsettled(self.file_id());
    }
}

/// Where a write failed: nothing was written yet, or some of it may have been.
enum Failed {
    BeforeCommit(VolumeError),
    InCommit(io::Error),
}
