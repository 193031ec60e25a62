//! The volume key's slots in the descriptor. The slot of a new key is there before the first
//! file is moved to it, and that of an old key goes only when no file of it is left, so that
//! whatever key opens a file opens the volume too.

use std::path::PathBuf;

use super::plan::{Goal, KeyName, Plan};
use super::tally::Tally;
use crate::crypto::Secret;
use crate::format::{Descriptor, Envelope, FileId, KeyId, KeySlot, SuppliedVerifier};
use crate::keys::{Access, Binding, KeyError, Keyring};
use crate::volume::{RewrapLock, VolumeError};

/// The slots of a volume under a rewrap.
pub struct Slots<'a> {
    lock: &'a RewrapLock,
    descriptor: Descriptor,
    volume_key: Secret,
    /// The key that [`Self::admit`] has opened the volume to.
    admitted: Option<KeyName>,
}

impl<'a> Slots<'a> {
    /// With the volume key, which one of the keys must open.
    pub fn open(
        lock: &'a RewrapLock,
        descriptor: Descriptor,
        keyring: &Keyring,
    ) -> Result<Self, KeyError> {
        let volume_key = keyring.open_volume_key(&descriptor)?;
        Ok(Self { lock, descriptor, volume_key, admitted: None })
    }

    /// The volume key.
    pub fn volume_key(&self) -> &Secret {
        &self.volume_key
    }

    /// The descriptor as it is.
    pub fn descriptor(&self) -> &Descriptor {
        &self.descriptor
    }

    /// Opens the volume to the destination of files and tells which key and version that is.
    pub fn admit(
        &mut self,
        keyring: &Keyring,
        cmk: Option<&KeyId>,
        verifier: Option<SuppliedVerifier>,
    ) -> Result<Goal, VolumeError> {
        let envelope = self.wrapped(cmk, |binding, access| {
            keyring.wrap(&self.volume_key, None, binding, access)
        })?;
        let target = KeyName::of(&envelope);
        let goal = Goal::Key(target.clone(), envelope.key_version);
        if self.place_of(&target).is_none() {
            let mut descriptor = self.read_again()?;
            descriptor.key_slots.push(KeySlot { envelope, supplied: verifier });
            self.lock.update(&descriptor)?;
            self.descriptor = descriptor;
            self.admitted = Some(target);
        }
        Ok(goal)
    }

    /// Closes the volume again to a destination that no file has reached.
    pub fn withdraw(&mut self) -> Result<(), VolumeError> {
        let Some(name) = self.admitted.take() else { return Ok(()) };
        let mut descriptor = self.read_again()?;
        descriptor.key_slots.retain(|slot| KeyName::of(&slot.envelope) != name);
        self.lock.update(&descriptor)?;
        self.descriptor = descriptor;
        Ok(())
    }

    /// Moves the slots that are meant to the newest version of their key, where it is held.
    pub fn refresh(&mut self, keyring: &Keyring, plan: &Plan) -> Result<u64, VolumeError> {
        let mut descriptor = self.read_again()?;
        let mut moved = 0;
        for slot in &mut descriptor.key_slots {
            let current = &slot.envelope;
            let meant = plan.selection().includes(current)
                || matches!(plan.goal(), Goal::Key(target, _) if KeyName::of(current) == *target);
            if !meant {
                continue;
            }
            let wrapped = self.wrapped(None, |binding, access| {
                // A slot that this key does not open any more stays as it is.
                keyring.dek(current, binding, access)?;
                keyring.wrap_again(&self.volume_key, current, binding, access)
            });
            match wrapped {
                Ok(envelope) if envelope.key_version != current.key_version => {
                    slot.envelope = envelope;
                    moved += 1;
                }
                Ok(_) => {}
                Err(error) => log::debug!("a key slot stays as it is: {error}"),
            }
        }
        if moved > 0 {
            self.lock.update(&descriptor)?;
            self.descriptor = descriptor;
        }
        Ok(moved)
    }

