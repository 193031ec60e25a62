//! The tree against a real file system.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::PathBuf;

use rustix::io::Errno;
use tempfile::TempDir;

use super::{
    Access, DirFd, DirStream, DiskTree, FileKind, OpenFlags, RenameMode, TimeSet, Timestamp,
    XattrMode, resolve,
};
use crate::store::BackingFile;
use crate::store::disk::DiskFile;

/// A tree over a new directory, which is removed at the end.
struct Fixture {
    dir: TempDir,
    tree: DiskTree,
}

impl Fixture {
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let tree = DiskTree::open(dir.path()).unwrap();
        Self { dir, tree }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    fn root(&self) -> &DirFd {
        self.tree.root()
    }

    fn open(&self, name: &str) -> DiskFile {
        self.tree.open_file(self.root(), n(name), OpenFlags::READ_WRITE).unwrap().into()
    }
}

fn n(name: &str) -> &OsStr {
    OsStr::new(name)
}

#[track_caller]
fn assert_errno<T>(result: io::Result<T>, errno: Errno) {
    let error = result.err().expect("an error");
    assert_eq!(error.raw_os_error(), Some(errno.raw_os_error()), "{error}");
}

fn entries(stream: &mut DirStream) -> Vec<(OsString, FileKind, u64)> {
    let mut found = Vec::new();
    while let Some(entry) = stream.next_entry().unwrap() {
        found.push((entry.name.to_owned(), entry.kind, entry.cookie));
    }
    found
}

#[test]
fn only_a_directory_opens() {
    let fx = Fixture::new();
    fx.write("file", "");
    assert_errno(DiskTree::open(&fx.path("file")), Errno::NOTDIR);
    assert_errno(DiskTree::open(&fx.path("none")), Errno::NOENT);
    fs::create_dir(fx.path("dir")).unwrap();
    symlink("dir", fx.path("link")).unwrap();
    DiskTree::open(&fx.path("link")).unwrap();
}

#[test]
fn names_that_are_no_component_are_refused_everywhere() {
    let fx = Fixture::new();
    fx.write("file", "");
    let (tree, root) = (&fx.tree, fx.root());
    let located = tree.locate(root, n("file")).unwrap();
    for name in ["", ".", "..", "a/b", "/", "file/", "a\0b"].map(n) {
        assert_errno(tree.open_dir(root, name), Errno::INVAL);
        assert_errno(tree.resolve(&[name]), Errno::INVAL);
        assert_errno(tree.stat(root, name), Errno::INVAL);
        assert_errno(tree.locate(root, name), Errno::INVAL);
        assert_errno(tree.open_file(root, name, OpenFlags::READ), Errno::INVAL);
        assert_errno(tree.create_file(root, name, OpenFlags::READ, 0o600), Errno::INVAL);
        assert_errno(tree.mkdir(root, name, 0o700), Errno::INVAL);
        assert_errno(tree.mknod(root, name, libc::S_IFIFO, 0), Errno::INVAL);
        assert_errno(tree.symlink(root, name, n("x")), Errno::INVAL);
        assert_errno(tree.readlink(root, name), Errno::INVAL);
        assert_errno(tree.unlink(root, name), Errno::INVAL);
        assert_errno(tree.rmdir(root, name), Errno::INVAL);
        assert_errno(tree.rename(root, name, root, n("x"), RenameMode::Replace), Errno::INVAL);
        assert_errno(tree.rename(root, n("file"), root, name, RenameMode::Replace), Errno::INVAL);
        assert_errno(tree.xattr(root, name, n("user.a")), Errno::INVAL);
        assert_errno(tree.replace_file(root, name, b"", 0o600), Errno::INVAL);
        assert_errno(tree.try_lock(root, name), Errno::INVAL);
        assert_errno(located.link_to(root, name), Errno::INVAL);
    }
    let long = "n".repeat(256);
    assert_errno(tree.mkdir(root, n(&long), 0o700), Errno::NAMETOOLONG);
    assert_errno(tree.xattr(root, n(&long), n("user.a")), Errno::NAMETOOLONG);
    tree.mkdir(root, n(&long[..255]), 0o700).unwrap();
}

