//! A backing file: FORMAT.md, "Layout", "Page 0", "Entries" and "Blocks".

use super::envelope::Envelope;
use super::primitives::{Key, aes, crc32, hkdf, hmac, open, seal, sha256};

/// What a reader must know of the volume.
pub struct Reading<'a> {
    pub volume: [u8; 16],
    pub last_epoch: u64,
    pub unclean: &'a [u64],
    /// The wrapping key for an envelope, if it is there.
    pub material: &'a dyn Fn(&Envelope) -> Option<Key>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct State {
    pub sequence: u64,
    pub size: u64,
    pub durable: u64,
    pub epoch: u64,
    pub seals: u64,
    pub flags: u32,
    pub slot: u8,
    /// As it is in the record; the writer fills it in where the flag is set.
    pub digest: [u8; 32],
}

pub const MAY_HAVE_HOLES: u32 = 1;
pub const RESIZING: u32 = 2;
pub const DIGEST_KEPT: u32 = 4;

/// The plaintext of a backing file.
pub fn read(bytes: &[u8], reading: &Reading<'_>) -> Result<Vec<u8>, String> {
    if bytes.is_empty() {
        return Ok(Vec::new());
    }
    let (page, _) = bytes.split_first_chunk::<4096>().ok_or("page 0 is cut off")?;
    let file = check_prologue(page, &reading.volume)?;
    let slots =
        [Envelope::decode_slot(&page[384..1728])?, Envelope::decode_slot(&page[1728..3072])?];
    let mut deks = slots.iter().flatten().filter_map(|envelope| {
        envelope.unwrap(&(reading.material)(envelope)?, &reading.volume, &file).ok()
    });
    let dek = deks.next().ok_or("no envelope opens")?;
    let state = state_in_force(page, &hkdf(&dek, b"ssefs/v1/state"), reading.unclean)?;
    if state.epoch > reading.last_epoch {
        return Err("an epoch to come".into());
    }
    let clean = !reading.unclean.contains(&state.epoch);
    let size = plain_size(bytes.len() as u64);
    if clean && (cipher_size(state.size) != bytes.len() as u64 || state.flags & RESIZING != 0) {
        return Err(format!("size {size}, the state says {}", state.size));
    }
    let data_key = hkdf(&dek, b"ssefs/v1/data");
    let blocks = size.div_ceil(4096);
    let mut plain = Vec::new();
    let digest_key = hkdf(&dek, b"ssefs/v1/digest");
    let mut sum = 0_u128;
    for block in 0..blocks {
        let len = (size - block * 4096).min(4096) as usize;
        let at = block_at(block) as usize;
        let entry = bytes.get(entry_at(block) as usize..).and_then(|rest| rest.first_chunk());
        let entry: &[u8; 64] = entry.ok_or("an entry is cut off")?;
        let cipher = bytes.get(at..at + len).ok_or("a block is cut off")?;
        sum = sum.wrapping_add(digest_term(&digest_key, block, entry));
        plain.extend(match entry {
            [0, ..] if *entry == [0; 64] && state.flags & MAY_HAVE_HOLES != 0 => vec![0; len],
            _ => open_block(&data_key, block, entry, cipher, clean)?,
        });
    }
    if clean && (blocks..16).any(|block| page[entry_at(block) as usize..][..64] != [0; 64]) {
        return Err("an entry past the end".into());
    }
    if clean && state.flags & DIGEST_KEPT != 0 && state.digest != masked(&digest_key, sum, &state) {
        return Err("the content digest does not match".into());
    }
    Ok(plain)
}

/// How a file is to be written.
pub struct Writing<'a> {
    pub volume: [u8; 16],
    pub file: [u8; 16],
    pub dek: Key,
    pub envelopes: [Option<&'a Envelope>; 2],
    pub state: State,
    /// Blocks whose entry says that B is newer, with an A that opens nothing.
    pub newer_in_b: &'a dyn Fn(u64) -> bool,
    pub holes: &'a dyn Fn(u64) -> bool,
}

