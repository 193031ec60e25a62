//! System calls of the daemon fail, by `strace -e inject`: the errno reaches the caller, old
//! content is intact, and a sync that has failed is told to every handle. Full disks are in
//! `bad_input`, and every call of the volume in `tests/volume/every_fault.rs`.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;
use std::time::Duration;

use rustix::fs::Dir;
use rustix::io::Errno;

use crate::harness::strace::Strace;
use crate::harness::{Mount, Setup, assert_errno, assert_same, counters, pattern, wait_for};

crate::matrix! { Setup::new().option("ttl=0").mount_only("a plain directory has no daemon") =>
    a_failed_sync_is_told_to_every_handle,
    files_open_anew_right_after_a_failed_sync,
    a_journal_that_cannot_be_synced_leaves_the_sync_to_the_file,
    a_failed_write_reaches_the_caller,
    interrupted_calls_are_made_again,
    a_failed_cut_reaches_the_caller,
    a_name_is_listed_whose_attributes_cannot_be_had,
}

fn a_failed_sync_is_told_to_every_handle(m: &mut Mount) {
    let old = pattern(1, 20_000);
    fs::write(m.path("f"), &old).unwrap();
    let open = || OpenOptions::new().read(true).write(true).open(m.path("f")).unwrap();
    let (one, other) = (open(), open());
    one.sync_all().unwrap();
    one.write_all_at(b"new", 5000).unwrap();
    let Some(injection) = Strace::inject(m, "fdatasync,fsync", "error=EIO") else { return };
    assert_errno(one.sync_data(), Errno::IO);
    drop(injection);
    for _ in 0..2 {
        assert_errno(other.sync_data(), Errno::IO);
        assert_errno(one.sync_all(), Errno::IO);
    }
    // Closing may say so, too; opened anew it is the old block or the new one.
    let _ = (crate::harness::sys::close(one), crate::harness::sys::close(other));
    let mut new = old.clone();
    new[5000..5003].copy_from_slice(b"new");
    let now = fs::read(m.path("f")).unwrap();
    assert!(now == old || now == new);
    // The kernel tells of a close a little after it.
    assert!(wait_for(Duration::from_secs(20), || counters(m.mnt())["open_files"] == 0));
    let again = open();
    again.write_all_at(b"newer", 5000).unwrap();
    again.sync_all().unwrap();
    drop(again);
    new[5000..5005].copy_from_slice(b"newer");
    m.remount();
    assert_same(&fs::read(m.path("f")).unwrap(), &new, "after a remount");
}

/// The close and the opening after it meet in the daemon.
fn files_open_anew_right_after_a_failed_sync(m: &mut Mount) {
    let old = pattern(1, 20_000);
    let mut new = old.clone();
    new[5000..5003].copy_from_slice(b"new");
    let files: Vec<(PathBuf, File)> = (0..100)
        .map(|number| {
            let path = m.path(number.to_string());
            fs::write(&path, &old).unwrap();
            let file = OpenOptions::new().write(true).open(&path).unwrap();
            file.sync_all().unwrap();
            (path, file)
        })
        .collect();
    let Some(injection) = Strace::inject(m, "fdatasync,fsync", "error=EIO") else { return };
    for (_, file) in &files {
        file.write_all_at(b"new", 5000).unwrap();
        assert_errno(file.sync_data(), Errno::IO);
    }
    drop(injection);
    for (path, file) in files {
        let _ = crate::harness::sys::close(file);
        let now = fs::read(&path).unwrap();
        assert!(now == old || now == new, "{}", path.display());
    }
}

fn a_journal_that_cannot_be_synced_leaves_the_sync_to_the_file(m: &mut Mount) {
    let old = pattern(1, 20_000);
    fs::write(m.path("f"), &old).unwrap();
    let file = OpenOptions::new().write(true).open(m.path("f")).unwrap();
    file.sync_all().unwrap();
    let mut new = old;
    let mut write = |at: usize, bytes: &[u8]| {
        file.write_all_at(bytes, at as u64).unwrap();
        new[at..at + bytes.len()].copy_from_slice(bytes);
    };
    write(5000, b"by the journal");
    file.sync_data().unwrap();
    write(5007, b"by");
    write(12_000, b"by the file");
    let Some(injection) = Strace::inject(m, "fdatasync", "error=EIO:when=1") else { return };
    file.sync_data().unwrap();
    drop(injection);
    assert!(m.log().contains("synced by itself, as the journal cannot be"), "{}", m.log());
    write(300, b"and from then on");
    file.sync_data().unwrap();
    drop(file);
    m.remount();
    assert_same(&fs::read(m.path("f")).unwrap(), &new, "after a remount");
}

