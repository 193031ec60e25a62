//! HKDF-SHA256 (RFC 5869).

use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Prk, Salt};

use super::secret::{SECRET_LEN, Secret};

/// A secret to derive several keys from.
pub struct Derivation {
    prk: Prk,
}

impl Derivation {
    /// From a secret.
    pub fn new(secret: &Secret) -> Self {
        Self { prk: Salt::new(HKDF_SHA256, &[]).extract(secret.expose()) }
    }

    /// The key named by `label`.
    pub fn key(&self, label: &[u8]) -> Secret {
        Secret::try_from_fn(|out| self.prk.expand(&[label], Length)?.fill(out))
            .expect("32 bytes are within 255 blocks of SHA-256")
    }
}

/// Derives the key named by `label` from `secret`.
///
/// The secret is uniformly random already, so the salt is empty (RFC 5869, 3.1); the label is
/// the `info` input, and keys with different labels are independent (3.2).
pub fn derive(secret: &Secret, label: &[u8]) -> Secret {
    Derivation::new(secret).key(label)
}

struct Length;

impl KeyType for Length {
    fn len(&self) -> usize {
        SECRET_LEN
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_separate_keys() {
        let secret = Secret::random();
        assert!(!derive(&secret, b"a").equals(&derive(&secret, b"b")));
        assert!(derive(&secret, b"a").equals(&derive(&secret, b"a")));
        assert!(!derive(&secret, b"a").equals(&secret));
    }
}
