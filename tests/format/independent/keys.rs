//! Supplied keys and the keystore: FORMAT.md, "Supplied mode" and "The keystore".

use argon2::{Algorithm, Argon2, Params, Version};
use data_encoding::HEXLOWER;
use serde_json::{Value, json};

use super::primitives::{Key, hkdf, hmac, open, seal};

/// A supplied key's wrapping key.
pub fn supplied_wrap_key(key: &Key) -> Key {
    hkdf(key, b"ssefs supplied wrap v1")
}

/// A supplied key's id in a volume.
pub fn supplied_key_id(key: &Key, volume: &[u8; 16]) -> String {
    let mac = hmac(&hkdf(key, b"ssefs supplied fingerprint v1"), volume);
    format!("supplied:{}", HEXLOWER.encode(&mac[..16]))
}

/// The member `supplied` of a key slot.
pub fn supplied_verifier(key: &Key, salt: &[u8; 32]) -> Value {
    let mac = hmac(&hkdf(key, b"ssefs supplied verifier v1"), salt);
    json!({ "salt": HEXLOWER.encode(salt), "hmac": HEXLOWER.encode(&mac) })
}

pub fn verifies(key: &Key, verifier: &Value) -> bool {
    let salt = hex(&verifier["salt"]);
    supplied_verifier(key, salt[..].try_into().unwrap())["hmac"] == verifier["hmac"]
}

/// The key that Argon2id (RFC 9106) makes of a passphrase; `parameters` as in the descriptor.
pub fn argon2id(passphrase: &[u8], parameters: &Value) -> Key {
    let number = |name: &str| u32::try_from(parameters[name].as_u64().unwrap()).unwrap();
    let params = Params::new(number("memory_kib"), number("passes"), number("lanes"), Some(32));
    let mut key = [0; 32];
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params.unwrap())
        .hash_password_into(passphrase, &hex(&parameters["salt"]), &mut key)
        .unwrap();
    key
}

/// The file `root.json`.
pub fn protected_root(root: &Key, passphrase: &[u8], parameters: &Value) -> Vec<u8> {
    let nonce = [3; 12];
    let key = argon2id(passphrase, parameters);
    let sealed = seal(&key, &nonce, b"ssefs keystore root key v1", root);
    let file = json!({
        "version": 1,
        "argon2id": parameters,
        "nonce": HEXLOWER.encode(&nonce),
        "sealed": HEXLOWER.encode(&sealed),
    });
    serde_json::to_vec(&file).unwrap()
}

/// A record of the keystore.
pub fn seal_record(root: &Key, kind: &str, id: &str, json: &[u8]) -> Vec<u8> {
    let nonce = [4; 12];
    let sealed = seal(&record_key(root), &nonce, &record_aad(kind, id), json);
    [b"ssefsKR1", &nonce[..], &sealed].concat()
}

pub fn open_record(root: &Key, kind: &str, id: &str, bytes: &[u8]) -> Option<Value> {
    let (nonce, sealed) = bytes.strip_prefix(b"ssefsKR1")?.split_first_chunk()?;
    let json = open(&record_key(root), nonce, &record_aad(kind, id), sealed)?;
    serde_json::from_slice(&json).ok()
}

/// The material of a version in a record of kind `managed`.
pub fn material(record: &Value, version: u32) -> Option<Key> {
    let versions = record["versions"].as_array()?;
    let found = versions.iter().find(|one| one["version"] == version)?;
    hex(&found["material"]).try_into().ok()
}

/// The bytes of a hexadecimal member.
pub fn hex(value: &Value) -> Vec<u8> {
    HEXLOWER.decode(value.as_str().unwrap().as_bytes()).unwrap()
}

fn record_key(root: &Key) -> Key {
    hkdf(root, b"ssefs keystore records v1")
}

fn record_aad(kind: &str, id: &str) -> Vec<u8> {
    [b"ssefs keystore record\0ssefsKR1", kind.as_bytes(), b"\0", id.as_bytes()].concat()
}
