//! The keys that a rewrap needs: those that files have, as far as they were given, and the one
//! that they are to have.

use std::path::Path;

use super::args::{Destination, RewrapArgs};
use super::plan::Selection;
use crate::cli::exit::{Exit, Failure, Outcome};
use crate::cli::keys_at_hand::{KeystoreAtHand, NO_ROTATION, PROMPT, supplied};
use crate::cli::unlock::now;
use crate::crypto::Secret;
use crate::format::{Descriptor, KeyId, Mode, SuppliedVerifier};
use crate::keys::kms::KmsProvider;
use crate::keys::{
    DekCache, KeyError, KeyProvider, Keyring, ManagedProvider, Passphrase, SuppliedProvider,
    SuppliedSource, supplied_key_id,
};

/// The keys, ready for use.
pub struct Keys {
    /// Unwraps what files have; its default mode wraps what they are to have.
    pub keyring: Keyring,
    /// The CMK to wrap by, where the destination is one.
    pub cmk: Option<KeyId>,
    /// For a supplied key that is new to the volume: what tells it later.
    pub verifier: Option<SuppliedVerifier>,
}

/// What is to be gathered.
pub struct Gathering<'a> {
    /// The volume's descriptor.
    pub descriptor: &'a Descriptor,
    /// The command line.
    pub args: &'a RewrapArgs,
    /// Which files are meant.
    pub selection: &'a Selection,
    /// Where they go.
    pub destination: &'a Destination,
    /// The keystore.
    pub keystore: &'a KeystoreAtHand,
    /// The backing directory.
    pub backing: &'a Path,
}

