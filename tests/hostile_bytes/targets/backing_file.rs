//! A whole backing file, opened through a volume: a good one that the bytes change, perhaps with
//! the key in hand. Without the key every block that reads at all reads as it was written.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use ssefs::crypto::{AeadKey, MacKey, Secret, derive};
use ssefs::format::{
    BlockIndex, Descriptor, Entry, Envelope, FORMAT_VERSION, Header, KeyId, KeySlot, Mode,
    STATE_MAC_LABEL, Sealed, StateFlags, StateRecord, VolumeId, WrapAlgorithm, entry_place,
};
use ssefs::keys::{Access, Binding, DekCache, KeyError, KeyProvider, Keyring};
use ssefs::store::memory::MemoryFile;
use ssefs::store::tree::DiskTree;
use ssefs::store::{BackingFile, SyncScope};
use ssefs::volume::{EncryptedFile, Volume, VolumeDirectory, VolumeUse, describe};

use super::bytes::Choices;
use super::scratch::Scratch;

/// The first byte chooses the file and whether the key is known, the rest what is changed in it
/// and what is done then.
pub fn run(bytes: &[u8]) {
    let bench = Bench::get();
    let mut choices = Choices::new(bytes);
    let first = choices.u8();
    let good = &bench.files[usize::from(first & 0x3f) % bench.files.len()];
    let keyed = first & 0x40 != 0;
    let backing = Arc::new(good.backing.snapshot());
    for _ in 0..choices.u8() % 16 {
        change(&backing, &mut choices, keyed.then_some(&good.mac_key));
    }
    drop(describe(&*backing));
    for writable in [false, true] {
        let Ok(file) = bench.open(&backing, writable) else { continue };
        if !keyed {
            compare(&file, &good.plain);
        }
        use_file(&file, Choices::new(choices.rest()), writable);
    }
    if let Ok(file) = bench.open(&backing, true) {
        look_around(&file);
    }
}

pub fn seeds() -> Vec<Vec<u8>> {
    let huge = u64::MAX.to_le_bytes();
    let far = (1_u64 << 60).to_le_bytes();
    let mut seeds = Vec::new();
    for first in [0, 1, 2, 3, 0x40, 0x41, 0x42, 0x43] {
        seeds.push(vec![first]);
        seeds.push([&[first, 1, 0, 0, 0, 5, 0, 3], &[1, 2, 3][..]].concat());
        seeds.push([&[first, 1, 1], &far[..]].concat());
        seeds.push([&[first, 2, 1], &huge[..], &[1], &far[..]].concat());
        let state = [&[2], &[9, 0, 0, 0, 0, 0, 0, 0][..], &huge, &huge, &[1, 0, 0, 0, 0, 0, 0, 0]];
        seeds.push([&[first, 1], &state.concat()[..], &huge, &[3, 0]].concat());
        seeds.push(vec![first, 3, 3, 1, 0, 0, 3, 2, 0, 1, 3, 20, 0, 2]);
        seeds.push(vec![first, 2, 4, 2, 0, 3, 0, 5, 1, 0, 1, 0, 0, 0, 0, 0]);
    }
    seeds
}

/// Changes the file in one way; with the key also what only it can sign.
fn change(backing: &MemoryFile, choices: &mut Choices<'_>, key: Option<&MacKey>) {
    let size = backing.size().unwrap();
    let pages = (size / 4096).clamp(1, 1 << 20);
    let page_start = |choices: &mut Choices<'_>| u64::from(choices.u16()) % pages * 4096;
    match choices.u8() % 6 {
        0 => {
            let at = page_start(choices) + u64::from(choices.u16()) % 4096;
            write(backing, choices.bytes(), at);
        }
        1 => drop(backing.set_size(choices.u64())),
        2 => {
            let Some(key) = key else { return };
            let mut page = read_page(backing, 0);
            let Ok(header) = Header::parse(&page) else { return };
            let [sequence, size, durable_size, epoch, seal_count] =
                std::array::from_fn(|_| choices.u64());
            let (flags, slot) = (choices.u8(), choices.u8() % 2);
            let mut state_flags = StateFlags { resizing: flags & 2 != 0, ..StateFlags::default() };
            state_flags.may_have_holes = flags & 1 != 0;
            let state = StateRecord {
                sequence: sequence.clamp(1, u64::MAX - 1),
                size,
                durable_size,
                epoch,
                seal_count,
                flags: state_flags,
                envelope_slot: slot,
                digest: [0; 32],
            };
            header.encode_both_states(&state, key, &mut page);
            write(backing, &page, 0);
        }
        3 => change_entry(backing, choices),
        4 => {
            let (from, to) = (page_start(choices), page_start(choices));
            write(backing, &read_page(backing, from), to);
        }
        _ => drop(backing.punch(page_start(choices), u64::from(choices.u16()).max(1))),
    }
}

