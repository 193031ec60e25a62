//! A file cut and extended at random, with writes and holes between, each followed by `fsync`: a
//! change of size is there or is not.

use std::fs::OpenOptions;
use std::io;
use std::path::PathBuf;
use std::sync::Mutex;

use super::{lock, write_and_sync};
use crate::cut::{Power, Site, Workload};
use crate::harness::{Changing, Random};
use crate::tally::Tally;

pub struct Truncations(Vec<Lane>);

struct Lane {
    path: PathBuf,
    content: Mutex<Changing>,
}

impl Workload for Truncations {
    fn prepare(site: &Site) -> Option<Self> {
        let lanes = [0, 1].map(|lane| Lane {
            path: site.directory.join(format!("cut-{lane}")),
            content: Mutex::default(),
        });
        for lane in &lanes {
            write_and_sync(&lane.path, &[]).unwrap();
        }
        Some(Self(lanes.into()))
    }

    fn lanes(&self) -> usize {
        self.0.len()
    }

    fn work(&self, lane: usize, mut random: Random, power: &Power) -> io::Result<()> {
        let lane = &self.0[lane];
        let mut content = lock(&lane.content);
        let file = OpenOptions::new().read(true).write(true).open(&lane.path)?;
        while power.is_on() {
            content.change(&file, &mut random)?;
            file.sync_all()?;
            if power.is_on() {
                content.acknowledge();
            }
        }
        Ok(())
    }

    fn verify(&mut self, tally: &mut Tally) {
        for lane in &self.0 {
            let mut content = lock(&lane.content);
            tally.acknowledged += 1;
            let Some(found) = tally.read(&lane.path) else {
                tally.lost(1, lane.path.display());
                *content = Changing::default();
                let _ = write_and_sync(&lane.path, &[]);
                continue;
            };
            if let Err(why) = content.accept(found) {
                tally.lost(1, format_args!("{}: {why}", lane.path.display()));
            }
            OpenOptions::new().write(true).open(&lane.path).unwrap().sync_all().unwrap();
        }
    }
}
