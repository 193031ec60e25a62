//! A block's entry, 64 bytes: nonce, tag and length of two generations of the block, and a mark
//! that says which is newer.
//!
//! A write replaces the generation that does not match the data on disk, so that whichever of
//! the entry and the data a crash leaves behind, one generation opens the block. The mark is a
//! CRC-32 over both generations and the letter of the newer one: a torn or flipped entry is
//! told from a whole one. It is no protection against forgery; the tags are.

use super::error::FormatError;
use crate::crypto::{NONCE_LEN, Nonce, TAG_LEN, Tag};

/// Length of an entry in bytes.
pub const ENTRY_LEN: usize = 64;

/// What one generation of a block was sealed to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sealed {
    /// The nonce.
    pub nonce: Nonce,
    /// The tag.
    pub tag: Tag,
    /// The block's length in bytes, 1 to 4096.
    pub len: u16,
}

/// One of the two places in an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Generation {
    /// The first 30 bytes.
    A,
    /// The second 30 bytes.
    B,
}

/// A block's entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// All zeros: the block was never written, or was punched out.
    Hole,
    /// The block is stored.
    Stored(Marked),
}

/// The generations of a stored block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Marked {
    /// Which place holds the newer generation.
    pub newer: Generation,
    /// The newer generation.
    pub current: Sealed,
    /// The other place: the generation before, if there was one.
    pub previous: Option<Sealed>,
}

impl Entry {
    /// Reads the entry; a mark that fits neither generation is refused.
    pub fn decode(bytes: &[u8; ENTRY_LEN]) -> Result<Self, FormatError> {
        if *bytes == [0; ENTRY_LEN] {
            return Ok(Self::Hole);
        }
        let (sealed, mark) = bytes.split_at(MARK_AT);
        let mark = u32::from_le_bytes(mark.try_into().expect("the mark is 4 bytes"));
        let marks = Marks::of(sealed);
        let newer = [Generation::A, Generation::B]
            .into_iter()
            .find(|generation| marks.mark(*generation) == mark)
            .ok_or(FormatError::Malformed { what: "entry" })?;
        let a = decode_generation(&sealed[..SEALED_LEN])?;
        let b = decode_generation(&sealed[SEALED_LEN..])?;
        let (current, previous) = match newer {
            Generation::A => (a, b),
            Generation::B => (b, a),
        };
        let current = current.ok_or(FormatError::Malformed { what: "entry" })?;
        Ok(Self::Stored(Marked { newer, current, previous }))
    }

    /// The bytes on disk.
    pub fn encode(&self) -> [u8; ENTRY_LEN] {
        let mut bytes = [0; ENTRY_LEN];
        let Self::Stored(marked) = self else { return bytes };
        let (a, b) = match marked.newer {
            Generation::A => (Some(marked.current), marked.previous),
            Generation::B => (marked.previous, Some(marked.current)),
        };
        encode_generation(a, &mut bytes[..SEALED_LEN]);
        encode_generation(b, &mut bytes[SEALED_LEN..MARK_AT]);
        let mark = Marks::of(&bytes[..MARK_AT]).mark(marked.newer);
        bytes[MARK_AT..].copy_from_slice(&mark.to_le_bytes());
        bytes
    }

    /// The entry after the block is sealed anew. The current generation, which matches the data
    /// on disk, is kept as the previous one.
    #[must_use]
    pub fn succeeded_by(&self, sealed: Sealed) -> Self {
        Self::Stored(match self {
            Self::Hole => Marked { newer: Generation::A, current: sealed, previous: None },
            Self::Stored(old) => {
                Marked { newer: old.newer.other(), current: sealed, previous: Some(old.current) }
            }
        })
    }

    /// The entry with the other generation marked as the newer: what recovery writes where the
    /// data on disk turned out to be the previous generation. `None` if there is no other.
    #[must_use]
    pub fn reverted(&self) -> Option<Self> {
        let Self::Stored(old) = self else { return None };
        Some(Self::Stored(Marked {
            newer: old.newer.other(),
            current: old.previous?,
            previous: Some(old.current),
        }))
    }
}

