//! Tests that nothing secret stays in memory: the process's own memory is searched for secrets
//! that have been let go of. Also holds at compile time that no type with secrets can be printed
//! or cloned.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::BufRead;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use data_encoding::HEXLOWER;

use super::audit::{AuditLog, AuditOptions};
use super::identity::Identity;
use super::keystore_record::Material;
use super::kms::{Cmk, CreateKey, DataKey, Decrypted, LocalKms, Origin};
use super::passphrase::tests::{cheap, passphrase};
use super::{
    Access, Binding, DekCache, Generated, KeyProvider, Keyring, Keystore, ManagedProvider,
    Passphrase, SuppliedProvider, SuppliedSource, read_key_file, supplied_verifier,
    verify_supplied,
};
use crate::crypto::{Secret, fill_random};
use crate::format::{FileId, Mode, VolumeId};

const VOLUME: VolumeId = VolumeId([1; 16]);
const MASK: u8 = 0xa5;
/// How much of a secret is searched for.
const NEEDLE_LEN: usize = 16;

fn binding(file: u8) -> Binding {
    Binding { volume: VOLUME, file: FileId([file; 16]) }
}

fn access() -> Access<'static> {
    Access::own(&PathBuf::new)
}

fn keyring(provider: impl KeyProvider + 'static, capacity: usize) -> Keyring {
    let mode = provider.mode();
    let cache = DekCache::new(capacity, Duration::from_secs(60));
    Keyring::new(vec![Box::new(provider)], mode, cache)
}

/// Both halves of a secret, masked so that the search does not find itself.
struct Needle([[u8; NEEDLE_LEN]; 2]);

impl Needle {
    fn of(bytes: &[u8]) -> Self {
        let half = |from: usize| std::array::from_fn(|index| bytes[from + index] ^ MASK);
        Self([half(0), half(bytes.len() - NEEDLE_LEN)])
    }

    /// How often either half is in the process's writable memory, mapped readable.
    fn found(&self) -> usize {
        const CHUNK: usize = 1 << 20;
        let memory = File::open("/proc/self/mem").unwrap();
        let mut buffer = vec![0; CHUNK + NEEDLE_LEN - 1];
        let own = buffer.as_ptr() as u64..buffer.as_ptr() as u64 + buffer.len() as u64;
        let mut found = 0;
        for line in fs::read_to_string("/proc/self/maps").unwrap().lines() {
            let mut fields = line.split_ascii_whitespace();
            let (from, to) = fields.next().unwrap().split_once('-').unwrap();
            let from = u64::from_str_radix(from, 16).unwrap();
            let to = u64::from_str_radix(to, 16).unwrap();
            if !fields.next().unwrap().starts_with("rw") {
                continue;
            }
            for at in (from..to).step_by(CHUNK) {
                let len = buffer.len().min((to - at) as usize);
                // Another thread may have unmapped it meanwhile.
                let Ok(read) = memory.read_at(&mut buffer[..len], at) else { continue };
                found += self
                    .places(&buffer[..read])
                    .filter(|offset| *offset < CHUNK && !own.contains(&(at + *offset as u64)))
                    .count();
            }
        }
        found
    }

    /// Where either half starts. `skip_until` is optimised in test builds, too.
    fn places(&self, memory: &[u8]) -> impl Iterator<Item = usize> {
        self.0.iter().flat_map(move |half| {
            let mut rest = memory;
            std::iter::from_fn(move || {
                loop {
                    let skipped = rest.skip_until(half[0] ^ MASK).expect("memory is read");
                    if skipped == 0 {
                        return None;
                    }
                    let offset = memory.len() - rest.len() - 1;
                    if half.iter().zip(memory.get(offset..)?).all(|(a, b)| *a == *b ^ MASK)
                        && memory.len() - offset >= NEEDLE_LEN
                    {
                        return Some(offset);
                    }
                }
            })
        })
    }
}

#[test]
fn the_search_finds_what_is_there() {
    let secret = Secret::random();
    let needle = Needle::of(secret.expose());
    assert_eq!(needle.found(), 2, "two halves");
    drop(secret);
    assert_eq!(needle.found(), 0);
}

#[test]
fn a_wiped_keyring_leaves_neither_deks_nor_the_supplied_key() {
    let key = Secret::random();
    let supplied = Needle::of(key.expose());
    verify_supplied(&key, &supplied_verifier(&key, None)).unwrap();
    let wrap_key = Needle::of(crate::crypto::derive(&key, b"ssefs supplied wrap v1").expose());
    let keyring = keyring(SuppliedProvider::new(key, VOLUME), 8);
    assert_eq!(supplied.found(), 0, "only what is derived is kept");
    assert_ne!(wrap_key.found(), 0);

    let made = keyring.generate(binding(2), &access()).unwrap();
    let dek = Needle::of(made.dek.expose());
    drop(keyring.dek(&made.envelope, binding(2), &access()).unwrap());
    keyring.forget(binding(2).file);
    drop(keyring.dek(&made.envelope, binding(2), &access()).unwrap());
    drop(made);
    assert_eq!(dek.found(), 2, "in the cache");
    keyring.wipe();
    assert_eq!((dek.found(), wrap_key.found()), (0, 0));
}

