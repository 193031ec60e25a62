//! A mount that only its user comes into, where the kernel leaves the permissions to the daemon:
//! each call comes out as it does on the file system below.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rustix::fs::{
    Access, AtFlags, CWD, Dir, FileType, Mode, Timespec, Timestamps, UTIME_NOW, XattrFlags,
    accessat, getxattr, mknodat, setxattr, utimensat,
};
use rustix::io::Errno;

use super::ownership::set_mode;
use crate::harness::scratch::detach;
use crate::harness::user::on_own_thread;
use crate::harness::{ALICE, BOB, Mount, NOBODY, Setup, User, assert_errno, skip, sys};

crate::matrix! { Setup::of_nobody() =>
    own_files_obey_their_bits,
    files_of_others_obey_their_bits,
    own_directories_obey_their_bits,
    capabilities_in_a_user_namespace_count,
}

crate::matrix! { Setup::of_nobody().option("default_permissions") =>
    kernel_checks_come_to_the_same,
}

crate::matrix! { Setup::new() =>
    programs_run_by_their_bits,
}

crate::matrix! { Setup::new().mount_only("there root acts as another user as the kernel has it") =>
    who_acts_as_another_user_is_refused,
}

crate::matrix! { Setup::new().option("ttl=1") =>
    a_layer_of_overlayfs_serves_other_users,
}

/// What each call came to, by its name.
type Outcomes = BTreeMap<&'static str, Result<(), i32>>;

fn note<T>(outcomes: &mut Outcomes, name: &'static str, result: io::Result<T>) {
    let plain = result.map(drop).map_err(|error| error.raw_os_error().expect("an errno"));
    assert!(outcomes.insert(name, plain).is_none(), "{name} stands twice");
}

fn names(directory: &Path) -> io::Result<Vec<OsString>> {
    fs::read_dir(directory)?.map(|entry| Ok(entry?.file_name())).collect()
}

fn may(path: &Path, access: Access) -> io::Result<()> {
    Ok(accessat(CWD, path, access, AtFlags::EACCESS)?)
}

/// Everything that a file's bits allow or forbid.
fn try_file(path: &Path) -> Outcomes {
    let mut found = Outcomes::new();
    let options = OpenOptions::new;
    note(&mut found, "exists", may(path, Access::EXISTS));
    note(&mut found, "may read", may(path, Access::READ_OK));
    note(&mut found, "may write", may(path, Access::WRITE_OK));
    note(&mut found, "may run", may(path, Access::EXEC_OK));
    note(&mut found, "may all", may(path, Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK));
    note(&mut found, "read", fs::read(path));
    note(&mut found, "open to write", options().write(true).open(path));
    note(&mut found, "open for both", options().read(true).write(true).open(path));
    note(&mut found, "open or create", options().append(true).create(true).open(path));
    note(&mut found, "create anew", options().write(true).create_new(true).open(path));
    note(&mut found, "run", Command::new(path).status());
    let size = fs::metadata(path).unwrap().len();
    note(&mut found, "cut", sys::truncate(path, size));
    let attribute = c"user.note";
    let set = setxattr(path, attribute, b"x", XattrFlags::empty());
    note(&mut found, "set attribute", set.map_err(io::Error::from));
    let got = getxattr(path, attribute, &mut [0_u8; 8]);
    note(&mut found, "get attribute", got.map_err(io::Error::from));
    note(&mut found, "link", fs::hard_link(path, path.with_extension("link")));
    let _ = fs::remove_file(path.with_extension("link"));
    note(&mut found, "chmod", fs::set_permissions(path, fs::metadata(path).unwrap().permissions()));
    found
}

const SCRIPT: &[u8] = b"#!/bin/true\n";

fn make(path: &Path) {
    fs::write(path, SCRIPT).unwrap();
}

