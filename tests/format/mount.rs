//! Volumes through the library, with the providers that a mount has, on a real directory and
//! without a kernel.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ssefs::format::{Descriptor, FORMAT_VERSION, Mode, SuppliedVerifier, VolumeId};
use ssefs::keys::{
    Access, DekCache, KeyProvider, Keyring, Keystore, ManagedProvider, SuppliedProvider,
    SuppliedSource,
};
use ssefs::store::BackingFile;
use ssefs::store::disk::DiskFile;
use ssefs::store::tree::DiskTree;
use ssefs::volume::{EncryptedFile, Volume, VolumeDirectory, VolumeError, VolumeUse};

use super::fixture::NOW;

/// What opens a volume.
pub enum Keys {
    Supplied(SuppliedSource),
    /// A keystore, and the age in days at which its key is rotated; 0 for never.
    Managed {
        keystore: Arc<Keystore>,
        rotation_days: u32,
        now: u64,
    },
}

impl Keys {
    pub fn keystore(keystore: Keystore) -> Self {
        Self::Managed { keystore: Arc::new(keystore), rotation_days: 0, now: NOW }
    }

    /// The keyring for a volume that exists, or for a new one that has no descriptor yet.
    fn keyring(
        self,
        volume: VolumeId,
        descriptor: Option<&Descriptor>,
    ) -> Result<(Keyring, Option<SuppliedVerifier>), String> {
        let mut new_verifier = None;
        let provider: Box<dyn KeyProvider> = match self {
            Self::Supplied(source) => {
                let key = match descriptor {
                    Some(descriptor) => source.known_key(descriptor).map_err(text)?,
                    None => {
                        let (key, verifier) = source.new_key().map_err(text)?;
                        new_verifier = Some(verifier);
                        key
                    }
                };
                Box::new(SuppliedProvider::new(key, volume))
            }
            Self::Managed { keystore, rotation_days, now } => {
                let open = match descriptor {
                    Some(_) => ManagedProvider::open_existing,
                    None => ManagedProvider::open,
                };
                Box::new(open(keystore, volume, rotation_days, now).map_err(text)?)
            }
        };
        let mode = provider.mode();
        let cache = DekCache::new(16, DekCache::DEFAULT_TTL);
        Ok((Keyring::new(vec![provider], mode, cache), new_verifier))
    }
}

/// A volume in use.
pub struct Mounted {
    volume: Arc<Volume>,
    root: PathBuf,
}

impl Mounted {
    /// Makes a volume in an empty directory.
    pub fn create(root: &Path, keys: Keys) -> Self {
        let directory = claim(root);
        assert!(directory.descriptor().unwrap().is_none(), "a new volume");
        let volume_id = VolumeId::random();
        let (keyring, verifier) = keys.keyring(volume_id, None).unwrap();
        let (volume_key, slot) = keyring.make_volume_key(volume_id, verifier).unwrap();
        let descriptor = Descriptor {
            format_version: FORMAT_VERSION,
            volume_id,
            created: NOW,
            key_slots: vec![slot],
        };
        directory.create(&descriptor, &volume_key).unwrap();
        let volume =
            directory.start(&descriptor, &volume_key, keyring, VolumeUse::default()).unwrap();
        Self { volume, root: root.to_owned() }
    }

    pub fn open(root: &Path, keys: Keys, read_only: bool) -> Result<Self, String> {
        let directory = claim(root);
        let descriptor = directory.descriptor().map_err(text)?.ok_or("no descriptor")?;
        let (keyring, _) = keys.keyring(descriptor.volume_id, Some(&descriptor))?;
        let volume_key = keyring.open_volume_key(&descriptor).map_err(text)?;
        let volume = directory
            .start(
                &descriptor,
                &volume_key,
                keyring,
                VolumeUse { read_only, ..VolumeUse::default() },
            )
            .map_err(text)?;
        Ok(Self { volume, root: root.to_owned() })
    }

    pub fn volume(&self) -> &Volume {
        &self.volume
    }

    pub fn mode(&self) -> Mode {
        self.volume.keyring().default_mode()
    }

    /// A file to write, made if there is none.
    pub fn file(&self, path: &str) -> EncryptedFile {
        let mut options = fs::File::options();
        options.read(true).write(true).create(true).truncate(false);
        let backing = options.open(self.root.join(path)).unwrap();
        with_access(|access| {
            let file = self.volume.open_file(disk(backing), true, access).unwrap();
            file.prepare_write(access).unwrap();
            file
        })
    }

    pub fn write(&self, path: &str, plain: &[u8]) {
        let file = self.file(path);
        file.write(0, plain).unwrap();
        file.settle().unwrap();
    }

    /// The whole content, read through a backing file that is open for `writable`.
    pub fn read(&self, path: &str, writable: bool) -> Result<Vec<u8>, VolumeError> {
        let backing =
            fs::File::options().read(true).write(writable).open(self.root.join(path)).unwrap();
        let file = with_access(|access| self.volume.open_file(disk(backing), writable, access))?;
        let mut plain = vec![0; file.size() as usize];
        let read = file.read(0, &mut plain)?;
        assert_eq!(read, plain.len());
        Ok(plain)
    }

    /// Unmounts cleanly.
    pub fn end(self) {
        self.volume.end_epoch().unwrap();
    }
}

fn claim(root: &Path) -> VolumeDirectory {
    VolumeDirectory::claim(Arc::new(DiskTree::open(root).unwrap()), "a test").unwrap()
}

fn disk(file: fs::File) -> Arc<dyn BackingFile> {
    Arc::new(DiskFile::from(OwnedFd::from(file)))
}

fn with_access<T>(work: impl FnOnce(&Access<'_>) -> T) -> T {
    work(&Access::own(&PathBuf::new))
}

fn text(error: impl std::error::Error) -> String {
    error.to_string()
}
