//! The volume key in the descriptor's key slots: made once as a DEK that belongs to no file,
//! wrapped once for each mode. Opening a slot is how a wrong keystore or key is told before
//! anything is touched. The volume key never enters the cache.

use std::path::PathBuf;

use super::error::KeyError;
use super::keyring::Keyring;
use super::provider::{Access, Binding};
use crate::crypto::Secret;
use crate::format::{Descriptor, FileId, KeySlot, Mode, SuppliedVerifier, VolumeId};

impl Keyring {
    /// Makes the volume key of a new volume, with its slot in the default mode. `supplied` is
    /// the verifier of the key in supplied mode.
    pub fn make_volume_key(
        &self,
        volume: VolumeId,
        supplied: Option<SuppliedVerifier>,
    ) -> Result<(Secret, KeySlot), KeyError> {
        let volume_key = Secret::random();
        let slot = self.make_slot(volume, &volume_key, supplied)?;
        Ok((volume_key, slot))
    }

    /// A slot for the volume key in the default mode, for a volume that has not been mounted in
    /// it before.
    pub fn make_slot(
        &self,
        volume: VolumeId,
        volume_key: &Secret,
        supplied: Option<SuppliedVerifier>,
    ) -> Result<KeySlot, KeyError> {
        assert_eq!(
            supplied.is_some(),
            self.default_mode() == Mode::Supplied,
            "a verifier belongs to a supplied key"
        );
        let envelope =
            self.wrap(volume_key, None, volume_binding(volume), &Access::own(&volume_root))?;
        Ok(KeySlot { envelope, supplied })
    }

    /// Opens the volume key, by a slot of the default mode if there is one. When none opens,
    /// the error is of the slot that came nearest.
    pub fn open_volume_key(&self, descriptor: &Descriptor) -> Result<Secret, KeyError> {
        let binding = volume_binding(descriptor.volume_id);
        let access = Access::own(&volume_root);
        let default_mode = self.default_mode();
        let (first, second): (Vec<_>, Vec<_>) =
            descriptor.key_slots.iter().partition(|slot| slot.envelope.mode == default_mode);
        let mut nearest: Option<KeyError> = None;
        for slot in first.into_iter().chain(second) {
            match self.dek_uncached(&slot.envelope, binding, &access) {
                Ok(volume_key) => return Ok(volume_key),
                Err(error) => {
                    if nearest.as_ref().is_none_or(|found| nearness(&error) > nearness(found)) {
                        nearest = Some(error);
                    }
                }
            }
        }
        Err(nearest
            .unwrap_or_else(|| KeyError::Unusable("the volume descriptor has no key slots".into())))
    }
}

fn volume_binding(volume: VolumeId) -> Binding {
    Binding { volume, file: FileId::VOLUME }
}

fn volume_root() -> PathBuf {
    PathBuf::from("/")
}

/// How much an error tells of the key that the user meant: a slot of another mode tells nothing,
/// one of another key little.
const fn nearness(error: &KeyError) -> u8 {
    match error {
        KeyError::ModeNotAvailable { .. } => 0,
        KeyError::NotFound { .. } => 1,
        _ => 2,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::{
        DekCache, KeyProvider, Keystore, ManagedProvider, SuppliedProvider, supplied_verifier,
    };
    use super::*;

    const VOLUME: VolumeId = VolumeId([1; 16]);

    fn supplied(byte: u8) -> Box<dyn KeyProvider> {
        Box::new(SuppliedProvider::new(Secret::copy_from(&[byte; 32]), VOLUME))
    }

    fn managed(scratch: &tempfile::TempDir, name: &str) -> Box<dyn KeyProvider> {
        let keystore = Keystore::open_or_create(&scratch.path().join(name)).unwrap();
        Box::new(ManagedProvider::open(Arc::new(keystore), VOLUME, 90, 0).unwrap())
    }

    fn keyring(providers: Vec<Box<dyn KeyProvider>>) -> Keyring {
        let default_mode = providers[0].mode();
        Keyring::new(providers, default_mode, DekCache::new(8, DekCache::DEFAULT_TTL))
    }

    fn verifier(byte: u8) -> Option<SuppliedVerifier> {
        Some(supplied_verifier(&Secret::copy_from(&[byte; 32]), None))
    }

    fn descriptor(key_slots: Vec<KeySlot>) -> Descriptor {
        Descriptor { format_version: 1, volume_id: VOLUME, created: 0, key_slots }
    }

    #[test]
    fn each_mode_opens_the_same_volume_key() {
        let scratch = tempfile::tempdir().unwrap();
        let by_managed = keyring(vec![managed(&scratch, "k")]);
        let (volume_key, first) = by_managed.make_volume_key(VOLUME, None).unwrap();
        let both = keyring(vec![supplied(1), managed(&scratch, "k")]);
        let opened = both.open_volume_key(&descriptor(vec![first.clone()])).unwrap();
        assert!(opened.equals(&volume_key));
        let second = both.make_slot(VOLUME, &opened, verifier(1)).unwrap();
        assert_eq!(second.envelope.mode, Mode::Supplied);
        let descriptor = descriptor(vec![first, second]);
        let by_supplied = keyring(vec![supplied(1)]);
        for keyring in [by_managed, by_supplied, both] {
            assert!(keyring.open_volume_key(&descriptor).unwrap().equals(&volume_key));
            assert_eq!(keyring.stats().entries, 0, "it is not cached");
        }
    }

    #[test]
    fn refusals_tell_of_the_key_that_was_meant() {
        let scratch = tempfile::tempdir().unwrap();
        let (_, first) =
            keyring(vec![managed(&scratch, "k")]).make_volume_key(VOLUME, None).unwrap();
        let (_, second) = keyring(vec![supplied(1)]).make_volume_key(VOLUME, verifier(1)).unwrap();
        let both = descriptor(vec![first.clone(), second.clone()]);

        let wrong_keystore = keyring(vec![managed(&scratch, "other")]).open_volume_key(&both);
        let message = wrong_keystore.err().unwrap().to_string();
        assert!(message.contains("--keystore"), "{message}");
        let wrong_key = keyring(vec![supplied(2)]).open_volume_key(&both);
        assert!(matches!(wrong_key, Err(KeyError::NotFound { .. })));
        let other_mode = keyring(vec![supplied(1)]).open_volume_key(&descriptor(vec![first]));
        assert!(matches!(other_mode, Err(KeyError::ModeNotAvailable { mode: Mode::Managed, .. })));

        let mut altered = second.clone();
        altered.envelope.wrapped_dek[20] ^= 1;
        let altered = keyring(vec![supplied(1)]).open_volume_key(&descriptor(vec![altered]));
        assert!(matches!(altered, Err(KeyError::UnwrapFailed { .. })));
        let moved = Descriptor { volume_id: VolumeId([2; 16]), ..descriptor(vec![second]) };
        let moved = keyring(vec![supplied(1)]).open_volume_key(&moved);
        assert!(matches!(moved, Err(KeyError::UnwrapFailed { .. })));
    }
}
