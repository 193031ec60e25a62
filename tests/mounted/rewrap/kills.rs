//! `kill -9` of the command and of the daemon at random points, many times on one volume: every
//! file reads right with one of the two keys, and a run that is let be completes.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};
use ssefs::sys::fail_point::VARIABLE;

use super::{KEY, check_files, make_files, mount_supplied, rewrap, rewrap_command, two_keys};
use crate::harness::scratch::detach;
use crate::harness::{Bench, Random, assert_same, has_fail_points, skip, succeed, wait_for};

/// Lets it run for a while, then kills it. Whether it was still at work.
fn kill_after(mut child: Child, delay: Duration) -> bool {
    std::thread::sleep(delay);
    child.kill().unwrap();
    !child.wait().unwrap().success()
}

fn start(bench: &Bench, arguments: &[&str]) -> Child {
    let mut command = rewrap_command(bench, arguments);
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// The arguments of a rewrap to one of the two keys.
fn between<'a>(one: &'a str, two: &'a str, round: u64) -> [&'a str; 4] {
    match round % 2 {
        0 => ["--from-key-file", one, "--to-key-file", two],
        _ => ["--from-key-file", two, "--to-key-file", one],
    }
}

#[test]
fn the_command_on_an_unmounted_volume() {
    let Some(bench) = Bench::new() else { return };
    let (one, two) = two_keys(&bench);
    mount_supplied(&bench, &one);
    let files = make_files(&bench, 150);
    bench.unmount();
    let mut random = Random::new(11);
    let mut killed = 0;
    for round in 0..24 {
        let arguments = between(&one, &two, round);
        let mut delay = 2 + random.below(30);
        let mut struck = 0;
        // Killed again and again on the way from one key to the other.
        while struck < 3 && kill_after(start(&bench, &arguments), Duration::from_millis(delay)) {
            struck += 1;
            delay += random.below(30);
        }
        killed += struck;
        if struck > 0 {
            each_file_opens_with_one_of_the_keys(&bench, &files, &[&one, &two], round);
        }
        let finished = rewrap(&bench, &arguments);
        assert_eq!(finished["left"], 0, "{finished}");
    }
    assert!(killed > 20, "only {killed} kills struck");
    mount_supplied(&bench, &one);
    check_files(&bench, &files, "in the end");
    bench.unmount();
    let report = rewrap(&bench, &["--from-key-file", &one, "--to-key-file", &one]);
    assert_eq!(report["already_there"], 150, "{report}");
}

#[track_caller]
fn each_file_opens_with_one_of_the_keys(
    bench: &Bench,
    files: &BTreeMap<PathBuf, Vec<u8>>,
    keys: &[&str],
    round: u64,
) {
    let mut opened: BTreeMap<&PathBuf, usize> = BTreeMap::new();
    let mut mounts = 0;
    for key in keys {
        let arguments = ["--mode", "supplied", "--key-file", key];
        let output = bench.mount_command(&arguments).output().unwrap();
        if !output.status.success() {
            assert_eq!(output.status.code(), Some(KEY), "{output:?}");
            continue;
        }
        mounts += 1;
        for (path, data) in files {
            match fs::read(bench.file(path)) {
                Ok(read) => {
                    assert_same(&read, data, &format!("round {round}: {}", path.display()));
                    *opened.entry(path).or_default() += 1;
                }
                Err(error) => {
                    let errno = error.raw_os_error();
                    assert_eq!(errno, Some(Errno::ACCESS.raw_os_error()), "{}", path.display());
                }
            }
        }
        bench.unmount();
    }
    assert!(mounts > 0, "round {round}: no key opens the volume");
    assert!(opened.len() == files.len(), "round {round}: some files open with neither key");
    assert!(opened.values().all(|count| *count == 1), "round {round}");
}

