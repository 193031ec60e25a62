//! What the independent writer makes, today's code opens; and what FORMAT.md says must be
//! refused, is, even where every MAC and tag is right.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use ssefs::crypto::Secret;
use ssefs::keys::{Keystore, SuppliedSource};
use tempfile::TempDir;

use super::fixture::{PASSPHRASE, make_private_dir, passphrase, pattern, put_private};
use super::independent::envelope::{Envelope, MANAGED, SUPPLIED};
use super::independent::file::{
    DIGEST_KEPT, MAY_HAVE_HOLES, RESIZING, Reading, State, Writing, cipher_size, entry_at,
    plain_size, read, write,
};
use super::independent::keys::{
    protected_root, seal_record, supplied_key_id, supplied_verifier, supplied_wrap_key,
};
use super::independent::primitives::Key;
use super::independent::volume::{Descriptor, Slot, format_uuid, write_epochs};
use super::mount::{Keys, Mounted};

const VOLUME: [u8; 16] = *b"\x01\x02\x03\x04\x05\x06\x47\x08\x89\x0a\x0b\x0c\x0d\x0e\x0f\x10";
const KEY: Key = [0x5e; 32];
const VOLUME_KEY: Key = [0x60; 32];
const DEK: Key = [0xde; 32];
const FILE: [u8; 16] = [0xf1; 16];
const LAST_EPOCH: u64 = 7;
const UNCLEAN_EPOCH: u64 = 3;

#[test]
fn todays_code_opens_a_volume_made_by_the_page_alone() {
    let scratch = volume();
    let plain = content();
    put(&scratch, "file", &writing_of(plain.len(), 6), &plain);
    let empty = Writing { state: State { size: 0, ..state(0, 6) }, ..writing_of(0, 6) };
    put(&scratch, "header-only", &empty, &[]);

    let mounted = open(&scratch);
    assert!(mounted.read("file", false).unwrap() == plain);
    assert!(mounted.read("header-only", true).unwrap().is_empty());
    let file = mounted.file("file");
    let description = file.description().unwrap();
    assert_eq!(description.envelope.context["department"], "finance");
    assert_eq!((description.epoch, description.seal_count), (6, 1000));
    assert_eq!(file.next_data(2 * 4096).unwrap(), Some(3 * 4096));
    assert_eq!(file.next_hole(3 * 4096).unwrap(), Some(100 * 4096));

    let mut changed = plain;
    changed[4096 * 81 - 3..4096 * 82 + 3].copy_from_slice(&pattern(4, 4096 + 6));
    file.write(4096 * 81 - 3, &changed[4096 * 81 - 3..4096 * 82 + 3]).unwrap();
    file.settle().unwrap();
    drop(file);
    mounted.end();
    let bytes = fs::read(scratch.path().join("file")).unwrap();
    let reading = Reading {
        volume: VOLUME,
        last_epoch: LAST_EPOCH + 1,
        unclean: &[UNCLEAN_EPOCH],
        material: &|envelope| (envelope.key_id == key_id()).then(|| supplied_wrap_key(&KEY)),
    };
    assert!(read(&bytes, &reading).unwrap() == changed);
}

#[test]
fn a_keystore_made_by_the_page_alone_opens() {
    let scratch = tempfile::tempdir().unwrap();
    let keystore = scratch.path().join("keystore");
    make_private_dir(&keystore);
    let (root, material): (Key, Key) = ([0x11; 32], [0x22; 32]);
    let salt = "000102030405060708090a0b0c0d0e0f";
    let parameters = json!({ "memory_kib": 64, "passes": 1, "lanes": 1, "salt": salt });
    put_private(&keystore.join("root.json"), &protected_root(&root, PASSPHRASE, &parameters));
    let id = format_uuid(&VOLUME);
    let key_id = "6f1c9c4e-0000-4000-8000-00000000000a";
    let material_text = data_encoding::HEXLOWER.encode(&material);
    let record = json!({
        "volume": id,
        "key_id": key_id,
        "versions": [
            { "version": 4, "created": 1, "material": "33".repeat(32) },
            { "version": 5, "created": 2, "material": material_text },
        ],
    });
    let sealed = seal_record(&root, "managed", &id, &serde_json::to_vec(&record).unwrap());
    put_private(&keystore.join(format!("managed-{id}.record")), &sealed);

    let envelope = Envelope {
        mode: MANAGED,
        algorithm: 1,
        version: 5,
        created: 2,
        provider: "keystore".into(),
        key_id: key_id.into(),
        context: Vec::new(),
        wrapped: Vec::new(),
    };
    let backing = scratch.path().join("volume");
    let slot = envelope.clone().wrap(&VOLUME_KEY, &material, [1; 12], &VOLUME, &[0; 16]);
    put_volume(&backing, Slot { envelope: slot, supplied: Value::Null });
    let envelope = envelope.wrap(&DEK, &material, [2; 12], &VOLUME, &FILE);
    let plain = pattern(3, 6000);
    let writing = Writing {
        envelopes: [Some(&envelope), None],
        state: State { slot: 0, ..state(6000, 6) },
        holes: &|_| false,
        ..writing_of(6000, 6)
    };
    fs::write(backing.join("file"), write(&plain, &writing)).unwrap();

    assert!(Keystore::is_protected(&keystore).unwrap());
    let opened = Keystore::open_protected(&keystore, &passphrase()).unwrap();
    let mounted = Mounted::open(&backing, Keys::keystore(opened), false).unwrap();
    assert!(mounted.read("file", false).unwrap() == plain);
    mounted.write("new", &plain);
    let newest = mounted.file("new").description().unwrap().envelope;
    assert_eq!((newest.key_version, newest.key_id.0.as_str()), (5, key_id));
}