impl Generation {
    /// The other place.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }
}

fn decode_generation(bytes: &[u8]) -> Result<Option<Sealed>, FormatError> {
    if bytes.iter().all(|byte| *byte == 0) {
        return Ok(None);
    }
    let (nonce, rest) = bytes.split_first_chunk::<NONCE_LEN>().expect("30 bytes hold a nonce");
    let (tag, len) = rest.split_first_chunk::<TAG_LEN>().expect("30 bytes hold a tag");
    let len = u16::from_le_bytes(len.try_into().expect("the length is 2 bytes"));
    if len == 0 || len > 4096 {
        return Err(FormatError::Malformed { what: "entry (length of its block)" });
    }
    Ok(Some(Sealed { nonce: *nonce, tag: *tag, len }))
}

fn encode_generation(sealed: Option<Sealed>, bytes: &mut [u8]) {
    let Some(sealed) = sealed else { return };
    bytes[..NONCE_LEN].copy_from_slice(&sealed.nonce);
    bytes[NONCE_LEN..NONCE_LEN + TAG_LEN].copy_from_slice(&sealed.tag);
    bytes[NONCE_LEN + TAG_LEN..].copy_from_slice(&sealed.len.to_le_bytes());
}

/// The checksum over both generations, ready to take in the letter of the newer one.
struct Marks {
    generations: crc32fast::Hasher,
}

impl Marks {
    fn of(sealed: &[u8]) -> Self {
        let mut generations = crc32fast::Hasher::new();
        generations.update(sealed);
        Self { generations }
    }

    fn mark(&self, newer: Generation) -> u32 {
        let mut crc = self.generations.clone();
        crc.update(match newer {
            Generation::A => b"A",
            Generation::B => b"B",
        });
        crc.finalize()
    }
}

const SEALED_LEN: usize = NONCE_LEN + TAG_LEN + 2;
const MARK_AT: usize = 2 * SEALED_LEN;
const _: () = assert!(MARK_AT + 4 == ENTRY_LEN);

#[cfg(test)]
mod tests {
    use super::*;

    fn sealed(seed: u8) -> Sealed {
        Sealed { nonce: [seed; 12], tag: [seed + 1; 16], len: 4096 }
    }

    #[test]
    fn each_write_keeps_the_generation_before() {
        let first = Entry::Hole.succeeded_by(sealed(1));
        let second = first.succeeded_by(sealed(2));
        let third = second.succeeded_by(sealed(3));
        for entry in [Entry::Hole, first, second, third] {
            assert_eq!(Entry::decode(&entry.encode()).unwrap(), entry);
        }
        assert_eq!(
            third,
            Entry::Stored(Marked {
                newer: Generation::A,
                current: sealed(3),
                previous: Some(sealed(2)),
            })
        );
        assert_eq!(first.reverted(), None);
        let Some(Entry::Stored(back)) = third.reverted() else { panic!("third has a previous") };
        assert_eq!((back.current, back.previous), (sealed(2), Some(sealed(3))));
    }

    #[test]
    fn every_flipped_bit_is_refused() {
        let entry = Entry::Hole.succeeded_by(sealed(1)).succeeded_by(sealed(2));
        for entry in [Entry::Hole.succeeded_by(sealed(1)), entry] {
            for bit in 0..ENTRY_LEN * 8 {
                let mut bytes = entry.encode();
                bytes[bit / 8] ^= 1 << (bit % 8);
                assert!(Entry::decode(&bytes).is_err(), "bit {bit}");
            }
        }
    }

    #[test]
    fn a_flipped_bit_of_a_hole_is_refused() {
        for bit in 0..ENTRY_LEN * 8 {
            let mut bytes = [0; ENTRY_LEN];
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(Entry::decode(&bytes).is_err(), "bit {bit}");
        }
    }
}
