//! Where keys come from: the key providers of the three modes, the keystore, the cache of
//! unwrapped DEKs. Knows nothing of paths and inodes.

mod error;
mod provider;

pub use error::KeyError;
pub use provider::{Access, Binding, Caller, Generated, KeyProvider, Operation};