/// The backing file of `plain`, whose length must be that of the state.
pub fn write(plain: &[u8], writing: &Writing<'_>) -> Vec<u8> {
    assert_eq!(plain.len() as u64, writing.state.size);
    let mut bytes = vec![0; cipher_size(writing.state.size) as usize];
    bytes[..8].copy_from_slice(b"\x89ssefs\r\n");
    bytes[8..12].copy_from_slice(&[1, 0, 1, 0]);
    bytes[16..32].copy_from_slice(&writing.file);
    bytes[32..48].copy_from_slice(&writing.volume);
    for (slot, envelope) in writing.envelopes.iter().enumerate() {
        if let Some(envelope) = envelope {
            bytes[384 + 1344 * slot..][..1344].copy_from_slice(&envelope.slot());
        }
    }
    let data_key = hkdf(&writing.dek, b"ssefs/v1/data");
    let digest_key = hkdf(&writing.dek, b"ssefs/v1/digest");
    let mut sum = 0_u128;
    for (block, chunk) in (0..).zip(plain.chunks(4096)) {
        if (writing.holes)(block) {
            assert!(chunk.iter().all(|byte| *byte == 0), "a hole reads as zeros");
            continue;
        }
        let nonce: [u8; 12] = [&b"nonc"[..], &block.to_be_bytes()].concat().try_into().unwrap();
        let sealed = seal(&data_key, &nonce, &block.to_le_bytes(), chunk);
        let (cipher, tag) = sealed.split_at(chunk.len());
        bytes[block_at(block) as usize..][..chunk.len()].copy_from_slice(cipher);
        let current = [&nonce[..], tag, &(chunk.len() as u16).to_le_bytes()].concat();
        let stale = [&[0xaa; 28][..], &4096_u16.to_le_bytes()].concat();
        let (generations, letter) = if (writing.newer_in_b)(block) {
            ([stale, current].concat(), b"B")
        } else {
            ([current, vec![0; 30]].concat(), b"A")
        };
        let mark = crc32(&[&generations[..], letter].concat());
        let entry = [&generations[..], &mark.to_le_bytes()].concat();
        bytes[entry_at(block) as usize..][..64].copy_from_slice(&entry);
        sum = sum.wrapping_add(digest_term(&digest_key, block, &entry.try_into().unwrap()));
    }
    let state_key = hkdf(&writing.dek, b"ssefs/v1/state");
    for sequence in [writing.state.sequence - 1, writing.state.sequence] {
        let mut state = State { sequence, ..writing.state.clone() };
        if state.flags & DIGEST_KEPT != 0 {
            state.digest = masked(&digest_key, sum, &state);
        }
        let record = state.record(&state_key, bytes.first_chunk().unwrap());
        bytes[128 + 128 * (sequence % 2) as usize..][..128].copy_from_slice(&record);
    }
    bytes
}

/// What a block adds to the content digest.
fn digest_term(key: &Key, block: u64, entry: &[u8; 64]) -> u128 {
    let mark = u32::from_le_bytes(entry[60..].try_into().unwrap());
    let in_b = crc32(&[&entry[..60], b"B"].concat()) == mark;
    let tag = &entry[if in_b { 42 } else { 12 }..][..16];
    if *entry == [0; 64] {
        return 0;
    }
    let input = u128::from_le_bytes(tag.try_into().unwrap()) ^ u128::from(block);
    u128::from_le_bytes(aes(key, &input.to_le_bytes()))
}

/// The field of a state record for a digest.
pub fn masked(key: &Key, sum: u128, state: &State) -> [u8; 32] {
    let start = u128::from_le_bytes(aes(key, b"ssefs state mask"));
    let place = u128::from(state.epoch) << 64 | u128::from(state.sequence);
    let mask = u128::from_le_bytes(aes(key, &(start ^ place).to_le_bytes()));
    [(sum ^ mask).to_le_bytes(), [0; 16]].concat().try_into().unwrap()
}

/// Where block `block` lies.
pub fn block_at(block: u64) -> u64 {
    match block.checked_sub(16) {
        None => 4096 * (1 + block),
        Some(past) => 4096 * (18 + 65 * (past / 64) + past % 64),
    }
}

/// Where its entry lies.
pub fn entry_at(block: u64) -> u64 {
    match block.checked_sub(16) {
        None => 3072 + 64 * block,
        Some(past) => 4096 * (17 + 65 * (past / 64)) + 64 * (past % 64),
    }
}

/// The backing size of a file with a header.
pub fn cipher_size(plain: u64) -> u64 {
    match plain.checked_sub(1) {
        None => 4096,
        Some(last) => block_at(last / 4096) + last % 4096 + 1,
    }
}

