//! What a check has found, as data: which problem, in which blocks, how grave. Many findings of
//! one kind in neighbouring blocks are one, and their number is bounded.

use std::ops::Range;

/// How grave a problem is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// It does no harm.
    Note,
    /// It is put in order when the file is opened for writing the next time.
    Recoverable,
    /// It could not be looked at.
    Unchecked,
    /// Data is lost, or was altered.
    Damaged,
}

/// What can be wrong with a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Problem {
    /// Not a file of ssefs.
    Foreign,
    /// Of another volume.
    OtherVolume,
    /// Prologue or envelopes are malformed, or of a version that is not known.
    Header,
    /// The wrapped DEK does not open under the key that it names.
    Envelope,
    /// No state record authenticates, or only one where there must be two.
    StateRecord,
    /// Its state record tells of an epoch that has not begun.
    LaterEpoch,
    /// Only the envelope slot that is not in force is damaged: the MAC proves that it was empty.
    SpareSlot,
    /// The envelope in force does not open under its key, and the spare one does.
    SpareEnvelope,
    /// The file does not have its authenticated size.
    Size,
    /// An entry fits none of its generations.
    Entry,
    /// An entry for a block past the end.
    EntryPastEnd,
    /// A block that was zeroed where there are no holes.
    Zeroed,
    /// A block that does not open.
    Block,
    /// A block that was replaced by the generation before.
    OlderBlock,
    /// The blocks are not those that were written last: some were put back together with their
    /// entries.
    Replayed,
    /// The backing store fails to read.
    Unreadable,
    /// Last written in an epoch that did not end cleanly.
    Unclean,
    /// A tail that was never synced and is cut off.
    TornTail,
    /// A change of size that was cut short.
    Resizing,
    /// Blocks whose entry was written and whose data was not.
    SpareGeneration,
    /// Too much is to be recovered to try it in memory.
    TooMuch,
    /// Data in a hole, which nothing speaks of.
    DataInHole,
}

/// One of them, in one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What.
    pub problem: Problem,
    /// In which blocks; `None` where it concerns the file as a whole.
    pub blocks: Option<Range<u64>>,
    /// More of it, for people; may be empty.
    pub detail: String,
}

/// All of one file.
#[derive(Debug, Default)]
pub struct Findings {
    list: Vec<Finding>,
    left_out: u64,
    worst: Option<Severity>,
}

impl Problem {
    /// All of them.
    pub const ALL: [Self; 22] = [
        Self::Foreign,
        Self::OtherVolume,
        Self::Header,
        Self::Envelope,
        Self::StateRecord,
        Self::LaterEpoch,
        Self::SpareSlot,
        Self::SpareEnvelope,
        Self::Size,
        Self::Entry,
        Self::EntryPastEnd,
        Self::Zeroed,
        Self::Block,
        Self::OlderBlock,
        Self::Replayed,
        Self::Unreadable,
        Self::Unclean,
        Self::TornTail,
        Self::Resizing,
        Self::SpareGeneration,
        Self::TooMuch,
        Self::DataInHole,
    ];

    /// How grave it is.
    pub const fn severity(self) -> Severity {
        match self {
            Self::Foreign
            | Self::OtherVolume
            | Self::Header
            | Self::Envelope
            | Self::StateRecord
            | Self::LaterEpoch
            | Self::SpareSlot
            | Self::Size
            | Self::Entry
            | Self::EntryPastEnd
            | Self::Zeroed
            | Self::Block
            | Self::OlderBlock
            | Self::Replayed => Severity::Damaged,
            Self::Unreadable => Severity::Unchecked,
            Self::Unclean
            | Self::TornTail
            | Self::Resizing
            | Self::SpareGeneration
            | Self::TooMuch => Severity::Recoverable,
            Self::SpareEnvelope | Self::DataInHole => Severity::Note,
        }
    }

    /// Its name in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Foreign => "foreign",
            Self::OtherVolume => "other_volume",
            Self::Header => "header",
            Self::Envelope => "envelope",
            Self::StateRecord => "state_record",
            Self::LaterEpoch => "later_epoch",
            Self::SpareSlot => "spare_slot",
            Self::SpareEnvelope => "spare_envelope",
            Self::Size => "size",
            Self::Entry => "entry",
            Self::EntryPastEnd => "entry_past_end",
            Self::Zeroed => "zeroed",
            Self::Block => "block",
            Self::OlderBlock => "older_block",
            Self::Replayed => "replayed",
            Self::Unreadable => "unreadable",
            Self::Unclean => "unclean",
            Self::TornTail => "torn_tail",
            Self::Resizing => "resizing",
            Self::SpareGeneration => "spare_generation",
            Self::TooMuch => "too_much",
            Self::DataInHole => "data_in_hole",
        }
    }
}

