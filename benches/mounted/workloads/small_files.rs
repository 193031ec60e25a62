//! Small files: making them, and opening them in the three ways that differ in what ssefs has of
//! them in memory: nothing, the DEK, the open file. These rows compare the modes.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{Row, Unit, Workload};
use crate::place::Place;

pub const WORKLOADS: &[Workload] = &[
    Workload {
        name: "small-files",
        rows: &[
            Row::new(
                "open-cold",
                "open and close a file, cold: its DEK is unwrapped",
                Unit::Microseconds,
            ),
            Row::new(
                "open-dek-cached",
                "open and close a file, its DEK in the cache",
                Unit::Microseconds,
            ),
            Row::new(
                "open",
                "open and close a file again, still open in the daemon",
                Unit::Microseconds,
            ),
            Row::new(
                "open-read",
                "open, read 4000 bytes, close, still open in the daemon",
                Unit::Microseconds,
            ),
        ],
        pieces: 1,
        compares_modes: true,
        prepare: |place| {
            let directory = place.path(DIRECTORY);
            fs::create_dir(&directory).expect("the mount can be written");
            for path in paths(&directory) {
                fs::write(path, CONTENT).expect("the mount can be written");
            }
        },
        run: |place, _| {
            place.forget_all();
            let paths = paths(&place.path(DIRECTORY));
            let open = |path: &PathBuf| File::open(path).expect("the file is there");
            let path = |index| &paths[usize::try_from(index).expect("few")];
            let first = |index| drop(open(path(index)));
            place.repeated("open-cold", 0, FILES, first, || {});
            // Those that the slice had no time for, and none twice: it would be left open.
            let opened = place.latest().expect("it was measured").amount.operations;
            (opened..FILES).for_each(first);
            let in_turn = |index| drop(open(path(index % FILES)));
            place.repeated("open-dek-cached", 0, u64::MAX, in_turn, || {});
            check_hits(place);
            // Only what was opened twice of late stays open.
            (0..2 * FEW).for_each(|index| drop(open(path(index % FEW))));
            place.repeated("open", 0, u64::MAX, |index| drop(open(path(index % FEW))), || {});
            let mut buf = [0; CONTENT.len()];
            let read = |index| open(path(index % FEW)).read_exact(&mut buf).expect("it is as long");
            place.repeated("open-read", 0, u64::MAX, read, || {});
        },
        clean: |place| fs::remove_dir_all(place.path(DIRECTORY)).expect("it is there"),
    },
    Workload {
        name: "creation",
        rows: &[Row::new("create", "make a file, write 4000 bytes, close", Unit::Microseconds)],
        pieces: 2,
        compares_modes: true,
        prepare: super::nothing,
        run: |place, _| {
            let directory = place.path("made");
            fs::create_dir(&directory).expect("the mount can be written");
            let create = |index: u64| {
                let file = File::create_new(directory.join(index.to_string()));
                let written = file.expect("the mount can be written").write_all(&CONTENT);
                written.expect("the mount can be written");
            };
            place.repeated("create", 0, u64::MAX, create, || {});
            fs::remove_dir_all(&directory).expect("the mount can be written");
        },
        clean: super::nothing,
    },
];

fn paths(directory: &Path) -> Vec<PathBuf> {
    (0..FILES).map(|index| directory.join(index.to_string())).collect()
}

/// Ends the workload if the openings measured last did not find their DEKs in the cache, though it
/// has room for all.
fn check_hits(place: &Place) {
    let has_room = |statistics: Value| statistics["dek_cache"]["capacity"].as_u64() >= Some(FILES);
    if place.system().statistics().is_some_and(has_room) {
        let measured = place.latest().expect("the row comes before");
        let (hits, opened) = (measured.spent.dek_hits, measured.amount.operations);
        assert!(hits >= Some(opened / 10 * 9), "{opened} openings found {hits:?} DEKs");
    }
}

/// Opened in turn: twice as many as ssefs leaves open, and fewer than it caches DEKs.
const FILES: u64 = 2000;
/// So few that all of them are left open.
const FEW: u64 = 500;
const DIRECTORY: &str = "small-files";
const CONTENT: [u8; 4000] = [7; 4000];
