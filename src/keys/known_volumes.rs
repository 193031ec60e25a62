//! The volumes that a keystore's CMKs were used by, so that it can be asked which files would
//! be lost with a key. A volume is remembered by its mount; what has become of it since is for
//! the asker to find out.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};

use super::error::KeyError;
use super::keystore::Keystore;
use super::keystore_record::Record;
use crate::format::VolumeId;

/// A volume that has used a CMK of the keystore.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownVolume {
    /// Its id.
    pub volume: VolumeId,
    /// Where its backing directory was, absolute.
    pub backing: PathBuf,
    /// When it was mounted last, in seconds since 1970-01-01 UTC.
    pub last_seen: u64,
}

impl Keystore {
    /// Notes that a volume uses CMKs of this keystore; durable when it returns. A volume that
    /// has moved is known by its new place.
    pub fn remember_volume(
        &self,
        volume: VolumeId,
        backing: &Path,
        now: u64,
    ) -> Result<(), KeyError> {
        let lock = self.lock()?;
        let mut known = self.read::<Volumes>(RECORD_ID)?.unwrap_or_default();
        let backing = HEXLOWER.encode(backing.as_os_str().as_bytes());
        known.volumes.insert(volume.to_string(), Place { backing, last_seen: now });
        lock.write(RECORD_ID, &known)
    }

    /// Forgets a volume that is gone for good. Whether it was known.
    pub fn forget_volume(&self, volume: VolumeId) -> Result<bool, KeyError> {
        let lock = self.lock()?;
        let mut known = self.read::<Volumes>(RECORD_ID)?.unwrap_or_default();
        let was_known = known.volumes.remove(&volume.to_string()).is_some();
        if was_known {
            lock.write(RECORD_ID, &known)?;
        }
        Ok(was_known)
    }

    /// All volumes that have used CMKs of this keystore, by id.
    pub fn known_volumes(&self) -> Result<Vec<KnownVolume>, KeyError> {
        let known = self.read::<Volumes>(RECORD_ID)?.unwrap_or_default();
        known.volumes.into_iter().map(|(id, place)| self.known_volume(&id, &place)).collect()
    }

    fn known_volume(&self, id: &str, place: &Place) -> Result<KnownVolume, KeyError> {
        let malformed = || KeyError::Damaged {
            path: self.path().to_owned(),
            problem: "the record of known volumes is malformed".to_owned(),
        };
        let backing = HEXLOWER.decode(place.backing.as_bytes()).map_err(|_| malformed())?;
        Ok(KnownVolume {
            volume: id.parse().map_err(|_| malformed())?,
            backing: OsString::from_vec(backing).into(),
            last_seen: place.last_seen,
        })
    }
}

/// The record, one for the keystore.
#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Volumes {
    /// By volume id.
    volumes: BTreeMap<String, Place>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Place {
    /// The path's bytes, hexadecimal: it need not be UTF-8.
    backing: String,
    last_seen: u64,
}

impl Record for Volumes {
    const KIND: &'static str = "volumes";
}

const RECORD_ID: &str = "all";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes_are_remembered_moved_and_forgotten() {
        let scratch = tempfile::tempdir().unwrap();
        let keystore = Keystore::open_or_create(&scratch.path().join("k")).unwrap();
        assert_eq!(keystore.known_volumes().unwrap(), []);
        let (one, two) = (VolumeId([1; 16]), VolumeId([2; 16]));
        let odd = PathBuf::from(OsString::from_vec(b"/srv/\xff\n".to_vec()));
        keystore.remember_volume(one, Path::new("/srv/a"), 5).unwrap();
        keystore.remember_volume(two, &odd, 6).unwrap();
        keystore.remember_volume(one, Path::new("/srv/moved"), 7).unwrap();
        let reopened = Keystore::open(&scratch.path().join("k")).unwrap();
        let expected = [
            KnownVolume { volume: one, backing: "/srv/moved".into(), last_seen: 7 },
            KnownVolume { volume: two, backing: odd, last_seen: 6 },
        ];
        assert_eq!(reopened.known_volumes().unwrap(), expected);
        assert!(reopened.forget_volume(one).unwrap());
        assert!(!reopened.forget_volume(one).unwrap());
        assert_eq!(keystore.known_volumes().unwrap().len(), 1);
    }
}
