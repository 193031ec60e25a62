//! fallocate in its four modes, and refusal of the modes that shift blocks.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;

use crate::harness::{Mount, Setup, assert_errno, assert_same, open_or_create, pattern};

crate::matrix! { Setup::new() =>
    plain_extends_with_zeros,
    plain_keeps_data,
    keep_size_keeps_the_size,
    punch_hole_zeroes_exactly,
    punch_hole_past_the_end,
    punch_hole_of_everything,
    punch_hole_then_rewrite,
    punch_hole_frees_space,
    zero_range_zeroes_exactly,
    zero_range_extends_unless_told,
    bad_arguments,
    shifting_modes_work_or_are_refused,
}

const LEN: usize = (16 + 64) * 4096 + 700;

const PUNCH: FallocateFlags = FallocateFlags::PUNCH_HOLE.union(FallocateFlags::KEEP_SIZE);

/// Ranges that begin and end inside, at and around blocks and groups.
const RANGES: &[(usize, usize)] = &[
    (0, 1),
    (0, 4096),
    (1, 4095),
    (100, 8000),
    (4095, 2),
    (15 * 4096, 2 * 4096),
    (16 * 4096 - 1, 4098),
    (79 * 4096 + 50, 4096),
    (0, 80 * 4096),
    (70_000, 100_000),
    (LEN - 10, 10),
];

fn open(m: &Mount) -> File {
    open_or_create(m.path("f"))
}

fn plain_extends_with_zeros(m: &mut Mount) {
    let file = open(m);
    fallocate(&file, FallocateFlags::empty(), 0, 100_001).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 100_001);
    assert_same(&fs::read(m.path("f")).unwrap(), &[0; 100_001], "cached");
    fallocate(&file, FallocateFlags::empty(), 200_000, 1).unwrap();
    drop(file);
    m.remount();
    assert_same(&fs::read(m.path("f")).unwrap(), &[0; 200_001], "remounted");
}

fn plain_keeps_data(m: &mut Mount) {
    let mut expected = pattern(1, 50_000);
    fs::write(m.path("f"), &expected).unwrap();
    fallocate(open(m), FallocateFlags::empty(), 1000, 120_000).unwrap();
    expected.resize(121_000, 0);
    assert_same(&fs::read(m.path("f")).unwrap(), &expected, "cached");
    m.remount();
    assert_same(&fs::read(m.path("f")).unwrap(), &expected, "remounted");
}

fn keep_size_keeps_the_size(m: &mut Mount) {
    let data = pattern(1, 5000);
    fs::write(m.path("f"), &data).unwrap();
    let file = open(m);
    fallocate(&file, FallocateFlags::KEEP_SIZE, 0, 1 << 20).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 5000);
    assert_same(&fs::read(m.path("f")).unwrap(), &data, "cached");
    file.write_all_at(b"more", 500_000).unwrap();
    drop(file);
    m.remount();
    let mut expected = data;
    expected.resize(500_000, 0);
    expected.extend_from_slice(b"more");
    assert_same(&fs::read(m.path("f")).unwrap(), &expected, "remounted");
}

fn zeroes_exactly(m: &mut Mount, mode: FallocateFlags) {
    for &(start, len) in RANGES {
        let mut expected = pattern(start as u64, LEN);
        fs::write(m.path("f"), &expected).unwrap();
        let file = open(m);
        fallocate(&file, mode, start as u64, len as u64).unwrap();
        expected[start..start + len].fill(0);
        let context = format!("{len} at {start}");
        assert_eq!(file.metadata().unwrap().len(), LEN as u64, "{context}");
        assert_same(&fs::read(m.path("f")).unwrap(), &expected, &context);
        drop(file);
        m.remount();
        assert_same(&fs::read(m.path("f")).unwrap(), &expected, &context);
    }
}

fn punch_hole_zeroes_exactly(m: &mut Mount) {
    zeroes_exactly(m, PUNCH);
}

fn zero_range_zeroes_exactly(m: &mut Mount) {
    zeroes_exactly(m, FallocateFlags::ZERO_RANGE);
}

fn punch_hole_past_the_end(m: &mut Mount) {
    let mut expected = pattern(1, 10_000);
    fs::write(m.path("f"), &expected).unwrap();
    let file = open(m);
    fallocate(&file, PUNCH, 9000, 100_000).unwrap();
    fallocate(&file, PUNCH, 500_000, 4096).unwrap();
    expected[9000..].fill(0);
    assert_eq!(file.metadata().unwrap().len(), 10_000);
    assert_same(&fs::read(m.path("f")).unwrap(), &expected, "over and past the end");
}

