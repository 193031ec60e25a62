//! What the cuts of one workload have cost.

use std::fmt;
use std::io;
use std::path::Path;

/// Counts over all cuts of one workload on one file system.
pub struct Tally {
    name: String,
    pub cuts: u64,
    /// What was acknowledged before a cut and looked for after it.
    pub acknowledged: u64,
    lost: u64,
    unreadable: u64,
    wrong: u64,
    notes: Vec<String>,
}

impl Tally {
    pub fn new(name: String) -> Self {
        let (cuts, acknowledged, lost, unreadable, wrong) = (0, 0, 0, 0, 0);
        Self { name, cuts, acknowledged, lost, unreadable, wrong, notes: Vec::new() }
    }

    /// So many acknowledged records are not there.
    pub fn lost(&mut self, count: u64, what: impl fmt::Display) {
        self.lost += count;
        self.note(format!("{count} lost: {what}"));
    }

    /// A file or a part of one answers an error.
    pub fn unreadable(&mut self, path: &Path, error: &io::Error) {
        self.unreadable += 1;
        self.note(format!("unreadable: {}: {error}", path.display()));
    }

    /// Something reads as what it never was.
    pub fn wrong(&mut self, what: impl fmt::Display) {
        self.wrong += 1;
        self.note(format!("wrong: {what}"));
    }

    fn note(&mut self, note: String) {
        let cut = self.cuts;
        self.notes.push(format!("cut {cut}: {note}"));
    }

    /// Reads a file; `None` if it is not there or does not read, which is counted.
    pub fn read(&mut self, path: &Path) -> Option<Vec<u8>> {
        match std::fs::read(path) {
            Ok(content) => Some(content),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                self.unreadable(path, &error);
                None
            }
        }
    }

    pub fn is_clean(&self) -> bool {
        (self.lost, self.unreadable, self.wrong) == (0, 0, 0)
    }

    /// The first of what was found amiss.
    pub fn notes(&self) -> String {
        let shown = self.notes.iter().take(NOTES_SHOWN);
        shown.map(|note| format!("  {note}\n")).collect()
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, cuts, acknowledged, lost, unreadable, wrong, .. } = self;
        write!(
            f,
            "{name}: {cuts} cuts, {acknowledged} acknowledged, {lost} lost, \
             {unreadable} unreadable, {wrong} wrong"
        )
    }
}

const NOTES_SHOWN: usize = 20;
