//! The state record, 128 bytes, of which page 0 holds two copies: the record with sequence `n`
//! lies at place `n % 2`. The whole record is authenticated by the state MAC, which also covers
//! the prologue and both envelope slots.

use super::digest::DIGEST_LEN;
use super::error::FormatError;
use super::geometry::MAX_PLAIN_SIZE;
use crate::crypto::MAC_LEN;

/// Length of a state record in bytes.
pub const STATE_LEN: usize = 128;
/// Length of the part that the MAC covers.
pub(super) const STATE_BODY_LEN: usize = STATE_LEN - MAC_LEN;

/// NIST SP 800-38D, 8.3: with random 96-bit nonces, at most 2^32 seals under one key.
pub const SEALS_LIMIT: u64 = 1 << 32;
/// A record that claims a higher sequence is refused; counting up never comes near.
const SEQUENCE_LIMIT: u64 = 1 << 62;

/// What is known of a file as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StateRecord {
    /// Counts the records written; the highest valid one is in force.
    pub sequence: u64,
    /// The plaintext size in bytes.
    pub size: u64,
    /// The plaintext size that was on the backing store, synced, when the record was written.
    pub durable_size: u64,
    /// The epoch in which the file was last written.
    pub epoch: u64,
    /// An upper bound on the seals made under the file's data key.
    pub seal_count: u64,
    /// Flags.
    pub flags: StateFlags,
    /// Which envelope slot is in force, 0 or 1.
    pub envelope_slot: u8,
    /// The masked digest of the content; without the flag `digest_kept` it means nothing.
    pub digest: [u8; DIGEST_LEN],
}

/// Flags of a state record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StateFlags {
    /// All-zero entries are holes; without it they are tampering.
    pub may_have_holes: bool,
    /// A change of size to `size` is under way; recovery finishes it.
    pub resizing: bool,
    /// The record has a digest of the content. A file keeps it from the first write on, or from
    /// a recovery on.
    pub digest_kept: bool,
}

impl StateRecord {
    /// The bytes that the MAC covers; the MAC follows them on disk.
    pub(super) fn encode_body(&self) -> [u8; STATE_BODY_LEN] {
        let mut bytes = [0; STATE_BODY_LEN];
        let numbers = [self.sequence, self.size, self.durable_size, self.epoch, self.seal_count];
        for (place, number) in bytes.chunks_exact_mut(8).zip(numbers) {
            place.copy_from_slice(&number.to_le_bytes());
        }
        bytes[40..44].copy_from_slice(&self.flags.bits().to_le_bytes());
        bytes[44] = self.envelope_slot;
        bytes[48..80].copy_from_slice(&self.digest);
        bytes
    }

    /// Reads a body whose MAC has been verified.
    pub(super) fn decode_body(bytes: &[u8; STATE_BODY_LEN]) -> Result<Self, FormatError> {
        let number = |at: usize| u64::from_le_bytes(std::array::from_fn(|index| bytes[at + index]));
        let flags = u32::from_le_bytes(std::array::from_fn(|index| bytes[40 + index]));
        let envelope_slot = bytes[44];
        let reserved = bytes[45..48].iter().chain(&bytes[80..]);
        if envelope_slot > 1 || reserved.into_iter().any(|byte| *byte != 0) {
            return Err(FormatError::Malformed { what: "state record" });
        }
        // What no writer makes, not even of a record that it has read: arithmetic stays total.
        let possible = number(0) <= SEQUENCE_LIMIT
            && number(8).max(number(16)) <= MAX_PLAIN_SIZE.0
            && number(32) <= SEALS_LIMIT;
        if !possible {
            return Err(FormatError::Malformed { what: "state record" });
        }
        Ok(Self {
            sequence: number(0),
            size: number(8),
            durable_size: number(16),
            epoch: number(24),
            seal_count: number(32),
            flags: StateFlags::from_bits(flags)?,
            envelope_slot,
            digest: std::array::from_fn(|index| bytes[48 + index]),
        })
    }
}

impl StateFlags {
    const MAY_HAVE_HOLES: u32 = 1;
    const RESIZING: u32 = 2;
    const DIGEST_KEPT: u32 = 4;
    const KNOWN: u32 = Self::MAY_HAVE_HOLES | Self::RESIZING | Self::DIGEST_KEPT;

    const fn bits(self) -> u32 {
        self.may_have_holes as u32 * Self::MAY_HAVE_HOLES
            + self.resizing as u32 * Self::RESIZING
            + self.digest_kept as u32 * Self::DIGEST_KEPT
    }

    const fn from_bits(bits: u32) -> Result<Self, FormatError> {
        if bits & !Self::KNOWN != 0 {
            return Err(FormatError::UnknownFlags { found: bits });
        }
        Ok(Self {
            may_have_holes: bits & Self::MAY_HAVE_HOLES != 0,
            resizing: bits & Self::RESIZING != 0,
            digest_kept: bits & Self::DIGEST_KEPT != 0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_back_and_refuses_the_unknown() {
        let state = StateRecord {
            sequence: 1,
            size: 2,
            durable_size: 3,
            epoch: 4,
            seal_count: 5,
            flags: StateFlags { may_have_holes: true, resizing: false, digest_kept: true },
            envelope_slot: 1,
            digest: [6; 32],
        };
        let bytes = state.encode_body();
        assert_eq!(StateRecord::decode_body(&bytes).unwrap(), state);
        let with = |at: usize, value: u8| {
            let mut bytes = bytes;
            bytes[at] = value;
            StateRecord::decode_body(&bytes).unwrap_err()
        };
        assert_eq!(with(40, 0x81), FormatError::UnknownFlags { found: 0x81 });
        for at in [7, 15, 23, 39, 44, 45, 47, 80, 95] {
            let value = if at < 40 { 0x80 } else { 2 };
            assert!(matches!(with(at, value), FormatError::Malformed { .. }), "byte {at}");
        }
    }
}
