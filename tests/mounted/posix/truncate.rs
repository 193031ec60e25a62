//! truncate and ftruncate: cut, extend, and nothing of the old bytes coming back.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};

use rustix::io::Errno;

use crate::harness::{Mount, Setup, assert_errno, assert_same, open_or_create, pattern};

crate::matrix! { Setup::new() =>
    cut_to_every_edge,
    extend_from_every_edge,
    cut_and_extend_reads_zeros,
    many_cuts_and_extensions,
    truncate_by_name_on_an_open_file,
    truncate_to_the_same_size_changes_times,
    truncate_beyond_the_limit,
    truncate_a_directory,
    cut_frees_space,
}

const LEN: usize = (16 + 64) * 4096 + 5000;

const SIZES: &[usize] = &[
    0,
    1,
    100,
    4095,
    4096,
    4097,
    16 * 4096 - 1,
    16 * 4096,
    16 * 4096 + 1,
    80 * 4096,
    LEN - 1,
    LEN,
];

fn cut_to_every_edge(m: &mut Mount) {
    let data = pattern(1, LEN);
    for &size in SIZES {
        let path = m.path(format!("f{size}"));
        fs::write(&path, &data).unwrap();
        OpenOptions::new().write(true).open(&path).unwrap().set_len(size as u64).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().len(), size as u64);
        assert_same(&fs::read(&path).unwrap(), &data[..size], "cached");
    }
    m.remount();
    for &size in SIZES {
        let path = m.path(format!("f{size}"));
        assert_eq!(fs::metadata(&path).unwrap().len(), size as u64);
        assert_same(&fs::read(&path).unwrap(), &data[..size], "remounted");
    }
}

fn extend_from_every_edge(m: &mut Mount) {
    let data = pattern(1, LEN);
    for &size in SIZES {
        let path = m.path(format!("f{size}"));
        fs::write(&path, &data[..size]).unwrap();
        OpenOptions::new().write(true).open(&path).unwrap().set_len(LEN as u64 + 70_000).unwrap();
    }
    for round in ["cached", "remounted"] {
        for &size in SIZES {
            let mut expected = data[..size].to_vec();
            expected.resize(LEN + 70_000, 0);
            assert_same(&fs::read(m.path(format!("f{size}"))).unwrap(), &expected, round);
        }
        m.remount();
    }
}

fn cut_and_extend_reads_zeros(m: &mut Mount) {
    for (index, &size) in SIZES.iter().enumerate() {
        for remount in [false, true] {
            let path = m.path(format!("f{index}-{remount}"));
            fs::write(&path, pattern(1, LEN)).unwrap();
            let open = || OpenOptions::new().write(true).open(&path).unwrap();
            open().set_len(size as u64).unwrap();
            if remount {
                m.remount();
            }
            open().set_len(LEN as u64).unwrap();
            let mut expected = pattern(1, LEN)[..size].to_vec();
            expected.resize(LEN, 0);
            assert_same(&fs::read(&path).unwrap(), &expected, &format!("cut to {size}"));
        }
    }
}

fn many_cuts_and_extensions(m: &mut Mount) {
    let file = open_or_create(m.path("f"));
    let mut model: Vec<u8> = Vec::new();
    for round in 0..200u64 {
        let size = (round.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as usize % 100_000;
        file.set_len(size as u64).unwrap();
        model.resize(size, 0);
        let offset = size / 2;
        let data = pattern(round, (size - offset).min(3000));
        file.write_all_at(&data, offset as u64).unwrap();
        model[offset..offset + data.len()].copy_from_slice(&data);
    }
    let mut back = vec![0; model.len()];
    file.read_exact_at(&mut back, 0).unwrap();
    assert_same(&back, &model, "cached");
    drop(file);
    m.remount();
    assert_same(&fs::read(m.path("f")).unwrap(), &model, "remounted");
}

fn truncate_by_name_on_an_open_file(m: &mut Mount) {
    fs::write(m.path("f"), pattern(1, 30_000)).unwrap();
    let file = OpenOptions::new().read(true).write(true).open(m.path("f")).unwrap();
    rustix::fs::ftruncate(OpenOptions::new().write(true).open(m.path("f")).unwrap(), 10).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 10);
    assert_eq!(file.read_at(&mut [0; 100], 0).unwrap(), 10);
    file.write_all_at(b"after", 20).unwrap();
    let mut expected = pattern(1, 10);
    expected.resize(20, 0);
    expected.extend_from_slice(b"after");
    assert_same(&fs::read(m.path("f")).unwrap(), &expected, "one descriptor cut, another wrote");
}

fn truncate_to_the_same_size_changes_times(m: &mut Mount) {
    fs::write(m.path("f"), b"12345").unwrap();
    let file = OpenOptions::new().write(true).open(m.path("f")).unwrap();
    let old = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
    file.set_modified(old).unwrap();
    file.set_len(5).unwrap();
    let meta = file.metadata().unwrap();
    assert!(meta.modified().unwrap() > old, "mtime stayed");
    assert!(meta.ctime() > 1_000_000_000);
}

fn truncate_beyond_the_limit(m: &mut Mount) {
    fs::write(m.path("f"), b"kept").unwrap();
    let file = OpenOptions::new().write(true).open(m.path("f")).unwrap();
    assert_errno(file.set_len(i64::MAX as u64), Errno::FBIG);
    assert_eq!(fs::read(m.path("f")).unwrap(), b"kept");
}

fn truncate_a_directory(m: &mut Mount) {
    fs::create_dir(m.path("d")).unwrap();
    assert_errno(crate::harness::sys::truncate(&m.path("d"), 0), Errno::ISDIR);
}

fn cut_frees_space(m: &mut Mount) {
    let path = m.path("f");
    fs::write(&path, pattern(1, 4 << 20)).unwrap();
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    file.sync_all().unwrap();
    let before = fs::metadata(m.backing().join("f")).unwrap().blocks();
    file.set_len(4096).unwrap();
    file.sync_all().unwrap();
    let after = fs::metadata(m.backing().join("f")).unwrap().blocks();
    assert!(before >= 8192 && after <= 64, "{before} sectors before, {after} after");
}
