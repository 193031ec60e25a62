//! `ssefs audit` as it is called: what it prints, and how it exits.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;
use ssefs::format::KeyId;
use ssefs::keys::audit::{AuditReader, EventError};
use ssefs::keys::identity::Identity;
use ssefs::keys::{Caller, Keystore, Passphrase};

use super::harness::{TestLog, key_id, put_byte, record_as};

fn ssefs(log: &TestLog, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ssefs"));
    command.arg("--keystore").arg(log.path()).arg("audit").args(arguments);
    command.output().unwrap()
}

#[track_caller]
fn succeed(log: &TestLog, arguments: &[&str]) -> String {
    let output = ssefs(log, arguments);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {}: {errors}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

/// Root opens two files, user 4000001 one of them, and is denied and hindered once each.
fn example() -> TestLog {
    let log = TestLog::new();
    let open = log.open();
    let own = Identity::own();
    let other = Identity::of(Caller { uid: 4_000_001, gid: 4_000_001, pid: u32::MAX });
    let refusal = |code| Some(EventError { code, message: "no".to_owned() });
    record_as(&open, 0, &own, "/a/one.ods", None).unwrap();
    record_as(&open, 1, &own, "/a/two\u{1b}[2J.ods", None).unwrap();
    record_as(&open, 2, &other, "/a/one.ods", None).unwrap();
    record_as(&open, 3, &other, "/a/one.ods", refusal("AccessDeniedException")).unwrap();
    record_as(&open, 4, &other, "/b", refusal("DisabledException")).unwrap();
    drop(open);
    log
}

#[test]
fn show_filters_and_prints_tables_and_json() {
    let log = example();
    let lines = |arguments: &[&str]| succeed(&log, arguments).lines().count() - 1;
    assert_eq!(lines(&["show"]), 7, "created, five events, checkpoint");
    assert_eq!(lines(&["show", "--user", "4000001"]), 3);
    assert_eq!(lines(&["show", "--outcome", "denied"]), 1);
    assert_eq!(lines(&["show", "--outcome", "error"]), 1);
    assert_eq!(lines(&["show", "--outcome", "success"]), 3);
    assert_eq!(lines(&["show", "--event", "decrypt", "--key", &key_id().0]), 5);
    assert_eq!(lines(&["show", "--file", "/mnt/x/a/one.ods"]), 3);
    assert_eq!(lines(&["show", "--file", &"02".repeat(16)]), 5);
    assert_eq!(lines(&["show", "--since", "1h"]), 7);
    assert_eq!(lines(&["show", "--until", "1h"]), 0);
    assert_eq!(lines(&["show", "--since", "2020-01-01", "--until", "2020-01-02"]), 0);
    let table = succeed(&log, &["show"]);
    assert!(table.starts_with("TIME (UTC)"), "{table}");
    assert!(table.contains("/a/two\\u{1b}[2J.ods") && !table.contains('\u{1b}'), "{table}");

    let json = succeed(&log, &["show", "--last", "2", "--event", "Decrypt", "--json"]);
    let records: Vec<Value> =
        json.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let numbers: Vec<_> = records.iter().map(|r| &r["requestParameters"]["number"]).collect();
    assert_eq!(numbers, [3, 4], "the last two, in order");

    let output = ssefs(&log, &["show", "--since", "yesterday"]);
    assert_eq!(output.status.code(), Some(2));
    let nothing = TestLog::new();
    assert_eq!(ssefs(&nothing, &["show"]).status.code(), Some(6));
    assert_eq!(ssefs(&nothing, &["verify"]).status.code(), Some(6));
}

#[test]
fn the_last_use_of_a_key_is_its_newest_success() {
    let log = example();
    let reader = AuditReader::of(&log.keystore()).unwrap();
    let last = reader.last_use(&key_id()).unwrap().unwrap();
    assert_eq!((last.seq(), last.identity().uid), (4, 4_000_001), "the refusals do not count");
    assert_eq!((last.event_name(), last.key_version()), ("Decrypt", Some(1)));
    assert!(reader.last_use(&KeyId("unknown".to_owned())).unwrap().is_none());
}

#[test]
fn verify_says_what_is_wrong_and_exits_with_13() {
    let log = example();
    let whole = succeed(&log, &["verify"]);
    assert!(whole.contains("7 records in 1 segments, 1 signed checkpoints"), "{whole}");
    let end = whole.lines().last().unwrap().strip_prefix("whole; ends with ").unwrap();
    assert!(end.starts_with("7:"), "{end}");

    let public_key = log.path().with_file_name("auditor.pem");
    fs::copy(log.dir().join("public-key.pem"), &public_key).unwrap();
    let public_key = public_key.to_str().unwrap();
    succeed(&log, &["verify", "--public-key", public_key]);
    let copy = log.path().with_file_name("copy");
    fs::rename(log.dir(), &copy).unwrap();
    succeed(&log, &["verify", "--public-key", public_key, copy.to_str().unwrap()]);
    let removed = ssefs(&log, &["verify"]);
    assert_eq!(removed.status.code(), Some(13));
    fs::rename(&copy, log.dir()).unwrap();

    let text = fs::read(log.segment(1)).unwrap();
    let at = text.windows(7).position(|window| window == b"/b\",\"nu").unwrap() as u64;
    put_byte(&log.segment(1), at + 1, b'c');
    for arguments in [&["verify"][..], &["verify", "--public-key", public_key]] {
        let output = ssefs(&log, arguments);
        assert_eq!(output.status.code(), Some(13));
        let expected = "segment 1, line 6, record 6: altered";
        let (told, failed) = (output.stdout, output.stderr);
        assert!(String::from_utf8_lossy(&told).contains(expected), "{told:?}");
        assert!(String::from_utf8_lossy(&failed).contains(expected), "{failed:?}");
    }
    let output = ssefs(&log, &["verify", "--json"]);
    let verified: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (&verified["clean"], &verified["findings"][0]["kind"]),
        (&false.into(), &"altered".into())
    );
    assert_eq!(verified["findings"][0]["seq"], 6);
}

