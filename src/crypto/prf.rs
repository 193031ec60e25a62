//! AES-256 (FIPS 197) as a pseudo-random permutation of single blocks of 16 bytes.

use aws_lc_rs::cipher::{AES_256, EncryptingKey, UnboundCipherKey};

use super::secret::Secret;

/// Length of a block of the permutation in bytes.
pub const PRF_LEN: usize = 16;

/// A key with its schedule expanded. AWS-LC wipes the schedule when it is dropped.
///
/// This is no way to encrypt: equal blocks give equal results.
pub struct PrfKey {
    inner: EncryptingKey,
}

impl PrfKey {
    /// Expands `secret`.
    pub fn new(secret: &Secret) -> Self {
        let unbound =
            UnboundCipherKey::new(&AES_256, secret.expose()).expect("a 32-byte key fits AES-256");
        let inner = EncryptingKey::ecb(unbound).expect("AES-256 works on single blocks");
        Self { inner }
    }

    /// What `block` is mapped to.
    pub fn apply(&self, mut block: [u8; PRF_LEN]) -> [u8; PRF_LEN] {
        self.inner.encrypt(&mut block).expect("the input is one block");
        block
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// FIPS 197, appendix C.3.
    #[test]
    fn is_aes_256() {
        let key = Secret::copy_from(&std::array::from_fn(|index| index as u8));
        let block = std::array::from_fn(|index| (index * 0x11) as u8);
        let expected = [
            0x8e, 0xa2, 0xb7, 0xca, 0x51, 0x67, 0x45, 0xbf, 0xea, 0xfc, 0x49, 0x90, 0x4b, 0x49,
            0x60, 0x89,
        ];
        assert_eq!(PrfKey::new(&key).apply(block), expected);
    }
}
