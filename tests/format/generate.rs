//! Makes the frozen volumes, through the library.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use data_encoding::HEXLOWER;
use ssefs::format::{Argon2idParameters, Descriptor, FORMAT_VERSION, VolumeId};
use ssefs::keys::{DekCache, KeyProvider, Keyring, Keystore, SuppliedProvider, supplied_verifier};
use ssefs::store::SyncScope;
use ssefs::store::tree::DiskTree;
use ssefs::volume::{EncryptedFile, VolumeDirectory};

use super::fixture::{
    ALL, Frozen, JOURNAL, NOW, SIZE_IN_JOURNAL, VERSIONS, digest, files_of, frozen, key_file,
    keystore_dir, passphrase, pattern, walk,
};
use super::mount::{Keys, Mounted};

/// Run by hand, into a new directory below `tests/frozen`, when a writer adds to the format: from
/// then on these bytes are what every later ssefs must read.
#[test]
#[ignore = "writes tests/frozen; frozen volumes are made once for each writer's format"]
fn make_the_frozen_volumes() {
    let base = frozen(VERSIONS[VERSIONS.len() - 1]);
    for frozen in ALL {
        assert!(!base.join(frozen.name()).exists(), "remove the old ones first");
    }
    generate(&base);
    make_public(&base);
}

/// The same, for the volume that a mount left which was killed with a block in its journal.
#[test]
#[ignore = "writes tests/frozen; frozen volumes are made once for each writer's format"]
fn make_the_frozen_journal() {
    leave_journal(&frozen(JOURNAL), |second, plain| {
        let file = second.file("note");
        file.write(4096, &pattern(8, 4096)).unwrap();
        plain[4096..8192].copy_from_slice(&pattern(8, 4096));
        file
    });
}

/// The same, for one where the power failed after a sync that the journal has answered: it alone
/// tells the size of the file.
#[test]
#[ignore = "writes tests/frozen; frozen volumes are made once for each writer's format"]
fn make_the_frozen_size() {
    let base = frozen(SIZE_IN_JOURNAL);
    let note = Frozen::Supplied.volume(&base).join("note");
    let mut synced = Vec::new();
    leave_journal(&base, |second, plain| {
        let file = second.file("note");
        file.write(plain.len() as u64, &pattern(9, 50)).unwrap();
        file.sync(SyncScope::All).unwrap();
        synced = fs::read(&note).unwrap();
        file.write(plain.len() as u64 + 50, &pattern(10, 200)).unwrap();
        assert!(file.sync_in_journal(SyncScope::Data).unwrap());
        plain.extend([pattern(9, 50), pattern(10, 200)].concat());
        file
    });
    fs::write(&note, synced).unwrap();
}

/// Makes a volume with the file `note`, which is changed in its second epoch by `change`; then
/// the process dies.
fn leave_journal(base: &Path, change: impl FnOnce(&Mounted, &mut Vec<u8>) -> EncryptedFile) {
    let root = Frozen::Supplied.volume(base);
    fs::create_dir_all(&root).unwrap();
    put_key(base);
    let first = Mounted::create(&root, Frozen::Supplied.keys(base));
    let mut plain = pattern(7, 2 * 4096 + 100);
    first.write("note", &plain);
    first.end();
    let second = Mounted::open(&root, Frozen::Supplied.keys(base), false).unwrap();
    let file = change(&second, &mut plain);
    fs::write(Frozen::Supplied.manifest(base), format!("{}  note\n", digest(&plain))).unwrap();
    // Closing it would erase the record: the process dies before.
    let journal = fs::read(root.join(".ssefs/journal-2")).unwrap();
    drop((file, second));
    fs::write(root.join(".ssefs/journal-2"), journal).unwrap();
    fs::remove_file(root.join(".ssefs/lock")).unwrap();
    make_public(base);
}

/// Git keeps no private modes, so that these would differ from one checkout to the next.
fn make_public(base: &Path) {
    walk(base, &mut |path| {
        if !path.is_symlink() {
            let mode = if path.is_dir() || path.extension().is_some_and(|it| it == "py") {
                0o755
            } else {
                0o644
            };
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        }
    });
}

/// Fills `base` with the volumes, their keys and manifests.
pub fn generate(base: &Path) {
    for frozen in ALL {
        fs::create_dir_all(frozen.volume(base)).unwrap();
        match frozen {
            Frozen::Supplied => supplied(base),
            Frozen::Passphrase => with_passphrase(base),
            Frozen::Managed => managed(base),
        }
        // Locks are no part of a volume at rest.
        let _ = fs::remove_file(frozen.volume(base).join(".ssefs/lock"));
        // Nor is what this program has gathered: it is in the files.
        let _ = fs::remove_file(frozen.volume(base).join(".ssefs/journal-2"));
    }
    fs::remove_file(keystore_dir(base).join("lock")).unwrap();
    // Nor is the log of this program's use of the keys.
    fs::remove_dir_all(keystore_dir(base).join("audit")).unwrap();
    let _ = fs::remove_file(keystore_dir(base).join("audit-log.record"));
}