impl Severity {
    /// Its name in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Note => "note",
            Self::Recoverable => "needs_recovery",
            Self::Unchecked => "not_checked",
            Self::Damaged => "damaged",
        }
    }
}

impl Findings {
    /// Those that are listed, in the order of their blocks; of the file as a whole first.
    pub fn list(&self) -> &[Finding] {
        &self.list
    }

    /// How many more there are.
    pub fn left_out(&self) -> u64 {
        self.left_out
    }

    /// How grave the gravest is; `None` where there is none.
    pub fn worst(&self) -> Option<Severity> {
        self.worst
    }

    /// Whether one of them is this problem.
    pub fn tell_of(&self, problem: Problem) -> bool {
        self.list.iter().any(|finding| finding.problem == problem)
    }

    /// One that concerns the file as a whole.
    pub(super) fn add(&mut self, problem: Problem, detail: impl Into<String>) {
        self.push(Finding { problem, blocks: None, detail: detail.into() });
    }

    /// One in these blocks, which come after those that were added before, or beside them.
    pub(super) fn add_blocks(&mut self, problem: Problem, blocks: Range<u64>) {
        self.add_blocks_with(problem, blocks, "");
    }

    /// The same with more of it.
    pub(super) fn add_blocks_with(&mut self, problem: Problem, blocks: Range<u64>, detail: &str) {
        self.push(Finding { problem, blocks: Some(blocks), detail: detail.to_owned() });
    }

    /// Takes over others.
    pub(super) fn merge(&mut self, other: Self) {
        self.worst = self.worst.max(other.worst);
        self.left_out += other.left_out;
        for finding in other.list {
            self.push(finding);
        }
    }

    /// Brings them into their order and joins neighbours.
    pub(super) fn sort(&mut self) {
        let start = |finding: &Finding| finding.blocks.as_ref().map(|blocks| blocks.start);
        self.list.sort_by_key(start);
        for finding in std::mem::take(&mut self.list) {
            if !self.joins_last(&finding) {
                self.list.push(finding);
            }
        }
    }

    fn push(&mut self, finding: Finding) {
        self.worst = self.worst.max(Some(finding.problem.severity()));
        if self.joins_last(&finding) {
            return;
        }
        if self.list.len() < MOST_FINDINGS {
            self.list.push(finding);
        } else {
            self.left_out += 1;
        }
    }

    /// Whether it only continues the last one, which is then made longer.
    fn joins_last(&mut self, finding: &Finding) -> bool {
        let Some(last) = self.list.last_mut() else { return false };
        let (Some(before), Some(after)) = (&mut last.blocks, &finding.blocks) else { return false };
        let joins = last.problem == finding.problem
            && last.detail == finding.detail
            && before.end == after.start;
        if joins {
            before.end = after.end;
        }
        joins
    }
}

/// Of one file: a file of which every second block is lost tells so soon enough.
const MOST_FINDINGS: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_joined_whatever_order_they_come_in() {
        let mut late = Findings::default();
        late.add_blocks(Problem::Block, 8..9);
        late.add_blocks(Problem::Zeroed, 9..10);
        let mut findings = Findings::default();
        findings.add(Problem::Unclean, "epoch 3");
        findings.add_blocks(Problem::Block, 12..13);
        findings.add_blocks(Problem::Block, 6..7);
        findings.add_blocks(Problem::Block, 7..8);
        findings.merge(late);
        findings.sort();
        let found: Vec<_> =
            findings.list().iter().map(|it| (it.problem, it.blocks.clone())).collect();
        let expected = [
            (Problem::Unclean, None),
            (Problem::Block, Some(6..9)),
            (Problem::Zeroed, Some(9..10)),
            (Problem::Block, Some(12..13)),
        ];
        assert_eq!(found, expected);
        assert_eq!(findings.worst(), Some(Severity::Damaged));
    }

    #[test]
    fn their_number_is_bounded_and_the_worst_is_known_all_the_same() {
        let mut findings = Findings::default();
        for block in 0..MOST_FINDINGS as u64 + 9 {
            findings.add_blocks(Problem::DataInHole, 2 * block..2 * block + 1);
        }
        findings.add_blocks(Problem::Block, 1 << 40..(1 << 40) + 1);
        assert_eq!((findings.list().len(), findings.left_out()), (MOST_FINDINGS, 10));
        assert_eq!(findings.worst(), Some(Severity::Damaged));
    }

    #[test]
    fn names_are_distinct() {
        let names: std::collections::HashSet<_> = Problem::ALL.iter().map(|it| it.name()).collect();
        assert_eq!(names.len(), Problem::ALL.len());
    }
}
