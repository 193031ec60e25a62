//! Writing: blocks are sealed straight from the caller's buffer into one run laid out as it
//! lies in the file, tag pages included, and written. A failed write is undone as far as the
//! backing store lets it. Blocks that a sync covers are gathered instead, for the next commit.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use super::commit::{self, SealedRun};
use super::content::{Content, block_aad};
use super::error::VolumeError;
use super::gather::{Gathered, with_list};
use super::own_page::{OwnPage, SpanPages};
use super::pages::{Page, entry_in, set_entry_in};
use super::presealed::{Presealed, SealedBlocks, block_count, run_start};
use super::read::{BAD_ENTRY, SPAN_BLOCKS, opens_as};
use crate::crypto::{NONCE_LEN, random_nonces};
use crate::format::{
    BLOCK_LEN, BlockIndex, ContentSum, Entry, MAX_PLAIN_SIZE, PAGE_LEN, PageIndex, PlainOffset,
    PlainSize, Sealed, StateRecord, blocks_in, entry_place, stored_len,
};
use crate::store::BackingFile;
use crate::sys::buffer::with_scratch;

impl Content {
    /// Writes all of `data` at `offset`.
    pub(super) fn write(
        &mut self,
        offset: PlainOffset,
        data: &[u8],
        presealed: Option<&mut Presealed<'_>>,
    ) -> Result<(), VolumeError> {
        let blocks = self.blocks_changed_by(offset, data.len() as u64)?;
        if data.is_empty() {
            return Ok(());
        }
        self.begin_write(data.len() as u64)?;
        self.barrier_now(&blocks)?;
        let before = self.size;
        if offset.0 <= before.0 {
            return self.write_spans(offset, data, presealed);
        }
        let written = self.skip_to(offset).and_then(|()| self.write_spans(offset, data, presealed));
        if written.is_err() && self.size.0 <= offset.0 {
            self.take_back_skip(before);
        }
        written
    }

    /// The blocks that a write changes: where it starts past the end, the last one too, which
    /// it fills up.
    pub(super) fn blocks_changed_by(
        &self,
        offset: PlainOffset,
        len: u64,
    ) -> Result<Range<BlockIndex>, VolumeError> {
        let end = offset.0.checked_add(len).filter(|end| *end <= MAX_PLAIN_SIZE.0);
        let end = BlockIndex(blocks_in(PlainSize(end.ok_or(VolumeError::TooLarge)?)));
        let last = BlockIndex(blocks_in(self.size).saturating_sub(1));
        Ok(offset.block().min(last)..end)
    }