fn punch_hole_of_everything(m: &mut Mount) {
    fs::write(m.path("f"), pattern(1, LEN)).unwrap();
    fallocate(open(m), PUNCH, 0, LEN as u64).unwrap();
    assert_same(&fs::read(m.path("f")).unwrap(), &vec![0; LEN], "cached");
    m.remount();
    assert_same(&fs::read(m.path("f")).unwrap(), &vec![0; LEN], "remounted");
}

fn punch_hole_then_rewrite(m: &mut Mount) {
    let mut expected = pattern(1, LEN);
    fs::write(m.path("f"), &expected).unwrap();
    let file = open(m);
    for round in 0..30u64 {
        let start = (round as usize * 9_973) % (LEN - 20_000);
        fallocate(&file, PUNCH, start as u64, 15_000).unwrap();
        expected[start..start + 15_000].fill(0);
        let data = pattern(round, 3000);
        file.write_all_at(&data, start as u64 + 6000).unwrap();
        expected[start + 6000..start + 9000].copy_from_slice(&data);
    }
    drop(file);
    m.remount();
    assert_same(&fs::read(m.path("f")).unwrap(), &expected, "remounted");
}

fn punch_hole_frees_space(m: &mut Mount) {
    fs::write(m.path("f"), pattern(1, 4 << 20)).unwrap();
    let file = open(m);
    file.sync_all().unwrap();
    let blocks = || fs::metadata(m.backing().join("f")).unwrap().blocks();
    let before = blocks();
    fallocate(&file, PUNCH, 0, 4 << 20).unwrap();
    file.sync_all().unwrap();
    // Tag pages may stay: one page in 65.
    assert!(before >= 8192 && blocks() < 8192 / 16, "{before} sectors before, {} after", blocks());
}

fn zero_range_extends_unless_told(m: &mut Mount) {
    let mut expected = pattern(1, 10_000);
    fs::write(m.path("f"), &expected).unwrap();
    let file = open(m);
    let keep = FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE;
    fallocate(&file, keep, 9000, 50_000).unwrap();
    expected[9000..].fill(0);
    assert_eq!(file.metadata().unwrap().len(), 10_000);
    fallocate(&file, FallocateFlags::ZERO_RANGE, 8000, 50_000).unwrap();
    expected[8000..].fill(0);
    expected.resize(58_000, 0);
    drop(file);
    m.remount();
    assert_same(&fs::read(m.path("f")).unwrap(), &expected, "remounted");
}

fn bad_arguments(m: &mut Mount) {
    fs::write(m.path("f"), b"data").unwrap();
    assert_errno(fallocate(open(m), FallocateFlags::empty(), 0, 0), Errno::INVAL);
    assert_errno(fallocate(open(m), FallocateFlags::PUNCH_HOLE, 0, 4), Errno::OPNOTSUPP);
    let read_only = File::open(m.path("f")).unwrap();
    assert_errno(fallocate(read_only, FallocateFlags::empty(), 0, 10), Errno::BADF);
    let huge = fallocate(open(m), FallocateFlags::empty(), i64::MAX as u64 - 1, 1);
    assert_errno(huge, Errno::FBIG);
    assert_eq!(fs::read(m.path("f")).unwrap(), b"data");
}

fn shifting_modes_work_or_are_refused(m: &mut Mount) {
    let data = pattern(1, 20 * 4096);
    fs::write(m.path("f"), &data).unwrap();
    let file = open(m);
    let mut expected = data.clone();
    match fallocate(&file, FallocateFlags::COLLAPSE_RANGE, 4096, 4096) {
        Ok(()) => drop(expected.drain(4096..8192)),
        Err(error) => assert_eq!(error, Errno::OPNOTSUPP),
    }
    assert_same(&fs::read(m.path("f")).unwrap(), &expected, "collapse");
    match fallocate(&file, FallocateFlags::INSERT_RANGE, 8192, 4096) {
        Ok(()) => drop(expected.splice(8192..8192, std::iter::repeat_n(0, 4096))),
        Err(error) => assert_eq!(error, Errno::OPNOTSUPP),
    }
    assert_same(&fs::read(m.path("f")).unwrap(), &expected, "insert");
}
