//! What goes wrong around a mount: foreign and damaged files, a full disk, things that vanish
//! or are forbidden underneath. Each has its error, and everything else works on.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::fs::{XattrFlags, getxattr, setxattr};
use rustix::io::Errno;

use crate::harness::{
    ALICE, Bench, Mount, Setup, User, assert_errno, assert_same, counters, needs_program,
    needs_root, pattern, succeed, sys, wait_for,
};

crate::matrix! { Setup::new().option("ttl=0").mount_only("nothing lies underneath") =>
    foreign_files_are_refused_and_can_be_deleted,
    damaged_headers_are_refused,
    a_backing_file_that_vanished,
    a_backing_file_that_was_replaced,
}

/// Bytes for which a header of this volume is a starting point.
fn header_of(m: &Mount, name: &str) -> Vec<u8> {
    fs::read(m.backing().join(name)).unwrap()
}

/// Each file answers `EIO`, is named in the log, and goes away when deleted.
#[track_caller]
fn all_refused(m: &Mount, names: &[&str]) {
    for name in names {
        assert_errno(fs::read(m.path(name)), Errno::IO);
        assert_errno(File::options().append(true).open(m.path(name)), Errno::IO);
        assert!(m.log().contains(name), "the log does not name {name}:\n{}", m.log());
    }
    assert_same(&fs::read(m.path("good")).unwrap(), &pattern(1, 9000), "the rest of the tree");
    fs::write(m.path("new"), b"new").unwrap();
    for name in names {
        fs::metadata(m.path(name)).unwrap();
        fs::rename(m.path(name), m.path("moved")).unwrap();
        fs::remove_file(m.path("moved")).unwrap();
        assert!(!m.backing().join(name).exists());
    }
}

fn foreign_files_are_refused_and_can_be_deleted(m: &mut Mount) {
    fs::write(m.path("good"), pattern(1, 9000)).unwrap();
    fs::create_dir(m.path("dir")).unwrap();
    fs::write(m.backing().join("letter"), b"Dear reader").unwrap();
    fs::write(m.backing().join("dir/picture"), pattern(2, 100_000)).unwrap();
    fs::write(m.backing().join("page"), vec![0; 4096]).unwrap();
    all_refused(m, &["letter", "dir/picture", "page"]);
}

fn damaged_headers_are_refused(m: &mut Mount) {
    fs::write(m.path("good"), pattern(1, 9000)).unwrap();
    m.remount();
    let good = header_of(m, "good");
    let mut version = good.clone();
    version[8] = 2;
    let mut state = good.clone();
    state[128..384].fill(0);
    for (name, content) in [
        ("cut-short", &good[..4095]),
        ("cut-to-one", &good[..1]),
        ("newer-version", &version),
        ("no-state", &state),
        ("cut-block", &good[..good.len() - 5]),
    ] {
        fs::write(m.backing().join(name), content).unwrap();
    }
    all_refused(m, &["cut-short", "cut-to-one", "newer-version", "no-state"]);
    // A file that was cut opens or not; it never reads as if it were whole.
    assert_errno(fs::read(m.path("cut-block")), Errno::IO);
}

fn a_backing_file_that_vanished(m: &mut Mount) {
    let data = pattern(1, 9000);
    for name in ["closed", "open", "good"] {
        fs::write(m.path(name), &data).unwrap();
    }
    m.remount();
    let open = File::open(m.path("open")).unwrap();
    fs::metadata(m.path("closed")).unwrap();
    for name in ["closed", "open"] {
        fs::remove_file(m.backing().join(name)).unwrap();
        let error = File::open(m.path(name)).unwrap_err();
        let number = error.raw_os_error().unwrap();
        let expected = [Errno::NOENT, Errno::STALE].map(Errno::raw_os_error);
        assert!(expected.contains(&number), "{name}: {error}");
    }
    let mut back = vec![0; 9000];
    open.read_exact_at(&mut back, 0).unwrap();
    assert_same(&back, &data, "an open file lives on");
    assert_same(&fs::read(m.path("good")).unwrap(), &data, "its neighbour");
    fs::write(m.path("closed"), b"again").unwrap();
    assert_eq!(fs::read(m.path("closed")).unwrap(), b"again");
}

