//! The findings of a check in words: what is wrong, and what to do.

use std::ops::Range;
use std::path::Path;

use crate::volume::{Finding, Problem};

/// What is wrong.
pub fn what(problem: Problem) -> &'static str {
    match problem {
        Problem::Foreign => "is not a file of ssefs",
        Problem::OtherVolume => "belongs to another volume",
        Problem::Header => "its header is damaged",
        Problem::Envelope => "its wrapped data key is damaged",
        Problem::StateRecord => "its state record does not authenticate",
        Problem::LaterEpoch => "was written in an epoch that has not begun",
        Problem::SpareSlot => "its spare envelope slot is damaged",
        Problem::SpareEnvelope => "only its spare envelope opens",
        Problem::Size => "does not have its authenticated size",
        Problem::Entry => "the entry is damaged",
        Problem::EntryPastEnd => "an entry past the end of the file",
        Problem::Zeroed => "was zeroed where there are no holes",
        Problem::Block => "does not open",
        Problem::OlderBlock => "was replaced by its generation before",
        Problem::Replayed => "is not what was written last: older blocks were put back",
        Problem::Unreadable => "the backing store cannot read it",
        Problem::Unclean => "is to be recovered",
        Problem::TornTail => "its tail was never synced and is to be cut off",
        Problem::Resizing => "a change of its size is unfinished",
        Problem::SpareGeneration => "the spare generation counts",
        Problem::TooMuch => "what recovery will do cannot be told",
        Problem::DataInHole => "data in a hole, which means nothing",
    }
}

/// What to do about it.
pub fn advice(problem: Problem) -> &'static str {
    match problem {
        Problem::Foreign => "move it out of the backing directory, or restore it from a backup",
        Problem::OtherVolume => "move it to its volume, or restore it from a backup",
        Problem::SpareSlot | Problem::SpareEnvelope => "repair it with --repair",
        Problem::Unclean
        | Problem::TornTail
        | Problem::Resizing
        | Problem::SpareGeneration
        | Problem::TooMuch => "done when it is opened for writing, or with --repair",
        Problem::Unreadable => "see the kernel's log, replace the disk, restore from a backup",
        Problem::LaterEpoch => "put .ssefs/epochs.json back as it was, or restore the file",
        Problem::Replayed | Problem::OlderBlock => {
            "restore the file from a backup; find out who wrote to the backing directory"
        }
        Problem::Header
        | Problem::Envelope
        | Problem::StateRecord
        | Problem::Size
        | Problem::Entry
        | Problem::EntryPastEnd
        | Problem::Zeroed
        | Problem::Block => "restore the file from a backup, or save what is left with --salvage",
        Problem::DataInHole => "nothing needs to be done",
    }
}

/// What a repair has done about it; `None` where it does nothing.
pub fn repaired(problem: Problem) -> Option<&'static str> {
    match problem {
        Problem::SpareSlot => {
            Some("its spare envelope slot was emptied, as the header proves it was")
        }
        Problem::SpareEnvelope => Some("its spare envelope is in force now"),
        Problem::Unclean => Some("was recovered"),
        Problem::TornTail => Some("its tail, which was never synced, was cut off"),
        Problem::Resizing => Some("the change of its size was finished"),
        Problem::SpareGeneration => Some("the spare generation was marked as newer"),
        _ => None,
    }
}

/// One finding as a line, without its path.
pub fn line(finding: &Finding, what: &str) -> String {
    let mut line = match &finding.blocks {
        Some(blocks) => format!("{}: {what}", blocks_text(blocks)),
        None => what.to_owned(),
    };
    if !finding.detail.is_empty() {
        line.push_str(&format!(" ({})", finding.detail));
    }
    line
}

fn blocks_text(blocks: &Range<u64>) -> String {
    match blocks.end - blocks.start {
        1 => format!("block {}", blocks.start),
        _ => format!("blocks {} to {}", blocks.start, blocks.end - 1),
    }
}

/// A path on one line: names may hold what would end it, or tell a terminal what to do.
pub fn shown(path: &Path) -> String {
    let text = path.to_string_lossy();
    match text.contains(char::is_control) {
        false => text.into_owned(),
        true => text
            .chars()
            .map(|c| if c.is_control() { c.escape_default().to_string() } else { c.to_string() })
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_names_its_blocks() {
        let mut finding =
            Finding { problem: Problem::Block, blocks: Some(3..4), detail: String::new() };
        assert_eq!(line(&finding, what(Problem::Block)), "block 3: does not open");
        finding.blocks = Some(3..9);
        finding.detail = "why".to_owned();
        assert_eq!(line(&finding, "is lost"), "blocks 3 to 8: is lost (why)");
        finding.blocks = None;
        assert_eq!(line(&finding, "is lost"), "is lost (why)");
    }

    #[test]
    fn a_hostile_name_stays_on_its_line() {
        assert_eq!(shown(Path::new("a b/\u{e4}")), "a b/\u{e4}");
        assert_eq!(shown(Path::new("a\nb\u{1b}[2J")), "a\\nb\\u{1b}[2J");
    }

    #[test]
    fn every_problem_is_worded() {
        for problem in Problem::ALL {
            assert!(!what(problem).is_empty() && !advice(problem).is_empty());
        }
    }
}
