//! What the KMS reads: its records, sealed under the right root key; ciphertext blobs; policies
//! and grants.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use serde_json::{Value, json};
use ssefs::format::KeyId;
use ssefs::keys::Keystore;
use ssefs::keys::audit::{AuditLog, AuditOptions};
use ssefs::keys::identity::Identity;
use ssefs::keys::kms::policy::{decide, explain, reach};
use ssefs::keys::kms::{Action, Grant, LocalKms, Policy, Request};

use super::bytes::Choices;
use super::independent::keys::seal_record;
use super::independent::primitives::{hkdf, seal};
use super::keystore::{ROOT, plain_keystore};
use super::scratch::{Scratch, put_private};

/// A CMK: read, and everything that reads it asked.
pub fn cmk_record(json: &[u8]) {
    let bench = Bench::get();
    bench.put_record("cmk", KEY_ID, json);
    let kms = bench.kms();
    let Ok(cmk) = kms.cmk(&KeyId(KEY_ID.into())) else { return };
    let nothing = BTreeMap::new();
    for action in Action::ALL {
        let _ = kms.authorise(&cmk, &bench.who, action, &nothing);
    }
    let _ = kms.maintain(u64::MAX);
}

pub fn cmk_record_seeds() -> Vec<Vec<u8>> {
    vec![cmk().to_string().into_bytes()]
}

/// All aliases.
pub fn aliases_record(json: &[u8]) {
    let bench = Bench::get();
    bench.put_record("aliases", "all", json);
    let kms = bench.kms();
    let _ = kms.resolve("alias/payroll");
    let _ = kms.list_aliases(&bench.who, None);
    bench.used();
}

pub fn aliases_record_seeds() -> Vec<Vec<u8>> {
    let entry = json!({ "key_id": KEY_ID, "created": 1, "updated": 2 });
    vec![json!({ "aliases": { "alias/payroll": entry } }).to_string().into_bytes()]
}

/// A blob to decrypt as it is, and one sealed under the key that it names with what follows.
pub fn blob(bytes: &[u8]) {
    let bench = Bench::get();
    bench.put_record("cmk", KEY_ID, cmk().to_string().as_bytes());
    let kms = bench.kms();
    let context = BTreeMap::from([("a".to_owned(), "b".to_owned())]);
    let _ = kms.decrypt(&bench.who, None, bytes, &context);
    let good = sealed_blob(bytes);
    let opened = kms.decrypt(&bench.who, Some(KEY_ID), &good, &context);
    assert_eq!(opened.is_ok(), (1..=4096).contains(&bytes.len()));
    bench.used();
}

pub fn blob_seeds() -> Vec<Vec<u8>> {
    vec![sealed_blob(b"secret"), sealed_blob(b""), Vec::new()]
}

/// A policy: parsed, and asked about two processes in three encryption contexts.
pub fn policy(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(policy) = Policy::parse(text) else { return };
    assert_eq!(Policy::parse(&policy.to_json()).unwrap(), policy);
    ask(&policy, &[]);
    policy.principals();
}

pub fn policy_seeds() -> Vec<Vec<u8>> {
    let condition = json!({
        "StringLike": { "kms:EncryptionContext:a": ["*x*y*", "?b*"] },
        "ForAnyValue:StringNotEqualsIgnoreCase": { "kms:EncryptionContextKeys": ["A", "b"] },
        "Null": { "kms:EncryptionContext:c": "true" },
    });
    let statement = json!({
        "Sid": "s",
        "Effect": "Deny",
        "Principal": { "User": ["root", 1000], "Group": "5000" },
        "NotAction": ["kms:Get*", "kms:Decr?pt"],
        "Resource": "*",
        "Condition": condition,
    });
    let policy = json!({ "Version": "2012-10-17", "Statement": [statement] });
    vec![Policy::default_for(0).to_json().into_bytes(), policy.to_string().into_bytes()]
}

/// A grant as it stands in a record.
pub fn grant(bytes: &[u8]) {
    let Ok(grant) = serde_json::from_slice::<Grant>(bytes) else { return };
    let again: Grant = serde_json::from_slice(&serde_json::to_vec(&grant).unwrap()).unwrap();
    assert_eq!(again, grant);
    ask(&Policy::default_for(0), &[grant]);
}

pub fn grant_seeds() -> Vec<Vec<u8>> {
    vec![cmk()["grants"][0].to_string().into_bytes()]
}

fn ask(policy: &Policy, grants: &[Grant]) {
    let long = "xy".repeat(128);
    let contexts = [
        BTreeMap::new(),
        BTreeMap::from([("a".to_owned(), "b".to_owned())]),
        BTreeMap::from([("a".to_owned(), long.clone()), ("c".to_owned(), long)]),
    ];
    for (uid, groups) in [(0, &[0][..]), (1000, &[5000, 7])] {
        for context in &contexts {
            for action in [Action::Decrypt, Action::DescribeKey, Action::PutKeyPolicy] {
                let request = Request::simulated(uid, groups, action, context);
                let decision = decide(policy, grants, &request);
                assert_eq!(explain(policy, grants, &request).decision, decision);
            }
        }
        reach(policy, grants, uid, groups);
    }
}

