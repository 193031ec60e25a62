//! The blocks of a file under check: read in runs of 1 MiB, pages of entries included, and each
//! opened. Large files are shared out to several threads by chunks; what a chunk is found to
//! be depends on no other.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::{CheckScope, Findings, Problem, Subject};
use crate::format::{
    BLOCK_LEN, BlockIndex, CipherOffset, ContentSum, ENTRIES_PER_TAG_PAGE, Entry, FIRST_ENTRIES,
    Marked, PAGE_LEN, PageIndex, PlainSize, Sealed, blocks_in, entry_place, plain_size, stored_len,
};
use crate::sys::buffer::AlignedBuf;
use crate::volume::content::{FileKeys, block_aad};
use crate::volume::pages::{Page, entry_in};

/// What the blocks have come to.
#[derive(Default)]
pub(super) struct Verified {
    pub(super) blocks: u64,
    /// The digest of the entries.
    pub(super) sum: ContentSum,
    pub(super) findings: Findings,
    pub(super) interrupted: bool,
}

/// Verifies all blocks of a file of `size` bytes. Entries that are `ahead` of their data tell
/// only whether they are whole.
pub(super) fn verify(
    subject: &Subject,
    size: PlainSize,
    ahead: bool,
    scope: &CheckScope<'_>,
) -> Verified {
    let groups = groups_in(blocks_in(size));
    let work = Work {
        subject,
        size,
        ahead,
        scope,
        groups,
        next: AtomicU64::new(0),
        interrupted: AtomicBool::new(false),
    };
    let chunks = groups.div_ceil(CHUNK_GROUPS);
    let spare_threads = scope.spare_threads.take(usize::try_from(chunks / 2).unwrap_or(usize::MAX));
    let mut verified = std::thread::scope(|threads| {
        let helping: Vec<_> =
            (0..spare_threads.count()).map(|_| threads.spawn(|| work.chunks())).collect();
        let mut verified = work.chunks();
        for helper in helping {
            match helper.join() {
                Ok(part) => verified.merge(part),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        verified
    });
    verified.interrupted = work.interrupted.load(Ordering::Relaxed);
    verified
}

impl Verified {
    fn merge(&mut self, other: Self) {
        self.blocks += other.blocks;
        self.sum = self.sum.with(other.sum);
        self.findings.merge(other.findings);
    }
}

/// The blocks of one file, handed out by chunks.
struct Work<'a> {
    subject: &'a Subject,
    size: PlainSize,
    ahead: bool,
    scope: &'a CheckScope<'a>,
    groups: u64,
    /// The first chunk that nobody has taken.
    next: AtomicU64,
    interrupted: AtomicBool,
}

impl Work<'_> {
    /// Takes chunks until there are none left.
    fn chunks(&self) -> Verified {
        let mut verified = Verified::default();
        let mut buffer = AlignedBuf::zeroed(0);
        loop {
            let first = self.next.fetch_add(1, Ordering::Relaxed).saturating_mul(CHUNK_GROUPS);
            if first >= self.groups {
                return verified;
            }
            if self.scope.watcher.is_stopped() {
                self.interrupted.store(true, Ordering::Relaxed);
                return verified;
            }
            let end = (first + CHUNK_GROUPS).min(self.groups);
            let mut group = first;
            while group < end {
                let next = self.next_with_data(group);
                if next > group {
                    // Also for the other threads: there is nothing in between.
                    self.next.fetch_max(next / CHUNK_GROUPS, Ordering::Relaxed);
                    group = next;
                    continue;
                }
                let stop = (group + RUN_GROUPS).min(end);
                self.run(group..stop, &mut buffer, &mut verified);
                group = stop;
            }
        }
    }

    /// The first group from `group` on for which the backing file may hold anything. Only holes
    /// may be skipped: elsewhere zeros are a finding.
    fn next_with_data(&self, group: u64) -> u64 {
        if group == 0 || !self.subject.state.flags.may_have_holes {
            return group;
        }
        match self.subject.backing.next_data(page_of(group).start().0) {
            Ok(Some(data)) => {
                let block = blocks_in(plain_size(CipherOffset(data / PAGE_LEN * PAGE_LEN)));
                groups_in(block + 1).saturating_sub(1).clamp(group, self.groups)
            }
            Ok(None) => self.groups,
            Err(_) => group,
        }
    }

    /// Verifies a few groups that lie one behind the other.
    fn run(&self, groups: Range<u64>, buffer: &mut AlignedBuf, verified: &mut Verified) {
        let start = match groups.start {
            0 => PAGE_LEN,
            group => page_of(group).start().0,
        };
        let last = BlockIndex(first_block(groups.end).min(blocks_in(self.size)) - 1);
        let end = last.cipher_start().0 + stored_len(last, self.size) as u64;
        if self.scope.headers_only {
            for group in groups {
                self.entries_of(group, verified);
            }
            self.scope.watcher.advance(end - start);
            return;
        }
        buffer.set_len((end - start) as usize);
        let run = Run::read(self.subject, start, buffer);
        for group in groups {
            let page = match group {
                0 => Some(&*self.subject.first),
                group => run.page(page_of(group)),
            };
            match page {
                Some(page) => self.group(group, page, Some(&run), verified),
                None => verified.findings.add_blocks(run.missing(), self.blocks_of(group)),
            }
        }
        self.scope.watcher.advance(end - start);
    }

    /// Verifies the entries of a group alone.
    fn entries_of(&self, group: u64, verified: &mut Verified) {
        if group == 0 {
            return self.group(0, &self.subject.first, None, verified);
        }
        let mut page: Page = [0; PAGE_LEN as usize];
        match self.subject.backing.read_at(&mut page, page_of(group).start().0) {
            Ok(read) if read == page.len() => self.group(group, &page, None, verified),
            Ok(_) => verified.findings.add_blocks(Problem::Block, self.blocks_of(group)),
            Err(_) => verified.findings.add_blocks(Problem::Unreadable, self.blocks_of(group)),
        }
    }

    fn group(&self, group: u64, page: &Page, run: Option<&Run<'_>>, verified: &mut Verified) {
        let blocks = self.blocks_of(group);
        for block in blocks.clone().map(BlockIndex) {
            if let Ok(entry) = entry_in(page, block) {
                self.subject.keys.digest.add(&mut verified.sum, block, &entry);
            }
            let problem = match run {
                Some(run) => self.block(block, page, run),
                None => self.entry(block, page).err(),
            };
            match problem {
                Some(problem) => verified.findings.add_blocks(problem, block.0..block.0 + 1),
                None => verified.blocks += 1,
            }
        }
        for block in (blocks.end..first_block(group + 1)).map(BlockIndex) {
            if entry_in(page, block) != Ok(Entry::Hole) && !self.ahead {
                verified.findings.add_blocks(Problem::EntryPastEnd, block.0..block.0 + 1);
            }
        }
    }

    fn entry(&self, block: BlockIndex, page: &Page) -> Result<Entry, Problem> {
        match entry_in(page, block) {
            Err(_) => Err(Problem::Entry),
            Ok(entry) if self.ahead => Ok(entry),
            Ok(Entry::Hole) if !self.subject.state.flags.may_have_holes => Err(Problem::Zeroed),
            Ok(Entry::Stored(marked))
                if usize::from(marked.current.len) != stored_len(block, self.size) =>
            {
                Err(Problem::Block)
            }
            Ok(entry) => Ok(entry),
        }
    }

    fn block(&self, block: BlockIndex, page: &Page, run: &Run<'_>) -> Option<Problem> {
        let entry = match self.entry(block, page) {
            Ok(entry) => entry,
            Err(problem) => return Some(problem),
        };
        let len = stored_len(block, self.size);
        let Some(cipher) = run.bytes(block.cipher_start(), len) else { return Some(run.missing()) };
        match entry {
            Entry::Hole => cipher.iter().any(|byte| *byte != 0).then_some(Problem::DataInHole),
            Entry::Stored(Marked { current, previous, .. }) => {
                let keys = &self.subject.keys;
                if opens(keys, block, &current, cipher) {
                    return None;
                }
                let older = previous.is_some_and(|previous| opens(keys, block, &previous, cipher));
                Some(if older { Problem::OlderBlock } else { Problem::Block })
            }
        }
    }

    fn blocks_of(&self, group: u64) -> Range<u64> {
        first_block(group)..first_block(group + 1).min(blocks_in(self.size))
    }
}

