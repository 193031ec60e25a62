//! What is measured. A workload fills one or more rows of the report, and runs in pieces that
//! are short enough for systems to take turns.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::arguments::Scale;
use crate::place::Place;

mod cipher;
mod metadata;
mod programs;
mod random;
mod small_files;
mod stream;
mod synced;
mod tree;

/// A workload.
pub struct Workload {
    pub name: &'static str,
    pub rows: &'static [Row],
    /// How many pieces a round has.
    pub pieces: u32,
    /// Whether all modes are compared on it.
    pub compares_modes: bool,
    /// Makes what the pieces need; not on the clock.
    pub prepare: fn(&Place),
    /// Does one piece, what counts in it by [`Place::timed`].
    pub run: fn(&Place, u32),
    /// Removes what was made.
    pub clean: fn(&Place),
}

/// A row of the report.
pub struct Row {
    pub name: &'static str,
    description: &'static str,
    pub unit: Unit,
    /// It tells nothing where all is in memory.
    pub on_disk_only: bool,
    /// No daemon takes part in it, and not every system has a figure.
    pub outside_mount: bool,
}

impl Row {
    /// One that tells something wherever it is measured.
    pub const fn new(name: &'static str, description: &'static str, unit: Unit) -> Self {
        Self { name, description, unit, on_disk_only: false, outside_mount: false }
    }

    /// What is done, at this scale.
    pub fn described(&self, scale: Scale) -> String {
        self.description.replace(TREE_FILES, &scale.tree_files.to_string())
    }
}

/// How a row is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    MibPerSecond,
    PerSecond,
    Microseconds,
    Milliseconds,
}

impl Workload {
    /// All workloads, in the order of the report.
    pub fn all() -> impl Iterator<Item = &'static Self> {
        let kinds = [
            stream::WORKLOADS,
            random::WORKLOADS,
            small_files::WORKLOADS,
            metadata::WORKLOADS,
            tree::WORKLOADS,
            synced::WORKLOADS,
            programs::WORKLOADS,
            cipher::WORKLOADS,
        ];
        kinds.into_iter().flatten()
    }

    /// Whether this is its name, or that of one of its rows.
    pub fn is_called(&self, name: &str) -> bool {
        self.name == name || self.rows.iter().any(|row| row.name == name)
    }
}

impl Unit {
    pub fn name(self) -> &'static str {
        match self {
            Self::MibPerSecond => "MiB/s",
            Self::PerSecond => "/s",
            Self::Microseconds => "us",
            Self::Milliseconds => "ms",
        }
    }

    /// Whether bytes count and not operations.
    pub fn counts_bytes(self) -> bool {
        self == Self::MibPerSecond
    }

    /// What `seconds` for one operation, or for one byte, are in this unit.
    pub fn value(self, seconds: f64) -> f64 {
        match self {
            Self::MibPerSecond => 1.0 / seconds / f64::from(1 << 20),
            Self::PerSecond => 1.0 / seconds,
            Self::Microseconds => seconds * 1e6,
            Self::Milliseconds => seconds * 1e3,
        }
    }
}

/// Stands in a description for the number of files of the tree.
const TREE_FILES: &str = "{files}";

/// For workloads that need nothing, or leave nothing.
fn nothing(_: &Place) {}

/// Whether a program is there.
fn is_installed(program: &str) -> bool {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&paths).any(|path| path.join(program).is_file())
}

/// Ends the workload on this place unless the program is there.
fn require(program: &str) {
    assert!(is_installed(program), "{program} is not installed");
}

/// Runs a program to its end; its output.
fn execute(command: &mut Command, directory: &Path, input: &str) -> Vec<u8> {
    let command = command.current_dir(directory).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let mut stdin = child.stdin.take().expect("it is piped");
    stdin.write_all(input.as_bytes()).expect("the program reads its input");
    drop(stdin);
    let output = child.wait_with_output().expect("it was started");
    assert!(output.status.success(), "{command:?}: {}", output.status);
    output.stdout
}
