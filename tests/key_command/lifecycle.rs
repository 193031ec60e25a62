//! A key's life: made, listed, described, disabled, rotated, imported, deleted.

use serde_json::{Value, json};

use crate::bench::{BACKING, Bench, KEY, USAGE, contents, fed, first_column, refusal, succeed};

#[test]
fn a_key_is_made_listed_and_described() {
    let bench = Bench::new();
    let arguments = ["create", "--alias", "alias/finance", "--description", "The books", "--json"];
    let made: Value = serde_json::from_slice(&succeed(&mut bench.command(&arguments))).unwrap();
    let metadata = &made["KeyMetadata"];
    let key_id = metadata["KeyId"].as_str().unwrap();
    assert_eq!(metadata["Description"], "The books");
    assert_eq!(metadata["Aliases"], json!(["alias/finance"]));
    assert_eq!((&metadata["KeyState"], &metadata["Enabled"]), (&json!("Enabled"), &json!(true)));
    assert_eq!(
        (&metadata["Origin"], &metadata["CurrentKeyVersion"]),
        (&json!("AWS_KMS"), &json!(1))
    );
    let created = metadata["CreationDate"].as_str().unwrap();
    assert!(created.len() == 20 && created.starts_with("20") && created.ends_with('Z'));

    for named in [key_id, "alias/finance"] {
        assert_eq!(&bench.metadata(named), metadata);
        let text = bench.text(&format!("describe {named}"));
        for shown in [key_id, "alias/finance", "The books", "Enabled", "AWS_KMS", created] {
            assert!(text.contains(shown), "{text} says nothing of {shown}");
        }
    }
    let second = bench.json("create")["KeyMetadata"]["KeyId"].as_str().unwrap().to_owned();
    let mut expected = [key_id, &second];
    expected.sort_unstable();
    let listed = bench.json("list");
    let keys = listed["Keys"].as_array().unwrap();
    let mut ids: Vec<_> = keys.iter().map(|key| key["KeyId"].as_str().unwrap()).collect();
    ids.sort_unstable();
    assert_eq!(ids, expected);
    assert!(keys.contains(metadata));
    let text = bench.text("list");
    let mut ids = first_column(&text);
    ids.sort_unstable();
    assert_eq!(ids, expected);
}

#[test]
fn the_description_changes_and_cannot_act_on_a_terminal() {
    let bench = Bench::new();
    let key_id = bench.key("alias/a");
    let arguments = ["update-description", "alias/a", "two\n\u{1b}[2Jlines"];
    let text = String::from_utf8(succeed(&mut bench.command(&arguments))).unwrap();
    assert!(text.contains(&key_id), "{text}");
    assert_eq!(bench.metadata("alias/a")["Description"], "two\n\u{1b}[2Jlines");
    for line in ["list", "describe alias/a"] {
        let text = bench.text(line);
        assert!(text.contains("two\\n\\u{1b}[2Jlines") && !text.contains('\u{1b}'), "{text:?}");
    }
}

#[test]
fn a_disabled_key_is_not_used_until_it_is_enabled() {
    let bench = Bench::new();
    let key_id = bench.key("alias/a");
    let blob = bench.file("blob", bench.pipe("encrypt alias/a", b"secret"));
    assert!(bench.text("disable alias/a").contains(&format!("key {key_id} is disabled")));
    assert_eq!(bench.metadata("alias/a")["KeyState"], "Disabled");
    for line in [&format!("decrypt {blob}"), &format!("encrypt alias/a {blob}"), "rotate alias/a"] {
        let message = bench.refused(line, KEY);
        assert!(message.starts_with("DisabledException: "), "{message}");
        assert!(message.contains(&key_id) && message.contains("enable it"), "{message}");
    }
    assert_eq!(bench.json("enable alias/a"), json!({"KeyId": key_id}));
    assert_eq!(bench.pipe(&format!("decrypt {blob}"), b""), b"secret");
    assert_eq!(bench.json("disable alias/a"), json!({"KeyId": key_id}));
    assert!(bench.text("enable alias/a").contains("is enabled"));
}

