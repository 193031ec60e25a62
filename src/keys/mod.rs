//! Where keys come from: the key providers of the three modes, the keystore, the cache of
//! unwrapped DEKs. Knows nothing of paths and inodes.

mod clock;
mod error;
mod keystore;
mod keystore_record;
mod managed;
mod passphrase;
mod private_dir;
mod provider;
mod root_key;
mod supplied;
mod wrap;

pub use error::KeyError;
pub use keystore::Keystore;
pub use managed::ManagedProvider;
pub use passphrase::{Passphrase, recommended_argon2id};
pub use provider::{Access, Binding, Caller, Generated, KeyProvider, Operation};
pub use supplied::{SuppliedProvider, supplied_key_id, supplied_verifier, verify_supplied};
