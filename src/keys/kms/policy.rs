//! Key policies: who may do what with a CMK, in the JSON documents of AWS. It owns the document
//! as it was put and its compiled form, the decision over both policy and grants, and the
//! explanation of a decision.
//!
//! An explicit `Deny` wins; else an `Allow` of the policy or a grant; else it is not allowed.
//! Whatever is not understood in a document is refused when it is put, never ignored: a policy
//! that is kept means exactly what it says. Nothing here reads the keystore.

mod condition;
mod decision;
mod explain;
mod json;
mod parse;
mod principal;
#[cfg(test)]
mod property_tests;
mod statement;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub use decision::{Decision, Request, Source, decide};
pub use explain::{Explanation, Finding, Reach, explain, reach};
pub use principal::{Principal, groups_of_user};
pub use statement::{ActionSet, Effect};

pub(super) use decision::cryptographic_actions;
pub(super) use explain::listed_names;

use super::{Action, KmsError};
use crate::keys::identity::Identity;
use statement::Statement;

/// A key policy: a valid document.
#[derive(Clone)]
pub struct Policy {
    text: String,
    statements: Vec<Statement>,
}

impl Policy {
    /// The longest document, in bytes, as in AWS KMS.
    pub const MAX_LEN: usize = 32 << 10;

    /// Reads a document. What is wrong with it is
    /// [`MalformedPolicyDocument`](super::ErrorCode::MalformedPolicyDocument), with the place
    /// and what may stand there.
    pub fn parse(text: &str) -> Result<Self, KmsError> {
        let statements = parse::statements(text)?;
        Ok(Self { text: text.to_owned(), statements })
    }

    /// The policy of a key that is made without one: the owner of the keystore may do all.
    pub fn default_for(uid: u32) -> Self {
        let text = format!(
            r#"{{
  "Version": "2012-10-17",
  "Id": "key-default",
  "Statement": [
    {{
      "Sid": "The owner of the keystore may do all",
      "Effect": "Allow",
      "Principal": {{"User": "{uid}"}},
      "Action": "kms:*",
      "Resource": "*"
    }}
  ]
}}"#
        );
        Self::parse(&text).expect("the default policy is valid for every user id")
    }

    /// The document as it was put.
    pub fn to_json(&self) -> String {
        self.text.clone()
    }

    /// Whether the policy alone, without grants, lets this process do this. A policy that does
    /// not let its author put another one locks the author out.
    pub fn lets(&self, identity: &Identity, action: Action) -> bool {
        let nothing = Default::default();
        let request = Request::new(identity, action, &nothing);
        matches!(decide(self, &[], &request), Decision::Allowed { .. })
    }

    /// Whether a decision may depend on this pair of the encryption context.
    pub(super) fn looks_at(&self, pair: &str) -> bool {
        self.statements.iter().any(|statement| statement.looks_at(pair))
    }

    /// The users and groups that it names, each once, in the order of the document.
    pub fn principals(&self) -> Vec<&Principal> {
        let mut found: Vec<&Principal> = Vec::new();
        for principal in self.statements.iter().flat_map(Statement::principals) {
            if !found.contains(&principal) {
                found.push(principal);
            }
        }
        found
    }
}

impl PartialEq for Policy {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl std::fmt::Debug for Policy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

impl Serialize for Policy {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for Policy {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(D::Error::custom)
    }
}
