//! copy_file_range and sendfile.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use rustix::fs::{copy_file_range, sendfile};
use rustix::io::Errno;

use crate::harness::{Mount, Setup, assert_errno, assert_same, open_or_create, pattern};

crate::matrix! { Setup::new() =>
    whole_file,
    ranges_at_odd_offsets,
    within_one_file,
    overlapping_within_one_file,
    source_written_but_not_synced,
    over_the_end_is_short,
    sendfile_copies,
}

const LEN: usize = 100 * 4096 + 77;

fn copy_all(from: &File, mut from_at: u64, to: &File, mut to_at: u64, len: usize) -> usize {
    let mut left = len;
    while left > 0 {
        let copied = copy_file_range(from, Some(&mut from_at), to, Some(&mut to_at), left).unwrap();
        if copied == 0 {
            break;
        }
        left -= copied;
    }
    len - left
}

fn open(m: &Mount, name: &str) -> File {
    open_or_create(m.path(name))
}

fn whole_file(m: &mut Mount) {
    let data = pattern(1, LEN);
    fs::write(m.path("from"), &data).unwrap();
    let copied = copy_all(&open(m, "from"), 0, &open(m, "to"), 0, LEN);
    assert_eq!(copied, LEN);
    assert_same(&fs::read(m.path("to")).unwrap(), &data, "cached");
    fs::copy(m.path("from"), m.path("again")).unwrap();
    m.remount();
    assert_same(&fs::read(m.path("to")).unwrap(), &data, "remounted");
    assert_same(&fs::read(m.path("again")).unwrap(), &data, "fs::copy");
}

fn ranges_at_odd_offsets(m: &mut Mount) {
    let data = pattern(1, LEN);
    let mut expected = pattern(2, LEN);
    fs::write(m.path("from"), &data).unwrap();
    fs::write(m.path("to"), &expected).unwrap();
    let (from, to) = (open(m, "from"), open(m, "to"));
    for (from_at, to_at, len) in [
        (1, 0, 4096),
        (4096, 8192, 4096),
        (70_000, 3, 100_000),
        (5, 65_530, 12),
        (0, LEN - 10, 5000),
    ] {
        assert_eq!(copy_all(&from, from_at as u64, &to, to_at as u64, len), len);
        expected.resize(expected.len().max(to_at + len), 0);
        expected[to_at..to_at + len].copy_from_slice(&data[from_at..from_at + len]);
        let context = format!("{len} from {from_at} to {to_at}");
        assert_same(&fs::read(m.path("to")).unwrap(), &expected, &context);
    }
    drop((from, to));
    m.remount();
    assert_same(&fs::read(m.path("to")).unwrap(), &expected, "remounted");
}

fn within_one_file(m: &mut Mount) {
    let mut expected = pattern(1, LEN);
    fs::write(m.path("f"), &expected).unwrap();
    let file = open(m, "f");
    assert_eq!(copy_all(&file, 100, &file, 200_000, 50_000), 50_000);
    expected.copy_within(100..50_100, 200_000);
    assert_same(&fs::read(m.path("f")).unwrap(), &expected, "one descriptor");
    assert_eq!(copy_all(&open(m, "f"), 300_000, &file, 0, 10_000), 10_000);
    expected.copy_within(300_000..310_000, 0);
    assert_same(&fs::read(m.path("f")).unwrap(), &expected, "two descriptors");
}

fn overlapping_within_one_file(m: &mut Mount) {
    let data = pattern(1, LEN);
    fs::write(m.path("f"), &data).unwrap();
    let file = open(m, "f");
    let (mut from, mut to) = (1000, 2000);
    let copied = copy_file_range(&file, Some(&mut from), &file, Some(&mut to), 5000);
    assert_errno(copied, Errno::INVAL);
    assert_same(&fs::read(m.path("f")).unwrap(), &data, "untouched");
}

fn source_written_but_not_synced(m: &mut Mount) {
    let (from, to) = (open(m, "from"), open(m, "to"));
    for round in 0..20 {
        let data = pattern(round, 20_000);
        from.write_all_at(&data, 500).unwrap();
        assert_eq!(copy_all(&from, 500, &to, 0, 20_000), 20_000);
        let mut back = vec![0; 20_000];
        to.read_exact_at(&mut back, 0).unwrap();
        assert_same(&back, &data, "stale source");
    }
}

fn over_the_end_is_short(m: &mut Mount) {
    fs::write(m.path("from"), pattern(1, 5000)).unwrap();
    let (from, to) = (open(m, "from"), open(m, "to"));
    assert_eq!(copy_all(&from, 4000, &to, 0, 9000), 1000);
    assert_eq!(to.metadata().unwrap().len(), 1000);
    assert_eq!(copy_all(&from, 5000, &to, 0, 10), 0);
    let read_only = File::open(m.path("to")).unwrap();
    assert_errno(copy_file_range(&from, Some(&mut 0), read_only, Some(&mut 0), 10), Errno::BADF);
}

fn sendfile_copies(m: &mut Mount) {
    let data = pattern(1, LEN);
    fs::write(m.path("from"), &data).unwrap();
    m.remount();
    let (from, to) = (open(m, "from"), open(m, "to"));
    let mut offset = 0;
    while (offset as usize) < LEN {
        assert_ne!(sendfile(&to, &from, Some(&mut offset), LEN).unwrap(), 0);
    }
    assert_same(&fs::read(m.path("to")).unwrap(), &data, "sent");
}
