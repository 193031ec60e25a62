//! Random bytes from AWS-LC's generator (NIST SP 800-90A CTR_DRBG, seeded by the kernel).

use aws_lc_rs::rand;

use super::aead::{NONCE_LEN, Nonce};

/// Fills `buf` with random bytes.
///
/// # Panics
/// When the generator fails. No key or nonce may be made without it, so the process stops.
pub fn fill_random(buf: &mut [u8]) {
    rand::fill(buf).expect("the system's random number generator works");
}

/// `N` random bytes, for identifiers, salts and nonces.
pub fn random_array<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    fill_random(&mut bytes);
    bytes
}

/// Fills `nonces` with random nonces in one call of the generator, for a run of blocks.
pub fn random_nonces(nonces: &mut [Nonce]) {
    const BATCH: usize = 64;
    let mut bytes = [0_u8; BATCH * NONCE_LEN];
    for batch in nonces.chunks_mut(BATCH) {
        let bytes = &mut bytes[..batch.len() * NONCE_LEN];
        fill_random(bytes);
        for (nonce, random) in batch.iter_mut().zip(bytes.as_chunks::<NONCE_LEN>().0) {
            *nonce = *random;
        }
    }
}
