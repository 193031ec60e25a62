//! Managed mode: one key per volume, made at the first mount and kept in the keystore with all
//! versions of its material. The newest version wraps; older ones only unwrap, and are never
//! removed. A version that is missing is refused, never replaced. The making of a key and its
//! rotations are recorded in the audit log, its uses are not.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

use serde::{Deserialize, Serialize};

use super::audit::{AuditLog, AuditOptions, Event};
use super::error::KeyError;
use super::identity::Identity;
use super::keystore::{Keystore, KeystoreLock};
use super::keystore_record::{Material, Record};
use super::provider::{Access, Binding, KeyProvider};
use super::wrap::{Wrapper, unwrap};
use crate::crypto::Secret;
use crate::format::{Envelope, KeyId, Mode, VolumeId};

/// The provider of managed mode for one volume.
pub struct ManagedProvider {
    keystore: Arc<Keystore>,
    volume: VolumeId,
    rotation_days: u32,
    /// Never held while the keystore is read or written; the keystore's lock comes first.
    key: RwLock<Arc<ManagedKey>>,
}

impl ManagedProvider {
    /// How old the newest version may grow unless told otherwise.
    pub const DEFAULT_ROTATION_DAYS: u32 = 90;

    /// Opens the volume's key, making it if there is none, and rotates it if it is due. `now` is
    /// in seconds since 1970-01-01 UTC; 0 days mean never to rotate by age.
    ///
    /// For a volume that was mounted in managed mode before, use [`Self::open_existing`]: a key
    /// made here would not open its files.
    pub fn open(
        keystore: Arc<Keystore>,
        volume: VolumeId,
        rotation_days: u32,
        now: u64,
    ) -> Result<Self, KeyError> {
        if !Self::exists(&keystore, volume)? {
            let audit = AuditLog::open(Arc::clone(&keystore), AuditOptions::default())?;
            let lock = keystore.lock()?;
            if !Self::exists(&keystore, volume)? {
                let key = ManagedKey::create(volume, now);
                put(&lock, &audit, "CreateKey", &key)?;
                log::info!("volume {volume}: made managed key {}, version 1", key.key_id);
            }
        }
        Self::open_existing(keystore, volume, rotation_days, now)
    }

    /// Opens the volume's key and rotates it if it is due; without a key it is an error that
    /// says where it was looked for. A keystore that cannot be written only delays the rotation.
    pub fn open_existing(
        keystore: Arc<Keystore>,
        volume: VolumeId,
        rotation_days: u32,
        now: u64,
    ) -> Result<Self, KeyError> {
        let key = RwLock::new(Arc::new(read(&keystore, volume)?));
        let provider = Self { keystore, volume, rotation_days, key };
        match provider.rotate_if_due(now) {
            Ok(_) => Ok(provider),
            // Files must open from a keystore that is read-only or full, too.
            Err(error @ (KeyError::Io { .. } | KeyError::Audit { .. })) => {
                log::warn!("volume {volume}: the managed key is due for rotation: {error}");
                Ok(provider)
            }
            Err(error) => Err(error),
        }
    }

    /// Whether the keystore has a key for the volume.
    pub fn exists(keystore: &Keystore, volume: VolumeId) -> Result<bool, KeyError> {
        keystore.contains::<ManagedKey>(&volume.to_string())
    }

    /// Adds a version if the newest is too old, and takes up what another process has added.
    /// Whether this call added one.
    pub fn rotate_if_due(&self, now: u64) -> Result<bool, KeyError> {
        if !self.current().is_due(self.rotation_days, now) {
            return Ok(false);
        }
        let audit = AuditLog::open(Arc::clone(&self.keystore), AuditOptions::default())?;
        let lock = self.keystore.lock()?;
        let mut key = read(&self.keystore, self.volume)?;
        let due = key.is_due(self.rotation_days, now);
        if due {
            let version = key.rotate(now);
            put(&lock, &audit, "RotateKey", &key)?;
            let (volume, key_id) = (self.volume, &key.key_id);
            log::info!("volume {volume}: rotated managed key {key_id} to version {version}");
        }
        drop(lock);
        self.take_up(key)?;
        Ok(due)
    }

    /// The id of the volume's key.
    pub fn key_id(&self) -> KeyId {
        self.current().key_id.clone()
    }

    /// The newest version of its material.
    pub fn newest_version(&self) -> u32 {
        self.current().newest().version
    }

    /// The newest material, for the search of memory.
    #[cfg(test)]
    pub(super) fn newest_material<T>(&self, of: impl Fn(&[u8]) -> T) -> T {
        of(self.current().newest().material.0.expose())
    }

