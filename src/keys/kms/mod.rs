//! The local KMS: customer master keys with states, policies, grants and rotation, in the
//! keystore. Names, states, rules and errors follow AWS KMS.

mod action;
mod alias;
mod alias_cache;
mod bucket_key;
mod ciphertext;
mod cmk;
mod error;
mod familiar;
mod grant;
mod local;
pub mod policy;
mod provider;
#[cfg(test)]
mod provider_tests;
mod record;
#[cfg(test)]
mod rules_tests;
mod state;

pub use action::Action;
pub use alias::{Alias, AliasName};
pub use bucket_key::BucketKeyLimits;
pub use cmk::Cmk;
pub use error::{ErrorCode, KmsError};
pub use grant::{Constraints, Grant};
pub use local::{
    Clock, CreateKey, DataKey, Decrypted, Encrypted, GrantRequest, KeyMetadata, KeyRotation,
    LocalKms, RotationStatus,
};
pub use policy::{Decision, Policy, Request};
pub use provider::{AuditLevel, CONTEXT_PREFIX, KmsOptions, KmsProvider};
pub use state::{
    DEFAULT_DELETION_DAYS, DEFAULT_ROTATION_DAYS, DELETION_DAYS, KeyState, MAX_ON_DEMAND, Origin,
    ROTATION_DAYS, RotationType,
};
