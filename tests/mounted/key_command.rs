//! `ssefs key` where it meets a person, on a terminal, and where it meets the files of a mount.
//! The rest is in `tests/key_command`.

use std::fs;

use serde_json::Value;

use crate::harness::pty::Terminal;
use crate::harness::{Bench, succeed};

const USAGE: i32 = 2;
const KEY: i32 = 5;

fn key(bench: &Bench, arguments: &[&str]) -> std::process::Command {
    let mut command = bench.ssefs(&["--keystore"]);
    command.arg(bench.keystore()).arg("key").args(arguments).env("RUST_LOG", "warn");
    command
}

#[test]
fn a_protected_keystore_asks_before_each_command() {
    let Some(bench) = Bench::new() else { return };
    let question = |start: &str| format!("{start} {}:", bench.keystore().display());
    let new = question("New passphrase for the keystore");
    let known = question("Passphrase of the keystore");
    let create = ["create", "--alias", "alias/a", "--passphrase"];
    let mut terminal = Terminal::start(&mut key(&bench, &create));
    terminal.answer(&new, "open sesame");
    terminal.answer("The same again:", "open sesame");
    let (status, screen) = terminal.finish();
    assert!(status.success(), "{screen}");
    assert!(screen.contains("alias/a") && !screen.contains("sesame"), "{screen}");

    let mut terminal = Terminal::start(&mut key(&bench, &["create", "--passphrase"]));
    terminal.answer(&known, "open sesame");
    let (status, screen) = terminal.finish();
    assert!(status.success(), "{screen}");
    let mut terminal = Terminal::start(&mut key(&bench, &["rotate", "alias/a"]));
    terminal.answer(&known, "open barley");
    let (status, screen) = terminal.finish();
    assert_eq!(status.code(), Some(KEY), "{screen}");
    let mut terminal = Terminal::start(&mut key(&bench, &["describe", "alias/a", "--json"]));
    terminal.answer(&known, "open sesame");
    let (_, screen) = terminal.finish();
    assert!(screen.contains("\"CurrentKeyVersion\":1"), "{screen}");
}

#[test]
fn a_data_key_is_shown_on_a_terminal_only_by_force() {
    let Some(bench) = Bench::new() else { return };
    let made = key(&bench, &["create", "--alias", "alias/a"]).output().unwrap();
    assert!(made.status.success(), "{made:?}");
    let generate = |arguments: &[&str]| {
        let arguments = [&["generate-data-key", "alias/a"], arguments].concat();
        Terminal::start(&mut key(&bench, &arguments)).finish()
    };
    let path = bench.path("blob");
    let to_blob = ["--plaintext", "-", "--base64", "--ciphertext", path.to_str().unwrap()];
    for arguments in [&["--json"][..], &to_blob] {
        let (status, screen) = generate(arguments);
        assert_eq!(status.code(), Some(USAGE), "{screen}");
        assert!(screen.contains("--force") && screen.lines().count() == 1, "{screen}");
        assert!(!path.exists());
        let (status, screen) = generate(&[arguments, &["--force"]].concat());
        assert!(status.success() && screen.contains("="), "{screen}");
    }
    assert!(path.exists());
    let (status, screen) = generate(&["--json", "--without-plaintext"]);
    assert!(status.success() && !screen.contains("Plaintext"), "{screen}");
}

#[test]
fn a_key_that_files_need_is_deleted_only_by_force() {
    let Some(bench) = Bench::new() else { return };
    succeed(&mut key(&bench, &["create", "--alias", "alias/a"]));
    let arguments = ["--mode", "kms", "--key-id", "alias/a"];
    bench.mount(&arguments);
    fs::write(bench.file("one"), b"first").unwrap();
    fs::write(bench.file("two"), b"second").unwrap();
    bench.unmount();

    let json = |arguments: &[&str]| -> Value {
        let output = succeed(key(&bench, arguments).arg("--json"));
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let last = json(&["last-used", "alias/a"]);
    assert!(["GenerateDataKey", "Decrypt"].contains(&last["Operation"].as_str().unwrap()));

    let schedule = ["schedule-deletion", "alias/a", "--days", "7"];
    let message = bench.refused(&mut key(&bench, &schedule), KEY);
    // The two files, and the volume itself.
    assert!(message.contains("3 files still need it"), "{message}");
    assert!(message.contains(bench.backing().to_str().unwrap()), "{message}");
    assert!(message.contains("ssefs rewrap") && message.contains("--force"), "{message}");
    assert_eq!(json(&["describe", "alias/a"])["KeyMetadata"]["KeyState"], "Enabled");
    let forced = json(&[&schedule[..], &["--force"]].concat());
    assert_eq!(forced["KeyState"], "PendingDeletion");
    let output = bench.mount_command(&arguments).output().unwrap();
    assert_eq!(output.status.code(), Some(KEY), "{output:?}");

    json(&["cancel-deletion", "alias/a"]);
    json(&["enable", "alias/a"]);
    bench.mount(&arguments);
    assert_eq!(fs::read(bench.file("one")).unwrap(), b"first");
    assert_eq!(fs::read(bench.file("two")).unwrap(), b"second");
    bench.unmount();
}