    fn current(&self) -> Arc<ManagedKey> {
        Arc::clone(&self.key.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes up a key read anew; never goes back behind the versions that are held.
    fn take_up(&self, key: ManagedKey) -> Result<(), KeyError> {
        let mut held = self.key.write().unwrap_or_else(PoisonError::into_inner);
        if key.key_id != held.key_id {
            return Err(self.not_found(&held.key_id));
        }
        if key.newest().version > held.newest().version {
            *held = Arc::new(key);
        }
        Ok(())
    }

    /// The key with the version that the envelope names; the record is read once more when it
    /// is not held, as another process may have rotated.
    fn key_with(&self, envelope: &Envelope) -> Result<Arc<ManagedKey>, KeyError> {
        let held = self.current();
        self.check_id(&held, envelope)?;
        if held.version(envelope.key_version).is_some() {
            return Ok(held);
        }
        self.take_up(read(&self.keystore, self.volume)?)?;
        Ok(self.current())
    }

    fn check_id(&self, key: &ManagedKey, envelope: &Envelope) -> Result<(), KeyError> {
        match key.key_id == envelope.key_id {
            true => Ok(()),
            false => Err(self.not_found(&envelope.key_id)),
        }
    }

    fn not_found(&self, key_id: &KeyId) -> KeyError {
        not_found(&self.keystore, self.volume, key_id.clone())
    }
}

impl KeyProvider for ManagedProvider {
    fn mode(&self) -> Mode {
        Mode::Managed
    }

    fn wrap(
        &self,
        dek: &Secret,
        previous: Option<&Envelope>,
        binding: Binding,
        _access: &Access<'_>,
    ) -> Result<Envelope, KeyError> {
        let key = self.current();
        let newest = key.newest();
        let wrapper = Wrapper {
            mode: Mode::Managed,
            provider: PROVIDER,
            key_id: &key.key_id,
            key_version: newest.version,
            material: &newest.material.0,
            context: &BTreeMap::new(),
        };
        wrapper.wrap(dek, previous, binding)
    }

    fn unwrap(
        &self,
        envelope: &Envelope,
        binding: Binding,
        _access: &Access<'_>,
    ) -> Result<Secret, KeyError> {
        let key = self.key_with(envelope)?;
        let Some(version) = key.version(envelope.key_version) else {
            return Err(KeyError::VersionNotFound {
                key_id: envelope.key_id.clone(),
                version: envelope.key_version,
            });
        };
        unwrap(&version.material.0, envelope, binding)
    }

    fn authorise(
        &self,
        envelope: &Envelope,
        _binding: Binding,
        _access: &Access<'_>,
        _cached: bool,
    ) -> Result<(), KeyError> {
        self.check_id(&self.current(), envelope)
    }

    fn maintain(&self, now: u64) -> Result<(), KeyError> {
        self.rotate_if_due(now).map(drop)
    }
}

/// The record: a volume's key.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ManagedKey {
    volume: VolumeId,
    key_id: KeyId,
    /// Ascending by number, never empty.
    versions: Vec<Version>,
}

/// One version of the material.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Version {
    version: u32,
    /// In seconds since 1970-01-01 UTC.
    created: u64,
    material: Material,
}

impl Record for ManagedKey {
    const KIND: &'static str = "managed";
}

impl ManagedKey {
    fn create(volume: VolumeId, now: u64) -> Self {
        Self { volume, key_id: KeyId::random(), versions: vec![Version::random(1, now)] }
    }

    fn newest(&self) -> &Version {
        self.versions.last().expect("a key that was read has a version")
    }

    fn version(&self, version: u32) -> Option<&Version> {
        let at = self.versions.binary_search_by_key(&version, |found| found.version).ok()?;
        Some(&self.versions[at])
    }

    fn is_due(&self, rotation_days: u32, now: u64) -> bool {
        let age = now.saturating_sub(self.newest().created);
        rotation_days > 0 && age >= u64::from(rotation_days) * SECONDS_PER_DAY && self.has_room()
    }

    /// Whether one more version can be numbered, and the record with it read again.
    fn has_room(&self) -> bool {
        self.newest().version < u32::MAX && self.versions.len() < MAX_VERSIONS
    }

    fn rotate(&mut self, now: u64) -> u32 {
        let version = self.newest().version + 1;
        self.versions.push(Version::random(version, now));
        version
    }
}

impl Version {
    fn random(version: u32, now: u64) -> Self {
        Self { version, created: now, material: Material(Secret::random()) }
    }
}

