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
