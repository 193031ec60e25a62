//! Encrypting and decrypting on the command line.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use data_encoding::BASE64;
use serde_json::{Value, json};

use crate::bench::{Bench, KEY, USAGE, fed, refusal};

#[test]
fn bytes_go_through_pipes_and_files_and_come_back() {
    let bench = Bench::new();
    let key_id = bench.key("alias/a");
    let plaintext: Vec<u8> = (0..4096).map(|index| (index * 7 % 256) as u8).collect();
    let input = bench.file("input", &plaintext);
    for context in ["", "--context dept=hr", "--context dept=hr --context query=a=b"] {
        let blob = bench.pipe(&format!("encrypt alias/a {context}"), &plaintext);
        assert!(!blob.windows(16).any(|bytes| bytes == &plaintext[..16]), "in plain");
        assert_eq!(bench.pipe(&format!("decrypt {context} -"), &blob), plaintext);
        assert_eq!(bench.text(&format!("encrypt {key_id} {context} {input} -o blob")), "");
        assert_eq!(bench.text(&format!("decrypt {context} blob --output plain")), "");
        assert_eq!(fs::read(bench.path("plain")).unwrap(), plaintext);
        let mode = fs::metadata(bench.path("plain")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
    let twice = [bench.pipe("encrypt alias/a", b"x"), bench.pipe("encrypt alias/a", b"x")];
    assert_ne!(twice[0], twice[1]);
}

#[test]
fn base64_and_json() {
    let bench = Bench::new();
    let key_id = bench.key("alias/a");
    let text = String::from_utf8(bench.pipe("encrypt alias/a --base64", b"secret")).unwrap();
    assert_eq!(text.lines().count(), 1);
    BASE64.decode(text.trim_end().as_bytes()).unwrap();
    assert_eq!(bench.pipe("decrypt --base64", text.as_bytes()), b"secret");
    let folded = format!("{}\n {}", &text[..40], &text[40..]);
    assert_eq!(bench.pipe("decrypt --base64", folded.as_bytes()), b"secret");

    let encrypted: Value =
        serde_json::from_slice(&bench.pipe("encrypt alias/a --json", b"secret")).unwrap();
    assert_eq!((&encrypted["KeyId"], &encrypted["KeyVersion"]), (&json!(key_id), &json!(1)));
    let blob = encrypted["CiphertextBlob"].as_str().unwrap();
    let decrypted: Value =
        serde_json::from_slice(&bench.pipe("decrypt --base64 --json", blob.as_bytes())).unwrap();
    assert_eq!(decrypted["Plaintext"], json!(BASE64.encode(b"secret")));
    assert_eq!(decrypted["KeyId"], json!(key_id));
    let output = fed(&mut bench.command(&["decrypt", "--base64"]), b"no base64!");
    assert!(refusal(&output, USAGE, "no base64").contains("not base64"));
}

#[test]
fn what_does_not_belong_together_is_refused() {
    let bench = Bench::new();
    let first = bench.key("alias/first");
    bench.key("alias/second");
    let blob = bench.pipe("encrypt alias/first --context dept=hr", b"secret");
    let refused = |line: &str, blob: &[u8]| {
        let words: Vec<_> = line.split_whitespace().collect();
        refusal(&fed(&mut bench.command(&words), blob), KEY, line)
    };
    let invalid = "InvalidCiphertextException: ";
    for line in ["decrypt", "decrypt --context dept=it", "decrypt --context dept=hr --context a=b"]
    {
        assert!(refused(line, &blob).starts_with(invalid), "{line}");
    }
    let message = refused("decrypt --key alias/second --context dept=hr", &blob);
    assert!(message.starts_with("IncorrectKeyException: "), "{message}");
    assert_eq!(bench.pipe("decrypt --key alias/first --context dept=hr", &blob), b"secret");
    assert_eq!(bench.pipe(&format!("decrypt --key {first} --context dept=hr"), &blob), b"secret");
    for at in [blob.len() / 2, blob.len() - 1] {
        let mut altered = blob.clone();
        altered[at] ^= 1;
        assert!(refused("decrypt --context dept=hr", &altered).starts_with(invalid), "{at}");
    }
    for foreign in [&b""[..], b"x", &blob[..blob.len() - 1], &[0; 5000]] {
        assert!(refused("decrypt --context dept=hr", foreign).starts_with(invalid));
    }
    for (len, expected) in [(0, "ValidationException: "), (4097, "more than 4096 bytes")] {
        let output = fed(&mut bench.command(&["encrypt", "alias/first"]), &vec![7; len]);
        let message = refusal(&output, USAGE, "a length");
        assert!(message.contains(expected), "{message}");
    }
    let elsewhere = Bench::new();
    elsewhere.key("alias/first");
    let output = fed(&mut elsewhere.command(&["decrypt"]), &blob);
    assert!(refusal(&output, KEY, "another keystore").starts_with("NotFoundException: "));
}

#[test]
fn contexts_that_are_no_pairs_are_refused() {
    let bench = Bench::new();
    bench.key("alias/a");
    for context in ["--context dept", "--context =hr", "--context a=1 --context a=2"] {
        bench.refused(&format!("encrypt alias/a {context}"), USAGE);
    }
}

#[test]
fn a_data_key_in_plain_and_encrypted() {
    let bench = Bench::new();
    let key_id = bench.key("alias/a");
    let line = "generate-data-key alias/a --context a=b";
    assert_eq!(bench.text(&format!("{line} --plaintext plain --ciphertext blob")), "");
    let plain = fs::read(bench.path("plain")).unwrap();
    assert_eq!(plain.len(), 32);
    let mode = fs::metadata(bench.path("plain")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let blob = fs::read(bench.path("blob")).unwrap();
    assert_eq!(bench.pipe("decrypt --context a=b", &blob), plain);

    let answer = bench.json(line);
    assert_eq!((&answer["KeyId"], &answer["KeyVersion"]), (&json!(key_id), &json!(1)));
    let decoded = |name: &str| BASE64.decode(answer[name].as_str().unwrap().as_bytes()).unwrap();
    let decrypted = bench.pipe("decrypt --context a=b", &decoded("CiphertextBlob"));
    assert_eq!(decrypted, decoded("Plaintext"));
    assert_ne!(decrypted, plain);

    let answer = bench.json(&format!("{line} --without-plaintext"));
    assert_eq!(answer["Plaintext"], Value::Null);
    let answer = bench.json(&format!("{line} --plaintext beside"));
    assert_eq!(answer["Plaintext"], Value::Null);
    let blob = BASE64.decode(answer["CiphertextBlob"].as_str().unwrap().as_bytes()).unwrap();
    let beside = fs::read(bench.path("beside")).unwrap();
    assert_eq!(bench.pipe("decrypt --context a=b", &blob), beside);

    let printed = bench.pipe(&format!("{line} --plaintext - --ciphertext blob --base64"), b"");
    let printed = BASE64.decode(printed.trim_ascii_end()).unwrap();
    let blob = fs::read(bench.path("blob")).unwrap();
    assert_eq!(bench.pipe("decrypt --base64 --context a=b", &blob), printed);
    bench.text(&format!("{line} --without-plaintext --ciphertext only"));
    bench.pipe("decrypt --context a=b only", b"");
    let message = refusal(
        &bench
            .command(&["generate-data-key", "alias/a", "--plaintext", "-", "--ciphertext", "-"])
            .output()
            .unwrap(),
        USAGE,
        "both to standard output",
    );
    assert!(message.contains("only one of the two"), "{message}");
}

#[test]
fn a_blob_moves_to_another_key_and_context() {
    let bench = Bench::new();
    let (_, second) = (bench.key("alias/first"), bench.key("alias/second"));
    let blob = bench.pipe("encrypt alias/first --context a=1", b"secret");
    let moved =
        bench.pipe("re-encrypt --to alias/second --from-context a=1 --to-context b=2", &blob);
    bench.text("disable alias/first");
    assert_eq!(bench.pipe("decrypt --key alias/second --context b=2", &moved), b"secret");
    let again = bench.pipe("re-encrypt --to alias/second --from-context b=2 --json", &moved);
    let again: Value = serde_json::from_slice(&again).unwrap();
    assert_eq!(again["KeyId"], json!(second));
    let text = again["CiphertextBlob"].as_str().unwrap();
    assert_eq!(bench.pipe("decrypt --base64", text.as_bytes()), b"secret");
    for (line, code) in [
        ("re-encrypt --to alias/second", "InvalidCiphertextException: "),
        ("re-encrypt --to alias/second --from alias/first --from-context b=2", "IncorrectKey"),
        ("re-encrypt --to alias/first --from-context b=2", "DisabledException: "),
    ] {
        let words: Vec<_> = line.split_whitespace().collect();
        let message = refusal(&fed(&mut bench.command(&words), &moved), KEY, line);
        assert!(message.starts_with(code), "{message}");
    }
}

#[test]
fn a_reader_that_stops_early_is_no_failure() {
    let bench = Bench::new();
    bench.key("alias/a");
    let blob = bench.pipe("encrypt alias/a", b"secret");
    let input = bench.file("blob", blob);
    for arguments in [&["list"][..], &["decrypt", &input]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = bench.command(arguments).stdout(writer).output().unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    }
}