fn read(keystore: &Keystore, volume: VolumeId) -> Result<ManagedKey, KeyError> {
    let key: ManagedKey = keystore
        .read(&volume.to_string())?
        .ok_or_else(|| not_found(keystore, volume, KeyId(format!("of volume {volume}"))))?;
    let ascending = key.versions.is_sorted_by(|a, b| a.version < b.version);
    if key.volume != volume || key.versions.is_empty() || !ascending {
        let path: PathBuf = keystore.path().to_owned();
        let problem = format!("the managed key of volume {volume} is malformed");
        return Err(KeyError::Damaged { path, problem });
    }
    Ok(key)
}

/// Puts a key in place of what there is: written beside it, recorded in the audit log, and then
/// made visible, so that no change is without its record.
fn put(
    lock: &KeystoreLock<'_>,
    audit: &AuditLog,
    event: &'static str,
    key: &ManagedKey,
) -> Result<(), KeyError> {
    let staged = lock.stage(&key.volume.to_string(), key)?;
    let staged = staged.expect("the number of versions bounds the record");
    audit.record(&Event {
        name: event,
        read_only: false,
        identity: &Identity::own(),
        target: None,
        key_id: Some(&key.key_id),
        key_version: Some(key.newest().version),
        context: &BTreeMap::new(),
        cache_hit: None,
        error: None,
        parameters: BTreeMap::from([
            ("mode", Mode::Managed.name().into()),
            ("volumeId", key.volume.to_string().into()),
        ]),
        additional: BTreeMap::new(),
    })?;
    staged.publish()
}

fn not_found(keystore: &Keystore, volume: VolumeId, key_id: KeyId) -> KeyError {
    let hint = format!(
        "the keystore {} does not hold it for volume {volume}: give the one that was used before \
         with --keystore, or put it back from a backup",
        keystore.path().display()
    );
    KeyError::NotFound { key_id, hint }
}

