//! Small files: making them, opening them with and without their DEK in memory. These rows
//! compare the modes.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use super::{Row, Unit, Workload};

pub const WORKLOADS: &[Workload] = &[
    Workload {
        name: "small-files",
        rows: &[
            Row::new(
                "open-cold",
                "open and close a file, cold: its DEK is unwrapped",
                Unit::Microseconds,
            ),
            Row::new("open", "open and close a file, its DEK in memory", Unit::Microseconds),
            Row::new(
                "open-read",
                "open, read 4000 bytes, close, the DEK in memory",
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
            let path = |index| &paths[usize::try_from(index % FILES).expect("few")];
            let first = |index| drop(open(path(index)));
            place.repeated("open-cold", 0, FILES, first, || {});
            // Those that the slice had no time for.
            paths.iter().for_each(|path| drop(open(path)));
            place.repeated("open", 0, u64::MAX, |index| drop(open(path(index))), || {});
            let mut buf = [0; CONTENT.len()];
            let read = |index| open(path(index)).read_exact(&mut buf).expect("it is as long");
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

const FILES: u64 = 500;
const DIRECTORY: &str = "small-files";
const CONTENT: [u8; 4000] = [7; 4000];
