//! The frozen volumes: today's code opens them, and so does the independent reader; it reads
//! what today's code writes, too.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use data_encoding::HEXLOWER;
use ssefs::crypto::Secret;
use ssefs::format::Mode;
use ssefs::keys::SuppliedSource;

use super::fixture::{
    self, ALL, Frozen, JOURNAL, PASSPHRASE, SIZE_IN_JOURNAL, VERSIONS, copy_of, copy_of_frozen,
    digest, files_of, frozen_v1, key_file, keystore_dir, pattern, read_manifest, walk,
};
use super::generate::generate;
use super::independent::envelope::{Envelope, MANAGED};
use super::independent::file::{self, Reading};
use super::independent::keys::{
    argon2id, material, open_record, supplied_key_id, supplied_wrap_key, verifies,
};
use super::independent::primitives::Key;
use super::independent::volume::{Descriptor, format_uuid, read_epochs};
use super::mount::{Keys, Mounted};

#[test]
fn todays_code_opens_them() {
    let all = VERSIONS.iter().flat_map(|version| ALL.map(|frozen| (version, frozen)));
    for (version, frozen) in all {
        for writable in [false, true] {
            let copy = copy_of(version);
            let root = frozen.volume(copy.path());
            let mounted = Mounted::open(&root, frozen.keys(copy.path()), false).unwrap();
            check(frozen, copy.path(), |path| mounted.read(path, writable).unwrap());
            mounted.end();
            let again = Mounted::open(&root, frozen.keys(copy.path()), true).unwrap();
            check(frozen, copy.path(), |path| again.read(path, false).unwrap());
        }
    }
}

#[test]
fn todays_code_takes_what_a_killed_mount_has_left_in_its_journal() {
    takes_what_is_in_the_journal(JOURNAL);
}

#[test]
fn todays_code_takes_a_size_that_only_the_journal_tells() {
    let note = Frozen::Supplied.volume(&fixture::frozen(SIZE_IN_JOURNAL)).join("note");
    assert_eq!(fs::metadata(note).unwrap().len(), 4096 * 3 + 150);
    takes_what_is_in_the_journal(SIZE_IN_JOURNAL);
}

fn takes_what_is_in_the_journal(version: &str) {
    let copy = copy_of(version);
    let root = Frozen::Supplied.volume(copy.path());
    for (read_only, writable) in [(true, false), (false, false), (false, true), (true, false)] {
        let keys = Frozen::Supplied.keys(copy.path());
        let mounted = Mounted::open(&root, keys, read_only).unwrap();
        check(Frozen::Supplied, copy.path(), |path| {
            let file = writable.then(|| mounted.file(path));
            file.inspect(|file| file.settle().unwrap());
            mounted.read(path, writable).unwrap()
        });
        if !read_only {
            mounted.end();
        }
    }
    assert!(!root.join(".ssefs/journal-2").exists());
}

#[test]
fn the_independent_reader_opens_them() {
    for base in VERSIONS.map(fixture::frozen) {
        for frozen in ALL {
            let volume = IndependentVolume::open(frozen, &base);
            check(frozen, &base, |path| volume.read(path).unwrap());
        }
    }
}

#[test]
fn the_independent_reader_opens_what_todays_code_writes() {
    let scratch = tempfile::tempdir().unwrap();
    generate(scratch.path());
    for frozen in ALL {
        let volume = IndependentVolume::open(frozen, scratch.path());
        check(frozen, scratch.path(), |path| volume.read(path).unwrap());
    }
    let root = Frozen::Supplied.volume(scratch.path());
    let mounted = Mounted::open(&root, Frozen::Supplied.keys(scratch.path()), false).unwrap();
    let plain = pattern(5, 150 * 4096 + 77);
    mounted.write("large", &plain);
    mounted.end();
    let volume = IndependentVolume::open(Frozen::Supplied, scratch.path());
    assert!(volume.read("large").unwrap() == plain);
}

#[test]
fn the_generator_still_writes_the_same_contents() {
    let scratch = tempfile::tempdir().unwrap();
    generate(scratch.path());
    for frozen in ALL {
        let (now, then) = (frozen.manifest(scratch.path()), frozen.manifest(&frozen_v1()));
        assert_eq!(read_manifest(&now), read_manifest(&then), "{frozen:?}");
    }
}