fn a_backing_file_that_was_replaced(m: &mut Mount) {
    fs::write(m.path("f"), pattern(1, 9000)).unwrap();
    fs::write(m.path("other"), pattern(2, 70_000)).unwrap();
    m.remount();
    assert_same(&fs::read(m.path("f")).unwrap(), &pattern(1, 9000), "before");
    fs::copy(m.backing().join("other"), m.backing().join("staged")).unwrap();
    fs::rename(m.backing().join("staged"), m.backing().join("f")).unwrap();
    assert_same(&fs::read(m.path("f")).unwrap(), &pattern(2, 70_000), "after");
}

#[test]
fn access_lists_are_unknown_unless_asked_for() {
    let setup = Setup::new().mount_only("the native file system has them");
    let Some(m) = setup.start() else { return };
    fs::create_dir(m.path("d")).unwrap();
    for name in ["system.posix_acl_access", "system.posix_acl_default"] {
        assert_errno(getxattr(m.path("d"), name, &mut [0; 64]), Errno::OPNOTSUPP);
        let set = setxattr(m.path("d"), name, &access_list(), XattrFlags::empty());
        assert_errno(set, Errno::OPNOTSUPP);
    }
    m.finish();
}

/// A list that gives one more user the right to read, as the kernel takes it: version 2, then
/// tag, rights and id of each entry.
fn access_list() -> Vec<u8> {
    let entries = [(0x01_u16, 6_u16, u32::MAX), (0x02, 4, ALICE), (0x04, 4, u32::MAX)];
    let closing = [(0x10, 4, u32::MAX), (0x20, 4, u32::MAX)];
    let mut bytes = 2_u32.to_le_bytes().to_vec();
    for (tag, rights, id) in entries.into_iter().chain(closing) {
        bytes.extend_from_slice(&tag.to_le_bytes());
        bytes.extend_from_slice(&rights.to_le_bytes());
        bytes.extend_from_slice(&id.to_le_bytes());
    }
    bytes
}

#[test]
fn a_backing_directory_that_is_forbidden_comes_back() {
    let owner = User::ordinary(crate::harness::NOBODY);
    let setup = Setup::new().option("ttl=0").owned_by(owner.clone());
    let Some(m) = setup.mount_only("nothing lies underneath").start() else { return };
    owner.run(|| {
        fs::create_dir(m.path("d")).unwrap();
        fs::write(m.path("d/f"), b"content").unwrap();
    });
    for place in ["", "d"] {
        let path = m.backing().join(place);
        fs::set_permissions(&path, Permissions::from_mode(0o000)).unwrap();
        owner.run(|| {
            assert_errno(fs::read(m.path("d/f")), Errno::ACCESS);
            assert_errno(fs::write(m.path("d/g"), b"new"), Errno::ACCESS);
        });
        fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
        owner.run(|| assert_eq!(fs::read(m.path("d/f")).unwrap(), b"content"));
    }
    m.finish();
}

/// A small file system of its own as the backing directory.
struct Small {
    bench: Bench,
}

impl Small {
    fn tmpfs() -> Option<Self> {
        if !needs_root() {
            return None;
        }
        let bench = Bench::new()?;
        let mut mount = Command::new("mount");
        succeed(mount.args(["-t", "tmpfs", "-o", "size=4m", "tmpfs"]).arg(bench.backing()));
        Some(Self { bench })
    }

    fn ext4() -> Option<Self> {
        if !needs_root() || !needs_program("mkfs.ext4") {
            return None;
        }
        let bench = Bench::new()?;
        let image = bench.path("image");
        File::create(&image).unwrap().set_len(16 << 20).unwrap();
        succeed(Command::new("mkfs.ext4").args(["-q", "-m", "0"]).arg(&image));
        succeed(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(bench.backing()));
        Some(Self { bench })
    }

    fn remount(&self, options: &str) {
        let mut mount = Command::new("mount");
        succeed(mount.args(["-o", &format!("remount,{options}")]).arg(self.bench.backing()));
    }

    fn finish(self) {
        self.bench.until_unused(Command::new("umount").arg(self.bench.backing()));
    }
}

