//! SEEK_HOLE and SEEK_DATA.
//!
//! A file system may call a hole data, never data a hole: what the calls say must cover every
//! byte that was written, and be consistent in itself.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;

use rustix::fs::{FallocateFlags, SeekFrom, fallocate, seek};
use rustix::io::Errno;

use crate::harness::{Mount, Setup, assert_errno, assert_same, open_or_create, pattern};

crate::matrix! { Setup::new() =>
    full_file_is_one_extent,
    sparse_file_shows_its_data,
    data_shows_right_after_a_write,
    punched_holes_show,
    copying_by_extents_keeps_the_content,
    past_the_end,
    offset_stays_on_failure,
}

/// The extents that SEEK_DATA and SEEK_HOLE report, as half-open ranges.
fn extents(file: &File) -> Vec<(u64, u64)> {
    let len = file.metadata().unwrap().len();
    let (mut found, mut at) = (Vec::new(), 0);
    while at < len {
        let data = match seek(file, SeekFrom::Data(at)) {
            Ok(data) => data,
            Err(error) => {
                assert_eq!(error, Errno::NXIO);
                break;
            }
        };
        let hole = seek(file, SeekFrom::Hole(data)).unwrap();
        assert!(at <= data && data < hole && hole <= len, "{at} {data} {hole} {len}");
        found.push((data, hole));
        at = hole;
    }
    found
}

fn covers(extents: &[(u64, u64)], start: u64, end: u64) -> bool {
    extents.iter().any(|&(from, to)| from <= start && end <= to)
}

fn full_file_is_one_extent(m: &mut Mount) {
    for len in [1, 4096, 5000, 16 * 4096 + 1, 1 << 20] {
        fs::write(m.path("f"), pattern(1, len)).unwrap();
        let file = File::open(m.path("f")).unwrap();
        assert_eq!(extents(&file), [(0, len as u64)]);
        assert_eq!(seek(&file, SeekFrom::Hole(0)).unwrap(), len as u64);
        assert_eq!(seek(&file, SeekFrom::Data(len as u64 - 1)).unwrap(), len as u64 - 1);
    }
}

fn sparse_file_shows_its_data(m: &mut Mount) {
    let islands = [(3u64 << 20, 5000u64), (10 << 20, 4096), (20 << 20, 1)];
    let file = File::create(m.path("f")).unwrap();
    for (start, len) in islands {
        file.write_all_at(&pattern(start, len as usize), start).unwrap();
    }
    file.set_len(30 << 20).unwrap();
    drop(file);
    m.remount();
    let found = extents(&File::open(m.path("f")).unwrap());
    for (start, len) in islands {
        assert!(covers(&found, start, start + len), "{start} is not in {found:?}");
    }
    let total: u64 = found.iter().map(|(from, to)| to - from).sum();
    assert!(total < 3 << 20, "hardly a hole is seen: {found:?}");
}

fn data_shows_right_after_a_write(m: &mut Mount) {
    let file = open_or_create(m.path("f"));
    file.set_len(64 << 20).unwrap();
    for megabyte in [40u64, 7, 63, 20] {
        let start = (megabyte << 20) + 123;
        file.write_all_at(b"fresh", start).unwrap();
        let found = extents(&file);
        assert!(covers(&found, start, start + 5), "{start} is not in {found:?}");
    }
    // Data that only a map has written counts as well.
    let mut map = crate::harness::sys::Map::shared(&file, 1 << 20).unwrap();
    map.write(500_000, b"mapped");
    map.sync().unwrap();
    assert!(covers(&extents(&file), 500_000, 500_006));
}

fn punched_holes_show(m: &mut Mount) {
    fs::write(m.path("f"), pattern(1, 8 << 20)).unwrap();
    let file = OpenOptions::new().read(true).write(true).open(m.path("f")).unwrap();
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    fallocate(&file, punch, 2 << 20, 4 << 20).unwrap();
    file.sync_all().unwrap();
    let found = extents(&file);
    assert!(covers(&found, 0, 2 << 20) && covers(&found, 6 << 20, 8 << 20), "{found:?}");
    let inside: u64 = found.iter().map(|(from, to)| to - from).sum();
    assert!(inside < 5 << 20, "the hole is not seen: {found:?}");
}

fn copying_by_extents_keeps_the_content(m: &mut Mount) {
    let file = open_or_create(m.path("f"));
    for index in 0..40u64 {
        let start = index * 300_007 % 9_000_000;
        file.write_all_at(&pattern(index, 1 + (index as usize * 977) % 30_000), start).unwrap();
        if index % 10 == 3 {
            let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            fallocate(&file, punch, start / 2, 50_000).unwrap();
        }
    }
    let mut expected = vec![0; file.metadata().unwrap().len() as usize];
    file.read_exact_at(&mut expected, 0).unwrap();
    let mut copy = vec![0; expected.len()];
    for (start, end) in extents(&file) {
        file.read_exact_at(&mut copy[start as usize..end as usize], start).unwrap();
    }
    assert_same(&copy, &expected, "what cp --sparse would have copied");
}

fn past_the_end(m: &mut Mount) {
    fs::write(m.path("f"), pattern(1, 5000)).unwrap();
    let file = File::open(m.path("f")).unwrap();
    assert_errno(seek(&file, SeekFrom::Data(5000)), Errno::NXIO);
    assert_errno(seek(&file, SeekFrom::Hole(5000)), Errno::NXIO);
    assert_errno(seek(&file, SeekFrom::Hole(1 << 40)), Errno::NXIO);
    fs::write(m.path("empty"), b"").unwrap();
    let empty = File::open(m.path("empty")).unwrap();
    assert_errno(seek(&empty, SeekFrom::Data(0)), Errno::NXIO);
}

fn offset_stays_on_failure(m: &mut Mount) {
    fs::write(m.path("f"), pattern(1, 5000)).unwrap();
    let file = File::open(m.path("f")).unwrap();
    seek(&file, SeekFrom::Start(17)).unwrap();
    assert_errno(seek(&file, SeekFrom::Data(9999)), Errno::NXIO);
    assert_eq!(seek(&file, SeekFrom::Current(0)).unwrap(), 17);
    assert_errno(seek(&file, SeekFrom::Current(-18)), Errno::INVAL);
    assert_eq!(seek(&file, SeekFrom::End(5)).unwrap(), 5005);
}