#[test]
fn directories_resolve_past_path_max_and_never_through_links() {
    let fx = Fixture::new();
    let names: Vec<String> = (0..60).map(|i| format!("{i:0200}")).collect();
    let mut dir = fx.root().try_clone().unwrap();
    for name in &names {
        fx.tree.mkdir(&dir, n(name), 0o700).unwrap();
        dir = fx.tree.open_dir(&dir, n(name)).unwrap();
    }
    let deepest = dir.located().stat().unwrap();
    let resolved = fx.tree.resolve(&names).unwrap();
    assert_eq!(resolved.located().stat().unwrap().identity(), deepest.identity());
    let stepped = resolve::step_by_step(&fx.tree, fx.root(), &names).unwrap();
    assert_eq!(stepped.located().stat().unwrap().identity(), deepest.identity());
    let none: [&OsStr; 0] = [];
    let root = fx.tree.resolve(&none).unwrap();
    assert_eq!(
        root.located().stat().unwrap().identity(),
        fx.root().located().stat().unwrap().identity()
    );

    symlink(&names[0], fx.path("link")).unwrap();
    fx.write("file", "");
    for first in ["link", "file"] {
        assert_errno(fx.tree.resolve(&[first, &names[1]]), Errno::NOTDIR);
        assert_errno(fx.tree.resolve(&[first]), Errno::NOTDIR);
        assert_errno(resolve::step_by_step(&fx.tree, fx.root(), &[first]), Errno::NOTDIR);
        assert_errno(fx.tree.open_dir(fx.root(), n(first)), Errno::NOTDIR);
    }
    assert_errno(fx.tree.resolve(&["none"]), Errno::NOENT);
}

#[test]
fn attributes_match_what_the_standard_library_sees() {
    let fx = Fixture::new();
    fx.write("file", "12345");
    symlink("nowhere", fx.path("link")).unwrap();
    fs::create_dir(fx.path("dir")).unwrap();
    fx.tree.mknod(fx.root(), n("fifo"), libc::S_IFIFO | 0o640, 0).unwrap();
    fx.tree.mknod(fx.root(), n("socket"), libc::S_IFSOCK | 0o600, 0).unwrap();
    let kinds = [
        ("file", FileKind::Regular),
        ("link", FileKind::Symlink),
        ("dir", FileKind::Directory),
        ("fifo", FileKind::Fifo),
        ("socket", FileKind::Socket),
    ];
    for (name, kind) in kinds {
        let expected = fs::symlink_metadata(fx.path(name)).unwrap();
        let stat = fx.tree.stat(fx.root(), n(name)).unwrap();
        assert_eq!(stat.kind(), kind);
        assert_eq!(
            (stat.dev, stat.ino, stat.mode, u64::from(stat.nlink), stat.uid, stat.gid, stat.rdev),
            (
                expected.dev(),
                expected.ino(),
                expected.mode(),
                expected.nlink(),
                expected.uid(),
                expected.gid(),
                expected.rdev()
            )
        );
        assert_eq!((stat.size, stat.blocks), (expected.size(), expected.blocks()));
        assert_eq!(
            (stat.mtime.secs, i64::from(stat.mtime.nanos)),
            (expected.mtime(), expected.mtime_nsec())
        );
        assert_eq!(fx.tree.locate(fx.root(), n(name)).unwrap().stat().unwrap(), stat);
    }
    assert_eq!(fx.open("file").stat().unwrap(), fx.tree.stat(fx.root(), n("file")).unwrap());
    assert_errno(fx.tree.stat(fx.root(), n("none")), Errno::NOENT);
}

#[test]
fn device_numbers_come_back() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root makes device nodes");
        return;
    }
    let fx = Fixture::new();
    for rdev in [rustix::fs::makedev(1, 3), rustix::fs::makedev(4000, 700_000)] {
        fx.tree.mknod(fx.root(), n("device"), libc::S_IFCHR | 0o600, rdev).unwrap();
        let stat = fx.tree.stat(fx.root(), n("device")).unwrap();
        assert_eq!((stat.kind(), stat.rdev), (FileKind::CharDevice, rdev));
        fx.tree.unlink(fx.root(), n("device")).unwrap();
    }
}

