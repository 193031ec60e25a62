//! Extended attributes that users set: passed to the backing file as they are.

use std::fs;
use std::path::Path;

use rustix::fs::{
    XattrFlags, getxattr, getxattr_query, lgetxattr, listxattr, listxattr_query, lsetxattr,
    removexattr, setxattr,
};
use rustix::io::Errno;

use crate::harness::{Mount, Setup, assert_errno, is_root, pattern};

crate::matrix! { Setup::new() =>
    set_read_list_remove,
    create_and_replace_flags,
    short_buffers,
    values_of_many_sizes,
    binary_and_empty_values,
    directories_and_symlinks,
    visible_below_without_a_key,
    set_below_visible_above,
    kept_across_writes_renames_and_remounts,
    namespaces,
    many_names,
}

fn value(path: &Path, name: &str) -> Result<Vec<u8>, Errno> {
    let mut buffer = vec![0; 65_536];
    let len = getxattr(path, name, &mut buffer)?;
    buffer.truncate(len);
    Ok(buffer)
}

fn set(path: &Path, name: &str, value: &[u8]) {
    setxattr(path, name, value, XattrFlags::empty()).unwrap();
}

fn user_names(path: &Path) -> Vec<String> {
    let mut buffer = vec![0; 65_536];
    let len = listxattr(path, &mut buffer).unwrap();
    let names = buffer[..len].split(|&byte| byte == 0);
    let mut names: Vec<String> = names
        .map(|name| String::from_utf8(name.to_vec()).unwrap())
        .filter(|name| name.starts_with("user."))
        .collect();
    names.sort();
    names
}

fn file(m: &Mount) -> std::path::PathBuf {
    let path = m.path("f");
    fs::write(&path, pattern(1, 5000)).unwrap();
    path
}

fn set_read_list_remove(m: &mut Mount) {
    let path = file(m);
    assert!(user_names(&path).is_empty(), "{:?}", user_names(&path));
    set(&path, "user.one", b"first");
    set(&path, "user.two", b"second");
    assert_eq!(user_names(&path), ["user.one", "user.two"]);
    assert_eq!(value(&path, "user.one").unwrap(), b"first");
    set(&path, "user.one", b"longer than before");
    assert_eq!(value(&path, "user.one").unwrap(), b"longer than before");
    removexattr(&path, "user.one").unwrap();
    assert_errno(value(&path, "user.one"), Errno::NODATA);
    assert_errno(removexattr(&path, "user.one"), Errno::NODATA);
    assert_eq!(user_names(&path), ["user.two"]);
}

fn create_and_replace_flags(m: &mut Mount) {
    let path = file(m);
    let replaced = setxattr(&path, "user.a", b"1", XattrFlags::REPLACE);
    assert_errno(replaced, Errno::NODATA);
    setxattr(&path, "user.a", b"1", XattrFlags::CREATE).unwrap();
    assert_errno(setxattr(&path, "user.a", b"2", XattrFlags::CREATE), Errno::EXIST);
    assert_eq!(value(&path, "user.a").unwrap(), b"1");
    setxattr(&path, "user.a", b"3", XattrFlags::REPLACE).unwrap();
    assert_eq!(value(&path, "user.a").unwrap(), b"3");
}

fn short_buffers(m: &mut Mount) {
    let path = file(m);
    set(&path, "user.a", b"0123456789");
    assert_errno(getxattr(&path, "user.a", &mut [0; 9]), Errno::RANGE);
    assert_eq!(getxattr(&path, "user.a", &mut [0; 10]).unwrap(), 10);
    assert_eq!(getxattr_query(&path, "user.a").unwrap(), 10);
    assert!(listxattr_query(&path).unwrap() >= 7);
    assert_errno(listxattr(&path, &mut [0; 3]), Errno::RANGE);
}

