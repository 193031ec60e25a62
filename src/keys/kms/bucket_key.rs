//! Bucket keys, as S3 has them: a short-lived key, wrapped under the CMK once, wraps many DEKs
//! locally, at the price of detail in the audit log. A DEK that it wraps carries the wrapped
//! bucket key along, so that each file stands alone.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use data_encoding::HEXLOWER;
use lru::LruCache;

use crate::crypto::{Secret, random_array, sha256};
use crate::format::{KeyId, VolumeId, WRAPPED_DEK_LEN};
use crate::keys::error::KeyError;
use crate::keys::wrap::{open_secret, seal_secret};

/// How long and how often one bucket key is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BucketKeyLimits {
    /// No longer than this in memory.
    pub lifetime: Duration,
    /// No more DEKs than this are wrapped under one.
    pub uses: u64,
}

impl BucketKeyLimits {
    /// Unless told otherwise.
    pub const DEFAULT: Self = Self { lifetime: Duration::from_secs(300), uses: 1000 };
}

/// A bucket key.
pub(super) struct BucketKey {
    id: [u8; ID_LEN],
    secret: Secret,
    wrapped: [u8; WRAPPED_DEK_LEN],
    /// The version of the CMK's material that wraps it.
    version: u32,
    made: Instant,
}

/// What stands in an envelope in place of a wrapped DEK.
pub(super) struct BucketWrap {
    id: [u8; ID_LEN],
    wrapped_key: [u8; WRAPPED_DEK_LEN],
    wrapped_dek: [u8; WRAPPED_DEK_LEN],
}

/// The bucket keys of one volume that are in memory.
pub(super) struct BucketKeys {
    volume: VolumeId,
    limits: BucketKeyLimits,
    /// That which wraps new DEKs, for each CMK, with how often it may still.
    current: Mutex<HashMap<KeyId, (Arc<BucketKey>, u64)>>,
    /// Those that were opened to unwrap, by the digest of CMK, version and wrapped bytes.
    opened: Mutex<LruCache<[u8; 32], Arc<BucketKey>>>,
}

impl BucketKeys {
    /// The volume.
    pub(super) fn volume(&self) -> VolumeId {
        self.volume
    }

    /// None yet.
    pub(super) fn new(volume: VolumeId, limits: BucketKeyLimits) -> Self {
        let opened = Mutex::new(LruCache::new(MAX_OPENED));
        Self { volume, limits, current: Mutex::default(), opened }
    }

    /// One to wrap a DEK under, and whether it was made for that with `material`, the newest of
    /// the CMK. A rotation of the CMK ends the old one.
    pub(super) fn to_wrap(
        &self,
        key_id: &KeyId,
        version: u32,
        material: &Secret,
    ) -> (Arc<BucketKey>, bool) {
        let mut current = lock(&self.current);
        if let Some((key, uses)) = current.get_mut(key_id)
            && *uses > 0
            && key.version == version
            && key.made.elapsed() < self.limits.lifetime
        {
            *uses -= 1;
            return (Arc::clone(key), false);
        }
        let id = random_array();
        let secret = Secret::random();
        let aad = aad(self.volume, key_id, version, &id);
        let wrapped = seal_secret(material, &secret, &aad);
        let key = Arc::new(BucketKey { id, secret, wrapped, version, made: Instant::now() });
        let left = self.limits.uses.saturating_sub(1);
        current.insert(key_id.clone(), (Arc::clone(&key), left));
        (key, true)
    }

    /// The bucket key of a wrap, if it is in memory.
    pub(super) fn find(
        &self,
        key_id: &KeyId,
        version: u32,
        wrap: &BucketWrap,
    ) -> Option<Arc<BucketKey>> {
        let fits = |key: &BucketKey| key.version == version && key.wrapped == wrap.wrapped_key;
        if let Some((key, _)) = lock(&self.current).get(key_id)
            && fits(key)
            && key.made.elapsed() < self.limits.lifetime
        {
            return Some(Arc::clone(key));
        }
        let mut opened = lock(&self.opened);
        let digest = self.digest(key_id, version, wrap);
        let found = opened.get(&digest)?;
        if found.made.elapsed() < self.limits.lifetime {
            return Some(Arc::clone(found));
        }
        opened.pop(&digest);
        None
    }

