//! Keystores that are not there or not safe, keys that are not there, and arguments that make no
//! sense.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;

use crate::bench::{Bench, KEY, KEYSTORE, USAGE, first_column};

#[test]
fn only_create_makes_a_keystore() {
    let bench = Bench::new();
    for line in ["list", "describe alias/a", "alias list", "decrypt"] {
        let message = bench.refused(line, KEYSTORE);
        assert!(message.contains("ssefs key create"), "{message}");
        assert!(message.contains("--keystore"), "{message}");
        assert!(!bench.path("keystore").exists());
    }
    bench.text("create");
    assert_eq!(first_column(&bench.text("list")).len(), 1);
    let mode = std::fs::metadata(bench.path("keystore")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
}

#[test]
fn a_keystore_open_to_others_is_refused() {
    let bench = Bench::new();
    bench.key("alias/a");
    std::fs::set_permissions(bench.path("keystore"), Permissions::from_mode(0o755)).unwrap();
    for line in ["list", "create", "rotate alias/a"] {
        let message = bench.refused(line, KEYSTORE);
        assert!(message.contains("chmod 700"), "{message}");
    }
    std::fs::set_permissions(bench.path("keystore"), Permissions::from_mode(0o700)).unwrap();
    let message = bench.refused("create --passphrase", KEYSTORE);
    assert!(message.contains("no passphrase"), "{message}");
    assert_eq!(first_column(&bench.text("list")).len(), 1);
}

#[test]
fn a_key_that_is_not_there_is_named_in_every_command() {
    let bench = Bench::new();
    bench.key("alias/a");
    let input = bench.file("input", b"x");
    let policy = bench.file("policy", bench.text("policy get alias/a"));
    let material = bench.file("material", [7; 32]);
    for absent in ["alias/none", "11111111-2222-4333-8444-555555555555"] {
        for line in [
            "describe KEY",
            "enable KEY",
            "disable KEY",
            "rotate KEY",
            "rotation KEY",
            "rotation KEY --days 90",
            "schedule-deletion KEY",
            "cancel-deletion KEY",
            "last-used KEY",
            "update-description KEY text",
            "policy get KEY",
            &format!("policy put KEY {policy}"),
            "policy simulate KEY",
            "grant create KEY --user root --operations Decrypt",
            "grant list KEY",
            "grant revoke KEY 1234",
            &format!("import KEY {material}"),
            &format!("encrypt KEY {input}"),
            "generate-data-key KEY --plaintext p --ciphertext c",
        ] {
            let message = bench.refused(&line.replace("KEY", absent), KEY);
            assert!(message.starts_with("NotFoundException: "), "{line}: {message}");
            assert!(message.contains(absent) && message.contains("ssefs key list"), "{message}");
        }
    }
    assert!(!bench.path("p").exists() && !bench.path("c").exists());
}

#[test]
fn arguments_that_make_no_sense_are_refused_before_anything_happens() {
    let bench = Bench::new();
    for line in [
        "",
        "nonsense",
        "create --origin elsewhere",
        "create --rotation-days many",
        "rotation alias/a --days 90 --off",
        "describe",
        "import alias/a",
        "import alias/a file --key-fd 3",
        "grant create alias/a --operations Decrypt",
        "grant create alias/a --user root",
        "grant create alias/a --user root --group root --operations Decrypt",
        "policy simulate alias/a --user root",
        "policy simulate alias/a --action Decrypt",
        "generate-data-key alias/a",
        "re-encrypt",
    ] {
        let words: Vec<_> = line.split_whitespace().collect();
        let output = bench.command(&words).output().unwrap();
        assert_eq!(output.status.code(), Some(USAGE), "{line}");
        assert!(!output.stderr.is_empty() && output.stdout.is_empty(), "{line}");
    }
    assert!(!bench.path("keystore").exists());
}

#[test]
fn help_shows_examples_and_every_command() {
    let bench = Bench::new();
    let text = bench.text("--help");
    for shown in ["Examples:", "ssefs key create --alias", "schedule-deletion", "re-encrypt"] {
        assert!(text.contains(shown), "{text}");
    }
    let from_commands = text.split("Commands:").nth(1).unwrap().split("\n\n").next().unwrap();
    let commands: Vec<_> = from_commands
        .lines()
        .filter_map(|line| line.strip_prefix("  ").filter(|line| !line.starts_with(' ')))
        .filter_map(|line| line.split_whitespace().next())
        .filter(|word| *word != "help")
        .collect();
    assert!(commands.len() >= 18, "{commands:?}");
    for command in commands {
        bench.text(&format!("{command} --help"));
    }
}
