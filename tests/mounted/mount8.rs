//! `mount(8)`, `/etc/fstab` and `umount(8)` with the names where they are installed.
//!
//! mount(8) looks for names in `/sbin` only. Those of somebody's installation are used as they
//! are; else `scripts/install` puts them there for the length of a test. Parallel test programs
//! take turns by a lock file.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::harness::scratch::is_mounted;
use crate::harness::{Bench, assert_errno, needs_program, needs_root, pattern, succeed, transport};

const HELPERS: [&str; 2] = ["mount.ssefs", "mount.fuse.ssefs"];

/// A test's directories, with the names in place.
struct Fstab {
    bench: Bench,
    // Dropped after the bench: what is mounted goes first.
    _helpers: SbinNames,
}

/// The names in `/sbin`; those that were put there for the test are taken away again.
struct SbinNames {
    placed: Vec<PathBuf>,
    _turn: File,
}

impl SbinNames {
    /// Takes a turn, and puts those in place that nobody has installed.
    fn place(bench: &Bench) -> Self {
        let turn = File::create("/tmp/ssefs-test-names.lock").unwrap();
        flock(&turn, FlockOperation::LockExclusive).unwrap();
        let mut names = Self { placed: Vec::new(), _turn: turn };
        for name in HELPERS {
            let path = Path::new("/sbin").join(name);
            // A link to nowhere is what a killed run left: its scratch directory is gone.
            if fs::symlink_metadata(&path).is_ok() && fs::metadata(&path).is_err() {
                fs::remove_file(&path).unwrap();
            }
            if fs::metadata(&path).is_err() {
                std::os::unix::fs::symlink(bench.path("prefix/bin/ssefs"), &path).unwrap();
                names.placed.push(path);
            } else {
                eprintln!("{}: is installed, and what is tested", path.display());
            }
        }
        names
    }
}

impl Drop for SbinNames {
    fn drop(&mut self) {
        for path in &self.placed {
            let _ = fs::remove_file(path);
        }
    }
}

impl Fstab {
    fn new() -> Option<Self> {
        if !needs_root() || !needs_program("mount") {
            return None;
        }
        let bench = Bench::new()?;
        install(&bench);
        let names = SbinNames::place(&bench);
        Some(Self { bench, _helpers: names })
    }

    /// mount(8) of the usual directories with these options and words before them.
    fn mount(&self, words: &[&str], options: &str) -> Command {
        let mut command = Command::new("mount");
        command.args(words).arg("-o").arg(format!("{},{options}", own_options(&self.bench)));
        command.arg(self.bench.backing()).arg(self.bench.mnt());
        command.current_dir("/");
        command
    }

    fn remount(&self, options: &str) -> Command {
        let mut command = Command::new("mount");
        command.arg("-o").arg(format!("remount,{options}")).arg(self.bench.mnt());
        command
    }

    fn umount(&self) {
        self.bench.until_unused(Command::new("umount").arg(self.bench.mnt()));
        assert!(!is_mounted(&self.bench.mnt()));
        self.bench.wait_for_daemons();
    }

    /// The mount's line in the kernel's table.
    fn line(&self) -> String {
        let table = fs::read_to_string("/proc/self/mounts").unwrap();
        let place = format!(" {} ", self.bench.mnt().display());
        table.lines().find(|line| line.contains(&place)).expect("mounted").to_owned()
    }
}

