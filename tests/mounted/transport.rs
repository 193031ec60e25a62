//! How requests reach the daemon: what was asked for comes about or is refused, a ring serves also
//! those who ask while others wait, and when a part of it is lost nobody waits for ever.

mod lost;

use std::fs::{self, DirEntry, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use ssefs::sys::fail_point::VARIABLE;
use ssefs::sys::process::Status;

use crate::harness::{Bench, Mount, Setup, has_fail_points, skip, succeed};

#[test]
fn what_is_asked_for_comes_about_and_stats_tell() {
    let Some(bench) = Bench::new() else { return };
    for (asked, expected) in [
        ("classic", "classic"),
        ("auto", if is_offered() { "uring" } else { "classic" }),
        ("uring", "uring"),
    ] {
        let option = format!("transport={asked}");
        if asked == "uring" && !is_offered() {
            let code = 7;
            let said = bench.refused(&mut bench.mount_command(&["-o", &option]), code);
            assert!(said.contains("transport=uring") && said.contains("enable_uring"), "{said}");
            continue;
        }
        bench.mount(&["-o", &option]);
        let stats = succeed(bench.ssefs(&["stats", "--json"]).arg(bench.mnt())).stdout;
        let stats: serde_json::Value = serde_json::from_slice(&stats).unwrap();
        assert_eq!(stats["transport"], expected, "{asked}");
        fs::write(bench.file("file"), b"text").unwrap();
        assert_eq!(fs::read(bench.file("file")).unwrap(), b"text");
        bench.unmount();
    }
}

/// What was written outlives the daemon already: closing a file has nothing to ask for.
#[test]
fn closing_asks_for_nothing() {
    let Some(bench) = Bench::new() else { return };
    for durability in ["power", "process"] {
        bench.mount(&["-o", &format!("durability={durability}")]);
        for number in 0..8 {
            let path = bench.file(format!("{durability}-{number}"));
            fs::write(&path, [number; 5000]).unwrap();
            assert_eq!(fs::read(&path).unwrap(), [number; 5000]);
        }
        let stats = succeed(bench.ssefs(&["stats", "--json"]).arg(bench.mnt())).stdout;
        let stats: serde_json::Value = serde_json::from_slice(&stats).unwrap();
        let flushes = stats["operations"]["flushes"].as_u64().unwrap();
        assert!(flushes <= 1, "{durability}: {flushes}");
        bench.unmount();
    }
}

/// Syncs wait for the disk in the daemon; those who look names up must not wait with them.
#[test]
fn many_who_wait_do_not_keep_others_waiting() {
    let Some(mount) = Setup::new().start() else { return };
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for number in 0..SYNCING {
            let (path, done) = (mount.path(format!("synced-{number}")), &done);
            scope.spawn(move || {
                let mut file = File::create(path).unwrap();
                while !done.load(Ordering::Relaxed) {
                    file.write_all(&[7; 5000]).unwrap();
                    file.sync_all().unwrap();
                }
            });
        }
        let begin = Instant::now();
        for number in 0..LOOKUPS {
            assert!(!mount.path(format!("missing-{number}")).exists());
        }
        let time = begin.elapsed();
        done.store(true, Ordering::Relaxed);
        assert!(time < LIMIT, "{LOOKUPS} look-ups took {time:?}");
    });
    mount.finish();
}

/// The kernel may not offer a ring after all, or refuse the entries of one thread when it has
/// taken those of another.
#[test]
fn a_refused_ring_is_done_without() {
    if !has_fail_points() {
        return skip("only a debug build has fail points");
    }
    if !is_offered() {
        return;
    }
    let Some(bench) = Bench::new() else { return };
    for point in ["fuse.ring.offer:1", "fuse.ring.register:1", "fuse.ring.register:2"] {
        let armed = format!("refuse:{point}");
        let mut asked_for = bench.mount_command(&["-o", "transport=uring"]);
        let said = bench.refused(asked_for.env(VARIABLE, &armed), 7);
        assert!(said.contains("transport=uring"), "{armed}: {said}");
        succeed(bench.mount_command(&["-o", "transport=auto"]).env(VARIABLE, &armed));
        let stats = succeed(bench.ssefs(&["stats", "--json"]).arg(bench.mnt())).stdout;
        let stats: serde_json::Value = serde_json::from_slice(&stats).unwrap();
        assert_eq!(stats["transport"], "classic", "{armed}");
        fs::write(bench.file("file"), b"text").unwrap();
        assert_eq!(fs::read(bench.file("file")).unwrap(), b"text");
        bench.unmount();
    }
}

/// A panic around a request, outside of the file system's own calls.
#[test]
fn a_panic_around_a_request_is_answered() {
    let Some(mut mount) = armed_ring("panic:fuse.ring.answer:40") else { return };
    let missing = |number| fs::symlink_metadata(mount.path(format!("missing-{number}")));
    let errors = (0..100).map(|number| missing(number).unwrap_err());
    let others: Vec<_> = errors.filter(|error| errno(error) != Errno::NOENT).collect();
    assert!(matches!(&others[..], [error] if errno(error) == Errno::IO), "{others:?}");
    fs::write(mount.path("file"), b"text").unwrap();
    mount.forgive_panics();
    mount.remount();
    assert_eq!(fs::read(mount.path("file")).unwrap(), b"text");
    mount.finish();
}

