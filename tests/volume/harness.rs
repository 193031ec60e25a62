//! A volume whose metadata lies in a scratch directory and whose files lie in memory.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ssefs::crypto::{AeadKey, Secret, random_array};
use ssefs::format::{
    Descriptor, Envelope, FORMAT_VERSION, FileId, KeyId, KeySlot, METADATA_DIR, Mode, VolumeId,
    WrapAlgorithm, epoch_of_journal, journal_name,
};
use ssefs::keys::{Access, Binding, DekCache, KeyError, KeyProvider, Keyring};
use ssefs::store::BackingFile;
use ssefs::store::tree::DiskTree;
use ssefs::volume::{Durability, EncryptedFile, Volume, VolumeDirectory, VolumeError, VolumeUse};

/// A volume that can be unmounted cleanly, or lost as in a crash, and mounted again.
pub struct TestVolume {
    directory: tempfile::TempDir,
    volume: Option<Arc<Volume>>,
    /// The promise at each mount.
    pub durability: Durability,
}

impl TestVolume {
    /// A new volume, mounted.
    pub fn new() -> Self {
        Self::with(Durability::Power)
    }

    /// The same, with this promise at each mount.
    pub fn with(durability: Durability) -> Self {
        // In memory where there is such a place: each mount syncs, and tests mount often.
        let memory = std::path::Path::new("/dev/shm");
        let parent = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
        let directory = tempfile::tempdir_in(parent).unwrap();
        let mut volume = Self { directory, volume: None, durability };
        volume.mount(false);
        volume
    }

    pub fn volume(&self) -> &Arc<Volume> {
        self.volume.as_ref().unwrap()
    }

    /// Unmounts cleanly and mounts again.
    pub fn remount(&mut self) {
        self.volume().end_epoch().unwrap();
        self.volume = None;
        self.mount(false);
    }

    /// Forgets the mount as a killed process does, and mounts again.
    pub fn crash(&mut self) {
        self.try_crash().unwrap();
    }

    /// The same where the volume may be refused.
    pub fn try_crash(&mut self) -> Result<(), VolumeError> {
        self.volume = None;
        self.volume = Some(self.try_mount(false)?);
        Ok(())
    }

    /// As [`Self::crash`], but mounts for reading only: nothing is recovered, no epoch begun.
    pub fn crash_and_look(&mut self) {
        self.volume = None;
        self.mount(true);
    }

    /// The journals of this mount and of earlier ones, each with its epoch.
    pub fn journals(&self) -> Vec<(u64, Vec<u8>)> {
        let entries = std::fs::read_dir(self.metadata()).unwrap().map(Result::unwrap);
        let mut journals: Vec<_> = entries
            .filter(|entry| entry.file_type().unwrap().is_file())
            .filter_map(|entry| {
                let epoch = epoch_of_journal(entry.file_name().to_str().unwrap())?;
                Some((epoch, std::fs::read(entry.path()).unwrap()))
            })
            .collect();
        journals.sort();
        journals
    }

    /// The journals are these from now on.
    pub fn leave_journals(&self, journals: &[(u64, Vec<u8>)]) {
        for (epoch, _) in self.journals() {
            std::fs::remove_file(self.metadata().join(journal_name(epoch))).unwrap();
        }
        for (epoch, bytes) in journals {
            std::fs::write(self.metadata().join(journal_name(*epoch)), bytes).unwrap();
        }
    }

    /// The directory of the volume's own files.
    pub fn metadata(&self) -> PathBuf {
        self.directory.path().join(METADATA_DIR)
    }

    /// Opens a file for writing.
    pub fn open(
        &self,
        backing: &Arc<impl BackingFile + 'static>,
    ) -> Result<EncryptedFile, VolumeError> {
        with_access(|access| {
            let backing: Arc<dyn BackingFile> = Arc::clone(backing) as _;
            let file = self.volume().open_file(backing, true, access)?;
            file.prepare_write(access)?;
            Ok(file)
        })
    }

    /// Opens a file for reading.
    pub fn open_read_only(
        &self,
        backing: &Arc<impl BackingFile + 'static>,
    ) -> Result<EncryptedFile, VolumeError> {
        with_access(|access| {
            let backing: Arc<dyn BackingFile> = Arc::clone(backing) as _;
            self.volume().open_file(backing, false, access)
        })
    }

    fn mount(&mut self, read_only: bool) {
        self.volume = Some(self.try_mount(read_only).unwrap());
    }

    fn try_mount(&self, read_only: bool) -> Result<Arc<Volume>, VolumeError> {
        let tree = Arc::new(DiskTree::open(self.directory.path()).unwrap());
        let directory = VolumeDirectory::claim(tree, "a test").unwrap();
        let cache = DekCache::new(16, Duration::from_secs(60));
        let keyring = Keyring::new(vec![Box::new(FixedKey)], Mode::Kms, cache);
        let (descriptor, volume_key) = match directory.descriptor().unwrap() {
            Some(descriptor) => {
                let binding = Binding { volume: descriptor.volume_id, file: FileId::VOLUME };
                let envelope = &descriptor.key_slots[0].envelope;
                let key = with_access(|access| keyring.dek(envelope, binding, access)).unwrap();
                (descriptor, key)
            }
            None => {
                let volume_id = VolumeId::random();
                let binding = Binding { volume: volume_id, file: FileId::VOLUME };
                let made = with_access(|access| keyring.generate(binding, access)).unwrap();
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
        let volume_use = VolumeUse { read_only, durability: self.durability };
        directory.start(&descriptor, &volume_key, keyring, volume_use)
    }
}

/// The key that wraps every DEK of these tests, so that the oracle can unwrap them too.
pub const WRAPPING_KEY: [u8; 32] = [0x42; 32];

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
        let mut envelope = Envelope {
            mode: Mode::Kms,
            provider: "test".into(),
            key_id: KeyId("fixed".into()),
            key_version: 1,
            wrap_algorithm: WrapAlgorithm::Aes256Gcm,
            created: 0,
            context: Default::default(),
            wrapped_dek: Vec::new(),
        };
        let nonce = random_array();
        let aad = envelope.aad(binding.volume, binding.file);
        let mut wrapped = [0; 32];
        let key = AeadKey::new(&Secret::copy_from(&WRAPPING_KEY));
        let tag = key.seal(&nonce, &aad, dek.expose(), &mut wrapped);
        envelope.wrapped_dek = [&nonce[..], &wrapped, &tag].concat();
        Ok(envelope)
    }

    fn unwrap(
        &self,
        envelope: &Envelope,
        binding: Binding,
        _: &Access<'_>,
    ) -> Result<Secret, KeyError> {
        let (nonce, rest) = envelope.wrapped_dek.split_first_chunk().unwrap();
        let (wrapped, tag) = rest.split_last_chunk().unwrap();
        let aad = envelope.aad(binding.volume, binding.file);
        let key = AeadKey::new(&Secret::copy_from(&WRAPPING_KEY));
        Secret::try_from_fn(|dek| key.open(nonce, &aad, wrapped, tag, dek))
            .map_err(|_| KeyError::UnwrapFailed { key_id: envelope.key_id.clone(), version: 1 })
    }

    fn authorise(&self, _: &Envelope, _: Binding, _: &Access<'_>, _: bool) -> Result<(), KeyError> {
        Ok(())
    }
}

fn with_access<T>(work: impl FnOnce(&Access<'_>) -> T) -> T {
    work(&Access::own(&PathBuf::new))
}

/// `len` bytes that differ from place to place and from `seed` to `seed`.
pub fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 24) as u8
        })
        .collect()
}