    /// Opens the bucket key of a wrap with the CMK's material, and keeps it.
    pub(super) fn open(
        &self,
        key_id: &KeyId,
        version: u32,
        material: &Secret,
        wrap: &BucketWrap,
    ) -> Result<Arc<BucketKey>, KeyError> {
        let aad = aad(self.volume, key_id, version, &wrap.id);
        let secret = open_secret(material, &wrap.wrapped_key, &aad)
            .map_err(|_| KeyError::UnwrapFailed { key_id: key_id.clone(), version })?;
        let wrapped = wrap.wrapped_key;
        let key = BucketKey { id: wrap.id, secret, wrapped, version, made: Instant::now() };
        let key = Arc::new(key);
        lock(&self.opened).put(self.digest(key_id, version, wrap), Arc::clone(&key));
        Ok(key)
    }

    /// Drops those that have grown too old.
    pub(super) fn sweep(&self) {
        let fresh = |key: &BucketKey| key.made.elapsed() < self.limits.lifetime;
        lock(&self.current).retain(|_, (key, _)| fresh(key));
        let mut opened = lock(&self.opened);
        while opened.peek_lru().is_some_and(|(_, key)| !fresh(key)) {
            opened.pop_lru();
        }
    }

    /// Drops all.
    pub(super) fn clear(&self) {
        lock(&self.current).clear();
        lock(&self.opened).clear();
    }

    fn digest(&self, key_id: &KeyId, version: u32, wrap: &BucketWrap) -> [u8; 32] {
        let mut bound = aad(self.volume, key_id, version, &wrap.id);
        bound.extend_from_slice(&wrap.wrapped_key);
        sha256(&bound)
    }
}

impl BucketKey {
    /// Its id in the audit log.
    pub(super) fn id(&self) -> String {
        HEXLOWER.encode(&self.id)
    }

    /// Wraps a DEK; `aad` is that of its envelope. The nonce is random, and the limit on uses is
    /// far below the 2^32 of SP 800-38D, 8.3.
    pub(super) fn wrap(&self, dek: &Secret, aad: &[u8]) -> Vec<u8> {
        let wrapped_dek = seal_secret(&self.secret, dek, aad);
        [&[BLOB_VERSION][..], &self.id, &self.wrapped, &wrapped_dek].concat()
    }

    /// Unwraps a DEK; the error tells nothing, as the envelope is named by who has it.
    pub(super) fn unwrap(&self, wrap: &BucketWrap, aad: &[u8]) -> Option<Secret> {
        open_secret(&self.secret, &wrap.wrapped_dek, aad).ok()
    }
}

impl BucketWrap {
    /// Reads what [`BucketKey::wrap`] gives; `None` for anything else.
    pub(super) fn parse(blob: &[u8]) -> Option<Self> {
        let blob = blob.strip_prefix(&[BLOB_VERSION])?;
        let (id, blob) = blob.split_first_chunk()?;
        let (wrapped_key, blob) = blob.split_first_chunk()?;
        Some(Self { id: *id, wrapped_key: *wrapped_key, wrapped_dek: blob.try_into().ok()? })
    }
}