    /// Takes away the slots of keys that files were moved from, where none is left under them.
    /// The files must be durable where they are now.
    pub fn retire(&mut self, plan: &Plan, tally: &Tally) -> Result<Vec<KeyName>, VolumeError> {
        let mut descriptor = self.read_again()?;
        let mut retired = Vec::new();
        descriptor.key_slots.retain(|slot| {
            let goes = is_retired(&slot.envelope, plan, tally);
            if goes {
                retired.push(KeyName::of(&slot.envelope));
            }
            !goes
        });
        if !retired.is_empty() {
            self.lock.update(&descriptor)?;
            self.descriptor = descriptor;
        }
        Ok(retired)
    }

    /// The keys whose slots [`Self::retire`] would take away.
    pub fn to_retire(&self, plan: &Plan, tally: &Tally) -> Vec<KeyName> {
        let slots = self.descriptor.key_slots.iter();
        let retired = slots.filter(|slot| is_retired(&slot.envelope, plan, tally));
        retired.map(|slot| KeyName::of(&slot.envelope)).collect()
    }

    /// A mount that came meanwhile may have added a slot of its own.
    fn read_again(&self) -> Result<Descriptor, VolumeError> {
        let found = self.lock.descriptor()?;
        let same = found.filter(|found| found.volume_id == self.descriptor.volume_id);
        same.ok_or_else(|| VolumeError::Volume("its descriptor was replaced".to_owned()))
    }

    fn place_of(&self, name: &KeyName) -> Option<usize> {
        self.descriptor.key_slots.iter().position(|slot| KeyName::of(&slot.envelope) == *name)
    }

    fn wrapped(
        &self,
        cmk: Option<&KeyId>,
        wrap: impl FnOnce(Binding, &Access<'_>) -> Result<Envelope, KeyError>,
    ) -> Result<Envelope, KeyError> {
        let root = || PathBuf::from("/");
        let binding = Binding { volume: self.descriptor.volume_id, file: FileId::VOLUME };
        wrap(binding, &Access { key_id: cmk, ..Access::own(&root) })
    }
}

fn is_retired(envelope: &Envelope, plan: &Plan, tally: &Tally) -> bool {
    let Goal::Key(target, _) = plan.goal() else { return false };
    let name = KeyName::of(envelope);
    name != *target
        && plan.selection().includes(envelope)
        && !tally.incomplete
        && !tally.by_key.contains_key(&name)
}

#[cfg(test)]
mod tests {
    use super::super::plan::Selection;
    use super::super::tally::{Fate, Left};
    use super::*;
    use crate::cli::reason::Reason;
    use crate::format::{Mode, WrapAlgorithm};

    fn envelope(key: &str) -> Envelope {
        Envelope {
            mode: Mode::Supplied,
            provider: "supplied".into(),
            key_id: KeyId(key.into()),
            key_version: 1,
            wrap_algorithm: WrapAlgorithm::Aes256Gcm,
            created: 0,
            context: Default::default(),
            wrapped_dek: Vec::new(),
        }
    }

    #[test]
    fn a_slot_goes_only_when_nothing_can_need_it() {
        let (old, new) = (envelope("old"), envelope("new"));
        let goal = Goal::Key(KeyName::of(&new), 1);
        let plan = Plan::new(Selection::All, goal.clone());
        let moved = || {
            let mut tally = Tally::default();
            tally.add(Fate::Rewrapped(KeyName::of(&new)));
            tally
        };
        assert!(is_retired(&old, &plan, &moved()));
        assert!(!is_retired(&new, &plan, &moved()), "the destination");
        let newest = Plan::new(Selection::All, Goal::NewestVersion);
        assert!(!is_retired(&old, &newest, &moved()), "nothing moves away from a key");
        let others = Plan::new(Selection::Key(KeyId("third".into())), goal);
        assert!(!is_retired(&old, &others, &moved()), "not meant");
        let mut tally = moved();
        tally.add(Fate::NotSelected(KeyName::of(&old)));
        assert!(!is_retired(&old, &plan, &tally), "a file has it");
        for key in [Some(KeyName::of(&old)), None] {
            let mut tally = moved();
            let (path, detail) = (PathBuf::new(), String::new());
            tally.leave(Left { path, reason: Reason::Denied, detail, key });
            assert!(!is_retired(&old, &plan, &tally), "a file that was left may have it");
        }
        let mut tally = moved();
        tally.incomplete = true;
        assert!(!is_retired(&old, &plan, &tally), "not all files were seen");
    }
}
