//! Passphrases and the keys made of them by Argon2id (RFC 9106). Parameters read from a file are
//! bounded before any memory is taken. Nothing here is ever printed; every buffer is wiped.

use std::io;

use argon2::{Algorithm, Argon2, Block, Params, Version};
use data_encoding::HEXLOWER;
use zeroize::{Zeroize, Zeroizing};

use super::error::KeyError;
use crate::crypto::{Secret, random_array};
use crate::format::Argon2idParameters;

/// A passphrase, wiped on drop.
pub struct Passphrase {
    text: Zeroizing<Vec<u8>>,
}

impl Passphrase {
    /// Takes over `text`; an empty one, or one of more than 1024 bytes, is refused.
    pub fn new(text: Zeroizing<Vec<u8>>) -> Result<Self, KeyError> {
        if text.is_empty() {
            return Err(KeyError::Unusable("the passphrase is empty".into()));
        }
        if text.len() > MAX_PASSPHRASE_LEN {
            return Err(KeyError::Unusable(format!(
                "the passphrase is longer than {MAX_PASSPHRASE_LEN} bytes"
            )));
        }
        Ok(Self { text })
    }

    /// Asks for it on the terminal, without echo.
    pub fn prompt(prompt: &str) -> Result<Self, KeyError> {
        Self::ask(prompt, &mut |prompt| rpassword::prompt_password(prompt))
    }

    /// Asks for a new one on the terminal, twice.
    pub fn prompt_new(prompt: &str) -> Result<Self, KeyError> {
        Self::ask_new(prompt, &mut |prompt| rpassword::prompt_password(prompt))
    }

    /// The key that Argon2id makes of it.
    pub fn derive(&self, parameters: &Argon2idParameters) -> Result<Secret, KeyError> {
        let refused = |problem: String| KeyError::Unusable(format!("Argon2id: {problem}"));
        let salt = check_bounds(parameters).map_err(refused)?;
        let Argon2idParameters { memory_kib, passes, lanes, .. } = *parameters;
        let params = Params::new(memory_kib, passes, lanes, Some(32))
            .map_err(|error| refused(error.to_string()))?;
        let mut memory = Vec::new();
        memory
            .try_reserve_exact(params.block_count())
            .map_err(|_| refused(format!("no memory for {memory_kib} KiB")))?;
        memory.resize(params.block_count(), Block::new());
        let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        let derived = Secret::try_from_fn(|out| {
            argon2.hash_password_into_with_memory(&self.text, &salt, out, &mut memory)
        });
        memory.zeroize();
        scrub_stack();
        derived.map_err(|error| refused(error.to_string()))
    }

    fn ask(prompt: &str, terminal: &mut Terminal<'_>) -> Result<Self, KeyError> {
        let text = terminal(prompt).map_err(|error| match error.kind() {
            io::ErrorKind::Interrupted => KeyError::Unusable("interrupted".into()),
            io::ErrorKind::UnexpectedEof => KeyError::Unusable("no passphrase was given".into()),
            _ => KeyError::Unusable(format!(
                "a passphrase is asked for on a terminal, and there is none ({error}): \
                 use a key file"
            )),
        })?;
        Self::new(Zeroizing::new(text.into_bytes()))
    }

    fn ask_new(prompt: &str, terminal: &mut Terminal<'_>) -> Result<Self, KeyError> {
        let first = Self::ask(prompt, terminal)?;
        let second = Self::ask("The same again: ", terminal)?;
        if first.text != second.text {
            return Err(KeyError::Unusable("the two passphrases differ".into()));
        }
        Ok(first)
    }
}

/// Fresh parameters for a new passphrase: the second recommended option of RFC 9106, section 4
/// (64 MiB, 3 passes, 4 lanes), and a random salt.
pub fn recommended_argon2id() -> Argon2idParameters {
    Argon2idParameters {
        memory_kib: 64 * 1024,
        passes: 3,
        lanes: 4,
        salt: HEXLOWER.encode(&random_array::<SALT_LEN>()),
    }
}

/// What [`Passphrase::derive`] has to do with these parameters, in KiB of memory times passes.
pub(super) fn work_of(parameters: &Argon2idParameters) -> u64 {
    u64::from(parameters.memory_kib) * u64::from(parameters.passes)
}

type Terminal<'a> = dyn FnMut(&str) -> io::Result<String> + 'a;

fn check_bounds(parameters: &Argon2idParameters) -> Result<[u8; SALT_LEN], String> {
    let Argon2idParameters { memory_kib, passes, lanes, ref salt } = *parameters;
    let within = |what, value, least, most| match (least..=most).contains(&value) {
        true => Ok(()),
        false => Err(format!("{value} {what}, {least} to {most} are possible")),
    };
    within("lanes", lanes, 1, MAX_LANES)?;
    within("passes", passes, 1, MAX_PASSES)?;
    within("KiB of memory", memory_kib, 8 * lanes, MAX_MEMORY_KIB)?;
    let salt = HEXLOWER.decode(salt.as_bytes()).ok();
    salt.and_then(|salt| salt.try_into().ok())
        .ok_or_else(|| format!("the salt is not {SALT_LEN} bytes in hexadecimal"))
}

