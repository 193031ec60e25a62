//! O_DIRECT: aligned as on any file system; unaligned either works or is refused with EINVAL,
//! and never harms what is there.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use rustix::io::Errno;

use crate::harness::{Mount, Setup, assert_errno, assert_same, pattern};

crate::matrix! { Setup::new() =>
    aligned_writes_and_reads,
    direct_and_buffered_see_each_other,
    unaligned_works_or_is_refused,
    unaligned_buffer_in_memory,
    direct_read_over_the_end_is_short,
    direct_write_survives_a_killed_daemon,
}

fn open_direct(path: &Path) -> File {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).custom_flags(libc::O_DIRECT).open(path).unwrap()
}

/// A buffer whose data starts `skew` bytes past a multiple of 4096.
struct Aligned {
    bytes: Vec<u8>,
    start: usize,
    len: usize,
}

impl Aligned {
    fn new(len: usize, skew: usize) -> Self {
        let bytes = vec![0; len + 8192];
        let start = bytes.as_ptr().align_offset(4096) + skew;
        Self { bytes, start, len }
    }

    fn of(data: &[u8]) -> Self {
        let mut new = Self::new(data.len(), 0);
        new.slice().copy_from_slice(data);
        new
    }

    fn slice(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + self.len]
    }
}

fn aligned_writes_and_reads(m: &mut Mount) {
    let path = m.path("f");
    let mut expected = vec![0; 100 * 4096];
    let file = open_direct(&path);
    for (block, blocks) in [(0usize, 1usize), (15, 2), (79, 2), (90, 10), (3, 60)] {
        let data = pattern(block as u64, blocks * 4096);
        file.write_all_at(Aligned::of(&data).slice(), block as u64 * 4096).unwrap();
        expected[block * 4096..(block + blocks) * 4096].copy_from_slice(&data);
    }
    for round in ["cached", "remounted"] {
        let file = open_direct(&path);
        let mut back = Aligned::new(expected.len(), 0);
        file.read_exact_at(back.slice(), 0).unwrap();
        assert_same(back.slice(), &expected, round);
        drop(file);
        if round == "cached" {
            drop_everything(m);
        }
    }
}

fn drop_everything(m: &mut Mount) {
    fs::File::open(m.path("f")).unwrap().sync_all().unwrap();
    m.kill_daemon();
    m.mount();
}

fn direct_and_buffered_see_each_other(m: &mut Mount) {
    let path = m.path("f");
    let mut expected = pattern(1, 40 * 4096);
    fs::write(&path, &expected).unwrap();
    let (direct, buffered) =
        (open_direct(&path), OpenOptions::new().read(true).write(true).open(&path).unwrap());
    for round in 0..20u64 {
        let block = (round * 7 % 40) as usize;
        let data = pattern(100 + round, 4096);
        let at = block * 4096;
        if round % 2 == 0 {
            direct.write_all_at(Aligned::of(&data).slice(), at as u64).unwrap();
        } else {
            buffered.write_all_at(&data, at as u64).unwrap();
        }
        expected[at..at + 4096].copy_from_slice(&data);
        let mut whole = vec![0; expected.len()];
        buffered.read_exact_at(&mut whole, 0).unwrap();
        assert_same(&whole, &expected, "buffered");
        let mut whole = Aligned::new(expected.len(), 0);
        direct.read_exact_at(whole.slice(), 0).unwrap();
        assert_same(whole.slice(), &expected, "direct");
    }
}

fn unaligned_works_or_is_refused(m: &mut Mount) {
    let path = m.path("f");
    let mut expected = pattern(1, 20 * 4096 + 100);
    fs::write(&path, &expected).unwrap();
    let file = open_direct(&path);
    for (offset, len) in [(1, 4096), (4095, 2), (512, 512), (0, 100), (16 * 4096 - 3, 6)] {
        let data = pattern(offset, len);
        match file.write_at(Aligned::of(&data).slice(), offset) {
            Ok(written) => {
                assert_eq!(written, len);
                expected[offset as usize..offset as usize + len].copy_from_slice(&data);
            }
            Err(error) => assert_errno::<(), _>(Err(error), Errno::INVAL),
        }
        let mut back = Aligned::new(len, 0);
        match file.read_at(back.slice(), offset) {
            Ok(read) => {
                let expected = &expected[offset as usize..offset as usize + len];
                assert_same(&back.slice()[..read], expected, "unaligned read");
            }
            Err(error) => assert_errno::<(), _>(Err(error), Errno::INVAL),
        }
        assert_same(&fs::read(&path).unwrap(), &expected, &format!("{len} at {offset}"));
    }
}

fn unaligned_buffer_in_memory(m: &mut Mount) {
    let path = m.path("f");
    let mut expected = pattern(1, 300 * 4096);
    fs::write(&path, &expected).unwrap();
    let file = open_direct(&path);
    for (skew, blocks) in [(8, 1), (512, 5), (4095, 3), (1, 260)] {
        let data = pattern(skew as u64, blocks * 4096);
        let mut buffer = Aligned::new(data.len(), skew);
        buffer.slice().copy_from_slice(&data);
        match file.write_at(buffer.slice(), 8 * 4096) {
            Ok(written) => {
                expected[8 * 4096..8 * 4096 + written].copy_from_slice(&data[..written]);
            }
            Err(error) => assert_errno::<(), _>(Err(error), Errno::INVAL),
        }
        assert_same(&fs::read(&path).unwrap(), &expected, &format!("buffer skewed by {skew}"));
    }
}

fn direct_read_over_the_end_is_short(m: &mut Mount) {
    let data = pattern(1, 3 * 4096 + 10);
    fs::write(m.path("f"), &data).unwrap();
    let file = open_direct(&m.path("f"));
    let mut back = Aligned::new(8 * 4096, 0);
    let read = file.read_at(back.slice(), 4096).unwrap();
    assert_same(&back.slice()[..read], &data[4096..], "over the end");
    assert_eq!(file.read_at(back.slice(), 8 * 4096).unwrap(), 0);
}

fn direct_write_survives_a_killed_daemon(m: &mut Mount) {
    let data = pattern(1, 50 * 4096);
    open_direct(&m.path("f")).write_all_at(Aligned::of(&data).slice(), 0).unwrap();
    m.kill_daemon();
    m.mount();
    assert_same(&fs::read(m.path("f")).unwrap(), &data, "after the kill");
}
