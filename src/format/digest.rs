//! The content digest of the state record: a sum over the tags of all stored blocks, so that a
//! block which is put back together with its old entry shows, and that costs one change of a
//! block the same however large the file is.
//!
//! Each stored block adds `AES-256(digest key, tag XOR index)`. Tags are pseudo-random, so two
//! blocks give the same input by chance only, and two generations of one block never do. The
//! sum is masked anew in each record: nobody without the key learns it or how it changes, so
//! that nobody can look for other sets of blocks with the same sum. The state MAC covers the
//! masked sum.

use super::entry::Entry;
use super::error::FormatError;
use super::geometry::BlockIndex;
use crate::crypto::{PRF_LEN, PrfKey, Secret};

/// The label of the key of the content digest, derived from the DEK.
pub const DIGEST_KEY_LABEL: &[u8] = b"ssefs/v1/digest";
/// Length of the field of the state record in bytes.
pub const DIGEST_LEN: usize = 32;

/// The key of a file's content digest.
pub struct DigestKey {
    prf: PrfKey,
    mask_start: u128,
}

/// The sum over the blocks of a file, not masked. Of no blocks it is zero.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct ContentSum(u128);

impl ContentSum {
    /// The sum with the blocks of `part`, which it does not have yet.
    #[must_use]
    pub fn with(self, part: Self) -> Self {
        Self(self.0.wrapping_add(part.0))
    }

    /// The sum without the blocks of `part`.
    #[must_use]
    pub fn without(self, part: Self) -> Self {
        Self(self.0.wrapping_sub(part.0))
    }
}

impl DigestKey {
    /// From the key that [`DIGEST_KEY_LABEL`] names.
    pub fn new(secret: &Secret) -> Self {
        let prf = PrfKey::new(secret);
        let mask_start = u128::from_le_bytes(prf.apply(*MASK_DOMAIN));
        Self { prf, mask_start }
    }

    /// Adds a block.
    pub fn add(&self, sum: &mut ContentSum, block: BlockIndex, entry: &Entry) {
        sum.0 = sum.0.wrapping_add(self.term(block, entry));
    }

    /// Takes a block away.
    pub fn remove(&self, sum: &mut ContentSum, block: BlockIndex, entry: &Entry) {
        sum.0 = sum.0.wrapping_sub(self.term(block, entry));
    }

    /// Takes account of the entry of `block` having changed.
    pub fn replace(&self, sum: &mut ContentSum, block: BlockIndex, old: &Entry, new: &Entry) {
        sum.0 = sum.0.wrapping_sub(self.term(block, old)).wrapping_add(self.term(block, new));
    }

    /// The field of the record with this sequence and epoch.
    pub fn mask(&self, sum: ContentSum, sequence: u64, epoch: u64) -> [u8; DIGEST_LEN] {
        let masked = sum.0 ^ self.mask_of(sequence, epoch);
        let mut field = [0; DIGEST_LEN];
        field[..PRF_LEN].copy_from_slice(&masked.to_le_bytes());
        field
    }

    /// The sum that a field of the record with this sequence and epoch holds.
    pub fn unmask(
        &self,
        field: &[u8; DIGEST_LEN],
        sequence: u64,
        epoch: u64,
    ) -> Result<ContentSum, FormatError> {
        let (masked, rest) = field.split_first_chunk().expect("the field is longer");
        if rest.iter().any(|byte| *byte != 0) {
            return Err(FormatError::Malformed { what: "state record (content digest)" });
        }
        Ok(ContentSum(u128::from_le_bytes(*masked) ^ self.mask_of(sequence, epoch)))
    }

    fn term(&self, block: BlockIndex, entry: &Entry) -> u128 {
        let Entry::Stored(marked) = entry else { return 0 };
        let input = u128::from_le_bytes(marked.current.tag) ^ u128::from(block.0);
        u128::from_le_bytes(self.prf.apply(input.to_le_bytes()))
    }

    /// CBC-MAC over two blocks: the domain, then sequence and epoch. A record is written once
    /// for each pair of these, so a mask is used once.
    fn mask_of(&self, sequence: u64, epoch: u64) -> u128 {
        let second = u128::from(sequence) | u128::from(epoch) << 64;
        u128::from_le_bytes(self.prf.apply((self.mask_start ^ second).to_le_bytes()))
    }
}

const MASK_DOMAIN: &[u8; PRF_LEN] = b"ssefs state mask";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::{NONCE_LEN, TAG_LEN};
    use crate::format::Sealed;

    fn entry(tag: u8) -> Entry {
        let sealed = Sealed { nonce: [1; NONCE_LEN], tag: [tag; TAG_LEN], len: 4096 };
        Entry::Hole.succeeded_by(sealed)
    }

    fn key() -> DigestKey {
        DigestKey::new(&Secret::copy_from(&[7; 32]))
    }

    fn sum_of(entries: &[(u64, Entry)]) -> ContentSum {
        let mut sum = ContentSum::default();
        for (block, entry) in entries {
            key().add(&mut sum, BlockIndex(*block), entry);
        }
        sum
    }

    #[test]
    fn order_does_not_count_and_place_and_tag_do() {
        let sum = sum_of(&[(0, entry(1)), (1, entry(2))]);
        assert!(sum == sum_of(&[(1, entry(2)), (0, entry(1))]));
        assert!(sum != sum_of(&[(0, entry(2)), (1, entry(1))]));
        assert!(sum != sum_of(&[(0, entry(1)), (1, entry(3))]));
        assert!(sum != sum_of(&[(0, entry(1))]));
    }

    #[test]
    fn what_is_replaced_leaves_nothing() {
        let mut sum = sum_of(&[(0, entry(1)), (9, entry(2))]);
        key().replace(&mut sum, BlockIndex(0), &entry(1), &entry(5));
        key().replace(&mut sum, BlockIndex(9), &entry(2), &Entry::Hole);
        assert!(sum == sum_of(&[(0, entry(5))]));
        assert!(sum.without(sum_of(&[(0, entry(5))])) == ContentSum::default());
        assert!(ContentSum::default().with(sum) == sum && sum.without(sum).with(sum) == sum);
        key().replace(&mut sum, BlockIndex(0), &entry(5), &Entry::Hole);
        assert!(sum == ContentSum::default());
    }

    #[test]
    fn each_record_has_a_mask_of_its_own() {
        let sum = sum_of(&[(3, entry(1))]);
        let field = key().mask(sum, 8, 2);
        assert!(key().unmask(&field, 8, 2) == Ok(sum));
        assert!(key().unmask(&field, 9, 2) != Ok(sum));
        assert!(key().unmask(&field, 8, 3) != Ok(sum));
        assert_ne!(field, key().mask(sum, 9, 2));
        let mut longer = field;
        longer[31] = 1;
        assert!(matches!(key().unmask(&longer, 8, 2), Err(FormatError::Malformed { .. })));
    }
}
