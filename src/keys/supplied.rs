//! Supplied mode: the user brings a 256-bit key at each mount. It is told from a wrong one by a
//! salted HMAC in the volume descriptor, wraps by a key derived from it, and is not kept: the
//! provider holds the derived key alone.

use std::collections::BTreeMap;

use data_encoding::HEXLOWER;

use super::error::KeyError;
use super::provider::{Access, Binding, KeyProvider};
use super::wrap::{Wrapper, unwrap};
use crate::crypto::{MAC_LEN, MacKey, Secret, derive, random_array};
use crate::format::{Argon2idParameters, Envelope, KeyId, Mode, SuppliedVerifier, VolumeId};

/// The provider of supplied mode for one volume.
pub struct SuppliedProvider {
    wrap_key: Secret,
    key_id: KeyId,
}

impl SuppliedProvider {
    /// From the key; it is wiped here, what is derived from it stays.
    pub fn new(key: Secret, volume: VolumeId) -> Self {
        let key_id = supplied_key_id(&key, volume);
        Self { wrap_key: derive(&key, WRAP_LABEL), key_id }
    }

    /// The key's fingerprint in this volume.
    pub fn key_id(&self) -> &KeyId {
        &self.key_id
    }

    fn check_id(&self, envelope: &Envelope) -> Result<(), KeyError> {
        if envelope.key_id == self.key_id {
            return Ok(());
        }
        let hint = format!(
            "the key given to this mount is {}; the file was written under another one",
            self.key_id
        );
        Err(KeyError::NotFound { key_id: envelope.key_id.clone(), hint })
    }
}

impl KeyProvider for SuppliedProvider {
    fn mode(&self) -> Mode {
        Mode::Supplied
    }

    fn wrap(
        &self,
        dek: &Secret,
        previous: Option<&Envelope>,
        binding: Binding,
        _access: &Access<'_>,
    ) -> Result<Envelope, KeyError> {
        let wrapper = Wrapper {
            mode: Mode::Supplied,
            provider: PROVIDER,
            key_id: &self.key_id,
            key_version: KEY_VERSION,
            material: &self.wrap_key,
            context: &BTreeMap::new(),
        };
        wrapper.wrap(dek, previous, binding)
    }

    fn unwrap(
        &self,
        envelope: &Envelope,
        binding: Binding,
        _access: &Access<'_>,
    ) -> Result<Secret, KeyError> {
        self.check_id(envelope)?;
        if envelope.key_version != KEY_VERSION {
            return Err(KeyError::VersionNotFound {
                key_id: envelope.key_id.clone(),
                version: envelope.key_version,
            });
        }
        unwrap(&self.wrap_key, envelope, binding)
    }

    fn authorise(
        &self,
        envelope: &Envelope,
        _binding: Binding,
        _access: &Access<'_>,
        _cached: bool,
    ) -> Result<(), KeyError> {
        self.check_id(envelope)
    }
}

/// A supplied key's fingerprint in a volume: it tells keys apart without saying anything of
/// them, and the same key is not recognised across volumes.
pub fn supplied_key_id(key: &Secret, volume: VolumeId) -> KeyId {
    let mac = MacKey::new(&derive(key, FINGERPRINT_LABEL)).sign(&[&volume.0]);
    KeyId(format!("supplied:{}", HEXLOWER.encode(&mac[..FINGERPRINT_LEN])))
}

/// What tells `key` later; `argon2id` when it was made from a passphrase.
pub fn supplied_verifier(key: &Secret, argon2id: Option<Argon2idParameters>) -> SuppliedVerifier {
    let salt: [u8; SALT_LEN] = random_array();
    let hmac = verifier_key(key).sign(&[&salt]);
    SuppliedVerifier { salt: HEXLOWER.encode(&salt), hmac: HEXLOWER.encode(&hmac), argon2id }
}

/// Whether `key` is the one that the verifier was made of; compares in constant time.
pub fn verify_supplied(key: &Secret, verifier: &SuppliedVerifier) -> Result<(), KeyError> {
    let decode =
        |text: &str| -> Option<[u8; 32]> { HEXLOWER.decode(text.as_bytes()).ok()?.try_into().ok() };
    let malformed =
        || KeyError::Unusable("the volume descriptor's key verifier is malformed".into());
    let salt = decode(&verifier.salt).ok_or_else(malformed)?;
    let hmac = decode(&verifier.hmac).ok_or_else(malformed)?;
    verifier_key(key).verify(&[&salt], &hmac).map_err(|_| KeyError::WrongKey)
}