fn a_failed_write_reaches_the_caller(m: &mut Mount) {
    let old = pattern(1, 100_000);
    fs::write(m.path("f"), &old).unwrap();
    m.remount();
    let synced = OpenOptions::new()
        .write(true)
        .custom_flags(rustix::fs::OFlags::SYNC.bits().cast_signed())
        .open(m.path("f"))
        .unwrap();
    for errno in [("ENOSPC", Errno::NOSPC), ("EIO", Errno::IO), ("EDQUOT", Errno::DQUOT)] {
        let what = format!("error={}", errno.0);
        let calls = "pwrite64,pwritev,pwritev2";
        let Some(injection) = Strace::inject(m, calls, &what) else { return };
        assert_errno(synced.write_all_at(&pattern(2, 9000), 50_000), errno.1);
        assert_same(&fs::read(m.path("f")).unwrap()[..50_000], &old[..50_000], "while it lasts");
        drop(injection);
    }
    drop(synced);
    let now = fs::read(m.path("f")).unwrap();
    let mut new = old.clone();
    new[50_000..59_000].copy_from_slice(&pattern(2, 9000));
    for (at, block) in now.chunks(4096).enumerate() {
        let range = at * 4096..at * 4096 + block.len();
        assert!(*block == old[range.clone()] || *block == new[range], "block {at}");
    }
    fs::write(m.path("f"), &new).unwrap();
    m.remount();
    assert_same(&fs::read(m.path("f")).unwrap(), &new, "after a remount");
}

fn interrupted_calls_are_made_again(m: &mut Mount) {
    let calls = "pread64,pwrite64,pwritev,pwritev2";
    let Some(injection) = Strace::inject(m, calls, "error=EINTR:when=1+2") else { return };
    let data = pattern(1, 300_000);
    fs::write(m.path("f"), &data).unwrap();
    File::open(m.path("f")).unwrap().sync_all().unwrap();
    drop(injection);
    m.remount();
    let Some(injection) = Strace::inject(m, calls, "error=EINTR:when=1+2") else { return };
    assert_same(&fs::read(m.path("f")).unwrap(), &data, "read with interruptions");
    drop(injection);
}

fn a_failed_cut_reaches_the_caller(m: &mut Mount) {
    let old = pattern(1, 100_000);
    fs::write(m.path("f"), &old).unwrap();
    m.remount();
    let file = OpenOptions::new().read(true).write(true).open(m.path("f")).unwrap();
    let Some(injection) = Strace::inject(m, "ftruncate", "error=EIO") else { return };
    assert_errno(file.set_len(50_000), Errno::IO);
    drop(injection);
    drop(file);
    m.remount();
    let now = fs::read(m.path("f")).unwrap();
    assert!(now.len() == 50_000 || now.len() == 100_000, "{}", now.len());
    assert_same(&now, &old[..now.len()], "the old content, or the beginning of it");
}

/// Regression: the listing ended there with the error, and what it had given already was never
/// forgotten.
fn a_name_is_listed_whose_attributes_cannot_be_had(m: &mut Mount) {
    fs::create_dir(m.path("d")).unwrap();
    for name in ["one", "two"] {
        fs::write(m.path("d").join(name), b"").unwrap();
    }
    m.remount();
    let directory = File::open(m.path("d")).unwrap();
    assert_errno(fs::metadata(m.path("d/none")), Errno::NOENT);
    let Some(injection) = Strace::inject(m, "statx", "error=EIO") else { return };
    let names = Dir::new(directory).unwrap().map(|name| name.unwrap().file_name().to_owned());
    assert_eq!(names.count(), 4);
    assert_errno(fs::metadata(m.path("d/one")), Errno::IO);
    drop(injection);
    assert_eq!(fs::metadata(m.path("d/one")).unwrap().len(), 0);
}
