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
        for path in paths(&files) {
            fs::write(path, content).expect("the mount can be written");
        }
        self.run(directory);
    }

    /// Runs it once; the time of one operation.
    pub fn run(self, directory: &Path) -> Duration {
        match self {
            Self::Open => each(&directory.join(FILES), |path| {
                File::open(path).expect("the file is there");
            }),
            Self::OpenRead => {
                let mut buf = [0; CONTENT_LEN];
                each(&directory.join(FILES), |path| {
                    let mut file = File::open(path).expect("the file is there");
                    file.read_exact(&mut buf).expect("the file can be read");
                })
            }
            Self::Create => {
                let made = directory.join("made");
                fs::create_dir(&made).expect("the mount can be written");
                let content = [7; CONTENT_LEN];
                let time = each(&made, |path| {
                    let mut file = File::create_new(path).expect("the mount can be written");
                    file.write_all(&content).expect("the mount can be written");
                });
                fs::remove_dir_all(&made).expect("the mount can be written");
                time
            }
        }
    }
}

/// The time that `work` takes on one file, on the average over all.
fn each(files: &Path, mut work: impl FnMut(&Path)) -> Duration {
    let paths = paths(files);
    let begin = Instant::now();
    for path in &paths {
        work(path);
    }
    begin.elapsed() / u32::try_from(paths.len()).expect("they are few")
}

fn paths(directory: &Path) -> Vec<PathBuf> {
    (0..COUNT).map(|index| directory.join(index.to_string())).collect()
}

const FILES: &str = "files";
const COUNT: usize = 4000;
const CONTENT_LEN: usize = 1000;
