//! Changes of a file's content and size, and what a crash in the midst of one may leave.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use rustix::fs::{FallocateFlags, fallocate};

use super::{Random, pattern};

/// What is known of a file that changes until a crash.
#[derive(Default)]
pub struct Changing {
    acknowledged: Vec<u8>,
    /// Made or being made, and not acknowledged.
    next: Option<Change>,
    /// The last that was acknowledged.
    last: Option<Change>,
    changes: u64,
}

enum Change {
    SetLen(usize),
    Write { at: usize, data: Vec<u8> },
    Punch { at: usize, len: usize },
}

impl Changing {
    /// Makes one change more, whatever comes of it. The one before must be acknowledged.
    pub fn change(&mut self, file: &File, random: &mut Random) -> io::Result<()> {
        self.changes += 1;
        let change = Change::any(random, self.acknowledged.len(), self.changes);
        let made = change.make(file);
        self.next = Some(change);
        made
    }

    /// What was changed is safe now.
    pub fn acknowledge(&mut self) {
        if let Some(change) = self.next.take() {
            change.apply(&mut self.acknowledged);
            self.last = Some(change);
        }
    }

    /// Takes what is there after a crash, which must be what was acknowledged, or that with the
    /// change that was under way.
    pub fn accept(&mut self, found: Vec<u8>) -> Result<(), String> {
        let old = std::mem::replace(&mut self.acknowledged, found);
        let found = &self.acknowledged;
        let next = self.next.take();
        let fits = next.as_ref().map_or(old == *found, |change| change.may_leave(&old, found));
        if fits {
            return Ok(());
        }
        let mut new = old.clone();
        if let Some(change) = &next {
            change.apply(&mut new);
        }
        let (before, now, last) = (old.len(), found.len(), &self.last);
        let (from_old, from_new) = (difference(&old, found), difference(&new, found));
        Err(format!(
            "{now} bytes, not {before}; after {last:?} began {next:?}; \
             differs from the old {from_old}, from the new {from_new}"
        ))
    }
}

/// Where two contents differ first, and how.
fn difference(expected: &[u8], found: &[u8]) -> String {
    match expected.iter().zip(found).position(|(expected, found)| expected != found) {
        None => "in length".to_owned(),
        Some(at) => {
            let some = |content: &[u8]| content[at..content.len().min(at + 8)].to_vec();
            format!("at {at}: {:02x?}, not {:02x?}", some(found), some(expected))
        }
    }
}

impl Change {
    /// Some change of a file of this length; each number writes other bytes.
    fn any(random: &mut Random, len: usize, number: u64) -> Self {
        let up_to = |random: &mut Random, bound: usize| random.below(bound as u64 + 1) as usize;
        match random.below(14) {
            0 => Change::SetLen(0),
            1 => Change::SetLen(len / BLOCK_LEN * BLOCK_LEN),
            2..=4 => Change::SetLen(up_to(random, len)),
            5..=6 => Change::SetLen((len + up_to(random, 20_000)).min(LIMIT)),
            7 => Change::SetLen((len + 1 + up_to(random, 900)).min(LIMIT)),
            8..=10 => Change::Write { at: len, data: pattern(number, 1 + up_to(random, 30_000)) },
            11 => {
                let at = up_to(random, len);
                Change::Write { at, data: pattern(number, 1 + up_to(random, 9000)) }
            }
            _ => Change::Punch { at: up_to(random, len), len: 1 + up_to(random, 20_000) },
        }
    }

    fn make(&self, file: &File) -> io::Result<()> {
        match self {
            Change::SetLen(len) => file.set_len(*len as u64),
            Change::Write { at, data } => file.write_all_at(data, *at as u64),
            Change::Punch { at, len } => {
                let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                Ok(fallocate(file, flags, *at as u64, *len as u64)?)
            }
        }
    }

    /// Makes the change in memory.
    fn apply(&self, content: &mut Vec<u8>) {
        match self {
            Change::SetLen(len) => content.resize(*len, 0),
            Change::Write { at, data } => {
                content.resize(content.len().max(at + data.len()), 0);
                content[*at..at + data.len()].copy_from_slice(data);
            }
            Change::Punch { at, len } => {
                let end = (at + len).min(content.len());
                content[(*at).min(end)..end].fill(0);
            }
        }
    }

    /// Whether `found` may be what a crash leaves of this change of `old` that nobody has
    /// acknowledged: a change of size is whole, the others may be there in some blocks only, and
    /// a write may have grown the file by a part, or without its data.
    fn may_leave(&self, old: &[u8], found: &[u8]) -> bool {
        let mut new = old.to_vec();
        self.apply(&mut new);
        if found == old || found == new {
            return true;
        }
        // A file with holes that has grown and not got its data reads as zeros there.
        let mut grown = old.to_vec();
        grown.resize(old.len().max(found.len()), 0);
        let in_parts = !matches!(self, Change::SetLen(_));
        let block_is_whole = |(block, bytes): (usize, &[u8])| {
            let start = block * BLOCK_LEN;
            new[start..].starts_with(bytes) || grown[start..].starts_with(bytes)
        };
        in_parts
            && (old.len()..=new.len()).contains(&found.len())
            && found.chunks(BLOCK_LEN).enumerate().all(block_is_whole)
    }
}

impl fmt::Debug for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Change::SetLen(len) => write!(f, "a change of size to {len}"),
            Change::Write { at, data } => write!(f, "a write of {} bytes at {at}", data.len()),
            Change::Punch { at, len } => write!(f, "a hole of {len} bytes at {at}"),
        }
    }
}

const BLOCK_LEN: usize = 4096;
/// No change by size alone makes a file longer: entries in page 0 and in two tag pages.
const LIMIT: usize = 400_000;
