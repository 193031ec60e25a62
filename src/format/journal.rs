//! The journal of an epoch: blocks that are gathered, put aside where they outlive the process.
//! A head, then slots of equal length, each with a record and the ciphertext that it describes.

use super::entry::{ENTRY_LEN, Entry, Sealed};
use super::error::FormatError;
use super::geometry::{BLOCK_LEN, BlockIndex};
use super::ids::{FileId, VolumeId};
use crate::crypto::{AeadKey, NONCE_LEN, Nonce, Secret, TAG_LEN, Tag, derive, random_array};

/// Length of a journal's head in bytes.
pub const JOURNAL_HEAD_LEN: usize = 64;
/// Length of a record in bytes.
pub const JOURNAL_RECORD_LEN: usize = 160;
/// Length of a slot in bytes: a record and room for a block.
pub const JOURNAL_SLOT_LEN: u64 = JOURNAL_RECORD_LEN as u64 + BLOCK_LEN;

/// The first bytes of a journal. All of them go into its key, so that a record counts in the
/// journal only that it was written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JournalHead {
    /// The volume.
    pub volume: VolumeId,
    /// The epoch of the mount that writes it.
    pub epoch: u64,
    /// Random, so that no two journals share a key.
    pub salt: [u8; 16],
}

/// What one slot holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JournalRecord {
    /// The file.
    pub file: FileId,
    /// Counts the records of a journal from 1: of two for one block the higher one counts.
    pub sequence: u64,
    /// The block.
    pub block: BlockIndex,
    /// The entry of what the block is to replace. The record counts only while that is what the
    /// file holds.
    pub base: Entry,
    /// What the block was sealed to.
    pub sealed: Sealed,
}

impl JournalHead {
    /// Of a new journal.
    pub fn new(volume: VolumeId, epoch: u64) -> Self {
        Self { volume, epoch, salt: random_array() }
    }

    /// The bytes on disk.
    pub fn encode(&self) -> [u8; JOURNAL_HEAD_LEN] {
        let mut bytes = [0; JOURNAL_HEAD_LEN];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..10].copy_from_slice(&VERSION.to_le_bytes());
        bytes[16..32].copy_from_slice(&self.volume.0);
        bytes[32..40].copy_from_slice(&self.epoch.to_le_bytes());
        bytes[40..56].copy_from_slice(&self.salt);
        bytes
    }

    /// Reads a head; what this program would not write is refused.
    pub fn decode(bytes: &[u8; JOURNAL_HEAD_LEN]) -> Result<Self, FormatError> {
        let version = u16::from_le_bytes([bytes[8], bytes[9]]);
        if bytes[..8] == *MAGIC && version != VERSION {
            return Err(FormatError::UnknownVersion { found: version });
        }
        let head = Self {
            volume: VolumeId(array(bytes, 16)),
            epoch: u64::from_le_bytes(array(bytes, 32)),
            salt: array(bytes, 40),
        };
        match head.encode() == *bytes {
            true => Ok(head),
            false => Err(FormatError::Malformed { what: "head of a journal" }),
        }
    }

    /// The key that authenticates its records.
    pub fn key(&self, volume_key: &Secret) -> AeadKey {
        let mut label = LABEL.to_vec();
        label.extend_from_slice(&self.encode());
        AeadKey::new(&derive(volume_key, &label))
    }
}

impl JournalRecord {
    /// The bytes on disk, authenticated under the key of the journal.
    pub fn encode(&self, key: &AeadKey) -> [u8; JOURNAL_RECORD_LEN] {
        let mut bytes = [0; JOURNAL_RECORD_LEN];
        bytes[..16].copy_from_slice(&self.file.0);
        bytes[16..24].copy_from_slice(&self.sequence.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.block.0.to_le_bytes());
        bytes[BASE_AT..SEALED_AT].copy_from_slice(&self.base.encode());
        let Sealed { nonce, tag, len } = self.sealed;
        bytes[SEALED_AT..108].copy_from_slice(&nonce);
        bytes[108..124].copy_from_slice(&tag);
        bytes[124..126].copy_from_slice(&len.to_le_bytes());
        let tag = key.seal(&nonce_of(self.sequence), &bytes[..TAG_AT], &[], &mut []);
        bytes[TAG_AT..].copy_from_slice(&tag);
        bytes
    }

    /// Reads a record; `None` for one that does not authenticate: none was written, it was
    /// erased, it was torn, or it is forged.
    pub fn decode(bytes: &[u8; JOURNAL_RECORD_LEN], key: &AeadKey) -> Option<Self> {
        let tag: Tag = array(bytes, TAG_AT);
        let sequence = u64::from_le_bytes(array(bytes, 16));
        key.open(&nonce_of(sequence), &bytes[..TAG_AT], &[], &tag, &mut []).ok()?;
        let len = u16::from_le_bytes(array(bytes, 124));
        let sealed = Sealed { nonce: array(bytes, SEALED_AT), tag: array(bytes, 108), len };
        Some(Self {
            file: FileId(array(bytes, 0)),
            sequence,
            block: BlockIndex(u64::from_le_bytes(array(bytes, 24))),
            base: Entry::decode(&array(bytes, BASE_AT)).ok()?,
            sealed: Some(sealed).filter(|_| (1..=BLOCK_LEN).contains(&u64::from(len)))?,
        })
    }