/// Bytes of the backing file, as far as they could be read.
struct Run<'a> {
    start: u64,
    bytes: &'a [u8],
    /// Pages that the backing store failed to read, by their place in `bytes`.
    failed: Vec<usize>,
}

impl<'a> Run<'a> {
    fn read(subject: &Subject, start: u64, buffer: &'a mut AlignedBuf) -> Self {
        let mut failed = Vec::new();
        let read = match subject.backing.read_at(buffer, start) {
            Ok(read) => read,
            // One bad sector fails the whole of it: page by page, what is lost is known.
            Err(_) => {
                let mut read = 0;
                for (index, page) in buffer.chunks_mut(PAGE_LEN as usize).enumerate() {
                    match subject.backing.read_at(page, start + index as u64 * PAGE_LEN) {
                        Ok(count) => read = index * PAGE_LEN as usize + count,
                        Err(_) => {
                            failed.push(index);
                            read = index * PAGE_LEN as usize + page.len();
                        }
                    }
                }
                read
            }
        };
        Self { start, bytes: &buffer[..read], failed }
    }

    /// `len` bytes within one page; `None` where they are not there.
    fn bytes(&self, at: CipherOffset, len: usize) -> Option<&[u8]> {
        let from = (at.0 - self.start) as usize;
        if self.failed.contains(&(from / PAGE_LEN as usize)) {
            return None;
        }
        self.bytes.get(from..from + len)
    }

