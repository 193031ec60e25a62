//! Rewrap to, within and from kms mode, mounted and not, and what it means for the keys left
//! behind.

use std::fs;

use rustix::io::Errno;
use serde_json::Value;

use super::{
    INCOMPLETE, attribute, check_files, make_files, mode_of, mount_supplied, rewrap,
    rewrap_command, two_keys,
};
use crate::harness::{Bench, assert_errno, succeed};

const KEY: i32 = 5;

/// `ssefs key`, its answer as JSON.
#[track_caller]
fn key(bench: &Bench, arguments: &[&str]) -> Value {
    let mut command = bench.ssefs(&["key", "--json", "--keystore"]);
    let output = succeed(command.arg(bench.keystore()).args(arguments));
    serde_json::from_slice(&output.stdout).unwrap_or(Value::Null)
}

#[track_caller]
fn key_refused(bench: &Bench, arguments: &[&str]) -> String {
    let mut command = bench.ssefs(&["key", "--keystore"]);
    let output = command.arg(bench.keystore()).args(arguments).output().unwrap();
    assert_eq!(output.status.code(), Some(KEY), "{output:?}");
    String::from_utf8(output.stderr).unwrap()
}

fn create(bench: &Bench, alias: &str) -> String {
    key(bench, &["create", "--alias", alias]);
    let described = key(bench, &["describe", alias]);
    let described = described.get("KeyMetadata").unwrap_or(&described);
    described["KeyId"].as_str().unwrap().to_owned()
}

#[test]
fn from_one_cmk_to_another_frees_the_first() {
    let Some(bench) = Bench::new() else { return };
    let (first, second) = (create(&bench, "alias/2024"), create(&bench, "alias/2025"));
    bench.mount(&["--mode", "kms", "--key-id", "alias/2024"]);
    let files = make_files(&bench, 9);
    let key_id = |path: &str| attribute(bench.file(path), "user.ssefs.key_id");
    assert_eq!(key_id("f0"), first);
    key(&bench, &["rotate", "alias/2024"]);
    let report = rewrap(&bench, &[]);
    assert_eq!(report["rewrapped"], 9, "to the newest version, mounted: {report}");
    assert_eq!(attribute(bench.file("f0"), "user.ssefs.key_version"), "2");
    let message = key_refused(&bench, &["schedule-deletion", "alias/2024", "--days", "7"]);
    assert!(message.contains("10 files"), "nine and the volume itself: {message}");

    let report = rewrap(&bench, &["--from", "alias/2024", "--to", "kms:alias/2025"]);
    assert_eq!((&report["rewrapped"], &report["left"]), (&9.into(), &0.into()), "{report}");
    assert_eq!(report["keys_to_retire"][0]["key_id"], first, "{report}");
    assert_eq!(key_id("f0"), second);
    check_files(&bench, &files, "mounted");
    bench.unmount();
    let message = key_refused(&bench, &["schedule-deletion", "alias/2024", "--days", "7"]);
    assert!(message.contains("1 file"), "the volume itself: {message}");
    let report = rewrap(&bench, &["--from", "alias/2024", "--to", "kms:alias/2025"]);
    assert_eq!(report["keys_retired"][0]["key_id"], first, "{report}");
    key(&bench, &["schedule-deletion", "alias/2024", "--days", "7"]);
    bench.mount(&["--mode", "kms"]);
    check_files(&bench, &files, "with the first key on its way out");
    fs::write(bench.file("new"), b"new").unwrap();
    assert_eq!(key_id("new"), second);
    bench.unmount();
}

#[test]
fn to_kms_mode_and_from_it() {
    let Some(bench) = Bench::new() else { return };
    let (one, _) = two_keys(&bench);
    create(&bench, "alias/a");
    mount_supplied(&bench, &one);
    let files = make_files(&bench, 6);
    bench.unmount();
    let report = rewrap(&bench, &["--from-key-file", &one, "--to", "kms:alias/a"]);
    assert_eq!(report["rewrapped"], 6, "{report}");
    // Never mounted with the key, the volume counts all the same.
    let message = key_refused(&bench, &["schedule-deletion", "alias/a", "--days", "7"]);
    assert!(message.contains("7 files"), "{message}");
    bench.mount(&["--mode", "kms"]);
    check_files(&bench, &files, "under the CMK");
    assert_eq!(mode_of(bench.file("f0")), "kms");
    bench.unmount();
    let report = rewrap(&bench, &["--from", "kms", "--to", "managed"]);
    assert_eq!((&report["rewrapped"], &report["left"]), (&6.into(), &0.into()), "{report}");
    key(&bench, &["schedule-deletion", "alias/a", "--days", "7"]);
    bench.mount(&[]);
    check_files(&bench, &files, "managed");
    bench.unmount();
}

#[test]
fn files_of_a_disabled_key_are_left() {
    let Some(bench) = Bench::new() else { return };
    create(&bench, "alias/a");
    create(&bench, "alias/b");
    bench.mount(&["--mode", "kms", "--key-id", "alias/a"]);
    let files = make_files(&bench, 3);
    let move_to_b = ["--to", "kms:alias/b"];
    key(&bench, &["disable", "alias/b"]);
    let refused = rewrap_command(&bench, &move_to_b).output().unwrap();
    assert!(!refused.status.success(), "{refused:?}");
    check_files(&bench, &files, "after the refusal");
    key(&bench, &["enable", "alias/b"]);
    fs::write(bench.file("of-b"), b"").unwrap();
    rewrap(&bench, &["--from", "none", "--to", "kms:alias/b"]);
    key(&bench, &["disable", "alias/a"]);
    let output = rewrap_command(&bench, &move_to_b).output().unwrap();
    assert_eq!(output.status.code(), Some(INCOMPLETE), "{output:?}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["left_by_reason"], serde_json::json!({"denied": 3}), "{report}");
    assert_errno(fs::read(bench.file("f0")), Errno::NOKEY);
    key(&bench, &["enable", "alias/a"]);
    assert_eq!(rewrap(&bench, &move_to_b)["rewrapped"], 3);
    check_files(&bench, &files, "under the other key");
    bench.unmount();
    let verified =
        succeed(bench.ssefs(&["audit", "--keystore"]).arg(bench.keystore()).arg("verify"));
    assert!(verified.status.success());
}
