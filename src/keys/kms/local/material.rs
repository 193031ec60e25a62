//! The versions of a key's material: rotation by age and on demand, and import. Old versions
//! stay for ever. Keys are named by their ids here.

use serde::Serialize;

use super::LocalKms;
use super::call::Call;
use crate::crypto::Secret;
use crate::keys::identity::Identity;
use crate::keys::kms::action::Action;
use crate::keys::kms::error::KmsError;
use crate::keys::kms::state::{Command, RotationType};

/// How a key rotates, with AWS KMS's names. Dates are in seconds since 1970-01-01 UTC.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct RotationStatus {
    /// Whether it rotates by age.
    pub key_rotation_enabled: bool,
    /// How many days lie between two rotations.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rotation_period_in_days: Option<u32>,
    /// The next one; a key that is not enabled then rotates when it is enabled again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_rotation_date: Option<u64>,
    /// How often it was rotated on demand, by import too.
    pub on_demand_rotations: u32,
}

/// One version of a key's material.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct KeyRotation {
    /// Its number.
    pub key_version: u32,
    /// Its public name.
    pub key_material_id: String,
    /// When it was made.
    pub rotation_date: u64,
    /// Why.
    pub rotation_type: RotationType,
    /// Whether it is the one that encrypts.
    pub current: bool,
}

impl LocalKms {
    /// Lets a key rotate every so many days, counted from now.
    pub fn enable_key_rotation(
        &self,
        who: &Identity,
        key: &str,
        days: u32,
    ) -> Result<(), KmsError> {
        let mut call = Call::change(Action::EnableKeyRotation, who);
        call.parameter("rotationPeriodInDays", days);
        self.change(call, key, |record, _, now| {
            record.command(Command::EnableRotation { days }, None, now).map(drop)
        })
    }

    /// Lets a key rotate by age no more.
    pub fn disable_key_rotation(&self, who: &Identity, key: &str) -> Result<(), KmsError> {
        self.change(Call::change(Action::DisableKeyRotation, who), key, |record, _, now| {
            record.command(Command::DisableRotation, None, now).map(drop)
        })
    }

    /// Whether and when a key rotates by age.
    pub fn key_rotation_status(
        &self,
        who: &Identity,
        key: &str,
    ) -> Result<RotationStatus, KmsError> {
        self.audited(Call::read(Action::GetKeyRotationStatus, who), |call| {
            let cmk = self.find_by_id_only(call, key)?;
            let lifecycle = &cmk.record.lifecycle;
            let schedule = lifecycle.rotation();
            Ok(RotationStatus {
                key_rotation_enabled: schedule.is_some(),
                rotation_period_in_days: schedule.map(|schedule| schedule.period_days),
                next_rotation_date: schedule.map(|schedule| schedule.next),
                on_demand_rotations: lifecycle.on_demand_rotations(),
            })
        })
    }

    /// All versions of a key's material, oldest first.
    pub fn list_key_rotations(
        &self,
        who: &Identity,
        key: &str,
    ) -> Result<Vec<KeyRotation>, KmsError> {
        self.audited(Call::read(Action::ListKeyRotations, who), |call| {
            let cmk = self.find_by_id_only(call, key)?;
            let newest = cmk.record.newest().map(|newest| newest.version);
            let versions = cmk.record.versions().iter().map(|version| KeyRotation {
                key_version: version.version,
                key_material_id: version.material_id.clone(),
                rotation_date: version.created,
                rotation_type: version.rotation,
                current: newest == Some(version.version),
            });
            Ok(versions.collect())
        })
    }

    /// Adds a version now; its number is returned.
    pub fn rotate_key_on_demand(&self, who: &Identity, key: &str) -> Result<u32, KmsError> {
        self.change(Call::change(Action::RotateKeyOnDemand, who), key, |record, call, now| {
            let added = record.command(Command::RotateOnDemand, None, now)?;
            let added = added.expect("a rotation adds a version");
            call.version(added);
            Ok(added.version)
        })
    }

    /// Gives a key with origin `EXTERNAL` its material: the first, or a new version, which is a
    /// rotation on demand. Material that the key has already changes nothing. The number of its
    /// version is returned.
    pub fn import_key_material(
        &self,
        who: &Identity,
        key: &str,
        material: Secret,
    ) -> Result<u32, KmsError> {
        self.change(Call::change(Action::ImportKeyMaterial, who), key, |record, call, now| {
            let known = record.version_of(&material);
            let import = Command::Import { known: known.is_some() };
            if let Some(added) = record.command(import, Some(material), now)? {
                call.version(added);
                return Ok(added.version);
            }
            let version = known.and_then(|known| record.version(known));
            let version = version.expect("what adds no version has found one");
            call.version(version);
            Ok(version.version)
        })
    }
}