#[test]
fn one_state_record_is_enough_after_an_epoch_that_did_not_end() {
    let scratch = volume();
    let plain = pattern(1, 5000);
    for (name, epoch, expected) in [("unclean", UNCLEAN_EPOCH, true), ("clean", 4, false)] {
        for place in [0, 1] {
            let writing = Writing { holes: &|_| false, ..writing_of(5000, epoch) };
            let mut bytes = write(&plain, &writing);
            bytes[128 + 128 * place + 100] ^= 1;
            fs::write(scratch.path().join(name), bytes).unwrap();
            for writable in [false, true] {
                let read = open(&scratch).read(name, writable);
                assert_eq!(read.is_ok_and(|read| read == plain), expected, "{name} {place}");
            }
        }
    }
}

#[test]
fn what_must_be_refused_is_refused_with_all_macs_right() {
    let scratch = volume();
    let plain = content();
    let base = || writing_of(plain.len(), 6);
    let with = |change: &dyn Fn(&mut State)| {
        let mut state = state(plain.len(), 6);
        change(&mut state);
        Writing { state, ..base() }
    };
    assert!(refusal(&scratch, &write(&plain, &base())).is_none(), "as it is it opens");
    let cases: [(&str, Writing<'_>); 7] = [
        ("unknown state flags", with(&|state| state.flags |= 8)),
        ("malformed state record", with(&|state| state.slot = 2)),
        ("epoch to come", with(&|state| state.epoch = LAST_EPOCH + 2)),
        ("size", with(&|state| state.flags |= RESIZING)),
        ("zeroed where there are no holes", with(&|state| state.flags = 0)),
        ("empty but in force", Writing { envelopes: [base().envelopes[1], None], ..base() }),
        ("belongs to volume", Writing { volume: [7; 16], ..base() }),
    ];
    for (expected, writing) in cases {
        let message = refusal(&scratch, &write(&plain, &writing)).expect(expected);
        assert!(message.contains(expected), "{expected}: {message}");
    }

    let mut longer = write(&plain, &base());
    longer.push(0);
    let small = Writing { holes: &|_| false, ..writing_of(5000, 6) };
    let mut past_end = write(&plain[..5000], &small);
    past_end[entry_at(2) as usize] = 1;
    let mut sequence = write(&plain[..5000], &small);
    let other = Writing { state: State { sequence: 12, ..state(5000, 6) }, ..small };
    sequence[128..256].copy_from_slice(&write(&plain[..5000], &other)[128..256]);
    let cases = [("size", longer), ("past the end", past_end), ("state record", sequence)];
    for (expected, bytes) in cases {
        let message = refusal(&scratch, &bytes).expect(expected);
        assert!(message.contains(expected), "{expected}: {message}");
    }
}

#[test]
fn a_digest_made_by_the_page_alone_holds_and_one_of_other_blocks_does_not() {
    let scratch = volume();
    let plain = pattern(3, 5 * 4096 + 99);
    let with_digest = |sequence| Writing {
        state: State { flags: MAY_HAVE_HOLES | DIGEST_KEPT, sequence, ..state(plain.len(), 6) },
        holes: &|_| false,
        ..writing_of(plain.len(), 6)
    };
    let bytes = write(&plain, &with_digest(9));
    assert!(refusal(&scratch, &bytes).is_none());
    // A block with its entry, a hole in place of one, the digest of another record.
    let mut changed = plain.clone();
    changed[2 * 4096] ^= 1;
    let other = write(&changed, &with_digest(9));
    let mut replayed = bytes.clone();
    replayed[3 * 4096..4 * 4096].copy_from_slice(&other[3 * 4096..4 * 4096]);
    replayed[3072 + 128..3072 + 192].copy_from_slice(&other[3072 + 128..3072 + 192]);
    let mut zeroed = bytes.clone();
    zeroed[3 * 4096..4 * 4096].fill(0);
    zeroed[3072 + 128..3072 + 192].fill(0);
    for bytes in [replayed, zeroed] {
        let message = refusal(&scratch, &bytes).unwrap();
        assert!(message.contains("not those that its header tells of"), "{message}");
    }
    let digest =
        Writing { state: State { digest: [1; 32], ..state(5000, 6) }, ..writing_of(5000, 6) };
    let without_flag = write(&pattern(1, 5000), &Writing { holes: &|_| false, ..digest });
    assert!(refusal(&scratch, &without_flag).is_none(), "without the flag it means nothing");
}

#[test]
fn sizes_agree_page_by_page() {
    use ssefs::format::{self, CipherOffset, PlainSize};
    for backing in (0..90 * 4096_u64).step_by(1021).chain([1 << 24, (1 << 24) + 1]) {
        assert_eq!(plain_size(backing), format::plain_size(CipherOffset(backing)).0, "{backing}");
    }
    for plain in (0..300 * 4096_u64).step_by(1021).chain([1 << 40, (1 << 62) - 1, 1 << 62]) {
        assert_eq!(cipher_size(plain), format::cipher_size(PlainSize(plain)).0, "{plain}");
    }
}

/// The content of most files here: 150 blocks and a bit, of which 2 and 100 to 119 are zeros.
fn content() -> Vec<u8> {
    let mut plain = pattern(3, 150 * 4096 + 99);
    for block in (0..150).filter(|block| is_hole(*block)) {
        plain[4096 * block as usize..][..4096].fill(0);
    }
    plain
}

fn is_hole(block: u64) -> bool {
    block == 2 || (100..120).contains(&block)
}

fn key_id() -> String {
    supplied_key_id(&KEY, &VOLUME)
}

fn envelope(dek: &Key, file: &[u8; 16]) -> Envelope {
    let envelope = Envelope {
        mode: SUPPLIED,
        algorithm: 1,
        version: 1,
        created: 1_700_000_000,
        provider: "supplied".into(),
        key_id: key_id(),
        context: vec![("department".into(), "finance".into()), ("é".into(), String::new())],
        wrapped: Vec::new(),
    };
    envelope.wrap(dek, &supplied_wrap_key(&KEY), [8; 12], &VOLUME, file)
}

fn state(size: usize, epoch: u64) -> State {
    State {
        sequence: 9,
        size: size as u64,
        durable: 0,
        epoch,
        seals: 1000,
        flags: MAY_HAVE_HOLES,
        slot: 1,
        digest: [0; 32],
    }
}

/// A file whose second slot is in force; the first names a key that is not there.
fn writing_of(size: usize, epoch: u64) -> Writing<'static> {
    let in_force = envelope(&DEK, &FILE);
    let foreign = Envelope { key_id: "supplied:of another".into(), ..in_force.clone() };
    Writing {
        volume: VOLUME,
        file: FILE,
        dek: DEK,
        envelopes: [Some(Box::leak(Box::new(foreign))), Some(Box::leak(Box::new(in_force)))],
        state: state(size, epoch),
        newer_in_b: &|block| block % 2 == 1,
        holes: &is_hole,
    }
}