impl Gathering<'_> {
    /// Reads keys and asks for passphrases. Makes no key unless the volume can be opened.
    pub fn keys(&self) -> Outcome<Keys> {
        let volume = self.descriptor.volume_id;
        let from = self.args.old_key_origin();
        let from = from.map(|origin| supplied(&origin, Passphrase::prompt, PROMPT)).transpose()?;
        let to = match self.destination {
            Destination::Supplied(origin) => {
                Some(supplied(origin, Passphrase::prompt_new, NEW_PROMPT)?)
            }
            _ => None,
        };
        let known = to.as_ref().map(|source| self.known(source)).transpose()?.flatten();
        let opens = known.is_some()
            || *self.destination == Destination::Managed && self.has_slot(Mode::Managed);
        let known_id = known.as_ref().map(|key| supplied_key_id(key, volume));
        let mut supplied_slots = self.descriptor.slots_of(Mode::Supplied);
        let others = supplied_slots.any(|slot| Some(&slot.envelope.key_id) != known_id.as_ref());
        let had = self.had(from, opens && !others)?;
        let none_given =
            had.is_empty() && !opens && !matches!(self.destination, Destination::Kms(_));
        if none_given {
            return Err(Failure::new(
                Exit::Key,
                "no key of this volume was given: give --from-key-file, --from-key-fd or \
                 --from-passphrase, or its keystore",
            ));
        }
        let (mut verifier, mut cmk) = (None, None);
        let wrapping: Option<Box<dyn KeyProvider>> = match (self.destination, to) {
            (Destination::Managed, _) => Some(Box::new(self.managed_to_wrap()?)),
            (Destination::Kms(name), _) => {
                let (provider, key_id) = self.kms_to_wrap(name)?;
                cmk = Some(key_id);
                Some(provider)
            }
            (_, Some(source)) => {
                let key = match known {
                    Some(key) => key,
                    None => {
                        let (key, made) = source.new_key()?;
                        verifier = Some(made);
                        key
                    }
                };
                Some(Box::new(SuppliedProvider::new(key, volume)))
            }
            (_, None) => None,
        };
        // The first provider of a mode is the one that wraps.
        let providers: Vec<_> = wrapping.into_iter().chain(had).collect();
        let mode = providers.first().map_or(Mode::Managed, |provider| provider.mode());
        // Each file's DEK is needed once.
        let keyring = Keyring::new(providers, mode, DekCache::new(0, DekCache::DEFAULT_TTL));
        Ok(Keys { keyring, cmk, verifier })
    }

    /// The keys that files have, but for the destination's. With `moved_before` the supplied one
    /// may have been taken from the volume already.
    fn had(
        &self,
        from: Option<SuppliedSource>,
        moved_before: bool,
    ) -> Outcome<Vec<Box<dyn KeyProvider>>> {
        let mut providers: Vec<Box<dyn KeyProvider>> = Vec::new();
        if let Some(source) = from {
            let volume = self.descriptor.volume_id;
            match self.known(&source)? {
                Some(key) => providers.push(Box::new(SuppliedProvider::new(key, volume))),
                // As when a move that was complete is asked for once more.
                None if moved_before => log::warn!(
                    "the supplied key that files are to have had opens this volume no longer"
                ),
                // For the error, which tells more.
                None => {
                    let key = source.known_key(self.descriptor)?;
                    providers.push(Box::new(SuppliedProvider::new(key, volume)));
                }
            }
        }
        if *self.destination != Destination::Managed
            && self.has_slot(Mode::Managed)
            && !matches!(self.selection, Selection::Mode(Mode::Supplied | Mode::Kms))
        {
            match self.managed_at_hand() {
                Ok(provider) => providers.push(Box::new(provider)),
                // Files of other modes can be moved all the same; these are then left.
                Err(failure) => log::warn!("files of mode managed are left: {}", failure.message),
            }
        }
        if !matches!(self.destination, Destination::Kms(_)) && self.has_slot(Mode::Kms) {
            providers.extend(self.kms_at_hand());
        }
        Ok(providers)
    }

    /// The key if a verifier of the volume knows it, as it does when a rewrap is taken up again.
    fn known(&self, source: &SuppliedSource) -> Outcome<Option<Secret>> {
        let passphrase = matches!(source, SuppliedSource::Passphrase(_));
        let slots = self.descriptor.slots_of(Mode::Supplied);
        let mut verifiers = slots.filter_map(|slot| slot.supplied.as_ref());
        if !verifiers.any(|verifier| verifier.argon2id.is_some() == passphrase) {
            return Ok(None);
        }
        match source.known_key(self.descriptor) {
            Ok(key) => Ok(Some(key)),
            Err(KeyError::WrongKey) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn managed_to_wrap(&self) -> Outcome<ManagedProvider> {
        if self.has_slot(Mode::Managed) {
            return self.managed_at_hand();
        }
        let keystore = self.keystore.open_or_create()?;
        Ok(ManagedProvider::open(keystore, self.descriptor.volume_id, NO_ROTATION, now())?)
    }

    fn managed_at_hand(&self) -> Outcome<ManagedProvider> {
        self.keystore.managed(self.descriptor.volume_id)
    }

    fn kms_to_wrap(&self, name: &str) -> Outcome<(Box<dyn KeyProvider>, KeyId)> {
        let provider = self.kms(Some(name))?;
        let key_id = provider.default_key()?;
        // Before the first file needs the key, so that its deletion is refused.
        let volume = self.descriptor.volume_id;
        self.keystore.open()?.remember_volume(volume, self.backing, now())?;
        Ok((Box::new(provider), key_id))
    }

    fn kms_at_hand(&self) -> Option<Box<dyn KeyProvider>> {
        match self.kms(None) {
            Ok(provider) => Some(Box::new(provider)),
            Err(failure) => {
                log::warn!("files of mode kms are left: {}", failure.message);
                None
            }
        }
    }

    fn kms(&self, default_key: Option<&str>) -> Outcome<KmsProvider> {
        self.keystore.kms(self.descriptor.volume_id, default_key)
    }

    fn has_slot(&self, mode: Mode) -> bool {
        self.descriptor.slots_of(mode).next().is_some()
    }
}

const NEW_PROMPT: &str = "New passphrase for this volume: ";
