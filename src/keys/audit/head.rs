//! The head: where the log ends, in one small file that is rewritten in place with every record.
//! It lets the loss of the last records be found. Its MAC keeps it from being made up.

use crate::crypto::{MAC_LEN, MacKey};

use super::frame::{LAST_SEQ, Link};
use super::place::LAST_SEGMENT;

/// Where the log ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    /// The last record.
    pub(super) link: Link,
    /// The segment that it is in.
    pub(super) segment: u32,
    /// How long that segment is, the record included.
    pub(super) size: u64,
    /// How long the record's line is.
    pub(super) line_len: u64,
    /// The last signed checkpoint; 0 before the first.
    pub(super) checkpoint_seq: u64,
    /// The last record known to be on stable storage.
    pub(super) synced_seq: u64,
    /// When the machine was started, by the kernel's random id.
    pub(super) boot_id: [u8; 16],
}

impl Head {
    /// As it stands in the file.
    pub(super) fn encode(&self, mac_key: &MacKey) -> [u8; HEAD_LEN] {
        let mut bytes = [0; HEAD_LEN];
        let mut at = 0;
        let mut put = |field: &[u8]| {
            bytes[at..at + field.len()].copy_from_slice(field);
            at += field.len();
        };
        put(MAGIC);
        put(&self.link.seq.to_le_bytes());
        put(&self.link.hash);
        put(&u64::from(self.segment).to_le_bytes());
        put(&self.size.to_le_bytes());
        put(&self.line_len.to_le_bytes());
        put(&self.checkpoint_seq.to_le_bytes());
        put(&self.synced_seq.to_le_bytes());
        put(&self.boot_id);
        assert_eq!(at, BODY_LEN, "the fields fill the head up to its MAC");
        let mac = mac_key.sign(&[&bytes[..BODY_LEN]]);
        bytes[BODY_LEN..].copy_from_slice(&mac);
        bytes
    }

    /// From the bytes of the file, without regard to the MAC; `None` if they are not a head.
    pub(super) fn decode_unverified(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; HEAD_LEN] = bytes.try_into().ok()?;
        let rest = bytes.strip_prefix(MAGIC)?;
        let (seq, rest) = rest.split_first_chunk::<8>()?;
        let (hash, rest) = rest.split_first_chunk::<MAC_LEN>()?;
        let (numbers, rest) = rest.split_first_chunk::<40>()?;
        let (boot_id, _mac) = rest.split_first_chunk::<16>()?;
        let number = |index: usize| {
            let bytes = numbers[8 * index..][..8].try_into().expect("eight bytes");
            u64::from_le_bytes(bytes)
        };
        let seq = u64::from_le_bytes(*seq);
        let segment = number(0).try_into().ok()?;
        if seq > LAST_SEQ || segment > LAST_SEGMENT {
            return None;
        }
        Some(Self {
            link: Link { seq, hash: *hash },
            segment,
            size: number(1),
            line_len: number(2),
            checkpoint_seq: number(3),
            synced_seq: number(4),
            boot_id: *boot_id,
        })
    }

    /// From the bytes of the file; `None` if they are not a head, or its MAC is wrong.
    pub(super) fn decode(bytes: &[u8], mac_key: &MacKey) -> Option<Self> {
        let head = Self::decode_unverified(bytes)?;
        let (body, mac) = bytes.split_last_chunk::<MAC_LEN>()?;
        mac_key.verify(&[body], mac).ok()?;
        Some(head)
    }
}

/// The length of the file.
pub(super) const HEAD_LEN: usize = BODY_LEN + MAC_LEN;
const MAGIC: &[u8; 8] = b"ssefsAH1";
const BODY_LEN: usize = 8 + 8 + MAC_LEN + 5 * 8 + 16;
const _: () = assert!(HEAD_LEN == 136, "AUDIT.md gives the length");

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::Secret;

    #[test]
    fn it_reads_back_and_any_flipped_bit_shows() {
        let key = MacKey::new(&Secret::random());
        let head = Head {
            link: Link { seq: 7, hash: [3; MAC_LEN] },
            segment: 2,
            size: 4096,
            line_len: 700,
            checkpoint_seq: 5,
            synced_seq: 6,
            boot_id: [9; 16],
        };
        let bytes = head.encode(&key);
        assert_eq!(Head::decode(&bytes, &key), Some(head));
        for bit in 0..8 * HEAD_LEN {
            let mut altered = bytes;
            altered[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Head::decode(&altered, &key), None, "bit {bit}");
        }
        assert_eq!(Head::decode(&bytes[..HEAD_LEN - 1], &key), None);
    }
}
