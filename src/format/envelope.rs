//! The envelope: how a file's DEK is wrapped, by which key, and the wrapped DEK itself.
//!
//! On disk it lies length-prefixed in a slot of page 0. Decoding accepts exactly the bytes that
//! encoding gives: trailing bytes, non-canonical forms and padding that is not zero are refused.
//! This file is the only user of `bincode`.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::error::FormatError;
use super::ids::{FileId, KeyId, VolumeId};
use super::prologue::FORMAT_VERSION;
use crate::crypto::{NONCE_LEN, SECRET_LEN, TAG_LEN};

/// Length of an envelope slot in bytes.
pub const ENVELOPE_SLOT_LEN: usize = 1344;
/// Length of a DEK wrapped by AES-256-GCM: nonce, wrapped bytes, tag.
pub const WRAPPED_DEK_LEN: usize = NONCE_LEN + SECRET_LEN + TAG_LEN;

/// Whose key wraps the DEK.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// ssefs keeps the key (SSE-S3).
    Managed,
    /// A CMK (SSE-KMS).
    Kms,
    /// The user brings the key (SSE-C).
    Supplied,
}

/// The algorithm that wraps the DEK.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WrapAlgorithm {
    /// AES-256-GCM by ssefs itself, random nonce; `wrapped_dek` is nonce, bytes, tag.
    Aes256Gcm,
    /// The key provider wrapped it in a form of its own; `wrapped_dek` is its blob.
    Provider,
}

/// An envelope. Its fields are bound to the wrap as AAD, see [`Envelope::aad`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    /// The mode.
    pub mode: Mode,
    /// The key provider's name, such as `local`.
    pub provider: String,
    /// The key that wraps.
    pub key_id: KeyId,
    /// The version of its key material.
    pub key_version: u32,
    /// The wrap algorithm.
    pub wrap_algorithm: WrapAlgorithm,
    /// When the DEK was made, in seconds since 1970-01-01 UTC.
    pub created: u64,
    /// The user's own pairs of the encryption context.
    pub context: BTreeMap<String, String>,
    /// The wrapped DEK.
    pub wrapped_dek: Vec<u8>,
}

impl Envelope {
    /// The canonical encryption context, the AAD of the wrap: which volume, file and key this
    /// DEK is for. Everything but the wrapped DEK is in it, so that no field can be changed or
    /// moved to another file. Each part has a fixed length or its length before it.
    pub fn aad(&self, volume: VolumeId, file: FileId) -> Vec<u8> {
        let mut aad = Vec::with_capacity(256);
        aad.extend_from_slice(b"ssefs wrap\0");
        aad.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        aad.extend_from_slice(&volume.0);
        aad.extend_from_slice(&file.0);
        aad.push(self.mode.number());
        aad.push(self.wrap_algorithm.number());
        aad.extend_from_slice(&self.key_version.to_le_bytes());
        aad.extend_from_slice(&self.created.to_le_bytes());
        let pairs = self.context.iter().flat_map(|(name, value)| [name, value]);
        for text in [&self.provider, &self.key_id.0].into_iter().chain(pairs) {
            aad.extend_from_slice(&(text.len() as u64).to_le_bytes());
            aad.extend_from_slice(text.as_bytes());
        }
        aad
    }

    /// The encoded envelope without its slot.
    pub fn encode(&self) -> Result<Vec<u8>, FormatError> {
        let bytes = bincode::serde::encode_to_vec(self.wire(), unlimited())
            .map_err(|_| FormatError::Malformed { what: "envelope" })?;
        if bytes.len() > MAX_ENCODED_LEN {
            return Err(FormatError::EnvelopeTooLong {
                found: bytes.len(),
                limit: MAX_ENCODED_LEN,
            });
        }
        Ok(bytes)
    }

    /// Whether [`Self::encode`] gives these bytes; without memory of the heap, as each opening
    /// asks.
    fn is_encoded_as(&self, bytes: &[u8]) -> bool {
        let mut room = [0; MAX_ENCODED_LEN];
        bincode::serde::encode_into_slice(self.wire(), &mut room, unlimited())
            .is_ok_and(|len| room[..len] == *bytes)
    }