#[test]
fn what_they_are_there_for_is_in_them() {
    let root = Frozen::Supplied.volume(&frozen_v1());
    let sizes: BTreeMap<String, u64> = files_of(&root)
        .into_iter()
        .map(|path| (path.clone(), fs::metadata(root.join(path)).unwrap().len()))
        .collect();
    for (path, size) in [
        ("empty", 0),
        ("1", 4097),
        ("4095", 8191),
        ("4096", 8192),
        ("4097", 8193),
        ("17-blocks-5", 4096 * 19 + 5),
        ("holes", 4096 * 24 + 7),
    ] {
        assert_eq!(sizes[path], size, "{path}");
    }
    assert_eq!(fs::read_link(root.join("link")).unwrap(), Path::new("directory/nested"));

    let overwritten = fs::read(root.join("overwritten")).unwrap();
    let has_b = |block: usize| overwritten[3072 + 64 * block + 30..][..30] != [0; 30];
    assert_eq!([0, 1, 2].map(has_b), [true, true, false]);
    let holes = fs::read(root.join("holes")).unwrap();
    assert_eq!(holes[3072 + 64 * 3..][..64], [0; 64], "block 3 is a hole");
    assert_eq!(holes[4096 * 17 + 64..][..64], [0; 64], "block 17 is a hole");

    let volume = IndependentVolume::open(Frozen::Supplied, &frozen_v1());
    assert_eq!((volume.last, &volume.unclean[..]), (2, &[2][..]));
    let as_if_clean = IndependentVolume { unclean: Vec::new(), ..volume };
    assert!(as_if_clean.read("torn").is_err(), "no fallback where an epoch ended cleanly");
    assert!(as_if_clean.read("holes").is_ok());
}

#[test]
fn reading_changes_no_file_that_ended_cleanly() {
    let copy = copy_of_frozen();
    let root = Frozen::Supplied.volume(copy.path());
    let snapshot = || -> BTreeMap<String, Vec<u8>> {
        let files = files_of(&root).into_iter().filter(|path| path != "torn");
        files.map(|path| (path.clone(), fs::read(root.join(path)).unwrap())).collect()
    };
    let before = snapshot();
    let mounted = Mounted::open(&root, Frozen::Supplied.keys(copy.path()), false).unwrap();
    for path in before.keys() {
        mounted.read(path, true).unwrap();
    }
    mounted.end();
    assert!(snapshot() == before);
}

#[test]
fn another_key_is_refused_and_nothing_is_touched() {
    let copy = copy_of_frozen();
    let root = Frozen::Supplied.volume(copy.path());
    let epochs = fs::read(root.join(".ssefs/epochs.json")).unwrap();
    let other = Keys::Supplied(SuppliedSource::Key(Secret::copy_from(&[9; 32])));
    let refused = Mounted::open(&root, other, false).err().unwrap();
    assert!(refused.starts_with("wrong key"), "{refused}");
    let managed = Frozen::Managed.keys(copy.path());
    let refused = Mounted::open(&root, managed, false).err().unwrap();
    assert!(refused.contains("--keystore"), "{refused}");
    assert_eq!(fs::read(root.join(".ssefs/epochs.json")).unwrap(), epochs);
}

#[test]
fn they_stay_small() {
    let mut total = 0;
    walk(&frozen_v1(), &mut |path| {
        total += fs::symlink_metadata(path).ok().filter(|it| it.is_file()).map_or(0, |it| it.len());
    });
    assert!(total > 100_000 && total < 600 * 1024, "{total} bytes");
}

/// Compares each file of a volume with its manifest.
fn check(frozen: Frozen, base: &Path, mut read: impl FnMut(&str) -> Vec<u8>) {
    let manifest = read_manifest(&frozen.manifest(base));
    let files = files_of(&frozen.volume(base));
    assert!(files.iter().eq(manifest.keys()), "{frozen:?}: {files:?}");
    for (path, expected) in &manifest {
        assert_eq!(digest(&read(path)), *expected, "{frozen:?}: {path}");
    }
}

