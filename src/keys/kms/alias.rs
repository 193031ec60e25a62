//! Aliases: names for CMKs that can be moved from one key to another. All of a keystore's are in
//! one record, so that a name is never given twice. Files name the key and never the alias.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::error::{ErrorCode, KmsError};
use crate::format::KeyId;
use crate::keys::error::KeyError;
use crate::keys::keystore::{Keystore, KeystoreLock, RecordFile, StagedRecord};
use crate::keys::keystore_record::Record;
use crate::keys::private_dir::Stamp;

/// The name of an alias, with `alias/` before it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct AliasName(String);

/// An alias.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Alias {
    /// Its name.
    pub alias_name: AliasName,
    /// The key that it stands for.
    pub target_key_id: KeyId,
    /// When it was made, in seconds since 1970-01-01 UTC.
    pub creation_date: u64,
    /// When it was made or last moved.
    pub last_updated_date: u64,
}

/// The record of all aliases.
#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Aliases {
    aliases: BTreeMap<AliasName, Entry>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    key_id: KeyId,
    created: u64,
    updated: u64,
}

impl AliasName {
    /// What comes before every name.
    pub const PREFIX: &'static str = "alias/";

    /// A name as given, checked by the rules of AWS KMS.
    pub fn parse(text: &str) -> Result<Self, KmsError> {
        let invalid = |problem: &str| {
            let message = format!("the alias {text:?} {problem}");
            Err(KmsError::new(ErrorCode::InvalidAliasName, message))
        };
        let Some(name) = text.strip_prefix(Self::PREFIX) else {
            return invalid("does not begin with alias/");
        };
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"/_-".contains(&byte);
        if !(1..=MAX_NAME_LEN).contains(&name.len()) {
            return invalid("needs 1 to 250 characters after alias/");
        }
        if !name.bytes().all(allowed) {
            return invalid("has characters other than letters, digits, and / _ -");
        }
        if name.starts_with("aws/") {
            return invalid("begins with alias/aws/, which is reserved");
        }
        Ok(Self(text.to_owned()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for AliasName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for AliasName {
    type Error = KmsError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text)
    }
}

impl Record for Aliases {
    const KIND: &'static str = "aliases";
}

impl Aliases {
    /// Those of `keystore`.
    pub(super) fn read(keystore: &Keystore) -> Result<Self, KeyError> {
        Ok(Self::read_stamped(keystore)?.0)
    }

    /// Those of `keystore` and the stamp of their record's file, if there is one.
    pub(super) fn read_stamped(keystore: &Keystore) -> Result<(Self, Option<Stamp>), KeyError> {
        let read = keystore.read_stamped(ID)?;
        Ok(read.map_or_else(Default::default, |(aliases, stamp)| (aliases, Some(stamp))))
    }

    /// The file of their record.
    pub(super) fn file() -> RecordFile {
        Keystore::file_of::<Self>(ID)
    }

    /// Writes them durably beside the old ones.
    pub(super) fn stage<'a>(
        &self,
        lock: &'a KeystoreLock<'_>,
    ) -> Result<StagedRecord<'a>, KeyError> {
        Ok(lock.stage(ID, self)?.expect("the number of aliases is bounded"))
    }

    /// The key that `name` stands for.
    pub(super) fn key_of(&self, name: &AliasName) -> Result<&KeyId, KmsError> {
        self.aliases.get(name).map(|entry| &entry.key_id).ok_or_else(|| not_found(name))
    }

    /// The aliases of one key, or all, by name.
    pub(super) fn list(&self, key_id: Option<&KeyId>) -> Vec<Alias> {
        let wanted = |entry: &Entry| key_id.is_none_or(|key_id| *key_id == entry.key_id);
        let entries = self.aliases.iter().filter(|(_, entry)| wanted(entry));
        entries.map(|(name, entry)| entry.to_alias(name)).collect()
    }

    /// Adds one; the name must be free.
    pub(super) fn add(&mut self, name: AliasName, key_id: KeyId, now: u64) -> Result<(), KmsError> {
        if let Some(entry) = self.aliases.get(&name) {
            let message =
                format!("{name} stands for key {} already: move or delete it", entry.key_id);
            return Err(KmsError::new(ErrorCode::AlreadyExists, message));
        }
        if self.aliases.len() >= MAX_ALIASES {
            let message = format!("the keystore has {MAX_ALIASES} aliases: delete some");
            return Err(KmsError::new(ErrorCode::LimitExceeded, message));
        }
        self.refuse_too_many(&key_id)?;
        self.aliases.insert(name, Entry { key_id, created: now, updated: now });
        Ok(())
    }

    /// Lets one stand for another key; the key that it stood for is returned.
    pub(super) fn move_to(
        &mut self,
        name: &AliasName,
        key_id: &KeyId,
        now: u64,
    ) -> Result<KeyId, KmsError> {
        let old = self.key_of(name)?.clone();
        if old != *key_id {
            self.refuse_too_many(key_id)?;
        }
        let entry = self.aliases.get_mut(name).expect("it was found just now");
        (entry.key_id, entry.updated) = (key_id.clone(), now);
        Ok(old)
    }

    /// Removes one.
    pub(super) fn remove(&mut self, name: &AliasName) -> Result<(), KmsError> {
        self.aliases.remove(name).map(drop).ok_or_else(|| not_found(name))
    }

