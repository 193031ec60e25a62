//! What commands leave in the audit log: one event for each request, granted or refused, with
//! who and which key, and nothing secret.

use rustix::process::getuid;
use serde_json::{Value, json};

use crate::bench::{Bench, KEY, contents};

/// The records about keys, in order.
fn events(bench: &Bench) -> Vec<Value> {
    let mut segments: Vec<_> = std::fs::read_dir(bench.path("keystore/audit"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "jsonl"))
        .collect();
    segments.sort();
    let lines = segments.iter().map(|path| std::fs::read_to_string(path).unwrap());
    let records = lines.flat_map(|text| {
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect::<Vec<Value>>()
    });
    records.filter(|record| record["eventSource"] == "ssefs.kms").collect()
}

#[test]
fn every_request_has_its_event() {
    let bench = Bench::new();
    let key_id = bench.key("alias/a");
    let blob = bench.pipe("encrypt alias/a --context dept=hr", b"secret plaintext");
    bench.pipe("decrypt --context dept=hr", &blob);
    bench.text("rotate alias/a");
    bench.text("disable alias/a");
    bench.file("blob", &blob);
    bench.refused("decrypt --context dept=hr blob", KEY);
    bench.refused("describe alias/none", KEY);
    let found = events(&bench);
    let of = |event: &Value| {
        let key = event["resources"][0]["keyId"].as_str().map(str::to_owned);
        (event["eventName"].as_str().unwrap().to_owned(), event["errorCode"].clone(), key)
    };
    let own = Some(key_id.clone());
    let refused = (json!("DisabledException"), json!("NotFoundException"));
    let expected = [
        ("CreateKey", Value::Null, own.clone()),
        ("CreateAlias", Value::Null, own.clone()),
        ("Encrypt", Value::Null, own.clone()),
        ("Decrypt", Value::Null, own.clone()),
        ("RotateKeyOnDemand", Value::Null, own.clone()),
        ("DisableKey", Value::Null, own.clone()),
        // In text and in JSON.
        ("Decrypt", refused.0.clone(), own.clone()),
        ("Decrypt", refused.0, own),
        ("DescribeKey", refused.1.clone(), None),
        ("DescribeKey", refused.1, None),
    ]
    .map(|(name, error, key)| (name.to_owned(), error, key));
    assert_eq!(found.iter().map(of).collect::<Vec<_>>(), expected);
    for event in &found {
        assert_eq!(event["userIdentity"]["uid"], json!(getuid().as_raw()));
    }
    assert_eq!(found[2]["requestParameters"]["encryptionContext"], json!({"dept": "hr"}));
}

#[test]
fn the_last_use_is_known() {
    let bench = Bench::new();
    let key_id = bench.key("alias/a");
    let other = bench.key("alias/b");
    let unused = json!({"KeyId": key_id, "LastUsedDate": null});
    assert_eq!(bench.json("last-used alias/a"), unused);
    assert!(bench.text("last-used alias/a").contains("has not been used"));
    let blob = bench.pipe("encrypt alias/a", b"x");
    bench.pipe("encrypt alias/b", b"x");
    bench.text("rotate alias/a");
    let last = bench.json("last-used alias/a");
    assert_eq!((&last["KeyId"], &last["Operation"]), (&json!(key_id), &json!("Encrypt")));
    assert_eq!(last["UserIdentity"]["Uid"], json!(getuid().as_raw()));
    assert_eq!(last["KeyVersion"], json!(1));
    let date = last["LastUsedDate"].as_str().unwrap();
    assert!(date.starts_with("20") && date.ends_with('Z'), "{date}");
    let text = bench.text(&format!("last-used {key_id}"));
    for shown in [&key_id, date, "Encrypt"] {
        assert!(text.contains(shown), "{text} says nothing of {shown}");
    }
    let moved = bench.pipe("re-encrypt --to alias/b", &blob);
    assert_eq!(bench.json("last-used alias/a")["Operation"], "ReEncryptFrom");
    assert_eq!(bench.json("last-used alias/b")["Operation"], "ReEncryptTo");
    bench.pipe("decrypt", &moved);
    // What is refused is no use.
    bench.text("disable alias/b");
    bench.file("moved", moved);
    bench.refused("decrypt moved", KEY);
    let last = bench.json(&format!("last-used {other}"));
    assert_eq!((&last["Operation"], &last["KeyVersion"]), (&json!("Decrypt"), &json!(1)));
}

#[test]
fn nothing_secret_is_in_the_keystore_or_its_log() {
    let bench = Bench::new();
    bench.json("create --alias alias/own --origin external");
    let material = *b"material that is 32 bytes long, ";
    let file = bench.file("material", material);
    bench.text(&format!("import alias/own {file}"));
    let secret = b"a plaintext that nobody else sees";
    let blob = bench.pipe("encrypt alias/own", secret);
    bench.pipe("decrypt --json", &blob);
    bench.pipe("re-encrypt --to alias/own", &blob);
    bench.text("generate-data-key alias/own --plaintext plain --ciphertext cipher");
    let data_key: Vec<u8> = std::fs::read(bench.path("plain")).unwrap();
    let secrets = [&material[..], secret, &data_key];
    for content in contents(&bench.path("keystore")) {
        for secret in secrets {
            let forms = [
                secret.to_vec(),
                data_encoding::BASE64.encode(secret).into_bytes(),
                data_encoding::HEXLOWER.encode(secret).into_bytes(),
            ];
            for form in forms {
                assert!(!content.windows(form.len()).any(|bytes| bytes == form));
            }
        }
        assert!(!content.windows(blob.len()).any(|bytes| bytes == blob), "the ciphertext");
    }
}
