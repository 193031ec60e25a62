//! What became of the files: counts, and those that were left with the reason for each. Each
//! worker has a tally of its own; they are added up in the end.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Serialize, Serializer};

use super::plan::KeyName;
use crate::cli::reason::Reason;

/// What became of one file.
pub enum Fate {
    /// It has no content, and so no key.
    Empty,
    /// It was seen under another name, or is gone.
    Skipped,
    /// It was not meant, and stays under this key.
    NotSelected(KeyName),
    /// It was there already.
    AlreadyThere(KeyName),
    /// It has been moved to this key.
    Rewrapped(KeyName),
}

/// A file that was left as it was.
#[derive(Debug, Serialize)]
pub struct Left {
    /// Below the backing directory.
    #[serde(serialize_with = "lossy")]
    pub path: PathBuf,
    /// Why.
    pub reason: Reason,
    /// The error.
    pub detail: String,
    /// The key that it still has, where that can be told.
    pub key: Option<KeyName>,
}

/// The sums.
#[derive(Debug, Default)]
pub struct Tally {
    pub files: u64,
    pub rewrapped: u64,
    pub already_there: u64,
    pub not_selected: u64,
    pub empty: u64,
    pub left: BTreeMap<Reason, u64>,
    /// The first of those that were left.
    pub examples: Vec<Left>,
    /// How many files each key wraps now.
    pub by_key: BTreeMap<KeyName, u64>,
    /// Whether there may be files whose key is not known.
    pub incomplete: bool,
}

impl Tally {
    /// Counts a file.
    pub fn add(&mut self, fate: Fate) {
        let key = match fate {
            Fate::Skipped => return,
            Fate::Empty => {
                self.files += 1;
                self.empty += 1;
                return;
            }
            Fate::NotSelected(key) => {
                self.not_selected += 1;
                key
            }
            Fate::AlreadyThere(key) => {
                self.already_there += 1;
                key
            }
            Fate::Rewrapped(key) => {
                self.rewrapped += 1;
                key
            }
        };
        self.files += 1;
        *self.by_key.entry(key).or_default() += 1;
    }

    /// Counts a file that was left.
    pub fn leave(&mut self, left: Left) {
        self.files += 1;
        *self.left.entry(left.reason).or_default() += 1;
        match &left.key {
            Some(key) => *self.by_key.entry(key.clone()).or_default() += 1,
            None => self.incomplete = true,
        }
        if self.examples.len() < MOST_EXAMPLES {
            self.examples.push(left);
        }
    }

    /// Adds another one.
    pub fn merge(&mut self, other: Self) {
        self.files += other.files;
        self.rewrapped += other.rewrapped;
        self.already_there += other.already_there;
        self.not_selected += other.not_selected;
        self.empty += other.empty;
        self.incomplete |= other.incomplete;
        for (reason, count) in other.left {
            *self.left.entry(reason).or_default() += count;
        }
        for (key, count) in other.by_key {
            *self.by_key.entry(key).or_default() += count;
        }
        let room = MOST_EXAMPLES - self.examples.len();
        self.examples.extend(other.examples.into_iter().take(room));
    }

    /// What a further pass over the same files makes of it.
    pub fn followed_by(self, next: Self) -> Self {
        Self {
            rewrapped: self.rewrapped + next.rewrapped,
            // What was moved by the first pass is there for the second.
            already_there: self.already_there,
            not_selected: self.not_selected,
            ..next
        }
    }

    /// How many were left.
    pub fn left_count(&self) -> u64 {
        self.left.values().sum()
    }
}

fn lossy<S: Serializer>(path: &std::path::Path, out: S) -> Result<S::Ok, S::Error> {
    out.serialize_str(&path.to_string_lossy())
}

/// A volume may have millions of files that all fail alike.
const MOST_EXAMPLES: usize = 1000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::KeyId;

    fn key(name: &str) -> KeyName {
        KeyName { mode: "managed", key_id: KeyId(name.into()) }
    }

    fn left(reason: Reason, key: Option<KeyName>) -> Left {
        Left { path: "f".into(), reason, detail: "d".into(), key }
    }

    #[test]
    fn sums_agree_however_they_are_split() {
        let mut whole = Tally::default();
        for part in 0..3 {
            let mut tally = Tally::default();
            tally.add(Fate::Rewrapped(key("new")));
            tally.add(Fate::AlreadyThere(key("new")));
            tally.add(Fate::NotSelected(key("other")));
            tally.add(Fate::Empty);
            tally.add(Fate::Skipped);
            tally.leave(left(Reason::Denied, Some(key("old"))));
            assert!(!tally.incomplete);
            if part == 2 {
                tally.leave(left(Reason::Damaged, None));
            }
            whole.merge(tally);
        }
        assert_eq!((whole.files, whole.left_count(), whole.rewrapped), (16, 4, 3));
        assert_eq!(whole.by_key[&key("new")], 6);
        assert!(whole.incomplete);
    }

    #[test]
    fn the_examples_are_bounded() {
        let mut tally = Tally::default();
        for _ in 0..MOST_EXAMPLES + 5 {
            tally.leave(left(Reason::NoKey, None));
        }
        let mut whole = Tally::default();
        whole.leave(left(Reason::NoKey, None));
        whole.merge(tally);
        assert_eq!((whole.examples.len(), whole.left_count()), (MOST_EXAMPLES, 1006));
    }
}
