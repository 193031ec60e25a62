//! The operations of the local KMS, one by one.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use super::*;
use crate::keys::audit::AuditOptions;

const START: u64 = 1_700_000_000;

/// A KMS with a clock that tests set.
struct Scratch {
    _directory: tempfile::TempDir,
    keystore: Arc<Keystore>,
    date: Arc<AtomicU64>,
    kms: LocalKms,
    own: Identity,
}

impl Scratch {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let keystore = Arc::new(Keystore::open_or_create(&directory.path().join("k")).unwrap());
        let date = Arc::new(AtomicU64::new(START));
        let kms = open(&keystore, &date);
        Self { _directory: directory, keystore, date, kms, own: Identity::own() }
    }
}

fn open(keystore: &Arc<Keystore>, date: &Arc<AtomicU64>) -> LocalKms {
    let audit = AuditLog::open(Arc::clone(keystore), AuditOptions::default()).unwrap();
    let date = Arc::clone(date);
    let clock = Box::new(move || date.load(Ordering::Relaxed));
    LocalKms::with_clock(Arc::clone(keystore), Arc::new(audit), clock)
}

#[test]
fn a_cached_look_at_a_key_takes_about_one_system_call() {
    let scratch = Scratch::new();
    let key = scratch.kms.create_key(&scratch.own, CreateKey::default()).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(150));
    scratch.kms.cmk(&key.key_id).unwrap();
    const ROUNDS: u32 = 20_000;
    let begin = Instant::now();
    for _ in 0..ROUNDS {
        black_box(scratch.kms.cmk(&key.key_id).unwrap());
    }
    println!("a cached look at a key: {:?}", begin.elapsed() / ROUNDS);
    let nothing = BTreeMap::new();
    let cmk = scratch.kms.cmk(&key.key_id).unwrap();
    let begin = Instant::now();
    for _ in 0..ROUNDS {
        scratch.kms.authorise(&cmk, &scratch.own, Action::Decrypt, &nothing).unwrap();
    }
    println!("an authorisation: {:?}", begin.elapsed() / ROUNDS);
    assert!(Arc::ptr_eq(&cmk, &scratch.kms.cmk(&key.key_id).unwrap()), "it was read once");
    scratch.kms.disable_key(&scratch.own, &key.key_id.0).unwrap();
    assert!(!Arc::ptr_eq(&cmk, &scratch.kms.cmk(&key.key_id).unwrap()));
}
