//! What a file may hold after a crash: its versions in order, and from which on they count.

use ssefs::format::{BLOCK_LEN, Envelope};

/// What was promised of a version, the most first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Promise {
    /// A sync was answered: it outlives a power cut.
    Synced,
    /// The file was closed: it outlives the process.
    Closed,
    /// The change was answered.
    Answered,
}

/// A file as it was at one time.
#[derive(Debug, Clone)]
pub struct Version {
    pub content: Vec<u8>,
    pub envelope: Option<Envelope>,
    /// The position in the record at which the change that made it began.
    pub begun: usize,
    /// Whether it came of a write, which may end anywhere and does so block by block.
    pub by_write: bool,
}

/// All versions of a file.
#[derive(Debug)]
pub struct History {
    versions: Vec<Version>,
    promises: Vec<(Promise, usize, usize)>,
}

impl History {
    /// A file that was durable before the record began.
    pub fn new(content: Vec<u8>, envelope: Option<Envelope>) -> Self {
        let first = Version { content, envelope, begun: 0, by_write: false };
        Self { versions: vec![first], promises: vec![(Promise::Synced, 0, 0)] }
    }

    pub fn newest(&self) -> &Version {
        &self.versions[self.versions.len() - 1]
    }

    pub fn newest_number(&self) -> usize {
        self.versions.len() - 1
    }

    pub fn add(&mut self, version: Version) {
        self.versions.push(version);
    }

    /// The newest version has this promise from position `at` of the record on.
    pub fn promise(&mut self, promise: Promise, at: usize) {
        self.promises.push((promise, self.versions.len() - 1, at));
    }

    /// What a crash before the record at `end` may leave, where promises up to `least` hold.
    pub fn allowed(&self, end: usize, least: Promise) -> Allowed<'_> {
        self.allowed_from(end, least, 0)
    }

    /// The same, where the version of that number is promised in any case.
    pub fn allowed_from(&self, end: usize, least: Promise, version: usize) -> Allowed<'_> {
        let counts = |(promise, _, at): &&(Promise, usize, usize)| *promise <= least && *at <= end;
        let floor = self.promises.iter().filter(counts).map(|(_, version, _)| *version).max();
        let begun = self.versions.partition_point(|version| version.begun <= end);
        let floor = floor.unwrap_or_default().max(version);
        Allowed { versions: &self.versions[floor..begun.max(floor + 1)] }
    }
}

/// A file as it was found.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    pub size: u64,
    /// Each block, or why it cannot be read.
    pub blocks: Vec<Result<Vec<u8>, String>>,
    pub envelope: Option<Envelope>,
}

impl Found {
    /// All of it, if it can be read.
    pub fn content(&self) -> Option<Vec<u8>> {
        let blocks: Result<Vec<_>, _> = self.blocks.iter().cloned().collect();
        blocks.ok().map(|blocks| blocks.concat())
    }
}

/// The versions that count: the first one is what is promised, the others may be there.
#[derive(Debug, Clone, Copy)]
pub struct Allowed<'a> {
    versions: &'a [Version],
}