/// A directory of the file system below, which shows what should come about.
fn native(m: &Mount) -> std::path::PathBuf {
    let path = m.scratch().join("native");
    if !path.exists() {
        fs::create_dir(&path).unwrap();
        chown(&path, Some(NOBODY), Some(NOBODY)).unwrap();
    }
    path
}

fn own_files_obey_their_bits(m: &mut Mount) {
    let native = native(m);
    User::ordinary(NOBODY).run(|| {
        make(&m.path("f"));
        make(&native.join("f"));
        for mode in (0..8).map(|bits| bits << 6).chain([0o077, 0o477]) {
            for held in [false, true] {
                let mut files = Vec::new();
                for path in [m.path("f"), native.join("f")] {
                    set_mode(&path, 0o600);
                    files.extend(held.then(|| File::open(&path).unwrap()));
                    set_mode(&path, mode);
                }
                let (here, there) = (try_file(&m.path("f")), try_file(&native.join("f")));
                assert_eq!(here, there, "mode {mode:o}, already open: {held}");
            }
        }
    });
}

fn kernel_checks_come_to_the_same(m: &mut Mount) {
    own_files_obey_their_bits(m);
}

fn files_of_others_obey_their_bits(m: &mut Mount) {
    let native = native(m);
    let owner = User::ordinary(NOBODY);
    owner.run(|| {
        make(&m.path("f"));
        make(&native.join("f"));
    });
    for (uid, gid) in [(BOB, NOBODY), (BOB, BOB)] {
        for mode in [0o000, 0o040, 0o060, 0o050, 0o004, 0o006, 0o001, 0o007, 0o666, 0o707] {
            for path in [m.backing().join("f"), native.join("f")] {
                chown(&path, Some(uid), Some(gid)).unwrap();
                set_mode(&path, mode);
            }
            m.remount();
            let (mut here, mut there) =
                owner.run(|| (try_file(&m.path("f")), try_file(&native.join("f"))));
            if there["may read"].is_err() {
                // To run it the daemon must read it.
                here.remove("run");
                there.remove("run");
            }
            assert_eq!(here, there, "{uid}:{gid}, mode {mode:o}");
        }
    }
}

fn own_directories_obey_their_bits(m: &mut Mount) {
    let native = native(m);
    let try_directory = |path: &Path, round: u32| {
        let mut found = Outcomes::new();
        note(&mut found, "may search", may(path, Access::EXEC_OK));
        note(&mut found, "may list", may(path, Access::READ_OK));
        note(&mut found, "may change", may(path, Access::WRITE_OK));
        // The daemon comes to a directory's names through the directory.
        if may(path, Access::EXEC_OK).is_ok() {
            note(&mut found, "list", names(path));
        }
        note(&mut found, "enter", std::env::set_current_dir(path));
        note(&mut found, "look up", fs::metadata(path.join(format!("none{round}"))));
        let made = path.join(format!("made{round}"));
        note(&mut found, "make file", File::create(&made));
        note(&mut found, "make directory", fs::create_dir(made.with_extension("d")));
        note(&mut found, "make link", symlink("x", made.with_extension("l")));
        note(&mut found, "rename in", fs::rename(path.with_extension("other"), &made));
        make(&path.with_extension("other"));
        found
    };
    // Each thread has a working directory of its own.
    User::ordinary(NOBODY).run(|| {
        for directory in [m.path("d"), native.join("d")] {
            fs::create_dir(&directory).unwrap();
            make(&directory.with_extension("other"));
            names(&directory).unwrap();
        }
        for round in 0..8 {
            set_mode(&m.path("d"), round << 6);
            set_mode(&native.join("d"), round << 6);
            let here = try_directory(&m.path("d"), round);
            let there = try_directory(&native.join("d"), round);
            assert_eq!(here, there, "mode {:o}", round << 6);
            set_mode(&m.path("d"), 0o700);
            set_mode(&native.join("d"), 0o700);
            std::env::set_current_dir("/").unwrap();
        }
    });
}