#[test]
fn an_evicted_dek_is_gone() {
    let keyring = keyring(SuppliedProvider::new(Secret::random(), VOLUME), 1);
    let first = Needle::of(keyring.generate(binding(2), &access()).unwrap().dek.expose());
    assert_eq!(first.found(), 2);
    let second = Needle::of(keyring.generate(binding(3), &access()).unwrap().dek.expose());
    assert_eq!((first.found(), second.found()), (0, 2));
    keyring.forget(binding(3).file);
    assert_eq!(second.found(), 0);
}

#[test]
fn managed_material_leaves_no_copy_on_its_way_to_and_from_the_keystore() {
    let scratch = tempfile::tempdir().unwrap();
    let keystore = Arc::new(Keystore::open_or_create(&scratch.path().join("k")).unwrap());
    let provider = ManagedProvider::open(Arc::clone(&keystore), VOLUME, 90, 0).unwrap();
    let material = provider.newest_material(Needle::of);
    let hexadecimal = provider.newest_material(|bytes| {
        let mut text = zeroize::Zeroizing::new([0; 64]);
        HEXLOWER.encode_mut(bytes, text.as_mut_slice());
        Needle::of(text.as_slice())
    });
    assert_eq!((material.found(), hexadecimal.found()), (2, 0));
    assert!(provider.rotate_if_due(u64::from(u32::MAX)).unwrap());
    let keyring = keyring(provider, 8);
    drop(keyring.generate(binding(2), &access()).unwrap());
    assert_eq!(material.found(), 2, "once, in locked memory");
    keyring.wipe();
    drop(keystore);
    assert_eq!((material.found(), hexadecimal.found()), (0, 0));
}

#[test]
fn a_cmk_and_a_data_key_of_it_leave_no_copy() {
    let scratch = tempfile::tempdir().unwrap();
    let keystore = Arc::new(Keystore::open_or_create(&scratch.path().join("k")).unwrap());
    let audit = AuditLog::open(Arc::clone(&keystore), AuditOptions::default()).unwrap();
    let kms = LocalKms::new(keystore, Arc::new(audit));
    let (own, nothing) = (Identity::own(), BTreeMap::new());
    let request = CreateKey { origin: Some(Origin::External), ..CreateKey::default() };
    let key_id = kms.create_key(&own, request).unwrap().key_id;
    let material = Secret::random();
    let needle = Needle::of(material.expose());
    let hexadecimal = {
        let mut text = zeroize::Zeroizing::new([0; 64]);
        HEXLOWER.encode_mut(material.expose(), text.as_mut_slice());
        Needle::of(text.as_slice())
    };
    kms.import_key_material(&own, &key_id.0, material).unwrap();
    let data_key = kms.generate_data_key(&own, &key_id.0, &nothing).unwrap();
    assert_eq!((needle.found(), hexadecimal.found()), (2, 0), "once, in locked memory");
    let plaintext = Needle::of(data_key.plaintext.expose());
    drop(kms.decrypt(&own, None, &data_key.encrypted.blob, &nothing).unwrap());
    assert_eq!(plaintext.found(), 2);
    drop(data_key);
    assert_eq!(plaintext.found(), 0);
    drop(kms);
    assert_eq!((needle.found(), hexadecimal.found()), (0, 0));
}

#[test]
fn reading_a_key_leaves_no_copy() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("key");
    let needle = {
        // Wiped where it lies: moving it would leave a copy.
        let mut raw = zeroize::Zeroizing::new([0; 32]);
        fill_random(raw.as_mut_slice());
        fs::write(&path, raw.as_slice()).unwrap();
        Needle::of(raw.as_slice())
    };
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(needle.found(), 0);
    let key = read_key_file(&path).unwrap();
    assert_eq!(needle.found(), 2);
    drop(key);
    assert_eq!(needle.found(), 0);
}

#[test]
fn a_key_made_of_a_passphrase_is_gone_with_its_provider() {
    let derived = passphrase("a passphrase").derive(&cheap()).unwrap();
    let needle = Needle::of(derived.expose());
    assert_eq!(needle.found(), 2);
    drop(SuppliedProvider::new(derived, VOLUME));
    assert_eq!(needle.found(), 0);
    assert_eq!(SuppliedProvider::new(Secret::random(), VOLUME).mode(), Mode::Supplied);
}

/// Fails to compile if a type implements a trait: the method is then ambiguous.
macro_rules! assert_not_implemented {
    ($($type:ty),+ => $bound:path) => {
        const _: () = {
            trait Ambiguous<Marker> {
                fn method() {}
            }
            struct Implemented;
            impl<T: ?Sized> Ambiguous<()> for T {}
            impl<T: ?Sized + $bound> Ambiguous<Implemented> for T {}
            $(let _ = <$type as Ambiguous<_>>::method;)+
        };
    };
}

macro_rules! assert_keeps_to_itself {
    ($($type:ty),+ $(,)?) => {
        assert_not_implemented!($($type),+ => std::fmt::Debug);
        assert_not_implemented!($($type),+ => std::fmt::Display);
        assert_not_implemented!($($type),+ => Clone);
    };
}

assert_keeps_to_itself!(
    Secret,
    Material,
    Passphrase,
    SuppliedSource,
    SuppliedProvider,
    ManagedProvider,
    Keystore,
    Generated,
    DekCache,
    Keyring,
    LocalKms,
    Cmk,
    DataKey,
    Decrypted,
);