    fn write_spans(
        &mut self,
        offset: PlainOffset,
        data: &[u8],
        mut presealed: Option<&mut Presealed<'_>>,
    ) -> Result<(), VolumeError> {
        let mut done = 0;
        while done < data.len() {
            let at = PlainOffset(offset.0 + done as u64);
            let room = SPAN_BLOCKS * BLOCK_LEN as usize - at.within_block();
            let span = room.min(data.len() - done);
            self.write_span(at, &data[done..done + span], presealed.take())?;
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
                None,
            )
        } else {
            self.write_blocks(block..BlockIndex(block.0 + 1), len, |_| &plain[..len], None)
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
            self.order_holes()?;
            self.put_header()?;
            self.gaps.insert(old_blocks..offset.block().0);
        }
        Ok(())
    }

    /// After a write past the end that came to nothing: the file ends where it ended before,
    /// and nothing is skipped.
    fn take_back_skip(&mut self, before: PlainSize) {
        self.gaps.remove(blocks_in(before)..u64::MAX);
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
    fn write_span(
        &mut self,
        offset: PlainOffset,
        data: &[u8],
        presealed: Option<&mut Presealed<'_>>,
    ) -> Result<(), VolumeError> {
        let end = offset.0 + data.len() as u64;
        let size = PlainSize(self.size.0.max(end));
        let blocks = offset.block()..BlockIndex(blocks_in(PlainSize(end)));
        let last = last_of(&blocks);
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
        let plain_of = |block: BlockIndex| {
            let len = if block == last { last_len } else { BLOCK_LEN as usize };
            if block == first && head_partial {
                &head[..len]
            } else if block == last && tail_partial {
                &tail[..len]
            } else {
                let from = (block.plain_start().0 - offset.0) as usize;
                &data[from..from + len]
            }
        };
        self.write_blocks(blocks, last_len, plain_of, presealed)?;
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
        presealed: Option<&mut Presealed<'_>>,
    ) -> Result<(), VolumeError> {
        // What is not covered first: it may fail, and then nothing has changed.
        let covered = self.durable.covered().clamp(blocks.start, blocks.end);
        if covered < blocks.end {
            self.write_through(covered..blocks.end, last_len, &plain_of, presealed)?;
        }
        if blocks.start < covered {
            let last = last_of(&blocks);
            let end = PlainSize(last.plain_start().0 + last_len as u64);
            let grown = (covered == blocks.end && end > self.size).then_some(end);
            self.gather_blocks(&(blocks.start..covered), grown, plain_of)?;
        }
        Ok(())
    }

    /// Seals blocks and keeps them for the next commit. A file that grows does so at once: where
    /// the last block is shorter on the medium than its place asks for, recovery ends the file.
    fn gather_blocks<'p>(
        &mut self,
        blocks: &Range<BlockIndex>,
        grown: Option<PlainSize>,
        plain_of: impl Fn(BlockIndex) -> &'p [u8],
    ) -> Result<(), VolumeError> {
        with_list(|gathered| self.gather_in(gathered, blocks, grown, plain_of))
    }

    fn gather_in<'p>(
        &mut self,
        gathered: &mut Vec<(BlockIndex, Gathered)>,
        blocks: &Range<BlockIndex>,
        grown: Option<PlainSize>,
        plain_of: impl Fn(BlockIndex) -> &'p [u8],
    ) -> Result<(), VolumeError> {
        let mut sum = self.sealing()?.sum;
        let mut pages = self.pages_for(blocks)?;
        // Fresh for each seal: a random start for this run alone; `begin_change` counts them.
        let mut nonces = [[0; NONCE_LEN]; SPAN_BLOCKS];
        random_nonces(&mut nonces[..block_count(blocks) as usize]);
        for (block, nonce) in (blocks.start.0..blocks.end.0).map(BlockIndex).zip(nonces) {
            let page = pages.of_mut(block);
            // One that waits already is replaced: what is on the medium stays in the entry.
            let (shown, base) = match self.gather.find(block) {
                Some(waiting) => (waiting.base.succeeded_by(waiting.sealed), waiting.base),
                None => self.entries_of(page, block)?,
            };
            let plain = plain_of(block);
            let mut cipher = OwnPage::take();
            let keys = self.sealing()?.keys()?;
            let into = &mut cipher[..plain.len()];
            let tag = keys.data.seal(&nonce, &block_aad(block), plain, into);
            let sealed = Sealed { nonce, tag, len: plain.len() as u16 };
            let entry = base.succeeded_by(sealed);
            keys.digest.replace(&mut sum, block, &shown, &entry);
            set_entry_in(page, block, &entry);
            gathered.push((block, Gathered::new(base, sealed, cipher)));
        }
        if let Some(size) = grown {
            let had_reached = self.durable.has_reached(self.backing.changes());
            self.backing.set_size(Self::cipher_end(size).0)?;
            let over_hole = gathered.last().is_some_and(|(_, last)| last.base == Entry::Hole);
            if had_reached && !over_hole {
                // The record of the last block tells this size too.
                self.durable.note_reached(self.backing.changes());
            }
        }
        self.keep_in_journal(gathered);
        for (block, gathered) in gathered.drain(..) {
            self.gather.put(block, gathered);
        }
        self.durable.note_change();
        self.gaps.remove(blocks.start.0..blocks.end.0);
        let sealing = self.sealing_mut()?;
        sealing.seals += block_count(blocks);
        sealing.sum = sum;
        for (index, page) in pages.into_pages() {
            sealing.pages.put_ahead(index, page);
        }
        Ok(())
    }

    /// Puts blocks that will be gathered where they outlive the process. Where that cannot be
    /// they are committed before the change is acknowledged. So are those of a change of size:
    /// after a power cut one of them would count without its announcement.
    pub(super) fn keep_in_journal(&mut self, gathered: &mut [(BlockIndex, Gathered)]) {
        let Some(journal) = self.volume.journal() else { return };
        let file = self.file_id();
        if self.sealing.as_ref().is_some_and(|sealing| sealing.state.flags.resizing) {
            return self.gather.note_unkept();
        }
        if let Err(error) = journal.keep(file, gathered) {
            log::debug!("file {file}: not put into the journal, committed at once: {error}");
            self.gather.note_unkept();
        }
    }

    /// Lets go of the blocks that wait for a commit: what is on disk counts, which is what they
    /// were to replace unless a commit that broke off has written them.
    pub(super) fn drop_gathered(&mut self) -> Result<(), VolumeError> {
        for (block, waiting) in self.gather.take_all() {
            let entered = waiting.base.succeeded_by(waiting.sealed);
            let found = self.entry_that_opens(block, &entered, self.may_be_hole(block));
            let entry = match found {
                Ok(Some(entry)) => entry,
                Ok(None) | Err(_) => entered.reverted().unwrap_or(waiting.base),
            };
            self.put_entry_ahead(block, &entry)?;
        }
        Ok(())
    }

    /// Enters blocks that wait for a commit anew, after the entries on disk were looked at.
    pub(super) fn gather_again(&mut self, waiting: BTreeMap<BlockIndex, Gathered>) {
        for (block, mut gathered) in waiting {
            if block.0 >= blocks_in(self.size) {
                // The file was cut off before it, at a block that is lost.
                continue;
            }
            let entered = self.entry_page(block).and_then(|page| {
                let entry = entry_in(&page, block).map_err(|_| self.tampered(block, BAD_ENTRY))?;
                gathered.base = match &entry {
                    // A commit that broke off has written it: the other one may be on the medium.
                    Entry::Stored(marked) if marked.current == gathered.sealed => {
                        entry.reverted().unwrap_or(Entry::Hole)
                    }
                    _ => entry,
                };
                self.put_entry_ahead(block, &gathered.base.succeeded_by(gathered.sealed))
            });
            match entered {
                Ok(()) => self.gather.put(block, gathered),
                Err(error) => log::error!(
                    "file {}: what was written to block {} is lost ({error})",
                    self.file_id(),
                    block.0
                ),
            }
        }
    }

    /// Sets an entry in the page that goes with the next commit.
    fn put_entry_ahead(&mut self, block: BlockIndex, entry: &Entry) -> Result<(), VolumeError> {
        let old = self.entry_page(block)?;
        let mut page = OwnPage::copy_of(&old);
        set_entry_in(&mut page, block, entry);
        let sum = self.sum_after(block, &old, &page)?;
        let sealing = self.sealing_mut()?;
        sealing.sum = sum;
        sealing.pages.put_ahead(entry_place(block).0, page);
        Ok(())
    }

    /// Seals blocks that no sync covers, but for those that are sealed already, and writes them.
    fn write_through<'p>(
        &mut self,
        blocks: Range<BlockIndex>,
        last_len: usize,
        plain_of: impl Fn(BlockIndex) -> &'p [u8],
        presealed: Option<&mut Presealed<'_>>,
    ) -> Result<(), VolumeError> {
        let mut pages = self.pages_for(&blocks)?;
        let mut sum = self.sealing()?.sum;
        let (start, _) = run_start(blocks.start);
        let len = (last_of(&blocks).cipher_start().0 + last_len as u64 - start.0) as usize;
        let keys = Arc::clone(self.sealing()?.keys()?);
        let mut seal_and_write = |region: &mut [u8], done: Option<&SealedBlocks<'_>>| {
            let run = SealRun { blocks: &blocks, last_len, region, done };
            self.seal_and_write(run, &mut pages, &mut sum, &plain_of)
        };
        let written = match presealed.and_then(|it| it.parts_for(&keys, start, len)) {
            Some((done, region)) => seal_and_write(region, Some(done)),
            None => with_scratch(len, |region| seal_and_write(region, None)),
        };
        self.durable.note_change();
        match written {
            Ok(header) => {
                self.keep_pages(pages)?;
                self.gaps.remove(blocks.start.0..blocks.end.0);
                let sealing = self.sealing_mut()?;
                sealing.sum = sum;
                if let Some(state) = header {
                    (sealing.state, sealing.told, sealing.on_disk) = (state, sum, true);
                }
                Ok(())
            }
            Err(Failed::BeforeWrite(error)) => Err(error),
            Err(Failed::InWrite(error)) => {
                self.undo(&blocks, pages, sum);
                Err(error.into())
            }
        }
    }

    /// The first part of the above, up to where something may have been written.
    fn seal_and_write<'p>(
        &mut self,
        mut run: SealRun<'_>,
        pages: &mut SpanPages,
        sum: &mut ContentSum,
        plain_of: impl Fn(BlockIndex) -> &'p [u8],
    ) -> Result<Option<StateRecord>, Failed> {
        let header = self
            .seal_blocks(&mut run, pages, sum, plain_of)
            .and_then(|()| {
                self.put_header_of_new_file(last_of(run.blocks), run.last_len, pages, *sum)
            })
            .map_err(Failed::BeforeWrite)?;
        let SealRun { blocks, region, .. } = run;
        let (leading, _) = entry_place(blocks.start);
        let (start, contiguous) = run_start(blocks.start);
        for (index, page) in pages.iter() {
            if contiguous || index != leading {
                let at = (index.start().0 - start.0) as usize;
                region[at..at + PAGE_LEN as usize].copy_from_slice(page);
            }
        }
        let leading = pages.get(leading).filter(|_| !contiguous).map(|page| (leading, page));
        commit::write_run(&*self.backing, &SealedRun { leading, start, region })
            .map_err(Failed::InWrite)?;
        Ok(header)
    }

    /// The header of a new file goes with its first block, into page 0 among `pages`. It then
    /// tells the size that the file has after this write, so that no second write need follow.
    /// Returns its state record, if it goes along.
    fn put_header_of_new_file(
        &self,
        last: BlockIndex,
        last_len: usize,
        pages: &mut SpanPages,
        sum: ContentSum,
    ) -> Result<Option<StateRecord>, VolumeError> {
        let sealing = self.sealing()?;
        if sealing.on_disk {
            return Ok(None);
        }
        let size = last.plain_start().0 + last_len as u64;
        let state = self.next_state(StateRecord { size, ..sealing.state }, sum)?;
        let page = pages.of_mut(BlockIndex(0));
        sealing.header.encode_both_states(&state, &sealing.keys()?.state, page);
        Ok(Some(state))
    }

    /// Copies of the pages that hold the entries of `blocks`, to be changed.
    fn pages_for(&self, blocks: &Range<BlockIndex>) -> Result<SpanPages, VolumeError> {
        let existing = blocks_in(self.size);
        let mut pages = SpanPages::default();
        let mut block = blocks.start;
        while block < blocks.end {
            let page = if entry_place(block).0 == PageIndex(0) || block.group_start().0 < existing {
                OwnPage::copy_of(&*self.entry_page(block)?)
            } else {
                OwnPage::zeroed()
            };
            pages.push(entry_place(block).0, page);
            block = block.group_end();
        }
        Ok(pages)
    }

    /// Seals each block of the run, unless it is done, and its entry into its page.
    fn seal_blocks<'p>(
        &mut self,
        run: &mut SealRun<'_>,
        pages: &mut SpanPages,
        sum: &mut ContentSum,
        plain_of: impl Fn(BlockIndex) -> &'p [u8],
    ) -> Result<(), VolumeError> {
        let (blocks, done) = (run.blocks, run.done);
        let (start, _) = run_start(blocks.start);
        let left = block_count(blocks) as usize - done.map_or(0, SealedBlocks::count);
        // Fresh for each seal: a random start for this run alone; `begin_change` counts them.
        let mut nonces = [[0; NONCE_LEN]; SPAN_BLOCKS];
        random_nonces(&mut nonces[..left]);
        let mut nonces = nonces[..left].iter();
        let existing = blocks_in(self.size);
        let keys = self.sealing()?.keys()?;
        for block in (blocks.start.0..blocks.end.0).map(BlockIndex) {
            let page = pages.of_mut(block);
            let (shown, old) = if block.0 < existing {
                self.entries_of(page, block)?
            } else {
                (Entry::Hole, Entry::Hole)
            };
            let entry = match done.and_then(|done| done.find(block)) {
                Some(sealed) => {
                    keys.digest.remove(sum, block, &shown);
                    old.succeeded_by(sealed)
                }
                None => {
                    let nonce = nonces.next().expect("as many as are left");
                    let plain = plain_of(block);
                    let at = (block.cipher_start().0 - start.0) as usize;
                    let cipher = &mut run.region[at..at + plain.len()];
                    let tag = keys.data.seal(nonce, &block_aad(block), plain, cipher);
                    let len = plain.len() as u16;
                    let entry = old.succeeded_by(Sealed { nonce: *nonce, tag, len });
                    keys.digest.replace(sum, block, &shown, &entry);
                    entry
                }
            };
            set_entry_in(page, block, &entry);
        }
        *sum = sum.with(done.map_or(ContentSum::default(), |done| done.sum));
        self.sealing_mut()?.seals += left as u64;
        Ok(())
    }

    /// The entry of a stored block, and the same with the generation that matches the data on
    /// disk marked as newer, so that its successor replaces the other one.
    fn entries_of(&self, page: &Page, block: BlockIndex) -> Result<(Entry, Entry), VolumeError> {
        let entry = entry_in(page, block).map_err(|_| self.tampered(block, BAD_ENTRY))?;
        if !self.unsettled {
            return Ok((entry, entry));
        }
        if entry == Entry::Hole {
            self.clear_punched_data(block)?;
        }
        Ok((entry, self.settled_entry(block, &entry)?))
    }

    /// As above, found by opening the data. Where nothing opens the entry is returned as it is:
    /// the block is lost already.
    pub(super) fn settled_entry(
        &self,
        block: BlockIndex,
        entry: &Entry,
    ) -> Result<Entry, VolumeError> {
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
    pub(super) fn keep_pages(&mut self, pages: SpanPages) -> Result<(), VolumeError> {
        let sealing = self.sealing_mut()?;
        for (index, page) in pages.into_pages() {
            sealing.pages.put(index, page);
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

fn last_of(blocks: &Range<BlockIndex>) -> BlockIndex {
    BlockIndex(blocks.end.0 - 1)
}

/// Blocks that are written in one run; where it starts, [`run_start`] tells.
struct SealRun<'a> {
    blocks: &'a Range<BlockIndex>,
    /// The length of the last one.
    last_len: usize,
    /// What is written.
    region: &'a mut [u8],
    /// Those of the blocks that are in it already.
    done: Option<&'a SealedBlocks<'a>>,
}

/// Where a write failed: nothing was written yet, or some of it may have been.
enum Failed {
    BeforeWrite(VolumeError),
    InWrite(io::Error),
}
