//! Time stamps: nanoseconds, dates before 1970 and after 2038, what changes which of them.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, SystemTime};

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, utimensat};

use crate::harness::{Mount, Setup, pattern};

crate::matrix! { Setup::new() =>
    nanoseconds_are_kept,
    before_1970_and_after_2038,
    set_by_descriptor,
    omit_and_now,
    set_times_survive_a_pending_write,
    writes_advance_mtime_and_ctime,
    metadata_changes_advance_ctime_only,
    creation_and_removal_touch_the_directory,
    directory_times_can_be_set,
    clock_is_the_system_clock,
}

fn set(path: &Path, access: (i64, i64), modification: (i64, i64)) {
    let spec = |(tv_sec, tv_nsec)| Timespec { tv_sec, tv_nsec };
    let times = Timestamps { last_access: spec(access), last_modification: spec(modification) };
    utimensat(CWD, path, &times, AtFlags::empty()).unwrap();
}

fn stored(path: &Path) -> ((i64, i64), (i64, i64)) {
    let meta = fs::metadata(path).unwrap();
    ((meta.atime(), meta.atime_nsec()), (meta.mtime(), meta.mtime_nsec()))
}

/// Whether the time moved on: a real clock step later than before.
fn ctime(path: &Path) -> (i64, i64) {
    let meta = fs::symlink_metadata(path).unwrap();
    (meta.ctime(), meta.ctime_nsec())
}

fn mtime(path: &Path) -> (i64, i64) {
    let meta = fs::symlink_metadata(path).unwrap();
    (meta.mtime(), meta.mtime_nsec())
}

/// Longer than the coarse clock tick that file systems stamp with.
fn tick() {
    std::thread::sleep(Duration::from_millis(15));
}

fn nanoseconds_are_kept(m: &mut Mount) {
    fs::write(m.path("f"), b"x").unwrap();
    let times = ((1_234_567_890, 123_456_789), (1_600_000_000, 1));
    set(&m.path("f"), times.0, times.1);
    assert_eq!(stored(&m.path("f")), times);
    m.remount();
    assert_eq!(stored(&m.path("f")), times);
}

fn before_1970_and_after_2038(m: &mut Mount) {
    fs::write(m.path("f"), b"x").unwrap();
    for (seconds, nanoseconds) in
        [(-1, 0), (-1, 999_999_999), (-1, 1), (-86_400, 500_000_000), (0, 0), (4_000_000_000, 7)]
    {
        let times = ((seconds, nanoseconds), (seconds + 1, nanoseconds));
        set(&m.path("f"), times.0, times.1);
        assert_eq!(stored(&m.path("f")), times);
    }
    let times = ((-2_000_000_000, 250_000_000), (-1_000_000_000, 750_000_000));
    set(&m.path("f"), times.0, times.1);
    m.remount();
    assert_eq!(stored(&m.path("f")), times);
}

fn set_by_descriptor(m: &mut Mount) {
    let file = File::create(m.path("f")).unwrap();
    file.write_all_at(&pattern(1, 5000), 0).unwrap();
    let time = SystemTime::UNIX_EPOCH + Duration::new(1_000_000_000, 5);
    file.set_times(fs::FileTimes::new().set_accessed(time).set_modified(time)).unwrap();
    assert_eq!(file.metadata().unwrap().modified().unwrap(), time);
    drop(file);
    assert_eq!(stored(&m.path("f")), ((1_000_000_000, 5), (1_000_000_000, 5)));
}

fn omit_and_now(m: &mut Mount) {
    fs::write(m.path("f"), b"x").unwrap();
    set(&m.path("f"), (100, 1), (200, 2));
    set(&m.path("f"), (0, UTIME_OMIT), (300, 3));
    assert_eq!(stored(&m.path("f")), ((100, 1), (300, 3)));
    set(&m.path("f"), (400, 4), (0, UTIME_OMIT));
    assert_eq!(stored(&m.path("f")), ((400, 4), (300, 3)));
    let before = SystemTime::now() - Duration::from_secs(1);
    set(&m.path("f"), (0, UTIME_OMIT), (0, UTIME_NOW));
    let meta = fs::metadata(m.path("f")).unwrap();
    assert!(meta.modified().unwrap() > before);
    assert_eq!((meta.atime(), meta.atime_nsec()), (400, 4));
}

