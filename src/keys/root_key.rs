//! The keystore's root key on disk: 32 random bytes in a file of mode 0600, or the same sealed
//! under a key that Argon2id makes of a passphrase. Exactly one of the two files exists.

use std::path::Path;

use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};

use super::error::KeyError;
use super::passphrase::Passphrase;
use super::private_dir::{DirLock, PrivateDir};
use crate::crypto::{AeadKey, NONCE_LEN, Nonce, SECRET_LEN, Secret, TAG_LEN, Tag, random_array};
use crate::format::Argon2idParameters;

/// What is found of the root key.
pub(super) enum RootKeyFile {
    /// The key itself.
    Plain(Secret),
    /// The key under a passphrase.
    Protected(ProtectedRootKey),
}

/// The root key sealed under a passphrase, as JSON in its file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ProtectedRootKey {
    version: u32,
    argon2id: Argon2idParameters,
    nonce: String,
    sealed: String,
}

impl ProtectedRootKey {
    /// Opens it; `keystore` is for the message.
    pub(super) fn open(
        &self,
        passphrase: &Passphrase,
        keystore: &Path,
    ) -> Result<Secret, KeyError> {
        let damaged = || KeyError::Damaged {
            path: keystore.join(PROTECTED_NAME),
            problem: "is malformed".into(),
        };
        let decode = |text: &str| HEXLOWER.decode(text.as_bytes()).map_err(|_| damaged());
        let nonce: Nonce = decode(&self.nonce)?.try_into().map_err(|_| damaged())?;
        let sealed: [u8; SECRET_LEN + TAG_LEN] =
            decode(&self.sealed)?.try_into().map_err(|_| damaged())?;
        let (body, tag) = sealed.split_last_chunk::<TAG_LEN>().expect("a tag comes last");
        let tag: &Tag = tag;
        let key = AeadKey::new(&passphrase.derive(&self.argon2id)?);
        Secret::try_from_fn(|root| key.open(&nonce, PROTECTED_AAD, body, tag, root)).map_err(|_| {
            KeyError::Unusable(format!("wrong passphrase for the keystore {}", keystore.display()))
        })
    }
}

/// Reads the root key's file; `None` if there is none.
pub(super) fn read(dir: &PrivateDir) -> Result<Option<RootKeyFile>, KeyError> {
    let plain = dir.read(PLAIN_NAME, MAX_FILE_LEN)?;
    let protected = dir.read(PROTECTED_NAME, MAX_FILE_LEN)?;
    match (plain, protected) {
        (None, None) => Ok(None),
        (Some(_), Some(_)) => Err(KeyError::Damaged {
            path: dir.path_of(PLAIN_NAME),
            problem: format!("and {PROTECTED_NAME} are both there: which one counts?"),
        }),
        (Some(bytes), None) => {
            let bytes =
                <&[u8; SECRET_LEN]>::try_from(bytes.as_slice()).map_err(|_| KeyError::Damaged {
                    path: dir.path_of(PLAIN_NAME),
                    problem: format!("holds {} bytes, not {SECRET_LEN}", bytes.len()),
                })?;
            Ok(Some(RootKeyFile::Plain(Secret::copy_from(bytes))))
        }
        (None, Some(text)) => {
            let damaged =
                |problem| KeyError::Damaged { path: dir.path_of(PROTECTED_NAME), problem };
            let sealed: ProtectedRootKey = serde_json::from_slice(&text)
                .map_err(|error| damaged(format!("is malformed: {error}")))?;
            if sealed.version != PROTECTED_VERSION {
                return Err(damaged(format!("is of version {}", sealed.version)));
            }
            Ok(Some(RootKeyFile::Protected(sealed)))
        }
    }
}

/// Writes the root key as it is.
pub(super) fn write_plain(lock: &DirLock<'_>, root: &Secret) -> Result<(), KeyError> {
    lock.replace(PLAIN_NAME, root.expose())
}

/// Writes the root key sealed under `passphrase`. The salt is new, so the key is used for this
/// one seal; the AAD separates it from other uses of the same passphrase.
pub(super) fn write_protected(
    lock: &DirLock<'_>,
    root: &Secret,
    passphrase: &Passphrase,
    argon2id: Argon2idParameters,
) -> Result<(), KeyError> {
    let nonce: Nonce = random_array::<NONCE_LEN>();
    let mut sealed = [0; SECRET_LEN + TAG_LEN];
    let (body, tail) = sealed.split_at_mut(SECRET_LEN);
    let key = AeadKey::new(&passphrase.derive(&argon2id)?);
    tail.copy_from_slice(&key.seal(&nonce, PROTECTED_AAD, root.expose(), body));
    let file = ProtectedRootKey {
        version: PROTECTED_VERSION,
        argon2id,
        nonce: HEXLOWER.encode(&nonce),
        sealed: HEXLOWER.encode(&sealed),
    };
    let mut text = serde_json::to_vec_pretty(&file).expect("a sealed root key is plain data");
    text.push(b'\n');
    lock.replace(PROTECTED_NAME, &text)
}

/// The file of the key as it is.
pub(super) const PLAIN_NAME: &str = "root.key";
const PROTECTED_NAME: &str = "root.json";
const PROTECTED_VERSION: u32 = 1;
const PROTECTED_AAD: &[u8] = b"ssefs keystore root key v1";
const MAX_FILE_LEN: usize = 4096;

#[cfg(test)]
mod tests {
    use super::super::passphrase::tests::{cheap, passphrase};
    use super::*;

    #[test]
    fn a_passphrase_protects_it() {
        let scratch = tempfile::tempdir().unwrap();
        let dir = PrivateDir::open_or_create(&scratch.path().join("k")).unwrap();
        assert!(read(&dir).unwrap().is_none());
        let root = Secret::random();
        write_protected(&dir.lock().unwrap(), &root, &passphrase("right"), cheap()).unwrap();
        let Some(RootKeyFile::Protected(sealed)) = read(&dir).unwrap() else { panic!("sealed") };
        let opened = sealed.open(&passphrase("right"), dir.path()).unwrap();
        assert!(opened.equals(&root));
        let error = sealed.open(&passphrase("wrong"), dir.path()).err().unwrap().to_string();
        assert!(error.starts_with("wrong passphrase"), "{error}");

        let refused = super::super::Keystore::open(dir.path()).err().unwrap().to_string();
        assert!(refused.ends_with("needs its passphrase"), "{refused}");
        assert!(super::super::Keystore::is_protected(dir.path()).unwrap());
        assert!(super::super::Keystore::open_protected(dir.path(), &passphrase("right")).is_ok());

        write_plain(&dir.lock().unwrap(), &root).unwrap();
        assert!(matches!(read(&dir), Err(KeyError::Damaged { .. })), "both files");
    }

    #[test]
    fn a_plain_one_must_be_32_bytes() {
        let scratch = tempfile::tempdir().unwrap();
        let dir = PrivateDir::open_or_create(&scratch.path().join("k")).unwrap();
        for len in [0, 31, 33, MAX_FILE_LEN + 1] {
            dir.lock().unwrap().replace(PLAIN_NAME, &vec![1; len]).unwrap();
            assert!(matches!(read(&dir), Err(KeyError::Damaged { .. })), "{len} bytes");
        }
    }
}
