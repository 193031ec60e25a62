//! One large file from its beginning to its end.

use std::fs::{self, File};
use std::io::{Read, Write};

use super::{Row, Unit, Workload};
use crate::place::{Amount, Place, drop_pages};

pub const WORKLOADS: &[Workload] = &[
    Workload {
        name: "stream",
        rows: &[
            Row::new("write", "sequential write in pieces of 1 MiB, and fsync", Unit::MibPerSecond),
            Row::new("read-cold", "sequential read in pieces of 1 MiB, cold", Unit::MibPerSecond),
            Row::new("read-warm", "the same, warm", Unit::MibPerSecond),
        ],
        pieces: 1,
        compares_modes: false,
        prepare: super::nothing,
        run: |place, _| {
            write(place, "write", MIB, place.scale().stream_len, true);
            let file = File::open(place.path(FILE)).expect("the file is there");
            drop_pages(&file);
            drop(file);
            read(place, "read-cold");
            read(place, "read-warm");
        },
        clean,
    },
    Workload {
        name: "small-writes",
        rows: &[Row::new(
            "write-4k",
            "sequential write in pieces of 4 KiB, and close",
            Unit::MibPerSecond,
        )],
        pieces: 2,
        compares_modes: false,
        prepare: super::nothing,
        run: |place, _| write(place, "write-4k", 4096, place.scale().stream_len / 4, false),
        clean,
    },
];

fn write(place: &Place, row: &'static str, piece_len: usize, len: u64, sync: bool) {
    let path = place.path(FILE);
    // What is replaced is not what is measured.
    let _ = fs::remove_file(&path);
    let piece = vec![7; piece_len];
    place.timed(row, || {
        let mut file = File::create_new(&path).expect("the mount can be written");
        for _ in 0..len / piece_len as u64 {
            file.write_all(&piece).expect("the mount can be written");
        }
        if sync {
            file.sync_all().expect("the mount can sync");
        }
        drop(file);
        Amount::bytes(len)
    });
}

fn read(place: &Place, row: &'static str) {
    let path = place.path(FILE);
    let mut piece = vec![0; MIB];
    place.timed(row, || {
        let mut file = File::open(&path).expect("the file is there");
        let mut len = 0;
        loop {
            match file.read(&mut piece).expect("the file can be read") {
                0 => return Amount::bytes(len),
                read => len += read as u64,
            }
        }
    });
}

fn clean(place: &Place) {
    fs::remove_file(place.path(FILE)).expect("the file is there");
}

const MIB: usize = 1 << 20;
const FILE: &str = "stream";