    fn page(&self, index: PageIndex) -> Option<&Page> {
        self.bytes(index.start(), PAGE_LEN as usize)?.first_chunk()
    }

    /// What is wrong where bytes are not there.
    fn missing(&self) -> Problem {
        if self.failed.is_empty() { Problem::Block } else { Problem::Unreadable }
    }
}

/// Whether `cipher` opens as `sealed`; the plaintext is dropped.
pub(super) fn opens(keys: &FileKeys, block: BlockIndex, sealed: &Sealed, cipher: &[u8]) -> bool {
    let mut plain = [0; BLOCK_LEN as usize];
    let len = usize::from(sealed.len);
    len == cipher.len()
        && keys
            .data
            .open(&sealed.nonce, &block_aad(block), cipher, &sealed.tag, &mut plain[..len])
            .is_ok()
}

/// Groups are the blocks whose entries lie in one page: the first 16, then 64 each.
fn groups_in(blocks: u64) -> u64 {
    match blocks {
        0 => 0,
        _ => 1 + blocks.saturating_sub(FIRST_ENTRIES).div_ceil(ENTRIES_PER_TAG_PAGE),
    }
}

fn first_block(group: u64) -> u64 {
    match group {
        0 => 0,
        _ => FIRST_ENTRIES + (group - 1) * ENTRIES_PER_TAG_PAGE,
    }
}

fn page_of(group: u64) -> PageIndex {
    entry_place(BlockIndex(first_block(group))).0
}

/// What is read at once: 1 MiB and its pages of entries.
const RUN_GROUPS: u64 = 4;
/// What a thread takes at once, so that each reads in sequence: 8 MiB.
const CHUNK_GROUPS: u64 = 8 * RUN_GROUPS;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_tile_the_blocks() {
        for (blocks, groups) in [(0, 0), (1, 1), (16, 1), (17, 2), (80, 2), (81, 3), (144, 3)] {
            assert_eq!(groups_in(blocks), groups, "{blocks} blocks");
        }
        for group in 0..5 {
            let block = BlockIndex(first_block(group));
            assert_eq!((block, block.group_end().0), (block.group_start(), first_block(group + 1)));
            assert_eq!(groups_in(first_block(group) + 1), group + 1);
        }
    }
}