/// Root reads and writes everything, but runs only what may be run.
fn programs_run_by_their_bits(m: &mut Mount) {
    make(&m.path("f"));
    for mode in [0o000, 0o644, 0o100, 0o010, 0o001, 0o755] {
        set_mode(&m.path("f"), mode);
        let runs = mode & 0o111 != 0;
        assert_eq!(may(&m.path("f"), Access::EXEC_OK).is_ok(), runs, "mode {mode:o}");
        assert_eq!(Command::new(m.path("f")).status().is_ok(), runs, "mode {mode:o}");
        may(&m.path("f"), Access::READ_OK | Access::WRITE_OK).unwrap();
        assert_eq!(fs::read(m.path("f")).unwrap(), SCRIPT);
    }
    fs::create_dir(m.path("d")).unwrap();
    set_mode(&m.path("d"), 0);
    may(&m.path("d"), Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK).unwrap();
    on_own_thread(|| std::env::set_current_dir(m.path("d")).unwrap());
    assert_errno(may(&m.path("none"), Access::EXISTS), Errno::NOENT);
}

fn who_acts_as_another_user_is_refused(m: &mut Mount) {
    fs::create_dir(m.path("d")).unwrap();
    fs::write(m.path("d/f"), b"text").unwrap();
    symlink("f", m.path("d/l")).unwrap();
    fs::create_dir(m.path("d/e")).unwrap();
    set_mode(&m.path("d"), 0o777);
    set_mode(&m.path("d/f"), 0o666);
    let opened = File::open(m.path("d")).unwrap();
    let passed_on = OpenOptions::new().read(true).append(true).open(m.path("d/f")).unwrap();
    on_own_thread(|| {
        sys::act_on_files_as(ALICE);
        // A descriptor that is passed on is as good as ever, and nothing is told about it.
        (&passed_on).write_all(b", more").unwrap();
        passed_on.sync_all().unwrap();
        assert!(!m.log().contains("acts as user"), "{}", m.log());
        let (f, new) = (m.path("d/f"), m.path("d/new"));
        let mode = fs::Permissions::from_mode(0o600);
        let mut found = Outcomes::new();
        note(&mut found, "read", fs::read(&f));
        note(&mut found, "write", OpenOptions::new().write(true).open(&f));
        note(&mut found, "create", File::create(&new));
        note(&mut found, "mkdir", fs::create_dir(&new));
        note(&mut found, "mkfifo", make_fifo(&new));
        note(&mut found, "symlink", symlink("f", &new));
        note(&mut found, "link", fs::hard_link(&f, &new));
        note(&mut found, "unlink", fs::remove_file(&f));
        note(&mut found, "rmdir", fs::remove_dir(m.path("d/e")));
        note(&mut found, "rename", fs::rename(&f, &new));
        note(&mut found, "list", names(&m.path("d")));
        note(&mut found, "readlink", fs::read_link(m.path("d/l")));
        note(&mut found, "truncate", sys::truncate(&f, 0));
        note(&mut found, "chmod", fs::set_permissions(&f, mode));
        note(&mut found, "chown", chown(&f, Some(ALICE), None));
        note(&mut found, "touch", set_times(&f));
        note(&mut found, "access", may(&f, Access::READ_OK));
        note(&mut found, "chdir", std::env::set_current_dir(m.path("d")));
        let set = setxattr(&f, c"user.note", b"x", XattrFlags::empty());
        note(&mut found, "setxattr", set.map_err(io::Error::from));
        let got = getxattr(&f, c"user.note", &mut [0_u8; 8]);
        note(&mut found, "getxattr", got.map_err(io::Error::from));
        let listed = rustix::fs::listxattr(&f, &mut [0_u8; 64]);
        note(&mut found, "listxattr", listed.map_err(io::Error::from));
        let removed = rustix::fs::removexattr(&f, c"user.note");
        note(&mut found, "removexattr", removed.map_err(io::Error::from));
        for (call, outcome) in found {
            assert_eq!(outcome, Err(libc::EACCES), "{call}");
        }
    });
    // Somebody who could not open it himself, and lists what the kernel has not cached.
    User::ordinary(ALICE).run(|| {
        let names = Dir::new(opened).unwrap().map(|name| name.unwrap().file_name().to_owned());
        assert_eq!(names.count(), 5);
    });
    assert_eq!(fs::read(m.path("d/f")).unwrap(), b"text, more");
    assert_eq!(names(&m.path("d")).unwrap().len(), 3);
    let told = m.log();
    let told: Vec<_> = told.lines().filter(|line| line.contains("acts as user")).collect();
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].contains("54321") && told[0].contains("default_permissions"), "{told:?}");
    drop(passed_on);
    // Told to leave it to the kernel, the mode bits decide.
    m.remount_with(&["default_permissions"]);
    on_own_thread(|| {
        sys::act_on_files_as(ALICE);
        assert_eq!(fs::read(m.path("d/f")).unwrap(), b"text, more");
        File::create(m.path("d/new")).unwrap();
    });
}

