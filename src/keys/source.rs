//! Where a supplied key comes from: a file, an open descriptor, standard input or a passphrase.
//! Reads are bounded, buffers are wiped, and a key that others could read is refused. No message
//! ever quotes what was read.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use data_encoding::{BASE64, HEXLOWER_PERMISSIVE};
use rustix::fs::fstat;
use rustix::stdio::stdin;
use rustix::termios::isatty;
use zeroize::Zeroizing;

use super::error::KeyError;
use super::passphrase::{MAX_WORK, Passphrase, recommended_argon2id, work_of};
use super::private_dir::{read_bounded, refuse_open_to_others};
use super::supplied::{supplied_verifier, verify_supplied};
use crate::crypto::{SECRET_LEN, Secret};
use crate::format::{Argon2idParameters, Descriptor, Mode, SuppliedVerifier};

/// What the user brings to a mount in supplied mode.
pub enum SuppliedSource {
    /// The key itself.
    Key(Secret),
    /// A passphrase that the key is made of.
    Passphrase(Passphrase),
}

impl SuppliedSource {
    /// The key for a new volume, or for a mode that is new to a volume, and its verifier.
    pub fn new_key(&self) -> Result<(Secret, SuppliedVerifier), KeyError> {
        let argon2id = match self {
            Self::Key(_) => None,
            Self::Passphrase(_) => Some(recommended_argon2id()),
        };
        let key = self.key(argon2id.as_ref())?;
        let verifier = supplied_verifier(&key, argon2id);
        Ok((key, verifier))
    }

    /// The key of a volume that has supplied keys: the one that a verifier knows. A wrong one is
    /// [`KeyError::WrongKey`]; a passphrase where only keys are known, or the reverse, is told.
    pub fn known_key(&self, descriptor: &Descriptor) -> Result<Secret, KeyError> {
        let verifiers = || {
            let slots = descriptor.slots_of(Mode::Supplied);
            slots.filter_map(|slot| slot.supplied.as_ref())
        };
        let wants_passphrase = matches!(self, Self::Passphrase(_));
        let mut fitting = verifiers()
            .filter(|verifier| verifier.argon2id.is_some() == wants_passphrase)
            .peekable();
        if fitting.peek().is_none() && verifiers().next().is_some() {
            return Err(KeyError::Unusable(match wants_passphrase {
                true => "this volume has a key and no passphrase: use --key-file".into(),
                false => "this volume has a passphrase and no key file: use --passphrase".into(),
            }));
        }
        let mut work = 0;
        for verifier in fitting {
            // Whoever can write the descriptor chooses the parameters, of up to 64 slots.
            work += verifier.argon2id.as_ref().map_or(0, work_of);
            if work > MAX_WORK {
                return Err(KeyError::Unusable(
                    "the key slots ask for more work on the passphrase than is reasonable".into(),
                ));
            }
            let key = self.key(verifier.argon2id.as_ref())?;
            match verify_supplied(&key, verifier) {
                Ok(()) => return Ok(key),
                Err(KeyError::WrongKey) => {}
                Err(other) => return Err(other),
            }
        }
        Err(KeyError::WrongKey)
    }

    fn key(&self, argon2id: Option<&Argon2idParameters>) -> Result<Secret, KeyError> {
        match (self, argon2id) {
            (Self::Key(key), _) => Ok(key.duplicate()),
            (Self::Passphrase(passphrase), Some(parameters)) => passphrase.derive(parameters),
            (Self::Passphrase(_), None) => Err(KeyError::WrongKey),
        }
    }
}

/// Reads a key from a file; `-` is standard input. A file that others may read is refused.
pub fn read_key_file(path: &Path) -> Result<Secret, KeyError> {
    if path == Path::new("-") {
        return read_key_from_stdin();
    }
    let failed = |source| KeyError::Io { path: path.to_owned(), source };
    let file = File::open(path).map_err(failed)?;
    let stat = fstat(&file).map_err(|error| failed(error.into()))?;
    refuse_open_to_others(path, &stat, "600")?;
    read_key(file, &path.display().to_string())
}

/// Reads a key to the end of `source`, such as a descriptor; `name` is for messages.
pub fn read_key(source: impl Read, name: &str) -> Result<Secret, KeyError> {
    let bytes = read_bounded(source, MAX_KEY_FILE_LEN)
        .map_err(|source| KeyError::Io { path: name.into(), source })?
        .ok_or_else(|| unusable(name, &format!("more than {MAX_KEY_FILE_LEN} bytes")))?;
    parse_key(&bytes).map_err(|found| unusable(name, &found))
}

