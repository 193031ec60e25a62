//! Envelopes: FORMAT.md, "Envelope" and "The wrap".

use super::primitives::{Key, open, seal};

#[derive(Clone, Debug, PartialEq)]
pub struct Envelope {
    pub mode: u8,
    pub algorithm: u8,
    pub version: u32,
    pub created: u64,
    pub provider: String,
    pub key_id: String,
    pub context: Vec<(String, String)>,
    pub wrapped: Vec<u8>,
}

pub const MANAGED: u8 = 1;
pub const SUPPLIED: u8 = 3;

impl Envelope {
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![self.mode, self.algorithm];
        out.extend(self.version.to_le_bytes());
        out.extend(self.created.to_le_bytes());
        put_bytes(&mut out, self.provider.as_bytes());
        put_bytes(&mut out, self.key_id.as_bytes());
        out.extend((self.context.len() as u64).to_le_bytes());
        for (name, value) in &self.context {
            put_bytes(&mut out, name.as_bytes());
            put_bytes(&mut out, value.as_bytes());
        }
        put_bytes(&mut out, &self.wrapped);
        out
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, String> {
        let mut input = Input(bytes);
        let envelope = Self {
            mode: input.take::<1>()?[0],
            algorithm: input.take::<1>()?[0],
            version: u32::from_le_bytes(input.take()?),
            created: u64::from_le_bytes(input.take()?),
            provider: input.text()?,
            key_id: input.text()?,
            context: (0..u64::from_le_bytes(input.take()?))
                .map(|_| Ok((input.text()?, input.text()?)))
                .collect::<Result<_, String>>()?,
            wrapped: input.bytes()?,
        };
        let sorted = envelope.context.is_sorted_by(|a, b| a.0 < b.0);
        let known = (1..=3).contains(&envelope.mode) && (1..=2).contains(&envelope.algorithm);
        if !input.0.is_empty() || !sorted || !known {
            return Err("envelope refused".into());
        }
        Ok(envelope)
    }

    /// The slot of page 0.
    pub fn slot(&self) -> [u8; 1344] {
        let bytes = self.encode();
        let mut slot = [0; 1344];
        slot[..2].copy_from_slice(&(bytes.len() as u16).to_le_bytes());
        slot[2..2 + bytes.len()].copy_from_slice(&bytes);
        slot
    }

    pub fn decode_slot(slot: &[u8]) -> Result<Option<Self>, String> {
        let len = usize::from(u16::from_le_bytes([slot[0], slot[1]]));
        if len > 1342 || slot[2 + len..1344].iter().any(|byte| *byte != 0) {
            return Err("envelope slot refused".into());
        }
        if len == 0 { Ok(None) } else { Self::decode(&slot[2..2 + len]).map(Some) }
    }

    pub fn aad(&self, volume: &[u8; 16], file: &[u8; 16]) -> Vec<u8> {
        let mut out = b"ssefs wrap\0\x01\x00".to_vec();
        out.extend(volume);
        out.extend(file);
        out.extend([self.mode, self.algorithm]);
        out.extend(self.version.to_le_bytes());
        out.extend(self.created.to_le_bytes());
        put_bytes(&mut out, self.provider.as_bytes());
        put_bytes(&mut out, self.key_id.as_bytes());
        for (name, value) in &self.context {
            put_bytes(&mut out, name.as_bytes());
            put_bytes(&mut out, value.as_bytes());
        }
        out
    }

    pub fn wrap(
        mut self,
        dek: &Key,
        material: &Key,
        nonce: [u8; 12],
        volume: &[u8; 16],
        file: &[u8; 16],
    ) -> Self {
        let sealed = seal(material, &nonce, &self.aad(volume, file), dek);
        self.wrapped = [&nonce[..], &sealed].concat();
        self
    }

    pub fn unwrap(
        &self,
        material: &Key,
        volume: &[u8; 16],
        file: &[u8; 16],
    ) -> Result<Key, String> {
        let (nonce, sealed) =
            self.wrapped.split_first_chunk().ok_or("a wrap starts with a nonce")?;
        let dek = open(material, nonce, &self.aad(volume, file), sealed);
        dek.and_then(|dek| dek.try_into().ok()).ok_or_else(|| "the wrap does not open".into())
    }
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend((bytes.len() as u64).to_le_bytes());
    out.extend(bytes);
}

struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let (taken, rest) = self.0.split_first_chunk().ok_or("envelope is cut off")?;
        self.0 = rest;
        Ok(*taken)
    }

    fn bytes(&mut self) -> Result<Vec<u8>, String> {
        let len = u64::from_le_bytes(self.take()?);
        let len = usize::try_from(len).ok().filter(|len| *len <= self.0.len());
        let (taken, rest) = self.0.split_at(len.ok_or("a length beyond the envelope")?);
        self.0 = rest;
        Ok(taken.to_vec())
    }

    fn text(&mut self) -> Result<String, String> {
        String::from_utf8(self.bytes()?).map_err(|error| error.to_string())
    }
}
