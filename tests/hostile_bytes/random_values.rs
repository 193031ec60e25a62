//! Random values of everything in `format`, encoded, changed and decoded: what is accepted is
//! what encoding gives.

use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::{ProptestConfig, any};
use proptest::{option, prop_assert, prop_assert_eq, proptest};
use ssefs::crypto::{MacKey, Secret};
use ssefs::format::{
    Descriptor, Entry, Envelope, EpochRecord, FileId, FormatError, Header, KeyId, KeySlot, Mode,
    Prologue, StateRecord, Suite, VolumeId, WrapAlgorithm,
};

use super::arbitrary::{
    descriptor, entry, envelope, epochs, mutate, mutate_in_place, mutations, state,
};
use super::bounds::bounded;
use super::targets;
use super::targets::independent::primitives::{crc32, hmac, sha256};

const VOLUME: VolumeId = VolumeId([7; 16]);
const MAC_KEY: [u8; 32] = [3; 32];
const MIB: u64 = 1 << 20;

/// Failures become tests with names, not files beside the source.
pub fn cases(count: u32) -> ProptestConfig {
    ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(count) }
}

fn mac_key() -> MacKey {
    MacKey::new(&Secret::copy_from(&MAC_KEY))
}

fn header_page(state: &StateRecord, spare: Option<Envelope>) -> (Header, [u8; 4096]) {
    let prologue =
        Prologue { suite: Suite::Aes256Gcm, file_id: FileId([1; 16]), volume_id: VOLUME };
    let envelope = Envelope {
        mode: Mode::Managed,
        provider: "keystore".into(),
        key_id: KeyId("k".into()),
        key_version: 1,
        wrap_algorithm: WrapAlgorithm::Aes256Gcm,
        created: 0,
        context: BTreeMap::new(),
        wrapped_dek: vec![5; 60],
    };
    let mut page = [0; 4096];
    let mut header = Header::new(prologue, envelope.clone()).unwrap();
    header.envelopes[1] = spare.or(Some(envelope));
    header.encode_into(&mut page).unwrap();
    let header = Header::parse(&page).unwrap();
    header.encode_both_states(state, &mac_key(), &mut page);
    (header, page)
}

fn check_envelope(bytes: &[u8]) -> bool {
    // serde takes up to 1 MiB for a list on the word of its length.
    bounded(5 * MIB / 4, || targets::check_envelope(bytes))
}

fn check_header(page: &[u8; 4096]) {
    bounded(5 * MIB / 2, || targets::check_header(page));
}

fn check_entry(bytes: &[u8; 64]) {
    bounded(0, || targets::check_entry(bytes));
}

proptest! {
    #![proptest_config(cases(256))]

    #[test]
    fn entries(entry in entry(), random in vec(any::<u8>(), 64), changes in mutations()) {
        prop_assert_eq!(Entry::decode(&entry.encode()), Ok(entry));
        let mut bytes = entry.encode();
        mutate_in_place(&mut bytes, &changes);
        check_entry(&bytes);
        let mut random: [u8; 64] = random.try_into().unwrap();
        check_entry(&random);
        // With a mark that fits, the length decides.
        for letter in [b'A', b'B'] {
            for bytes in [&mut random, &mut bytes] {
                let mark = crc32(&[&bytes[..60], &[letter]].concat());
                bytes[60..].copy_from_slice(&mark.to_le_bytes());
                check_entry(bytes);
            }
        }
    }

    #[test]
    fn envelopes(
        envelope in envelope(),
        changes in mutations(),
        random in vec(any::<u8>(), 0..1400),
    ) {
        let mut bytes = envelope.encode().unwrap();
        prop_assert!(check_envelope(&bytes));
        prop_assert_eq!(Envelope::decode(&bytes), Ok(envelope));
        mutate(&mut bytes, &changes);
        check_envelope(&bytes);
        check_envelope(&random);
    }

    #[test]
    fn envelope_slots(envelope in envelope(), changes in mutations()) {
        let mut slot = [0; 1344];
        envelope.encode_slot(&mut slot).unwrap();
        prop_assert_eq!(Envelope::decode_slot(&slot), Ok(Some(envelope)));
        mutate_in_place(&mut slot, &changes);
        if let Ok(Some(accepted)) = bounded(5 * MIB / 4, || Envelope::decode_slot(&slot)) {
            let mut again = [0xff; 1344];
            accepted.encode_slot(&mut again).unwrap();
            prop_assert!(again == slot);
        }
    }

    #[test]
    fn headers(
        state in state(),
        spare in option::of(envelope()),
        changes in mutations(),
        random in vec(any::<u8>(), 4096),
    ) {
        let (header, page) = header_page(&state, spare);
        prop_assert_eq!(header.verify(&page, &mac_key(), false), Ok(state));
        prop_assert_eq!(header.claimed_state(&page), Some(state));
        check_header(&page);
        let mut changed = page;
        mutate_in_place(&mut changed, &changes);
        check_header(&changed);
        if changed[..3072] != page[..3072] {
            let read = Header::parse(&changed);
            let read = read.and_then(|header| header.verify(&changed, &mac_key(), false));
            prop_assert!(read.is_err());
        }
        let mut random: [u8; 4096] = random.try_into().unwrap();
        check_header(&random);
        random[..128].copy_from_slice(&page[..128]);
        check_header(&random);
    }

    #[test]
    fn state_records_under_a_right_mac(
        state in state(),
        body in vec(any::<u8>(), 96),
        changes in mutations(),
    ) {
        let (header, page) = header_page(&state, None);
        let place = (state.sequence % 2) as usize;
        let own: [u8; 96] = page[128 + 128 * place..][..96].try_into().unwrap();
        let mut changed = own;
        mutate_in_place(&mut changed, &changes);
        for body in [own, changed, body.try_into().unwrap()] {
            let mut page = page;
            let mac = hmac(&MAC_KEY, &[&page[..128], &body, &sha256(&page[384..3072])].concat());
            page[128 + 128 * place..][..96].copy_from_slice(&body);
            page[128 + 128 * place + 96..][..32].copy_from_slice(&mac);
            check_header(&page);
            let zeros = body[45..48].iter().chain(&body[80..]).all(|byte| *byte == 0);
            if body[44] > 1 || body[41..44] != [0; 3] || body[40] > 7 || !zeros {
                prop_assert!(header.verify(&page, &mac_key(), false).is_err());
            }
        }
    }

    #[test]
    fn descriptors(
        descriptor in descriptor(),
        changes in mutations(),
        random in vec(any::<u8>(), 0..2000),
    ) {
        let mut text = descriptor.encode();
        prop_assert_eq!(Descriptor::decode(&text).unwrap(), descriptor);
        mutate(&mut text, &changes);
        for text in [text, random] {
            if let Ok(accepted) = bounded(3 * MIB, || Descriptor::decode(&text)) {
                prop_assert_eq!(Descriptor::decode(&accepted.encode()).unwrap(), accepted);
            }
        }
    }

    #[test]
    fn epoch_records(
        record in epochs(),
        changes in mutations(),
        random in vec(any::<u8>(), 0..500),
    ) {
        let mut text = record.encode(VOLUME, &mac_key());
        prop_assert_eq!(&EpochRecord::decode(&text, VOLUME, &mac_key()).unwrap(), &record);
        mutate(&mut text, &changes);
        for text in [text, random] {
            // Only other ways to write the same numbers pass the MAC.
            if let Ok(accepted) = bounded(MIB, || EpochRecord::decode(&text, VOLUME, &mac_key())) {
                prop_assert_eq!(&accepted, &record);
            }
        }
    }
}