fn read_key_from_stdin() -> Result<Secret, KeyError> {
    if isatty(stdin()) {
        return Err(KeyError::Unusable(
            "standard input is a terminal: redirect a key into it, or use --passphrase".into(),
        ));
    }
    read_key(UnbufferedStdin, "standard input")
}

/// Standard input without the buffer of `std`, which nobody wipes.
struct UnbufferedStdin;

impl Read for UnbufferedStdin {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::io::read(stdin(), buf)?)
    }
}

/// The key in one of its three forms; the error says what was found instead.
fn parse_key(bytes: &[u8]) -> Result<Secret, String> {
    if let Ok(raw) = <&[u8; SECRET_LEN]>::try_from(bytes) {
        if raw.iter().all(u8::is_ascii_hexdigit) {
            return Err("32 hexadecimal digits, a key of 128 bits".into());
        }
        return Ok(Secret::copy_from(raw));
    }
    let text = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    let text = text.strip_suffix(b"\r").unwrap_or(text);
    if text.len() == 2 * SECRET_LEN {
        return Secret::try_from_fn(|key| HEXLOWER_PERMISSIVE.decode_mut(text, key).map(drop))
            .map_err(|_| "64 characters that are not all hexadecimal digits".into());
    }
    if text.len() == BASE64_LEN {
        let mut decoded = Zeroizing::new([0; BASE64_LEN / 4 * 3]);
        if BASE64.decode_mut(text, decoded.as_mut_slice()) == Ok(SECRET_LEN) {
            let (key, _) = decoded.split_first_chunk().expect("32 bytes were decoded");
            return Ok(Secret::copy_from(key));
        }
        return Err(format!("{BASE64_LEN} characters that are not the base64 of 32 bytes"));
    }
    match bytes.len() {
        0 => Err("nothing".into()),
        1 => Err("1 byte".into()),
        len => Err(format!("{len} bytes")),
    }
}

fn unusable(name: &str, found: &str) -> KeyError {
    KeyError::Unusable(format!(
        "{name}: holds {found}; a key is 32 random bytes, as they are, as 64 hexadecimal digits \
         or in base64: make one with (umask 077; head -c 32 /dev/urandom > FILE)"
    ))
}

