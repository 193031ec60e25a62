//! Where keys come from: the key providers of the three modes, the keystore, the cache of
//! unwrapped DEKs. Knows nothing of paths and inodes.

pub mod audit;
mod cache;
mod clock;
mod error;
pub mod identity;
mod keyring;
mod keystore;
mod keystore_record;
pub mod kms;
mod known_volumes;
mod managed;
mod passphrase;
mod private_dir;
mod provider;
#[cfg(test)]
mod residue_tests;
mod root_key;
mod source;
mod supplied;
mod volume_key;
mod wrap;

pub use cache::{CacheStats, DekCache};
pub use error::KeyError;
pub use keyring::Keyring;
pub use keystore::Keystore;
pub use known_volumes::KnownVolume;
pub use managed::ManagedProvider;
pub use passphrase::{Passphrase, recommended_argon2id};
pub use provider::{Access, Binding, Caller, Generated, KeyProvider, Operation};
pub use source::{SuppliedSource, read_key, read_key_file};
pub use supplied::{SuppliedProvider, supplied_key_id, supplied_verifier, verify_supplied};
