//! Gathered blocks: sealed, but not yet written over what a sync covers. Their entries, with
//! the old generation and the new one, are in the pages of entries already; a commit writes
//! those first, syncs, and then writes the blocks. Until then readers find the blocks here.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::journal::Kept;
use super::own_page::OwnPage;
use crate::format::{BLOCK_LEN, BlockIndex, Entry, Sealed};
use crate::store::BackingFile;

/// Blocks of one file that wait for a commit.
pub(super) struct Gather {
    /// What the next commit takes.
    open: BTreeMap<BlockIndex, Gathered>,
    /// What a commit has begun with: their entries are written, they are not.
    committing: BTreeMap<BlockIndex, Gathered>,
    /// The blocks whose records are not promised, or not known to be durable; perhaps with some
    /// that do not wait any more. So a sync does not look at all that waits.
    news: Vec<BlockIndex>,
    /// Some of the blocks are in memory only.
    unkept: bool,
    /// When the first block of `open` came.
    since: Option<Instant>,
    /// Counts the commits that failed.
    broken_off: u64,
    /// The bytes gathered by all files of the mount, this one included.
    total: Arc<AtomicU64>,
}

/// One block.
pub(super) struct Gathered {
    /// The entry of what is on the backing store.
    pub(super) base: Entry,
    /// What the block was sealed to.
    pub(super) sealed: Sealed,
    /// Its ciphertext, as long as `sealed` says.
    bytes: OwnPage,
    /// Where it outlives the process.
    pub(super) kept: Option<Kept>,
    /// Where what it was before is, as long as that may be needed: promised, or all that could
    /// be put there.
    pub(super) before: Vec<Kept>,
    /// It is among the news.
    is_news: bool,
    /// A commit that broke off may have written it: what is to replace it has to wait until it
    /// is, or `base` would not be what is on the backing store.
    attempted: bool,
}

impl Gathered {
    /// What is put in the place of `base`, nowhere else yet.
    pub(super) fn new(base: Entry, sealed: Sealed, bytes: OwnPage) -> Self {
        let (kept, before) = (None, Vec::new());
        Self { base, sealed, bytes, kept, before, is_news: false, attempted: false }
    }

    /// Its ciphertext.
    pub(super) fn cipher(&self) -> &[u8] {
        &self.bytes[..usize::from(self.sealed.len)]
    }

    /// Its place in the journal, once it was given one.
    pub(super) fn place(&self) -> &Kept {
        self.kept.as_ref().expect("it was given a place")
    }

    /// Comes in place of `replaced`.
    fn replace(&mut self, replaced: Self) {
        self.before = replaced.before;
        // What could not be kept itself leaves what came before it where that is.
        let stays = |kept: &Kept| kept.is_promised() || self.kept.is_none();
        self.before.extend(replaced.kept.filter(stays));
    }

    /// A sync of the journal has made durable what it had up to this record. Whether its newest
    /// one is not.
    fn note_promised(&mut self, newest: u64) -> bool {
        self.is_news = self.kept.as_ref().is_none_or(|kept| kept.sequence() > newest);
        let records = self.before.iter().chain(&self.kept).map(Kept::sequence);
        if let Some(last) = records.filter(|sequence| *sequence <= newest).max() {
            for outdated in self.before.extract_if(.., |kept| kept.sequence() < last) {
                outdated.end();
            }
        }
        self.is_news
    }
}

impl Gather {
    /// Without blocks; `total` counts the bytes of all files of a mount.
    pub(super) fn new(total: Arc<AtomicU64>) -> Self {
        Self {
            open: BTreeMap::new(),
            committing: BTreeMap::new(),
            news: Vec::new(),
            unkept: false,
            broken_off: 0,
            since: None,
            total,
        }
    }