const PROVIDER: &str = "keystore";
/// Eleven years of daily rotation; the record stays well below its longest.
const MAX_VERSIONS: usize = 4096;
const SECONDS_PER_DAY: u64 = 24 * 60 * 60;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::FileId;

    const VOLUME: VolumeId = VolumeId([1; 16]);
    const BINDING: Binding = Binding { volume: VOLUME, file: FileId([2; 16]) };
    const START: u64 = 1_700_000_000;
    const DUE: u64 = START + 90 * SECONDS_PER_DAY;

    fn access() -> Access<'static> {
        Access::own(&PathBuf::new)
    }

    fn keystore(scratch: &tempfile::TempDir) -> Arc<Keystore> {
        Arc::new(Keystore::open_or_create(&scratch.path().join("k")).unwrap())
    }

    fn open(scratch: &tempfile::TempDir, now: u64) -> ManagedProvider {
        ManagedProvider::open(keystore(scratch), VOLUME, 90, now).unwrap()
    }

    #[test]
    fn the_key_is_made_once_and_found_again() {
        let scratch = tempfile::tempdir().unwrap();
        assert!(!ManagedProvider::exists(&keystore(&scratch), VOLUME).unwrap());
        let missing = ManagedProvider::open_existing(keystore(&scratch), VOLUME, 90, START);
        assert!(matches!(missing, Err(KeyError::NotFound { .. })));
        assert!(!ManagedProvider::exists(&keystore(&scratch), VOLUME).unwrap());

        let first = open(&scratch, START);
        let made = first.generate(BINDING, &access()).unwrap();
        assert_eq!(made.envelope.provider, "keystore");
        assert_eq!((made.envelope.mode, made.envelope.key_version), (Mode::Managed, 1));
        let second = open(&scratch, START);
        assert_eq!(second.key_id(), first.key_id());
        let dek = second.unwrap(&made.envelope, BINDING, &access()).unwrap();
        assert!(dek.equals(&made.dek));
        let other = ManagedProvider::open(keystore(&scratch), VolumeId([9; 16]), 90, START);
        assert_ne!(other.unwrap().key_id(), first.key_id());
    }

    #[test]
    fn it_rotates_by_age_and_old_versions_still_unwrap() {
        let scratch = tempfile::tempdir().unwrap();
        let provider = open(&scratch, START);
        let old = provider.generate(BINDING, &access()).unwrap();
        assert!(!provider.rotate_if_due(DUE - 1).unwrap());
        assert!(!provider.rotate_if_due(0).unwrap(), "a clock set back rotates nothing");
        assert!(provider.rotate_if_due(DUE).unwrap());
        assert!(!provider.rotate_if_due(DUE).unwrap());
        let new = provider.generate(BINDING, &access()).unwrap();
        assert_eq!((old.envelope.key_version, new.envelope.key_version), (1, 2));
        assert_eq!(old.envelope.key_id, new.envelope.key_id);
        for made in [&old, &new] {
            let dek = provider.unwrap(&made.envelope, BINDING, &access()).unwrap();
            assert!(dek.equals(&made.dek));
        }
        let at_open = open(&scratch, DUE + 90 * SECONDS_PER_DAY);
        assert_eq!(at_open.newest_version(), 3);
        let never = ManagedProvider::open(keystore(&scratch), VOLUME, 0, u64::MAX).unwrap();
        assert_eq!(never.newest_version(), 3);
    }

    #[test]
    fn a_rotation_by_another_process_is_noticed() {
        let scratch = tempfile::tempdir().unwrap();
        let (here, there) = (open(&scratch, START), open(&scratch, START));
        assert!(there.rotate_if_due(DUE).unwrap());
        let made = there.generate(BINDING, &access()).unwrap();
        let dek = here.unwrap(&made.envelope, BINDING, &access()).unwrap();
        assert!(dek.equals(&made.dek));
        assert_eq!(here.newest_version(), 2);
        assert!(!here.rotate_if_due(DUE).unwrap(), "rotated already");
    }

    #[test]
    fn processes_that_rotate_at_once_add_one_version() {
        let scratch = tempfile::tempdir().unwrap();
        open(&scratch, START);
        let providers: Vec<_> = (0..8).map(|_| open(&scratch, START)).collect();
        let rotated: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = providers
                .iter()
                .map(|provider| scope.spawn(|| provider.rotate_if_due(DUE).unwrap()))
                .collect();
            threads.into_iter().map(|thread| usize::from(thread.join().unwrap())).sum()
        });
        assert_eq!(rotated, 1);
        let made: Vec<_> =
            providers.iter().map(|one| one.generate(BINDING, &access()).unwrap()).collect();
        for (provider, made) in providers.iter().zip(made.iter().rev()) {
            assert_eq!(provider.newest_version(), 2);
            let dek = provider.unwrap(&made.envelope, BINDING, &access()).unwrap();
            assert!(dek.equals(&made.dek));
        }
    }

    #[test]
    fn a_missing_version_or_key_is_refused_and_not_replaced() {
        let scratch = tempfile::tempdir().unwrap();
        let provider = open(&scratch, START);
        let made = provider.generate(BINDING, &access()).unwrap();
        let newer = Envelope { key_version: 2, ..made.envelope.clone() };
        let refused = provider.unwrap(&newer, BINDING, &access());
        assert!(matches!(refused, Err(KeyError::VersionNotFound { version: 2, .. })));
        assert_eq!(open(&scratch, START).newest_version(), 1);
        let foreign = Envelope { key_id: KeyId::random(), ..made.envelope.clone() };
        let refused = provider.unwrap(&foreign, BINDING, &access());
        assert!(matches!(refused, Err(KeyError::NotFound { .. })));
        let refused = provider.authorise(&foreign, BINDING, &access(), false);
        assert!(matches!(refused, Err(KeyError::NotFound { .. })));
        assert!(provider.authorise(&made.envelope, BINDING, &access(), false).is_ok());
    }

    #[test]
    fn a_record_of_another_volume_does_not_stand_in() {
        let scratch = tempfile::tempdir().unwrap();
        let provider = open(&scratch, START);
        let other = VolumeId([9; 16]);
        let dir = provider.keystore.path();
        std::fs::copy(
            dir.join(format!("managed-{VOLUME}.record")),
            dir.join(format!("managed-{other}.record")),
        )
        .unwrap();
        let refused = ManagedProvider::open(keystore(&scratch), other, 90, START);
        assert!(matches!(refused, Err(KeyError::Damaged { .. })));
    }

    #[test]
    fn a_keystore_that_cannot_be_written_delays_the_rotation_only() {
        let scratch = tempfile::tempdir().unwrap();
        let lock = open(&scratch, START).keystore.path().join("lock");
        std::fs::remove_file(&lock).unwrap();
        std::fs::create_dir(&lock).unwrap();
        let provider = open(&scratch, DUE);
        assert_eq!(provider.newest_version(), 1);
        assert!(matches!(provider.rotate_if_due(DUE), Err(KeyError::Io { .. })));
        assert_eq!(provider.newest_version(), 1);
        std::fs::remove_dir(&lock).unwrap();
        assert!(provider.rotate_if_due(DUE).unwrap());
    }

    #[test]
    fn an_unsafe_keystore_is_refused_and_nothing_changes() {
        use std::os::unix::fs::PermissionsExt;
        let scratch = tempfile::tempdir().unwrap();
        let provider = open(&scratch, START);
        let lock = provider.keystore.path().join("lock");
        std::fs::set_permissions(&lock, std::fs::Permissions::from_mode(0o666)).unwrap();
        assert!(matches!(provider.rotate_if_due(DUE), Err(KeyError::Unsafe { .. })));
        assert_eq!(provider.newest_version(), 1);
    }
}
