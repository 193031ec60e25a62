//! What lies in a backing file's header and in a volume's metadata directory.

use std::collections::BTreeMap;

use ssefs::crypto::{MacKey, Secret};
use ssefs::format::{
    Argon2idParameters, Descriptor, Entry, Envelope, EpochRecord, FileId, FormatError, Generation,
    Header, KeyId, KeySlot, Marked, Mode, Prologue, Sealed, StateFlags, StateRecord, Suite,
    SuppliedVerifier, VolumeId, WrapAlgorithm,
};
use ssefs::keys::{Binding, Passphrase, SuppliedSource};
use ssefs::volume::RewrapRequest;

use super::bytes::Choices;
use super::independent::primitives::{crc32, hmac, sha256};

/// A prologue that is read is the one that was written.
pub fn prologue(bytes: &[u8]) {
    let bytes = Choices::new(bytes).array();
    if let Ok(read) = Prologue::decode(&bytes) {
        assert_eq!(read.encode(), bytes);
    }
}

pub fn prologue_seeds() -> Vec<Vec<u8>> {
    vec![PROLOGUE.encode().to_vec()]
}

/// An entry as it is, and with marks that fit.
pub fn entry(bytes: &[u8]) {
    let mut bytes = Choices::new(bytes).array();
    check_entry(&bytes);
    for letter in [b'A', b'B'] {
        let mut marked = [0; 61];
        marked[..60].copy_from_slice(&bytes[..60]);
        marked[60] = letter;
        bytes[60..].copy_from_slice(&crc32(&marked).to_le_bytes());
        check_entry(&bytes);
    }
}

/// What is accepted is what encoding gives.
pub fn check_entry(bytes: &[u8; 64]) {
    let Ok(entry) = Entry::decode(bytes) else { return };
    assert_eq!(entry.encode(), *bytes);
    assert_eq!(entry.reverted().and_then(|it| it.reverted()).is_some(), {
        matches!(entry, Entry::Stored(Marked { previous: Some(_), .. }))
    });
}

pub fn entry_seeds() -> Vec<Vec<u8>> {
    let sealed = |byte, len| Sealed { nonce: [byte; 12], tag: [byte; 16], len };
    let first = Entry::Hole.succeeded_by(sealed(1, 4096));
    let second = first.succeeded_by(sealed(2, 1));
    [Entry::Hole, first, second].map(|entry| entry.encode().to_vec()).to_vec()
}

/// An envelope by itself, and in its slot.
pub fn envelope(bytes: &[u8]) {
    check_envelope(bytes);
    let slot = Choices::new(bytes).array();
    if let Ok(Some(accepted)) = Envelope::decode_slot(&slot) {
        let mut again = [0xff; 1344];
        accepted.encode_slot(&mut again).unwrap();
        assert!(again == slot);
    }
}

/// Whether it is accepted; then it is what encoding gives.
pub fn check_envelope(bytes: &[u8]) -> bool {
    match Envelope::decode(bytes) {
        Ok(envelope) => {
            assert!(envelope.encode().unwrap() == bytes);
            true
        }
        Err(error) => {
            assert_eq!(error, FormatError::Malformed { what: "envelope" });
            false
        }
    }
}

pub fn envelope_seeds() -> Vec<Vec<u8>> {
    let mut slot = [0; 1344];
    some_envelope().encode_slot(&mut slot).unwrap();
    vec![some_envelope().encode().unwrap(), slot[..200].to_vec()]
}

/// A state record with a right MAC, in the place that the first byte names.
pub fn state_record(bytes: &[u8]) {
    let mut choices = Choices::new(bytes);
    let place = usize::from(choices.u8() % 2);
    let body: [u8; 96] = choices.array();
    let mut page = good_page();
    sign_record(&mut page, place, &body);
    check_header(&page);
}

pub fn state_record_seeds() -> Vec<Vec<u8>> {
    let page = good_page();
    [0, 1].map(|place| [&[place as u8], &page[128 + 128 * place..][..96]].concat()).to_vec()
}

/// A good page 0 in which the bytes change stretches, signed anew if the first byte is odd.
pub fn header(bytes: &[u8]) {
    let mut choices = Choices::new(bytes);
    let is_signed = choices.u8() % 2 == 1;
    let mut page = good_page();
    while !choices.is_empty() {
        let at = usize::from(choices.u16()) % page.len();
        let patch = choices.bytes();
        let len = patch.len().min(page.len() - at);
        page[at..at + len].copy_from_slice(&patch[..len]);
    }
    if is_signed {
        for place in [0, 1] {
            let body = page[128 + 128 * place..][..96].try_into().unwrap();
            sign_record(&mut page, place, &body);
        }
    }
    check_header(&page);
}

/// What is accepted is what encoding gives.
pub fn check_header(page: &[u8; 4096]) {
    let Ok(header) = Header::parse(page) else { return };
    let mut again = [0; 4096];
    header.encode_into(&mut again).unwrap();
    assert!(again[..128] == page[..128] && again[384..3072] == page[384..3072]);
    header.claimed_state(page);
    assert!(header.slots_by_claim(page).count() <= 2);
    for torn_allowed in [false, true] {
        let Ok(state) = header.verify(page, &mac_key(), torn_allowed) else { continue };
        let mut again = *page;
        header.encode_state(&state, &mac_key(), &mut again);
        assert!(again == *page);
    }
}

pub fn header_seeds() -> Vec<Vec<u8>> {
    let size = [1, 136, 0, 8, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f];
    vec![vec![0], vec![1], size.to_vec(), vec![1, 168, 0, 4, 3, 0, 0, 0], vec![0, 128, 1, 2, 9, 9]]
}

