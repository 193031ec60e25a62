//! Pieces of a file overwritten at random, then synced: whole blocks, pieces within and across
//! blocks, and through `O_DSYNC`.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::Mutex;

use super::{lock, write_and_sync};
use crate::cut::{Power, Site, Workload, pause};
use crate::harness::{Random, pattern};
use crate::tally::Tally;

pub struct Overwrites(Vec<Lane>);

struct Lane {
    path: PathBuf,
    piece_len: usize,
    /// `O_DSYNC`, or nothing and a call of `fsync`.
    flags: i32,
    pieces: Mutex<Vec<Piece>>,
}

/// The versions of one piece: any from the one that was acknowledged last to the one that was
/// written last may be there.
#[derive(Clone, Copy, Default)]
struct Piece {
    acknowledged: u64,
    written: u64,
}

impl Lane {
    fn content(&self, at: usize, version: u64) -> Vec<u8> {
        pattern((at as u64) << 32 | version, self.piece_len)
    }

    fn open(&self) -> io::Result<File> {
        OpenOptions::new().read(true).write(true).custom_flags(self.flags).open(&self.path)
    }
}

impl Workload for Overwrites {
    fn prepare(site: &Site) -> Option<Self> {
        let lanes = [(4096, 0), (700, 0), (700, libc::O_DSYNC)].map(|(piece_len, flags)| Lane {
            path: site.directory.join(format!("pieces-{piece_len}-{flags}")),
            piece_len,
            flags,
            pieces: Mutex::new(vec![Piece::default(); FILE_LEN / piece_len]),
        });
        for lane in &lanes {
            let count = lock(&lane.pieces).len();
            let content: Vec<u8> = (0..count).flat_map(|at| lane.content(at, 0)).collect();
            write_and_sync(&lane.path, &content).unwrap();
        }
        Some(Self(lanes.into()))
    }

    fn lanes(&self) -> usize {
        self.0.len()
    }

    fn work(&self, lane: usize, mut random: Random, power: &Power) -> io::Result<()> {
        let lane = &self.0[lane];
        let mut pieces = lock(&lane.pieces);
        let mut file = lane.open()?;
        while power.is_on() {
            let mut changed = Vec::new();
            for _ in 0..=random.below(20) {
                let at = random.below(pieces.len() as u64) as usize;
                pieces[at].written += 1;
                let content = lane.content(at, pieces[at].written);
                file.write_all_at(&content, (at * lane.piece_len) as u64)?;
                changed.push(at);
                pause(&mut random);
            }
            if lane.flags == 0 {
                if random.below(2) == 0 { file.sync_data()? } else { file.sync_all()? }
            }
            if power.is_on() {
                changed.iter().for_each(|at| pieces[*at].acknowledged = pieces[*at].written);
            }
            if random.below(10) == 0 {
                file = lane.open()?;
            }
        }
        Ok(())
    }

    fn verify(&mut self, tally: &mut Tally) {
        for lane in &self.0 {
            let mut pieces = lock(&lane.pieces);
            let Ok(file) = lane.open() else {
                tally.lost(pieces.len() as u64, lane.path.display());
                continue;
            };
            for (at, piece) in pieces.iter_mut().enumerate() {
                tally.acknowledged += 1;
                let start = at * lane.piece_len;
                let name = format!("{} piece {at}", lane.path.display());
                let mut found = vec![0; lane.piece_len];
                if let Err(error) = file.read_exact_at(&mut found, start as u64) {
                    tally.unreadable(&PathBuf::from(name), &error);
                    continue;
                }
                // One write may be there in one block and not in the next.
                let edge = (BLOCK_LEN - start % BLOCK_LEN).min(lane.piece_len);
                for range in [0..edge, edge..lane.piece_len] {
                    let versions = (0..=piece.written).rev();
                    let is = |version: &u64| {
                        lane.content(at, *version)[range.clone()] == found[range.clone()]
                    };
                    match versions.clone().find(is) {
                        Some(version) if version >= piece.acknowledged => {}
                        Some(version) => {
                            let acknowledged = piece.acknowledged;
                            tally.lost(1, format!("{name}: version {version} of {acknowledged}"));
                            piece.acknowledged = version;
                        }
                        None => tally.wrong(&name),
                    }
                }
            }
        }
    }
}

/// Entries in page 0 and in two tag pages.
const FILE_LEN: usize = 480 << 10;
const BLOCK_LEN: usize = 4096;
