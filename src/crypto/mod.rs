//! Cryptography over AWS-LC: AEAD of blocks and keys, key derivation, MACs, randomness, and
//! the types that hold secrets. Knows nothing of files, blocks' places or key origins.

mod aead;
mod kdf;
mod mac;
mod prf;
mod random;
mod secret;
mod signature;

pub use aead::{AeadKey, NONCE_LEN, Nonce, OpenFailed, TAG_LEN, Tag};
pub use kdf::{Derivation, derive};
pub use mac::{MAC_LEN, MacKey, sha256};
pub use prf::{PRF_LEN, PrfKey};
pub use random::{fill_random, random_array, random_nonces};
pub use secret::{SECRET_LEN, Secret};
pub use signature::{SIGNATURE_LEN, SigningKey, VerifyingKey};
