//! How requests reach the daemon: what was asked for comes about or is refused, and a ring serves
//! also those who ask while others wait.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::harness::{Bench, Setup, skip, succeed};

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

/// Where nothing is gathered in memory, closing a file has nothing to wait for.
#[test]
fn closing_asks_only_where_there_is_something_to_flush() {
    let Some(bench) = Bench::new() else { return };
    for (durability, expected) in [("power", 8..=u64::MAX), ("process", 0..=1)] {
        bench.mount(&["-o", &format!("durability={durability}")]);
        for number in 0..8 {
            let path = bench.file(&format!("{durability}-{number}"));
            fs::write(&path, [number; 5000]).unwrap();
            assert_eq!(fs::read(&path).unwrap(), [number; 5000]);
        }
        let stats = succeed(bench.ssefs(&["stats", "--json"]).arg(bench.mnt())).stdout;
        let stats: serde_json::Value = serde_json::from_slice(&stats).unwrap();
        let flushes = stats["operations"]["flushes"].as_u64().unwrap();
        assert!(expected.contains(&flushes), "{durability}: {flushes}");
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
fn is_offered() -> bool {
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