fn values_of_many_sizes(m: &mut Mount) {
    let path = file(m);
    for size in [0, 1, 255, 256, 1000, 3000] {
        let data = pattern(size as u64, size);
        set(&path, "user.a", &data);
        assert_eq!(value(&path, "user.a").unwrap(), data);
    }
    let huge = setxattr(&path, "user.huge", &vec![0; 65_537], XattrFlags::empty());
    assert_errno(huge, Errno::TOOBIG);
    let long = format!("user.{}", "n".repeat(251));
    assert_errno(setxattr(&path, long, b"x", XattrFlags::empty()), Errno::RANGE);
    set(&path, &format!("user.{}", "n".repeat(250)), b"x");
}

fn binary_and_empty_values(m: &mut Mount) {
    let path = file(m);
    let all: Vec<u8> = (0..=255).collect();
    set(&path, "user.all", &all);
    set(&path, "user.empty", b"");
    m.remount();
    assert_eq!(value(&path, "user.all").unwrap(), all);
    assert_eq!(value(&path, "user.empty").unwrap(), b"");
}

fn directories_and_symlinks(m: &mut Mount) {
    let path = m.path("d");
    fs::create_dir(&path).unwrap();
    set(&path, "user.a", b"on a directory");
    assert_eq!(value(&path, "user.a").unwrap(), b"on a directory");
    set(m.mnt(), "user.root", b"on the root");
    assert_eq!(value(m.mnt(), "user.root").unwrap(), b"on the root");
    removexattr(m.mnt(), "user.root").unwrap();
    std::os::unix::fs::symlink("d", m.path("l")).unwrap();
    assert_eq!(value(&m.path("l"), "user.a").unwrap(), b"on a directory");
    // Symlinks take no user attributes themselves.
    assert_errno(lsetxattr(m.path("l"), "user.a", b"x", XattrFlags::empty()), Errno::PERM);
    let missing = lgetxattr(m.path("l"), "user.a", &mut [0; 4]).unwrap_err();
    assert!([Errno::NODATA, Errno::PERM].contains(&missing), "{missing}");
}

fn visible_below_without_a_key(m: &mut Mount) {
    let path = file(m);
    set(&path, "user.tag", b"readable");
    m.unmount();
    assert_eq!(value(&m.backing().join("f"), "user.tag").unwrap(), b"readable");
    m.mount();
}

fn set_below_visible_above(m: &mut Mount) {
    let path = file(m);
    m.unmount();
    set(&m.backing().join("f"), "user.from-below", b"set without a key");
    m.mount();
    assert_eq!(value(&path, "user.from-below").unwrap(), b"set without a key");
    assert_eq!(user_names(&path), ["user.from-below"]);
}

fn kept_across_writes_renames_and_remounts(m: &mut Mount) {
    let path = file(m);
    set(&path, "user.a", b"kept");
    fs::write(&path, pattern(2, 9000)).unwrap();
    fs::rename(&path, m.path("g")).unwrap();
    m.remount();
    assert_eq!(value(&m.path("g"), "user.a").unwrap(), b"kept");
    assert_eq!(fs::read(m.path("g")).unwrap(), pattern(2, 9000));
}

fn namespaces(m: &mut Mount) {
    let path = file(m);
    for name in ["nonsense.a", "noprefix"] {
        assert_errno(setxattr(&path, name, b"x", XattrFlags::empty()), Errno::OPNOTSUPP);
    }
    if is_root() {
        set(&path, "trusted.a", b"for root");
        assert_eq!(value(&path, "trusted.a").unwrap(), b"for root");
        set(&path, "security.test", b"label");
        assert_eq!(value(&path, "security.test").unwrap(), b"label");
    }
}

fn many_names(m: &mut Mount) {
    let path = file(m);
    let mut expected = Vec::new();
    for index in 0..60 {
        let name = format!("user.name-{index:03}");
        set(&path, &name, &pattern(index, 8));
        expected.push(name);
    }
    assert_eq!(user_names(&path), expected);
    for (index, name) in expected.iter().enumerate() {
        assert_eq!(value(&path, name).unwrap(), pattern(index as u64, 8));
    }
}