    /// Removes all of a key; whether there were any.
    pub(super) fn remove_of(&mut self, key_id: &KeyId) -> bool {
        let before = self.aliases.len();
        self.aliases.retain(|_, entry| entry.key_id != *key_id);
        self.aliases.len() < before
    }

    fn refuse_too_many(&self, key_id: &KeyId) -> Result<(), KmsError> {
        let held = self.aliases.values().filter(|entry| entry.key_id == *key_id).count();
        if held >= MAX_ALIASES_OF_KEY {
            let message = format!("key {key_id} has {MAX_ALIASES_OF_KEY} aliases: delete some");
            return Err(KmsError::new(ErrorCode::LimitExceeded, message));
        }
        Ok(())
    }
}

impl Entry {
    fn to_alias(&self, name: &AliasName) -> Alias {
        Alias {
            alias_name: name.clone(),
            target_key_id: self.key_id.clone(),
            creation_date: self.created,
            last_updated_date: self.updated,
        }
    }
}

fn not_found(name: &AliasName) -> KmsError {
    let message = format!("{name} is not here: `ssefs key list` shows the keys and their aliases");
    KmsError::new(ErrorCode::NotFound, message)
}

const ID: &str = "all";
const MAX_NAME_LEN: usize = 250;
/// They stay far below the longest record.
const MAX_ALIASES: usize = 1500;
const MAX_ALIASES_OF_KEY: usize = 50;

#[cfg(test)]
mod tests {
    use super::*;

    fn code(error: KmsError) -> ErrorCode {
        match error {
            KmsError::Refused { code, .. } => code,
            KmsError::Key(error) => panic!("{error}"),
        }
    }

    fn name(text: &str) -> AliasName {
        AliasName::parse(text).unwrap()
    }

    #[test]
    fn names_follow_the_rules() {
        let longest = format!("alias/{}", "x".repeat(250));
        for good in ["alias/a", "alias/finance/2026_q1-x", "alias/aws", "alias/awsome", &longest] {
            assert_eq!(name(good).as_str(), good);
        }
        let too_long = format!("{longest}x");
        for bad in [
            "",
            "a",
            "alias/",
            "Alias/a",
            "alias/a b",
            "alias/ä",
            "alias/a.b",
            "alias/a:b",
            "alias/aws/",
            "alias/aws/s3",
            &too_long,
        ] {
            assert_eq!(code(AliasName::parse(bad).unwrap_err()), ErrorCode::InvalidAliasName);
        }
        assert!(serde_json::from_str::<AliasName>("\"alias/aws/x\"").is_err());
    }

    #[test]
    fn they_are_added_moved_and_removed() {
        let (first, second) = (KeyId::random(), KeyId::random());
        let mut aliases = Aliases::default();
        aliases.add(name("alias/a"), first.clone(), 1).unwrap();
        let twice = aliases.add(name("alias/a"), second.clone(), 2).unwrap_err();
        assert!(twice.to_string().contains(&first.0));
        assert_eq!(code(twice), ErrorCode::AlreadyExists);
        assert_eq!(aliases.move_to(&name("alias/a"), &second, 3).unwrap(), first);
        let found = &aliases.list(Some(&second))[0];
        assert_eq!((found.creation_date, found.last_updated_date), (1, 3));
        assert!(aliases.list(Some(&first)).is_empty());
        let absent = name("alias/b");
        assert_eq!(code(aliases.move_to(&absent, &first, 4).unwrap_err()), ErrorCode::NotFound);
        assert_eq!(code(aliases.remove(&absent).unwrap_err()), ErrorCode::NotFound);
        aliases.add(absent, second.clone(), 5).unwrap();
        assert!(aliases.remove_of(&second) && !aliases.remove_of(&second));
        assert!(aliases.list(None).is_empty());
    }

    #[test]
    fn the_documented_record_is_read_and_written_as_it_is() {
        let documented = r#"{"aliases":{"alias/a":{"key_id":"k","created":1,"updated":2}}}"#;
        let aliases: Aliases = serde_json::from_str(documented).unwrap();
        assert_eq!(aliases.key_of(&name("alias/a")).unwrap().0, "k");
        assert_eq!(serde_json::to_string(&aliases).unwrap(), documented);
        assert!(serde_json::from_str::<Aliases>(&documented.replace("alias/a", "a")).is_err());
    }

    #[test]
    fn they_are_bounded_and_fit_into_their_record() {
        let scratch = tempfile::tempdir().unwrap();
        let keystore = Keystore::open_or_create(&scratch.path().join("k")).unwrap();
        let mut aliases = Aliases::default();
        let of = |index: usize| name(&format!("alias/{index:0>250}"));
        let mut key_id = KeyId::random();
        for index in 0..MAX_ALIASES {
            if index > 0 && index % MAX_ALIASES_OF_KEY == 0 {
                let refused = aliases.add(of(index), key_id, 0).unwrap_err();
                assert_eq!(code(refused), ErrorCode::LimitExceeded);
                key_id = KeyId::random();
            }
            aliases.add(of(index), key_id.clone(), u64::MAX).unwrap();
        }
        let refused = aliases.add(of(MAX_ALIASES), KeyId::random(), 0).unwrap_err();
        assert_eq!(code(refused), ErrorCode::LimitExceeded);
        let lock = keystore.lock().unwrap();
        aliases.stage(&lock).unwrap().publish().unwrap();
        assert_eq!(Aliases::read(&keystore).unwrap().aliases.len(), MAX_ALIASES);
    }
}
