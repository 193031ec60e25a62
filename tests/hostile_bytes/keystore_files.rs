//! Hostile bytes in a keystore: in its files as they lie there, and sealed under the right root
//! key, as somebody who has it could.

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use proptest::collection::vec;
use proptest::prelude::{Just, Strategy, any, prop_oneof};
use proptest::{prop_assert, proptest};
use serde_json::{Value, json};
use ssefs::format::VolumeId;
use ssefs::keys::{KeyError, Keystore, ManagedProvider, Passphrase};

use super::arbitrary::{mutate, mutations};
use super::bounds::bounded;
use super::random_values::cases;
use super::targets::independent::keys::{protected_root, seal_record};
use super::targets::independent::primitives::Key;
use super::targets::put_private;

const PASSPHRASE: &[u8] = b"correct horse battery staple";
const ROOT: Key = [0x11; 32];
const VOLUME: VolumeId = VolumeId([7; 16]);
const DAY: u64 = 24 * 60 * 60;
const MIB: u64 = 1 << 20;

/// A keystore with a plain root key and, once it is put there, one record.
struct Scratch {
    directory: tempfile::TempDir,
}

impl Scratch {
    fn new() -> Self {
        let scratch = Self { directory: tempfile::tempdir().unwrap() };
        fs::DirBuilder::new().mode(0o700).create(scratch.path()).unwrap();
        put_private(&scratch.path().join("root.key"), &ROOT);
        scratch
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("keystore")
    }

    fn record(&self) -> PathBuf {
        self.path().join(format!("managed-{VOLUME}.record"))
    }

    /// Opens the volume's key where the record has these bytes; rotates it if it is due.
    fn open(&self, record: &[u8], now: u64) -> Result<ManagedProvider, KeyError> {
        put_private(&self.record(), record);
        let keystore = Arc::new(Keystore::open(&self.path())?);
        // The file, its plaintext and what is parsed of it.
        bounded(6 * MIB, || ManagedProvider::open_existing(keystore, VOLUME, 90, now))
    }
}

fn sealed(json: &[u8]) -> Vec<u8> {
    seal_record(&ROOT, "managed", &VOLUME.to_string(), json)
}

fn record(versions: &[(u64, u64)]) -> Value {
    let material = "5a".repeat(32);
    let versions: Vec<Value> = versions
        .iter()
        .map(|(number, at)| json!({ "version": number, "created": at, "material": material }))
        .collect();
    json!({
        "volume": VOLUME.to_string(),
        "key_id": "k",
        "versions": versions,
    })
}

fn text_of(value: &Value) -> Vec<u8> {
    serde_json::to_vec(value).unwrap()
}

fn number() -> impl Strategy<Value = u64> {
    let edge = u64::from(u32::MAX);
    prop_oneof![0..5_u64, any::<u64>(), edge - 1..edge + 2, Just(u64::MAX)]
}

fn damaged(opened: Result<ManagedProvider, KeyError>) -> bool {
    matches!(opened, Err(KeyError::Damaged { .. }))
}

proptest! {
    #![proptest_config(cases(128))]

    #[test]
    fn altered_records_are_refused(changes in mutations(), random in vec(any::<u8>(), 0..200)) {
        let scratch = Scratch::new();
        let original = sealed(&text_of(&record(&[(1, 0)])));
        prop_assert!(scratch.open(&original, 0).is_ok());
        let mut changed = original.clone();
        mutate(&mut changed, &changes);
        prop_assert!(changed == original || damaged(scratch.open(&changed, 0)));
        prop_assert!(damaged(scratch.open(&random, 0)));
        prop_assert!(damaged(scratch.open(&[&b"ssefsKR1"[..], &random].concat(), 0)));
    }

    #[test]
    fn sealed_records_never_panic(
        versions in vec((number(), number()), 0..4),
        changes in mutations(),
        now in number(),
    ) {
        let scratch = Scratch::new();
        let text = text_of(&record(&versions));
        let well_formed = !versions.is_empty()
            && versions.is_sorted_by(|a, b| a.0 < b.0)
            && versions.iter().all(|(version, _)| *version <= u64::from(u32::MAX));
        let opened = scratch.open(&sealed(&text), now);
        prop_assert!(opened.is_ok() == well_formed);
        if well_formed {
            // What was written, perhaps with a version more, is read again.
            let again = scratch.open(&fs::read(scratch.record()).unwrap(), now).unwrap();
            prop_assert!(again.newest_version() == opened.unwrap().newest_version());
        }
        let mut changed = text;
        mutate(&mut changed, &changes);
        drop(scratch.open(&sealed(&changed), now));
    }

    #[test]
    fn hostile_root_keys_are_refused(changes in mutations(), random in vec(any::<u8>(), 0..200)) {
        let scratch = Scratch::new();
        fs::remove_file(scratch.path().join("root.key")).unwrap();
        let salt = "00".repeat(16);
        let parameters = json!({ "memory_kib": 8, "passes": 1, "lanes": 1, "salt": salt });
        let original = protected_root(&ROOT, PASSPHRASE, &parameters);
        for mut bytes in [original.clone(), random] {
            mutate(&mut bytes, &changes);
            // White space, escapes and the order of members are free.
            let same = serde_json::from_slice::<Value>(&bytes).ok()
                == serde_json::from_slice::<Value>(&original).ok();
            let opened = open_protected(&scratch.path(), &bytes);
            prop_assert!(opened.is_ok() == same);
        }
    }
}

fn open_protected(path: &Path, root: &[u8]) -> Result<Keystore, KeyError> {
    put_private(&path.join("root.json"), root);
    Keystore::open_protected(path, &Passphrase::new(PASSPHRASE.to_vec().into()).unwrap())
}

#[test]
fn a_key_that_can_have_no_further_version_is_never_due() {
    let scratch = Scratch::new();
    let last = u64::from(u32::MAX);
    let many: Vec<_> = (1..=4096).map(|version| (version, 0)).collect();
    for (versions, newest) in [(&[(last, 0)][..], u32::MAX), (&many, 4096)] {
        let provider = scratch.open(&sealed(&text_of(&record(versions))), 400 * DAY).unwrap();
        assert_eq!(provider.newest_version(), newest);
        assert!(!provider.rotate_if_due(400 * DAY).unwrap());
    }
    let provider = scratch.open(&sealed(&text_of(&record(&many[..4095]))), 400 * DAY).unwrap();
    assert_eq!(provider.newest_version(), 4096);
    assert!(fs::metadata(scratch.record()).unwrap().len() < MIB);
}

#[test]
fn long_and_deep_records_are_refused_within_bounds() {
    let scratch = Scratch::new();
    let fill = |head: &str, unit: &str, tail: &str| {
        let room = MIB as usize - 36 - head.len() - tail.len();
        format!("{head}{}{tail}", unit.repeat(room / unit.len()))
    };
    let versions = format!("{{\"volume\":\"{VOLUME}\",\"key_id\":\"k\",\"versions\":[");
    for text in [
        fill("", "[", ""),
        fill("{\"volume\":", "[", ""),
        fill(&versions, "[", ""),
        fill(&versions, "{},", "{}]}"),
        fill("{\"key_id\":\"", "\\u0041", "\"}"),
    ] {
        assert!(damaged(scratch.open(&sealed(text.as_bytes()), 0)));
    }
    assert!(damaged(scratch.open(&vec![b's'; MIB as usize + 1], 0)));
    assert!(damaged(scratch.open(&sealed(&vec![b' '; MIB as usize]), 0)));
}