const MAX_KEY_FILE_LEN: usize = 1024;
/// The base64 of 32 bytes, padded.
const BASE64_LEN: usize = 44;

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    use super::super::passphrase::tests::{cheap, passphrase};
    use super::*;
    use crate::format::{Envelope, KeyId, KeySlot, VolumeId, WrapAlgorithm};

    fn raw() -> [u8; 32] {
        std::array::from_fn(|index| 0x80 + index as u8)
    }

    fn read(content: &[u8]) -> Result<Secret, KeyError> {
        read_key(content, "the-file")
    }

    #[test]
    fn the_three_forms() {
        let hexadecimal = data_encoding::HEXLOWER.encode(&raw());
        let base64 = BASE64.encode(&raw());
        let forms = [hexadecimal.clone(), hexadecimal.to_uppercase(), base64];
        let texts =
            forms.iter().flat_map(|text| ["", "\n", "\r\n"].map(|end| format!("{text}{end}")));
        for form in texts.map(String::into_bytes).chain([raw().to_vec()]) {
            assert_eq!(read(&form).unwrap().expose(), &raw());
        }
        let ends_in_newline = [b'\n'; 32];
        assert_eq!(read(&ends_in_newline).unwrap().expose(), &ends_in_newline);
    }

    #[test]
    fn other_content_is_refused_by_what_was_found() {
        let cases: [(&[u8], &str); 9] = [
            (b"", "holds nothing;"),
            (b"x", "holds 1 byte;"),
            (&[0; 16], "holds 16 bytes;"),
            (&[0; 31], "holds 31 bytes;"),
            (&[0; 33], "holds 33 bytes;"),
            (b"0123456789abcdef0123456789ABCDEF", "a key of 128 bits;"),
            (&[b'g'; 64], "not all hexadecimal digits;"),
            (&[b'!'; 44], "not the base64 of 32 bytes;"),
            (&[b'a'; MAX_KEY_FILE_LEN + 1], "more than 1024 bytes;"),
        ];
        for (content, expected) in cases {
            let message = read(content).err().unwrap().to_string();
            assert!(message.starts_with("the-file: holds "), "{message}");
            assert!(message.contains(expected), "{message}");
            assert!(message.contains("head -c 32 /dev/urandom"), "{message}");
        }
    }

    #[test]
    fn a_refusal_does_not_quote_the_key() {
        let nearly = format!("{}zz", "3f9a".repeat(15) + "3f");
        let message = read(nearly.as_bytes()).err().unwrap().to_string();
        assert!(!message.contains("3f9a"), "{message}");
    }

    #[test]
    fn an_endless_source_is_read_no_further_than_the_bound() {
        assert!(read_key(io::repeat(7), "endless").is_err());
    }

    #[test]
    fn a_key_file_open_to_others_is_refused() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("key");
        fs::write(&path, raw()).unwrap();
        for mode in [0o644, 0o640, 0o602] {
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            let message = read_key_file(&path).err().unwrap().to_string();
            assert!(message.ends_with("chmod 600 it"), "{message}");
        }
        fs::set_permissions(&path, Permissions::from_mode(0o400)).unwrap();
        assert_eq!(read_key_file(&path).unwrap().expose(), &raw());
        let absent = read_key_file(&scratch.path().join("absent"));
        assert!(matches!(absent, Err(KeyError::Io { .. })));
    }

    fn descriptor(verifiers: Vec<SuppliedVerifier>) -> Descriptor {
        let envelope = Envelope {
            mode: Mode::Supplied,
            provider: "supplied".into(),
            key_id: KeyId("k".into()),
            key_version: 1,
            wrap_algorithm: WrapAlgorithm::Aes256Gcm,
            created: 0,
            context: Default::default(),
            wrapped_dek: Vec::new(),
        };
        let slot = |verifier| KeySlot { envelope: envelope.clone(), supplied: Some(verifier) };
        Descriptor {
            format_version: 1,
            volume_id: VolumeId([7; 16]),
            created: 1,
            key_slots: verifiers.into_iter().map(slot).collect(),
        }
    }

    #[test]
    fn a_key_is_known_by_any_of_the_verifiers() {
        let key = |byte| SuppliedSource::Key(Secret::copy_from(&[byte; 32]));
        let (_, first) = key(1).new_key().unwrap();
        let (_, second) = key(2).new_key().unwrap();
        let descriptor = descriptor(vec![first, second]);
        for byte in [1, 2] {
            let known = key(byte).known_key(&descriptor).unwrap();
            assert_eq!(known.expose(), &[byte; 32]);
        }
        assert!(matches!(key(3).known_key(&descriptor), Err(KeyError::WrongKey)));
    }

    /// 64 slots with the largest parameters took 16 passes over 64 times 1 GiB, many minutes.
    #[test]
    fn hostile_slots_do_not_multiply_the_work_on_a_passphrase() {
        let with = |parameters| supplied_verifier(&Secret::random(), Some(parameters));
        let greedy = || Argon2idParameters { memory_kib: 1 << 20, passes: 16, ..cheap() };
        let open = |verifiers| {
            SuppliedSource::Passphrase(passphrase("open")).known_key(&descriptor(verifiers))
        };
        let message = open(vec![with(cheap()), with(greedy())]).err().unwrap().to_string();
        assert!(message.contains("more work on the passphrase"), "{message}");
        let many = (0..64).map(|_| with(cheap())).collect();
        assert!(matches!(open(many), Err(KeyError::WrongKey)));
    }

    #[test]
    fn passphrases_and_keys_are_told_apart() {
        let derived = passphrase("open").derive(&cheap()).unwrap();
        let with_passphrase = descriptor(vec![supplied_verifier(&derived, Some(cheap()))]);
        let known = SuppliedSource::Passphrase(passphrase("open")).known_key(&with_passphrase);
        assert!(known.unwrap().equals(&derived));
        let wrong = SuppliedSource::Passphrase(passphrase("Open")).known_key(&with_passphrase);
        assert!(matches!(wrong, Err(KeyError::WrongKey)));

        let key = SuppliedSource::Key(Secret::copy_from(&[1; 32]));
        let message = key.known_key(&with_passphrase).err().unwrap().to_string();
        assert!(message.ends_with("use --passphrase"), "{message}");
        let with_key = descriptor(vec![key.new_key().unwrap().1]);
        let refused = SuppliedSource::Passphrase(passphrase("open")).known_key(&with_key);
        assert!(refused.err().unwrap().to_string().ends_with("use --key-file"));
    }
}
