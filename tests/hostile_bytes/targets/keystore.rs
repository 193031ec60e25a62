//! The files of a keystore: those that need no root key to be written, and records sealed under
//! the right one, as somebody who has it could.

use std::cell::RefCell;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Value, json};
use ssefs::format::{Argon2idParameters, VolumeId};
use ssefs::keys::{Keystore, ManagedProvider, Passphrase};

use super::format::{CHEAP, cost};
use super::independent::keys::{protected_root, seal_record};
use super::independent::primitives::Key;
use super::scratch::{Scratch, put_private};

/// The root key that every keystore here has.
pub const ROOT: Key = [0x11; 32];

/// A root key under a passphrase; opened if its parameters do not cost much.
pub fn root_json(bytes: &[u8]) {
    let parameters = serde_json::from_slice::<Value>(bytes)
        .ok()
        .and_then(|mut file| serde_json::from_value(file.get_mut("argon2id")?.take()).ok());
    if parameters.is_some_and(|parameters: Argon2idParameters| cost(&parameters) > CHEAP) {
        return;
    }
    SCRATCH.with_borrow(|scratch| {
        let keystore = scratch.path().join("protected");
        if !keystore.exists() {
            scratch.make_private_dir("protected");
        }
        put_private(&keystore.join("root.json"), bytes);
        let passphrase = Passphrase::new(PASSPHRASE.to_vec().into()).unwrap();
        let _ = Keystore::is_protected(&keystore);
        let _ = Keystore::open(&keystore);
        let _ = Keystore::open_protected(&keystore, &passphrase);
    });
}

pub fn root_json_seeds() -> Vec<Vec<u8>> {
    let salt = "00".repeat(16);
    let parameters = json!({ "memory_kib": 8, "passes": 1, "lanes": 1, "salt": salt });
    vec![protected_root(&ROOT, PASSPHRASE, &parameters)]
}

/// The keys of managed mode, due for rotation.
pub fn managed(json: &[u8]) {
    with_record("managed", &VOLUME.to_string(), json, |path| {
        let keystore = Arc::new(Keystore::open(path).unwrap());
        for now in [0, 1_000 * 86_400, u64::MAX] {
            let opened = ManagedProvider::open_existing(Arc::clone(&keystore), VOLUME, 90, now);
            let Ok(provider) = opened else { break };
            let _ = provider.rotate_if_due(now);
        }
    });
}

pub fn managed_seeds() -> Vec<Vec<u8>> {
    let version =
        |number: u32| json!({ "version": number, "created": 5, "material": "5a".repeat(32) });
    let volume = VOLUME.to_string();
    let record =
        |versions: Vec<Value>| json!({ "volume": volume, "key_id": "k", "versions": versions });
    let some = record(vec![version(1), version(7)]);
    let last = record(vec![version(u32::MAX)]);
    vec![some.to_string().into_bytes(), last.to_string().into_bytes()]
}

/// The volumes that a keystore knows.
pub fn volumes(json: &[u8]) {
    with_record("volumes", "all", json, |path| {
        let keystore = Keystore::open(path).unwrap();
        let Ok(_) = keystore.known_volumes() else { return };
        let _ = keystore.remember_volume(VOLUME, Path::new("/srv"), u64::MAX);
        let _ = keystore.forget_volume(VOLUME);
    });
}

pub fn volumes_seeds() -> Vec<Vec<u8>> {
    let place = json!({ "backing": "2f737276", "last_seen": 7 });
    let volumes = json!({ "volumes": { VOLUME.to_string(): place } });
    vec![volumes.to_string().into_bytes()]
}

/// Calls `work` with a keystore that has this one record.
fn with_record(kind: &str, id: &str, json: &[u8], work: impl FnOnce(&Path)) {
    SCRATCH.with_borrow(|scratch| {
        let keystore = plain_keystore(scratch, "plain");
        let record = keystore.join(format!("{kind}-{id}.record"));
        put_private(&record, &seal_record(&ROOT, kind, id, json));
        work(&keystore);
        fs::remove_file(&record).unwrap();
    });
}

/// A keystore with the root key and nothing else, made once.
pub fn plain_keystore(scratch: &Scratch, name: &str) -> PathBuf {
    let keystore = scratch.path().join(name);
    if !keystore.exists() {
        scratch.make_private_dir(name);
        put_private(&keystore.join("root.key"), &ROOT);
    }
    keystore
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch::new());
}

const VOLUME: VolumeId = VolumeId([7; 16]);
const PASSPHRASE: &[u8] = b"correct horse battery staple";
