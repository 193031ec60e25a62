//! The command itself: what it says, which files it looks at, how it ends, and the copies that
//! it saves.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::json;
use ssefs::format::Mode;

use crate::harness::{Bench, DAMAGED, NOT_CHECKED, block_at, contents, pattern, run};

const USAGE: i32 = 2;
const BACKING: i32 = 3;
const KEY: i32 = 5;
const IN_USE: i32 = 8;

/// Three sound files, an empty one, a sparse one and one that is damaged.
fn mixed() -> Bench {
    let bench = Bench::new();
    let session = bench.session(false);
    session.write("one", &pattern(1, 10_000));
    session.write("d/two", &pattern(2, 600_000));
    session.write("d/e/three", &pattern(3, 1));
    session.write("d/empty", b"");
    session.write("broken", &pattern(4, 20 * 4096));
    let sparse = session.file("sparse");
    sparse.set_size(3 << 30).unwrap();
    sparse.write(2 << 30, &pattern(5, 100)).unwrap();
    session.close(&sparse);
    drop(sparse);
    session.end();
    fs::hard_link(bench.backing("one"), bench.backing("d/also-one")).unwrap();
    std::os::unix::fs::symlink("one", bench.backing("link")).unwrap();
    bench.alter("broken", |bytes| bytes[block_at(18) + 7] ^= 0x40);
    bench
}

#[test]
fn a_report_in_text_and_in_json() {
    let bench = mixed();
    let checked = bench.check(&[], &[]);
    assert_eq!(checked.code, DAMAGED, "{checked:?}");
    let lines: Vec<_> = checked.out.lines().collect();
    assert_eq!(lines.len(), 3, "{checked:?}");
    assert_eq!(
        lines[0],
        "damaged: broken: block 18: does not open; restore the file from a backup, or save what \
         is left with --salvage"
    );
    assert!(lines[1].contains(": 6 files, 3.00 GiB: 4 ok, 1 empty, 0 to recover"), "{}", lines[1]);
    assert!(lines[2].starts_with("all blocks in "), "{}", lines[2]);
    assert!(checked.err.contains("1 of its files are damaged"), "{checked:?}");

    let report = bench.report(&["--jobs", "3"], DAMAGED);
    for (member, value) in [
        ("files", json!(6)),
        ("ok", json!(4)),
        ("empty", json!(1)),
        ("damaged", json!(1)),
        ("needs_recovery", json!(0)),
        ("repaired", json!(0)),
        ("in_use", json!(0)),
        ("not_checked", json!(0)),
        ("not_checked_by_reason", json!({})),
        ("volume_findings", json!([])),
        ("findings_left_out", json!(0)),
        ("mounted_by", json!(null)),
        ("interrupted", json!(false)),
        ("bytes", json!(10_000 + 600_000 + 1 + 20 * 4096 + (3_u64 << 30))),
    ] {
        assert_eq!(report[member], value, "{member}");
    }
    let finding = &report["findings"][0];
    assert_eq!(finding["path"], "broken");
    assert_eq!((&finding["severity"], &finding["kind"]), (&json!("damaged"), &json!("block")));
    assert_eq!((&finding["first_block"], &finding["blocks"]), (&json!(18), &json!(1)));
}

#[test]
fn headers_alone_do_not_look_at_data() {
    let bench = mixed();
    let report = bench.report(&["--headers-only"], 0);
    assert_eq!((&report["ok"], &report["damaged"]), (&json!(5), &json!(0)), "{report}");
    bench.alter("d/e/three", |bytes| bytes[3072] ^= 1);
    let report = bench.report(&["--headers-only"], DAMAGED);
    assert_eq!(report["findings"][0]["kind"], "entry");
}

#[test]
fn only_the_paths_that_were_given() {
    let bench = mixed();
    let files = |paths: &[&str]| {
        let checked = bench.check(&["--json"], paths);
        let report: serde_json::Value = serde_json::from_str(&checked.out).unwrap();
        (report["files"].as_u64().unwrap(), checked.code)
    };
    assert_eq!(files(&["d"]), (4, 0));
    assert_eq!(files(&["d/e/three"]), (1, 0));
    assert_eq!(files(&["d", "d/e", "./one"]), (4, 0));
    assert_eq!(files(&[bench.backing("broken").to_str().unwrap()]), (1, DAMAGED));
    assert_eq!(files(&["one", "missing"]), (2, NOT_CHECKED));
    for refused in ["../x", ".ssefs", "/etc"] {
        assert_eq!(bench.check(&[], &[refused]).code, USAGE, "{refused}");
    }
}