    /// What is written over the end of a record to erase it.
    pub const ERASED: [u8; TAG_LEN] = [0; TAG_LEN];
    /// Where in the record.
    pub const ERASED_AT: u64 = TAG_AT as u64;
}

/// The file of an epoch's journal in the metadata directory.
pub fn journal_name(epoch: u64) -> String {
    format!("{NAME_PREFIX}{epoch}")
}

/// The epoch whose journal has this name.
pub fn epoch_of_journal(name: &str) -> Option<u64> {
    let epoch = name.strip_prefix(NAME_PREFIX)?.parse().ok()?;
    (name == journal_name(epoch)).then_some(epoch)
}

/// Where a slot begins.
pub fn slot_start(slot: u32) -> u64 {
    JOURNAL_HEAD_LEN as u64 + u64::from(slot) * JOURNAL_SLOT_LEN
}

/// Each sequence is used once in a journal, and each journal has a key of its own.
fn nonce_of(sequence: u64) -> Nonce {
    let mut nonce = [0; NONCE_LEN];
    nonce[..8].copy_from_slice(&sequence.to_le_bytes());
    nonce
}

fn array<const LEN: usize>(bytes: &[u8], at: usize) -> [u8; LEN] {
    bytes[at..at + LEN].try_into().expect("a range of that length")
}

const MAGIC: &[u8; 8] = b"ssefsJNL";
const VERSION: u16 = 1;
const LABEL: &[u8] = b"ssefs/v1/journal";
const NAME_PREFIX: &str = "journal-";
const BASE_AT: usize = 32;
const SEALED_AT: usize = BASE_AT + ENTRY_LEN;
const TAG_AT: usize = JOURNAL_RECORD_LEN - TAG_LEN;

#[cfg(test)]
mod tests {
    use super::*;

    fn head() -> JournalHead {
        JournalHead { volume: VolumeId([3; 16]), epoch: 7, salt: [9; 16] }
    }

    fn record() -> JournalRecord {
        let sealed = |seed| Sealed { nonce: [seed; 12], tag: [seed; 16], len: 4096 };
        let base = Entry::Hole.succeeded_by(sealed(1)).succeeded_by(sealed(2));
        let (file, block) = (FileId([5; 16]), BlockIndex(1 << 40));
        JournalRecord { file, sequence: 77, block, base, sealed: Sealed { len: 1, ..sealed(3) } }
    }

    #[test]
    fn a_record_counts_in_its_own_journal_only() {
        let volume_key = Secret::copy_from(&[1; 32]);
        let key = head().key(&volume_key);
        let bytes = record().encode(&key);
        assert_eq!(JournalRecord::decode(&bytes, &key), Some(record()));
        for other in [
            JournalHead { epoch: 8, ..head() },
            JournalHead { salt: [8; 16], ..head() },
            JournalHead { volume: VolumeId([4; 16]), ..head() },
        ] {
            assert_eq!(JournalRecord::decode(&bytes, &other.key(&volume_key)), None);
        }
        assert_eq!(JournalRecord::decode(&bytes, &head().key(&Secret::copy_from(&[2; 32]))), None);
    }

    #[test]
    fn no_bit_of_a_record_may_change() {
        let key = head().key(&Secret::copy_from(&[1; 32]));
        let bytes = record().encode(&key);
        for bit in 0..bytes.len() * 8 {
            let mut changed = bytes;
            changed[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(JournalRecord::decode(&changed, &key), None, "bit {bit}");
        }
        let mut erased = bytes;
        erased[TAG_AT..].copy_from_slice(&JournalRecord::ERASED);
        assert_eq!(JournalRecord::decode(&erased, &key), None);
        assert_eq!(JournalRecord::decode(&[0; JOURNAL_RECORD_LEN], &key), None);
    }

    #[test]
    fn a_head_is_read_as_it_was_written_or_refused() {
        let bytes = head().encode();
        assert_eq!(JournalHead::decode(&bytes), Ok(head()));
        for at in [0, 7, 10, 15, 56, 63] {
            let mut changed = bytes;
            changed[at] ^= 1;
            assert!(JournalHead::decode(&changed).is_err(), "byte {at}");
        }
        let mut later = bytes;
        later[8] = 2;
        assert_eq!(JournalHead::decode(&later), Err(FormatError::UnknownVersion { found: 2 }));
    }

    #[test]
    fn names_tell_the_epoch() {
        assert_eq!(epoch_of_journal(&journal_name(12)), Some(12));
        for other in ["journal-", "journal-012", "journal-+1", "journal-1x", "epochs.json"] {
            assert_eq!(epoch_of_journal(other), None, "{other}");
        }
        assert_eq!((slot_start(0), slot_start(2)), (64, 64 + 2 * 4256));
    }
}
