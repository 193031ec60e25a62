//! Single blocks of one large file, in an order that nothing can foresee.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::process::Command;

use rustix::fs::{Advice, fadvise};
use serde_json::Value;

use super::{Row, Unit, Workload};
use crate::place::{Amount, Place, drop_pages};

pub const WORKLOADS: &[Workload] = &[
    Workload {
        name: "random",
        rows: &[
            Row::new("random-read-cold", "4 KiB random read, cold", Unit::Microseconds),
            Row::new("random-overwrite", "4 KiB random overwrite, and close", Unit::PerSecond),
        ],
        pieces: 2,
        compares_modes: false,
        prepare: |place| {
            let content = vec![7; usize::try_from(BLOCKS).expect("it is small") * BLOCK_LEN];
            fs::write(place.path(FILE), content).expect("the mount can be written");
        },
        run: |place, _| {
            read(place);
            overwrite(place);
        },
        clean: |place| fs::remove_file(place.path(FILE)).expect("the file is there"),
    },
    fio(1, "fio-1", &[fio_row("fio-1", "4 KiB random reads and writes (7:3) by fio, 1 job")]),
    fio(4, "fio-4", &[fio_row("fio-4", "the same with 4 jobs, each on a file of its own")]),
    fio(16, "fio-16", &[fio_row("fio-16", "the same with 16 jobs")]),
];

fn read(place: &Place) {
    let file = File::open(place.path(FILE)).expect("the file is there");
    drop_pages(&file);
    fadvise(&file, 0, None, Advice::Random).expect("advice is taken");
    let mut block = [0; BLOCK_LEN];
    let order = Order::new(place.serial());
    let read = |step| {
        file.read_exact_at(&mut block, order.block(step) * BLOCK_LEN as u64)
            .expect("the file can be read");
    };
    // No block twice: it would come from memory.
    place.repeated("random-read-cold", BLOCK_LEN as u64, BLOCKS, read, || {});
}

fn overwrite(place: &Place) {
    let path = place.path(FILE);
    let file = OpenOptions::new().write(true).open(path).expect("the file is there");
    let block = [9; BLOCK_LEN];
    let order = Order::new(place.serial());
    let write = |step| {
        file.write_all_at(&block, order.block(step) * BLOCK_LEN as u64)
            .expect("the mount can be written");
    };
    let to_close = file.try_clone().expect("descriptors are left");
    // Closing any descriptor flushes the file.
    let close = || drop(to_close);
    place.repeated("random-overwrite", BLOCK_LEN as u64, u64::MAX, write, close);
}

/// All blocks once in an order without order: a full cycle of a congruential generator.
struct Order {
    start: u64,
}

impl Order {
    fn new(serial: u64) -> Self {
        Self { start: serial.wrapping_mul(0x9e37_79b9_7f4a_7c15) }
    }

    fn block(&self, step: u64) -> u64 {
        // An odd factor permutes the residues of a power of two, and so does folding.
        let spread = (self.start.wrapping_add(step)).wrapping_mul(0x5851_f42d_4c95_7f2d) % BLOCKS;
        (spread ^ (spread >> 7)).wrapping_mul(0x2545) % BLOCKS
    }
}

const fn fio(jobs: u32, name: &'static str, rows: &'static [Row]) -> Workload {
    let run: fn(&Place, u32) = match jobs {
        1 => |place, _| run_fio(place, "fio-1", 1),
        4 => |place, _| run_fio(place, "fio-4", 4),
        _ => |place, _| run_fio(place, "fio-16", 16),
    };
    let prepare: fn(&Place) = |_| super::require("fio");
    Workload { name, rows, pieces: 1, compares_modes: false, prepare, run, clean: remove_fio_files }
}

const fn fio_row(name: &'static str, description: &'static str) -> Row {
    Row::new(name, description, Unit::PerSecond)
}

fn run_fio(place: &Place, row: &'static str, jobs: u32) {
    let directory = place.path("fio");
    fs::create_dir_all(&directory).expect("the mount can be written");
    let arguments = [
        "--name=job".to_owned(),
        "--rw=randrw".to_owned(),
        "--rwmixread=70".to_owned(),
        "--bs=4k".to_owned(),
        "--size=8m".to_owned(),
        "--ioengine=psync".to_owned(),
        // Its own way to make pages cold needs no root.
        "--invalidate=1".to_owned(),
        "--time_based".to_owned(),
        format!("--runtime={}ms", place.scale().slice.as_millis() * 2),
        format!("--numjobs={jobs}"),
        "--group_reporting".to_owned(),
        "--output-format=json".to_owned(),
    ];
    let lay_out = ["--create_only=1".to_owned()];
    let mut command = Command::new("fio");
    super::execute(command.args(&arguments).args(lay_out), &directory, "");
    place.timed_by_program(row, || {
        let output = super::execute(Command::new("fio").args(&arguments), &directory, "");
        let report: Value = serde_json::from_slice(&output).expect("fio writes JSON");
        let of = |direction: &str, field: &str| {
            report["jobs"][0][direction][field].as_f64().unwrap_or(0.0)
        };
        let per_second = of("read", "iops") + of("write", "iops");
        let operations = of("read", "total_ios") + of("write", "total_ios");
        (operations / per_second, Amount::operations(operations as u64))
    });
}

fn remove_fio_files(place: &Place) {
    fs::remove_dir_all(place.path("fio")).expect("the files are there");
}

const BLOCK_LEN: usize = 4096;
const BLOCKS: u64 = 8192;
const FILE: &str = "random";