/// A descriptor; the keys that it would be opened with are made if that costs little.
pub fn descriptor(bytes: &[u8]) {
    let Ok(descriptor) = Descriptor::decode(bytes) else { return };
    assert_eq!(Descriptor::decode(&descriptor.encode()).unwrap(), descriptor);
    let _ = SuppliedSource::Key(Secret::copy_from(&[1; 32])).known_key(&descriptor);
    let slots = || descriptor.key_slots.iter().filter_map(|slot| slot.supplied.as_ref());
    let parameters = || slots().filter_map(|supplied| supplied.argon2id.as_ref());
    if parameters().map(cost).sum::<u64>() <= CHEAP {
        let passphrase = Passphrase::new(b"guess".to_vec().into()).unwrap();
        let _ = SuppliedSource::Passphrase(passphrase).known_key(&descriptor);
    }
}

/// What Argon2id has to do, in KiB of memory times passes; 0 where it is to be refused at once.
pub fn cost(parameters: &Argon2idParameters) -> u64 {
    let Argon2idParameters { memory_kib, passes, lanes, .. } = *parameters;
    let refused = memory_kib > 1 << 20 || passes > 16 || lanes > 16;
    if refused { 0 } else { u64::from(memory_kib) * u64::from(passes) }
}

/// The most that a target spends on Argon2id; the bounds have tests of their own.
pub const CHEAP: u64 = 1024;

pub fn descriptor_seeds() -> Vec<Vec<u8>> {
    let salt = "5a".repeat(16);
    let argon2id = Argon2idParameters { memory_kib: 64, passes: 1, lanes: 2, salt };
    let with =
        |argon2id| SuppliedVerifier { salt: "00".repeat(32), hmac: "11".repeat(32), argon2id };
    let slot = |supplied| KeySlot { envelope: some_envelope(), supplied };
    let key_slots = vec![slot(None), slot(Some(with(None))), slot(Some(with(Some(argon2id))))];
    let descriptor = Descriptor { format_version: 1, volume_id: VOLUME, created: 1, key_slots };
    vec![descriptor.encode()]
}

/// An epoch record as it is, and one with a right MAC of numbers that the bytes name.
pub fn epoch_record(bytes: &[u8]) {
    let _ = EpochRecord::decode(bytes, VOLUME, &mac_key());
    let mut choices = Choices::new(bytes);
    let last = choices.u64();
    let mut unclean = Vec::new();
    while !choices.is_empty() {
        unclean.push(choices.u64());
    }
    let in_order =
        unclean.is_sorted_by(|a, b| a < b) && unclean.last().is_none_or(|it| *it <= last);
    let record = EpochRecord { last, unclean };
    let read = EpochRecord::decode(&record.encode(VOLUME, &mac_key()), VOLUME, &mac_key());
    assert_eq!(read.ok(), in_order.then_some(record));
}

pub fn epoch_record_seeds() -> Vec<Vec<u8>> {
    let text = EpochRecord { last: 9, unclean: vec![3, 9] }.encode(VOLUME, &mac_key());
    let numbers = [9_u64, 3, 9].map(u64::to_le_bytes).concat();
    vec![text, numbers]
}

/// A request to a mount to take another envelope.
pub fn rewrap_request(bytes: &[u8]) {
    let _ = RewrapRequest::decode(bytes);
}

pub fn rewrap_request_seeds() -> Vec<Vec<u8>> {
    let binding = Binding { volume: VOLUME, file: FileId([1; 16]) };
    let (dek, envelope) = (Secret::copy_from(&[9; 32]), some_envelope());
    vec![RewrapRequest::encode(&dek, binding, &envelope, &envelope, true).unwrap()]
}

pub fn some_envelope() -> Envelope {
    Envelope {
        mode: Mode::Kms,
        provider: "local".into(),
        key_id: KeyId("00112233-4455-6677-8899-aabbccddeeff".into()),
        key_version: 1,
        wrap_algorithm: WrapAlgorithm::Aes256Gcm,
        created: 1_700_000_000,
        context: BTreeMap::from([("a".into(), "b".into())]),
        wrapped_dek: vec![5; 60],
    }
}

fn good_page() -> [u8; 4096] {
    let mut page = [0; 4096];
    let mut header = Header::new(PROLOGUE, some_envelope()).unwrap();
    header.envelopes[1] = Some(some_envelope());
    header.encode_into(&mut page).unwrap();
    let header = Header::parse(&page).unwrap();
    let state = StateRecord {
        sequence: 4,
        size: 5000,
        durable_size: 4096,
        epoch: 3,
        seal_count: 64,
        flags: StateFlags { may_have_holes: true, ..StateFlags::default() },
        envelope_slot: 0,
        digest: [0; 32],
    };
    header.encode_both_states(&state, &mac_key(), &mut page);
    let newer = Generation::A;
    let current = Sealed { nonce: [1; 12], tag: [2; 16], len: 4096 };
    let entry = Entry::Stored(Marked { newer, current, previous: None });
    page[3072..3136].copy_from_slice(&entry.encode());
    page
}

/// Puts a state record in its place, with the MAC that FORMAT.md gives it.
fn sign_record(page: &mut [u8; 4096], place: usize, body: &[u8; 96]) {
    let mac = hmac(&MAC_KEY, &[&page[..128], body, &sha256(&page[384..3072])].concat());
    page[128 + 128 * place..][..96].copy_from_slice(body);
    page[128 + 128 * place + 96..][..32].copy_from_slice(&mac);
}

fn mac_key() -> MacKey {
    MacKey::new(&Secret::copy_from(&MAC_KEY))
}

const VOLUME: VolumeId = VolumeId([7; 16]);
const MAC_KEY: [u8; 32] = [3; 32];
const PROLOGUE: Prologue =
    Prologue { suite: Suite::Aes256Gcm, file_id: FileId([1; 16]), volume_id: VOLUME };