fn make_fifo(path: &Path) -> io::Result<()> {
    Ok(mknodat(CWD, path, FileType::Fifo, Mode::RUSR, 0)?)
}

fn set_times(path: &Path) -> io::Result<()> {
    let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
    let times = Timestamps { last_access: now, last_modification: now };
    Ok(utimensat(CWD, path, &times, AtFlags::empty())?)
}

/// The kernel looks names of a layer up again in the name of whoever walks there.
fn a_layer_of_overlayfs_serves_other_users(m: &mut Mount) {
    let [other, merged] = ["other", "merged"].map(|name| m.scratch().join(name));
    fs::create_dir(&other).unwrap();
    fs::create_dir(&merged).unwrap();
    fs::create_dir_all(m.path("layer/d")).unwrap();
    fs::write(m.path("layer/d/f"), b"text").unwrap();
    let layers = format!("lowerdir={}:{}", m.path("layer").display(), other.display());
    let mut mount = Command::new("mount");
    mount.args(["-t", "overlay", "overlay", "-o", &layers]).arg(&merged);
    if !mount.status().is_ok_and(|status| status.success()) {
        return skip("overlayfs cannot be mounted here");
    }
    let read = || {
        let by_alice = || fs::read(merged.join("d/f")).map_err(|error| error.to_string());
        User::ordinary(ALICE).run(by_alice)
    };
    let first = read();
    // The names of the layer are then older than the kernel may trust them.
    std::thread::sleep(Duration::from_millis(1200));
    let second = read();
    detach(&merged);
    assert_eq!(first.as_deref(), Ok(&b"text"[..]));
    assert_eq!(second.as_deref(), Ok(&b"text"[..]));
    assert!(!m.log().contains("acts as user"), "{}", m.log());
}

/// Root of a user namespace may do with its user's files what root may.
fn capabilities_in_a_user_namespace_count(m: &mut Mount) {
    let native = native(m);
    let mut both = Vec::new();
    for path in [m.path("f"), native.join("f")] {
        let outcome = User::ordinary(NOBODY).run(|| {
            make(&path);
            set_mode(&path, 0);
            let inside = |words: &[&str]| {
                let mut command = Command::new("unshare");
                command.arg("--map-root-user").args(words).arg(&path);
                command.output().map(|output| (output.status.code(), output.stdout))
            };
            inside(&["true"]).ok().filter(|found| found.0 == Some(0)).map(|_| {
                let read = inside(&["cat"]).unwrap();
                let cut = inside(&["truncate", "-s", "4"]).unwrap();
                let run = inside(&["test", "-x"]).unwrap();
                (read, cut, run, fs::read(&path).map_err(|error| error.raw_os_error()))
            })
        });
        both.push(outcome);
    }
    match &both[1] {
        None => skip("user namespaces are not to be had here"),
        Some((read, ..)) => assert_eq!(read.0, Some(0)),
    }
    assert_eq!(both[0], both[1]);
}
