//! A file cut and extended at random, with writes between, each followed by `fsync`: a change of
//! size is there or is not.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Mutex;

use super::{lock, write_and_sync};
use crate::cut::{Power, Site, Workload};
use crate::harness::{Random, pattern};
use crate::tally::Tally;

pub struct Truncations(Vec<Lane>);

struct Lane {
    path: PathBuf,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    changes: u64,
    acknowledged: Vec<u8>,
    /// What is being done to it.
    next: Option<Change>,
}

enum Change {
    SetLen(usize),
    Write(usize, Vec<u8>),
}

impl Change {
    /// Some change of a file of this length.
    fn any(random: &mut Random, len: usize, number: u64) -> Self {
        let up_to = |random: &mut Random, bound: usize| random.below(bound as u64 + 1) as usize;
        match random.below(12) {
            0 => Change::SetLen(0),
            1 => Change::SetLen(len / BLOCK_LEN * BLOCK_LEN),
            2..=4 => Change::SetLen(up_to(random, len)),
            5..=6 => Change::SetLen((len + up_to(random, 20_000)).min(LIMIT)),
            7 => Change::SetLen((len + 1 + up_to(random, 900)).min(LIMIT)),
            8..=10 => Change::Write(len, pattern(number, 1 + up_to(random, 30_000))),
            _ => Change::Write(up_to(random, len), pattern(number, 1 + up_to(random, 9000))),
        }
    }

    fn make(&self, file: &File) -> io::Result<()> {
        match self {
            Change::SetLen(len) => file.set_len(*len as u64),
            Change::Write(at, data) => file.write_all_at(data, *at as u64),
        }
    }

    fn apply(&self, content: &mut Vec<u8>) {
        match self {
            Change::SetLen(len) => content.resize(*len, 0),
            Change::Write(at, data) => {
                content.resize(content.len().max(at + data.len()), 0);
                content[*at..at + data.len()].copy_from_slice(data);
            }
        }
    }

    /// Whether `found` may be what is left of a change from `old` to `new` that nobody has
    /// acknowledged: a change of size is whole, a write may be there in some blocks only and have
    /// grown the file by a part.
    fn allows(&self, old: &[u8], new: &[u8], found: &[u8]) -> bool {
        if found == old || found == new {
            return true;
        }
        let (Change::Write(..), true) = (self, (old.len()..=new.len()).contains(&found.len()))
        else {
            return false;
        };
        found.chunks(BLOCK_LEN).enumerate().all(|(block, bytes)| {
            let start = block * BLOCK_LEN;
            new[start..].starts_with(bytes)
                || old.get(start..) == Some(bytes)
                || old.get(start..start + bytes.len()) == Some(bytes)
        })
    }
}

impl Workload for Truncations {
    fn prepare(site: &Site) -> Option<Self> {
        let lanes = [0, 1].map(|lane| Lane {
            path: site.directory.join(format!("cut-{lane}")),
            state: Mutex::default(),
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
        let mut state = lock(&lane.state);
        let file = OpenOptions::new().read(true).write(true).open(&lane.path)?;
        while power.is_on() {
            state.changes += 1;
            let change = Change::any(&mut random, state.acknowledged.len(), state.changes);
            let made = change.make(&file);
            state.next = Some(change);
            made?;
            file.sync_all()?;
            if power.is_on()
                && let Some(change) = state.next.take()
            {
                change.apply(&mut state.acknowledged);
            }
        }
        Ok(())
    }

    fn verify(&mut self, tally: &mut Tally) {
        for lane in &self.0 {
            let mut state = lock(&lane.state);
            tally.acknowledged += 1;
            let Some(found) = tally.read(&lane.path) else {
                tally.lost(1, lane.path.display());
                state.acknowledged.clear();
                let _ = write_and_sync(&lane.path, &[]);
                continue;
            };
            let old = std::mem::take(&mut state.acknowledged);
            let mut new = old.clone();
            let next = state.next.take();
            if let Some(change) = &next {
                change.apply(&mut new);
            }
            let allowed = match &next {
                Some(change) => change.allows(&old, &new, &found),
                None => found == old,
            };
            if !allowed {
                let (before, after, is) = (old.len(), new.len(), found.len());
                let differs = (0..is.min(before)).find(|&at| old[at] != found[at]);
                let path = lane.path.display();
                tally.lost(
                    1,
                    format!("{path}: {is} bytes, from {before} to {after}, differs at {differs:?}"),
                );
            }
            state.acknowledged = found;
            OpenOptions::new().write(true).open(&lane.path).unwrap().sync_all().unwrap();
        }
    }
}

const BLOCK_LEN: usize = 4096;
const LIMIT: usize = 400_000;