impl Allowed<'_> {
    /// Whether nothing at all is promised.
    pub fn promises_nothing(&self) -> bool {
        self.versions.iter().any(|version| version.content.is_empty())
    }

    /// Whether it may be this; else why not.
    pub fn judge(&self, found: &Found) -> Result<(), String> {
        let sizes: Vec<_> = self.versions.iter().map(|version| version.content.len()).collect();
        let size = found.size as usize;
        if !self.may_have_size(size) {
            return Err(format!("size {size}, where the versions had {sizes:?}"));
        }
        let synced = sizes.iter().min().expect("one version at least");
        for (index, block) in found.blocks.iter().enumerate() {
            let at = index * BLOCK;
            match block {
                Err(error) if at < *synced => {
                    return Err(format!("block {index} is lost though it was promised: {error}"));
                }
                Err(error) => return Err(format!("block {index} cannot be read: {error}")),
                Ok(block) => self.judge_block(index, block)?,
            }
        }
        let known = |version: &Version| version.envelope == found.envelope;
        let needs_none = size == 0 || self.promises_nothing();
        if !needs_none && !self.versions.iter().any(known) {
            return Err("an envelope that the file never had, or no more".to_owned());
        }
        Ok(())
    }

    /// Whether it may be this to a reader who changes nothing: what was promised is there, and
    /// behind it nothing that never was. The reader does not cut a tail that does not open.
    pub fn judge_reader(&self, found: &Found) -> Result<(), String> {
        let sizes = self.versions.iter().map(|version| version.content.len());
        let promised = sizes.min().expect("one version at least");
        if (found.size as usize) < promised {
            return Err(format!("{} bytes where {promised} were promised", found.size));
        }
        for (index, block) in found.blocks.iter().enumerate() {
            match block {
                Ok(block) => self.judge_block(index, block)?,
                Err(error) if index * BLOCK < promised => {
                    return Err(format!("block {index} is lost though it was promised: {error}"));
                }
                Err(_) => {}
            }
        }
        Ok(())
    }

    /// That of one version; or, while a write made the file longer, the edge of a block between.
    fn may_have_size(&self, size: usize) -> bool {
        let mut least = usize::MAX;
        self.versions.iter().any(|version| {
            let this = version.content.len();
            let between = version.by_write && (least..=this).contains(&size);
            least = least.min(this);
            this == size || between && size.is_multiple_of(BLOCK)
        })
    }

    /// Each block by itself is that of one of the versions.
    fn judge_block(&self, index: usize, block: &[u8]) -> Result<(), String> {
        let at = index * BLOCK;
        let is_that_of = |number: usize| {
            let content = &self.versions[number].content;
            let there = &content[at.min(content.len())..content.len().min(at + block.len())];
            // Bytes past the end of a version are zeros of one that was longer later.
            let grows = || {
                self.versions[number + 1..].iter().any(|later| later.content.len() > content.len())
            };
            let (same, rest) = block.split_at(there.len());
            same == there && (rest.is_empty() || rest.iter().all(|byte| *byte == 0) && grows())
        };
        if (0..self.versions.len()).any(is_that_of) {
            return Ok(());
        }
        let what = if block.iter().all(|byte| *byte == 0) { "zeros" } else { "something else" };
        let count = self.versions.len();
        Err(format!("block {index} ({} bytes) is {what}, none of {count} versions", block.len()))
    }
}

const BLOCK: usize = BLOCK_LEN as usize;

mod the_judge_can_refuse {
    use super::{Found, History, Promise, Version};

    fn version(content: Vec<u8>, begun: usize, by_write: bool) -> Version {
        Version { content, envelope: None, begun, by_write }
    }

    fn found(content: &[u8]) -> Found {
        let blocks = content.chunks(4096).map(|block| Ok(block.to_vec())).collect();
        Found { size: content.len() as u64, blocks, envelope: None }
    }

    #[test]
    fn what_was_synced_must_be_there() {
        let mut history = History::new(Vec::new(), None);
        history.add(version(vec![1; 5000], 0, true));
        let anything = history.allowed(10, Promise::Synced);
        for len in [0, 4096, 5000] {
            anything.judge(&found(&vec![1; len])).unwrap();
        }
        for (len, byte) in [(4000, 1), (5000, 2), (8192, 1)] {
            anything.judge(&found(&vec![byte; len])).unwrap_err();
        }
        history.promise(Promise::Synced, 4);
        history.allowed(3, Promise::Synced).judge(&found(&[])).unwrap();
        let synced = history.allowed(4, Promise::Synced);
        synced.judge(&found(&[1; 5000])).unwrap();
        for len in [0, 4096] {
            synced.judge(&found(&vec![1; len])).unwrap_err();
        }
        let mut lost = found(&[1; 5000]);
        lost.blocks[1] = Err("EIO".to_owned());
        assert!(synced.judge(&lost).unwrap_err().contains("promised"));
    }

    #[test]
    fn a_cut_is_all_or_nothing() {
        let mut history = History::new(vec![1; 10_000], None);
        history.add(version(vec![1; 100], 0, false));
        let allowed = history.allowed(1, Promise::Synced);
        allowed.judge(&found(&[1; 10_000])).unwrap();
        allowed.judge(&found(&[1; 100])).unwrap();
        allowed.judge(&found(&[1; 4096])).unwrap_err();
        let mut half = vec![1; 10_000];
        half[8192..].fill(0);
        allowed.judge(&found(&half)).unwrap_err();
        history.add(version([vec![1; 100], vec![0; 9900]].concat(), 0, false));
        history.allowed(1, Promise::Synced).judge(&found(&half)).unwrap();
    }

    #[test]
    fn a_close_counts_for_the_death_of_the_process_alone() {
        let mut history = History::new(vec![1; 100], None);
        history.add(version(vec![2; 100], 0, true));
        history.promise(Promise::Closed, 2);
        history.allowed(2, Promise::Synced).judge(&found(&[1; 100])).unwrap();
        history.allowed(2, Promise::Closed).judge(&found(&[1; 100])).unwrap_err();
        history.allowed(1, Promise::Closed).judge(&found(&[1; 100])).unwrap();
    }
}