fn volume() -> TempDir {
    let scratch = tempfile::tempdir().unwrap();
    let slot = Slot {
        envelope: envelope(&VOLUME_KEY, &[0; 16]),
        supplied: supplied_verifier(&KEY, &[0x5a; 32]),
    };
    put_volume(scratch.path(), slot);
    scratch
}

fn put_volume(backing: &Path, slot: Slot) {
    let metadata = backing.join(".ssefs");
    fs::create_dir_all(&metadata).unwrap();
    let descriptor = Descriptor { volume: VOLUME, slots: vec![slot] };
    fs::write(metadata.join("volume.json"), descriptor.write()).unwrap();
    let epochs = write_epochs(LAST_EPOCH, &[UNCLEAN_EPOCH], &VOLUME, &VOLUME_KEY);
    fs::write(metadata.join("epochs.json"), epochs).unwrap();
}

fn put(scratch: &TempDir, name: &str, writing: &Writing<'_>, plain: &[u8]) {
    fs::write(scratch.path().join(name), write(plain, writing)).unwrap();
}

fn open(scratch: &TempDir) -> Mounted {
    let key = SuppliedSource::Key(Secret::copy_from(&KEY));
    Mounted::open(scratch.path(), Keys::Supplied(key), false).unwrap()
}

/// Why the bytes are refused, at open or at read.
fn refusal(scratch: &TempDir, bytes: &[u8]) -> Option<String> {
    put_volume_epochs_anew(scratch);
    fs::write(scratch.path().join("refused"), bytes).unwrap();
    open(scratch).read("refused", false).err().map(|error| error.to_string())
}

/// Each mount begins an epoch: the epoch to come must stay one.
fn put_volume_epochs_anew(scratch: &TempDir) {
    let epochs = write_epochs(LAST_EPOCH, &[UNCLEAN_EPOCH], &VOLUME, &VOLUME_KEY);
    fs::write(scratch.path().join(".ssefs/epochs.json"), epochs).unwrap();
}
