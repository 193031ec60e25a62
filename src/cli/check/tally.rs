//! What the files have come to: counts, and the findings as far as they are kept for the
//! report. Each worker has a tally of its own; they are added up in the end.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;

use super::wording;
use crate::cli::crew;
use crate::cli::reason::Reason;
use crate::volume::Finding;

/// What one file has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// It has no content.
    Empty,
    /// All of it is in order.
    Sound,
    /// Recovery will put it in order.
    ToRecover,
    /// It was put in order.
    Repaired,
    /// It is being written by a mount.
    InUse,
    /// It is damaged.
    Damaged,
    /// It could not be looked at, or not at all of it.
    NotChecked(Reason),
}

/// The sums.
#[derive(Debug, Default)]
pub struct Tally {
    pub files: u64,
    /// Bytes of content.
    pub bytes: u64,
    pub empty: u64,
    pub sound: u64,
    pub to_recover: u64,
    pub repaired: u64,
    pub in_use: u64,
    pub damaged: u64,
    pub not_checked: BTreeMap<Reason, u64>,
    /// Files that could not be opened, so that their epoch is not known.
    pub unopened: u64,
    /// The first findings.
    pub findings: Vec<Record>,
    pub findings_left_out: u64,
    /// The first repairs.
    pub repairs: Vec<Repair>,
    /// The first copies of damaged files.
    pub salvaged: Vec<SalvagedFile>,
}

/// A finding in the report.
#[derive(Debug, Serialize)]
pub struct Record {
    /// Below the backing directory.
    pub path: String,
    /// `damaged`, `not_checked`, `needs_recovery` or `note`.
    pub severity: &'static str,
    /// Its name.
    pub kind: &'static str,
    /// The first block that it concerns; `null` for the file as a whole.
    pub first_block: Option<u64>,
    /// How many blocks.
    pub blocks: Option<u64>,
    /// What is wrong.
    pub what: String,
    /// What to do.
    pub advice: &'static str,
}

/// A change that was made.
#[derive(Debug, Serialize)]
pub struct Repair {
    pub path: String,
    pub what: String,
}

/// What was saved of a damaged file.
#[derive(Debug, Serialize)]
pub struct SalvagedFile {
    pub path: String,
    pub size: u64,
    pub bytes: u64,
    pub lost_blocks: u64,
    pub older_blocks: u64,
}

impl Tally {
    /// Counts a file.
    pub fn count(&mut self, condition: Condition) {
        self.files += 1;
        let counter = match condition {
            Condition::Empty => &mut self.empty,
            Condition::Sound => &mut self.sound,
            Condition::ToRecover => &mut self.to_recover,
            Condition::Repaired => &mut self.repaired,
            Condition::InUse => &mut self.in_use,
            Condition::Damaged => &mut self.damaged,
            Condition::NotChecked(reason) => self.not_checked.entry(reason).or_default(),
        };
        *counter += 1;
    }

    /// Keeps a finding.
    pub fn keep(&mut self, record: Record) {
        match self.findings.len() < MOST_KEPT {
            true => self.findings.push(record),
            false => self.findings_left_out += 1,
        }
    }

    /// How many could not be looked at.
    pub fn not_checked_count(&self) -> u64 {
        self.not_checked.values().sum()
    }
}

impl crew::Tally for Tally {
    fn merge(&mut self, other: Self) {
        self.files += other.files;
        self.bytes += other.bytes;
        self.empty += other.empty;
        self.sound += other.sound;
        self.to_recover += other.to_recover;
        self.repaired += other.repaired;
        self.in_use += other.in_use;
        self.damaged += other.damaged;
        self.unopened += other.unopened;
        for (reason, count) in other.not_checked {
            *self.not_checked.entry(reason).or_default() += count;
        }
        self.findings_left_out += other.findings_left_out;
        for record in other.findings {
            self.keep(record);
        }
        take(&mut self.repairs, other.repairs);
        take(&mut self.salvaged, other.salvaged);
    }
}

impl Record {
    /// Of a finding in the file at this path.
    pub fn of(path: &Path, finding: &Finding) -> Self {
        let problem = finding.problem;
        Self {
            path: path.to_string_lossy().into_owned(),
            severity: problem.severity().name(),
            kind: problem.name(),
            first_block: finding.blocks.as_ref().map(|blocks| blocks.start),
            blocks: finding.blocks.as_ref().map(|blocks| blocks.end - blocks.start),
            what: wording::line(finding, wording::what(problem)),
            advice: wording::advice(problem),
        }
    }
}

fn take<T>(kept: &mut Vec<T>, other: Vec<T>) {
    let room = MOST_KEPT.saturating_sub(kept.len());
    kept.extend(other.into_iter().take(room));
}

/// A volume may have millions of files that all fail alike.
const MOST_KEPT: usize = 10_000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::crew::Tally as _;
    use crate::volume::Problem;

    #[test]
    fn sums_agree_however_they_are_split_and_findings_are_bounded() {
        let mut whole = Tally::default();
        for _ in 0..3 {
            let mut part = Tally::default();
            for condition in [
                Condition::Empty,
                Condition::Sound,
                Condition::ToRecover,
                Condition::Repaired,
                Condition::InUse,
                Condition::Damaged,
                Condition::NotChecked(Reason::NoKey),
                Condition::NotChecked(Reason::Failed),
            ] {
                part.count(condition);
            }
            for block in 0..4000 {
                let blocks = Some(block..block + 1);
                let finding = Finding { problem: Problem::Block, blocks, detail: String::new() };
                part.keep(Record::of(Path::new("f"), &finding));
            }
            whole.merge(part);
        }
        assert_eq!((whole.files, whole.damaged, whole.not_checked_count()), (24, 3, 6));
        assert_eq!((whole.findings.len(), whole.findings_left_out), (MOST_KEPT, 2000));
        assert_eq!(whole.findings[1].what, "block 1: does not open");
    }
}
