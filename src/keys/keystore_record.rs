//! The bytes of a keystore record: JSON, sealed by AES-256-GCM under a key derived from the
//! keystore's root key. The AAD binds kind, id and version, so that no record stands in for
//! another. Plaintext exists only in buffers that are wiped; key material goes between JSON and
//! locked memory directly.

use std::io::{self, Write};

use data_encoding::HEXLOWER;
use serde::de::{DeserializeOwned, Error as _, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::{Zeroize, Zeroizing};

use crate::crypto::{AeadKey, NONCE_LEN, OpenFailed, SECRET_LEN, Secret, TAG_LEN, random_array};

/// What is kept in a record.
pub(super) trait Record: Serialize + DeserializeOwned {
    /// Its kind: the first part of the file's name, lower-case letters.
    const KIND: &'static str;
}

/// Key material in a record: hexadecimal in JSON, locked memory here.
pub(super) struct Material(pub(super) Secret);

/// The file of record `id`.
pub(super) fn file_name<R: Record>(id: &str) -> String {
    assert!(is_id(id), "ids of records are UUIDs");
    format!("{}-{id}{SUFFIX}", R::KIND)
}

/// The id of the record in a file of this name, if it is one of this kind.
pub(super) fn id_in_name<R: Record>(name: &str) -> Option<&str> {
    let id = name.strip_prefix(R::KIND)?.strip_prefix('-')?.strip_suffix(SUFFIX)?;
    is_id(id).then_some(id)
}

fn is_id(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

/// Whether a file of this name is a record.
pub(super) fn is_record(name: &str) -> bool {
    name.ends_with(SUFFIX)
}

/// Seals a record. The nonce is random: a keystore is written far fewer than 2^32 times.
pub(super) fn seal<R: Record>(key: &Secret, id: &str, record: &R) -> Vec<u8> {
    let plaintext = to_json(record);
    let mut bytes = Vec::with_capacity(MAGIC.len() + NONCE_LEN + plaintext.len() + TAG_LEN);
    let nonce = random_array();
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&nonce);
    let body = bytes.len();
    bytes.resize(body + plaintext.len(), 0);
    let tag = AeadKey::new(key).seal(&nonce, &aad::<R>(id), &plaintext, &mut bytes[body..]);
    bytes.extend_from_slice(&tag);
    bytes
}

/// Opens a record; the error says what is wrong with the file.
pub(super) fn open<R: Record>(key: &Secret, id: &str, bytes: &[u8]) -> Result<R, String> {
    let sealed = bytes
        .strip_prefix(MAGIC)
        .ok_or("is not a keystore record of version 1, or a newer ssefs wrote it")?;
    let truncated = "is truncated";
    let (nonce, rest) = sealed.split_first_chunk::<NONCE_LEN>().ok_or(truncated)?;
    let (body, tag) = rest.split_last_chunk::<TAG_LEN>().ok_or(truncated)?;
    let mut plaintext = Zeroizing::new(vec![0; body.len()]);
    AeadKey::new(key)
        .open(nonce, &aad::<R>(id), body, tag, &mut plaintext)
        .map_err(|OpenFailed| "was altered, moved, or sealed under another root key")?;
    // The text of a JSON error may quote the record: it is left out.
    serde_json::from_slice(&plaintext)
        .map_err(|_| "holds fields that are not known here; use a newer ssefs".to_owned())
}

impl Serialize for Material {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        let mut text = Zeroizing::new([0; 2 * SECRET_LEN]);
        HEXLOWER.encode_mut(self.0.expose(), text.as_mut_slice());
        out.serialize_str(std::str::from_utf8(text.as_slice()).expect("hexadecimal is ASCII"))
    }
}

impl<'de> Deserialize<'de> for Material {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        struct Hexadecimal;

        /// Takes strings that are borrowed from the buffer, which is wiped; one with escapes
        /// would have been copied elsewhere, and [`to_json`] never writes such.
        impl<'de> Visitor<'de> for Hexadecimal {
            type Value = Material;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("64 hexadecimal digits")
            }

