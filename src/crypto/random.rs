//! Random bytes from AWS-LC's generator (NIST SP 800-90A CTR_DRBG, seeded by the kernel).

use aws_lc_rs::rand;

use super::aead::Nonce;

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

/// Nonces for a run of seals under one key: the first is random, each other one the one before
/// plus one.
///
/// This is the RBG-based construction of NIST SP 800-38D, 8.2.2, with a random field of 96 bits
/// and its second way to the next one. Runs overlap no more often than single random nonces
/// coincide, and one draw serves a whole write.
pub fn random_nonces(nonces: &mut [Nonce]) {
    let mut next = u128::from_be_bytes(random_array());
    for nonce in nonces {
        let [_, _, _, _, field @ ..] = next.to_be_bytes();
        *nonce = field;
        next = next.wrapping_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::{Nonce, random_nonces};

    #[test]
    fn a_run_counts_up_from_a_random_start() {
        let mut runs = [[Nonce::default(); 300]; 2];
        for run in &mut runs {
            random_nonces(run);
            let number = |nonce: &Nonce| {
                nonce.iter().fold(0_u128, |number, byte| number << 8 | u128::from(*byte))
            };
            for pair in run.windows(2) {
                assert_eq!((number(&pair[0]) + 1) % (1 << 96), number(&pair[1]));
            }
        }
        assert_ne!(runs[0][0], runs[1][0]);
    }
}