/// What `scripts/install` would put in place, with the program under test.
fn install(bench: &Bench) {
    // Built in a directory of its own would take minutes: the script is given what is built.
    let (target, bin) = (bench.directory("target"), bench.directory("no-cargo"));
    fs::create_dir(target.join("release")).unwrap();
    let program = bench.ssefs::<&str>(&[]).get_program().to_owned();
    fs::copy(program, target.join("release/ssefs")).unwrap();
    for name in ["bash", "dirname", "install", "ln", "sed"] {
        let found = ["/usr/bin", "/bin"].map(|dir| Path::new(dir).join(name));
        let found = found.iter().find(|path| path.exists()).expect("a basic program");
        std::os::unix::fs::symlink(found, bin.join(name)).unwrap();
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/install");
    let run = |destdir: &Path, prefix: &Path| {
        let mut command = Command::new(bin.join("bash"));
        command.arg(&script).arg("--prefix").arg(prefix).arg("--destdir").arg(destdir);
        succeed(command.env("PATH", &bin).env("CARGO_TARGET_DIR", &target));
    };
    run(&bench.path("image"), Path::new("/opt/ssefs"));
    let image = bench.path("image");
    for place in ["opt/ssefs/bin/ssefs", "opt/ssefs/share/man/man1/ssefs.1"] {
        assert!(image.join(place).is_file(), "{place} was not installed");
    }
    for helper in HELPERS {
        let link = fs::read_link(image.join("sbin").join(helper)).unwrap();
        assert_eq!(link, Path::new("/opt/ssefs/bin/ssefs"), "{helper}");
    }
    fs::create_dir_all(bench.path("prefix/bin")).unwrap();
    fs::rename(image.join("opt/ssefs/bin/ssefs"), bench.path("prefix/bin/ssefs")).unwrap();
}

#[test]
fn both_types_mount_and_hide_what_is_secret() {
    let Some(fstab) = Fstab::new() else { return };
    let bench = &fstab.bench;
    let key = bench.private_file("the-key-file", [9; 32]);
    let options = format!("mode=supplied,key_file={},allow_other,noexec", key.display());
    for kind in ["fuse.ssefs", "ssefs"] {
        succeed(&mut fstab.mount(&["-t", kind], &options));
        let line = fstab.line();
        let fields: Vec<&str> = line.split(' ').collect();
        assert_eq!(fields[0], bench.backing().to_str().unwrap(), "{line}");
        assert_eq!(fields[2], "fuse.ssefs", "{line}");
        for word in ["rw", "nosuid", "nodev", "noexec", "allow_other"] {
            assert!(fields[3].split(',').any(|option| option == word), "no {word} in {line}");
        }
        for secret in ["the-key-file", "keystore", "mode=", "supplied"] {
            assert!(!fields[3].contains(secret), "{secret} shows in {line}");
        }
        fs::write(bench.file(kind), kind).unwrap();
        assert_eq!(fs::read_to_string(bench.file("fuse.ssefs")).unwrap(), "fuse.ssefs");
        fstab.umount();
    }
}

#[test]
fn lines_of_fstab_mount_with_options_meant_for_others() {
    let Some(fstab) = Fstab::new() else { return };
    let bench = &fstab.bench;
    let line = format!(
        "{} {} fuse.ssefs {},_netdev,nofail,noauto,user,x-systemd.automount,\
         x-systemd.idle-timeout=60,comment=a-word,allow_other,exec 0 0\n",
        bench.backing().display(),
        bench.mnt().display(),
        own_options(bench)
    );
    fs::write(bench.path("fstab"), line).unwrap();
    let mount = |words: &[&str]| {
        let mut command = Command::new("mount");
        command.arg("--fstab").arg(bench.path("fstab")).args(words);
        command
    };
    succeed(mount(&[]).arg(bench.mnt()));
    fs::write(bench.file("f"), b"content").unwrap();
    assert!(!fstab.line().contains("noexec"), "{}", fstab.line());
    fstab.umount();
    succeed(mount(&[]).arg(bench.backing()));
    assert_eq!(fs::read(bench.file("f")).unwrap(), b"content");
    fstab.umount();
    succeed(mount(&["-o", "ro"]).arg(bench.mnt()));
    assert_errno(fs::write(bench.file("g"), b"new"), Errno::ROFS);
    fstab.umount();
    // A dry run mounts nothing.
    succeed(mount(&["-f"]).arg(bench.mnt()));
    assert!(!is_mounted(&bench.mnt()));
}

#[test]
fn a_refusal_reaches_mount_8() {
    let Some(fstab) = Fstab::new() else { return };
    let bench = &fstab.bench;
    for (options, code, expected) in [
        ("no_such_option", 1, "'no_such_option'"),
        ("mode=aes", 1, "'kms'"),
        ("mode=kms,key_id=alias/a", 32, "ssefs key create"),
        ("mode=supplied,key_file=/no/such/key", 32, "/no/such/key"),
    ] {
        let output = fstab.mount(&["-t", "fuse.ssefs"], options).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{options}: {text}");
        assert!(text.contains(expected), "{options}: {text}");
        assert!(!is_mounted(&bench.mnt()));
    }
    let output = fstab.remount("ro").output().unwrap();
    assert!(!output.status.success(), "remounted what is not mounted");
}

#[test]
fn remounting_read_only_and_back() {
    let Some(fstab) = Fstab::new() else { return };
    let bench = &fstab.bench;
    succeed(&mut fstab.mount(&["-t", "fuse.ssefs"], "rw"));
    let data = pattern(1, 300_000);
    fs::write(bench.file("f"), &data).unwrap();
    let mut open = File::options().append(true).open(bench.file("f")).unwrap();
    open.write_all(b"written before").unwrap();
    let busy = fstab.remount("ro").output().unwrap();
    assert!(!busy.status.success(), "read-only under an open writer");
    let text = String::from_utf8_lossy(&busy.stderr);
    assert!(text.contains("open for writing") || text.contains("busy"), "{text}");
    open.write_all(b" and after").unwrap();
    drop(open);
    let expected = [&data[..], b"written before and after"].concat();
    for _ in 0..2 {
        bench.until_unused(&mut fstab.remount("ro"));
        assert!(fstab.line().contains(" ro,"), "{}", fstab.line());
        assert_errno(fs::write(bench.file("g"), b"new"), Errno::ROFS);
        assert_errno(File::options().write(true).open(bench.file("f")), Errno::ROFS);
        assert_errno(fs::remove_file(bench.file("f")), Errno::ROFS);
        assert_eq!(fs::read(bench.file("f")).unwrap(), expected);
        succeed(&mut fstab.remount("rw"));
        assert!(fstab.line().contains(" rw,"), "{}", fstab.line());
        fs::write(bench.file("g"), b"new").unwrap();
    }
    assert!(fstab.line().contains("nosuid"), "a remount lost an option: {}", fstab.line());
    fstab.umount();
    // What the daemon was told to begin with is no flag of the kernel's.
    succeed(&mut fstab.mount(&["-t", "fuse.ssefs"], "ro"));
    let refused = fstab.remount("rw").output().unwrap();
    let text = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && text.contains("unmount it"), "{text}");
    assert!(fstab.line().contains(" ro,"), "{}", fstab.line());
    assert_eq!(fs::read(bench.file("f")).unwrap(), expected);
    fstab.umount();
}

