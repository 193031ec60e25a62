//! New files of all sizes, each synced together with its directory.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Mutex;

use super::lock;
use crate::cut::{Power, Site, Workload, sync_directory};
use crate::harness::{Random, pattern};
use crate::tally::Tally;

pub struct Creations(Vec<Lane>);

struct Lane {
    directory: PathBuf,
    /// The first that is still there, and the first that was not acknowledged.
    numbers: Mutex<(u64, u64)>,
}

fn content(number: u64) -> Vec<u8> {
    let len = match number % 5 {
        0 => number % 100,
        1 => 4096 * (number % 4),
        2 => 65_500 + number % 100,
        _ => number * 6007 % 120_000,
    };
    pattern(number, len as usize)
}

impl Lane {
    fn path(&self, number: u64) -> PathBuf {
        self.directory.join(number.to_string())
    }
}

impl Workload for Creations {
    fn prepare(site: &Site) -> Option<Self> {
        let lanes = [0, 1].map(|lane| Lane {
            directory: site.directory.join(lane.to_string()),
            numbers: Mutex::default(),
        });
        for lane in &lanes {
            fs::create_dir(&lane.directory).unwrap();
        }
        Some(Self(lanes.into()))
    }

    fn lanes(&self) -> usize {
        self.0.len()
    }

    fn work(&self, lane: usize, mut random: Random, power: &Power) -> io::Result<()> {
        let lane = &self.0[lane];
        let mut numbers = lock(&lane.numbers);
        while power.is_on() {
            let mut file = File::create(lane.path(numbers.1))?;
            for part in content(numbers.1).chunks(1 + random.below(40_000) as usize) {
                file.write_all(part)?;
            }
            file.sync_all()?;
            sync_directory(&lane.directory)?;
            numbers.1 += u64::from(power.is_on());
        }
        Ok(())
    }

    fn verify(&mut self, tally: &mut Tally) {
        for lane in &self.0 {
            let mut numbers = lock(&lane.numbers);
            for number in numbers.0..numbers.1 {
                tally.acknowledged += 1;
                let path = lane.path(number);
                if tally.read(&path) != Some(content(number)) {
                    tally.lost(1, path.display());
                }
            }
            let under_way = lane.path(numbers.1);
            let part = tally.read(&under_way).unwrap_or_default();
            if !content(numbers.1).starts_with(&part) {
                tally.wrong(format_args!("{}: {} bytes", under_way.display(), part.len()));
            }
            let kept = numbers.1.saturating_sub(KEPT).max(numbers.0);
            for number in numbers.0..kept {
                let _ = fs::remove_file(lane.path(number));
            }
            numbers.0 = kept;
            let _ = fs::remove_file(under_way);
            sync_directory(&lane.directory).unwrap();
        }
    }
}

/// Old ones stay for some cuts more.
const KEPT: u64 = 200;
