//! Identifiers: 16 random bytes each for volumes and files; text for keys.

use std::fmt;
use std::str::FromStr;

use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::error::FormatError;
use crate::crypto::random_array;

/// Identifies a volume; bound into every wrap, so that an envelope opens in its volume only.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct VolumeId(pub [u8; 16]);

/// Identifies a file's content; drawn when its DEK is made.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileId(pub [u8; 16]);

/// Names a CMK or a supplied key: a UUID for keys in a keystore, a fingerprint for supplied ones.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct KeyId(pub String);

impl VolumeId {
    /// A fresh one: a random UUID (RFC 9562, version 4).
    pub fn random() -> Self {
        Self(uuid::Builder::from_random_bytes(random_array()).into_uuid().into_bytes())
    }
}

impl FileId {
    /// A fresh one.
    pub fn random() -> Self {
        Self(random_array())
    }

    /// The id that stands for the volume's own key, which belongs to no file. A random id
    /// equals it with probability 2^-128.
    pub const VOLUME: Self = Self([0; 16]);
}

impl KeyId {
    /// A fresh id for key material kept in a keystore: a random UUID.
    pub fn random() -> Self {
        Self(VolumeId::random().to_string())
    }
}

impl fmt::Display for VolumeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Uuid::from_bytes(self.0).fmt(f)
    }
}

impl fmt::Debug for VolumeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for VolumeId {
    type Err = FormatError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Uuid::try_parse(text)
            .map(|uuid| Self(uuid.into_bytes()))
            .map_err(|_| FormatError::Malformed { what: "volume id" })
    }
}

impl TryFrom<String> for VolumeId {
    type Error = FormatError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<VolumeId> for String {
    fn from(id: VolumeId) -> Self {
        id.to_string()
    }
}

impl fmt::Display for FileId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [0; 32];
        HEXLOWER.encode_mut(&self.0, &mut text);
        f.write_str(str::from_utf8(&text).expect("hexadecimal is ASCII"))
    }
}

impl fmt::Debug for FileId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_id_reads_back_from_its_text() {
        let id = VolumeId::random();
        assert_eq!(id.to_string().parse::<VolumeId>().unwrap(), id);
        assert!("not-a-uuid".parse::<VolumeId>().is_err());
    }

    #[test]
    fn a_file_id_prints_as_hex() {
        assert_eq!(FileId([0xab; 16]).to_string(), "ab".repeat(16));
    }
}
