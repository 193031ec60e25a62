//! The local KMS: customer master keys with states, policies, grants and rotation, in the
//! keystore. Names, states, rules and errors follow AWS KMS.

mod action;
mod error;
mod grant;
pub mod policy;

pub use action::Action;
pub use error::{ErrorCode, KmsError};
pub use grant::{Constraints, Grant};
pub use policy::{Decision, Policy, Request};
