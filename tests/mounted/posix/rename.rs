//! rename and renameat2.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, symlink};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

use crate::harness::{Mount, Setup, assert_errno, assert_same, pattern};

crate::matrix! { Setup::new() =>
    file_keeps_inode_and_content,
    file_over_file,
    over_an_open_file,
    directory_with_content,
    directory_over_empty_directory,
    directory_over_full_directory,
    file_and_directory_do_not_mix,
    into_itself,
    hard_links_to_one_file,
    noreplace,
    exchange,
    missing_source,
    between_directories_moves_dotdot,
    open_descriptor_follows,
    replace_pattern_of_editors,
    symlink_is_renamed_itself,
}

fn file_keeps_inode_and_content(m: &mut Mount) {
    let data = pattern(1, 9000);
    fs::write(m.path("a"), &data).unwrap();
    let before = fs::metadata(m.path("a")).unwrap();
    fs::rename(m.path("a"), m.path("b")).unwrap();
    assert_errno(fs::metadata(m.path("a")), Errno::NOENT);
    let after = fs::metadata(m.path("b")).unwrap();
    assert_eq!((before.ino(), before.mtime_nsec()), (after.ino(), after.mtime_nsec()));
    m.remount();
    assert_same(&fs::read(m.path("b")).unwrap(), &data, "remounted");
    assert_errno(fs::metadata(m.path("a")), Errno::NOENT);
}

fn file_over_file(m: &mut Mount) {
    fs::write(m.path("a"), pattern(1, 9000)).unwrap();
    fs::write(m.path("b"), pattern(2, 100)).unwrap();
    assert_eq!(fs::read(m.path("b")).unwrap().len(), 100);
    fs::rename(m.path("a"), m.path("b")).unwrap();
    assert_same(&fs::read(m.path("b")).unwrap(), &pattern(1, 9000), "cached");
    assert_eq!(names(m, ""), ["b"]);
    m.remount();
    assert_same(&fs::read(m.path("b")).unwrap(), &pattern(1, 9000), "remounted");
}

fn over_an_open_file(m: &mut Mount) {
    fs::write(m.path("old"), b"the old content").unwrap();
    fs::write(m.path("new"), b"the new content").unwrap();
    let mut open = File::open(m.path("old")).unwrap();
    fs::rename(m.path("new"), m.path("old")).unwrap();
    assert_eq!(open.metadata().unwrap().nlink(), 0);
    let mut back = String::new();
    open.read_to_string(&mut back).unwrap();
    assert_eq!(back, "the old content");
    assert_eq!(fs::read(m.path("old")).unwrap(), b"the new content");
}

fn directory_with_content(m: &mut Mount) {
    fs::create_dir_all(m.path("a/deep/er")).unwrap();
    fs::write(m.path("a/deep/er/f"), b"inside").unwrap();
    fs::rename(m.path("a"), m.path("b")).unwrap();
    assert_eq!(fs::read(m.path("b/deep/er/f")).unwrap(), b"inside");
    assert_errno(fs::read(m.path("a/deep/er/f")), Errno::NOENT);
    fs::write(m.path("b/deep/er/g"), b"more").unwrap();
    m.remount();
    assert_eq!(names(m, "b/deep/er"), ["f", "g"]);
}

fn directory_over_empty_directory(m: &mut Mount) {
    fs::create_dir(m.path("a")).unwrap();
    fs::write(m.path("a/f"), b"x").unwrap();
    fs::create_dir(m.path("b")).unwrap();
    fs::rename(m.path("a"), m.path("b")).unwrap();
    assert_eq!(names(m, ""), ["b"]);
    assert_eq!(names(m, "b"), ["f"]);
}

fn directory_over_full_directory(m: &mut Mount) {
    fs::create_dir(m.path("a")).unwrap();
    fs::create_dir(m.path("b")).unwrap();
    fs::write(m.path("b/f"), b"x").unwrap();
    let error = fs::rename(m.path("a"), m.path("b")).unwrap_err().raw_os_error();
    let allowed = [Errno::NOTEMPTY, Errno::EXIST].map(|errno| Some(errno.raw_os_error()));
    assert!(allowed.contains(&error), "{error:?}");
    assert_eq!(names(m, ""), ["a", "b"]);
    assert_errno(fs::remove_dir(m.path("b")), Errno::NOTEMPTY);
}

fn file_and_directory_do_not_mix(m: &mut Mount) {
    fs::create_dir(m.path("d")).unwrap();
    fs::write(m.path("f"), b"x").unwrap();
    assert_errno(fs::rename(m.path("f"), m.path("d")), Errno::ISDIR);
    assert_errno(fs::rename(m.path("d"), m.path("f")), Errno::NOTDIR);
    assert_errno(fs::rename(m.path("d"), m.path("f/below")), Errno::NOTDIR);
}

fn into_itself(m: &mut Mount) {
    fs::create_dir_all(m.path("d/e")).unwrap();
    assert_errno(fs::rename(m.path("d"), m.path("d/e/f")), Errno::INVAL);
    assert_errno(fs::rename(m.path("d"), m.path("d/x")), Errno::INVAL);
    fs::rename(m.path("d"), m.path("d")).unwrap();
    assert_eq!(names(m, "d"), ["e"]);
}