/// The plaintext size that a backing size tells, counted page by page.
pub fn plain_size(backing: u64) -> u64 {
    (1..backing.div_ceil(4096))
        .filter(|page| *page < 17 || (page - 17) % 65 != 0)
        .map(|page| (backing - 4096 * page).min(4096))
        .sum()
}

impl State {
    fn record(&self, key: &Key, page: &[u8; 4096]) -> [u8; 128] {
        let mut body = [0; 96];
        let numbers = [self.sequence, self.size, self.durable, self.epoch, self.seals];
        for (place, number) in body.chunks_mut(8).zip(numbers) {
            place.copy_from_slice(&number.to_le_bytes());
        }
        body[40..44].copy_from_slice(&self.flags.to_le_bytes());
        body[44] = self.slot;
        body[48..80].copy_from_slice(&self.digest);
        let mac = state_mac(key, page, &body);
        [&body[..], &mac].concat().try_into().unwrap()
    }

    fn read(page: &[u8; 4096], place: usize, key: &Key) -> Result<Self, String> {
        let record = &page[128 + 128 * place..][..128];
        let (body, mac) = record.split_at(96);
        let number = |at: usize| u64::from_le_bytes(body[at..at + 8].try_into().unwrap());
        if state_mac(key, page, body) != mac {
            return Err("the state MAC does not match".into());
        }
        let state = Self {
            sequence: number(0),
            size: number(8),
            durable: number(16),
            epoch: number(24),
            seals: number(32),
            flags: u32::from_le_bytes(body[40..44].try_into().unwrap()),
            slot: body[44],
            digest: body[48..80].try_into().unwrap(),
        };
        let reserved = body[45..48].iter().chain(&body[80..]).all(|byte| *byte == 0);
        if state.sequence % 2 != place as u64 || state.flags > 7 || state.slot > 1 || !reserved {
            return Err("state record refused".into());
        }
        Ok(state)
    }
}

fn state_mac(key: &Key, page: &[u8; 4096], body: &[u8]) -> Key {
    hmac(key, &[&page[..128], body, &sha256(&page[384..3072])].concat())
}

fn check_prologue(page: &[u8; 4096], volume: &[u8; 16]) -> Result<[u8; 16], String> {
    let reserved = page[12..16].iter().chain(&page[48..128]).all(|byte| *byte == 0);
    if page[..12] != *b"\x89ssefs\r\n\x01\x00\x01\x00" || !reserved {
        return Err("prologue refused".into());
    }
    if page[32..48] != *volume {
        return Err("of another volume".into());
    }
    Ok(page[16..32].try_into().unwrap())
}

fn state_in_force(page: &[u8; 4096], key: &Key, unclean: &[u64]) -> Result<State, String> {
    let state = match [0, 1].map(|place| State::read(page, place, key)) {
        [Ok(even), Ok(odd)] if even.sequence.abs_diff(odd.sequence) == 1 => {
            if even.sequence > odd.sequence { even } else { odd }
        }
        [Ok(one), Err(_)] | [Err(_), Ok(one)] if unclean.contains(&one.epoch) => one,
        _ => return Err("no state record is in force".into()),
    };
    if page[384 + 1344 * usize::from(state.slot)..][..2] == [0, 0] {
        return Err("the slot in force is empty".into());
    }
    Ok(state)
}

fn open_block(
    key: &Key,
    block: u64,
    entry: &[u8; 64],
    cipher: &[u8],
    clean: bool,
) -> Result<Vec<u8>, String> {
    let mark = u32::from_le_bytes(entry[60..].try_into().unwrap());
    let marked = |letter: u8| crc32(&[&entry[..60], &[letter]].concat()) == mark;
    let (a, b) = (&entry[..30], &entry[30..60]);
    let generations = match (marked(b'A'), marked(b'B')) {
        (true, _) => [a, b],
        (_, true) => [b, a],
        _ => return Err(format!("block {block}: the mark fits no generation")),
    };
    let allowed = if clean { 1 } else { 2 };
    generations[..allowed]
        .iter()
        .filter(|generation| generation[28..] == (cipher.len() as u16).to_le_bytes())
        .find_map(|generation| {
            let sealed = [cipher, &generation[12..28]].concat();
            open(key, generation[..12].try_into().unwrap(), &block.to_le_bytes(), &sealed)
        })
        .ok_or_else(|| format!("block {block} does not open"))
}