#[test]
fn a_located_object_takes_attributes_of_every_kind_without_following() {
    let fx = Fixture::new();
    fx.write("target", "");
    fx.write("file", "");
    symlink("target", fx.path("link")).unwrap();
    fs::create_dir(fx.path("dir")).unwrap();
    fx.tree.mknod(fx.root(), n("fifo"), libc::S_IFIFO | 0o600, 0).unwrap();
    let target = fx.tree.stat(fx.root(), n("target")).unwrap();
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("without owner changes: only root makes them");
    }
    for name in ["file", "link", "dir", "fifo"] {
        let located = fx.tree.locate(fx.root(), n(name)).unwrap();
        let (atime, mtime) = ((-1, 1), (7_000_000_000, 999_999_999));
        let at = |(secs, nanos)| TimeSet::At { secs, nanos };
        located.set_times(at(atime), at(mtime)).unwrap();
        let seen = located.stat().unwrap();
        assert_eq!(seen.atime, Timestamp { secs: atime.0, nanos: atime.1 }, "{name}");
        assert_eq!(seen.mtime, Timestamp { secs: mtime.0, nanos: mtime.1 }, "{name}");
        located.set_times(TimeSet::Now, TimeSet::Omit).unwrap();
        let seen = located.stat().unwrap();
        assert!(seen.atime.secs > 1_600_000_000, "{name}");
        assert_eq!(seen.mtime.secs, mtime.0, "{name}");
        if root {
            located.chown(Some(123), None).unwrap();
            located.chown(None, Some(456)).unwrap();
            located.chown(Some(u32::MAX), None).unwrap();
            let seen = located.stat().unwrap();
            assert_eq!((seen.uid, seen.gid), (123, 456), "{name}");
        }
        if name == "link" {
            assert_errno(located.chmod(0o711), Errno::OPNOTSUPP);
        } else {
            located.chmod(0o6711).unwrap();
            assert_eq!(located.stat().unwrap().mode & 0o7777, 0o6711, "{name}");
        }
    }
    assert_eq!(fx.tree.stat(fx.root(), n("target")).unwrap(), target);
}

#[test]
fn extended_attributes_reach_the_object_itself() {
    let fx = Fixture::new();
    fx.write("target", "");
    fx.write("file", "");
    fs::create_dir(fx.path("dir")).unwrap();
    symlink("target", fx.path("link")).unwrap();
    fx.tree.mknod(fx.root(), n("fifo"), libc::S_IFIFO | 0o600, 0).unwrap();
    let (a, b) = (n("user.a"), n("user.b"));
    for name in ["file", "dir"].map(n) {
        let located = fx.tree.locate(fx.root(), name).unwrap();
        located.set_xattr(a, b"1", XattrMode::Create).unwrap();
        fx.tree.set_xattr(fx.root(), name, b, &[9; 2000], XattrMode::Set).unwrap();
        assert_errno(located.set_xattr(a, b"1", XattrMode::Create), Errno::EXIST);
        assert_errno(located.set_xattr(n("user.c"), b"", XattrMode::Replace), Errno::NODATA);
        assert_eq!(fx.tree.xattr(fx.root(), name, a).unwrap(), b"1");
        assert_eq!(located.xattr(b).unwrap(), [9; 2000]);
        for names in [located.xattr_names(), fx.tree.xattr_names(fx.root(), name)] {
            let names = names.unwrap();
            let listed: BTreeSet<&[u8]> = names.split(|&byte| byte == 0).collect();
            assert!(listed.contains(a.as_bytes()) && listed.contains(b.as_bytes()));
        }
        located.remove_xattr(a).unwrap();
        fx.tree.remove_xattr(fx.root(), name, b).unwrap();
        assert_errno(located.xattr(b), Errno::NODATA);
        assert_errno(fx.tree.xattr(fx.root(), name, a), Errno::NODATA);
    }
    for name in ["link", "fifo"].map(n) {
        let located = fx.tree.locate(fx.root(), name).unwrap();
        assert_errno(located.set_xattr(a, b"1", XattrMode::Set), Errno::PERM);
        if !rustix::process::geteuid().is_root() {
            eprintln!("without trusted attributes: only root sets them");
            continue;
        }
        located.set_xattr(n("trusted.a"), b"1", XattrMode::Set).unwrap();
        assert_eq!(fx.tree.xattr(fx.root(), name, n("trusted.a")).unwrap(), b"1");
        assert_eq!(located.xattr_names().unwrap(), b"trusted.a\0");
        fx.tree.remove_xattr(fx.root(), name, n("trusted.a")).unwrap();
    }
    assert_eq!(fx.tree.xattr_names(fx.root(), n("target")).unwrap(), b"");
}