#[test]
fn the_command_on_a_mounted_volume() {
    let Some(bench) = Bench::new() else { return };
    let (one, _) = two_keys(&bench);
    bench.mount(&[]);
    bench.unmount();
    mount_supplied(&bench, &one);
    let files = make_files(&bench, 150);
    let open = OpenOptions::new().read(true).write(true).open(bench.file("f0")).unwrap();
    let mut random = Random::new(12);
    let mut killed = 0;
    for round in 0..30 {
        let to: &[&str] = match round % 2 {
            0 => &["--from-key-file", &one, "--to", "managed"],
            _ => &["--from-key-file", &one, "--to-key-file", &one],
        };
        let delay = Duration::from_millis(2 + random.below(60));
        killed += u64::from(kill_after(start(&bench, to), delay));
        check_files(&bench, &files, &format!("round {round}"));
        if round % 5 == 4 {
            assert_eq!(rewrap(&bench, to)["left"], 0);
        }
    }
    assert!(killed > 10, "only {killed} kills struck");
    open.write_all_at(&files[Path::new("f0")], 0).unwrap();
    drop(open);
    bench.unmount();
    mount_supplied(&bench, &one);
    check_files(&bench, &files, "in the end");
    bench.unmount();
}

#[test]
fn the_daemon_under_the_command() {
    let Some(bench) = Bench::new() else { return };
    let (one, _) = two_keys(&bench);
    bench.mount(&[]);
    bench.unmount();
    mount_supplied(&bench, &one);
    let files = make_files(&bench, 120);
    let mut random = Random::new(13);
    let mut broken = 0;
    for round in 0..16 {
        let to: &[&str] = match round % 2 {
            0 => &["--from-key-file", &one, "--to", "managed"],
            _ => &["--from-key-file", &one, "--to-key-file", &one],
        };
        let daemon = Pid::from_raw(bench.daemon().cast_signed()).unwrap();
        // Some files are open for writing as it dies, some are closed.
        let open: Vec<_> = ["f0", "d/f1"]
            .map(|name| OpenOptions::new().write(true).open(bench.file(name)).unwrap())
            .into();
        for file in &open {
            file.write_all_at(b"", 0).unwrap();
        }
        let mut child = start(&bench, to);
        std::thread::sleep(Duration::from_millis(5 + random.below(60)));
        kill_process(daemon, Signal::KILL).unwrap();
        broken += u64::from(!child.wait().unwrap().success());
        drop(open);
        bench.wait_for_daemons();
        detach(&bench.mnt());
        // Unmounted and not recovered yet, every other time.
        if round % 4 == 1 {
            assert_eq!(rewrap(&bench, &["--from-key-file", &one, "--to", "managed"])["left"], 0);
        }
        let mounted = wait_for(Duration::from_secs(10), || {
            let arguments = ["--mode", "supplied", "--key-file", &one];
            bench.mount_command(&arguments).output().unwrap().status.success()
        });
        assert!(mounted, "round {round}: the volume does not mount");
        check_files(&bench, &files, &format!("round {round}"));
    }
    assert!(broken > 4, "only {broken} deaths broke a rewrap off");
    assert_eq!(rewrap(&bench, &["--from-key-file", &one, "--to-key-file", &one])["left"], 0);
    check_files(&bench, &files, "in the end");
    bench.unmount();
}

/// The new envelope is made and not written yet.
#[test]
fn the_daemon_at_its_fail_point() {
    if !has_fail_points() {
        return skip("only a debug build has fail points");
    }
    let Some(bench) = Bench::new() else { return };
    let (one, _) = two_keys(&bench);
    bench.mount(&[]);
    bench.unmount();
    mount_supplied(&bench, &one);
    let files = make_files(&bench, 30);
    bench.unmount();
    for count in [1, 2, 9] {
        let mut armed = bench.mount_command(&["--mode", "supplied", "--key-file", &one]);
        succeed(armed.env(VARIABLE, format!("volume.rewrap.before_write:{count}")));
        // Files that somebody has open are rewrapped by the mount.
        let open: Vec<_> = files.keys().map(|path| File::open(bench.file(path)).unwrap()).collect();
        start(&bench, &["--from-key-file", &one, "--to", "managed"]).wait().unwrap();
        drop(open);
        assert!(bench.daemons().is_empty(), "hit {count} never came");
        detach(&bench.mnt());
        mount_supplied(&bench, &one);
        check_files(&bench, &files, &format!("killed at hit {count}"));
        bench.unmount();
    }
    assert_eq!(rewrap(&bench, &["--from-key-file", &one, "--to", "managed"])["left"], 0);
    mount_supplied(&bench, &one);
    check_files(&bench, &files, "in the end");
    bench.unmount();
}