    fn wire(&self) -> WireRef<'_> {
        Wire {
            mode: self.mode.number(),
            wrap_algorithm: self.wrap_algorithm.number(),
            key_version: self.key_version,
            created: self.created,
            provider: &self.provider,
            key_id: &self.key_id.0,
            context: &self.context,
            wrapped_dek: &self.wrapped_dek,
        }
    }

    /// Reads an encoded envelope; the bytes must be exactly those that [`Self::encode`] gives.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        const MALFORMED: FormatError = FormatError::Malformed { what: "envelope" };
        if bytes.len() > MAX_ENCODED_LEN {
            return Err(MALFORMED);
        }
        let limited = unlimited().with_limit::<MAX_ENCODED_LEN>();
        let (wire, read): (OwnedWire, usize) =
            bincode::serde::decode_from_slice(bytes, limited).map_err(|_| MALFORMED)?;
        let envelope = Self {
            mode: Mode::from_number(wire.mode).ok_or(MALFORMED)?,
            wrap_algorithm: WrapAlgorithm::from_number(wire.wrap_algorithm).ok_or(MALFORMED)?,
            key_version: wire.key_version,
            created: wire.created,
            provider: wire.provider,
            key_id: KeyId(wire.key_id),
            context: wire.context,
            wrapped_dek: wire.wrapped_dek,
        };
        if read != bytes.len() || !envelope.is_encoded_as(bytes) {
            return Err(MALFORMED);
        }
        Ok(envelope)
    }

    /// Fills a slot of page 0.
    pub fn encode_slot(&self, slot: &mut [u8; ENVELOPE_SLOT_LEN]) -> Result<(), FormatError> {
        let bytes = self.encode()?;
        slot.fill(0);
        let len = u16::try_from(bytes.len()).expect("an encoded envelope fits its slot");
        slot[..2].copy_from_slice(&len.to_le_bytes());
        slot[2..2 + bytes.len()].copy_from_slice(&bytes);
        Ok(())
    }

    /// Reads a slot of page 0; `None` if it is empty.
    pub fn decode_slot(slot: &[u8; ENVELOPE_SLOT_LEN]) -> Result<Option<Self>, FormatError> {
        let (len, rest) = slot.split_at(2);
        let len = usize::from(u16::from_le_bytes([len[0], len[1]]));
        // One comparison of memory: byte by byte it would be a good part of each opening.
        if len > rest.len() || rest[len..] != ZEROS[len..rest.len()] {
            return Err(FormatError::Malformed { what: "envelope slot" });
        }
        if len == 0 {
            return Ok(None);
        }
        Self::decode(&rest[..len]).map(Some)
    }
}

impl Mode {
    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Managed => "managed",
            Self::Kms => "kms",
            Self::Supplied => "supplied",
        }
    }

    const fn number(self) -> u8 {
        match self {
            Self::Managed => 1,
            Self::Kms => 2,
            Self::Supplied => 3,
        }
    }

    const fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Managed),
            2 => Some(Self::Kms),
            3 => Some(Self::Supplied),
            _ => None,
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Mode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        [Self::Managed, Self::Kms, Self::Supplied]
            .into_iter()
            .find(|mode| mode.name() == text)
            .ok_or_else(|| format!("unknown mode '{text}': use managed, kms or supplied"))
    }
}

impl WrapAlgorithm {
    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Aes256Gcm => "AES-256-GCM",
            Self::Provider => "provider",
        }
    }

    const fn number(self) -> u8 {
        match self {
            Self::Aes256Gcm => 1,
            Self::Provider => 2,
        }
    }

    const fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Aes256Gcm),
            2 => Some(Self::Provider),
            _ => None,
        }
    }
}

