//! Many commands on one keystore at once: each change happens once, whole, and none is lost.

use std::collections::BTreeSet;
use std::process::{Child, Output, Stdio};

use serde_json::Value;

use crate::bench::{Bench, KEY, first_column, refusal};

/// Starts all commands and waits for them.
fn at_once<'a>(bench: &Bench, lines: impl IntoIterator<Item = &'a str>) -> Vec<Output> {
    let start = |line: &str| {
        let words: Vec<_> = line.split_whitespace().collect();
        let mut command = bench.command(&words);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().unwrap()
    };
    let children: Vec<Child> = lines.into_iter().map(start).collect();
    children.into_iter().map(|child| child.wait_with_output().unwrap()).collect()
}

#[test]
fn every_rotation_counts_up_to_the_limit() {
    let bench = Bench::new();
    bench.key("alias/a");
    let blob = bench.pipe("encrypt alias/a", b"before");
    let outputs = at_once(&bench, [["rotate alias/a --json"; 30].as_slice()].concat());
    let mut versions = BTreeSet::new();
    for output in &outputs {
        if output.status.success() {
            let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
            assert!(versions.insert(answer["CurrentKeyVersion"].as_u64().unwrap()), "twice");
        } else {
            let message = refusal(output, KEY, "rotation past the limit");
            assert!(message.starts_with("LimitExceededException: "), "{message}");
        }
    }
    assert!(versions.iter().copied().eq(2..=26), "{versions:?}");
    assert_eq!(bench.metadata("alias/a")["CurrentKeyVersion"], 26);
    let rotations = bench.json("rotation alias/a");
    assert_eq!(rotations["Rotations"].as_array().unwrap().len(), 26);
    assert_eq!(bench.pipe("decrypt", &blob), b"before");
}

#[test]
fn changes_by_many_do_not_undo_each_other() {
    let bench = Bench::new();
    let key_id = bench.key("alias/a");
    bench.key("alias/switched");
    let mut lines = vec!["rotation alias/a --days 100".to_owned()];
    for index in 0..6 {
        lines.push("disable alias/switched".to_owned());
        lines.push("enable alias/switched".to_owned());
        lines.push("rotate alias/a".to_owned());
        lines.push(format!("alias create alias/n{index} {key_id}"));
        lines.push(format!("grant create alias/a --user {index} --operations Decrypt"));
    }
    for (line, output) in lines.iter().zip(at_once(&bench, lines.iter().map(String::as_str))) {
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{line}: {errors}");
    }
    let metadata = bench.metadata("alias/a");
    assert_eq!(metadata["Aliases"].as_array().unwrap().len(), 7);
    assert_eq!(metadata["CurrentKeyVersion"], 7);
    assert_eq!(bench.json("grant list alias/a")["Grants"].as_array().unwrap().len(), 6);
    assert_eq!(bench.json("rotation alias/a")["RotationPeriodInDays"], 100);
    let metadata = bench.metadata("alias/switched");
    let state = metadata["KeyState"].as_str().unwrap();
    assert!(["Enabled", "Disabled"].contains(&state), "{state}");
}

#[test]
fn a_first_use_by_many_makes_one_keystore() {
    let bench = Bench::new();
    let lines: Vec<_> = (0..8).map(|index| format!("create --alias alias/k{index}")).collect();
    for output in at_once(&bench, lines.iter().map(String::as_str)) {
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    assert_eq!(first_column(&bench.text("list")).len(), 8);
    let twice = at_once(&bench, ["create --alias alias/one"; 6]);
    let made = twice.iter().filter(|output| output.status.success()).count();
    assert_eq!(made, 1, "an alias is given once");
    assert_eq!(first_column(&bench.text("list")).len(), 9, "no key is made without its alias");
}
