//! A volume with its file system, mounted without a kernel.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ssefs::crypto::Secret;
use ssefs::format::{Descriptor, FORMAT_VERSION, FileId, KeySlot, Mode, VolumeId};
use ssefs::fs::{FileSystem, FsOptions};
use ssefs::keys::{Access, Binding, DekCache, Keyring, SuppliedProvider};
use ssefs::store::tree::DiskTree;
use ssefs::volume::{Volume, VolumeDirectory, VolumeUse};

/// Mounts the volume in `root`, which is made if there is none, with a cache of so many DEKs.
pub fn mount(
    root: &Path,
    use_as: VolumeUse,
    deks: usize,
    options: FsOptions,
) -> (FileSystem, Arc<Volume>) {
    let tree = Arc::new(DiskTree::open(root).unwrap());
    let directory = VolumeDirectory::claim(Arc::clone(&tree), "a test").unwrap();
    let existing = directory.descriptor().unwrap();
    let volume_id = existing.as_ref().map_or_else(VolumeId::random, |there| there.volume_id);
    let provider = SuppliedProvider::new(Secret::copy_from(&[7; 32]), volume_id);
    let cache = DekCache::new(deks, Duration::from_secs(60));
    let keyring = Keyring::new(vec![Box::new(provider)], Mode::Supplied, cache);
    let access = Access::own(&PathBuf::new);
    let binding = Binding { volume: volume_id, file: FileId::VOLUME };
    let (descriptor, volume_key) = match existing {
        Some(descriptor) => {
            let key = keyring.dek(&descriptor.key_slots[0].envelope, binding, &access).unwrap();
            (descriptor, key)
        }
        None => {
            let made = keyring.generate(binding, &access).unwrap();
            let slot = KeySlot { envelope: made.envelope, supplied: None };
            let descriptor = Descriptor {
                format_version: FORMAT_VERSION,
                volume_id,
                created: 0,
                key_slots: vec![slot],
            };
            directory.create(&descriptor, &made.dek).unwrap();
            (descriptor, made.dek)
        }
    };
    let volume = directory.start(&descriptor, &volume_key, keyring, use_as).unwrap();
    (FileSystem::new(Arc::clone(&volume), tree, options).unwrap(), volume)
}