/// Changes a block's entry, with a mark that fits.
fn change_entry(backing: &MemoryFile, choices: &mut Choices<'_>) {
    let (page, index) = entry_place(BlockIndex(u64::from(choices.u16()) % 200));
    let at = page.start().0 + if page.0 == 0 { 3072 } else { 0 } + index as u64 * 64;
    let mut bytes = [0; 64];
    backing.read_at(&mut bytes, at).unwrap();
    let Ok(entry) = Entry::decode(&bytes) else { return };
    let changed = match choices.u8() % 3 {
        0 => Entry::Hole,
        1 => entry.reverted().unwrap_or(entry),
        _ => {
            let len = choices.u16() % 4096 + 1;
            entry.succeeded_by(Sealed { nonce: choices.array(), tag: choices.array(), len })
        }
    };
    write(backing, &changed.encode(), at);
}

/// Every block that reads is the one that was written. A tail may be cut, and what was never
/// written may read as zeros.
fn compare(file: &EncryptedFile, plain: &[u8]) {
    let mut block = [0; 4096];
    for at in (0..plain.len()).step_by(4096) {
        let Ok(read) = file.read(at as u64, &mut block) else { continue };
        let expected = &plain[at..plain.len().min(at + read)];
        let is_hole = block[..read].iter().all(|byte| *byte == 0);
        let rest_is_zero = block[expected.len()..read].iter().all(|byte| *byte == 0);
        let is_as_written = block[..expected.len()] == *expected && rest_is_zero;
        assert!(is_as_written || is_hole, "other plaintext at {at}");
    }
}

/// Reads and changes what the choices say.
fn use_file(file: &EncryptedFile, mut choices: Choices<'_>, writable: bool) {
    look_around(file);
    for _ in 0..choices.u8() % 8 {
        let what = choices.u8();
        let (at, len) = (choices.u64() % (1 << 40), u64::from(choices.u16()));
        if !writable {
            let _ = file.read(at, &mut vec![0; len as usize]);
            continue;
        }
        let _ = match what % 8 {
            0 => file.write(at, &vec![what; len as usize]),
            1 => file.set_size(at),
            2 => file.punch_hole(at, len),
            3 => file.zero_range(at, len, what & 8 != 0),
            4 => file.allocate(at, len, what & 8 != 0),
            5 => file.sync(SyncScope::Data),
            6 => file.settle(),
            _ => file.read(at, &mut vec![0; len as usize]).map(drop),
        };
    }
    let _ = file.settle();
}

/// Reads at the beginning and the end, and looks for data and holes a few times.
fn look_around(file: &EncryptedFile) {
    let mut buf = vec![0; 64 << 10];
    let size = file.size();
    for at in [0, size / 2, size.saturating_sub(5000), u64::MAX - 5] {
        let _ = file.read(at, &mut buf);
    }
    let mut at = 0;
    for _ in 0..4 {
        let Ok(Some(data)) = file.next_data(at) else { break };
        let Ok(Some(hole)) = file.next_hole(data) else { break };
        assert!(at <= data && data < hole);
        at = hole;
    }
    drop(file.description());
}

fn read_page(backing: &MemoryFile, at: u64) -> [u8; 4096] {
    let mut page = [0; 4096];
    backing.read_at(&mut page, at).unwrap();
    page
}

fn write(backing: &MemoryFile, bytes: &[u8], at: u64) {
    backing.write_at(&[std::io::IoSlice::new(bytes)], at).unwrap();
}

/// A volume, and files of it of which each run changes a copy.
struct Bench {
    volume: Arc<Volume>,
    files: Vec<Good>,
    _scratch: Scratch,
}

struct Good {
    backing: MemoryFile,
    plain: Vec<u8>,
    mac_key: MacKey,
}

impl Bench {
    fn get() -> &'static Self {
        static BENCH: OnceLock<Bench> = OnceLock::new();
        BENCH.get_or_init(Self::new)
    }

    /// Files of an epoch that ended cleanly, and of one that did not.
    fn new() -> Self {
        let scratch = Scratch::new();
        let first = mount(&scratch);
        let mut files = vec![good(&first, 2 * 4096 + 100, false), good(&first, 100 * 4096, true)];
        first.end_epoch().unwrap();
        drop(first);
        let second = mount(&scratch);
        files.extend([good(&second, 5000, false), good(&second, 90 * 4096 + 7, true)]);
        drop(second);
        Self { volume: mount(&scratch), files, _scratch: scratch }
    }

    fn open(&self, backing: &Arc<MemoryFile>, writable: bool) -> Result<EncryptedFile, ()> {
        let backing: Arc<dyn BackingFile> = Arc::clone(backing) as _;
        let access = Access::own(&PathBuf::new);
        self.volume.open_file(backing, writable, &access).map_err(drop)
    }
}

