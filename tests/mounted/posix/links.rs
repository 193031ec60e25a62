//! Hard links and symbolic links.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt, symlink};

use rustix::fs::{AtFlags, CWD};
use rustix::io::Errno;

use crate::harness::{Mount, Setup, assert_errno, assert_same, pattern};

crate::matrix! { Setup::new() =>
    hard_link_is_the_same_file,
    inode_numbers_stay_from_mount_to_mount,
    hard_link_shares_content_and_attributes,
    hard_link_survives_the_first_name,
    hard_link_across_directories_and_remounts,
    hard_link_refusals,
    hard_link_of_an_open_file_by_descriptor,
    symlink_keeps_its_target_verbatim,
    symlink_size_is_its_target_length,
    symlink_loops_end,
    symlink_relative_and_absolute,
    symlink_has_its_own_times_and_owner,
    symlink_longest_target,
}

fn inode_numbers_stay_from_mount_to_mount(m: &mut Mount) {
    fs::create_dir(m.path("d")).unwrap();
    fs::write(m.path("d/f"), b"x").unwrap();
    symlink("f", m.path("d/l")).unwrap();
    let numbers = |m: &Mount| {
        ["d", "d/f", "d/l"].map(|name| {
            let ino = fs::symlink_metadata(m.path(name)).unwrap().ino();
            assert_eq!(ino, fs::symlink_metadata(m.backing().join(name)).unwrap().ino(), "{name}");
            ino
        })
    };
    let before = numbers(m);
    m.remount();
    assert_eq!(numbers(m), before);
}

fn hard_link_is_the_same_file(m: &mut Mount) {
    fs::write(m.path("a"), b"x").unwrap();
    fs::hard_link(m.path("a"), m.path("b")).unwrap();
    let (a, b) = (fs::metadata(m.path("a")).unwrap(), fs::metadata(m.path("b")).unwrap());
    assert_eq!(a.ino(), b.ino());
    assert_eq!((a.nlink(), b.nlink()), (2, 2));
    for entry in fs::read_dir(m.mnt()).unwrap() {
        assert_eq!(std::os::unix::fs::DirEntryExt::ino(&entry.unwrap()), a.ino(), "d_ino");
    }
    fs::remove_file(m.path("a")).unwrap();
    assert_eq!(fs::metadata(m.path("b")).unwrap().nlink(), 1);
}

fn hard_link_shares_content_and_attributes(m: &mut Mount) {
    fs::write(m.path("a"), pattern(1, 20_000)).unwrap();
    fs::hard_link(m.path("a"), m.path("b")).unwrap();
    let (one, two) = (open(m, "a"), open(m, "b"));
    one.write_all_at(b"through a", 10_000).unwrap();
    let mut back = [0; 9];
    two.read_exact_at(&mut back, 10_000).unwrap();
    assert_eq!(&back, b"through a");
    two.set_len(10_005).unwrap();
    assert_eq!(one.metadata().unwrap().len(), 10_005);
    assert_eq!(fs::metadata(m.path("a")).unwrap().len(), 10_005);
    fs::set_permissions(m.path("b"), std::os::unix::fs::PermissionsExt::from_mode(0o604)).unwrap();
    assert_eq!(fs::metadata(m.path("a")).unwrap().mode() & 0o7777, 0o604);
}

fn hard_link_survives_the_first_name(m: &mut Mount) {
    let data = pattern(1, 20_000);
    fs::write(m.path("a"), &data).unwrap();
    fs::hard_link(m.path("a"), m.path("b")).unwrap();
    fs::remove_file(m.path("a")).unwrap();
    assert_same(&fs::read(m.path("b")).unwrap(), &data, "cached");
    fs::write(m.path("a"), b"another file").unwrap();
    m.remount();
    assert_same(&fs::read(m.path("b")).unwrap(), &data, "remounted");
    assert_eq!(fs::read(m.path("a")).unwrap(), b"another file");
}

fn hard_link_across_directories_and_remounts(m: &mut Mount) {
    fs::create_dir_all(m.path("x/y")).unwrap();
    fs::write(m.path("a"), b"shared").unwrap();
    fs::hard_link(m.path("a"), m.path("x/y/b")).unwrap();
    m.remount();
    let (a, b) = (fs::metadata(m.path("a")).unwrap(), fs::metadata(m.path("x/y/b")).unwrap());
    assert_eq!((a.ino(), a.nlink()), (b.ino(), b.nlink()));
    fs::write(m.path("x/y/b"), b"changed by b").unwrap();
    assert_eq!(fs::read(m.path("a")).unwrap(), b"changed by b");
    fs::rename(m.path("x/y/b"), m.path("c")).unwrap();
    fs::remove_file(m.path("a")).unwrap();
    assert_eq!(fs::read(m.path("c")).unwrap(), b"changed by b");
}

