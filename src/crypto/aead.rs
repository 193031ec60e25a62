//! AES-256-GCM (NIST SP 800-38D) with 96-bit nonces and 128-bit tags.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce as LcNonce, UnboundKey};

use super::secret::Secret;

/// Length of a nonce in bytes (SP 800-38D, 8.2.2: 96 bits).
pub const NONCE_LEN: usize = 12;
/// Length of a tag in bytes.
pub const TAG_LEN: usize = 16;

/// A nonce; random, drawn anew for each seal.
pub type Nonce = [u8; NONCE_LEN];
/// An authentication tag.
pub type Tag = [u8; TAG_LEN];

/// The bytes did not authenticate: another key, nonce, AAD or tag, or altered bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("authentication failed")]
pub struct OpenFailed;

/// A key with its schedule expanded. AWS-LC wipes the schedule when it is dropped.
pub struct AeadKey {
    inner: LessSafeKey,
}

impl AeadKey {
    /// Expands `secret`.
    pub fn new(secret: &Secret) -> Self {
        let unbound =
            UnboundKey::new(&AES_256_GCM, secret.expose()).expect("a 32-byte key fits AES-256");
        Self { inner: LessSafeKey::new(unbound) }
    }

    /// Seals `plaintext` into `ciphertext`, of the same length, without copying first.
    ///
    /// The nonce must be fresh: the callers draw it at random for each seal, and the seals under
    /// one key are counted and bounded at 2^32 (SP 800-38D, 8.3).
    ///
    /// # Panics
    /// When the two lengths differ.
    pub fn seal(&self, nonce: &Nonce, aad: &[u8], plaintext: &[u8], ciphertext: &mut [u8]) -> Tag {
        assert_eq!(plaintext.len(), ciphertext.len(), "a sealed block keeps its length");
        let mut tag = [0; TAG_LEN];
        self.inner
            .seal_out_of_place_scatter(
                LcNonce::assume_unique_for_key(*nonce),
                Aad::from(aad),
                plaintext,
                ciphertext,
                &[],
                &mut tag,
            )
            .expect("lengths are within the limits of AES-GCM");
        tag
    }

    /// Opens `ciphertext` into `plaintext`, of the same length. On failure `plaintext` is wiped,
    /// so that nothing unverified can be used by mistake.
    ///
    /// # Panics
    /// When the two lengths differ.
    pub fn open(
        &self,
        nonce: &Nonce,
        aad: &[u8],
        ciphertext: &[u8],
        tag: &Tag,
        plaintext: &mut [u8],
    ) -> Result<(), OpenFailed> {
        assert_eq!(plaintext.len(), ciphertext.len(), "an opened block keeps its length");
        let nonce = LcNonce::assume_unique_for_key(*nonce);
        match self.inner.open_separate_gather(nonce, Aad::from(aad), ciphertext, tag, plaintext) {
            Ok(()) => Ok(()),
            Err(_) => {
                plaintext.fill(0);
                Err(OpenFailed)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> AeadKey {
        AeadKey::new(&Secret::copy_from(&[7; 32]))
    }

    /// Test case 14 of McGrew and Viega, "The Galois/Counter Mode of Operation".
    #[test]
    fn known_answer() {
        let key = AeadKey::new(&Secret::copy_from(&[0; 32]));
        let mut ciphertext = [0; 16];
        let tag = key.seal(&[0; 12], &[], &[0; 16], &mut ciphertext);
        assert_eq!(ciphertext, 0xcea7_403d_4d60_6b6e_074e_c5d3_baf3_9d18_u128.to_be_bytes());
        assert_eq!(tag, 0xd0d1_c8a7_9999_6bf0_265b_98b5_d48a_b919_u128.to_be_bytes());
    }

    #[test]
    fn opens_what_it_sealed_and_nothing_else() {
        let (key, plain) = (key(), [1, 2, 3, 4, 5]);
        let mut cipher = [0; 5];
        let tag = key.seal(&[9; 12], b"aad", &plain, &mut cipher);
        let mut out = [0; 5];
        key.open(&[9; 12], b"aad", &cipher, &tag, &mut out).unwrap();
        assert_eq!(out, plain);

        let mut bad_tag = tag;
        bad_tag[15] ^= 1;
        for (nonce, aad, tag) in
            [([8; 12], b"aad", tag), ([9; 12], b"aaD", tag), ([9; 12], b"aad", bad_tag)]
        {
            let mut out = [0xff; 5];
            assert_eq!(key.open(&nonce, aad, &cipher, &tag, &mut out), Err(OpenFailed));
            assert_eq!(out, [0; 5], "unverified plaintext is wiped");
        }
    }

    #[test]
    fn seals_and_opens_nothing() {
        let tag = key().seal(&[1; 12], b"", &[], &mut []);
        assert!(key().open(&[1; 12], b"", &[], &tag, &mut []).is_ok());
        assert!(key().open(&[2; 12], b"", &[], &tag, &mut []).is_err());
    }
}
