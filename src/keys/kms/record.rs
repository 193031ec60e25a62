//! A CMK as the keystore keeps it: all that belongs to one key in one record, so that every
//! change to a key is atomic. Versions of material are only ever added. What was read is checked
//! before it is used: a record that contradicts itself is refused.

use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::error::{ErrorCode, KmsError};
use super::grant::Grant;
use super::policy::Policy;
use super::state::{Command, Lifecycle, Origin, RotationType};
use crate::crypto::{Secret, derive};
use crate::format::KeyId;
use crate::keys::error::KeyError;
use crate::keys::keystore::{Keystore, KeystoreLock, StagedRecord};
use crate::keys::keystore_record::{Material, Record};
use crate::keys::private_dir::Stamp;

/// The record of a CMK; its id is the key's.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CmkRecord {
    pub(super) key_id: KeyId,
    pub(super) description: String,
    /// In seconds since 1970-01-01 UTC, as all dates here.
    pub(super) created: u64,
    pub(super) lifecycle: Lifecycle,
    pub(super) policy: Policy,
    pub(super) grants: Vec<Grant>,
    /// Numbered 1, 2, 3 and so on.
    versions: Vec<Version>,
}

/// One version of the material.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Version {
    pub(super) version: u32,
    pub(super) created: u64,
    pub(super) rotation: RotationType,
    /// Names the material in the audit log; tells nothing of it.
    pub(super) material_id: String,
    material: Material,
}

impl Record for CmkRecord {
    const KIND: &'static str = "cmk";
}

impl CmkRecord {
    /// A new key.
    pub(super) fn new(origin: Origin, description: String, policy: Policy, now: u64) -> Self {
        let mut record = Self {
            key_id: KeyId::random(),
            description,
            created: now,
            lifecycle: Lifecycle::new(origin),
            policy,
            grants: Vec::new(),
            versions: Vec::new(),
        };
        if origin == Origin::AwsKms {
            record.add_version(RotationType::Initial, Secret::random(), now);
        }
        record
    }

    /// Reads the record of a key, with the stamp of its file; `None` if there is none.
    pub(super) fn read(
        keystore: &Keystore,
        key_id: &KeyId,
    ) -> Result<Option<(Self, Stamp)>, KeyError> {
        let Some((record, stamp)) = keystore.read_stamped::<Self>(&key_id.0)? else {
            return Ok(None);
        };
        if record.key_id != *key_id || !record.is_consistent() {
            return Err(KeyError::Damaged {
                path: keystore.path_of::<Self>(&key_id.0),
                problem: "contradicts itself".into(),
            });
        }
        Ok(Some((record, stamp)))
    }

    /// Writes the record durably beside the old one.
    pub(super) fn stage<'a>(
        &self,
        lock: &'a KeystoreLock<'_>,
    ) -> Result<StagedRecord<'a>, KmsError> {
        assert!(self.is_consistent(), "what is written can be read again");
        lock.stage(&self.key_id.0, self)?.ok_or_else(|| {
            let key_id = &self.key_id;
            let problem =
                format!("key {key_id} holds as much as fits into its record: revoke some grants");
            KmsError::new(ErrorCode::LimitExceeded, problem)
        })
    }

    /// Brings the key to where `command` leads. A version that this adds is of `material`, or of
    /// fresh random material; it is returned.
    pub(super) fn command(
        &mut self,
        command: Command,
        material: Option<Secret>,
        now: u64,
    ) -> Result<Option<&Version>, KmsError> {
        let transition =
            self.lifecycle.apply(command, now).map_err(|refusal| refusal.of_key(&self.key_id))?;
        self.lifecycle = transition.to;
        Ok(transition.added.map(|rotation| {
            self.add_version(rotation, material.unwrap_or_else(Secret::random), now)
        }))
    }

    /// All versions, oldest first.
    pub(super) fn versions(&self) -> &[Version] {
        &self.versions
    }

    /// The newest version; there is none while the key waits for its import.
    pub(super) fn newest(&self) -> Option<&Version> {
        self.versions.last()
    }

    /// One version.
    pub(super) fn version(&self, version: u32) -> Option<&Version> {
        let index = usize::try_from(version.checked_sub(1)?).ok()?;
        self.versions.get(index)
    }

    /// The version of this very material; takes as long whichever it is.
    pub(super) fn version_of(&self, material: &Secret) -> Option<u32> {
        self.versions.iter().fold(None, |found, version| {
            if version.secret().equals(material) { Some(version.version) } else { found }
        })
    }

    fn add_version(&mut self, rotation: RotationType, material: Secret, now: u64) -> &Version {
        let version = self.newest().map_or(1, |newest| newest.version + 1);
        let material_id = material_id(&self.key_id, &material);
        let material = Material(material);
        self.versions.push(Version { version, created: now, rotation, material_id, material });
        self.newest().expect("one was added just now")
    }

    fn is_consistent(&self) -> bool {
        let numbered = (1..).zip(&self.versions).all(|(number, found)| number == found.version);
        let newest = self.newest().map_or(0, |newest| newest.version);
        numbered && newest == self.lifecycle.newest_version() && self.lifecycle.is_consistent()
    }
}

impl Version {
    /// The material itself.
    pub(super) fn secret(&self) -> &Secret {
        &self.material.0
    }
}

/// The id of a key in the form that records have; `None` if it is not the id of any CMK.
pub(super) fn canonical_id(text: &str) -> Option<KeyId> {
    Uuid::try_parse(text).ok().map(|uuid| KeyId(uuid.to_string()))
}

/// A name for material: a key derived from it that serves nothing else (RFC 5869, 3.2), and
/// differs from key to key.
fn material_id(key_id: &KeyId, material: &Secret) -> String {
    let label = [MATERIAL_ID_LABEL, key_id.0.as_bytes()].concat();
    HEXLOWER.encode(derive(material, &label).expose())
}

const MATERIAL_ID_LABEL: &[u8] = b"ssefs kms material id v1\0";
