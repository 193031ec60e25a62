//! Ciphertext blobs: what `Encrypt` and `GenerateDataKey` hand out and `Decrypt` takes. A blob
//! names its key and the version of the material, so that nothing else is needed to open it than
//! the encryption context.
//!
//! | at | length | what |
//! |---|---|---|
//! | 0 | 8 | magic `ssefsCB1` |
//! | 8 | 16 | key id: the UUID's bytes |
//! | 24 | 4 | version of the material, little-endian |
//! | 28 | 16 | salt |
//! | 44 | 12 | nonce |
//! | 56 | 1 to 4096 | ciphertext |
//! | end - 16 | 16 | tag |
//!
//! AES-256-GCM under a key that HKDF-SHA256 derives from the material with a label and the salt.
//! The AAD is the first 28 bytes, then the number of pairs and each pair's name and value in the
//! order of names, every one with its length in 4 bytes before it.

use std::collections::BTreeMap;

use uuid::Uuid;
use zeroize::Zeroizing;

use crate::crypto::{
    AeadKey, NONCE_LEN, Nonce, OpenFailed, Secret, TAG_LEN, Tag, derive, random_array,
};
use crate::format::KeyId;

/// The fixed part of a blob, and the rest as it lies there.
pub(super) struct Blob<'a> {
    /// The key that sealed it.
    pub(super) key_id: KeyId,
    /// The version of its material.
    pub(super) version: u32,
    head: &'a [u8; HEAD_LEN],
    salt: &'a [u8; SALT_LEN],
    nonce: &'a Nonce,
    body: &'a [u8],
    tag: &'a Tag,
}

/// The bytes are not a blob of this version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Malformed;

/// Seals `plaintext` under a version of a key's material, bound to key, version and context.
///
/// The salt gives each blob a key of its own, so that the number of blobs under one version is
/// not bound by that of random nonces under one key (SP 800-38D, 8.3). The label keeps these
/// keys apart from the material itself, which wraps DEKs (RFC 5869, 3.2).
///
/// # Panics
/// When the key's id is no UUID.
pub(super) fn seal(
    key_id: &KeyId,
    version: u32,
    material: &Secret,
    context: &BTreeMap<String, String>,
    plaintext: &[u8],
) -> Vec<u8> {
    let uuid = Uuid::try_parse(&key_id.0).expect("the id of a CMK is a UUID");
    let (salt, nonce) = (random_array::<SALT_LEN>(), random_array::<NONCE_LEN>());
    let mut bytes = Vec::with_capacity(OVERHEAD + plaintext.len());
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(uuid.as_bytes());
    bytes.extend_from_slice(&version.to_le_bytes());
    let aad = aad(&bytes, context);
    bytes.extend_from_slice(&salt);
    bytes.extend_from_slice(&nonce);
    let body = bytes.len();
    bytes.resize(body + plaintext.len(), 0);
    let tag = sealing_key(material, &salt).seal(&nonce, &aad, plaintext, &mut bytes[body..]);
    bytes.extend_from_slice(&tag);
    bytes
}

impl<'a> Blob<'a> {
    /// Reads what can be read without the material.
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        if !(OVERHEAD + 1..=OVERHEAD + MAX_PLAINTEXT_LEN).contains(&bytes.len()) {
            return Err(Malformed);
        }
        let (head, rest) = bytes.split_first_chunk::<HEAD_LEN>().ok_or(Malformed)?;
        let (salt, rest) = rest.split_first_chunk::<SALT_LEN>().ok_or(Malformed)?;
        let (nonce, rest) = rest.split_first_chunk::<NONCE_LEN>().ok_or(Malformed)?;
        let (body, tag) = rest.split_last_chunk::<TAG_LEN>().ok_or(Malformed)?;
        let named = head.strip_prefix(MAGIC).ok_or(Malformed)?;
        let (uuid, version) = named.split_first_chunk::<16>().ok_or(Malformed)?;
        let version = u32::from_le_bytes(version.try_into().map_err(|_| Malformed)?);
        let key_id = KeyId(Uuid::from_bytes(*uuid).to_string());
        Ok(Self { key_id, version, head, salt, nonce, body, tag })
    }

    /// Opens it.
    pub(super) fn open(
        &self,
        material: &Secret,
        context: &BTreeMap<String, String>,
    ) -> Result<Zeroizing<Vec<u8>>, OpenFailed> {
        let mut plaintext = Zeroizing::new(vec![0; self.body.len()]);
        let aad = aad(self.head, context);
        let sealing_key = sealing_key(material, self.salt);
        sealing_key.open(self.nonce, &aad, self.body, self.tag, &mut plaintext)?;
        Ok(plaintext)
    }
}

fn sealing_key(material: &Secret, salt: &[u8; SALT_LEN]) -> AeadKey {
    AeadKey::new(&derive(material, &[LABEL, salt].concat()))
}

/// What a blob is bound to; no two contexts have the same bytes.
fn aad(head: &[u8], context: &BTreeMap<String, String>) -> Vec<u8> {
    let length = |len: usize| u32::try_from(len).expect("contexts are bounded").to_le_bytes();
    let mut aad = head.to_vec();
    aad.extend_from_slice(&length(context.len()));
    for text in context.iter().flat_map(|(name, value)| [name, value]) {
        aad.extend_from_slice(&length(text.len()));
        aad.extend_from_slice(text.as_bytes());
    }
    aad
}