fn hard_link_refusals(m: &mut Mount) {
    fs::create_dir(m.path("d")).unwrap();
    fs::write(m.path("a"), b"x").unwrap();
    fs::write(m.path("b"), b"y").unwrap();
    assert_errno(fs::hard_link(m.path("d"), m.path("e")), Errno::PERM);
    assert_errno(fs::hard_link(m.path("a"), m.path("b")), Errno::EXIST);
    assert_errno(fs::hard_link(m.path("none"), m.path("e")), Errno::NOENT);
    if m.mnt() != m.backing() {
        let outside = m.scratch().join("outside");
        assert_errno(fs::hard_link(m.path("a"), outside), Errno::XDEV);
    }
}

fn hard_link_of_an_open_file_by_descriptor(m: &mut Mount) {
    fs::write(m.path("a"), b"data").unwrap();
    let file = File::open(m.path("a")).unwrap();
    let through = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file));
    rustix::fs::linkat(CWD, through, CWD, m.path("b"), AtFlags::SYMLINK_FOLLOW).unwrap();
    fs::remove_file(m.path("a")).unwrap();
    assert_eq!(fs::read(m.path("b")).unwrap(), b"data");
}

fn symlink_keeps_its_target_verbatim(m: &mut Mount) {
    for (index, target) in
        ["a", "../up", "/etc/passwd", "with blank and\nnewline", "trailing/", "\u{e4}\u{f6}", "./"]
            .iter()
            .enumerate()
    {
        let path = m.path(format!("l{index}"));
        symlink(target, &path).unwrap();
        assert_eq!(fs::read_link(&path).unwrap().to_str(), Some(*target));
    }
    m.remount();
    assert_eq!(fs::read_link(m.path("l3")).unwrap().to_str(), Some("with blank and\nnewline"));
    assert_errno(symlink("x", m.path("l0")), Errno::EXIST);
    assert_errno(symlink("", m.path("empty")), Errno::NOENT);
}

fn symlink_size_is_its_target_length(m: &mut Mount) {
    symlink("0123456789", m.path("l")).unwrap();
    let meta = fs::symlink_metadata(m.path("l")).unwrap();
    assert!(meta.is_symlink());
    assert_eq!((meta.len(), meta.mode() & 0o777), (10, 0o777));
}

fn symlink_loops_end(m: &mut Mount) {
    symlink("b", m.path("a")).unwrap();
    symlink("a", m.path("b")).unwrap();
    assert_errno(fs::read(m.path("a")), Errno::LOOP);
    symlink("self", m.path("self")).unwrap();
    assert_errno(fs::metadata(m.path("self")), Errno::LOOP);
    fs::symlink_metadata(m.path("self")).unwrap();
}

fn symlink_relative_and_absolute(m: &mut Mount) {
    fs::create_dir_all(m.path("d/e")).unwrap();
    fs::write(m.path("f"), b"x").unwrap();
    symlink("../../f", m.path("d/e/up")).unwrap();
    symlink(m.path("f"), m.path("d/absolute")).unwrap();
    symlink("d/e", m.path("dir")).unwrap();
    assert_eq!(fs::read(m.path("d/e/up")).unwrap(), b"x");
    assert_eq!(fs::read(m.path("d/absolute")).unwrap(), b"x");
    assert_eq!(fs::read(m.path("dir/up")).unwrap(), b"x");
    fs::write(m.path("dir/new"), b"y").unwrap();
    assert_eq!(fs::read(m.path("d/e/new")).unwrap(), b"y");
}

fn symlink_has_its_own_times_and_owner(m: &mut Mount) {
    use rustix::fs::{Timespec, Timestamps};
    fs::write(m.path("f"), b"x").unwrap();
    symlink("f", m.path("l")).unwrap();
    let time = Timespec { tv_sec: 1_111_111_111, tv_nsec: 222 };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(CWD, m.path("l"), &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
    let link = fs::symlink_metadata(m.path("l")).unwrap();
    assert_eq!((link.mtime(), link.mtime_nsec()), (1_111_111_111, 222));
    assert_ne!(fs::metadata(m.path("f")).unwrap().mtime(), 1_111_111_111);
    if crate::harness::is_root() {
        std::os::unix::fs::lchown(m.path("l"), Some(12), Some(34)).unwrap();
        let link = fs::symlink_metadata(m.path("l")).unwrap();
        assert_eq!((link.uid(), link.gid()), (12, 34));
        assert_eq!(fs::metadata(m.path("f")).unwrap().uid(), 0);
    }
}

fn symlink_longest_target(m: &mut Mount) {
    let longest = "t".repeat(4095);
    symlink(&longest, m.path("l")).unwrap();
    assert_eq!(fs::read_link(m.path("l")).unwrap().to_str(), Some(longest.as_str()));
    assert_errno(symlink("t".repeat(4096), m.path("k")), Errno::NAMETOOLONG);
    m.remount();
    assert_eq!(fs::read_link(m.path("l")).unwrap().as_os_str().len(), 4095);
}

fn open(m: &Mount, name: &str) -> File {
    OpenOptions::new().read(true).write(true).open(m.path(name)).unwrap()
}
