//! The keys that a check needs: all that files of the volume may have, as far as they are at
//! hand.

use crate::cli::exit::{Exit, Failure, Outcome};
use crate::cli::keys_at_hand::{KeystoreAtHand, PROMPT, supplied};
use crate::cli::unlock::KeyOrigin;
use crate::crypto::Secret;
use crate::format::{Descriptor, FileId, Mode};
use crate::keys::{
    Access, Binding, DekCache, KeyError, KeyProvider, Keyring, Passphrase, SuppliedProvider,
};

/// Gathers them. One that is missing leaves its files unchecked; none at all is a failure.
pub fn gather(
    descriptor: &Descriptor,
    origin: Option<&KeyOrigin>,
    keystore: &KeystoreAtHand,
) -> Outcome<Keyring> {
    let volume = descriptor.volume_id;
    let mut providers: Vec<Box<dyn KeyProvider>> = Vec::new();
    let mut missing = None;
    if let Some(origin) = origin {
        let key = supplied(origin, Passphrase::prompt, PROMPT)?.known_key(descriptor)?;
        providers.push(Box::new(SuppliedProvider::new(key, volume)));
    }
    let has = |mode| descriptor.slots_of(mode).next().is_some();
    if has(Mode::Managed) {
        match keystore.managed(volume) {
            Ok(provider) => providers.push(Box::new(provider)),
            Err(failure) => missing = Some(failure),
        }
    }
    if has(Mode::Kms) {
        match keystore.kms(volume, None) {
            Ok(provider) => providers.push(Box::new(provider)),
            Err(failure) => missing = Some(failure),
        }
    }
    match (providers.first().map(|provider| provider.mode()), missing) {
        (Some(mode), missing) => {
            if let Some(failure) = missing {
                log::warn!("some files cannot be checked: {}", failure.message);
            }
            // Each file's DEK is needed once.
            Ok(Keyring::new(providers, mode, DekCache::new(0, DekCache::DEFAULT_TTL)))
        }
        (None, Some(failure)) => Err(failure),
        (None, None) => Err(Failure::new(
            Exit::Key,
            "no key of this volume was given: give --key-file, --key-fd or --passphrase",
        )),
    }
}

/// What is wrong with key slots of the descriptor whose keys are at hand.
pub fn damaged_slots(
    descriptor: &Descriptor,
    volume_key: &Secret,
    keyring: &Keyring,
) -> Vec<String> {
    let binding = Binding { volume: descriptor.volume_id, file: FileId::VOLUME };
    let root = || "/".into();
    let access = Access::check(&root);
    let mut damaged = Vec::new();
    for (index, slot) in descriptor.key_slots.iter().enumerate() {
        let key_id = &slot.envelope.key_id;
        match keyring.dek(&slot.envelope, binding, &access) {
            Ok(key) if key.equals(volume_key) => {}
            Ok(_) => damaged.push(format!("key slot {index} ({key_id}) holds another volume key")),
            Err(error @ KeyError::UnwrapFailed { .. }) => {
                damaged.push(format!("key slot {index}: {error}"));
            }
            // Of a key that is not at hand nothing can be said.
            Err(_) => {}
        }
    }
    damaged
}
