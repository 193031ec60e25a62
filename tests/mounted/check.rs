//! `ssefs check` of a volume that is mounted and being written, and of one of mode kms.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};

use crate::harness::{Bench, Random, pattern, succeed};

const IN_USE: i32 = 8;
const DAMAGED: i32 = 14;
const NOT_CHECKED: i32 = 16;

fn check_command(bench: &Bench, options: &[&str]) -> Command {
    let mut command = bench.ssefs(&["check", "--quiet", "--json", "--keystore"]);
    command.arg(bench.keystore()).args(options).arg(bench.backing());
    command
}

/// The report of a check that must end with this code.
#[track_caller]
fn check(bench: &Bench, options: &[&str], code: i32) -> Value {
    let output = check_command(bench, options).output().unwrap();
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// `ssefs key` or `ssefs audit`, its answer as it stands.
#[track_caller]
fn ssefs(bench: &Bench, arguments: &[&str]) -> String {
    let mut command = bench.ssefs(arguments);
    let output = succeed(command.arg("--keystore").arg(bench.keystore()));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_mount_that_writes_all_the_time_is_never_taken_for_damage() {
    let Some(bench) = Bench::new() else { return };
    bench.mount(&[]);
    fs::create_dir(bench.file("d")).unwrap();
    for index in 0..20 {
        fs::write(bench.file(format!("d/still-{index}")), pattern(index, 30_000)).unwrap();
    }
    fs::write(bench.file("busy"), pattern(99, 3 << 20)).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut random = Random::new(5);
            let open = || OpenOptions::new().read(true).write(true).open(bench.file("busy"));
            let file = open().unwrap();
            while !done.load(Ordering::Relaxed) {
                let at = random.below(3 << 20);
                match random.below(10) {
                    0 => file.set_len(at.max(1)).unwrap(),
                    1 => file.sync_all().unwrap(),
                    2 => drop(open().unwrap()),
                    3 => {
                        fs::write(bench.file(format!("new-{}", at % 7)), pattern(at, 9000)).unwrap()
                    }
                    _ => file.write_all_at(&pattern(at, 20_000), at).unwrap(),
                }
            }
        });
        for options in [&[][..], &["--headers-only"], &["--jobs", "4"], &[]] {
            let output = check_command(&bench, options).output().unwrap();
            let report: Value = serde_json::from_slice(&output.stdout).unwrap();
            let told = (&report["damaged"], &report["not_checked"]);
            assert_eq!(told, (&json!(0), &json!(0)), "{options:?}: {report}");
            assert!(report["mounted_by"].as_str().unwrap().starts_with("process "), "{report}");
            assert!(report["files"].as_u64().unwrap() >= 21, "{report}");
        }
        let refused = check_command(&bench, &["--repair"]).output().unwrap();
        assert_eq!(refused.status.code(), Some(IN_USE), "{refused:?}");
        let message = String::from_utf8(refused.stderr).unwrap();
        assert!(message.contains("is in use by process "), "{message}");
        done.store(true, Ordering::Relaxed);
    });
    bench.unmount();
    let report = check(&bench, &[], 0);
    assert_eq!((&report["in_use"], &report["needs_recovery"]), (&json!(0), &json!(0)), "{report}");
}

#[test]
fn damage_is_found_under_a_mount() {
    let Some(bench) = Bench::new() else { return };
    bench.mount(&[]);
    fs::write(bench.file("f"), pattern(1, 100_000)).unwrap();
    bench.unmount();
    bench.mount(&[]);
    let backing = OpenOptions::new().write(true).open(bench.backing().join("f")).unwrap();
    backing.write_all_at(b"flip", 5000).unwrap();
    let report = check(&bench, &[], DAMAGED);
    assert_eq!(report["findings"][0]["first_block"], 0, "{report}");
    bench.unmount();
}

#[test]
fn each_file_of_mode_kms_is_a_use_on_record() {
    let Some(bench) = Bench::new() else { return };
    ssefs(&bench, &["key", "create", "--alias", "alias/c"]);
    bench.mount(&["--mode", "kms", "--key-id", "alias/c"]);
    for name in ["one", "two"] {
        fs::write(bench.file(name), pattern(1, 5000)).unwrap();
    }
    bench.unmount();
    let report = check(&bench, &[], 0);
    assert_eq!(report["ok"], 2, "{report}");
    let log = ssefs(&bench, &["audit", "show", "--json"]);
    let records = log.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let checks: Vec<_> =
        records.filter(|record| record["requestParameters"]["operation"] == "Check").collect();
    for name in ["/one", "/two"] {
        let count = checks.iter().filter(|it| it["requestParameters"]["path"] == name).count();
        assert_eq!(count, 1, "{checks:?}");
    }
    assert!(checks.iter().all(|record| record["eventName"] == "Decrypt"), "{checks:?}");

    ssefs(&bench, &["key", "create", "--alias", "alias/other"]);
    bench.mount(&["--mode", "kms", "--key-id", "alias/other"]);
    fs::write(bench.file("three"), pattern(2, 5000)).unwrap();
    bench.unmount();
    ssefs(&bench, &["key", "disable", "alias/other"]);
    let report = check(&bench, &[], NOT_CHECKED);
    assert_eq!(report["not_checked_by_reason"], json!({"denied": 1}), "{report}");
    assert_eq!(report["ok"], 2, "{report}");
}