#[test]
fn a_keystore_with_a_passphrase_shows_without_it() {
    let log = TestLog::new();
    let passphrase = Passphrase::new(b"correct horse".to_vec().into()).unwrap();
    let keystore = Keystore::create_protected(log.path(), &passphrase).unwrap();
    let options = super::harness::options();
    let open = ssefs::keys::audit::AuditLog::open(keystore.into(), options).unwrap();
    record_as(&open, 0, &Identity::own(), "/a", None).unwrap();
    drop(open);
    assert!(succeed(&log, &["show"]).contains("/a"));
    succeed(&log, &["report"]);
    let key = log.dir().join("public-key.pem");
    succeed(&log, &["verify", "--public-key", key.to_str().unwrap()]);
}

#[test]
fn reports_count_by_key_user_and_file() {
    let log = example();
    let text = succeed(&log, &["report"]);
    assert!(text.contains("3 uses (3 with the data key in memory)"), "{text}");
    assert!(text.contains("uid 4000001") && text.contains("By key"), "{text}");
    assert!(!text.contains('\u{1b}'));
    let json: Value =
        serde_json::from_str(&succeed(&log, &["report", "--format", "json"])).unwrap();
    let total = &json["total"];
    assert_eq!(
        (&total["uses"], &total["denied"], &total["errors"]),
        (&3.into(), &1.into(), &1.into())
    );
    assert_eq!(json["keys"][0]["keyId"], key_id().0);
    let users = json["users"].as_array().unwrap();
    let other = users.iter().find(|user| user["uid"] == 4_000_001).unwrap();
    assert_eq!((&other["uses"], &other["denied"]), (&1.into(), &1.into()));
    assert_eq!(other["files"][0]["path"], "/b");
    assert_eq!(json["refusals"][0]["errorCode"], "DisabledException");
    let empty = succeed(&log, &["report", "--until", "2020-01-01", "--format", "json"]);
    assert_eq!(serde_json::from_str::<Value>(&empty).unwrap()["total"]["uses"], 0);
    let refused = ssefs(&log, &["report", "-o", "/no such/report"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(Path::new(env!("CARGO_BIN_EXE_ssefs")).exists());
}
