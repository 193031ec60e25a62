//! Names and paths: length limits, odd bytes, trees deeper than PATH_MAX.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{Mode, OFlags, mkdirat, openat};
use rustix::io::Errno;

use crate::harness::{Mount, Setup, assert_errno, pattern};

crate::matrix! { Setup::new() =>
    longest_name,
    name_too_long,
    odd_bytes_in_names,
    names_differ_by_case_and_form,
    tree_deeper_than_the_longest_path,
    path_too_long,
    dot_names_are_ordinary,
}

fn longest_name(m: &mut Mount) {
    let longest = "n".repeat(255);
    fs::write(m.path(&longest), pattern(1, 5000)).unwrap();
    fs::create_dir(m.path("d")).unwrap();
    fs::rename(m.path(&longest), m.path("d").join(&longest)).unwrap();
    std::os::unix::fs::symlink("x", m.path("m".repeat(255))).unwrap();
    m.remount();
    assert_eq!(fs::read(m.path("d").join(&longest)).unwrap(), pattern(1, 5000));
    let names: Vec<_> = fs::read_dir(m.path("d")).unwrap().map(Result::unwrap).collect();
    assert_eq!(names[0].file_name().len(), 255);
    // 85 three-byte characters are 255 bytes.
    fs::write(m.path("\u{20ac}".repeat(85)), b"x").unwrap();
}

fn name_too_long(m: &mut Mount) {
    let long = "n".repeat(256);
    fs::write(m.path("f"), b"x").unwrap();
    assert_errno(fs::write(m.path(&long), b"x"), Errno::NAMETOOLONG);
    assert_errno(fs::create_dir(m.path(&long)), Errno::NAMETOOLONG);
    assert_errno(fs::rename(m.path("f"), m.path(&long)), Errno::NAMETOOLONG);
    assert_errno(fs::hard_link(m.path("f"), m.path(&long)), Errno::NAMETOOLONG);
    assert_errno(fs::metadata(m.path(&long)), Errno::NAMETOOLONG);
    assert_errno(std::os::unix::fs::symlink("x", m.path(&long)), Errno::NAMETOOLONG);
}

fn odd_bytes_in_names(m: &mut Mount) {
    let names: &[&[u8]] =
        &[b"\xff\xfe not UTF-8", b"new\nline", b" ", b"*", b"\\", b"\x01", b"-rf"];
    for (index, name) in names.iter().enumerate() {
        fs::write(m.path(OsStr::from_bytes(name)), [index as u8]).unwrap();
    }
    m.remount();
    for (index, name) in names.iter().enumerate() {
        assert_eq!(fs::read(m.path(OsStr::from_bytes(name))).unwrap(), [index as u8]);
    }
    let mut found: Vec<Vec<u8>> = fs::read_dir(m.mnt())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().as_bytes().to_vec())
        .collect();
    let mut expected: Vec<Vec<u8>> = names.iter().map(|name| name.to_vec()).collect();
    found.sort();
    expected.sort();
    assert_eq!(found, expected);
}

fn names_differ_by_case_and_form(m: &mut Mount) {
    for name in ["a", "A", "\u{e4}", "a\u{308}"] {
        let mut options = fs::OpenOptions::new();
        options.write(true).create_new(true).open(m.path(name)).unwrap();
    }
    assert_eq!(fs::read_dir(m.mnt()).unwrap().count(), 4);
}

fn tree_deeper_than_the_longest_path(m: &mut Mount) {
    // 40 levels of 200 bytes are twice PATH_MAX: only descriptors reach the bottom.
    let name = "l".repeat(200);
    let mut directory: std::os::fd::OwnedFd = File::open(m.mnt()).unwrap().into();
    for _ in 0..40 {
        mkdirat(&directory, name.as_str(), Mode::RWXU).unwrap();
        directory = openat(&directory, name.as_str(), OFlags::DIRECTORY, Mode::empty()).unwrap();
    }
    let create = OFlags::CREATE | OFlags::RDWR;
    let file: File = openat(&directory, "f", create, Mode::RUSR | Mode::WUSR).unwrap().into();
    std::os::unix::fs::FileExt::write_all_at(&file, b"at the bottom", 0).unwrap();
    file.sync_all().unwrap();
    rustix::fs::renameat(&directory, "f", &directory, "g").unwrap();
    drop((file, directory));
    m.remount();
    let mut directory: std::os::fd::OwnedFd = File::open(m.mnt()).unwrap().into();
    for _ in 0..40 {
        directory = openat(&directory, name.as_str(), OFlags::DIRECTORY, Mode::empty()).unwrap();
    }
    let mut file: File = openat(&directory, "g", OFlags::RDONLY, Mode::empty()).unwrap().into();
    let mut back = String::new();
    std::io::Read::read_to_string(&mut file, &mut back).unwrap();
    assert_eq!(back, "at the bottom");
    drop((file, directory));
    let removed = std::process::Command::new("rm").arg("-rf").arg(m.path(&name)).status().unwrap();
    assert!(removed.success());
    assert_eq!(fs::read_dir(m.mnt()).unwrap().count(), 0);
}

fn path_too_long(m: &mut Mount) {
    let mut path = m.mnt().to_path_buf();
    while path.as_os_str().len() < 4096 {
        path.push("p".repeat(200));
    }
    assert_errno(fs::metadata(path), Errno::NAMETOOLONG);
}

fn dot_names_are_ordinary(m: &mut Mount) {
    for name in [".hidden", "...", ".fuse_hidden0000000100000001", "..x", "a."] {
        fs::write(m.path(name), name).unwrap();
        assert_eq!(fs::read(m.path(name)).unwrap(), name.as_bytes());
    }
    assert_eq!(fs::read_dir(m.mnt()).unwrap().count(), 5);
}