fn set_times_survive_a_pending_write(m: &mut Mount) {
    // What tar, cp -p and rsync do: write, set the times, close. A cached write that is
    // stored later must not stamp the file anew.
    let file = File::create(m.path("f")).unwrap();
    file.write_all_at(&pattern(1, 100_000), 0).unwrap();
    set(&m.path("f"), (1_500_000_000, 11), (1_400_000_000, 22));
    drop(file);
    let expected = ((1_500_000_000, 11), (1_400_000_000, 22));
    assert_eq!(stored(&m.path("f")), expected);
    File::open(m.path("f")).unwrap().sync_all().unwrap();
    assert_eq!(stored(&m.path("f")), expected);
    m.remount();
    assert_eq!(stored(&m.path("f")), expected);
}

fn writes_advance_mtime_and_ctime(m: &mut Mount) {
    let path = m.path("f");
    fs::write(&path, b"12345678").unwrap();
    type Change = fn(&File);
    let changes: [(&str, Change); 4] = [
        ("write", |file| file.write_all_at(b"x", 0).unwrap()),
        ("extend", |file| file.set_len(10_000).unwrap()),
        ("cut", |file| file.set_len(3).unwrap()),
        ("allocate", |file| {
            rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), 0, 5000).unwrap();
        }),
    ];
    for (name, change) in changes {
        set(&path, (1000, 0), (1000, 0));
        let before = ctime(&path);
        tick();
        change(&OpenOptions::new().write(true).open(&path).unwrap());
        assert!(mtime(&path) > (1000, 0), "{name} left mtime");
        assert!(ctime(&path) > before, "{name} left ctime");
    }
    set(&path, (1000, 0), (1000, 0));
    fs::read(&path).unwrap();
    assert_eq!(mtime(&path), (1000, 0), "a read changed mtime");
}

fn metadata_changes_advance_ctime_only(m: &mut Mount) {
    let path = m.path("f");
    fs::write(&path, b"x").unwrap();
    set(&path, (1000, 0), (1000, 0));
    type Change = fn(&Path);
    let changes: [(&str, Change); 4] = [
        ("chmod", |path| fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap()),
        ("link", |path| fs::hard_link(path, path.with_file_name("g")).unwrap()),
        ("unlink", |path| fs::remove_file(path.with_file_name("g")).unwrap()),
        ("setxattr", |path| {
            rustix::fs::setxattr(path, "user.a", b"b", rustix::fs::XattrFlags::empty()).unwrap();
        }),
    ];
    for (name, change) in changes {
        let before = ctime(&path);
        tick();
        change(&path);
        assert!(ctime(&path) > before, "{name} left ctime");
        assert_eq!(mtime(&path), (1000, 0), "{name} changed mtime");
    }
}

fn creation_and_removal_touch_the_directory(m: &mut Mount) {
    let directory = m.path("d");
    fs::create_dir(&directory).unwrap();
    type Change = fn(&Path);
    let changes: [(&str, Change); 6] = [
        ("create", |dir| drop(File::create(dir.join("f")).unwrap())),
        ("rename", |dir| fs::rename(dir.join("f"), dir.join("g")).unwrap()),
        ("link", |dir| fs::hard_link(dir.join("g"), dir.join("h")).unwrap()),
        ("unlink", |dir| fs::remove_file(dir.join("h")).unwrap()),
        ("mkdir", |dir| fs::create_dir(dir.join("e")).unwrap()),
        ("symlink", |dir| std::os::unix::fs::symlink("g", dir.join("l")).unwrap()),
    ];
    for (name, change) in changes {
        set(&directory, (1000, 0), (1000, 0));
        change(&directory);
        assert!(mtime(&directory) > (1000, 0), "{name} left the directory's mtime");
    }
    set(&directory, (1000, 0), (1000, 0));
    fs::write(directory.join("g"), b"content").unwrap();
    assert_eq!(mtime(&directory), (1000, 0), "writing a file changed its directory");
}

fn directory_times_can_be_set(m: &mut Mount) {
    fs::create_dir(m.path("d")).unwrap();
    set(&m.path("d"), (-5, 6), (-7, 8));
    assert_eq!(stored(&m.path("d")), ((-5, 6), (-7, 8)));
    m.remount();
    assert_eq!(stored(&m.path("d")), ((-5, 6), (-7, 8)));
}

fn clock_is_the_system_clock(m: &mut Mount) {
    let before = SystemTime::now() - Duration::from_millis(50);
    fs::write(m.path("f"), b"x").unwrap();
    let modified = fs::metadata(m.path("f")).unwrap().modified().unwrap();
    assert!(modified >= before && modified <= SystemTime::now(), "{modified:?}");
}
