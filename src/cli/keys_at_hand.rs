//! Keys for work on a volume that exists: its keystore, opened when it is first needed, and a
//! supplied key.

use std::cell::OnceCell;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::exit::{Exit, Failure, Outcome};
use super::kms_options::KmsChoices;
use super::unlock::{
    KeyOrigin, key_file_failure, key_from_descriptor, keystore_failure, kms_provider, now,
};
use crate::format::{KeyId, VolumeId};
use crate::keys::audit::{AuditLog, AuditOptions};
use crate::keys::kms::{KmsProvider, LocalKms};
use crate::keys::{KeyError, Keystore, ManagedProvider, Passphrase, SuppliedSource, read_key_file};

/// The keystore, opened when it is first needed: its passphrase is asked for once.
pub struct KeystoreAtHand {
    path: PathBuf,
    backing: PathBuf,
    opened: OnceCell<Arc<Keystore>>,
}

impl KeystoreAtHand {
    /// The one at `path`, for the volume in `backing`.
    pub fn new(path: PathBuf, backing: PathBuf) -> Self {
        Self { path, backing, opened: OnceCell::new() }
    }

    /// The CMK that an alias names now.
    pub fn resolve_alias(&self, name: &str) -> Outcome<KeyId> {
        let keystore = self.open()?;
        let audit = Arc::new(AuditLog::open(Arc::clone(&keystore), AuditOptions::default())?);
        Ok(LocalKms::new(keystore, audit).resolve(name)?)
    }

    /// Opens it.
    pub fn open(&self) -> Outcome<Arc<Keystore>> {
        self.opened_by(|path| {
            if Keystore::is_protected(path)? {
                let prompt = format!("Passphrase of the keystore {}: ", path.display());
                return Keystore::open_protected(path, &Passphrase::prompt(&prompt)?);
            }
            Keystore::open(path)
        })
    }

    /// Opens it, or makes it.
    pub fn open_or_create(&self) -> Outcome<Arc<Keystore>> {
        match self.path.is_dir() {
            true => self.open(),
            false => self.opened_by(Keystore::open_or_create),
        }
    }

    /// The managed key that a volume has.
    pub fn managed(&self, volume: VolumeId) -> Outcome<ManagedProvider> {
        Ok(ManagedProvider::open_existing(self.open()?, volume, NO_ROTATION, now())?)
    }

    /// The CMKs of it; `default_key` is the one to wrap by.
    pub fn kms(&self, volume: VolumeId, default_key: Option<&str>) -> Outcome<KmsProvider> {
        Ok(kms_provider(self.open()?, volume, default_key, &KmsChoices::default())?)
    }

    fn opened_by(
        &self,
        open: impl FnOnce(&Path) -> Result<Keystore, KeyError>,
    ) -> Outcome<Arc<Keystore>> {
        if let Some(opened) = self.opened.get() {
            return Ok(Arc::clone(opened));
        }
        if Keystore::would_lie_within(&self.path, &self.backing) {
            return Err(Failure::new(
                Exit::Keystore,
                format!("{}: the keystore lies in the backing directory", self.path.display()),
            ));
        }
        let opened = Arc::new(open(&self.path).map_err(keystore_failure)?);
        Ok(Arc::clone(self.opened.get_or_init(|| opened)))
    }
}

/// A supplied key from where it comes; a passphrase is asked for with this prompt.
pub fn supplied(
    origin: &KeyOrigin,
    ask: impl Fn(&str) -> Result<Passphrase, KeyError>,
    prompt: &str,
) -> Outcome<SuppliedSource> {
    Ok(match origin {
        KeyOrigin::File(path) => {
            SuppliedSource::Key(read_key_file(path).map_err(key_file_failure)?)
        }
        KeyOrigin::Descriptor(number) => SuppliedSource::Key(key_from_descriptor(*number)?),
        KeyOrigin::Passphrase => SuppliedSource::Passphrase(ask(prompt)?),
    })
}

/// Asks for the passphrase that a volume has.
pub const PROMPT: &str = "Passphrase of this volume: ";
/// Rotation is for mounts.
pub const NO_ROTATION: u32 = 0;
