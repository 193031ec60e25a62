//! `ssefs key` where it meets a person: on a terminal. The rest is in `tests/key_command`.

use crate::harness::Bench;
use crate::harness::pty::Terminal;

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