#[test]
fn a_file_without_a_name_keeps_working() {
    let fx = Fixture::new();
    fx.write("file", "text");
    let located = fx.tree.locate(fx.root(), n("file")).unwrap();
    let file = fx.open("file");
    fx.tree.unlink(fx.root(), n("file")).unwrap();

    file.chmod(0o4751).unwrap();
    let stat = file.stat().unwrap();
    assert_eq!((stat.mode & 0o7777, stat.nlink), (0o4751, 0));
    file.chown(Some(stat.uid), Some(stat.gid)).unwrap();
    file.set_times(TimeSet::At { secs: -5, nanos: 6 }, TimeSet::Omit).unwrap();
    assert_eq!(file.stat().unwrap().atime, Timestamp { secs: -5, nanos: 6 });
    file.set_xattr(n("user.a"), b"1", XattrMode::Set).unwrap();
    assert_eq!(file.xattr(n("user.a")).unwrap(), b"1");
    assert!(file.xattr_names().unwrap().starts_with(b"user.a\0"));
    file.remove_xattr(n("user.a")).unwrap();

    located.chmod(0o600).unwrap();
    located.set_xattr(n("user.b"), b"2", XattrMode::Set).unwrap();
    assert_eq!(file.xattr(n("user.b")).unwrap(), b"2");
    let again: DiskFile = located.reopen(OpenFlags::READ).unwrap().into();
    let mut text = [0; 4];
    again.read_at(&mut text, 0).unwrap();
    assert_eq!(&text, b"text");
    assert_errno(located.link_to(fx.root(), n("back")), Errno::NOENT);
}

#[test]
fn only_regular_files_open_and_nothing_waits() {
    let fx = Fixture::new();
    fx.write("file", "text");
    symlink("file", fx.path("link")).unwrap();
    fx.tree.mkdir(fx.root(), n("dir"), 0o700).unwrap();
    fx.tree.mknod(fx.root(), n("fifo"), libc::S_IFIFO | 0o600, 0).unwrap();
    fx.tree.mknod(fx.root(), n("socket"), libc::S_IFSOCK | 0o600, 0).unwrap();
    let writing = OpenFlags { access: Access::Write, keep_atime: false };
    let cases = [
        ("link", Errno::LOOP, Errno::LOOP),
        ("fifo", Errno::INVAL, Errno::NXIO),
        ("socket", Errno::NXIO, Errno::NXIO),
        ("dir", Errno::INVAL, Errno::ISDIR),
    ];
    for (name, on_read, on_write) in cases {
        let located = fx.tree.locate(fx.root(), n(name)).unwrap();
        assert_errno(fx.tree.open_file(fx.root(), n(name), OpenFlags::READ), on_read);
        assert_errno(located.reopen(OpenFlags::READ), on_read);
        assert_errno(fx.tree.open_file(fx.root(), n(name), writing), on_write);
        assert_errno(located.reopen(writing), on_write);
    }
    for keep_atime in [false, true] {
        let flags = OpenFlags { access: Access::ReadWrite, keep_atime };
        let fd = fx.tree.open_file(fx.root(), n("file"), flags).unwrap();
        let status = rustix::fs::fcntl_getfl(&fd).unwrap();
        assert!(!status.contains(rustix::fs::OFlags::NONBLOCK));
        assert_eq!(status.contains(rustix::fs::OFlags::NOATIME), keep_atime);
        let flags = rustix::io::fcntl_getfd(&fd).unwrap();
        assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
    }
    let created = fx.tree.create_file(fx.root(), n("new"), OpenFlags::READ_WRITE, 0o600).unwrap();
    assert_eq!(rustix::fs::fstat(created).unwrap().st_mode, libc::S_IFREG | 0o600);
    for taken in ["new", "link", "dir"] {
        assert_errno(
            fx.tree.create_file(fx.root(), n(taken), OpenFlags::READ, 0o600),
            Errno::EXIST,
        );
    }
}