/// Writes until the disk is full; the error must be `ENOSPC`, at a write, the sync or the close.
fn fill(path: &Path) -> Vec<PathBuf> {
    let mut made = Vec::new();
    for number in 0..200 {
        let path = path.with_extension(number.to_string());
        let result = File::create(&path).and_then(|mut file| {
            file.write_all(&pattern(number, 512 << 10))?;
            file.sync_all()?;
            sys::close(file)
        });
        if path.exists() {
            made.push(path);
        }
        if let Err(error) = result {
            assert_eq!(error.raw_os_error(), Some(Errno::NOSPC.raw_os_error()), "{error}");
            return made;
        }
    }
    panic!("a small disk took 100 MiB");
}

fn full_disk(small: &Small, writeback: &str) {
    let bench = &small.bench;
    let data = pattern(77, 300_000);
    bench.mount(&["-o", writeback]);
    fs::write(bench.file("old"), &data).unwrap();
    File::open(bench.file("old")).unwrap().sync_all().unwrap();
    let made = fill(&bench.file("filler"));
    assert!(made.len() > 1, "nothing fitted at all");
    assert_same(&fs::read(bench.file("old")).unwrap(), &data, "while the disk is full");
    let whole = fs::read(&made[0]).unwrap();
    assert_same(&whole, &pattern(0, 512 << 10), "a file that was written before");
    for path in &made[1..] {
        fs::remove_file(path).unwrap();
    }
    // Space comes back, also in the file whose write failed, and the mount has not gone bad.
    let more = pattern(78, 600_000);
    let mut file = File::create(bench.file("new")).unwrap();
    file.write_all(&more).unwrap();
    file.sync_all().unwrap();
    drop(file);
    bench.unmount();
    bench.mount(&["-o", writeback]);
    assert_same(&fs::read(bench.file("old")).unwrap(), &data, "old, mounted again");
    assert_same(&fs::read(bench.file("new")).unwrap(), &more, "new, mounted again");
    assert_same(&fs::read(&made[0]).unwrap(), &whole, "the first, mounted again");
    bench.unmount();
}

/// Found by review: the record of epochs could not be replaced without room for a second one.
fn full_disk_mounts_again(small: &Small) {
    let bench = &small.bench;
    let data = pattern(79, 200_000);
    bench.mount(&[]);
    fs::write(bench.file("old"), &data).unwrap();
    File::open(bench.file("old")).unwrap().sync_all().unwrap();
    bench.unmount();
    // To the last byte and inode, by whoever else uses the disk.
    for len in [1 << 20, 4096, 1] {
        let other = |index: usize| bench.backing().join(format!("other-{len}-{index}"));
        (0..100_000).take_while(|index| fs::write(other(*index), vec![1; len]).is_ok()).count();
    }
    bench.mount(&[]);
    assert_same(&fs::read(bench.file("old")).unwrap(), &data, "on a full disk");
    // The kernel tells of a close a little after it, and until then the file takes its space.
    let is_closed = || counters(&bench.mnt())["open_files"] == 0;
    assert!(wait_for(Duration::from_secs(20), is_closed));
    fs::remove_file(bench.file("old")).unwrap();
    fs::write(bench.file("new"), &data[..50_000]).unwrap();
    File::open(bench.file("new")).unwrap().sync_all().unwrap();
    bench.unmount();
    bench.mount(&[]);
    assert_same(&fs::read(bench.file("new")).unwrap(), &data[..50_000], "mounted again");
    bench.unmount();
}

/// Found by the gate: the kernel says a moment after a removal that it has forgotten the file, and
/// who wrote before that found the disk full.
#[test]
fn space_is_there_as_soon_as_a_file_is_removed() {
    let Some(small) = Small::tmpfs() else { return };
    let bench = &small.bench;
    bench.mount(&["-o", "writeback=off"]);
    fs::write(bench.file("old"), pattern(80, 2 << 20)).unwrap();
    let made = fill(&bench.file("filler"));
    // Known to the kernel for longer, without being open.
    let known = OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(bench.file("old"));
    fs::remove_file(bench.file("old")).unwrap();
    fs::write(bench.file("new"), pattern(81, 1 << 20)).unwrap();
    drop(known.unwrap());
    assert!(made.len() > 1, "nothing fitted at all");
    bench.unmount();
    small.finish();
}

