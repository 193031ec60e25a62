//! Records appended to a file, each or some together followed by `fdatasync`: most end within a
//! block, so the next one seals it anew.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Mutex;

use super::lock;
use crate::cut::{Power, Site, Workload, pause, sync_directory};
use crate::harness::{Random, pattern};
use crate::tally::Tally;

pub struct Appends(Vec<Lane>);

struct Lane {
    directory: PathBuf,
    record_len: usize,
    log: Mutex<Log>,
}

/// One log file, the records that were acknowledged and those that were written.
#[derive(Default)]
struct Log {
    number: u64,
    records: u64,
    written: u64,
}

impl Lane {
    fn path(&self, log: &Log) -> PathBuf {
        self.directory.join(format!("log-{}-{}", self.record_len, log.number))
    }

    fn record(&self, log: &Log, record: u64) -> Vec<u8> {
        pattern(log.number << 32 | record, self.record_len)
    }

    fn start_log(&self, log: &mut Log) -> io::Result<()> {
        (log.records, log.written) = (0, 0);
        File::create(self.path(log))?.sync_all()?;
        sync_directory(&self.directory)
    }
}

impl Workload for Appends {
    fn prepare(site: &Site) -> Option<Self> {
        let lanes = [200, 1000, 4096].map(|record_len| Lane {
            directory: site.directory.clone(),
            record_len,
            log: Mutex::default(),
        });
        for lane in &lanes {
            lane.start_log(&mut lock(&lane.log)).unwrap();
        }
        Some(Self(lanes.into()))
    }

    fn lanes(&self) -> usize {
        self.0.len()
    }

    fn work(&self, lane: usize, mut random: Random, power: &Power) -> io::Result<()> {
        let lane = &self.0[lane];
        let mut log = lock(&lane.log);
        let mut file = OpenOptions::new().append(true).open(lane.path(&log))?;
        while power.is_on() {
            file.write_all(&lane.record(&log, log.written))?;
            log.written += 1;
            if random.below(3) > 0 {
                file.sync_data()?;
                if power.is_on() {
                    log.records = log.written;
                }
            } else {
                pause(&mut random);
            }
        }
        Ok(())
    }

    fn verify(&mut self, tally: &mut Tally) {
        for lane in &self.0 {
            let mut log = lock(&lane.log);
            let path = lane.path(&log);
            tally.acknowledged += log.records;
            let told = path.metadata().map_or(0, |metadata| metadata.len());
            if told < log.records * lane.record_len as u64 {
                tally.wrong(format_args!("{} tells {told} bytes only, unopened", path.display()));
            }
            let Some(found) = tally.read(&path) else {
                tally.lost(log.records, path.display());
                log.number += 1;
                lane.start_log(&mut log).unwrap();
                continue;
            };
            let whole = (found.len() / lane.record_len) as u64;
            let right = found.chunks_exact(lane.record_len).zip(0..);
            let right = right.take_while(|(bytes, at)| *bytes == lane.record(&log, *at)).count();
            let right = right as u64;
            if right < log.records {
                tally.lost(log.records - right, format_args!("{}", path.display()));
            } else {
                // Those that nobody has synced, as far as they came.
                let rest = &found[right as usize * lane.record_len..];
                let next = lane.record(&log, right);
                if whole > right || right > log.written || !next.starts_with(rest) {
                    tally.wrong(format_args!("{} after record {right}", path.display()));
                }
            }
            (log.records, log.written) = (right, right);
            if found.len() > LOG_LIMIT || right < whole {
                log.number += 1;
                lane.start_log(&mut log).unwrap();
            } else {
                let file = OpenOptions::new().write(true).open(&path).unwrap();
                file.set_len(right * lane.record_len as u64).unwrap();
                file.sync_all().unwrap();
            }
        }
    }
}

/// A longer log is left alone, and a new one begun.
const LOG_LIMIT: usize = 1 << 20;
