//! What a check says as it goes: one line for each finding, out of the way of the progress bar.
//! With JSON it is silent until the report.

use std::path::Path;

use super::wording::{self, shown};
use crate::cli::exit::Outcome;
use crate::cli::output;
use crate::cli::progress::Progress;
use crate::cli::reason::Reason;
use crate::volume::{Finding, Salvaged, Severity};

/// Says lines, or does not.
pub struct Voice<'a> {
    pub progress: &'a Progress,
    pub silent: bool,
}

impl Voice<'_> {
    /// Something is wrong with a file.
    pub fn finding(&self, path: &Path, finding: &Finding) -> Outcome {
        let problem = finding.problem;
        let grade = match problem.severity() {
            Severity::Damaged => "damaged",
            Severity::Unchecked => "not checked",
            Severity::Recoverable => "to recover",
            Severity::Note => "note",
        };
        let line = wording::line(finding, wording::what(problem));
        self.line(&format!("{grade}: {}: {line}; {}", shown(path), wording::advice(problem)))
    }

    /// There is more wrong with it.
    pub fn more(&self, path: &Path, count: u64) -> Outcome {
        match count {
            0 => Ok(()),
            _ => self.line(&format!("damaged: {}: and {count} more findings", shown(path))),
        }
    }

    /// A file could not be looked at.
    pub fn not_checked(&self, path: &Path, reason: Reason, detail: &str) -> Outcome {
        let (path, reason) = (shown(path), reason.text());
        self.line(&format!("not checked ({reason}): {path}: {detail}"))
    }

    /// A file changes while it is looked at.
    pub fn in_use(&self, path: &Path) -> Outcome {
        self.line(&format!(
            "in use: {}: is being written and could not be judged; check it again later",
            shown(path)
        ))
    }

    /// Something was changed.
    pub fn repaired(&self, path: &Path, what: &str) -> Outcome {
        self.line(&format!("repaired: {}: {what}", shown(path)))
    }

    /// A damaged file was copied.
    pub fn salvaged(&self, path: &Path, salvaged: &Salvaged) -> Outcome {
        let Salvaged { size, bytes, older_blocks, lost_blocks } = salvaged;
        self.line(&format!(
            "salvaged: {}: {bytes} of {size} bytes, {lost_blocks} blocks lost, {older_blocks} in \
             the generation before",
            shown(path)
        ))
    }

    /// Nothing of a damaged file could be copied.
    pub fn not_salvaged(&self, path: &Path, detail: &str) -> Outcome {
        self.line(&format!("not salvaged: {}: {detail}", shown(path)))
    }

    fn line(&self, text: &str) -> Outcome {
        if self.silent {
            return Ok(());
        }
        self.progress.aside(|| output::line(text))
    }
}