#[test]
fn rotation_now_and_by_age() {
    let bench = Bench::new();
    let key_id = bench.key("alias/a");
    let old = bench.file("old", bench.pipe("encrypt alias/a", b"before"));
    let status = bench.json("rotation alias/a");
    assert_eq!((&status["KeyId"], &status["KeyRotationEnabled"]), (&json!(key_id), &json!(false)));
    assert_eq!(status["Rotations"].as_array().unwrap().len(), 1);

    assert_eq!(bench.json("rotate alias/a"), json!({"KeyId": key_id, "CurrentKeyVersion": 2}));
    assert!(bench.text("rotate alias/a").contains("version 3"));
    assert_eq!(bench.pipe(&format!("decrypt {old}"), b""), b"before");

    let status = bench.json("rotation alias/a --days 90");
    assert_eq!(status["RotationPeriodInDays"], 90);
    let next = status["NextRotationDate"].as_str().unwrap();
    assert!(next.len() == 20 && next.ends_with('Z'), "{next}");
    let rotations = status["Rotations"].as_array().unwrap();
    let kinds: Vec<_> = rotations.iter().map(|one| one["RotationType"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["INITIAL", "ON_DEMAND", "ON_DEMAND"]);
    let current: Vec<_> = rotations.iter().map(|one| one["Current"].as_bool().unwrap()).collect();
    assert_eq!(current, [false, false, true]);
    let text = bench.text("rotation alias/a");
    assert!(text.contains("every 90 days") && text.contains(next), "{text}");
    assert!(text.contains("rotated on demand  2 times"), "{text}");
    let text = bench.text("rotation alias/a --off");
    assert!(text.contains("only when it is told to") && !text.contains("next"), "{text}");

    let created = bench.json("create --rotation-days 2560");
    let other = created["KeyMetadata"]["KeyId"].as_str().unwrap();
    assert_eq!(bench.json(&format!("rotation {other}"))["RotationPeriodInDays"], 2560);
    for days in [0, 89, 2561] {
        let message = bench.refused(&format!("rotation alias/a --days {days}"), USAGE);
        assert!(message.starts_with("ValidationException: "), "{message}");
        assert!(message.contains("90") && message.contains("2560"), "{message}");
    }
}

#[test]
fn deletion_is_pending_and_can_be_cancelled() {
    let bench = Bench::new();
    let key_id = bench.key("alias/a");
    for days in [6, 31] {
        let message = bench.refused(&format!("schedule-deletion alias/a --days {days}"), USAGE);
        assert!(message.contains("7") && message.contains("30"), "{message}");
    }
    let answer = bench.json("schedule-deletion alias/a --days 7");
    assert_eq!((&answer["KeyId"], &answer["PendingWindowInDays"]), (&json!(key_id), &json!(7)));
    assert_eq!(answer["KeyState"], "PendingDeletion");
    assert_eq!(bench.metadata(&key_id)["DeletionDate"], answer["DeletionDate"]);
    let input = bench.file("input", b"x");
    let message = bench.refused(&format!("encrypt alias/a {input}"), KEY);
    assert!(message.starts_with("KMSInvalidStateException: "), "{message}");
    assert!(message.contains(&key_id), "{message}");

    let text = bench.text("cancel-deletion alias/a");
    assert!(text.contains("disabled"), "{text}");
    let metadata = bench.metadata(&key_id);
    assert_eq!(
        (&metadata["KeyState"], &metadata["DeletionDate"]),
        (&json!("Disabled"), &Value::Null)
    );
    let message = bench.refused("cancel-deletion alias/a", KEY);
    assert!(message.starts_with("KMSInvalidStateException: "), "{message}");
    let text = bench.text("schedule-deletion alias/a");
    assert!(text.contains(&format!("ssefs key cancel-deletion {key_id}")), "{text}");
    assert_eq!(
        bench.json("cancel-deletion alias/a"),
        json!({"KeyId": key_id, "KeyState": "Disabled"})
    );
}

#[test]
fn a_volume_that_cannot_be_looked_through_stands_in_the_way_of_deletion() {
    let bench = Bench::new();
    let key_id = bench.key("alias/a");
    let message = bench.refused("schedule-deletion alias/a --volume no-such-volume", BACKING);
    assert!(message.contains(&key_id) && message.contains("no-such-volume"), "{message}");
    assert!(message.contains("--force"), "{message}");
    assert_eq!(bench.metadata("alias/a")["KeyState"], "Enabled");
    let forced = bench.json("schedule-deletion alias/a --volume no-such-volume --force");
    assert_eq!(forced["KeyState"], "PendingDeletion");
}

#[test]
fn material_is_imported_from_a_file_standard_input_or_a_descriptor() {
    let bench = Bench::new();
    let created = bench.json("create --alias alias/own --origin external");
    let metadata = &created["KeyMetadata"];
    assert_eq!(
        (&metadata["KeyState"], &metadata["Origin"]),
        (&json!("PendingImport"), &json!("EXTERNAL"))
    );
    let key_id = metadata["KeyId"].as_str().unwrap();
    let input = bench.file("input", b"x");
    let message = bench.refused(&format!("encrypt alias/own {input}"), KEY);
    assert!(message.starts_with("KMSInvalidStateException: "), "{message}");

    let raw = bench.file("raw", RAW);
    let expected = json!({"KeyId": key_id, "CurrentKeyVersion": 1});
    assert_eq!(bench.json(&format!("import alias/own {raw}")), expected);
    let blob = bench.pipe("encrypt alias/own", b"mine");
    // The same in the other forms and ways changes nothing.
    let hexadecimal = data_encoding::HEXLOWER.encode(RAW);
    assert!(
        String::from_utf8(bench.pipe("import alias/own -", hexadecimal.as_bytes()))
            .unwrap()
            .contains("version 1")
    );
    let script = r#"exec "$0" --keystore keystore key import alias/own --key-fd 5 5<raw"#;
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", script]).arg(crate::bench::binary()).env("RUST_LOG", "warn");
    let text = succeed(shell.current_dir(bench.path("")));
    assert!(String::from_utf8(text).unwrap().contains("version 1"));

    let second = bench.file("second", [7; 32]);
    assert_eq!(bench.json(&format!("import alias/own {second}"))["CurrentKeyVersion"], 2);
    assert_eq!(bench.pipe("decrypt", &blob), b"mine");
    for content in contents(&bench.path("keystore")) {
        assert!(!content.windows(RAW.len()).any(|bytes| bytes == RAW), "in plain in the keystore");
        let hexadecimal = hexadecimal.as_bytes();
        assert!(!content.windows(hexadecimal.len()).any(|bytes| bytes == hexadecimal));
    }
}

#[test]
fn material_that_is_no_key_is_refused_and_not_quoted() {
    let bench = Bench::new();
    bench.json("create --alias alias/own --origin external");
    let short = bench.file("short", "sesame-sesame");
    let message = bench.refused(&format!("import alias/own {short}"), KEY);
    assert!(message.contains("13 bytes") && !message.contains("sesame-"), "{message}");
    bench.refused("import alias/own no-such-file", KEY);
    let message = bench.refused("import alias/own --key-fd 77", KEY);
    assert!(message.contains("--key-fd 77"), "{message}");
    let open = bench.path("raw");
    std::fs::write(&open, RAW).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    std::fs::set_permissions(&open, mode).unwrap();
    let message = bench.refused("import alias/own raw", KEY);
    assert!(message.contains("chmod 600"), "{message}");
    bench.key("alias/made-here");
    let raw = bench.file("private", RAW);
    let message = bench.refused(&format!("import alias/made-here {raw}"), KEY);
    assert!(message.starts_with("UnsupportedOperationException: "), "{message}");
    let output = fed(&mut bench.command(&["import", "alias/own", "-"]), b"");
    assert!(refusal(&output, KEY, "import of nothing").contains("nothing"));
    assert_eq!(bench.metadata("alias/own")["KeyState"], "PendingImport");
}

const RAW: &[u8; 32] = b"\x00raw key bytes, newline at end!\n";
