//! What an audit record tells, before it has its place in the chain: CloudTrail's fields, none
//! of them secret.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use crate::format::{FileId, KeyId, VolumeId};
use crate::keys::Operation;
use crate::keys::identity::Identity;

/// One use of a key or one change to it.
pub struct Event<'a> {
    /// CloudTrail's `eventName`, such as `Decrypt`.
    pub name: &'static str,
    /// Whether no key was changed.
    pub read_only: bool,
    /// Who.
    pub identity: &'a Identity,
    /// For what file; `None` for what the command line asked of the KMS itself.
    pub target: Option<Target<'a>>,
    /// Which key, if one was found.
    pub key_id: Option<&'a KeyId>,
    /// Which version of its material.
    pub key_version: Option<u32>,
    /// The encryption context, system's and user's pairs together.
    pub context: &'a BTreeMap<String, String>,
    /// For an opening: whether the DEK was in memory already.
    pub cache_hit: Option<bool>,
    /// Why it was refused, if it was.
    pub error: Option<EventError>,
    /// Further members of `requestParameters`.
    pub parameters: BTreeMap<&'static str, Value>,
    /// Further members of `additionalEventData`.
    pub additional: BTreeMap<&'static str, Value>,
}

/// The file that a key is used for.
#[derive(Debug, Clone, Copy)]
pub struct Target<'a> {
    /// What is done to it.
    pub operation: Operation,
    /// Its volume.
    pub volume: VolumeId,
    /// Its id.
    pub file: FileId,
    /// Its path in the mount at this time.
    pub path: &'a Path,
}

/// A refusal, in the names of AWS KMS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventError {
    /// Such as `AccessDeniedException`.
    pub code: &'static str,
    /// One sentence for people.
    pub message: String,
}