    /// Whether nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.open.is_empty() && self.committing.is_empty()
    }

    /// The newest bytes of a block, if they wait here.
    pub(super) fn find(&self, block: BlockIndex) -> Option<&Gathered> {
        self.open.get(&block).or_else(|| self.committing.get(&block))
    }

    /// The first block from `block` on that waits here.
    pub(super) fn first_from(&self, block: BlockIndex) -> Option<BlockIndex> {
        let first = |blocks: &BTreeMap<BlockIndex, Gathered>| {
            blocks.range(block..).next().map(|(block, _)| *block)
        };
        [first(&self.open), first(&self.committing)].into_iter().flatten().min()
    }

    /// Whether a commit has begun with any of these blocks, or has broken off with it.
    pub(super) fn is_committing(&self, blocks: &Range<BlockIndex>) -> bool {
        let mut open = self.open.range(blocks.start..blocks.end);
        self.committing.range(blocks.start..blocks.end).next().is_some()
            || self.broken_off > 0 && open.any(|(_, gathered)| gathered.attempted)
    }

    /// How many commits have broken off.
    pub(super) fn broken_off(&self) -> u64 {
        self.broken_off
    }

    /// Takes a block, in place of one that waits already.
    pub(super) fn put(&mut self, block: BlockIndex, mut gathered: Gathered) {
        debug_assert!(!self.committing.contains_key(&block), "it had to wait for the commit");
        let waiting = self.open.get_mut(&block);
        if !waiting.as_ref().is_some_and(|waiting| waiting.is_news) {
            self.news.push(block);
        }
        gathered.is_news = true;
        match waiting {
            Some(waiting) => {
                let replaced = std::mem::replace(waiting, gathered);
                waiting.replace(replaced);
            }
            None => {
                self.total.fetch_add(BLOCK_LEN, Ordering::Relaxed);
                self.open.insert(block, gathered);
            }
        }
        self.since.get_or_insert_with(Instant::now);
    }

    /// Blocks are added that could not be put into the journal.
    pub(super) fn note_unkept(&mut self) {
        self.unkept = true;
    }

    /// Whether a commit is due, before what was written last is acknowledged: so much waits, or
    /// some of it would not outlive the process.
    pub(super) fn is_full(&self) -> bool {
        let own = self.open.len() as u64 * BLOCK_LEN;
        self.unkept
            || own >= LARGEST_GROUP
            || own > 0 && self.total.load(Ordering::Relaxed) >= LARGEST_TOTAL
    }

    /// Whether a block has waited for `age`.
    pub(super) fn is_older_than(&self, age: Duration) -> bool {
        self.since.is_some_and(|since| since.elapsed() >= age)
    }

    /// A commit begins with all that waits.
    pub(super) fn begin_commit(&mut self) {
        self.since = None;
        self.committing.append(&mut self.open);
    }

    /// A commit has failed as it wrote its blocks: any of them may be there.
    pub(super) fn break_off_commit(&mut self) {
        self.committing.values_mut().for_each(|gathered| gathered.attempted = true);
        self.abandon_commit();
    }

    /// A commit has failed: its blocks wait for the next one.
    pub(super) fn abandon_commit(&mut self) {
        self.broken_off += 1;
        self.open.append(&mut self.committing);
        if !self.open.is_empty() {
            self.since.get_or_insert_with(Instant::now);
        }
    }

    /// Writes the blocks that the commit began with; on an error they are kept.
    pub(super) fn write_committing(
        &self,
        backing: &dyn BackingFile,
    ) -> io::Result<Vec<Range<BlockIndex>>> {
        let mut written = Vec::new();
        let mut blocks = self.committing.iter().peekable();
        while let Some((first, gathered)) = blocks.next() {
            let mut run = vec![IoSlice::new(gathered.cipher())];
            let mut end = BlockIndex(first.0 + 1);
            // Blocks of one group lie one behind the other; between groups is a page of entries.
            while end < first.group_end() && run.len() < LONGEST_RUN {
                let Some((_, next)) = blocks.next_if(|(block, _)| **block == end) else { break };
                run.push(IoSlice::new(next.cipher()));
                end.0 += 1;
            }
            backing.write_at(&run, first.cipher_start().0)?;
            written.push(*first..end);
        }
        Ok(written)
    }

    /// The blocks that the commit began with are written. Gives the records that are promised,
    /// which have to stay until that is durable, and whether it is all the same as if it were.
    pub(super) fn end_commit(&mut self) -> (Vec<Kept>, bool) {
        self.count_out(self.committing.len());
        let mut promised = Vec::new();
        let mut all_promised = true;
        for (_, gathered) in std::mem::take(&mut self.committing) {
            all_promised &= gathered.kept.as_ref().is_some_and(Kept::is_promised);
            for kept in gathered.before.into_iter().chain(gathered.kept) {
                match kept.is_promised() {
                    true => promised.push(kept),
                    false => kept.end(),
                }
            }
        }
        self.news.retain(|block| self.open.contains_key(block));
        self.unkept &= !self.open.is_empty();
        (promised, all_promised)
    }

    /// Promises all that waits, whose records are about to be made durable. `None` if not all of
    /// it can be; else whether any of them is not durable yet.
    pub(super) fn promise(&mut self) -> Option<bool> {
        let may_be =
            |gathered: &Gathered| gathered.kept.as_ref().is_some_and(Kept::may_be_promised);
        if !self.news.iter().filter_map(|block| self.find(*block)).all(may_be) {
            return None;
        }
        let mut is_new = false;
        for block in &self.news {
            let gathered = newest_of(&mut self.open, &mut self.committing, *block);
            if let Some(kept) = gathered.and_then(|gathered| gathered.kept.as_mut()) {
                kept.promise();
                is_new = true;
            }
        }
        Some(is_new)
    }

    /// The records up to `newest` are durable: what they have come after need not stay.
    pub(super) fn note_promised(&mut self, newest: u64) {
        self.news.retain(|block| {
            let gathered = newest_of(&mut self.open, &mut self.committing, *block);
            gathered.is_some_and(|gathered| gathered.note_promised(newest))
        });
    }

    /// All blocks that wait, to be entered anew after what is on disk was looked at.
    pub(super) fn take_all(&mut self) -> BTreeMap<BlockIndex, Gathered> {
        self.abandon_commit();
        self.since = None;
        self.unkept = false;
        self.news.clear();
        self.count_out(self.open.len());
        std::mem::take(&mut self.open)
    }

    fn count_out(&self, blocks: usize) {
        self.total.fetch_sub(blocks as u64 * BLOCK_LEN, Ordering::Relaxed);
    }
}

/// Runs `work` with a list for the blocks of one write, which this thread keeps for the next one.
pub(super) fn with_list<T>(work: impl FnOnce(&mut Vec<(BlockIndex, Gathered)>) -> T) -> T {
    let mut list = LIST.take();
    let done = work(&mut list);
    list.clear();
    LIST.set(list);
    done
}

fn newest_of<'a>(
    open: &'a mut BTreeMap<BlockIndex, Gathered>,
    committing: &'a mut BTreeMap<BlockIndex, Gathered>,
    block: BlockIndex,
) -> Option<&'a mut Gathered> {
    open.get_mut(&block).or_else(|| committing.get_mut(&block))
}

impl Drop for Gather {
    fn drop(&mut self) {
        self.count_out(self.open.len() + self.committing.len());
    }
}

thread_local! {
    static LIST: Cell<Vec<(BlockIndex, Gathered)>> = const { Cell::new(Vec::new()) };
}

/// A file with this many bytes gathered commits them.
const LARGEST_GROUP: u64 = 8 << 20;
/// With this many in all files of a mount, whoever adds more commits its own.
const LARGEST_TOTAL: u64 = 16 << 20;
/// Buffers of one write; the kernel takes 1024.
const LONGEST_RUN: usize = 256;