/// An epoch record whose MAC is right and whose content is not.
#[test]
fn epochs_out_of_order_are_refused_under_a_right_mac() {
    for (last, unclean) in [(9, vec![3, 3]), (9, vec![4, 3]), (9, vec![10])] {
        let text = EpochRecord { last, unclean }.encode(VOLUME, &mac_key());
        let refused = EpochRecord::decode(&text, VOLUME, &mac_key());
        assert_eq!(refused, Err(FormatError::Malformed { what: "epoch record" }));
    }
}

/// Lengths in an envelope that promise more than there is.
#[test]
fn huge_lengths_take_no_memory() {
    let base = Envelope {
        mode: Mode::Kms,
        provider: "local".into(),
        key_id: KeyId("k".into()),
        key_version: 1,
        wrap_algorithm: WrapAlgorithm::Provider,
        created: 0,
        context: [("a".into(), "b".into())].into(),
        wrapped_dek: vec![9; 60],
    };
    let bytes = base.encode().unwrap();
    for at in 0..bytes.len() - 8 {
        for number in [u64::MAX, u64::MAX / 2, 1 << 40, 1 << 32, 1 << 20, 1343, 1342, 1341] {
            let mut bytes = bytes.clone();
            bytes[at..at + 8].copy_from_slice(&number.to_le_bytes());
            check_envelope(&bytes);
        }
    }
}

/// As long as a file of `.ssefs` may be.
#[test]
fn long_and_deep_json_is_refused_within_bounds() {
    let fill = |head: &str, unit: &str, tail: &str| {
        let count = (MIB as usize - head.len() - tail.len()) / unit.len();
        format!("{head}{}{tail}", unit.repeat(count))
    };
    let slot = "{\"envelope\":\"00\"},";
    let texts = [
        fill("", "[", ""),
        fill("", "{\"a\":", ""),
        fill("{\"format_version\":1,\"x\":", "[", ""),
        fill("{\"format_version\":1,\"x\":\"", "\\u0041", "\"}"),
        fill("{\"format_version\":1,\"key_slots\":[", slot, "{}]}"),
        fill("{\"format_version\":1,\"key_slots\":[", "[", ""),
        fill("{\"format_version\":1,\"key_slots\":[{\"envelope\":\"", "00", "\"}]}"),
        fill("{\"format_version\":", "1", "}"),
        fill("{\"last\":1,\"mac\":\"\",\"unclean\":[", "0,", "0]}"),
        fill("{\"last\":1,\"unclean\":[],\"mac\":\"", "00", "\"}"),
        fill("{\"last\":1,\"unclean\":", "[", ""),
    ];
    for text in texts {
        let text = text.as_bytes();
        assert!(bounded(4 * MIB, || Descriptor::decode(text)).is_err());
        let refused = bounded(8 * MIB, || EpochRecord::decode(text, VOLUME, &mac_key()));
        assert!(refused.is_err());
    }
}

/// One slot more than a descriptor may have, each of them good.
#[test]
fn too_many_slots_are_refused() {
    let envelope = Envelope {
        mode: Mode::Managed,
        provider: String::new(),
        key_id: KeyId(String::new()),
        key_version: 0,
        wrap_algorithm: WrapAlgorithm::Aes256Gcm,
        created: 0,
        context: BTreeMap::new(),
        wrapped_dek: Vec::new(),
    };
    let with = |count| {
        let slot = KeySlot { envelope: envelope.clone(), supplied: None };
        let key_slots = vec![slot; count];
        Descriptor { format_version: 1, volume_id: VOLUME, created: 0, key_slots }.encode()
    };
    assert!(Descriptor::decode(&with(64)).is_ok());
    for count in [0, 65, 2000] {
        assert!(bounded(4 * MIB, || Descriptor::decode(&with(count))).is_err(), "{count}");
    }
}
