//! What is to become of a file: whether it is meant, whether it is where it should be already,
//! and its new envelope. What can be told from the header alone costs no key operation.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};

use serde::Serialize;

use crate::crypto::Secret;
use crate::format::{Envelope, KeyId, Mode};
use crate::keys::{Access, Binding, KeyError, Keyring};

/// A key as an envelope names it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct KeyName {
    /// The mode's name.
    pub mode: &'static str,
    /// The key.
    pub key_id: KeyId,
}

/// Which files are meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selection {
    /// All.
    All,
    /// Those of one mode.
    Mode(Mode),
    /// Those of one key.
    Key(KeyId),
}

/// Where files are to go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Goal {
    /// To the newest version of the key that they have.
    NewestVersion,
    /// To this key, at this version of its material or a newer one.
    Key(KeyName, u32),
}

/// What is to become of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is not meant.
    NotSelected,
    /// It is there already.
    AlreadyThere,
    /// It is to be wrapped anew.
    Move,
}

/// The whole of it.
pub struct Plan {
    selection: Selection,
    goal: Goal,
    /// The newest versions as far as they have shown, for [`Goal::NewestVersion`].
    newest: Mutex<HashMap<KeyName, u32>>,
}

impl KeyName {
    /// The key of an envelope.
    pub fn of(envelope: &Envelope) -> Self {
        Self { mode: envelope.mode.name(), key_id: envelope.key_id.clone() }
    }
}

impl fmt::Display for KeyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (mode {})", self.key_id, self.mode)
    }
}

impl Selection {
    /// Whether files under this envelope are meant.
    pub fn includes(&self, envelope: &Envelope) -> bool {
        match self {
            Self::All => true,
            Self::Mode(mode) => envelope.mode == *mode,
            Self::Key(key_id) => envelope.key_id == *key_id,
        }
    }
}

impl Plan {
    /// Of its two parts.
    pub fn new(selection: Selection, goal: Goal) -> Self {
        Self { selection, goal, newest: Mutex::default() }
    }

    /// Which files are meant.
    pub fn selection(&self) -> &Selection {
        &self.selection
    }

    /// Where they go.
    pub fn goal(&self) -> &Goal {
        &self.goal
    }

    /// What is to become of a file with this envelope, as far as that is known.
    pub fn judge(&self, envelope: &Envelope) -> Verdict {
        if !self.selection.includes(envelope) {
            return Verdict::NotSelected;
        }
        let name = KeyName::of(envelope);
        let there = match &self.goal {
            Goal::Key(target, version) => name == *target && envelope.key_version >= *version,
            Goal::NewestVersion => {
                let newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
                newest.get(&name).is_some_and(|newest| envelope.key_version >= *newest)
            }
        };
        if there { Verdict::AlreadyThere } else { Verdict::Move }
    }

    /// The new envelope of a DEK that has `current`; `None` where it proves to be there already.
    pub fn wrap(
        &self,
        keyring: &Keyring,
        dek: &Secret,
        current: &Envelope,
        binding: Binding,
        access: &Access<'_>,
    ) -> Result<Option<Envelope>, KeyError> {
        match &self.goal {
            Goal::Key(target, _) => {
                let access = Access { key_id: Some(&target.key_id), ..*access };
                keyring.wrap(dek, Some(current), binding, &access).map(Some)
            }
            Goal::NewestVersion => {
                let envelope = keyring.wrap_again(dek, current, binding, access)?;
                let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
                let known = newest.entry(KeyName::of(&envelope)).or_default();
                *known = envelope.key_version.max(*known);
                let moves = envelope.key_version != current.key_version
                    || KeyName::of(&envelope) != KeyName::of(current);
                Ok(moves.then_some(envelope))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::format::{FileId, VolumeId};
    use crate::keys::{DekCache, KeyProvider, SuppliedProvider};

    const BINDING: Binding = Binding { volume: VolumeId([1; 16]), file: FileId([2; 16]) };

    fn supplied(byte: u8) -> Box<dyn KeyProvider> {
        Box::new(SuppliedProvider::new(Secret::copy_from(&[byte; 32]), BINDING.volume))
    }

    fn keyring(keys: &[u8]) -> Keyring {
        let providers = keys.iter().map(|byte| supplied(*byte)).collect();
        Keyring::new(providers, Mode::Supplied, DekCache::new(0, DekCache::DEFAULT_TTL))
    }

    #[test]
    fn a_file_is_moved_once_and_the_selection_counts() {
        let keyring = keyring(&[2, 1]);
        let access = Access::own(&PathBuf::new);
        let dek = Secret::random();
        let old = supplied(1).wrap(&dek, None, BINDING, &access).unwrap();
        let target = supplied(2).wrap(&dek, None, BINDING, &access).unwrap();
        let goal = Goal::Key(KeyName::of(&target), 1);
        let plan = Plan::new(Selection::All, goal.clone());
        assert_eq!(plan.judge(&old), Verdict::Move);
        let new = plan.wrap(&keyring, &dek, &old, BINDING, &access).unwrap().unwrap();
        assert_eq!(plan.judge(&new), Verdict::AlreadyThere);
        assert!(keyring.dek(&new, BINDING, &access).unwrap().equals(&dek));
        for (selection, verdict) in [
            (Selection::Mode(Mode::Managed), Verdict::NotSelected),
            (Selection::Mode(Mode::Supplied), Verdict::Move),
            (Selection::Key(target.key_id.clone()), Verdict::NotSelected),
            (Selection::Key(old.key_id.clone()), Verdict::Move),
        ] {
            assert_eq!(Plan::new(selection, goal.clone()).judge(&old), verdict);
        }
    }

    #[test]
    fn the_newest_version_is_learnt_from_the_first_file() {
        let keyring = keyring(&[1]);
        let access = Access::own(&PathBuf::new);
        let dek = Secret::random();
        let old = supplied(1).wrap(&dek, None, BINDING, &access).unwrap();
        let plan = Plan::new(Selection::All, Goal::NewestVersion);
        assert_eq!(plan.judge(&old), Verdict::Move);
        assert!(plan.wrap(&keyring, &dek, &old, BINDING, &access).unwrap().is_none());
        assert_eq!(plan.judge(&old), Verdict::AlreadyThere);
        let other = supplied(3).wrap(&dek, None, BINDING, &access).unwrap();
        let refused = plan.wrap(&keyring, &dek, &other, BINDING, &access);
        assert!(matches!(refused, Err(KeyError::NotFound { .. })));
    }
}
