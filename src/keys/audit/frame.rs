//! The end of every line of the log: what makes it a link of the chain. It owns the bytes from
//! `,"seq":` on, their strict parsing from the end of the line, and what MAC and signature cover.
//! `AUDIT.md` is the law.

use data_encoding::HEXLOWER;

use super::body::push_number;
use crate::crypto::{MAC_LEN, MacKey, SIGNATURE_LEN, SigningKey, VerifyingKey, sha256};

/// SHA-256 of a whole line, its newline included.
pub(super) type LineHash = [u8; MAC_LEN];

/// A place in the chain: the record `seq`, whose line has this hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link {
    /// The record's number, from 1.
    pub seq: u64,
    /// The hash of its line.
    pub hash: [u8; MAC_LEN],
}

/// A line taken apart, not yet verified.
#[derive(Debug)]
pub(super) struct Frame<'a> {
    /// Its number.
    pub(super) seq: u64,
    /// The hash of the line before.
    pub(super) prev_hash: LineHash,
    signature: Option<(&'a [u8], [u8; SIGNATURE_LEN])>,
    authenticated: &'a [u8],
    mac: [u8; MAC_LEN],
}

impl Link {
    /// What the first record follows.
    pub(super) const START: Self = Self { seq: 0, hash: [0; MAC_LEN] };
}

impl<'a> Frame<'a> {
    /// Takes apart a line with its newline; `None` if it is not of this form.
    pub(super) fn parse(line: &'a [u8]) -> Option<Self> {
        if !line.starts_with(b"{") {
            return None;
        }
        let rest = line.strip_suffix(b"\"}\n")?;
        let (rest, mac) = take_hex::<MAC_LEN>(rest)?;
        let authenticated = rest.strip_suffix(MAC_MEMBER)?;
        let mut rest = authenticated;
        let mut signature = None;
        if let Some((signed, bytes)) = rest
            .strip_suffix(b"\"")
            .and_then(take_hex::<SIGNATURE_LEN>)
            .and_then(|(before, bytes)| Some((before.strip_suffix(SIGNATURE_MEMBER)?, bytes)))
        {
            signature = Some((signed, bytes));
            rest = signed;
        }
        let (rest, prev_hash) = take_hex::<MAC_LEN>(rest.strip_suffix(b"\"")?)?;
        let rest = rest.strip_suffix(PREV_HASH_MEMBER)?;
        let digits = rest.iter().rev().take_while(|byte| byte.is_ascii_digit()).count();
        let (rest, digits) = rest.split_at(rest.len() - digits);
        if !rest.ends_with(SEQ_MEMBER) || digits.starts_with(b"0") {
            return None;
        }
        let seq = std::str::from_utf8(digits).ok()?.parse().ok().filter(|seq| *seq <= LAST_SEQ)?;
        Some(Self { seq, prev_hash, signature, authenticated, mac })
    }

    /// Whether its MAC is right.
    pub(super) fn is_authentic(&self, key: &MacKey) -> bool {
        key.verify(&[self.authenticated], &self.mac).is_ok()
    }

    /// Whether it is a signed checkpoint.
    pub(super) fn is_signed(&self) -> bool {
        self.signature.is_some()
    }

    /// Whether it is signed, by this key.
    pub(super) fn is_signed_by(&self, key: &VerifyingKey) -> bool {
        self.signature.is_some_and(|(signed, bytes)| key.verify(signed, &bytes).is_ok())
    }
}

/// Makes a line of what stands in `lines` from `start` on, an object of JSON without its closing
/// brace: the record after `previous`, signed if a `signer` is given. The hash of the line is
/// returned.
pub(super) fn complete(
    lines: &mut Vec<u8>,
    start: usize,
    previous: Link,
    signer: Option<&SigningKey>,
    mac_key: &MacKey,
) -> Link {
    let seq = previous.seq + 1;
    lines.extend_from_slice(SEQ_MEMBER);
    push_number(lines, seq);
    lines.extend_from_slice(PREV_HASH_MEMBER);
    push_hex(lines, &previous.hash);
    lines.push(b'"');
    if let Some(signer) = signer {
        let signature = signer.sign(&lines[start..]);
        lines.extend_from_slice(SIGNATURE_MEMBER);
        push_hex(lines, &signature);
        lines.push(b'"');
    }
    let mac = mac_key.sign(&[&lines[start..]]);
    lines.extend_from_slice(MAC_MEMBER);
    push_hex(lines, &mac);
    lines.extend_from_slice(b"\"}\n");
    Link { seq, hash: sha256(&lines[start..]) }
}

/// Appends bytes as lower-case hexadecimal.
pub(super) fn push_hex(out: &mut Vec<u8>, bytes: &[u8]) {
    let start = out.len();
    out.resize(start + 2 * bytes.len(), 0);
    HEXLOWER.encode_mut(bytes, &mut out[start..]);
}

/// Splits lower-case hexadecimal of `N` bytes from the end.
fn take_hex<const N: usize>(bytes: &[u8]) -> Option<(&[u8], [u8; N])> {
    let (rest, digits) = bytes.split_at_checked(bytes.len().checked_sub(2 * N)?)?;
    let mut decoded = [0; N];
    HEXLOWER.decode_mut(digits, &mut decoded).ok()?;
    Some((rest, decoded))
}

/// No log has as many records; what claims to be a later one is no record, so that numbers can
/// always be counted on from.
pub(super) const LAST_SEQ: u64 = 1 << 62;

const SEQ_MEMBER: &[u8] = b",\"seq\":";
const PREV_HASH_MEMBER: &[u8] = b",\"prevHash\":\"";
const SIGNATURE_MEMBER: &[u8] = b",\"signature\":\"";
const MAC_MEMBER: &[u8] = b",\"mac\":\"";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::Secret;

    #[test]
    fn a_line_is_taken_apart_again_and_any_flipped_bit_shows() {
        let (mac, seed) = (MacKey::new(&Secret::random()), Secret::random());
        let signer = SigningKey::from_seed(&seed);
        let before = Link { seq: 41, hash: [7; MAC_LEN] };
        for signed in [false, true] {
            let mut line = br#"{"path":"a\",\"seq\":9,\"mac\":\""#.to_vec();
            line.push(b'"');
            let link = complete(&mut line, 0, before, signed.then_some(&signer), &mac);
            assert!(serde_json::from_slice::<serde_json::Value>(&line).is_ok());
            let frame = Frame::parse(&line).unwrap();
            assert_eq!((frame.seq, frame.prev_hash), (42, before.hash));
            assert!(frame.is_authentic(&mac) && link == Link { seq: 42, hash: sha256(&line) });
            assert_eq!(frame.is_signed_by(&signer.verifying_key()), signed);
            for at in 0..line.len() {
                for bit in 0..8 {
                    let mut altered = line.clone();
                    altered[at] ^= 1 << bit;
                    let found = Frame::parse(&altered);
                    assert!(found.is_none_or(|frame| !frame.is_authentic(&mac)), "byte {at}");
                }
            }
        }
    }
}