fn put_key(base: &Path) {
    let key: [u8; 32] = std::array::from_fn(|index| index as u8);
    let text = format!("{}\n", HEXLOWER.encode(&key));
    fs::write(key_file(base), text).unwrap();
    fs::set_permissions(key_file(base), fs::Permissions::from_mode(0o600)).unwrap();
}

fn supplied(base: &Path) {
    put_key(base);
    let root = Frozen::Supplied.volume(base);

    let first = Mounted::create(&root, Frozen::Supplied.keys(base));
    fs::write(root.join("empty"), b"").unwrap();
    for (name, len) in
        [("1", 1), ("4095", 4095), ("4096", 4096), ("4097", 4097), ("17-blocks-5", 17 * 4096 + 5)]
    {
        first.write(name, &pattern(len as u64, len));
    }
    fs::create_dir(root.join("directory")).unwrap();
    first.write("directory/nested", b"in a directory\n");
    std::os::unix::fs::symlink("directory/nested", root.join("link")).unwrap();
    overwritten(&first);
    holes(&first);
    let before = pattern(90, 2 * 4096);
    first.write("torn", &before);
    record(base, Frozen::Supplied, &first);
    first.end();

    // The second epoch does not end cleanly: of the write of block 1 its entry alone is there.
    let second = Mounted::open(&root, Frozen::Supplied.keys(base), false).unwrap();
    let block = fs::read(root.join("torn")).unwrap()[8192..].to_vec();
    let file = second.file("torn");
    file.write(4096, &pattern(91, 4096)).unwrap();
    file.commit().unwrap();
    drop((file, second));
    let mut torn = fs::read(root.join("torn")).unwrap();
    assert_ne!(torn[8192..], block);
    torn[8192..].copy_from_slice(&block);
    fs::write(root.join("torn"), torn).unwrap();
}

/// Both generations are in use: block 0 has A as its newer one again, block 1 has B, block 2 has
/// A alone.
fn overwritten(volume: &Mounted) {
    let file = volume.file("overwritten");
    file.write(0, &pattern(80, 2 * 4096 + 100)).unwrap();
    file.write(0, &pattern(81, 2 * 4096)).unwrap();
    file.write(0, &pattern(82, 4096)).unwrap();
    file.settle().unwrap();
}

/// Whole blocks punched out, before and behind the first tag page, and a tail never written.
fn holes(volume: &Mounted) {
    let file = volume.file("holes");
    file.write(0, &pattern(70, 20 * 4096 + 10)).unwrap();
    file.punch_hole(3 * 4096 - 5, 2 * 4096 + 10).unwrap();
    file.punch_hole(17 * 4096, 4096).unwrap();
    file.set_size(22 * 4096 + 7).unwrap();
    file.settle().unwrap();
}

fn with_passphrase(base: &Path) {
    let root = Frozen::Passphrase.volume(base);
    // Cheap on purpose: tests open it often.
    let parameters = Argon2idParameters {
        memory_kib: 256,
        passes: 2,
        lanes: 2,
        salt: HEXLOWER.encode(b"a salt of 16 byt"),
    };
    let key = passphrase().derive(&parameters).unwrap();
    let volume_id = VolumeId::random();
    let verifier = supplied_verifier(&key, Some(parameters));
    let provider = SuppliedProvider::new(key, volume_id);
    let mode = provider.mode();
    let cache = DekCache::new(1, DekCache::DEFAULT_TTL);
    let keyring = Keyring::new(vec![Box::new(provider)], mode, cache);
    let (volume_key, slot) = keyring.make_volume_key(volume_id, Some(verifier)).unwrap();
    let descriptor = Descriptor {
        format_version: FORMAT_VERSION,
        volume_id,
        created: NOW,
        key_slots: vec![slot],
    };
    let tree = Arc::new(DiskTree::open(&root).unwrap());
    VolumeDirectory::claim(tree, "the generator")
        .unwrap()
        .create(&descriptor, &volume_key)
        .unwrap();

    let mounted = Mounted::open(&root, Frozen::Passphrase.keys(base), false).unwrap();
    mounted.write("note", b"under a key that Argon2id made\n");
    record(base, Frozen::Passphrase, &mounted);
    mounted.end();
}

/// One file under each of two versions of the key material.
fn managed(base: &Path) {
    let root = Frozen::Managed.volume(base);
    let keys = |now| Keys::Managed {
        keystore: Arc::new(Keystore::open_or_create(&keystore_dir(base)).unwrap()),
        rotation_days: 90,
        now,
    };
    let first = Mounted::create(&root, keys(NOW));
    first.write("under-version-1", &pattern(1, 5000));
    first.end();
    let second = Mounted::open(&root, keys(NOW + 91 * 24 * 60 * 60), false).unwrap();
    second.write("under-version-2", &pattern(2, 100));
    record(base, Frozen::Managed, &second);
    second.end();
}

/// Writes the manifest of what the volume holds, once the content is what was meant.
fn record(base: &Path, frozen: Frozen, mounted: &Mounted) {
    let files = files_of(&frozen.volume(base)).into_iter();
    let lines = files.map(|path| {
        let plain = mounted.read(&path, false).unwrap();
        format!("{}  {path}\n", digest(&plain))
    });
    fs::write(frozen.manifest(base), lines.collect::<String>()).unwrap();
}