/// How much may be encrypted at once, as in AWS KMS.
pub(super) const MAX_PLAINTEXT_LEN: usize = 4096;
const MAGIC: &[u8; 8] = b"ssefsCB1";
const HEAD_LEN: usize = 8 + 16 + 4;
const SALT_LEN: usize = 16;
const OVERHEAD: usize = HEAD_LEN + SALT_LEN + NONCE_LEN + TAG_LEN;
const LABEL: &[u8] = b"ssefs kms ciphertext blob v1\0";

#[cfg(test)]
mod tests {
    use aes_gcm::aead::{Aead, Payload};
    use aes_gcm::{Aes256Gcm, KeyInit};
    use data_encoding::HEXLOWER;
    use hmac::{Hmac, Mac};
    use proptest::collection::{btree_map, vec};
    use proptest::prelude::any;
    use proptest::{prop_assert, prop_assert_eq, proptest};
    use sha2::Sha256;

    use super::*;

    const MATERIAL: [u8; 32] = [7; 32];
    const VECTOR: &str =
        concat!("7373656673434231", "00112233445566778899aabbccddeeff", "02000000",);

    fn key_id() -> KeyId {
        KeyId("00112233-4455-6677-8899-aabbccddeeff".into())
    }

    fn context(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect()
    }

    fn open(
        bytes: &[u8],
        material: &[u8; 32],
        context: &BTreeMap<String, String>,
    ) -> Option<Vec<u8>> {
        let opened = Blob::parse(bytes).ok()?.open(&Secret::copy_from(material), context);
        opened.ok().map(|plaintext| plaintext.to_vec())
    }

    /// HMAC, HKDF and AES-GCM of RustCrypto, and the layout by its table.
    fn open_independently(bytes: &[u8], aad_of_context: &[u8]) -> Option<Vec<u8>> {
        let hmac = |key: &[u8], message: &[u8]| {
            let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(key).unwrap();
            mac.update(message);
            <[u8; 32]>::from(mac.finalize().into_bytes())
        };
        let pseudorandom = hmac(&[], &MATERIAL);
        let label = [b"ssefs kms ciphertext blob v1\0".as_slice(), &bytes[28..44], &[1]].concat();
        let cipher = Aes256Gcm::new(&hmac(&pseudorandom, &label).into());
        let nonce: [u8; 12] = bytes[44..56].try_into().unwrap();
        let aad = [&bytes[..28], aad_of_context].concat();
        cipher.decrypt(&nonce.into(), Payload { msg: &bytes[56..], aad: &aad }).ok()
    }

    #[test]
    fn another_implementation_opens_it_by_the_table() {
        let pairs = context(&[("b", "2"), ("a", "one")]);
        let material = Secret::copy_from(&MATERIAL);
        let bytes = seal(&key_id(), 2, &material, &pairs, b"payroll");
        assert_eq!(HEXLOWER.encode(&bytes[..28]), VECTOR);
        let aad = b"\x02\0\0\0\x01\0\0\0a\x03\0\0\0one\x01\0\0\0b\x01\0\0\x002";
        assert_eq!(open_independently(&bytes, aad).unwrap(), b"payroll");
        let blob = Blob::parse(&bytes).unwrap();
        assert_eq!((blob.key_id.clone(), blob.version), (key_id(), 2));
        assert_eq!(open(&bytes, &MATERIAL, &pairs).unwrap(), b"payroll");
    }

    #[test]
    fn any_altered_byte_and_any_other_length_is_refused() {
        let pairs = context(&[("department", "finance")]);
        let bytes = seal(&key_id(), 1, &Secret::copy_from(&MATERIAL), &pairs, b"secret");
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut altered = bytes.clone();
                altered[at] ^= 1 << bit;
                assert!(open(&altered, &MATERIAL, &pairs).is_none(), "byte {at}, bit {bit}");
            }
            assert!(open(&bytes[..at], &MATERIAL, &pairs).is_none(), "cut at {at}");
        }
        assert!(open(&[&bytes[..], &[0]].concat(), &MATERIAL, &pairs).is_none());
        assert!(open(&bytes, &[8; 32], &pairs).is_none(), "other material");
        assert!(Blob::parse(&[0; OVERHEAD + MAX_PLAINTEXT_LEN + 1]).is_err());
    }

    #[test]
    fn contexts_do_not_run_into_each_other() {
        let contexts = [
            context(&[]),
            context(&[("a", "bc")]),
            context(&[("ab", "c")]),
            context(&[("a", "b"), ("c", "")]),
            context(&[("a", "b"), ("c", "d")]),
            context(&[("a", "")]),
        ];
        for sealed_with in &contexts {
            let material = Secret::copy_from(&MATERIAL);
            let bytes = seal(&key_id(), 1, &material, sealed_with, b"x");
            for opened_with in &contexts {
                let opens = open(&bytes, &MATERIAL, opened_with).is_some();
                assert_eq!(opens, opened_with == sealed_with, "{sealed_with:?} {opened_with:?}");
            }
        }
    }

    proptest! {
        #[test]
        fn whatever_is_sealed_opens(
            plaintext in vec(any::<u8>(), 1..=MAX_PLAINTEXT_LEN),
            version in any::<u32>(),
            pairs in btree_map("\\PC{0,9}", "\\PC{0,9}", 0..4),
        ) {
            let bytes = seal(&key_id(), version, &Secret::copy_from(&MATERIAL), &pairs, &plaintext);
            prop_assert_eq!(open(&bytes, &MATERIAL, &pairs), Some(plaintext));
        }

        #[test]
        fn arbitrary_bytes_are_refused(bytes in vec(any::<u8>(), 0..5000)) {
            prop_assert!(open(&bytes, &MATERIAL, &BTreeMap::new()).is_none());
        }
    }
}