/// A keystore with its audit log, which grows and is made anew from time to time.
struct Bench {
    _scratch: Scratch,
    path: PathBuf,
    keystore: Arc<Keystore>,
    audit: Arc<AuditLog>,
    who: Identity,
    uses: u32,
}

impl Bench {
    fn get() -> BenchRef {
        BENCH.with_borrow_mut(|slot| BenchRef(Some(slot.take().unwrap_or_else(Self::new))))
    }

    fn new() -> Self {
        let scratch = Scratch::new();
        let path = plain_keystore(&scratch, "kms");
        let keystore = Arc::new(Keystore::open(&path).unwrap());
        let options = AuditOptions { best_effort: true, ..AuditOptions::default() };
        let audit = Arc::new(AuditLog::open(Arc::clone(&keystore), options).unwrap());
        Self { _scratch: scratch, path, keystore, audit, who: Identity::own(), uses: 0 }
    }

    fn kms(&self) -> LocalKms {
        let clock = Box::new(|| NOW);
        LocalKms::with_clock(Arc::clone(&self.keystore), Arc::clone(&self.audit), clock)
    }

    fn put_record(&self, kind: &str, id: &str, json: &[u8]) {
        for other in [format!("cmk-{KEY_ID}.record"), "aliases-all.record".to_owned()] {
            let _ = fs::remove_file(self.path.join(other));
        }
        let record = self.path.join(format!("{kind}-{id}.record"));
        put_private(&record, &seal_record(&ROOT, kind, id, json));
    }
}

/// The bench of this thread, given back unless a target has failed.
struct BenchRef(Option<Bench>);

impl BenchRef {
    fn used(mut self) {
        if let Some(bench) = &mut self.0 {
            bench.uses += 1;
        }
    }
}

impl std::ops::Deref for BenchRef {
    type Target = Bench;

    fn deref(&self) -> &Bench {
        self.0.as_ref().expect("taken out at the end only")
    }
}

impl Drop for BenchRef {
    fn drop(&mut self) {
        let bench = self.0.take().filter(|bench| bench.uses < USES && !std::thread::panicking());
        BENCH.with_borrow_mut(|slot| *slot = bench);
    }
}

thread_local! {
    static BENCH: RefCell<Option<Bench>> = const { RefCell::new(None) };
}

fn cmk() -> Value {
    let version = |version: u32, rotation: &str, material: &str| {
        json!({
            "version": version,
            "created": 1_700_000_000_u64 + u64::from(version),
            "rotation": rotation,
            "material_id": "00",
            "material": material.repeat(32),
        })
    };
    json!({
        "key_id": KEY_ID,
        "description": "payroll",
        "created": 1_700_000_000_u64,
        "lifecycle": {
            "state": "Enabled",
            "deletion": null,
            "origin": "AWS_KMS",
            "rotation": {"period_days": 365, "next": 1_731_536_000_u64},
            "on_demand_rotations": 1,
            "newest_version": 2,
        },
        "policy": Policy::default_for(0).to_json(),
        "grants": [{
            "GrantId": "ab".repeat(32),
            "Name": "readers",
            "GranteePrincipal": {"Group": "0"},
            "Operations": ["Decrypt"],
            "Constraints": {"EncryptionContextSubset": {"a": "b"}},
            "CreationDate": 1_700_000_001_u64,
            "IssuingAccount": 0,
        }],
        "versions": [version(1, "INITIAL", "01"), version(2, "ON_DEMAND", "02")],
    })
}

/// A blob under version 2 of the key above, for the context `a=b`, as `ciphertext.rs` says.
fn sealed_blob(plain: &[u8]) -> Vec<u8> {
    let mut choices = Choices::new(plain);
    let (salt, nonce): ([u8; 16], [u8; 12]) = (choices.array(), choices.array());
    let id = KEY_ID.replace('-', "");
    let id = data_encoding::HEXLOWER.decode(id.as_bytes()).unwrap();
    let head = [b"ssefsCB1", &id[..], &2_u32.to_le_bytes()].concat();
    let one = 1_u32.to_le_bytes();
    let aad = [&head[..], &one, &one, b"a", &one, b"b"].concat();
    let key = hkdf(&[2; 32], &[b"ssefs kms ciphertext blob v1\0", &salt[..]].concat());
    [&head[..], &salt, &nonce, &seal(&key, &nonce, &aad, plain)].concat()
}

const KEY_ID: &str = "00112233-4455-6677-8899-aabbccddeeff";
const NOW: u64 = 1_700_000_100;
/// So often is one audit log used.
const USES: u32 = 1000;
