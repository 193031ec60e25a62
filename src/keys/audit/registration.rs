//! What the keystore remembers of its log: that there is one, and the key pair that signs its
//! checkpoints. A sealed record, so that the log cannot be taken away unseen. The public key is
//! also given out as PEM, for auditors who have no keystore.

use data_encoding::{BASE64, HEXLOWER};
use serde::{Deserialize, Serialize};

use crate::crypto::{MacKey, Secret, SigningKey, VerifyingKey, sha256};
use crate::format::VolumeId;
use crate::keys::error::KeyError;
use crate::keys::keystore::{Keystore, KeystoreLock};
use crate::keys::keystore_record::{Material, Record};

/// The keys of a log, and its name.
pub(super) struct LogKeys {
    /// Names the log.
    pub(super) log_id: String,
    /// Of every record and of the head.
    pub(super) mac: MacKey,
    /// Of checkpoints.
    pub(super) signer: SigningKey,
    /// Names the signing key.
    pub(super) signer_id: String,
    /// Whether the log was begun: if so it must be there.
    pub(super) begun: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Registration {
    version: u32,
    log_id: String,
    signing_seed: Material,
    begun: bool,
}

impl Record for Registration {
    const KIND: &'static str = "audit";
}

impl LogKeys {
    /// What the keystore remembers, if it ever had a log.
    pub(super) fn read(keystore: &Keystore) -> Result<Option<Self>, KeyError> {
        let Some(registration) = read(keystore)? else { return Ok(None) };
        Ok(Some(Self::new(keystore, &registration)))
    }

    /// Draws a name and a key pair for a new log.
    pub(super) fn make(keystore: &Keystore, lock: &KeystoreLock<'_>) -> Result<Self, KeyError> {
        let registration = Registration {
            version: VERSION,
            log_id: VolumeId::random().to_string(),
            signing_seed: Material(Secret::random()),
            begun: false,
        };
        lock.write(RECORD_ID, &registration)?;
        Ok(Self::new(keystore, &registration))
    }

    /// From now on the log must be there.
    pub(super) fn note_begun(
        &mut self,
        keystore: &Keystore,
        lock: &KeystoreLock<'_>,
    ) -> Result<(), KeyError> {
        let registration = read(keystore)?.ok_or_else(|| KeyError::Damaged {
            path: keystore.path().to_owned(),
            problem: "lost the record of its audit log".into(),
        })?;
        lock.write(RECORD_ID, &Registration { begun: true, ..registration })?;
        self.begun = true;
        Ok(())
    }

    fn new(keystore: &Keystore, registration: &Registration) -> Self {
        let signer = SigningKey::from_seed(&registration.signing_seed.0);
        Self {
            log_id: registration.log_id.clone(),
            mac: MacKey::new(keystore.audit_key()),
            signer_id: key_id(&signer.verifying_key()),
            signer,
            begun: registration.begun,
        }
    }
}

/// The name of a signing key: the first half of the SHA-256 of its SPKI.
pub(super) fn key_id(key: &VerifyingKey) -> String {
    HEXLOWER.encode(&sha256(&spki(key))[..16])
}

/// A public key as PEM (RFC 7468) of its SubjectPublicKeyInfo (RFC 8410).
pub fn to_pem(key: &VerifyingKey) -> String {
    format!("{PEM_BEGIN}\n{}\n{PEM_END}\n", BASE64.encode(&spki(key)))
}

/// The reverse; `None` if it is not the PEM of a public key of Ed25519.
pub fn from_pem(text: &str) -> Option<VerifyingKey> {
    let (_, rest) = text.split_once(PEM_BEGIN)?;
    let (body, _) = rest.split_once(PEM_END)?;
    let body: String = body.split_ascii_whitespace().collect();
    let spki = BASE64.decode(body.as_bytes()).ok()?;
    Some(VerifyingKey(spki.strip_prefix(SPKI_PREFIX)?.try_into().ok()?))
}

fn read(keystore: &Keystore) -> Result<Option<Registration>, KeyError> {
    let registration: Option<Registration> = keystore.read(RECORD_ID)?;
    if let Some(Registration { version, .. }) = registration
        && version != VERSION
    {
        return Err(KeyError::Damaged {
            path: keystore.path().to_owned(),
            problem: format!("has an audit log of version {version}; use a newer ssefs"),
        });
    }
    Ok(registration)
}

fn spki(key: &VerifyingKey) -> Vec<u8> {
    [SPKI_PREFIX, &key.0].concat()
}

const RECORD_ID: &str = "log";
const VERSION: u32 = 1;
/// SEQUENCE { SEQUENCE { OID 1.3.101.112 }, BIT STRING of 32 bytes }.
const SPKI_PREFIX: &[u8] = &[0x30, 0x2a, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 3, 0x21, 0];
const PEM_BEGIN: &str = "-----BEGIN PUBLIC KEY-----";
const PEM_END: &str = "-----END PUBLIC KEY-----";

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 8410, 10.1.
    #[test]
    fn the_rfc_s_public_key() {
        let text = "-----BEGIN PUBLIC KEY-----\n\
                    MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n\
                    -----END PUBLIC KEY-----\n";
        let key = from_pem(text).unwrap();
        assert_eq!(key.0[..4], [0x19, 0xbf, 0x44, 0x09]);
        assert_eq!(to_pem(&key), text);
        assert!(from_pem(&text.replace("MCow", "MCox")).is_none());
        assert!(from_pem("").is_none());
    }
}
