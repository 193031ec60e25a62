//! Names of keys.

use serde_json::json;

use crate::bench::{Bench, KEY, USAGE, first_column};

#[test]
fn a_name_is_made_moved_listed_and_deleted() {
    let bench = Bench::new();
    let (first, second) = (bench.key("alias/first"), bench.key("alias/second"));
    let made = bench.json(&format!("alias create alias/books {first}"));
    assert_eq!(made, json!({"AliasName": "alias/books", "TargetKeyId": first}));
    let blob = bench.pipe("encrypt alias/books", b"text");
    let text = bench.text(&format!("alias move alias/books {second}"));
    assert!(text.contains(&second), "{text}");
    // What was encrypted names its key and not the alias.
    let decrypted = bench.pipe("decrypt --json", &blob);
    let decrypted: serde_json::Value = serde_json::from_slice(&decrypted).unwrap();
    assert_eq!(decrypted["KeyId"], json!(first));
    assert_eq!(bench.metadata("alias/books")["KeyId"], json!(second));

    let listed = bench.json("alias list");
    let aliases = listed["Aliases"].as_array().unwrap();
    assert_eq!(aliases.len(), 3);
    assert_eq!(aliases[0]["AliasName"], "alias/books");
    assert_eq!(aliases[0]["TargetKeyId"], json!(second));
    assert!(aliases[0]["LastUpdatedDate"].as_str().unwrap().ends_with('Z'));
    let names = ["alias/books", "alias/first", "alias/second"];
    assert_eq!(first_column(&bench.text("alias list")), names);
    let of_second = bench.text(&format!("alias list {second}"));
    assert_eq!(first_column(&of_second), ["alias/books", "alias/second"]);

    assert_eq!(bench.json("alias delete alias/books"), json!({"AliasName": "alias/books"}));
    assert_eq!(first_column(&bench.text("alias list")), names[1..]);
    let message = bench.refused("describe alias/books", KEY);
    assert!(message.starts_with("NotFoundException: alias/books"), "{message}");
    assert_eq!(bench.metadata(&second)["Aliases"], json!(["alias/second"]));
}

#[test]
fn a_name_that_is_taken_or_wrong_is_refused() {
    let bench = Bench::new();
    let key = bench.key("alias/a");
    for line in [format!("alias create alias/a {key}"), "create --alias alias/a".to_owned()] {
        let message = bench.refused(&line, KEY);
        assert!(message.starts_with("AlreadyExistsException: "), "{message}");
        assert!(message.contains("alias/a") && message.contains(&key), "{message}");
    }
    for name in ["finance", "alias/", "alias/a:b", "alias/aws/s3"] {
        let message = bench.refused(&format!("alias create {name} {key}"), USAGE);
        assert!(message.starts_with("InvalidAliasNameException: "), "{message}");
    }
    for line in ["alias delete alias/none", &format!("alias move alias/none {key}")] {
        let message = bench.refused(line, KEY);
        assert!(message.starts_with("NotFoundException: alias/none"), "{message}");
    }
    let absent = "11111111-2222-4333-8444-555555555555";
    let message = bench.refused(&format!("alias create alias/b {absent}"), KEY);
    assert!(message.starts_with("NotFoundException: ") && message.contains(absent), "{message}");
    assert_eq!(first_column(&bench.text("list")).len(), 1, "no key came of a refused one");
}
