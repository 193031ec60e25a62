//! A document saved as editors do: a new file takes the name of the old one, with and without an
//! `fsync` before. At every moment there is one whole version under the name.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Mutex;

use super::{lock, write_and_sync};
use crate::cut::{Power, Site, Workload, sync_directory};
use crate::harness::{Random, pattern};
use crate::tally::Tally;

pub struct Saves(Vec<Lane>);

struct Lane {
    directory: PathBuf,
    synced: bool,
    versions: Mutex<Versions>,
}

/// Any version from the one that was acknowledged last to the one that was saved last may be
/// there.
#[derive(Default)]
struct Versions {
    acknowledged: u64,
    saved: u64,
}

impl Lane {
    fn document(&self) -> PathBuf {
        self.directory.join(if self.synced { "synced" } else { "unsynced" })
    }

    fn content(version: u64) -> Vec<u8> {
        pattern(version, (version * 7919 % 50_000) as usize + 1)
    }
}

impl Workload for Saves {
    fn prepare(site: &Site) -> Option<Self> {
        let lanes = [true, false].map(|synced| Lane {
            directory: site.directory.clone(),
            synced,
            versions: Mutex::default(),
        });
        for lane in &lanes {
            write_and_sync(&lane.document(), &Lane::content(0)).unwrap();
        }
        Some(Self(lanes.into()))
    }

    fn lanes(&self) -> usize {
        self.0.len()
    }

    fn work(&self, lane: usize, mut random: Random, power: &Power) -> io::Result<()> {
        let lane = &self.0[lane];
        let mut versions = lock(&lane.versions);
        let (document, new) = (lane.document(), lane.document().with_extension("new"));
        while power.is_on() {
            versions.saved += 1;
            let mut file = File::create(&new)?;
            file.write_all(&Lane::content(versions.saved))?;
            if lane.synced {
                file.sync_all()?;
            }
            drop(file);
            fs::rename(&new, &document)?;
            if lane.synced || random.below(10) == 0 {
                sync_directory(&lane.directory)?;
                if power.is_on() {
                    versions.acknowledged = versions.saved;
                }
            }
        }
        Ok(())
    }

    fn verify(&mut self, tally: &mut Tally) {
        for lane in &self.0 {
            let mut versions = lock(&lane.versions);
            let document = lane.document();
            tally.acknowledged += 1;
            let found = tally.read(&document);
            let known = (0..=versions.saved).rev();
            let version = known.into_iter().find(|v| found.as_ref() == Some(&Lane::content(*v)));
            let Versions { acknowledged, saved } = *versions;
            match (version, found) {
                (Some(version), _) if version >= acknowledged => {}
                (Some(version), _) => {
                    tally.lost(acknowledged - version, format!("{version} of {acknowledged}"));
                }
                (None, Some(found)) => {
                    let (path, len) = (document.display(), found.len());
                    tally.wrong(format_args!("{path}: {len} bytes, {acknowledged} to {saved}"));
                }
                (None, None) => tally.lost(1, document.display()),
            }
            versions.acknowledged = version.unwrap_or(0);
        }
    }
}
