//! HMAC-SHA256 (RFC 2104, FIPS 198-1) and plain SHA-256.

use aws_lc_rs::{digest, hmac};

use super::aead::OpenFailed;
use super::secret::Secret;

/// Length of a MAC and of a digest in bytes.
pub const MAC_LEN: usize = 32;

/// A key for MACs.
pub struct MacKey {
    inner: hmac::Key,
}

impl MacKey {
    /// From a 256-bit secret.
    pub fn new(secret: &Secret) -> Self {
        Self { inner: hmac::Key::new(hmac::HMAC_SHA256, secret.expose()) }
    }

    /// The MAC of the parts, one after the other. The parts' lengths must be fixed or told in
    /// the parts themselves, as the MAC does not separate them.
    pub fn sign(&self, parts: &[&[u8]]) -> [u8; MAC_LEN] {
        let mut context = hmac::Context::with_key(&self.inner);
        for part in parts {
            context.update(part);
        }
        context.sign().as_ref().try_into().expect("SHA-256 gives 32 bytes")
    }

    /// Whether `mac` is the MAC of the parts; compares in constant time.
    pub fn verify(&self, parts: &[&[u8]], mac: &[u8; MAC_LEN]) -> Result<(), OpenFailed> {
        let expected = self.sign(parts);
        aws_lc_rs::constant_time::verify_slices_are_equal(&expected, mac).map_err(|_| OpenFailed)
    }
}

/// SHA-256 of `bytes` (FIPS 180-4), for digests of what is not secret.
pub fn sha256(bytes: &[u8]) -> [u8; MAC_LEN] {
    digest::digest(&digest::SHA256, bytes).as_ref().try_into().expect("SHA-256 gives 32 bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_one_message() {
        let key = MacKey::new(&Secret::copy_from(&[3; 32]));
        let mac = key.sign(&[b"one", b"two"]);
        assert!(key.verify(&[b"onetwo"], &mac).is_ok());
        assert!(key.verify(&[b"onetwO"], &mac).is_err());
    }

    #[test]
    fn digest_of_nothing() {
        assert_eq!(sha256(b"")[..4], [0xe3, 0xb0, 0xc4, 0x42]);
    }
}