#[test]
fn a_full_tmpfs_mounts_again() {
    let Some(small) = Small::tmpfs() else { return };
    full_disk_mounts_again(&small);
    small.finish();
}

#[test]
fn a_full_ext4_mounts_again() {
    let Some(small) = Small::ext4() else { return };
    full_disk_mounts_again(&small);
    small.finish();
}

#[test]
fn a_full_tmpfs_loses_nothing() {
    let Some(small) = Small::tmpfs() else { return };
    full_disk(&small, "writeback=on");
    small.finish();
}

#[test]
fn a_full_tmpfs_loses_nothing_without_writeback() {
    let Some(small) = Small::tmpfs() else { return };
    full_disk(&small, "writeback=off");
    small.finish();
}

#[test]
fn a_full_ext4_loses_nothing() {
    let Some(small) = Small::ext4() else { return };
    full_disk(&small, "writeback=on");
    small.finish();
}

#[test]
fn overwriting_on_a_full_disk_keeps_a_readable_file() {
    let Some(small) = Small::tmpfs() else { return };
    let bench = &small.bench;
    bench.mount(&["-o", "writeback=off"]);
    let data = pattern(5, 400_000);
    fs::write(bench.file("old"), &data).unwrap();
    File::open(bench.file("old")).unwrap().sync_all().unwrap();
    fill(&bench.file("filler"));
    // In place it needs no space; growing does.
    let file = File::options().read(true).write(true).open(bench.file("old")).unwrap();
    file.write_all_at(b"overwritten", 100_000).unwrap();
    file.sync_all().unwrap();
    let grown = file.write_all_at(&pattern(6, 2 << 20), 400_000).and_then(|()| file.sync_all());
    assert_errno(grown, Errno::NOSPC);
    drop(file);
    let mut expected = data;
    expected[100_000..100_011].copy_from_slice(b"overwritten");
    let back = fs::read(bench.file("old")).unwrap();
    assert_same(&back[..400_000], &expected, "what was there before");
    assert_eq!(back[400_000..], pattern(6, 2 << 20)[..back.len() - 400_000], "what was added");
    bench.unmount();
    bench.mount(&[]);
    assert_same(&fs::read(bench.file("old")).unwrap(), &back, "mounted again");
    bench.unmount();
    small.finish();
}

#[test]
fn a_read_only_medium_is_mounted_read_only() {
    let Some(small) = Small::tmpfs() else { return };
    let bench = &small.bench;
    bench.mount(&[]);
    fs::write(bench.file("f"), b"content").unwrap();
    bench.unmount();
    small.remount("ro");
    bench.mount(&["-o", "ro"]);
    assert_eq!(fs::read(bench.file("f")).unwrap(), b"content");
    assert_errno(fs::write(bench.file("g"), b"new"), Errno::ROFS);
    bench.unmount();
    let message = bench.refused(&mut bench.mount_command(&[]), 3);
    assert!(message.to_lowercase().contains("read-only"), "{message}");
    small.remount("rw");
    bench.mount(&[]);
    fs::write(bench.file("g"), b"new").unwrap();
    bench.unmount();
    small.finish();
}

#[test]
fn a_missing_fuse_device_is_told() {
    if !needs_root() || !needs_program("unshare") {
        return;
    }
    let Some(bench) = Bench::new() else { return };
    let dev = bench.directory("dev");
    let within = |prepare: &str| {
        let mount = bench.mount_command(&[]);
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "bash", "-euc"]);
        command.arg(format!("{prepare}; exec \"$@\"")).arg("bash");
        command.arg(mount.get_program()).args(mount.get_args());
        command
    };
    let hide = format!(
        "touch {0}/null; mount --bind /dev/null {0}/null; mount --rbind {0} /dev",
        dev.display()
    );
    let message = bench.refused(&mut within(&hide), 7);
    assert!(message.contains("modprobe fuse") && message.contains("--device"), "{message}");
    assert_eq!(fs::read_dir(bench.backing()).unwrap().count(), 0, "a volume was begun");
}
