//! From a backing directory and what the user brings to an open volume: which keys there are,
//! whether they are the right ones, and on first use the making of the volume.
//!
//! A wrong key, an unsafe keystore or a foreign directory is refused before the backing
//! directory is changed.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::args::ModeName;
use super::exit::{Exit, Failure, Outcome};
use super::kms_options::KmsChoices;
use crate::crypto::Secret;
use crate::format::{Descriptor, FORMAT_VERSION, KeyId, Mode, SuppliedVerifier, VolumeId};
use crate::keys::audit::AuditLog;
use crate::keys::kms::{KmsProvider, LocalKms};
use crate::keys::{
    DekCache, KeyError, KeyProvider, Keyring, Keystore, ManagedProvider, Passphrase,
    SuppliedProvider, SuppliedSource, read_key, read_key_file,
};
use crate::store::tree::DiskTree;
use crate::volume::{DirectoryKind, Durability, Volume, VolumeDirectory, VolumeError, VolumeUse};

/// What is asked for.
#[derive(Debug, Clone)]
pub struct UnlockPlan {
    /// The backing directory, absolute.
    pub backing: PathBuf,
    /// Mode of new files.
    pub mode: Mode,
    /// Where the key of supplied mode comes from.
    pub source: Option<KeyOrigin>,
    /// The keystore's directory.
    pub keystore: PathBuf,
    /// Whether the keystore, if it is still to be made, gets a passphrase.
    pub protect_keystore: bool,
    /// Age in days at which managed keys rotate, 0 for never.
    pub rotation_days: u32,
    /// The options of kms mode.
    pub kms: KmsChoices,
    /// Bounds of the cache of DEKs.
    pub cache_entries: usize,
    /// How long a DEK stays in the cache.
    pub cache_ttl: Duration,
    /// Whether the volume is only read.
    pub read_only: bool,
    /// What is promised for the time after a power cut.
    pub durability: Durability,
}

/// Where a supplied key comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyOrigin {
    /// A file, or standard input for `-`.
    File(PathBuf),
    /// An inherited descriptor.
    Descriptor(i32),
    /// A prompt.
    Passphrase,
}

/// The mode of the command line as the format names it.
pub fn mode(name: ModeName) -> Mode {
    match name {
        ModeName::Managed => Mode::Managed,
        ModeName::Kms => Mode::Kms,
        ModeName::Supplied => Mode::Supplied,
    }
}

/// Opens the volume, making it in an empty directory. `holder` tells who has it.
pub fn unlock(tree: Arc<DiskTree>, plan: &UnlockPlan, holder: &str) -> Outcome<Arc<Volume>> {
    let named = |error: VolumeError| name_directory(error, &plan.backing);
    let kind = VolumeDirectory::examine(&tree).map_err(named)?;
    match kind {
        DirectoryKind::Foreign => return Err(foreign(&plan.backing)),
        DirectoryKind::Empty if plan.read_only => {
            return Err(Failure::new(
                Exit::Backing,
                format!(
                    "{}: there is no volume yet, and a read-only mount cannot make one",
                    plan.backing.display()
                ),
            ));
        }
        DirectoryKind::Empty | DirectoryKind::Volume => {}
    }
    let mut brought = Brought::gather(plan, kind)?;
    let directory = VolumeDirectory::claim_patiently(tree, holder).map_err(named)?;
    match directory.descriptor().map_err(named)? {
        None => make(directory, plan, &mut brought),
        Some(descriptor) => open(directory, plan, &mut brought, descriptor),
    }
}

impl UnlockPlan {
    fn use_as(&self) -> VolumeUse {
        VolumeUse { read_only: self.read_only, durability: self.durability }
    }
}

fn make(
    directory: VolumeDirectory,
    plan: &UnlockPlan,
    brought: &mut Brought,
) -> Outcome<Arc<Volume>> {
    let volume_id = VolumeId::random();
    let (supplied, verifier) = match brought.supplied(true)?.filter(|_| is_supplied(plan)) {
        Some(source) => {
            let (key, verifier) = source.new_key()?;
            (Some(key), Some(verifier))
        }
        None => (None, None),
    };
    let managed = match &brought.keystore {
        Some(keystore) if plan.mode == Mode::Managed => {
            let days = plan.rotation_days;
            Some(ManagedProvider::open(Arc::clone(keystore), volume_id, days, now())?)
        }
        _ => None,
    };
    let kms = brought.kms_for(plan, volume_id, None)?;
    let keyring = keyring(plan, volume_id, managed, supplied, kms);
    let (volume_key, slot) = keyring.make_volume_key(volume_id, verifier)?;
    let descriptor = Descriptor {
        format_version: FORMAT_VERSION,
        volume_id,
        created: now(),
        key_slots: vec![slot],
    };
    directory
        .create(&descriptor, &volume_key)
        .map_err(|error| name_directory(error, &plan.backing))?;
    log::info!("{}: made volume {volume_id}", plan.backing.display());
    directory
        .start(&descriptor, &volume_key, keyring, plan.use_as())
        .map_err(|error| name_directory(error, &plan.backing))
}

