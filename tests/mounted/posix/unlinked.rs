//! Files and directories whose last name is gone while something still holds them.

use std::fs::{self, File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};

use rustix::fs::{FallocateFlags, Timespec, Timestamps, XattrFlags};
use rustix::io::Errno;

use crate::harness::user::on_own_thread;
use crate::harness::{Mount, Setup, assert_errno, assert_same, open_or_create, pattern};

crate::matrix! { Setup::new() =>
    reads_and_writes_go_on,
    attributes_go_on,
    sync_truncate_and_allocate_go_on,
    xattrs_go_on,
    reopen_through_proc,
    never_written_before_unlink,
    second_descriptor_and_name_reuse,
    space_is_freed_on_close,
    no_hidden_names_are_left,
    directory_as_working_directory,
    directory_held_open,
    replaced_by_rename,
}

fn unlinked(m: &Mount, data: &[u8]) -> File {
    let file = open_or_create(m.path("f"));
    file.write_all_at(data, 0).unwrap();
    fs::remove_file(m.path("f")).unwrap();
    file
}

fn reads_and_writes_go_on(m: &mut Mount) {
    let mut expected = pattern(1, 100_000);
    let file = unlinked(m, &expected);
    assert_errno(fs::metadata(m.path("f")), Errno::NOENT);
    let data = pattern(2, 50_000);
    file.write_all_at(&data, 80_000).unwrap();
    expected.resize(130_000, 0);
    expected[80_000..].copy_from_slice(&data);
    let mut back = vec![0; 130_000];
    file.read_exact_at(&mut back, 0).unwrap();
    assert_same(&back, &expected, "unlinked");
}

fn attributes_go_on(m: &mut Mount) {
    let file = unlinked(m, b"12345");
    let meta = file.metadata().unwrap();
    assert_eq!((meta.len(), meta.nlink()), (5, 0));
    file.set_permissions(fs::Permissions::from_mode(0o617)).unwrap();
    assert_eq!(file.metadata().unwrap().mode() & 0o7777, 0o617);
    let time = |tv_sec, tv_nsec| Timespec { tv_sec, tv_nsec };
    let times = Timestamps { last_access: time(1, 2), last_modification: time(3, 4) };
    rustix::fs::futimens(&file, &times).unwrap();
    let meta = file.metadata().unwrap();
    assert_eq!((meta.mtime(), meta.mtime_nsec()), (3, 4));
    if crate::harness::is_root() {
        std::os::unix::fs::fchown(&file, Some(77), Some(88)).unwrap();
        let meta = file.metadata().unwrap();
        assert_eq!((meta.uid(), meta.gid()), (77, 88));
    }
}

fn sync_truncate_and_allocate_go_on(m: &mut Mount) {
    let file = unlinked(m, &pattern(1, 50_000));
    file.sync_all().unwrap();
    file.sync_data().unwrap();
    file.set_len(10_000).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 10_000);
    file.set_len(20_000).unwrap();
    rustix::fs::fallocate(&file, FallocateFlags::empty(), 20_000, 10_000).unwrap();
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    rustix::fs::fallocate(&file, punch, 0, 5000).unwrap();
    let mut expected = pattern(1, 10_000);
    expected[..5000].fill(0);
    expected.resize(30_000, 0);
    let mut back = vec![1; 30_000];
    file.read_exact_at(&mut back, 0).unwrap();
    assert_same(&back, &expected, "unlinked");
}

fn xattrs_go_on(m: &mut Mount) {
    let file = unlinked(m, b"x");
    rustix::fs::fsetxattr(&file, "user.note", b"value", XattrFlags::empty()).unwrap();
    let mut value = [0; 16];
    assert_eq!(rustix::fs::fgetxattr(&file, "user.note", &mut value).unwrap(), 5);
    rustix::fs::fremovexattr(&file, "user.note").unwrap();
    assert_errno(rustix::fs::fgetxattr(&file, "user.note", &mut value), Errno::NODATA);
}

fn reopen_through_proc(m: &mut Mount) {
    let data = pattern(1, 9000);
    let file = unlinked(m, &data);
    let through = format!("/proc/self/fd/{}", file.as_raw_fd());
    assert_same(&fs::read(&through).unwrap(), &data, "reopened to read");
    let again = OpenOptions::new().write(true).open(&through).unwrap();
    again.write_all_at(b"second descriptor", 0).unwrap();
    drop(again);
    let mut back = [0; 17];
    file.read_exact_at(&mut back, 0).unwrap();
    assert_eq!(&back, b"second descriptor");
    File::options().write(true).truncate(true).open(&through).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 0);
}

