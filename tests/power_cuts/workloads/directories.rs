//! Directories made under another name, filled and renamed, with everything synced on the way.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::Mutex;

use super::{lock, write_and_sync};
use crate::cut::{Power, Site, Workload, sync_directory};
use crate::harness::{Random, pattern};
use crate::tally::Tally;

pub struct Directories {
    directory: PathBuf,
    /// The first that is still there, and the first that was not acknowledged.
    numbers: Mutex<(u64, u64)>,
}

fn content(number: u64) -> Vec<u8> {
    pattern(number, (number * 4519 % 40_000) as usize)
}

impl Workload for Directories {
    fn prepare(site: &Site) -> Option<Self> {
        Some(Self { directory: site.directory.clone(), numbers: Mutex::default() })
    }

    fn lanes(&self) -> usize {
        1
    }

    fn work(&self, _: usize, _: Random, power: &Power) -> io::Result<()> {
        let mut numbers = lock(&self.numbers);
        while power.is_on() {
            let number = numbers.1;
            let (made, named) = (self.directory.join("made"), self.named(number));
            fs::create_dir(&made)?;
            write_and_sync(&made.join("file"), &content(number))?;
            sync_directory(&made)?;
            fs::rename(&made, &named)?;
            sync_directory(&self.directory)?;
            numbers.1 += u64::from(power.is_on());
        }
        Ok(())
    }

    fn verify(&mut self, tally: &mut Tally) {
        let mut numbers = lock(&self.numbers);
        for number in numbers.0..numbers.1 {
            tally.acknowledged += 1;
            let path = self.named(number).join("file");
            if tally.read(&path) != Some(content(number)) {
                tally.lost(1, path.display());
            }
        }
        // What was under way may be there, with its file in any state but one that is unreadable.
        for path in [self.directory.join("made"), self.named(numbers.1)] {
            tally.read(&path.join("file"));
            if path.exists() {
                fs::remove_dir_all(&path).unwrap();
            }
        }
        // Those before the last cut but one.
        let kept = numbers.1.saturating_sub(KEPT).max(numbers.0);
        for number in numbers.0..kept {
            let _ = fs::remove_dir_all(self.named(number));
        }
        numbers.0 = kept;
        sync_directory(&self.directory).unwrap();
    }
}

impl Directories {
    fn named(&self, number: u64) -> PathBuf {
        self.directory.join(format!("d{number}"))
    }
}

/// Old ones stay for some cuts more.
const KEPT: u64 = 300;