fn open(
    directory: VolumeDirectory,
    plan: &UnlockPlan,
    brought: &mut Brought,
    mut descriptor: Descriptor,
) -> Outcome<Arc<Volume>> {
    let volume_id = descriptor.volume_id;
    // The supplied key first: when it is wrong, no managed key is made for nothing.
    let (supplied, verifier) = brought.supplied_for(plan, &descriptor)?;
    let known_key = descriptor.slots_of(Mode::Kms).next().map(|slot| slot.envelope.key_id.clone());
    let kms = match plan.mode == Mode::Kms || known_key.is_some() {
        true => brought.kms_for(plan, volume_id, known_key)?,
        false => None,
    };
    let has_other = supplied.is_some() || kms.is_some();
    let managed = brought.managed_for(plan, &descriptor, has_other)?;
    let keyring = keyring(plan, volume_id, managed, supplied, kms);
    let volume_key = keyring.open_volume_key(&descriptor)?;
    if descriptor.slots_of(plan.mode).next().is_none() && !plan.read_only {
        descriptor.key_slots.push(keyring.make_slot(volume_id, &volume_key, verifier)?);
        directory.update(&descriptor).map_err(|error| name_directory(error, &plan.backing))?;
        log::info!("volume {volume_id}: opened to mode {}", plan.mode);
    }
    directory
        .start(&descriptor, &volume_key, keyring, plan.use_as())
        .map_err(|error| name_directory(error, &plan.backing))
}

/// The keys that this mount can reach.
struct Brought {
    keystore: Option<Arc<Keystore>>,
    supplied: Option<SuppliedKey>,
}

enum SuppliedKey {
    Ready(SuppliedSource),
    /// Whether to ask for a passphrase once or twice shows in the descriptor.
    Ask,
}

impl Brought {
    fn gather(plan: &UnlockPlan, kind: DirectoryKind) -> Outcome<Self> {
        let supplied = match &plan.source {
            None if is_supplied(plan) => {
                return Err(Failure::new(
                    Exit::Usage,
                    "mode 'supplied' needs a key: give --key-file, --key-fd or --passphrase",
                ));
            }
            None => None,
            Some(KeyOrigin::Passphrase) if kind == DirectoryKind::Empty => {
                Some(SuppliedKey::Ready(SuppliedSource::Passphrase(new_passphrase()?)))
            }
            Some(KeyOrigin::Passphrase) => Some(SuppliedKey::Ask),
            Some(KeyOrigin::File(path)) => {
                let key = read_key_file(path).map_err(key_file_failure)?;
                Some(SuppliedKey::Ready(SuppliedSource::Key(key)))
            }
            Some(KeyOrigin::Descriptor(number)) => {
                Some(SuppliedKey::Ready(SuppliedSource::Key(key_from_descriptor(*number)?)))
            }
        };
        let keystore = match plan.mode {
            Mode::Managed | Mode::Kms => Some(Arc::new(open_keystore(plan, kind)?)),
            Mode::Supplied => keystore_at_hand(plan).map(Arc::new),
        };
        Ok(Self { keystore, supplied })
    }

    /// The supplied key, once; a passphrase is asked for, twice if it is `new`.
    fn supplied(&mut self, new: bool) -> Result<Option<SuppliedSource>, KeyError> {
        Ok(match self.supplied.take() {
            None => None,
            Some(SuppliedKey::Ready(source)) => Some(source),
            Some(SuppliedKey::Ask) if new => Some(SuppliedSource::Passphrase(new_passphrase()?)),
            Some(SuppliedKey::Ask) => {
                let asked = Passphrase::prompt("Passphrase of this volume: ")?;
                Some(SuppliedSource::Passphrase(asked))
            }
        })
    }