/// What the wrap of a bucket key is bound to: each part has a fixed length or its length first.
fn aad(volume: VolumeId, key_id: &KeyId, version: u32, id: &[u8; ID_LEN]) -> Vec<u8> {
    let key = key_id.0.as_bytes();
    [
        b"ssefs bucket key\0".as_slice(),
        &volume.0,
        id,
        &version.to_le_bytes(),
        &(key.len() as u64).to_le_bytes(),
        key,
    ]
    .concat()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

const BLOB_VERSION: u8 = 1;
const ID_LEN: usize = 16;
const MAX_OPENED: NonZeroUsize = NonZeroUsize::new(1024).expect("is not zero");

#[cfg(test)]
mod tests {
    use super::*;

    const VOLUME: VolumeId = VolumeId([1; 16]);

    fn keys(uses: u64, lifetime_ms: u64) -> BucketKeys {
        let lifetime = Duration::from_millis(lifetime_ms);
        BucketKeys::new(VOLUME, BucketKeyLimits { lifetime, uses })
    }

    fn key_id() -> KeyId {
        KeyId("k".into())
    }

    #[test]
    fn one_wraps_many_until_its_uses_its_time_or_its_version_end() {
        let material = Secret::random();
        let few = keys(3, 60_000);
        let made: Vec<bool> = (0..7).map(|_| few.to_wrap(&key_id(), 1, &material).1).collect();
        assert_eq!(made, [true, false, false, true, false, false, true]);
        assert!(few.to_wrap(&key_id(), 2, &material).1, "a rotation ends it");
        assert!(few.to_wrap(&KeyId("l".into()), 2, &material).1);
        let short = keys(100, 0);
        assert!(short.to_wrap(&key_id(), 1, &material).1);
        assert!(short.to_wrap(&key_id(), 1, &material).1);
    }

    #[test]
    fn a_wrap_opens_in_its_place_only() {
        let (material, dek) = (Secret::random(), Secret::random());
        let here = keys(10, 60_000);
        let (key, _) = here.to_wrap(&key_id(), 1, &material);
        let blob = key.wrap(&dek, b"aad");
        let wrap = BucketWrap::parse(&blob).unwrap();
        assert!(here.find(&key_id(), 1, &wrap).is_some());
        let elsewhere = keys(10, 60_000);
        assert!(elsewhere.find(&key_id(), 1, &wrap).is_none());
        let opened = elsewhere.open(&key_id(), 1, &material, &wrap).unwrap();
        assert!(opened.unwrap(&wrap, b"aad").unwrap().equals(&dek));
        assert!(opened.unwrap(&wrap, b"aax").is_none());
        assert!(elsewhere.find(&key_id(), 1, &wrap).is_some());
        assert!(elsewhere.find(&key_id(), 2, &wrap).is_none());
        assert!(elsewhere.open(&key_id(), 2, &material, &wrap).is_err());
        assert!(elsewhere.open(&KeyId("l".into()), 1, &material, &wrap).is_err());
        assert!(elsewhere.open(&key_id(), 1, &Secret::random(), &wrap).is_err());
        let moved = BucketKeys::new(VolumeId([2; 16]), here.limits);
        assert!(moved.open(&key_id(), 1, &material, &wrap).is_err());
        elsewhere.clear();
        assert!(elsewhere.find(&key_id(), 1, &wrap).is_none());
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_refused() {
        let (material, dek) = (Secret::random(), Secret::random());
        let (key, _) = keys(10, 60_000).to_wrap(&key_id(), 1, &material);
        let blob = key.wrap(&dek, b"aad");
        let opens = |blob: &[u8]| {
            let fresh = keys(10, 60_000);
            let wrap = BucketWrap::parse(blob)?;
            fresh.open(&key_id(), 1, &material, &wrap).ok()?.unwrap(&wrap, b"aad")
        };
        assert!(opens(&blob).is_some());
        for at in 0..blob.len() {
            let mut altered = blob.clone();
            altered[at] ^= 1;
            assert!(opens(&altered).is_none(), "byte {at}");
            assert!(opens(&blob[..at]).is_none(), "cut at {at}");
        }
        assert!(opens(&[&blob[..], &[0]].concat()).is_none());
    }

    #[test]
    fn what_is_too_old_is_swept() {
        let material = Secret::random();
        let keys = keys(10, 30);
        let (key, _) = keys.to_wrap(&key_id(), 1, &material);
        let wrap = BucketWrap::parse(&key.wrap(&Secret::random(), b"")).unwrap();
        keys.open(&key_id(), 1, &material, &wrap).unwrap();
        std::thread::sleep(Duration::from_millis(40));
        keys.sweep();
        assert!(lock(&keys.current).is_empty() && lock(&keys.opened).is_empty());
    }
}
