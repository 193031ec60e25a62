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

    /// The ids of all keys, in order. Files that are called otherwise than the records here are
    /// somebody's copies.
    pub(super) fn ids(keystore: &Keystore) -> Result<Vec<KeyId>, KeyError> {
        let ids = keystore.ids::<Self>()?.into_iter().map(KeyId);
        Ok(ids.filter(|id| canonical_id(&id.0).as_ref() == Some(id)).collect())
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

#[cfg(test)]
mod tests {
    use proptest::prelude::{Just, Strategy, any, prop_oneof};
    use proptest::proptest;
    use serde_json::{Value, json};

    use super::*;

    const KEY_ID: &str = "00112233-4455-6677-8899-aabbccddeeff";

    /// Any JSON as a record of a CMK.
    #[derive(Serialize, Deserialize)]
    struct Raw(Value);
    impl Record for Raw {
        const KIND: &'static str = "cmk";
    }

    fn example() -> Value {
        let version = |version: u32, rotation: &str, material: u8, material_id: &str| {
            json!({
                "version": version,
                "created": 1_700_000_000_u64 + u64::from(version),
                "rotation": rotation,
                "material_id": material_id,
                "material": HEXLOWER.encode(&[material; 32]),
            })
        };
        json!({
            "key_id": KEY_ID,
            "description": "payroll",
            "created": 1_700_000_000_u64,
            "lifecycle": {
                "state": "PendingDeletion",
                "deletion": 1_702_592_000_u64,
                "origin": "AWS_KMS",
                "rotation": {"period_days": 365, "next": 1_731_536_000_u64},
                "on_demand_rotations": 1,
                "newest_version": 2,
            },
            "policy": Policy::default_for(0).to_json(),
            "grants": [{
                "GrantId": "ab".repeat(32),
                "Name": "readers",
                "GranteePrincipal": {"Group": "0"},
                "Operations": ["Decrypt"],
                "Constraints": {"EncryptionContextSubset": {"a": "b"}},
                "CreationDate": 1_700_000_001_u64,
                "IssuingAccount": 0,
            }],
            "versions": [
                version(1, "INITIAL", 1, FIRST_MATERIAL_ID),
                version(2, "ON_DEMAND", 2, SECOND_MATERIAL_ID),
            ],
        })
    }

    fn read(json: Value) -> Result<Option<CmkRecord>, KeyError> {
        let scratch = tempfile::tempdir().unwrap();
        let keystore = Keystore::open_or_create(&scratch.path().join("k")).unwrap();
        keystore.lock().unwrap().write(KEY_ID, &Raw(json)).unwrap();
        let read = CmkRecord::read(&keystore, &KeyId(KEY_ID.into()))?;
        Ok(read.map(|(record, _)| record))
    }

    #[test]
    fn the_documented_record_is_read_and_written_as_it_is() {
        let mut record = read(example()).unwrap().unwrap();
        assert_eq!(record.version(2).unwrap().secret().expose(), &[2; 32]);
        assert_eq!(serde_json::to_value(&record).unwrap(), example());
        record.versions.clear();
        for (material, rotation) in [(1, RotationType::Initial), (2, RotationType::OnDemand)] {
            record.add_version(rotation, Secret::copy_from(&[material; 32]), 0);
        }
        let ids: Vec<_> = record.versions.iter().map(|one| one.material_id.as_str()).collect();
        assert_eq!(ids, [FIRST_MATERIAL_ID, SECOND_MATERIAL_ID]);
    }

    #[test]
    fn a_record_that_contradicts_itself_is_refused() {
        let breaks: [(&str, Value); 17] = [
            ("/key_id", json!("00112233-4455-6677-8899-aabbccddeef0")),
            ("/lifecycle/state", json!("Enabled")),
            ("/lifecycle/state", json!("PendingImport")),
            ("/lifecycle/state", json!("Unavailable")),
            ("/lifecycle/deletion", json!(null)),
            ("/lifecycle/origin", json!("EXTERNAL")),
            ("/lifecycle/rotation/period_days", json!(0)),
            ("/lifecycle/rotation/period_days", json!(2561)),
            ("/lifecycle/newest_version", json!(1)),
            ("/lifecycle/newest_version", json!(3)),
            ("/lifecycle/newest_version", json!(u32::MAX)),
            ("/versions/0/version", json!(2)),
            ("/versions/1/version", json!(1)),
            ("/versions/1/material", json!("00")),
            ("/versions", json!([])),
            ("/policy", json!("{}")),
            ("/grants/0/Operations", json!(["NoSuchAction"])),
        ];
        for (place, value) in breaks {
            let mut broken = example();
            *broken.pointer_mut(place).unwrap() = value.clone();
            let refused = read(broken);
            assert!(matches!(refused, Err(KeyError::Damaged { .. })), "{place} {value}");
        }
        let mut unknown = example();
        unknown["lifecycle"]["multi_region"] = json!(true);
        assert!(matches!(read(unknown), Err(KeyError::Damaged { .. })), "from a newer ssefs");
    }

    fn places() -> impl Strategy<Value = &'static str> {
        proptest::sample::select(vec![
            "/created",
            "/lifecycle/state",
            "/lifecycle/deletion",
            "/lifecycle/origin",
            "/lifecycle/rotation",
            "/lifecycle/rotation/period_days",
            "/lifecycle/rotation/next",
            "/lifecycle/on_demand_rotations",
            "/lifecycle/newest_version",
            "/versions/0/version",
            "/versions/0/created",
            "/versions/1",
            "/grants/0",
        ])
    }

    fn values() -> impl Strategy<Value = Value> {
        prop_oneof![
            Just(json!(null)),
            any::<u64>().prop_map(Value::from),
            (0..4_u64).prop_map(Value::from),
            Just(json!(u32::MAX)),
            proptest::sample::select(vec!["Enabled", "Disabled", "EXTERNAL", "PendingImport"])
                .prop_map(Value::from),
        ]
    }

    proptest! {
        /// Whoever holds the root key can write any record: it is refused, or it works.
        #[test]
        fn hostile_records_do_no_harm(
            breaks in proptest::collection::vec((places(), values()), 1..4),
            now in any::<u64>(),
        ) {
            let mut broken = example();
            for (place, value) in breaks {
                if let Some(member) = broken.pointer_mut(place) {
                    *member = value;
                }
            }
            if let Ok(Some(mut record)) = read(broken) {
                for command in [
                    Command::Tick,
                    Command::CancelDeletion,
                    Command::Enable,
                    Command::Tick,
                    Command::RotateOnDemand,
                    Command::EnableRotation { days: 90 },
                    Command::ScheduleDeletion { days: 7 },
                ] {
                    let _ = record.command(command, None, now);
                    assert!(record.is_consistent());
                }
            }
        }
    }

    const FIRST_MATERIAL_ID: &str =
        "3d1cf367e3052ee6d74abf9b822de7d534cfe52499167d59d62c39f866cbd4cb";
    const SECOND_MATERIAL_ID: &str =
        "f12a26c1bae1abd6a2add22fe1ee9c3511c6010bc92bca80a3202e8fe21df78f";
}
