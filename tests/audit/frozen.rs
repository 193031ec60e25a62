//! A log that version 1 has written, and a reader made from `src/keys/audit/AUDIT.md` alone, with
//! other implementations of the primitives: both stay readable and verifiable for ever.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use data_encoding::HEXLOWER;
use hmac::{Hmac, KeyInit, Mac};
use serde_json::Value;
use sha2::{Digest, Sha256};
use ssefs::keys::Keystore;
use ssefs::keys::audit::{AuditReader, Expectation, Trust, from_pem, verify};

use super::harness::{TestLog, options, program, record, skip};

/// Made by `SSEFS_FREEZE_AUDIT=yes cargo test --test audit -- frozen::freeze`, once.
fn frozen() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/audit/frozen-v1")
}

/// Not a test of its own: writes the frozen log where there is none.
#[test]
fn freeze() {
    if std::env::var_os("SSEFS_FREEZE_AUDIT").is_none() || frozen().exists() {
        return;
    }
    let log = example();
    copy(log.path(), &frozen());
}

fn example() -> TestLog {
    let log = TestLog::new();
    let small = ssefs::keys::audit::AuditOptions { segment_size: 4000, ..options() };
    let open = log.open_with(small).unwrap();
    for number in 0..8 {
        record(&open, number).unwrap();
    }
    drop(open);
    log
}

/// With the modes that a keystore must have, which version control does not keep.
fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    fs::set_permissions(to, Permissions::from_mode(0o700)).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::write(&target, fs::read(entry.path()).unwrap()).unwrap();
            fs::set_permissions(&target, Permissions::from_mode(0o600)).unwrap();
        }
    }
}

#[test]
fn the_frozen_log_verifies_and_is_gone_on_with() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("keystore");
    copy(&frozen(), &path);
    let keystore = Keystore::open(&path).unwrap();
    let whole = verify(&Trust::Keystore(&keystore), None, Expectation::default()).unwrap();
    assert!(whole.is_clean(), "{:?}", whole.findings);
    assert_eq!((whole.records, whole.segments, whole.checkpoints), (12, 3, 3));
    let pem = fs::read_to_string(path.join("audit/public-key.pem")).unwrap();
    let trust = Trust::PublicKey(from_pem(&pem).unwrap());
    let audit = path.join("audit");
    assert!(verify(&trust, Some(&audit), Expectation::default()).unwrap().is_clean());
    let reader = AuditReader::of(&keystore).unwrap();
    let uses = reader.records().map(Result::unwrap).filter(|record| record.is_use()).count();
    assert_eq!(uses, 8);

    let log = ssefs::keys::audit::AuditLog::open(keystore.into(), options()).unwrap();
    record(&log, 8).unwrap();
    drop(log);
    let keystore = Keystore::open(&path).unwrap();
    let whole = verify(&Trust::Keystore(&keystore), None, Expectation::default()).unwrap();
    assert!(whole.is_clean(), "{:?}", whole.findings);
    independently(&path);
}

#[test]
fn what_this_version_writes_is_what_the_page_says() {
    independently(example().path());
    independently(&frozen());
}

/// Sections 2 to 6 of `AUDIT.md`.
fn independently(keystore: &Path) {
    let root = fs::read(keystore.join("root.key")).unwrap();
    let mac_key = hkdf(&root, b"ssefs keystore audit log v1");
    let (mut seq, mut hash) = (0, [0; 32]);
    let (mut last, mut checkpoint) = ((0, 0, 0), 0);
    for segment in 1_u64.. {
        let path = keystore.join(format!("audit/audit-{segment:08}.jsonl"));
        let Ok(bytes) = fs::read(path) else { break };
        for line in bytes.split_inclusive(|byte| *byte == b'\n') {
            let record: Value = serde_json::from_slice(line).unwrap();
            seq += 1;
            assert_eq!(record["seq"], seq);
            assert_eq!(record["prevHash"], HEXLOWER.encode(&hash));
            let end = line.len() - br#","mac":""}"#.len() - 64 - 1;
            let mac = HEXLOWER.encode(&hmac(&mac_key, &line[..end]));
            assert_eq!(record["mac"], mac);
            if record["eventName"] == "AuditCheckpoint" {
                checkpoint = seq;
                let end = end - br#","signature":"""#.len() - 128;
                let signature = record["signature"].as_str().unwrap();
                with_openssl(keystore, &line[..end], signature);
            }
            hash = Sha256::digest(line).into();
            last = (segment, bytes.len() as u64, line.len() as u64);
        }
    }
    let head = fs::read(keystore.join("audit/head")).unwrap();
    assert_eq!((head.len(), &head[..8]), (136, b"ssefsAH1".as_slice()));
    let number = |at: usize| u64::from_le_bytes(head[at..at + 8].try_into().unwrap());
    assert_eq!((number(8), &head[16..48]), (seq, hash.as_slice()));
    assert_eq!((number(48), number(56), number(64)), last);
    assert_eq!((number(72), number(80)), (checkpoint, seq));
    assert_eq!(head[104..], hmac(&mac_key, &head[..104]));
}

/// As the page tells auditors to do it.
fn with_openssl(keystore: &Path, signed: &[u8], signature: &str) {
    if !program("openssl") {
        return skip("the program openssl is missing");
    }
    let scratch = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let path = scratch.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    };
    let mut command = Command::new("openssl");
    command.args(["pkeyutl", "-verify", "-pubin", "-rawin", "-inkey"]);
    command.arg(keystore.join("audit/public-key.pem")).arg("-in").arg(file("signed", signed));
    command.arg("-sigfile").arg(file("signature", &HEXLOWER.decode(signature.as_bytes()).unwrap()));
    assert!(command.stdout(Stdio::null()).status().unwrap().success());
}

fn hmac(key: &[u8], message: &[u8]) -> [u8; 32] {
    let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(key).unwrap();
    mac.update(message);
    mac.finalize().into_bytes().into()
}

/// RFC 5869 with an empty salt, for 32 bytes: one block of the expansion.
fn hkdf(secret: &[u8], label: &[u8]) -> [u8; 32] {
    hmac(&hmac(&[], secret), &[label, &[1]].concat())
}
