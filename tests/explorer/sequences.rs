//! Sequences: what the file is at first, up to three changes, and after each of them nothing, a
//! sync, closing and opening again, or both.

use std::fmt;
use std::str::FromStr;

use super::operations::{OPERATIONS, Operation};
use super::settings::Random;

/// What a sequence starts from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// An empty file.
    New,
    /// 1000 bytes, durable since an earlier epoch.
    Small,
    /// Three blocks and a part.
    Blocks,
    /// Seventeen blocks, the last one a part: the first whose entry is not in page 0.
    Edge,
    /// With a block punched out, and zeros at the end.
    Holes,
    /// Last written in an epoch that did not end cleanly: recovery comes first.
    Recovered,
}

const STARTS: [(Start, &str); 6] = [
    (Start::New, "new"),
    (Start::Small, "small"),
    (Start::Blocks, "blocks"),
    (Start::Edge, "edge"),
    (Start::Holes, "holes"),
    (Start::Recovered, "recovered"),
];

/// What follows a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    Nothing,
    Sync,
    /// By the journal, where that can be.
    SyncInJournal,
    /// What waits is put into the file, as happens after a while.
    Commit,
    Reopen,
    SyncAndReopen,
}

pub const THENS: [(Then, &str); 6] = [
    (Then::Nothing, ""),
    (Then::Sync, "sync"),
    (Then::SyncInJournal, "journal"),
    (Then::Commit, "commit"),
    (Then::Reopen, "reopen"),
    (Then::SyncAndReopen, "sync-reopen"),
];

/// What is done to one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sequence {
    pub start: Start,
    pub steps: Vec<(Operation, Then)>,
}

impl Sequence {
    /// How many there are of `len` changes.
    pub fn count(len: usize) -> u64 {
        (STEPS as u64).pow(len as u32) * STARTS.len() as u64
    }

    /// The one with this number among those of `len` changes.
    pub fn nth(len: usize, mut number: u64) -> Self {
        let mut digit = |base: usize| {
            let digit = (number % base as u64) as usize;
            number /= base as u64;
            digit
        };
        let start = STARTS[digit(STARTS.len())].0;
        let mut step = || {
            let step = digit(STEPS);
            (OPERATIONS[step / THENS.len()].0, THENS[step % THENS.len()].0)
        };
        let steps = (0..len).map(|_| step()).collect();
        Self { start, steps }
    }

    /// One of those of `len` changes.
    pub fn random(len: usize, random: &mut Random) -> Self {
        Self::nth(len, random.number() % Self::count(len))
    }
}

const STEPS: usize = OPERATIONS.len() * THENS.len();

impl fmt::Display for Sequence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(name(&STARTS, self.start))?;
        for (operation, then) in &self.steps {
            write!(f, " {}", name(&OPERATIONS, *operation))?;
            if *then != Then::Nothing {
                write!(f, " {}", name(&THENS, *then))?;
            }
        }
        Ok(())
    }
}

impl FromStr for Sequence {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut words = text.split_whitespace();
        let first = words.next().unwrap_or_default();
        let start = named(&STARTS, first).ok_or_else(|| format!("{first:?} is no start"))?;
        let mut steps: Vec<(Operation, Then)> = Vec::new();
        for word in words {
            match (named(&OPERATIONS, word), named(&THENS, word), steps.last_mut()) {
                (Some(operation), ..) => steps.push((operation, Then::Nothing)),
                (_, Some(then), Some(last)) => last.1 = then,
                _ => return Err(format!("{word:?} is nothing that can be done here")),
            }
        }
        Ok(Self { start, steps })
    }
}

fn name<T: PartialEq>(table: &[(T, &'static str)], wanted: T) -> &'static str {
    table.iter().find(|(item, _)| *item == wanted).expect("each one has a name").1
}

fn named<T: Copy>(table: &[(T, &str)], name: &str) -> Option<T> {
    table.iter().find(|(_, of)| *of == name).map(|(item, _)| *item)
}

#[test]
fn sequences_are_numbered_without_gaps_and_read_as_they_are_printed() {
    let mut seen = std::collections::HashSet::new();
    for number in 0..Sequence::count(2) {
        let sequence = Sequence::nth(2, number);
        let text = sequence.to_string();
        assert_eq!(text.parse(), Ok(sequence));
        assert!(seen.insert(text));
    }
    assert!("blocks fly".parse::<Sequence>().is_err());
    assert!("blocks sync".parse::<Sequence>().is_err());
}
