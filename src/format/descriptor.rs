//! The volume descriptor `.ssefs/volume.json` and the epoch record `.ssefs/epochs.json`.
//!
//! The descriptor is readable without a key. It holds the volume key, which authenticates the
//! epoch record, wrapped once for each mode in which the volume has been mounted: opening one
//! of these wraps is also how a wrong key is told at once.

use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};

use super::envelope::{Envelope, Mode};
use super::error::FormatError;
use super::ids::VolumeId;
use super::prologue::FORMAT_VERSION;
use crate::crypto::{MAC_LEN, MacKey};

/// The directory at the root of a volume that holds its descriptor.
pub const METADATA_DIR: &str = ".ssefs";
/// The descriptor's name in it.
pub const DESCRIPTOR_NAME: &str = "volume.json";
/// The epoch record's name in it.
pub const EPOCHS_NAME: &str = "epochs.json";

/// What a volume is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Descriptor {
    /// The format version, [`FORMAT_VERSION`].
    pub format_version: u16,
    /// The volume's id.
    pub volume_id: VolumeId,
    /// When it was made, in seconds since 1970-01-01 UTC.
    pub created: u64,
    /// The wraps of the volume key.
    pub key_slots: Vec<KeySlot>,
}

/// One wrap of the volume key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeySlot {
    /// The envelope, for file id zero.
    #[serde(with = "envelope_as_hex")]
    pub envelope: Envelope,
    /// For supplied keys: how the key is told from a wrong one, and made from a passphrase.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub supplied: Option<SuppliedVerifier>,
}

/// Tells a supplied key without holding it, as S3 does: a salted HMAC of the key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SuppliedVerifier {
    /// Random salt, hexadecimal, 32 bytes.
    pub salt: String,
    /// HMAC-SHA256 under a key derived from the supplied one, over the salt, hexadecimal.
    pub hmac: String,
    /// For a passphrase: the Argon2id parameters (RFC 9106) that make the key of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub argon2id: Option<Argon2idParameters>,
}

/// Parameters of Argon2id (RFC 9106, section 3.1).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Argon2idParameters {
    /// Memory in KiB.
    pub memory_kib: u32,
    /// Passes over the memory.
    pub passes: u32,
    /// Lanes.
    pub lanes: u32,
    /// Random salt, hexadecimal, 16 bytes.
    pub salt: String,
}

/// Which epochs there were, and which did not end cleanly.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EpochRecord {
    /// The last epoch that was begun.
    pub last: u64,
    /// Epochs that were begun and not ended cleanly, ascending. The current one is among them.
    pub unclean: Vec<u64>,
}

impl Descriptor {
    /// The JSON text.
    pub fn encode(&self) -> Vec<u8> {
        let mut text = serde_json::to_vec_pretty(self).expect("a descriptor is plain data");
        text.push(b'\n');
        text
    }

    /// Reads the JSON text; unknown versions and fields are refused.
    pub fn decode(text: &[u8]) -> Result<Self, FormatError> {
        #[derive(Deserialize)]
        struct Version {
            format_version: u16,
        }
        let refused = |error: serde_json::Error| FormatError::Descriptor(error.to_string());
        let Version { format_version } = serde_json::from_slice(text).map_err(refused)?;
        if format_version != FORMAT_VERSION {
            return Err(FormatError::UnknownVersion { found: format_version });
        }
        let descriptor: Self = serde_json::from_slice(text).map_err(refused)?;
        if descriptor.key_slots.is_empty() || descriptor.key_slots.len() > MAX_KEY_SLOTS {
            return Err(FormatError::Descriptor(format!(
                "{} key slots, 1 to {MAX_KEY_SLOTS} are possible",
                descriptor.key_slots.len()
            )));
        }
        Ok(descriptor)
    }

    /// The slots of one mode.
    pub fn slots_of(&self, mode: Mode) -> impl Iterator<Item = &KeySlot> {
        self.key_slots.iter().filter(move |slot| slot.envelope.mode == mode)
    }
}

impl EpochRecord {
    /// Whether everything written in `epoch` is known to have reached its files.
    pub fn is_clean(&self, epoch: u64) -> bool {
        self.unclean.binary_search(&epoch).is_err()
    }

    /// The JSON text, authenticated under `key`.
    pub fn encode(&self, volume: VolumeId, key: &MacKey) -> Vec<u8> {
        let wire = EpochsOnDisk {
            last: self.last,
            unclean: self.unclean.clone(),
            mac: HEXLOWER.encode(&key.sign(&[&self.canonical(volume)])),
        };
        let mut text = serde_json::to_vec(&wire).expect("an epoch record is plain data");
        text.push(b'\n');
        text
    }