#[test]
fn a_lazy_umount_ends_with_its_last_user() {
    let Some(fstab) = Fstab::new() else { return };
    let bench = &fstab.bench;
    succeed(&mut fstab.mount(&["-t", "fuse.ssefs"], "rw"));
    let mut open = File::create(bench.file("f")).unwrap();
    open.write_all(b"before ").unwrap();
    let busy = Command::new("umount").arg(bench.mnt()).output().unwrap();
    assert!(!busy.status.success());
    succeed(Command::new("umount").arg("-l").arg(bench.mnt()));
    assert!(!is_mounted(&bench.mnt()));
    open.write_all(b"and after").unwrap();
    open.sync_all().unwrap();
    drop(open);
    bench.wait_for_daemons();
    succeed(&mut fstab.mount(&["-t", "fuse.ssefs"], "rw"));
    assert_eq!(fs::read(bench.file("f")).unwrap(), b"before and after");
    fstab.umount();
}

/// What a mount of these tests needs beside the options that it is about.
fn own_options(bench: &Bench) -> String {
    let keystore = format!("keystore={}", bench.keystore().display());
    std::iter::once(keystore).chain(transport()).collect::<Vec<_>>().join(",")
}

#[test]
fn paths_with_commas_and_blanks() {
    let Some(fstab) = Fstab::new() else { return };
    let bench = &fstab.bench;
    let backing = bench.directory("a, b,ro,suid");
    for words in [&["-t", "fuse.ssefs"][..], &["-t", "ssefs"]] {
        let mut command = Command::new("mount");
        command.args(words).arg("-o").arg(own_options(bench));
        succeed(command.arg(&backing).arg(bench.mnt()));
        fs::write(bench.file("f"), b"content").unwrap();
        let line = fstab.line();
        let options: Vec<&str> = line.split(' ').nth(3).unwrap().split(',').collect();
        assert!(options.contains(&"rw") && !options.contains(&"suid"), "{line}");
        assert!(options.contains(&"nosuid"), "the path gave an option: {line}");
        fstab.umount();
    }
    assert!(backing.join("f").is_file());
}