    fn supplied_for(
        &mut self,
        plan: &UnlockPlan,
        descriptor: &Descriptor,
    ) -> Outcome<(Option<Secret>, Option<SuppliedVerifier>)> {
        let known = descriptor.slots_of(Mode::Supplied).next().is_some();
        if !known && !is_supplied(plan) {
            return Ok((None, None));
        }
        Ok(match self.supplied(!known)? {
            None => (None, None),
            Some(source) if known => (Some(source.known_key(descriptor)?), None),
            Some(source) => {
                let (key, verifier) = source.new_key()?;
                (Some(key), Some(verifier))
            }
        })
    }

    fn managed_for(
        &self,
        plan: &UnlockPlan,
        descriptor: &Descriptor,
        has_other: bool,
    ) -> Outcome<Option<ManagedProvider>> {
        let Some(keystore) = &self.keystore else { return Ok(None) };
        let (volume_id, days) = (descriptor.volume_id, plan.rotation_days);
        let known = descriptor.slots_of(Mode::Managed).next().is_some();
        let keystore = Arc::clone(keystore);
        match plan.mode {
            Mode::Managed if known => {
                Ok(Some(ManagedProvider::open_existing(keystore, volume_id, days, now())?))
            }
            Mode::Managed if !has_other => Err(Failure::new(
                Exit::Key,
                format!(
                    "{}: this volume has been mounted with other keys only; mount it with \
                     '--mode {}', or give that key too",
                    plan.backing.display(),
                    descriptor.key_slots.first().map_or(Mode::Supplied, |slot| slot.envelope.mode)
                ),
            )),
            Mode::Managed if plan.read_only => Ok(None),
            Mode::Managed => Ok(Some(ManagedProvider::open(keystore, volume_id, days, now())?)),
            Mode::Kms | Mode::Supplied if known => {
                match ManagedProvider::open_existing(keystore, volume_id, days, now()) {
                    Ok(provider) => Ok(Some(provider)),
                    Err(error) => {
                        log::warn!("files of mode managed stay closed: {error}");
                        Ok(None)
                    }
                }
            }
            Mode::Kms | Mode::Supplied => Ok(None),
        }
    }

    /// The provider of kms mode; `known_key` is the CMK that wraps the volume key already. In a
    /// mount of another mode only for files that exist, and only if its keystore is at hand.
    fn kms_for(
        &self,
        plan: &UnlockPlan,
        volume: VolumeId,
        known_key: Option<KeyId>,
    ) -> Outcome<Option<KmsProvider>> {
        let Some(keystore) = &self.keystore else { return Ok(None) };
        let is_default = plan.mode == Mode::Kms;
        let named = plan.kms.key_id.clone().or(known_key.map(|key_id| key_id.0));
        if is_default && named.is_none() {
            return Err(Failure::new(
                Exit::Usage,
                "mode 'kms' needs the key of new files: make one with 'ssefs key create' and give \
                 its id or alias with --key-id",
            ));
        }
        let default_key = named.as_deref().filter(|_| is_default);
        match kms_provider(Arc::clone(keystore), volume, default_key, &plan.kms) {
            Ok(provider) => {
                if let Err(error) = keystore.remember_volume(volume, &plan.backing, now()) {
                    log::warn!("the keystore does not note that this volume uses it: {error}");
                }
                Ok(Some(provider))
            }
            Err(error) if is_default => Err(error.into()),
            Err(error) => {
                log::warn!("files of mode kms stay closed: {error}");
                Ok(None)
            }
        }
    }
}

/// The provider of kms mode over a keystore; `default_key` names the CMK of new files.
pub fn kms_provider(
    keystore: Arc<Keystore>,
    volume: VolumeId,
    default_key: Option<&str>,
    choices: &KmsChoices,
) -> Result<KmsProvider, KeyError> {
    let audit = Arc::new(AuditLog::open(Arc::clone(&keystore), choices.audit.clone())?);
    let kms = Arc::new(LocalKms::new(keystore, audit));
    KmsProvider::new(kms, default_key, volume, choices.provider_options())
}

fn new_passphrase() -> Result<Passphrase, KeyError> {
    Passphrase::prompt_new("New passphrase for this volume: ")
}

fn keyring(
    plan: &UnlockPlan,
    volume: VolumeId,
    managed: Option<ManagedProvider>,
    supplied: Option<Secret>,
    kms: Option<KmsProvider>,
) -> Keyring {
    let managed = managed.map(|provider| Box::new(provider) as Box<dyn KeyProvider>);
    let supplied =
        supplied.map(|key| Box::new(SuppliedProvider::new(key, volume)) as Box<dyn KeyProvider>);
    let kms = kms.map(|provider| Box::new(provider) as Box<dyn KeyProvider>);
    let providers = managed.into_iter().chain(supplied).chain(kms).collect();
    Keyring::new(providers, plan.mode, DekCache::new(plan.cache_entries, plan.cache_ttl))
}