/// Overwrites the stack below the caller, where Argon2id has left copies of what it made.
#[inline(never)]
fn scrub_stack() {
    let mut below = [0_u8; 256 * 1024];
    std::hint::black_box(&mut below).zeroize();
}

const SALT_LEN: usize = 16;
const MAX_MEMORY_KIB: u32 = 1024 * 1024;
const MAX_PASSES: u32 = 16;
const MAX_LANES: u32 = 16;
/// What may be done in all to find the key that a passphrase makes: as much as one derivation with
/// the largest parameters, a quarter of a minute or so. Recommended ones are 85 times cheaper.
pub(super) const MAX_WORK: u64 = MAX_MEMORY_KIB as u64 * MAX_PASSES as u64;
const MAX_PASSPHRASE_LEN: usize = 1024;

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Parameters that cost nothing.
    pub(in crate::keys) fn cheap() -> Argon2idParameters {
        Argon2idParameters { memory_kib: 64, passes: 1, lanes: 2, salt: "5a".repeat(16) }
    }

    pub(in crate::keys) fn passphrase(text: &str) -> Passphrase {
        Passphrase::new(Zeroizing::new(text.as_bytes().to_vec())).unwrap()
    }

    /// Made with the reference implementation in C (libargon2), version 0x13.
    #[test]
    fn known_answer() {
        let salt = HEXLOWER.encode(b"saltsaltsaltsalt");
        let parameters = Argon2idParameters { memory_kib: 64, passes: 2, lanes: 1, salt };
        let key = passphrase("password").derive(&parameters).unwrap();
        assert_eq!(HEXLOWER.encode(key.expose()), KNOWN_ANSWER);
    }

    const KNOWN_ANSWER: &str = "8ba3fa702bd2c08fc6a7830ede5f30be3a1751ed492f31cd7d76a0a480725b5a";

    #[test]
    fn passphrase_salt_and_parameters_all_count() {
        let base = passphrase("open sesame").derive(&cheap()).unwrap();
        assert!(passphrase("open sesame").derive(&cheap()).unwrap().equals(&base));
        assert!(!passphrase("open Sesame").derive(&cheap()).unwrap().equals(&base));
        for parameters in [
            Argon2idParameters { salt: "5b".repeat(16), ..cheap() },
            Argon2idParameters { passes: 2, ..cheap() },
            Argon2idParameters { lanes: 1, ..cheap() },
            Argon2idParameters { memory_kib: 128, ..cheap() },
        ] {
            assert!(!passphrase("open sesame").derive(&parameters).unwrap().equals(&base));
        }
    }

    #[test]
    fn parameters_out_of_bounds_are_refused() {
        for parameters in [
            Argon2idParameters { memory_kib: MAX_MEMORY_KIB + 1, ..cheap() },
            Argon2idParameters { memory_kib: u32::MAX, ..cheap() },
            Argon2idParameters { memory_kib: 15, ..cheap() },
            Argon2idParameters { passes: 0, ..cheap() },
            Argon2idParameters { passes: 17, ..cheap() },
            Argon2idParameters { lanes: 0, ..cheap() },
            Argon2idParameters { lanes: 17, memory_kib: 1024, ..cheap() },
            Argon2idParameters { salt: "5a".repeat(15), ..cheap() },
            Argon2idParameters { salt: "zz".repeat(16), ..cheap() },
        ] {
            let refused = passphrase("p").derive(&parameters);
            assert!(matches!(refused, Err(KeyError::Unusable(_))), "{parameters:?}");
        }
        assert!(check_bounds(&recommended_argon2id()).is_ok());
        assert_ne!(recommended_argon2id().salt, recommended_argon2id().salt);
    }

    #[test]
    fn a_new_passphrase_is_asked_for_twice() {
        let asked = |answers: &[&str]| {
            let mut answers = answers.iter();
            Passphrase::ask_new("? ", &mut |_| Ok((*answers.next().unwrap()).to_owned()))
        };
        assert_eq!(asked(&["abc", "abc"]).ok().unwrap().text.as_slice(), b"abc");
        let differ = asked(&["abc", "abd"]).err().unwrap().to_string();
        assert_eq!(differ, "the two passphrases differ");
        assert!(asked(&["", ""]).is_err());
        assert!(asked(&["x".repeat(MAX_PASSPHRASE_LEN + 1).as_str()]).is_err());
    }

    #[test]
    fn a_missing_terminal_is_told() {
        let refused = Passphrase::ask("? ", &mut |_| Err(io::Error::from_raw_os_error(6)));
        let message = refused.err().unwrap().to_string();
        assert!(message.contains("there is none") && message.contains("key file"), "{message}");
    }
}