fn mount(scratch: &Scratch) -> Arc<Volume> {
    let volume_key = Secret::copy_from(&[9; 32]);
    let tree = Arc::new(DiskTree::open(scratch.path()).unwrap());
    let directory = VolumeDirectory::claim(tree, "a test").unwrap();
    let keyring = Keyring::new(
        vec![Box::new(FixedKey)],
        Mode::Kms,
        DekCache::new(16, Duration::from_secs(3600)),
    );
    let descriptor = directory.descriptor().unwrap().unwrap_or_else(|| {
        let key_slots = vec![KeySlot { envelope: envelope(), supplied: None }];
        let descriptor =
            Descriptor { format_version: FORMAT_VERSION, volume_id: VOLUME, created: 0, key_slots };
        directory.create(&descriptor, &volume_key).unwrap();
        descriptor
    });
    directory.start(&descriptor, &volume_key, keyring, VolumeUse::default()).unwrap()
}

/// A file of `len` bytes, with holes or without.
fn good(volume: &Arc<Volume>, len: usize, with_holes: bool) -> Good {
    let backing = Arc::new(MemoryFile::new());
    let access = Access::own(&PathBuf::new);
    let file = volume.open_file(Arc::clone(&backing) as _, true, &access).unwrap();
    file.prepare_write(&access).unwrap();
    let mut plain: Vec<u8> = (0..len).map(|at| (at / 4096 * 7 + at % 251) as u8 | 1).collect();
    file.write(0, &plain).unwrap();
    if with_holes {
        file.punch_hole(20 * 4096, 30 * 4096).unwrap();
        plain[20 * 4096..50 * 4096].fill(0);
    }
    file.settle().unwrap();
    file.sync(SyncScope::All).unwrap();
    drop(file);
    let page = read_page(&backing, 0);
    let header = Header::parse(&page).unwrap();
    let binding = Binding { volume: VOLUME, file: header.prologue.file_id };
    let dek = FixedKey.unwrap(header.envelopes[0].as_ref().unwrap(), binding, &access).unwrap();
    let mac_key = MacKey::new(&derive(&dek, STATE_MAC_LABEL));
    Good { backing: backing.snapshot(), plain, mac_key }
}

/// Wraps under a key that is always the same.
struct FixedKey;

impl KeyProvider for FixedKey {
    fn mode(&self) -> Mode {
        Mode::Kms
    }

    fn wrap(
        &self,
        dek: &Secret,
        _: Option<&Envelope>,
        binding: Binding,
        _: &Access<'_>,
    ) -> Result<Envelope, KeyError> {
        let mut envelope = envelope();
        let aad = envelope.aad(binding.volume, binding.file);
        let mut wrapped = [0; 32];
        let nonce = binding.file.0.first_chunk().expect("an id has 16 bytes");
        let tag = wrapping_key().seal(nonce, &aad, dek.expose(), &mut wrapped);
        envelope.wrapped_dek = [&nonce[..], &wrapped, &tag].concat();
        Ok(envelope)
    }

    fn unwrap(
        &self,
        envelope: &Envelope,
        binding: Binding,
        _: &Access<'_>,
    ) -> Result<Secret, KeyError> {
        let refused = || KeyError::UnwrapFailed { key_id: envelope.key_id.clone(), version: 1 };
        let (nonce, rest) = envelope.wrapped_dek.split_first_chunk().ok_or_else(refused)?;
        let (wrapped, tag) = rest.split_last_chunk().ok_or_else(refused)?;
        let aad = envelope.aad(binding.volume, binding.file);
        if wrapped.len() != 32 {
            return Err(refused());
        }
        Secret::try_from_fn(|dek| wrapping_key().open(nonce, &aad, wrapped, tag, dek))
            .map_err(|_| refused())
    }

    fn authorise(&self, _: &Envelope, _: Binding, _: &Access<'_>, _: bool) -> Result<(), KeyError> {
        Ok(())
    }
}

fn wrapping_key() -> AeadKey {
    AeadKey::new(&Secret::copy_from(&[0x42; 32]))
}

fn envelope() -> Envelope {
    Envelope {
        mode: Mode::Kms,
        provider: "test".into(),
        key_id: KeyId("fixed".into()),
        key_version: 1,
        wrap_algorithm: WrapAlgorithm::Aes256Gcm,
        created: 0,
        context: Default::default(),
        wrapped_dek: Vec::new(),
    }
}

const VOLUME: VolumeId = VolumeId([7; 16]);
