//! Using a key on the command line: encrypt, decrypt, generate a data key, re-encrypt. Plaintext
//! goes through buffers that are wiped, and to a terminal only where that is asked for.

use std::fmt::Write as _;
use std::path::Path;

use serde_json::json;
use zeroize::Zeroizing;

use super::args::{DecryptArgs, EncryptArgs, GenerateDataKeyArgs, ReEncryptArgs, StreamArgs};
use super::contents::{Destination, decode, encode, read_bounded};
use super::session::{Session, context, usage};
use crate::cli::exit::Outcome;
use crate::keys::kms::Encrypted;

pub(super) fn encrypt(session: &Session, args: &EncryptArgs) -> Outcome {
    let context = context(&args.context.pairs)?;
    // The KMS itself says what is too long.
    let plaintext = read_bounded(args.streams.input.as_deref(), MAX_PLAINTEXT_LEN)?;
    let encrypted = session.kms.encrypt(&session.who, &args.key.key, &plaintext, &context)?;
    write_encrypted(session, &args.streams, &encrypted)
}

pub(super) fn decrypt(session: &Session, args: &DecryptArgs) -> Outcome {
    let context = context(&args.context.pairs)?;
    let blob = read_blob(&args.streams)?;
    let decrypted = session.kms.decrypt(&session.who, args.key.as_deref(), &blob, &context)?;
    let destination = Destination::new(args.streams.output.as_deref());
    if !session.prints_json() {
        return destination.write(&decrypted.plaintext);
    }
    let plaintext = encode(&decrypted.plaintext);
    let members = json!({
        "KeyId": decrypted.key_id,
        "KeyVersion": decrypted.key_version,
        "EncryptionAlgorithm": ALGORITHM,
    });
    destination.write(with_plaintext(&members.to_string(), &plaintext).as_bytes())
}

pub(super) fn generate_data_key(session: &Session, args: &GenerateDataKeyArgs) -> Outcome {
    let context = context(&args.context.pairs)?;
    let plaintext_to = destination(args.plaintext.as_deref());
    let ciphertext_to = destination(args.ciphertext.as_deref());
    let both_printed = [&plaintext_to, &ciphertext_to]
        .iter()
        .all(|one| matches!(one, Some(Destination::StandardOutput)));
    if both_printed && !session.prints_json() {
        return Err(usage(
            "only one of the two can go to standard output: give a file for the other, or --json"
                .to_owned(),
        ));
    }
    let printed = match (&plaintext_to, session.prints_json() && !args.without_plaintext) {
        (Some(destination), _) => Some(destination),
        (None, true) => Some(&Destination::StandardOutput),
        (None, false) => None,
    };
    if !args.force && printed.is_some_and(Destination::is_terminal) {
        return Err(usage(
            "the data key in plain would be shown on the terminal: give --plaintext FILE, or \
             --force"
                .to_owned(),
        ));
    }
    let made = session.kms.generate_data_key(&session.who, &args.key.key, &context)?;
    let form = |bytes: &[u8]| match args.base64 {
        true => line(&encode(bytes)),
        false => Zeroizing::new(bytes.to_vec()),
    };
    // First what can be decrypted again: a plain key alone would encrypt for nobody.
    if let Some(destination) = &ciphertext_to {
        destination.write(&form(&made.encrypted.blob))?;
    }
    if let Some(destination) = &plaintext_to {
        destination.write(&form(made.plaintext.expose()))?;
    }
    if !session.prints_json() {
        return Ok(());
    }
    let members = json!({
        "CiphertextBlob": *encode(&made.encrypted.blob),
        "KeyId": made.encrypted.key_id,
        "KeyVersion": made.encrypted.key_version,
    })
    .to_string();
    let answer = match args.without_plaintext || plaintext_to.is_some() {
        true => line(&Zeroizing::new(members)),
        false => {
            let answer = with_plaintext(&members, &encode(made.plaintext.expose()));
            Zeroizing::new(answer.as_bytes().to_vec())
        }
    };
    Destination::StandardOutput.write(&answer)
}

pub(super) fn re_encrypt(session: &Session, args: &ReEncryptArgs) -> Outcome {
    let (from_context, to_context) = (context(&args.from_context)?, context(&args.to_context)?);
    let blob = read_blob(&args.streams)?;
    let encrypted = session.kms.re_encrypt(
        &session.who,
        args.from.as_deref(),
        &blob,
        &from_context,
        &args.to,
        &to_context,
    )?;
    write_encrypted(session, &args.streams, &encrypted)
}

fn destination(path: Option<&Path>) -> Option<Destination> {
    path.map(|path| Destination::new(Some(path)))
}

fn read_blob(streams: &StreamArgs) -> Outcome<Vec<u8>> {
    let bytes = read_bounded(streams.input.as_deref(), MAX_BLOB_LEN)?;
    match streams.base64 {
        true => decode(&bytes),
        false => Ok(bytes.to_vec()),
    }
}

fn write_encrypted(session: &Session, streams: &StreamArgs, encrypted: &Encrypted) -> Outcome {
    let destination = Destination::new(streams.output.as_deref());
    if session.prints_json() {
        let answer = json!({
            "CiphertextBlob": *encode(&encrypted.blob),
            "KeyId": encrypted.key_id,
            "KeyVersion": encrypted.key_version,
            "EncryptionAlgorithm": ALGORITHM,
        });
        return destination.write(format!("{answer}\n").as_bytes());
    }
    match streams.base64 {
        true => destination.write(&line(&encode(&encrypted.blob))),
        false => destination.write(&encrypted.blob),
    }
}

fn line(text: &Zeroizing<String>) -> Zeroizing<Vec<u8>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(text.len() + 1));
    bytes.extend_from_slice(text.as_bytes());
    bytes.push(b'\n');
    bytes
}

/// The JSON object `members` with one more member, in a buffer that is wiped and never grows.
fn with_plaintext(members: &str, plaintext: &str) -> Zeroizing<String> {
    let open = members.strip_suffix('}').expect("it is an object with members");
    let len = open.len() + plaintext.len() + r#","Plaintext":""}"#.len() + 1;
    let mut text = Zeroizing::new(String::with_capacity(len));
    writeln!(text, r#"{open},"Plaintext":"{plaintext}"}}"#).expect("a string takes all text");
    text
}

const ALGORITHM: &str = "SYMMETRIC_DEFAULT";
const MAX_PLAINTEXT_LEN: usize = 4096;
/// Of 4096 bytes in plain, in base64 with line breaks, generously.
const MAX_BLOB_LEN: usize = 16 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plaintext_is_one_more_member() {
        let text = with_plaintext(&json!({"KeyId": "k"}).to_string(), &encode(b"secret"));
        assert_eq!(text.as_str(), "{\"KeyId\":\"k\",\"Plaintext\":\"c2VjcmV0\"}\n");
        assert_eq!(text.capacity(), text.len());
    }
}
