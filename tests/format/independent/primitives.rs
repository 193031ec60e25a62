//! AES-256-GCM, HMAC, HKDF, SHA-256 and CRC-32, over RustCrypto or written out.

use aes_gcm::aead::{Aead, Payload};
use aes_gcm::aes::Aes256;
use aes_gcm::aes::cipher::BlockCipherEncrypt;
use aes_gcm::{Aes256Gcm, KeyInit};
use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256};

pub type Key = [u8; 32];

/// Ciphertext and tag in one.
pub fn seal(key: &Key, nonce: &[u8; 12], aad: &[u8], plain: &[u8]) -> Vec<u8> {
    let cipher = Aes256Gcm::new(key.into());
    cipher.encrypt(nonce.into(), Payload { msg: plain, aad }).unwrap()
}

pub fn open(key: &Key, nonce: &[u8; 12], aad: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
    let cipher = Aes256Gcm::new(key.into());
    cipher.decrypt(nonce.into(), Payload { msg: sealed, aad }).ok()
}

/// One block of AES-256 (FIPS 197).
pub fn aes(key: &Key, block: &[u8; 16]) -> [u8; 16] {
    let mut block = (*block).into();
    Aes256::new(key.into()).encrypt_block(&mut block);
    block.into()
}

pub fn hmac(key: &[u8], message: &[u8]) -> Key {
    let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(key).unwrap();
    mac.update(message);
    mac.finalize().into_bytes().into()
}

/// HKDF-SHA256 (RFC 5869) with an empty salt, for 32 bytes: one block of the expansion.
pub fn hkdf(secret: &[u8], label: &[u8]) -> Key {
    let pseudorandom = hmac(&[], secret);
    hmac(&pseudorandom, &[label, &[1]].concat())
}

pub fn sha256(bytes: &[u8]) -> Key {
    Sha256::digest(bytes).into()
}

/// CRC-32 as in IEEE 802.3: polynomial 0xEDB88320 reflected, all ones before and after.
pub fn crc32(bytes: &[u8]) -> u32 {
    let folded = bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg())
        })
    });
    !folded
}

/// CRC-32's check value, FIPS 180-4's example, and the first 32 bytes of RFC 5869, A.3, which has
/// an empty salt and an empty label.
#[test]
fn published_answers() {
    use data_encoding::HEXLOWER;
    let answer = |bytes: &[u8]| HEXLOWER.encode(bytes);
    assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    assert_eq!(
        answer(&sha256(b"abc")),
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    );
    assert_eq!(
        answer(&hkdf(&[0x0b; 22], b"")),
        "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d"
    );
}