fn never_written_before_unlink(m: &mut Mount) {
    let mut options = OpenOptions::new();
    let file = options.read(true).write(true).create_new(true).open(m.path("f")).unwrap();
    fs::remove_file(m.path("f")).unwrap();
    let data = pattern(1, 40_000);
    file.write_all_at(&data, 0).unwrap();
    file.sync_all().unwrap();
    let mut back = vec![0; 40_000];
    file.read_exact_at(&mut back, 0).unwrap();
    assert_same(&back, &data, "first written when nameless");
}

fn second_descriptor_and_name_reuse(m: &mut Mount) {
    let old = unlinked(m, b"the old file");
    fs::write(m.path("f"), b"the new file").unwrap();
    let mut back = [0; 12];
    old.read_exact_at(&mut back, 0).unwrap();
    assert_eq!(&back, b"the old file");
    assert_eq!(fs::read(m.path("f")).unwrap(), b"the new file");
    let new = fs::metadata(m.path("f")).unwrap();
    assert_ne!(new.ino(), old.metadata().unwrap().ino(), "one inode number for two files");
    old.write_all_at(b"OLD", 4).unwrap();
    assert_eq!(fs::read(m.path("f")).unwrap(), b"the new file");
}

fn space_is_freed_on_close(m: &mut Mount) {
    // The file system is shared with other tests: free space tells nothing, the number of
    // nameless files that the daemon holds does.
    let Some(pid) = m.daemon_pid() else { return };
    let held = || {
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
        let targets = descriptors.filter_map(|entry| fs::read_link(entry.path()).ok());
        targets.filter(|target| target.to_string_lossy().ends_with(" (deleted)")).count()
    };
    let file = unlinked(m, &pattern(1, 1 << 20));
    file.sync_all().unwrap();
    assert_ne!(held(), 0, "the daemon does not hold the open file");
    drop(file);
    let freed = crate::harness::wait_for(std::time::Duration::from_secs(10), || held() == 0);
    assert!(freed, "the daemon still holds {} nameless files", held());
}

fn no_hidden_names_are_left(m: &mut Mount) {
    let file = unlinked(m, b"x");
    assert_eq!(fs::read_dir(m.mnt()).unwrap().count(), 0, "a name like .fuse_hidden shows");
    let below: Vec<_> = fs::read_dir(m.backing())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .filter(|name| name != ".ssefs")
        .collect();
    assert!(below.is_empty(), "{below:?} in the backing directory");
    drop(file);
}

fn directory_as_working_directory(m: &mut Mount) {
    on_own_thread(|| {
        fs::create_dir(m.path("d")).unwrap();
        std::env::set_current_dir(m.path("d")).unwrap();
        fs::remove_dir(m.path("d")).unwrap();
        assert_errno(std::env::current_dir(), Errno::NOENT);
        assert_eq!(fs::read_dir(".").unwrap().count(), 0);
        assert_errno(File::create("f"), Errno::NOENT);
        assert_errno(fs::create_dir("e"), Errno::NOENT);
        fs::metadata(".").unwrap();
    });
}

fn directory_held_open(m: &mut Mount) {
    fs::create_dir(m.path("d")).unwrap();
    fs::write(m.path("d/f"), b"x").unwrap();
    let directory = File::open(m.path("d")).unwrap();
    fs::remove_file(m.path("d/f")).unwrap();
    fs::remove_dir(m.path("d")).unwrap();
    directory.metadata().unwrap();
    directory.sync_all().unwrap();
    let flags = rustix::fs::OFlags::CREATE | rustix::fs::OFlags::WRONLY;
    let created = rustix::fs::openat(&directory, "g", flags, rustix::fs::Mode::RUSR);
    assert_errno(created, Errno::NOENT);
    let names: Vec<_> = rustix::fs::Dir::read_from(&directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_owned())
        .filter(|name| name.to_bytes() != b"." && name.to_bytes() != b"..")
        .collect();
    assert!(names.is_empty(), "{names:?}");
}

fn replaced_by_rename(m: &mut Mount) {
    let data = pattern(1, 30_000);
    fs::write(m.path("f"), &data).unwrap();
    let file = OpenOptions::new().read(true).write(true).open(m.path("f")).unwrap();
    fs::write(m.path("g"), b"new").unwrap();
    fs::rename(m.path("g"), m.path("f")).unwrap();
    file.write_all_at(b"to the replaced", 100).unwrap();
    file.sync_all().unwrap();
    let mut back = vec![0; 30_000];
    file.read_exact_at(&mut back, 0).unwrap();
    assert_eq!(&back[100..115], b"to the replaced");
    assert_eq!(fs::read(m.path("f")).unwrap(), b"new");
}