    /// Reads the JSON text and checks its MAC.
    pub fn decode(text: &[u8], volume: VolumeId, key: &MacKey) -> Result<Self, FormatError> {
        let wire: EpochsOnDisk = serde_json::from_slice(text)
            .map_err(|error| FormatError::Descriptor(format!("epoch record: {error}")))?;
        let record = Self { last: wire.last, unclean: wire.unclean };
        let mac = HEXLOWER
            .decode(wire.mac.as_bytes())
            .ok()
            .and_then(|mac| <[u8; MAC_LEN]>::try_from(mac).ok())
            .ok_or(FormatError::Malformed { what: "epoch record" })?;
        key.verify(&[&record.canonical(volume)], &mac).map_err(|_| FormatError::Malformed {
            what: "epoch record (its MAC does not match)",
        })?;
        let ascending = record.unclean.is_sorted_by(|a, b| a < b);
        if !ascending || record.unclean.last().is_some_and(|last| *last > record.last) {
            return Err(FormatError::Malformed { what: "epoch record" });
        }
        Ok(record)
    }

    fn canonical(&self, volume: VolumeId) -> Vec<u8> {
        let mut bytes = b"ssefs epochs\0".to_vec();
        bytes.extend_from_slice(&volume.0);
        for number in [self.last, self.unclean.len() as u64].iter().chain(&self.unclean) {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        bytes
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct EpochsOnDisk {
    last: u64,
    unclean: Vec<u64>,
    mac: String,
}

mod envelope_as_hex {
    use data_encoding::HEXLOWER;
    use serde::{Deserialize, Deserializer, Serializer, de, ser};

    use super::Envelope;

    pub fn serialize<S: Serializer>(envelope: &Envelope, out: S) -> Result<S::Ok, S::Error> {
        let bytes = envelope.encode().map_err(ser::Error::custom)?;
        out.serialize_str(&HEXLOWER.encode(&bytes))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(input: D) -> Result<Envelope, D::Error> {
        let text = String::deserialize(input)?;
        let bytes = HEXLOWER.decode(text.as_bytes()).map_err(de::Error::custom)?;
        Envelope::decode(&bytes).map_err(de::Error::custom)
    }
}

const MAX_KEY_SLOTS: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::Secret;
    use crate::format::{KeyId, WRAPPED_DEK_LEN, WrapAlgorithm};

    fn descriptor() -> Descriptor {
        let envelope = Envelope {
            mode: Mode::Supplied,
            provider: "supplied".into(),
            key_id: KeyId("k".into()),
            key_version: 1,
            wrap_algorithm: WrapAlgorithm::Aes256Gcm,
            created: 0,
            context: Default::default(),
            wrapped_dek: vec![5; WRAPPED_DEK_LEN],
        };
        let supplied = SuppliedVerifier { salt: "00".into(), hmac: "11".into(), argon2id: None };
        Descriptor {
            format_version: 1,
            volume_id: VolumeId([7; 16]),
            created: 1,
            key_slots: vec![KeySlot { envelope, supplied: Some(supplied) }],
        }
    }

    #[test]
    fn the_descriptor_reads_back() {
        assert_eq!(Descriptor::decode(&descriptor().encode()).unwrap(), descriptor());
        assert_eq!(descriptor().slots_of(Mode::Supplied).count(), 1);
        assert_eq!(descriptor().slots_of(Mode::Managed).count(), 0);
    }

    #[test]
    fn a_newer_version_is_named_even_with_fields_unknown_here() {
        let text = br#"{"format_version": 2, "surprise": true}"#;
        assert_eq!(Descriptor::decode(text), Err(FormatError::UnknownVersion { found: 2 }));
    }

    #[test]
    fn unknown_fields_are_refused() {
        let text = String::from_utf8(descriptor().encode()).unwrap();
        let text = text.replacen('{', "{\"surprise\": 1,", 1);
        assert!(matches!(Descriptor::decode(text.as_bytes()), Err(FormatError::Descriptor(_))));
    }

    #[test]
    fn the_epoch_record_is_authenticated() {
        let key = MacKey::new(&Secret::copy_from(&[1; 32]));
        let volume = VolumeId([7; 16]);
        let record = EpochRecord { last: 9, unclean: vec![3, 9] };
        let text = record.encode(volume, &key);
        assert_eq!(EpochRecord::decode(&text, volume, &key).unwrap(), record);
        assert!(record.is_clean(4) && !record.is_clean(3));
        let forged = String::from_utf8(text.clone()).unwrap().replace("[3,9]", "[3,4,9]");
        assert!(EpochRecord::decode(forged.as_bytes(), volume, &key).is_err());
        assert!(EpochRecord::decode(&text, VolumeId([8; 16]), &key).is_err());
    }
}
