//! The first 128 bytes of a backing file: what it is, and whose.

use super::error::FormatError;
use super::ids::{FileId, VolumeId};

/// Length of the prologue in bytes.
pub const PROLOGUE_LEN: usize = 128;
/// The format version that this program writes and reads.
pub const FORMAT_VERSION: u16 = 1;

/// The algorithms that a file's blocks are sealed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Suite {
    /// AES-256-GCM, random 96-bit nonces, 128-bit tags, AAD = block index.
    Aes256Gcm,
}

/// The prologue. Authenticated by the state MAC; until that is verified it is only a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prologue {
    /// The suite of the file's blocks.
    pub suite: Suite,
    /// The file's id.
    pub file_id: FileId,
    /// The volume that the file belongs to.
    pub volume_id: VolumeId,
}

impl Suite {
    /// Its number on disk.
    pub const fn number(self) -> u16 {
        match self {
            Self::Aes256Gcm => 1,
        }
    }

    /// Its name, as S3 users know it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Aes256Gcm => "AES-256-GCM",
        }
    }
}

impl Prologue {
    /// The bytes on disk.
    pub fn encode(&self) -> [u8; PROLOGUE_LEN] {
        let mut bytes = [0; PROLOGUE_LEN];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..10].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        bytes[10..12].copy_from_slice(&self.suite.number().to_le_bytes());
        bytes[16..32].copy_from_slice(&self.file_id.0);
        bytes[32..48].copy_from_slice(&self.volume_id.0);
        bytes
    }

    /// Reads the bytes; everything that this version does not know is refused.
    pub fn decode(bytes: &[u8; PROLOGUE_LEN]) -> Result<Self, FormatError> {
        if bytes[..8] != MAGIC {
            return Err(FormatError::Foreign);
        }
        let version = u16::from_le_bytes([bytes[8], bytes[9]]);
        if version != FORMAT_VERSION {
            return Err(FormatError::UnknownVersion { found: version });
        }
        let suite = match u16::from_le_bytes([bytes[10], bytes[11]]) {
            1 => Suite::Aes256Gcm,
            found => return Err(FormatError::UnknownSuite { found }),
        };
        if bytes[12..16].iter().chain(&bytes[48..]).any(|byte| *byte != 0) {
            return Err(FormatError::Malformed { what: "prologue (reserved bytes are not zero)" });
        }
        let id = |at: usize| std::array::from_fn(|index| bytes[at + index]);
        Ok(Self { suite, file_id: FileId(id(16)), volume_id: VolumeId(id(32)) })
    }
}

/// Not text, survives no text-mode transfer, and spells the name.
const MAGIC: [u8; 8] = *b"\x89ssefs\r\n";

#[cfg(test)]
mod tests {
    use super::*;

    fn prologue() -> Prologue {
        Prologue { suite: Suite::Aes256Gcm, file_id: FileId([1; 16]), volume_id: VolumeId([2; 16]) }
    }

    #[test]
    fn reads_back() {
        assert_eq!(Prologue::decode(&prologue().encode()).unwrap(), prologue());
    }

    #[test]
    fn unknown_values_fail_closed() {
        let with = |at: usize, value: u8| {
            let mut bytes = prologue().encode();
            bytes[at] = value;
            Prologue::decode(&bytes).unwrap_err()
        };
        assert_eq!(with(0, 0), FormatError::Foreign);
        assert_eq!(with(8, 2), FormatError::UnknownVersion { found: 2 });
        assert_eq!(with(10, 9), FormatError::UnknownSuite { found: 9 });
        for reserved in (12..16).chain(48..128) {
            assert!(matches!(with(reserved, 1), FormatError::Malformed { .. }));
        }
    }
}