/// A volume as the independent reader sees it.
struct IndependentVolume {
    root: std::path::PathBuf,
    id: [u8; 16],
    last: u64,
    unclean: Vec<u64>,
    keys: IndependentKeys,
}

enum IndependentKeys {
    Supplied { id: String, wrap_key: Key },
    Managed { record: serde_json::Value },
}

impl IndependentVolume {
    fn open(frozen: Frozen, base: &Path) -> Self {
        let root = frozen.volume(base);
        let descriptor =
            Descriptor::read(&fs::read(root.join(".ssefs/volume.json")).unwrap()).unwrap();
        let id = descriptor.volume;
        let [slot] = &descriptor.slots[..] else { panic!("one slot") };
        let keys = match frozen {
            Frozen::Managed => IndependentKeys::managed(base, &id),
            Frozen::Supplied => {
                let text = fs::read_to_string(key_file(base)).unwrap();
                let key = HEXLOWER.decode(text.trim_end().as_bytes()).unwrap().try_into().unwrap();
                IndependentKeys::supplied(&key, &slot.supplied, &id)
            }
            Frozen::Passphrase => {
                let key = argon2id(PASSPHRASE, &slot.supplied["argon2id"]);
                IndependentKeys::supplied(&key, &slot.supplied, &id)
            }
        };
        let wrap_key = keys.material(&slot.envelope).unwrap();
        let volume_key = slot.envelope.unwrap(&wrap_key, &id, &[0; 16]).unwrap();
        let epochs = fs::read(root.join(".ssefs/epochs.json")).unwrap();
        let (last, unclean) = read_epochs(&epochs, &id, &volume_key).unwrap();
        Self { root, id, last, unclean, keys }
    }

    fn read(&self, path: &str) -> Result<Vec<u8>, String> {
        let material = |envelope: &Envelope| self.keys.material(envelope);
        let reading = Reading {
            volume: self.id,
            last_epoch: self.last,
            unclean: &self.unclean,
            material: &material,
        };
        file::read(&fs::read(self.root.join(path)).unwrap(), &reading)
    }
}

impl IndependentKeys {
    fn supplied(key: &Key, verifier: &serde_json::Value, volume: &[u8; 16]) -> Self {
        assert!(verifies(key, verifier) && !verifies(&[1; 32], verifier));
        Self::Supplied { id: supplied_key_id(key, volume), wrap_key: supplied_wrap_key(key) }
    }

    fn managed(base: &Path, volume: &[u8; 16]) -> Self {
        let root: Key = fs::read(keystore_dir(base).join("root.key")).unwrap().try_into().unwrap();
        let id = format_uuid(volume);
        let sealed = fs::read(keystore_dir(base).join(format!("managed-{id}.record"))).unwrap();
        let record = open_record(&root, "managed", &id, &sealed).unwrap();
        assert_eq!(record["volume"], id.as_str());
        assert_eq!(record["versions"].as_array().unwrap().len(), 2);
        Self::Managed { record }
    }

    fn material(&self, envelope: &Envelope) -> Option<Key> {
        match self {
            Self::Supplied { id, wrap_key } => (envelope.key_id == *id).then_some(*wrap_key),
            Self::Managed { record } => (envelope.mode == MANAGED
                && record["key_id"] == envelope.key_id.as_str())
            .then(|| material(record, envelope.version))?,
        }
    }
}

#[test]
fn a_managed_file_names_the_version_that_wrapped_it() {
    let copy = copy_of_frozen();
    let mounted = Mounted::open(
        &Frozen::Managed.volume(copy.path()),
        Frozen::Managed.keys(copy.path()),
        false,
    );
    let mounted = mounted.unwrap();
    assert_eq!(mounted.mode(), Mode::Managed);
    for version in [1, 2] {
        let file = mounted.file(&format!("under-version-{version}"));
        assert_eq!(file.description().unwrap().envelope.key_version, version);
    }
}
#[test]
fn a_read_only_mount_falls_back_in_the_epoch_that_crashed_last() {
    let copy = copy_of_frozen();
    let root = Frozen::Supplied.volume(copy.path());
    let mounted = Mounted::open(&root, Frozen::Supplied.keys(copy.path()), true).unwrap();
    check(Frozen::Supplied, copy.path(), |path| mounted.read(path, false).unwrap());
}
