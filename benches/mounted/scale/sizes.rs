//! One file of any length. Of long ones only pieces are written, evenly spread; the rest is a
//! hole, and costs neither disk nor time.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::time::Instant;

use rustix::fs::{Advice, fadvise};

use crate::place::drop_pages;
use crate::systems::System;

/// Writes and reads a file of this length; `note` is told what a MiB, or a read of 4 KiB, costs
/// in microseconds.
pub fn measure(system: &System, len: u64, mut note: impl FnMut(&'static str, f64)) {
    let path = system.directory().join("scale");
    let open = || {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        options.open(&path).expect("the mount can be written")
    };
    system.remount();
    system.forget_peak();
    let piece_count = (len >> 20).min(WRITTEN_MIB);
    let piece_at = |index: u64| ((len >> 20) * index / piece_count) << 20;
    let per = |begin: Instant, count: u64| begin.elapsed().as_secs_f64() * 1e6 / count as f64;

    let mut piece = vec![7; 1 << 20];
    let file = open();
    file.set_len(len).expect("it may be as long");
    let begin = Instant::now();
    for index in 0..piece_count {
        file.write_all_at(&piece, piece_at(index)).expect("the mount can be written");
    }
    file.sync_all().expect("the mount can sync");
    note("write", per(begin, piece_count));
    drop(file);

    system.remount();
    let file = open();
    let begin = Instant::now();
    for index in 0..piece_count {
        file.read_exact_at(&mut piece, piece_at(index)).expect("it was written");
    }
    note("read, cold", per(begin, piece_count));
    drop_pages(&file);
    drop(file);

    let file = open();
    fadvise(&file, 0, None, Advice::Random).expect("advice is taken");
    let begin = Instant::now();
    let count = READS.min(piece_count << 8);
    for index in 0..count {
        // Each block once at most, and never the next one.
        let block = index * STRIDE % (piece_count << 8);
        let at = piece_at(block >> 8) + ((block & 0xff) << 12);
        file.read_exact_at(&mut piece[..4096], at).expect("it was written");
    }
    note("4 KiB read", per(begin, count));
    drop(file);
    fs::remove_file(&path).expect("it was made");
}

/// Of files longer than this, in MiB, only so much is written.
const WRITTEN_MIB: u64 = 256;
const READS: u64 = 2000;
/// Has no divisor in common with a number of blocks.
const STRIDE: u64 = 10_007;