fn hard_links_to_one_file(m: &mut Mount) {
    fs::write(m.path("a"), b"x").unwrap();
    fs::hard_link(m.path("a"), m.path("b")).unwrap();
    // POSIX: two names of one file, so rename does nothing.
    fs::rename(m.path("a"), m.path("b")).unwrap();
    assert_eq!(names(m, ""), ["a", "b"]);
    assert_eq!(fs::metadata(m.path("a")).unwrap().nlink(), 2);
}

fn noreplace(m: &mut Mount) {
    fs::write(m.path("a"), b"a").unwrap();
    fs::write(m.path("b"), b"b").unwrap();
    let flags = RenameFlags::NOREPLACE;
    assert_errno(renameat_with(CWD, m.path("a"), CWD, m.path("b"), flags), Errno::EXIST);
    assert_eq!(fs::read(m.path("b")).unwrap(), b"b");
    renameat_with(CWD, m.path("a"), CWD, m.path("c"), flags).unwrap();
    assert_eq!(fs::read(m.path("c")).unwrap(), b"a");
    assert_eq!(names(m, ""), ["b", "c"]);
}

fn exchange(m: &mut Mount) {
    fs::write(m.path("f"), pattern(1, 10_000)).unwrap();
    fs::create_dir(m.path("d")).unwrap();
    fs::write(m.path("d/inside"), b"x").unwrap();
    fs::write(m.path("g"), b"short").unwrap();
    let flags = RenameFlags::EXCHANGE;
    renameat_with(CWD, m.path("f"), CWD, m.path("g"), flags).unwrap();
    assert_eq!(fs::read(m.path("f")).unwrap(), b"short");
    assert_same(&fs::read(m.path("g")).unwrap(), &pattern(1, 10_000), "exchanged");
    renameat_with(CWD, m.path("g"), CWD, m.path("d"), flags).unwrap();
    assert_eq!(names(m, "g"), ["inside"]);
    assert_errno(renameat_with(CWD, m.path("f"), CWD, m.path("none"), flags), Errno::NOENT);
    m.remount();
    assert_eq!(fs::read(m.path("f")).unwrap(), b"short");
    assert_same(&fs::read(m.path("d")).unwrap(), &pattern(1, 10_000), "remounted");
}

fn missing_source(m: &mut Mount) {
    fs::write(m.path("b"), b"b").unwrap();
    assert_errno(fs::rename(m.path("none"), m.path("b")), Errno::NOENT);
    assert_errno(fs::rename(m.path("b"), m.path("none/b")), Errno::NOENT);
    assert_eq!(fs::read(m.path("b")).unwrap(), b"b");
}

fn between_directories_moves_dotdot(m: &mut Mount) {
    fs::create_dir_all(m.path("a/moved")).unwrap();
    fs::create_dir_all(m.path("b/deep")).unwrap();
    let links = |name: &str| fs::metadata(m.path(name)).unwrap().nlink();
    let before = (links("a"), links("b/deep"));
    fs::rename(m.path("a/moved"), m.path("b/deep/moved")).unwrap();
    let parent = fs::metadata(m.path("b/deep/moved/..")).unwrap().ino();
    assert_eq!(parent, fs::metadata(m.path("b/deep")).unwrap().ino());
    assert_eq!((links("a"), links("b/deep")), (before.0 - 1, before.1 + 1));
}

fn open_descriptor_follows(m: &mut Mount) {
    use std::os::unix::fs::FileExt;
    fs::create_dir(m.path("d")).unwrap();
    let file = File::create(m.path("d/a")).unwrap();
    file.write_all_at(b"before ", 0).unwrap();
    fs::rename(m.path("d/a"), m.path("b")).unwrap();
    fs::remove_dir(m.path("d")).unwrap();
    file.write_all_at(b"after", 7).unwrap();
    file.sync_all().unwrap();
    drop(file);
    m.remount();
    assert_eq!(fs::read(m.path("b")).unwrap(), b"before after");
}

fn replace_pattern_of_editors(m: &mut Mount) {
    for round in 0..50u64 {
        let data = pattern(round, 100 + round as usize * 211);
        let temporary = m.path(".f.tmp");
        fs::write(&temporary, &data).unwrap();
        File::open(&temporary).unwrap().sync_all().unwrap();
        fs::rename(&temporary, m.path("f")).unwrap();
        assert_same(&fs::read(m.path("f")).unwrap(), &data, "replaced");
    }
    assert_eq!(names(m, ""), ["f"]);
}

fn symlink_is_renamed_itself(m: &mut Mount) {
    fs::write(m.path("target"), b"x").unwrap();
    symlink("target", m.path("l")).unwrap();
    fs::rename(m.path("l"), m.path("k")).unwrap();
    assert_eq!(fs::read_link(m.path("k")).unwrap().to_str(), Some("target"));
    assert_eq!(fs::read(m.path("target")).unwrap(), b"x");
}

fn names(m: &Mount, directory: &str) -> Vec<String> {
    let entries = fs::read_dir(m.path(directory)).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}