#[test]
fn links_keep_their_text_and_objects_get_more_names() {
    let fx = Fixture::new();
    fx.write("file", "");
    let text = "t".repeat(4000);
    fx.tree.symlink(fx.root(), n("link"), n(&text)).unwrap();
    let link = fx.tree.locate(fx.root(), n("link")).unwrap();
    assert_eq!(fx.tree.readlink(fx.root(), n("link")).unwrap(), *text);
    assert_eq!(link.readlink().unwrap(), *text);
    assert_errno(fx.tree.readlink(fx.root(), n("file")), Errno::INVAL);

    for name in ["file", "link"] {
        let located = fx.tree.locate(fx.root(), n(name)).unwrap();
        let second = format!("{name}2");
        located.link_to(fx.root(), n(&second)).unwrap();
        let stat = fx.tree.stat(fx.root(), n(&second)).unwrap();
        assert_eq!(stat, located.stat().unwrap());
        assert_eq!(stat.nlink, 2);
        assert_errno(located.link_to(fx.root(), n(&second)), Errno::EXIST);
    }
    fx.tree.mkdir(fx.root(), n("dir"), 0o700).unwrap();
    let dir = fx.tree.open_dir(fx.root(), n("dir")).unwrap();
    assert_errno(dir.located().link_to(fx.root(), n("dir2")), Errno::PERM);
}

#[test]
fn renames_replace_refuse_or_exchange() {
    let fx = Fixture::new();
    fx.write("a", "a");
    fx.write("b", "b");
    fx.tree.mkdir(fx.root(), n("dir"), 0o700).unwrap();
    let dir = fx.tree.open_dir(fx.root(), n("dir")).unwrap();
    let rename = |from, to_dir, to, mode| fx.tree.rename(fx.root(), n(from), to_dir, n(to), mode);
    assert_errno(rename("a", fx.root(), "b", RenameMode::NoReplace), Errno::EXIST);
    rename("a", fx.root(), "b", RenameMode::Exchange).unwrap();
    assert_eq!(fs::read(fx.path("a")).unwrap(), b"b");
    assert_errno(rename("a", fx.root(), "none", RenameMode::Exchange), Errno::NOENT);
    rename("a", &dir, "a", RenameMode::NoReplace).unwrap();
    rename("b", &dir, "a", RenameMode::Replace).unwrap();
    assert_eq!(fs::read(fx.path("dir/a")).unwrap(), b"a");
    assert_errno(fx.tree.rmdir(fx.root(), n("dir")), Errno::NOTEMPTY);
    assert_errno(fx.tree.unlink(fx.root(), n("dir")), Errno::ISDIR);
    fx.tree.unlink(&dir, n("a")).unwrap();
    fx.tree.rmdir(fx.root(), n("dir")).unwrap();
    assert_errno(fx.tree.mkdir(&dir, n("x"), 0o700), Errno::NOENT);

    assert_eq!(RenameMode::from_raw(0).unwrap(), RenameMode::Replace);
    assert_eq!(RenameMode::from_raw(libc::RENAME_NOREPLACE).unwrap(), RenameMode::NoReplace);
    assert_eq!(RenameMode::from_raw(libc::RENAME_EXCHANGE).unwrap(), RenameMode::Exchange);
    for refused in [libc::RENAME_WHITEOUT, 3, 8, 1 << 31] {
        assert_errno(RenameMode::from_raw(refused), Errno::INVAL);
    }
    assert_eq!(XattrMode::from_raw(0).unwrap(), XattrMode::Set);
    assert_eq!(XattrMode::from_raw(1).unwrap(), XattrMode::Create);
    assert_eq!(XattrMode::from_raw(2).unwrap(), XattrMode::Replace);
    for refused in [3, 4, 1 << 31] {
        assert_errno(XattrMode::from_raw(refused), Errno::INVAL);
    }
}