/// The fields in their order on disk.
#[derive(Serialize, Deserialize)]
struct Wire<Text, Pairs, Bytes> {
    mode: u8,
    wrap_algorithm: u8,
    key_version: u32,
    created: u64,
    provider: Text,
    key_id: Text,
    context: Pairs,
    wrapped_dek: Bytes,
}

type OwnedWire = Wire<String, BTreeMap<String, String>, Vec<u8>>;
type WireRef<'a> = Wire<&'a str, &'a BTreeMap<String, String>, &'a [u8]>;

const fn unlimited() -> bincode::config::Configuration<
    bincode::config::LittleEndian,
    bincode::config::Fixint,
    bincode::config::NoLimit,
> {
    bincode::config::standard().with_little_endian().with_fixed_int_encoding()
}

const MAX_ENCODED_LEN: usize = ENVELOPE_SLOT_LEN - 2;

const ZEROS: [u8; ENVELOPE_SLOT_LEN] = [0; ENVELOPE_SLOT_LEN];

#[cfg(test)]
mod tests {
    use super::*;

    fn envelope() -> Envelope {
        Envelope {
            mode: Mode::Kms,
            provider: "local".into(),
            key_id: KeyId("1234".into()),
            key_version: 3,
            wrap_algorithm: WrapAlgorithm::Aes256Gcm,
            created: 1_700_000_000,
            context: [("department".into(), "finance".into())].into(),
            wrapped_dek: vec![9; WRAPPED_DEK_LEN],
        }
    }

    #[test]
    fn reads_back_from_its_slot() {
        let mut slot = [0xff; ENVELOPE_SLOT_LEN];
        envelope().encode_slot(&mut slot).unwrap();
        assert_eq!(Envelope::decode_slot(&slot).unwrap(), Some(envelope()));
        assert_eq!(Envelope::decode_slot(&[0; ENVELOPE_SLOT_LEN]).unwrap(), None);
    }

    #[test]
    fn trailing_bytes_and_padding_are_refused() {
        let mut bytes = envelope().encode().unwrap();
        bytes.push(0);
        assert!(Envelope::decode(&bytes).is_err());
        let mut slot = [0; ENVELOPE_SLOT_LEN];
        envelope().encode_slot(&mut slot).unwrap();
        slot[ENVELOPE_SLOT_LEN - 1] = 1;
        assert!(Envelope::decode_slot(&slot).is_err());
    }

    #[test]
    fn too_long_a_context_is_refused_by_name() {
        let mut envelope = envelope();
        envelope.context.insert("k".into(), "v".repeat(ENVELOPE_SLOT_LEN));
        assert!(matches!(envelope.encode(), Err(FormatError::EnvelopeTooLong { .. })));
    }

    #[test]
    fn a_length_beyond_the_bytes_is_refused_without_allocating() {
        let mut bytes = envelope().encode().unwrap();
        bytes[14..22].copy_from_slice(&u64::MAX.to_le_bytes());
        assert!(Envelope::decode(&bytes).is_err());
    }

    #[test]
    fn the_aad_binds_every_field() {
        let (volume, file) = (VolumeId([1; 16]), FileId([2; 16]));
        let base = envelope();
        let changed: [Envelope; 8] = [
            Envelope { mode: Mode::Managed, ..base.clone() },
            Envelope { provider: "remote".into(), ..base.clone() },
            Envelope { key_id: KeyId("5678".into()), ..base.clone() },
            Envelope { key_version: 4, ..base.clone() },
            Envelope { wrap_algorithm: WrapAlgorithm::Provider, ..base.clone() },
            Envelope { created: 1, ..base.clone() },
            Envelope { context: BTreeMap::new(), ..base.clone() },
            Envelope { context: [("department".into(), "sales".into())].into(), ..base.clone() },
        ];
        for other in changed {
            assert_ne!(other.aad(volume, file), base.aad(volume, file));
        }
        assert_ne!(base.aad(VolumeId([3; 16]), file), base.aad(volume, file));
        assert_ne!(base.aad(volume, FileId([3; 16])), base.aad(volume, file));
    }
}