            fn visit_borrowed_str<E: serde::de::Error>(
                self,
                text: &'de str,
            ) -> Result<Material, E> {
                if text.len() != 2 * SECRET_LEN {
                    return Err(E::custom("key material of another length"));
                }
                Secret::try_from_fn(|out| HEXLOWER.decode_mut(text.as_bytes(), out).map(drop))
                    .map(Material)
                    .map_err(|_| E::custom("key material is not hexadecimal"))
            }

            fn visit_str<E: serde::de::Error>(self, _: &str) -> Result<Material, E> {
                Err(E::custom("key material with escapes"))
            }
        }

        input.deserialize_str(Hexadecimal).map_err(D::Error::custom)
    }
}

/// A buffer that leaves no copy behind when it grows.
struct WipedBuffer(Zeroizing<Vec<u8>>);

impl Write for WipedBuffer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let needed = self.0.len() + bytes.len();
        if needed > self.0.capacity() {
            let mut larger = Vec::with_capacity(2 * needed);
            larger.extend_from_slice(&self.0);
            self.0.zeroize();
            self.0 = Zeroizing::new(larger);
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn to_json<R: Record>(record: &R) -> Zeroizing<Vec<u8>> {
    let mut buffer = WipedBuffer(Zeroizing::new(Vec::with_capacity(1024)));
    serde_json::to_writer(&mut buffer, record).expect("a record is plain data");
    buffer.0
}

/// What a record is bound to; the parts before the id hold no zero byte.
fn aad<R: Record>(id: &str) -> Vec<u8> {
    [b"ssefs keystore record\0".as_slice(), MAGIC, R::KIND.as_bytes(), b"\0", id.as_bytes()]
        .concat()
}

/// Names the bytes and their version.
const MAGIC: &[u8] = b"ssefsKR1";
const SUFFIX: &str = ".record";

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct One {
        material: Material,
    }
    impl Record for One {
        const KIND: &'static str = "one";
    }

    #[derive(Serialize, Deserialize)]
    struct Other {
        material: Material,
    }
    impl Record for Other {
        const KIND: &'static str = "other";
    }

    fn sealed() -> (Secret, Vec<u8>) {
        let key = Secret::random();
        let bytes = seal(&key, "id-1", &One { material: Material(Secret::copy_from(&[7; 32])) });
        (key, bytes)
    }

    #[test]
    fn reads_back_and_hides_the_material() {
        let (key, bytes) = sealed();
        let one: One = open(&key, "id-1", &bytes).unwrap();
        assert_eq!(one.material.0.expose(), &[7; 32]);
        assert!(!bytes.windows(8).any(|window| window == b"07070707" || window == [7; 8]));
    }

    #[test]
    fn another_id_kind_or_key_is_refused() {
        let (key, bytes) = sealed();
        assert!(open::<One>(&key, "id-2", &bytes).is_err());
        assert!(open::<Other>(&key, "id-1", &bytes).is_err());
        assert!(open::<One>(&Secret::random(), "id-1", &bytes).is_err());
    }

    #[test]
    fn any_flipped_bit_and_any_cut_is_refused() {
        let (key, bytes) = sealed();
        for at in 0..bytes.len() {
            let mut altered = bytes.clone();
            altered[at] ^= 1;
            assert!(open::<One>(&key, "id-1", &altered).is_err(), "byte {at}");
            assert!(open::<One>(&key, "id-1", &bytes[..at]).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn malformed_material_is_refused_without_quoting_it() {
        for text in ["07".repeat(31), "zz".repeat(32), format!("\\u0030{}", "0".repeat(63))] {
            let json = format!("{{\"material\":\"{text}\"}}");
            let error = serde_json::from_str::<One>(&json).err().unwrap().to_string();
            assert!(!error.contains(&text[..8]), "{error}");
        }
    }

    #[test]
    fn the_buffer_grows() {
        let mut buffer = WipedBuffer(Zeroizing::new(Vec::with_capacity(1)));
        for chunk in [b"abc".as_slice(), &[b'x'; 5000], b"end"] {
            buffer.write_all(chunk).unwrap();
        }
        assert_eq!(buffer.0.len(), 5006);
        assert!(buffer.0.starts_with(b"abcxx") && buffer.0.ends_with(b"xend"));
    }
}