/// The daemon asks its own mount whether it answers, if the handshake has not told. Killed in that
/// moment it must not wait for its own answer for ever, with the mount in its hands.
#[test]
fn a_daemon_killed_while_it_asks_itself_is_gone() {
    if !has_fail_points() {
        return skip("only a debug build has fail points");
    }
    let Some(bench) = Bench::new() else { return };
    let mut command = bench.mount_command(&["-o", "transport=classic"]);
    let said = bench.refused(command.env(VARIABLE, "fs.statistics:1"), 1);
    assert!(said.contains("signal 9"), "{said}");
    let looked = refused_look(&bench);
    assert!(looked.contains("not connected"), "{looked}");
    bench.unmount();
    if is_offered() {
        succeed(bench.mount_command(&["-o", "transport=uring"]).env(VARIABLE, "fs.statistics:1"));
        let looked = refused_look(&bench);
        assert!(looked.contains("connection abort"), "the first question of another: {looked}");
        bench.unmount();
    }
}

/// What another process is told for asking the mount, within ten seconds.
fn refused_look(bench: &Bench) -> String {
    let mut command = Command::new("timeout");
    let command = command.args(["--signal=KILL", "10", "stat", "-f"]).arg(bench.mnt());
    let output = command.env("LC_ALL", "C").output().unwrap();
    format!("{} {}", output.status, String::from_utf8_lossy(&output.stderr))
}

/// A mount over a ring whose daemon has this fail point armed.
fn armed_ring(fail_point: &str) -> Option<Mount> {
    if !has_fail_points() {
        skip("only a debug build has fail points");
        return None;
    }
    if !is_offered() {
        return None;
    }
    let setup = Setup::new().option("transport=uring").option("writeback=off");
    let setup = setup.env(VARIABLE, fail_point);
    setup.mount_only("a plain directory has no daemon").start()
}

fn errno(error: &std::io::Error) -> Errno {
    Errno::from_io_error(error).expect("the kernel says why")
}

/// What moves much leaves a thread more entries than one; a program that syncs alone was passed on
/// to threads on other CPUs from then on.
#[test]
fn syncs_stay_on_their_cpu_after_a_large_file() {
    const SYNCS: u64 = 400;
    if !is_offered() {
        return;
    }
    let Some(bench) = Bench::new() else { return };
    bench.mount(&["-o", "transport=uring"]);
    let daemon = bench.daemon();
    let passed_on = || switches(daemon, "slow-");
    let file = File::create(bench.file("log")).unwrap();
    let large = File::create(bench.file("large")).unwrap();
    // Which thread is left with more entries is chance.
    for round in 0..8 {
        for place in 0..48 {
            large.write_all_at(&vec![7; 1 << 20], place << 20).unwrap();
        }
        large.sync_all().unwrap();
        let before = passed_on();
        for place in 0..SYNCS {
            file.write_all_at(b"line", place * 4).unwrap();
            file.sync_data().unwrap();
        }
        let passed_on = passed_on() - before;
        assert!(passed_on < SYNCS / 2, "{passed_on} for {SYNCS} syncs in round {round}");
    }
    drop((file, large));
    bench.unmount();
}

/// How often the threads of that name have waited for something.
fn switches(daemon: u32, name: &str) -> u64 {
    let of_thread = |thread: DirEntry| {
        // What has ended by now has no fields.
        let status = Status::of(thread.file_name().to_str()?.parse().ok()?);
        status.field("Name").next().filter(|it| it.starts_with(name))?;
        status.field("voluntary_ctxt_switches").next()?.parse::<u64>().ok()
    };
    let threads = fs::read_dir(format!("/proc/{daemon}/task")).unwrap();
    threads.filter_map(|thread| of_thread(thread.unwrap())).sum()
}

/// Large and small requests at the same time: each is answered with its own data.
#[test]
fn large_and_small_requests_do_not_mix() {
    let Some(mount) = Setup::new().option("writeback=off").start() else { return };
    std::thread::scope(|scope| {
        for number in 0..8_u8 {
            let path = mount.path(format!("file-{number}"));
            scope.spawn(move || {
                let file = File::options().read(true).write(true).create_new(true).open(&path);
                let file = file.unwrap();
                for round in 0..20_u8 {
                    let byte = number * 20 + round;
                    let large = vec![byte; 700_000];
                    file.write_all_at(&large, 0).unwrap();
                    file.write_all_at(&[byte; 10], 700_000).unwrap();
                    assert!(fs::metadata(&path).unwrap().len() == 700_010);
                    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
                    let mut found = vec![0; 700_010];
                    file.read_exact_at(&mut found, 0).unwrap();
                    assert!(found.iter().all(|&found| found == byte), "file {number}");
                }
            });
        }
    });
    mount.finish();
}

/// Whether the kernel offers FUSE over io_uring to a mount made now.
pub fn is_offered() -> bool {
    let offered = fs::read_to_string("/sys/module/fuse/parameters/enable_uring");
    let offered = offered.is_ok_and(|value| value.trim() == "Y");
    if !offered {
        skip("only the refusal of a ring is seen: the kernel does not offer it");
    }
    offered
}

const SYNCING: usize = 12;
const LOOKUPS: usize = 300;
const LIMIT: Duration = Duration::from_secs(20);
