//! What is measured. Each run takes long enough to be timed as a whole.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Workload {
    /// Open and close a small file that was open before: its DEK is in memory.
    Open,
    /// The same, and read it.
    OpenRead,
    /// Make a small file, write it, close it.
    Create,
}

impl Workload {
    pub const ALL: [Self; 3] = [Self::Open, Self::OpenRead, Self::Create];

    pub fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::OpenRead => "open-read",
            Self::Create => "create",
        }
    }

    /// What it does, for the report.
    pub fn description(self) -> &'static str {
        match self {
            Self::Open => "open and close a file, its DEK in memory",
            Self::OpenRead => "open, read 1000 bytes, close, its DEK in memory",
            Self::Create => "make a file, write 1000 bytes, close",
        }
    }

    /// Makes what the runs need.
    pub fn prepare(self, directory: &Path) {
        let content = [7; CONTENT_LEN];
        let files = directory.join(FILES);
        if self == Self::Create || files.exists() {
            return;
        }
        fs::create_dir(&files).expect("the mount can be written");
        for piece in 0..PIECES {
            for path in paths(&files, piece) {
                fs::write(path, content).expect("the mount can be written");
            }
            self.run(directory, piece);
        }
    }

    /// Runs one of its [`PIECES`]; the time that it took.
    pub fn run(self, directory: &Path, piece: u32) -> Duration {
        match self {
            Self::Open => each(&directory.join(FILES), piece, |path| {
                File::open(path).expect("the file is there");
            }),
            Self::OpenRead => {
                let mut buf = [0; CONTENT_LEN];
                each(&directory.join(FILES), piece, |path| {
                    let mut file = File::open(path).expect("the file is there");
                    file.read_exact(&mut buf).expect("the file can be read");
                })
            }
            Self::Create => {
                let made = directory.join("made");
                fs::create_dir(&made).expect("the mount can be written");
                let content = [7; CONTENT_LEN];
                let time = each(&made, piece, |path| {
                    let mut file = File::create_new(path).expect("the mount can be written");
                    file.write_all(&content).expect("the mount can be written");
                });
                fs::remove_dir_all(&made).expect("the mount can be written");
                time
            }
        }
    }
}

fn each(files: &Path, piece: u32, mut work: impl FnMut(&Path)) -> Duration {
    let paths = paths(files, piece);
    let begin = Instant::now();
    for path in &paths {
        work(path);
    }
    begin.elapsed()
}

fn paths(directory: &Path, piece: u32) -> Vec<PathBuf> {
    let first = piece * FILES_PER_PIECE;
    (first..first + FILES_PER_PIECE).map(|index| directory.join(index.to_string())).collect()
}

/// The pieces of a round.
pub const PIECES: u32 = 20;
/// The operations of a round.
pub const OPERATIONS: u32 = PIECES * FILES_PER_PIECE;
const FILES_PER_PIECE: u32 = 100;
const FILES: &str = "files";
const CONTENT_LEN: usize = 1000;