#[test]
fn readable_blocks_are_saved_in_plain_on_request_only() {
    let bench = mixed();
    bench.alter("d/two", |bytes| {
        bytes[130] ^= 1;
        bytes.truncate(block_at(100));
    });
    let before = contents(&bench.root());
    let saved = bench.path("saved");
    let report = bench.report(&["--salvage", saved.to_str().unwrap()], DAMAGED);
    assert_eq!(contents(&bench.root()), before, "the volume is only read");
    assert_eq!(fs::metadata(&saved).unwrap().permissions().mode() & 0o7777, 0o700);
    assert_eq!(report["salvaged"].as_array().unwrap().len(), 2, "{report}");
    let mut expected = pattern(4, 20 * 4096);
    expected[18 * 4096..19 * 4096].fill(0);
    assert!(fs::read(saved.join("broken")).unwrap() == expected);
    // One of its records does not authenticate any more; the other one and the blocks do.
    let mut expected = pattern(2, 600_000);
    expected[100 * 4096..].fill(0);
    assert!(fs::read(saved.join("d/two")).unwrap() == expected);
    assert_eq!(fs::metadata(saved.join("d/two")).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(!saved.join("one").exists());

    let checked = bench.check(&["--salvage", saved.to_str().unwrap()], &[]);
    assert_eq!(checked.code, USAGE, "{checked:?}");
    let inside = bench.backing("inside");
    assert_eq!(bench.check(&["--salvage", inside.to_str().unwrap()], &[]).code, USAGE);
}

#[test]
fn a_volume_in_use_is_checked_but_not_repaired() {
    let bench = mixed();
    let session = bench.session(false);
    let file = session.file("one");
    file.write(0, b"being written").unwrap();
    let checked = bench.check(&["--repair"], &[]);
    assert_eq!(checked.code, IN_USE, "{checked:?}");
    assert!(checked.err.contains("in use by a test"), "{checked:?}");
    session.close(&file);
    drop(file);
    let report = bench.report(&[], DAMAGED);
    assert_eq!(report["mounted_by"], "a test");
    assert_eq!((&report["in_use"], &report["ok"]), (&json!(1), &json!(3)), "{report}");
    session.end();
    assert_eq!(bench.report(&[], DAMAGED)["ok"], 4);
}

#[test]
fn keys_that_are_missing_or_wrong() {
    let bench = mixed();
    let mut without = bench.command();
    let checked = run(without.args(["check", "--quiet"]).arg(bench.root()));
    assert_eq!(checked.code, KEY, "{checked:?}");
    fs::write(bench.key_file(), [8; 32]).unwrap();
    assert_eq!(bench.check(&[], &[]).code, KEY);
    let checked = run(bench.command().arg("check").arg(bench.path("none")));
    assert_eq!(checked.code, BACKING, "{checked:?}");
    let checked = run(bench.command().arg("check").arg(bench.path(".")));
    assert_eq!(checked.code, BACKING, "{checked:?}");
}

#[test]
fn a_volume_of_managed_mode_needs_its_keystore_only() {
    let bench = Bench::of(Mode::Managed);
    bench.write(&[("f", &pattern(1, 70_000)), ("g", &pattern(2, 10))]);
    assert_eq!(bench.report(&[], 0)["ok"], 2);
    bench.alter("f", |bytes| bytes[block_at(3)] ^= 1);
    assert_eq!(bench.report(&[], DAMAGED)["ok"], 1);
    fs::remove_dir_all(bench.keystore()).unwrap();
    let checked = bench.check(&[], &[]);
    assert_eq!(checked.code, 6, "{checked:?}");
}

#[test]
fn a_file_under_a_key_that_was_not_given_is_left_unchecked() {
    // One volume's file cannot be another's: a header that names another key of this one.
    let bench = Bench::new();
    bench.write(&[("f", &pattern(1, 9000)), ("g", &pattern(2, 9000))]);
    bench.alter("g", |bytes| {
        let at = bytes.windows(9).position(|window| window == b"supplied:").unwrap() + 9;
        bytes[at] = if bytes[at] == b'0' { b'1' } else { b'0' };
    });
    let report = bench.report(&[], NOT_CHECKED);
    assert_eq!(report["not_checked_by_reason"], json!({"no_key": 1}), "{report}");
    assert_eq!((&report["ok"], &report["findings"][0]["kind"]), (&json!(1), &json!("no_key")));
}
