//! Writes that must be durable before the program goes on.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::process::Command;

use super::{Row, Unit, Workload, execute};
use crate::place::{Amount, Place};

pub const WORKLOADS: &[Workload] = &[
    Workload {
        name: "synced",
        rows: &[
            row("append-fdatasync", "append 200 bytes, and fdatasync"),
            row("append-fsync", "append 200 bytes, and fsync"),
            row("overwrite-fdatasync", "4 KiB overwrite, and fdatasync"),
            row("overwrite-fsync", "4 KiB overwrite, and fsync"),
            row("create-fsync", "make a file, write 4000 bytes, fsync, close"),
        ],
        pieces: 2,
        compares_modes: false,
        prepare: |place| {
            fs::write(place.path(FILE), vec![7; BLOCKS * BLOCK_LEN]).expect("it can be written");
        },
        run: |place, _| {
            append(place, "append-fdatasync", File::sync_data);
            append(place, "append-fsync", File::sync_all);
            overwrite(place, "overwrite-fdatasync", File::sync_data);
            overwrite(place, "overwrite-fsync", File::sync_all);
            create(place);
        },
        clean: |place| fs::remove_file(place.path(FILE)).expect("it is there"),
    },
    Workload {
        name: "sqlite",
        rows: &[row("sqlite", "SQLite, one insert a transaction")],
        pieces: 1,
        compares_modes: false,
        prepare: |_| super::require("sqlite3"),
        run: |place, _| {
            let directory = place.path("sqlite");
            fs::create_dir(&directory).expect("the mount can be written");
            let sqlite = |script: &str| {
                execute(Command::new("sqlite3").args(["-bail", "db"]), &directory, script);
            };
            sqlite("create table t (id integer primary key, content text);\n");
            let transactions = place.scale().transactions;
            let script = "insert into t (content) values (hex(randomblob(50)));\n";
            let script = script.repeat(transactions);
            place.timed("sqlite", || {
                sqlite(&script);
                Amount::operations(transactions as u64)
            });
            fs::remove_dir_all(&directory).expect("the mount can be written");
        },
        clean: super::nothing,
    },
];

fn append(place: &Place, row: &'static str, sync: fn(&File) -> io::Result<()>) {
    let path = place.path("log");
    let mut file = File::create(&path).expect("the mount can be written");
    let append = |_| {
        file.write_all(&[7; 200]).expect("the mount can be written");
        sync(&file).expect("the mount can sync");
    };
    place.repeated(row, 0, u64::MAX, append, || {});
    fs::remove_file(path).expect("it is there");
}

fn overwrite(place: &Place, row: &'static str, sync: fn(&File) -> io::Result<()>) {
    let path = place.path(FILE);
    let file = OpenOptions::new().write(true).open(path).expect("the file is there");
    let overwrite = |step: u64| {
        let block = step.wrapping_mul(0x9e37_79b9_7f4a_7c15) % BLOCKS as u64;
        let written = file.write_all_at(&[9; BLOCK_LEN], block * BLOCK_LEN as u64);
        written.expect("the mount can be written");
        sync(&file).expect("the mount can sync");
    };
    place.repeated(row, 0, u64::MAX, overwrite, || {});
}

fn create(place: &Place) {
    let directory = place.path("synced");
    fs::create_dir(&directory).expect("the mount can be written");
    let create = |index: u64| {
        let file = File::create_new(directory.join(index.to_string()));
        let mut file = file.expect("the mount can be written");
        file.write_all(&[7; 4000]).expect("the mount can be written");
        file.sync_all().expect("the mount can sync");
    };
    place.repeated("create-fsync", 0, u64::MAX, create, || {});
    fs::remove_dir_all(directory).expect("the mount can be written");
}

const fn row(name: &'static str, description: &'static str) -> Row {
    Row::new(name, description, Unit::PerSecond)
}

const FILE: &str = "synced-file";
const BLOCKS: usize = 1024;
const BLOCK_LEN: usize = 4096;
