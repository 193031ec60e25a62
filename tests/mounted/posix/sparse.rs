//! Sparse files of many TiB: the backing ext4 ends at 16 TiB, and so do offsets of 32-bit
//! block numbers, sums of pages, and products that overflow.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};

use rustix::io::Errno;

use crate::harness::{Mount, Setup, assert_same, open_or_create, pattern};

crate::matrix! { Setup::new() =>
    data_past_four_tebibytes,
    nearly_the_largest_file,
    growing_past_the_largest_file,
    shrinking_a_huge_file,
}

const TIB: u64 = 1 << 40;

fn open(m: &Mount) -> File {
    open_or_create(m.path("f"))
}

fn data_past_four_tebibytes(m: &mut Mount) {
    let islands =
        [0, (1 << 31) - 100, (1 << 32) - 100, TIB + 1, 4 * TIB - 1, 4 * TIB + 12_345, 5 * TIB + 7];
    let file = open(m);
    for start in islands {
        file.write_all_at(&pattern(start, 10_000), start).unwrap();
    }
    drop(file);
    m.remount();
    let file = open(m);
    assert_eq!(file.metadata().unwrap().len(), 5 * TIB + 10_007);
    for start in islands {
        let mut back = vec![0; 12_000];
        let read = file.read_at(&mut back, start).unwrap();
        assert!(read >= 10_000);
        assert_same(&back[..10_000], &pattern(start, 10_000), &format!("at {start}"));
    }
    let mut between = vec![1; 9000];
    file.read_exact_at(&mut between, 3 * TIB + 17).unwrap();
    assert_same(&between, &[0; 9000], "the hole between");
    let used = fs::metadata(m.backing().join("f")).unwrap().blocks() * 512;
    assert!(used < 16 << 20, "{used} bytes for 70,000 bytes of data");
}

fn nearly_the_largest_file(m: &mut Mount) {
    let file = open(m);
    let end = 15 * TIB;
    file.set_len(end).unwrap();
    file.write_all_at(b"first", 0).unwrap();
    file.write_all_at(b"last", end - 4).unwrap();
    drop(file);
    m.remount();
    let file = open(m);
    assert_eq!(file.metadata().unwrap().len(), end);
    let mut back = [0; 10];
    file.read_exact_at(&mut back, end - 10).unwrap();
    assert_eq!(&back, b"\0\0\0\0\0\0last");
    file.read_exact_at(&mut back, 0).unwrap();
    assert_eq!(&back, b"first\0\0\0\0\0");
}

fn growing_past_the_largest_file(m: &mut Mount) {
    let file = open(m);
    file.write_all_at(b"kept", 0).unwrap();
    crate::harness::assert_errno(file.set_len(17 * TIB), Errno::FBIG);
    // With the kernel's cache the refusal comes at the sync, not at the write.
    let written = file.write_all_at(b"x", 17 * TIB).and_then(|()| file.sync_all());
    crate::harness::assert_errno(written, Errno::FBIG);
    let mut back = [0; 4];
    file.read_exact_at(&mut back, 0).unwrap();
    assert_eq!(&back, b"kept");
}

fn shrinking_a_huge_file(m: &mut Mount) {
    let file = open(m);
    file.write_all_at(b"head", 0).unwrap();
    file.write_all_at(b"tail", 9 * TIB).unwrap();
    file.set_len(4 * TIB + 1).unwrap();
    file.set_len(9 * TIB + 4).unwrap();
    let mut back = [1; 4];
    file.read_exact_at(&mut back, 9 * TIB).unwrap();
    assert_eq!(back, [0; 4]);
    file.set_len(4).unwrap();
    drop(file);
    m.remount();
    assert_eq!(fs::read(m.path("f")).unwrap(), b"head");
}