fn open_keystore(plan: &UnlockPlan, kind: DirectoryKind) -> Outcome<Keystore> {
    let path = &plan.keystore;
    if Keystore::would_lie_within(path, &plan.backing) {
        return Err(Failure::new(
            Exit::Keystore,
            format!(
                "{}: the keystore lies in the backing directory, beside what its keys protect; \
                 choose another place with --keystore",
                path.display()
            ),
        ));
    }
    let opened = if Keystore::is_protected(path).map_err(keystore_failure)? {
        let prompt = format!("Passphrase of the keystore {}: ", path.display());
        Keystore::open_protected(path, &Passphrase::prompt(&prompt)?)
    } else if plan.protect_keystore && !has_entries(path) {
        let prompt = format!("New passphrase for the keystore {}: ", path.display());
        Keystore::create_protected(path, &Passphrase::prompt_new(&prompt)?)
    } else if plan.protect_keystore {
        return Err(Failure::new(
            Exit::Keystore,
            format!("{}: the keystore has no passphrase", path.display()),
        ));
    } else if kind == DirectoryKind::Empty && plan.mode == Mode::Managed {
        Keystore::open_or_create(path)
    } else if plan.mode == Mode::Kms && !path.exists() {
        return Err(Failure::new(
            Exit::Keystore,
            format!(
                "{}: there is no keystore yet; 'ssefs key create' makes one with a first key, \
                 --keystore or $SSEFS_KEYSTORE names another",
                path.display()
            ),
        ));
    } else {
        Keystore::open(path)
    };
    opened.map_err(keystore_failure)
}

/// The keystore for files of managed mode, in a mount of another mode: if it is there and needs
/// no passphrase.
fn keystore_at_hand(plan: &UnlockPlan) -> Option<Keystore> {
    let path = &plan.keystore;
    let usable = path.is_dir()
        && !Keystore::would_lie_within(path, &plan.backing)
        && matches!(Keystore::is_protected(path), Ok(false));
    match usable.then(|| Keystore::open(path))? {
        Ok(keystore) => Some(keystore),
        Err(error) => {
            log::debug!("the keystore is left alone: {error}");
            None
        }
    }
}

pub(super) fn key_from_descriptor(number: i32) -> Outcome<Secret> {
    let name = format!("descriptor {number}");
    let file = crate::sys::fd::take(number).map_err(|_| {
        Failure::new(
            Exit::Key,
            format!("--key-fd {number}: no descriptor of that number was passed to this command"),
        )
    })?;
    read_key(file, &name).map_err(key_file_failure)
}

/// Whatever is wrong with a key file, it is the key and not the keystore.
pub(super) fn key_file_failure(error: KeyError) -> Failure {
    Failure::new(Exit::Key, format!("key: {error}"))
}

pub(super) fn keystore_failure(error: KeyError) -> Failure {
    let exit = match &error {
        // A passphrase that is missing or wrong.
        KeyError::Unusable(_) => Exit::Key,
        _ => Exit::Keystore,
    };
    let hint = match &error {
        KeyError::Io { source, .. } if source.kind() == io::ErrorKind::NotFound => {
            "; give the keystore that the volume was made with, with --keystore"
        }
        _ => "",
    };
    Failure::new(exit, format!("keystore: {error}{hint}"))
}

/// What is wrong with a volume names its directory; what is wrong with a key does not.
pub(super) fn name_directory(error: VolumeError, backing: &Path) -> Failure {
    let is_key = matches!(error, VolumeError::Key(_));
    let failure = Failure::from(error);
    if is_key {
        return failure;
    }
    Failure::new(failure.exit, format!("{}: {}", backing.display(), failure.message))
}

fn foreign(backing: &Path) -> Failure {
    Failure::new(
        Exit::Backing,
        format!(
            "{}: holds files but is not a volume; give an empty directory, mount it, and copy \
             the files into the mount",
            backing.display()
        ),
    )
}

fn is_supplied(plan: &UnlockPlan) -> bool {
    plan.mode == Mode::Supplied
}

fn has_entries(path: &Path) -> bool {
    std::fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_some())
}

/// Seconds since 1970-01-01 UTC.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
