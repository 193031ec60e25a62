//! The uses of key material: encrypt, decrypt, generate a data key, re-encrypt. The newest
//! version of a key alone encrypts; to decrypt, the version that the blob names is used and no
//! other in its place.

use std::collections::BTreeMap;

use zeroize::Zeroizing;

use super::LocalKms;
use super::call::Call;
use crate::crypto::Secret;
use crate::format::KeyId;
use crate::keys::identity::Identity;
use crate::keys::kms::action::Action;
use crate::keys::kms::ciphertext::{Blob, MAX_PLAINTEXT_LEN, seal};
use crate::keys::kms::cmk::Cmk;
use crate::keys::kms::error::{ErrorCode, KmsError};

/// What was encrypted.
#[derive(Debug, Clone)]
pub struct Encrypted {
    /// The ciphertext with the names of its key and version.
    pub blob: Vec<u8>,
    /// The key.
    pub key_id: KeyId,
    /// The version of its material.
    pub key_version: u32,
}

/// What was decrypted.
pub struct Decrypted {
    /// The plaintext; wiped when dropped.
    pub plaintext: Zeroizing<Vec<u8>>,
    /// The key.
    pub key_id: KeyId,
    /// The version of its material.
    pub key_version: u32,
}

/// A new data key, in plaintext and encrypted.
pub struct DataKey {
    /// To encrypt data with; not kept here.
    pub plaintext: Secret,
    /// To be kept beside the data, and decrypted when the key is needed.
    pub encrypted: Encrypted,
}

impl LocalKms {
    /// Encrypts 1 to 4096 bytes, bound to `context`.
    pub fn encrypt(
        &self,
        who: &Identity,
        key: &str,
        plaintext: &[u8],
        context: &BTreeMap<String, String>,
    ) -> Result<Encrypted, KmsError> {
        self.audited(Call::usage(Action::Encrypt, who, context), |call| {
            check_context(context)?;
            if !(1..=MAX_PLAINTEXT_LEN).contains(&plaintext.len()) {
                let len = plaintext.len();
                let message = format!("1 to {MAX_PLAINTEXT_LEN} bytes can be encrypted, not {len}");
                return Err(KmsError::new(ErrorCode::Validation, message));
            }
            let cmk = self.find(call, key)?;
            Ok(seal_under(&cmk, call, plaintext))
        })
    }

    /// Decrypts a blob. `key` need not be given; a wrong one is refused.
    pub fn decrypt(
        &self,
        who: &Identity,
        key: Option<&str>,
        blob: &[u8],
        context: &BTreeMap<String, String>,
    ) -> Result<Decrypted, KmsError> {
        self.audited(Call::usage(Action::Decrypt, who, context), |call| {
            self.open_blob(call, key, blob)
        })
    }

    /// Makes a data key of 256 bits.
    pub fn generate_data_key(
        &self,
        who: &Identity,
        key: &str,
        context: &BTreeMap<String, String>,
    ) -> Result<DataKey, KmsError> {
        let mut call = Call::usage(Action::GenerateDataKey, who, context);
        call.parameter("keySpec", "AES_256");
        self.audited(call, |call| {
            check_context(context)?;
            let cmk = self.find(call, key)?;
            let plaintext = Secret::random();
            let encrypted = seal_under(&cmk, call, plaintext.expose());
            Ok(DataKey { plaintext, encrypted })
        })
    }

    /// Decrypts a blob and encrypts it again, under another key or the newest version of the
    /// same, without showing the plaintext. `source` need not be given. Both keys must allow it;
    /// each has an event of its own.
    pub fn re_encrypt(
        &self,
        who: &Identity,
        source: Option<&str>,
        blob: &[u8],
        source_context: &BTreeMap<String, String>,
        target: &str,
        target_context: &BTreeMap<String, String>,
    ) -> Result<Encrypted, KmsError> {
        let mut from = Call::usage(Action::ReEncryptFrom, who, source_context);
        from.parameter("destinationKeyId", target);
        let decrypted = self.audited(from, |call| self.open_blob(call, source, blob))?;
        self.audited(Call::usage(Action::ReEncryptTo, who, target_context), |call| {
            call.parameter("sourceKeyId", decrypted.key_id.0.as_str());
            check_context(target_context)?;
            let cmk = self.find(call, target)?;
            Ok(seal_under(&cmk, call, &decrypted.plaintext))
        })
    }

    fn open_blob(
        &self,
        call: &mut Call<'_>,
        key: Option<&str>,
        blob: &[u8],
    ) -> Result<Decrypted, KmsError> {
        if let Some(key) = key {
            call.parameter("keyId", key);
        }
        check_context(call.context)?;
        let invalid = |problem: &str| KmsError::new(ErrorCode::InvalidCiphertext, problem);
        let blob = Blob::parse(blob)
            .map_err(|_| invalid("the ciphertext is malformed: it is no blob of this KMS"))?;
        if let Some(key) = key
            && self.resolve(key)? != blob.key_id
        {
            let message = format!("the ciphertext was not encrypted under key {key}");
            return Err(KmsError::new(ErrorCode::IncorrectKey, message));
        }
        let cmk = self.find_by_id(call, &blob.key_id)?;
        let altered = "the ciphertext does not open: it was altered, or encrypted with another \
                       encryption context";
        let version = cmk.record.version(blob.version).ok_or_else(|| invalid(altered))?;
        call.version(version);
        let plaintext = blob.open(version.secret(), call.context).map_err(|_| invalid(altered))?;
        Ok(Decrypted { plaintext, key_id: cmk.id().clone(), key_version: version.version })
    }
}

fn seal_under(cmk: &Cmk, call: &mut Call<'_>, plaintext: &[u8]) -> Encrypted {
    let newest = cmk.record.newest().expect("a key that can be used has material");
    call.version(newest);
    let blob = seal(cmk.id(), newest.version, newest.secret(), call.context, plaintext);
    Encrypted { blob, key_id: cmk.id().clone(), key_version: newest.version }
}

fn check_context(context: &BTreeMap<String, String>) -> Result<(), KmsError> {
    let len: usize = context.iter().map(|(name, value)| name.len() + value.len()).sum();
    if len > MAX_CONTEXT_LEN {
        let message =
            format!("an encryption context has at most {MAX_CONTEXT_LEN} bytes, not {len}");
        return Err(KmsError::new(ErrorCode::Validation, message));
    }
    if context.keys().any(String::is_empty) {
        let message = "an encryption context has a pair without a name";
        return Err(KmsError::new(ErrorCode::Validation, message));
    }
    Ok(())
}

const MAX_CONTEXT_LEN: usize = 8192;