fn verifier_key(key: &Secret) -> MacKey {
    MacKey::new(&derive(key, VERIFIER_LABEL))
}

const PROVIDER: &str = "supplied";
/// A supplied key has one version: another key is another key.
const KEY_VERSION: u32 = 1;
const WRAP_LABEL: &[u8] = b"ssefs supplied wrap v1";
const FINGERPRINT_LABEL: &[u8] = b"ssefs supplied fingerprint v1";
const VERIFIER_LABEL: &[u8] = b"ssefs supplied verifier v1";
const FINGERPRINT_LEN: usize = 16;
const SALT_LEN: usize = 32;
const _: () = assert!(SALT_LEN == MAC_LEN, "the verifier decodes both alike");

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::format::FileId;

    const VOLUME: VolumeId = VolumeId([1; 16]);
    const BINDING: Binding = Binding { volume: VOLUME, file: FileId([2; 16]) };

    fn access() -> Access<'static> {
        Access::own(&PathBuf::new)
    }

    fn key(byte: u8) -> Secret {
        Secret::copy_from(&[byte; 32])
    }

    #[test]
    fn the_same_key_unwraps_at_the_next_mount() {
        let first = SuppliedProvider::new(key(1), VOLUME);
        let made = first.generate(BINDING, &access()).unwrap();
        assert_eq!((made.envelope.mode, made.envelope.key_version), (Mode::Supplied, 1));
        assert_eq!(made.envelope.provider, "supplied");
        let again = SuppliedProvider::new(key(1), VOLUME);
        assert!(again.authorise(&made.envelope, BINDING, &access(), false).is_ok());
        assert!(again.unwrap(&made.envelope, BINDING, &access()).unwrap().equals(&made.dek));
    }

    #[test]
    fn another_key_is_told_by_its_id() {
        let made = SuppliedProvider::new(key(1), VOLUME).generate(BINDING, &access()).unwrap();
        let other = SuppliedProvider::new(key(2), VOLUME);
        for refused in [
            other.unwrap(&made.envelope, BINDING, &access()).map(drop),
            other.authorise(&made.envelope, BINDING, &access(), false),
        ] {
            assert!(matches!(refused, Err(KeyError::NotFound { .. })));
        }
        let forged = Envelope { key_id: other.key_id().clone(), ..made.envelope.clone() };
        let refused = other.unwrap(&forged, BINDING, &access());
        assert!(matches!(refused, Err(KeyError::UnwrapFailed { .. })));
        let versioned = Envelope { key_version: 2, ..made.envelope };
        let refused = SuppliedProvider::new(key(1), VOLUME).unwrap(&versioned, BINDING, &access());
        assert!(matches!(refused, Err(KeyError::VersionNotFound { version: 2, .. })));
    }

    #[test]
    fn a_moved_envelope_is_refused() {
        let provider = SuppliedProvider::new(key(1), VOLUME);
        let made = provider.generate(BINDING, &access()).unwrap();
        let moved = Binding { file: FileId([3; 16]), ..BINDING };
        let refused = provider.unwrap(&made.envelope, moved, &access());
        assert!(matches!(refused, Err(KeyError::UnwrapFailed { .. })));
    }

    #[test]
    fn fingerprints_tell_keys_and_volumes_apart() {
        let id = supplied_key_id(&key(1), VOLUME);
        assert_eq!(id, supplied_key_id(&key(1), VOLUME));
        assert_ne!(id, supplied_key_id(&key(2), VOLUME));
        assert_ne!(id, supplied_key_id(&key(1), VolumeId([2; 16])));
        assert_eq!(id.0.len(), "supplied:".len() + 32);
    }

    #[test]
    fn the_verifier_knows_its_key_and_no_other() {
        let verifier = supplied_verifier(&key(1), None);
        verify_supplied(&key(1), &verifier).unwrap();
        assert!(matches!(verify_supplied(&key(2), &verifier), Err(KeyError::WrongKey)));
        assert_ne!(supplied_verifier(&key(1), None).hmac, verifier.hmac, "salted");
        let mut altered = verifier.clone();
        altered.salt.replace_range(..1, if verifier.salt.starts_with('0') { "1" } else { "0" });
        assert!(matches!(verify_supplied(&key(1), &altered), Err(KeyError::WrongKey)));
        let malformed = SuppliedVerifier { hmac: "12".into(), ..verifier };
        assert!(matches!(verify_supplied(&key(1), &malformed), Err(KeyError::Unusable(_))));
    }
}