#[test]
fn a_directory_reads_from_any_cookie_while_it_changes() {
    for base in ["/tmp", "/dev/shm"] {
        let dir = TempDir::new_in(base).unwrap();
        let tree = DiskTree::open(dir.path()).unwrap();
        let names: Vec<String> = (0..3000).map(|i| format!("{i:050}")).collect();
        for name in &names {
            fs::write(dir.path().join(name), "").unwrap();
        }
        let mut stream = tree.read_dir(tree.root()).unwrap();
        let all = entries(&mut stream);
        assert_eq!(all.len(), names.len() + 2, "with the two dots, in {base}");
        let found: BTreeSet<&OsStr> = all.iter().map(|(name, ..)| name.as_os_str()).collect();
        assert!(names.iter().all(|name| found.contains(n(name))));
        assert!(found.contains(n(".")) && found.contains(n("..")));
        let dots = all.iter().filter(|(_, kind, _)| *kind == FileKind::Directory).count();
        assert_eq!(dots, 2);
        assert!(stream.next_entry().unwrap().is_none());

        // A reply that was full: one entry was taken too many, again and again.
        stream.seek(0).unwrap();
        let (mut cookie, mut paged) = (0, Vec::new());
        loop {
            stream.seek(cookie).unwrap();
            let mut page = Vec::new();
            while let (true, Some(entry)) = (page.len() <= 40, stream.next_entry().unwrap()) {
                page.push((entry.name.to_owned(), entry.kind, entry.cookie));
            }
            if page.len() > 40 {
                page.pop();
            }
            let Some((.., last)) = page.last() else { break };
            cookie = *last;
            paged.extend(page);
        }
        assert_eq!(paged, all, "in {base}");

        // Removing what was read moves nothing that is still to come.
        for (index, (.., cookie)) in all.iter().enumerate().step_by(700) {
            let mut fresh = tree.read_dir(tree.root()).unwrap();
            fresh.seek(*cookie).unwrap();
            assert_eq!(entries(&mut fresh), all[index + 1..], "in {base}");
        }
        let (_, _, middle) = all[1500];
        for (name, kind, _) in &all[..1500] {
            if *kind == FileKind::Regular {
                tree.unlink(tree.root(), name).unwrap();
            }
        }
        stream.seek(middle).unwrap();
        assert_eq!(entries(&mut stream), all[1501..], "in {base}");

        // From the start, the directory is read anew.
        fs::write(dir.path().join("late"), "").unwrap();
        stream.seek(0).unwrap();
        assert!(entries(&mut stream).iter().any(|(name, ..)| name == "late"));
    }
}

#[test]
fn a_small_file_is_replaced_whole_and_leaves_nothing_beside_it() {
    let fx = Fixture::new();
    for (text, mode) in [("first", 0o600), ("second and longer", 0o644), ("", 0o400)] {
        fx.tree.replace_file(fx.root(), n("file"), text.as_bytes(), mode).unwrap();
        assert_eq!(fs::read_to_string(fx.path("file")).unwrap(), text);
        assert_eq!(fs::metadata(fx.path("file")).unwrap().permissions().mode() & 0o7777, mode);
    }
    fx.tree.mkdir(fx.root(), n("dir"), 0o700).unwrap();
    assert_errno(fx.tree.replace_file(fx.root(), n("dir"), b"x", 0o600), Errno::ISDIR);
    let left: BTreeSet<_> =
        fs::read_dir(fx.dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, BTreeSet::from(["dir".into(), "file".into()]));
}

#[test]
fn a_lock_has_one_holder_at_a_time() {
    let fx = Fixture::new();
    let held = fx.tree.try_lock(fx.root(), n("lock")).unwrap().unwrap();
    assert!(fx.tree.try_lock(fx.root(), n("lock")).unwrap().is_none());
    drop(held);
    assert!(fx.tree.try_lock(fx.root(), n("lock")).unwrap().is_some());
    assert_eq!(fx.tree.stat(fx.root(), n("lock")).unwrap().mode & 0o7777, 0o600);
}

#[test]
fn the_file_system_below_is_described_and_synced() {
    let fx = Fixture::new();
    let stat = fx.tree.stat_file_system().unwrap();
    assert!(stat.blocks >= stat.blocks_free && stat.blocks_free >= stat.blocks_available);
    assert!(stat.fragment_bytes > 0 && stat.block_bytes > 0);
    assert_eq!(stat.name_bytes, 255);
    fx.tree.sync_dir(fx.root()).unwrap();
    fx.tree.sync_file_system().unwrap();
    assert!(rustix::io::fcntl_getfd(fx.root().as_fd()).is_ok());
}
