//! Ed25519 signatures (RFC 8032), for what is verified by those who hold no secret.

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};

use super::aead::OpenFailed;
use super::secret::Secret;

/// Length of a signature in bytes.
pub const SIGNATURE_LEN: usize = 64;

/// Signs.
pub struct SigningKey {
    pair: Ed25519KeyPair,
}

/// Verifies; not secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VerifyingKey(pub [u8; 32]);

impl SigningKey {
    /// From a seed of 32 random bytes (RFC 8032, 5.1.5).
    pub fn from_seed(seed: &Secret) -> Self {
        let pair = Ed25519KeyPair::from_seed_unchecked(seed.expose());
        Self { pair: pair.expect("any 32 bytes are a seed of Ed25519") }
    }

    /// The key that verifies what this one signs.
    pub fn verifying_key(&self) -> VerifyingKey {
        let bytes = self.pair.public_key().as_ref().try_into();
        VerifyingKey(bytes.expect("a public key of Ed25519 has 32 bytes"))
    }

    /// The signature of `message`; the same for the same message.
    pub fn sign(&self, message: &[u8]) -> [u8; SIGNATURE_LEN] {
        let signature = self.pair.sign(message);
        signature.as_ref().try_into().expect("a signature of Ed25519 has 64 bytes")
    }
}

impl VerifyingKey {
    /// Whether `signature` is that of `message`.
    pub fn verify(
        &self,
        message: &[u8],
        signature: &[u8; SIGNATURE_LEN],
    ) -> Result<(), OpenFailed> {
        UnparsedPublicKey::new(&ED25519, self.0).verify(message, signature).map_err(|_| OpenFailed)
    }
}

#[cfg(test)]
mod tests {
    use data_encoding::HEXLOWER;

    use super::*;

    /// RFC 8032, 7.1, test 3.
    #[test]
    fn the_rfc_s_vector() {
        let bytes = |text: &str| HEXLOWER.decode(text.as_bytes()).unwrap();
        let seed = bytes("c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7");
        let key = SigningKey::from_seed(&Secret::copy_from(&seed.try_into().unwrap()));
        assert_eq!(
            HEXLOWER.encode(&key.verifying_key().0),
            "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025"
        );
        let signature = key.sign(&[0xaf, 0x82]);
        assert_eq!(
            HEXLOWER.encode(&signature),
            "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac\
             18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a"
        );
        assert!(key.verifying_key().verify(&[0xaf, 0x82], &signature).is_ok());
        assert!(key.verifying_key().verify(&[0xaf, 0x83], &signature).is_err());
    }
}
