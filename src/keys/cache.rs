//! The cache of unwrapped DEKs: bounded by count and by age, in locked memory that is wiped when
//! an entry goes. An entry answers only for the very envelope that it was unwrapped from, so an
//! altered or moved envelope never profits from it. Shards keep one file's opening from waiting
//! for another's.

use std::num::NonZeroUsize;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use lru::LruCache;
use serde::Serialize;

use super::provider::Binding;
use crate::crypto::{MAC_LEN, Secret, sha256};
use crate::format::{Envelope, FileId};

/// The cache. Each file has at most one entry.
pub struct DekCache {
    /// A shard's lock is taken alone, and never held across an unwrap.
    shards: Box<[Mutex<Shard>]>,
    capacity: usize,
    ttl: Duration,
}

/// What an entry answers for: a file's envelope with all its fields, in its volume.
#[derive(Clone, Copy)]
pub(super) struct CacheKey {
    file: FileId,
    digest: [u8; MAC_LEN],
}

/// What the cache did since it was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct CacheStats {
    /// How many DEKs it may hold.
    pub capacity: u64,
    /// After how many seconds an entry is dropped.
    pub ttl_s: u64,
    /// How many DEKs it holds.
    pub entries: u64,
    /// Openings that found their DEK.
    pub hits: u64,
    /// Openings that had to unwrap.
    pub misses: u64,
    /// Entries dropped for lack of room.
    pub evictions: u64,
    /// Entries dropped for their age.
    pub expired: u64,
}

impl DekCache {
    /// How many DEKs are held unless told otherwise: half a MiB of locked memory.
    pub const DEFAULT_CAPACITY: usize = 16_384;
    /// How long they are held unless told otherwise.
    pub const DEFAULT_TTL: Duration = Duration::from_secs(300);

    /// Holds at most `capacity` DEKs, each for at most `ttl`. A capacity of 0 disables it.
    pub fn new(capacity: usize, ttl: Duration) -> Self {
        let count = (capacity / MIN_ENTRIES_PER_SHARD).clamp(1, MAX_SHARDS);
        let shard = |index| {
            let share = capacity / count + usize::from(index < capacity % count);
            Mutex::new(Shard::new(share))
        };
        Self { shards: (0..count).map(shard).collect(), capacity, ttl }
    }

    /// Hits, misses and how full it is.
    pub fn stats(&self) -> CacheStats {
        let mut stats = CacheStats {
            capacity: self.capacity as u64,
            ttl_s: self.ttl.as_secs(),
            ..CacheStats::default()
        };
        for shard in &self.shards {
            let shard = lock(shard);
            stats.entries += shard.len() as u64;
            stats.hits += shard.hits;
            stats.misses += shard.misses;
            stats.evictions += shard.evictions;
            stats.expired += shard.expired;
        }
        stats
    }

    /// The DEK, if it is held and not too old.
    pub(super) fn find(&self, key: &CacheKey, now: Instant) -> Option<Secret> {
        self.shard(key.file).find(key, now, self.ttl)
    }

    /// Holds `dek`, in place of what was held for the file.
    pub(super) fn insert(&self, key: &CacheKey, dek: &Secret, now: Instant) {
        self.shard(key.file).insert(key, dek, now);
    }

    /// Drops the file's DEK.
    pub(super) fn forget(&self, file: FileId) {
        self.shard(file).forget(file);
    }

    /// Drops what has grown too old.
    pub(super) fn sweep(&self, now: Instant) {
        for shard in &self.shards {
            lock(shard).sweep(now, self.ttl);
        }
    }

    /// Drops everything.
    pub(super) fn clear(&self) {
        for shard in &self.shards {
            if let Some(entries) = &mut lock(shard).entries {
                entries.clear();
            }
        }
    }

    /// Drops everything and holds nothing from now on.
    pub(super) fn close(&self) {
        for shard in &self.shards {
            lock(shard).entries = None;
        }
    }

    fn shard(&self, file: FileId) -> MutexGuard<'_, Shard> {
        // File ids are random, but their holder chooses where to copy a file: only speed
        // depends on the choice of shard.
        lock(&self.shards[usize::from(file.0[15]) % self.shards.len()])
    }
}

impl CacheKey {
    /// For `envelope` at its place.
    pub(super) fn new(envelope: &Envelope, binding: Binding) -> Self {
        let mut bound = envelope.aad(binding.volume, binding.file);
        bound.extend_from_slice(&(envelope.wrapped_dek.len() as u64).to_le_bytes());
        bound.extend_from_slice(&envelope.wrapped_dek);
        Self { file: binding.file, digest: sha256(&bound) }
    }
}

struct Shard {
    /// `None` when the capacity is 0 or the cache is closed.
    entries: Option<LruCache<FileId, Entry>>,
    hits: u64,
    misses: u64,
    evictions: u64,
    expired: u64,
}

struct Entry {
    digest: [u8; MAC_LEN],
    inserted: Instant,
    dek: Secret,
}

impl Shard {
    fn new(capacity: usize) -> Self {
        let entries = NonZeroUsize::new(capacity).map(LruCache::sparse);
        Self { entries, hits: 0, misses: 0, evictions: 0, expired: 0 }
    }

    fn len(&self) -> usize {
        self.entries.as_ref().map_or(0, LruCache::len)
    }

    fn find(&mut self, key: &CacheKey, now: Instant, ttl: Duration) -> Option<Secret> {
        if let Some(entries) = &mut self.entries {
            match entries.get(&key.file) {
                Some(entry) if entry.is_expired(now, ttl) => {
                    entries.pop(&key.file);
                    self.expired += 1;
                }
                Some(entry) if entry.digest == key.digest => {
                    self.hits += 1;
                    return Some(entry.dek.duplicate());
                }
                _ => {}
            }
        }
        self.misses += 1;
        None
    }

    fn insert(&mut self, key: &CacheKey, dek: &Secret, now: Instant) {
        let Some(entries) = &mut self.entries else { return };
        let entry = Entry { digest: key.digest, inserted: now, dek: dek.duplicate() };
        let replaced = entries.push(key.file, entry);
        self.evictions += u64::from(replaced.is_some_and(|(file, _)| file != key.file));
    }

    fn forget(&mut self, file: FileId) {
        if let Some(entries) = &mut self.entries {
            entries.pop(&file);
        }
    }

    fn sweep(&mut self, now: Instant, ttl: Duration) {
        if let Some(entries) = &mut self.entries {
            let before = entries.len();
            entries.retain(|_, entry| !entry.is_expired(now, ttl));
            self.expired += (before - entries.len()) as u64;
        }
    }
}

impl Entry {
    fn is_expired(&self, now: Instant, ttl: Duration) -> bool {
        now.saturating_duration_since(self.inserted) >= ttl
    }
}

/// A panic while a shard was held leaves it whole: entries change by single calls.
fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

const MAX_SHARDS: usize = 16;
/// Smaller caches have fewer shards, so that the order of eviction stays near to exact.
const MIN_ENTRIES_PER_SHARD: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::{KeyId, Mode, VolumeId, WrapAlgorithm};

    const TTL: Duration = Duration::from_secs(10);

    fn envelope() -> Envelope {
        Envelope {
            mode: Mode::Managed,
            provider: "keystore".into(),
            key_id: KeyId("k".into()),
            key_version: 1,
            wrap_algorithm: WrapAlgorithm::Aes256Gcm,
            created: 0,
            context: Default::default(),
            wrapped_dek: vec![1; 60],
        }
    }

    fn file(number: u32) -> FileId {
        let mut id = [0; 16];
        id[..4].copy_from_slice(&number.to_le_bytes());
        id[15] = number as u8;
        FileId(id)
    }

    fn binding(number: u32) -> Binding {
        Binding { volume: VolumeId([0; 16]), file: file(number) }
    }

    fn key(number: u32) -> CacheKey {
        CacheKey::new(&envelope(), binding(number))
    }

    fn dek(byte: u8) -> Secret {
        Secret::copy_from(&[byte; 32])
    }

    #[test]
    fn the_least_recently_used_goes_first() {
        let (cache, now) = (DekCache::new(3, TTL), Instant::now());
        for number in 1..=3 {
            cache.insert(&key(number), &dek(number as u8), now);
        }
        assert_eq!(cache.find(&key(1), now).unwrap().expose(), &[1; 32]);
        cache.insert(&key(4), &dek(4), now);
        assert!(cache.find(&key(2), now).is_none(), "2 was used longest ago");
        for number in [1, 3, 4] {
            assert_eq!(cache.find(&key(number), now).unwrap().expose(), &[number as u8; 32]);
        }
        let stats = cache.stats();
        assert_eq!((stats.entries, stats.evictions), (3, 1));
        assert_eq!((stats.hits, stats.misses, stats.expired), (4, 1, 0));
    }

    #[test]
    fn entries_grow_old_however_often_they_are_used() {
        let (cache, start) = (DekCache::new(8, TTL), Instant::now());
        cache.insert(&key(1), &dek(1), start);
        cache.insert(&key(2), &dek(2), start + TTL / 2);
        assert!(cache.find(&key(1), start + TTL - Duration::from_nanos(1)).is_some());
        assert!(cache.find(&key(1), start + TTL).is_none());
        assert_eq!((cache.stats().expired, cache.stats().entries), (1, 1));
        cache.sweep(start + TTL);
        assert_eq!(cache.stats().entries, 1);
        cache.sweep(start + TTL + TTL / 2);
        assert_eq!((cache.stats().expired, cache.stats().entries), (2, 0));
    }

    #[test]
    fn an_altered_or_moved_envelope_misses() {
        let (cache, now) = (DekCache::new(8, TTL), Instant::now());
        cache.insert(&key(1), &dek(1), now);
        let base = envelope();
        let altered = [
            Envelope { key_id: KeyId("another".into()), ..base.clone() },
            Envelope { key_version: 2, ..base.clone() },
            Envelope { mode: Mode::Kms, ..base.clone() },
            Envelope { created: 1, ..base.clone() },
            Envelope { context: [("a".into(), "b".into())].into(), ..base.clone() },
            Envelope { wrapped_dek: vec![2; 60], ..base.clone() },
        ];
        for envelope in altered {
            assert!(cache.find(&CacheKey::new(&envelope, binding(1)), now).is_none());
        }
        let other_volume = Binding { volume: VolumeId([9; 16]), ..binding(1) };
        assert!(cache.find(&CacheKey::new(&base, other_volume), now).is_none());
        assert!(cache.find(&key(2), now).is_none());
        assert!(cache.find(&key(1), now).is_some());
    }

    #[test]
    fn a_rewrapped_file_replaces_its_entry() {
        let (cache, now) = (DekCache::new(8, TTL), Instant::now());
        let rewrapped = CacheKey::new(&Envelope { key_version: 2, ..envelope() }, binding(1));
        cache.insert(&key(1), &dek(1), now);
        cache.insert(&rewrapped, &dek(1), now);
        assert_eq!((cache.stats().entries, cache.stats().evictions), (1, 0));
        assert!(cache.find(&rewrapped, now).is_some());
        cache.forget(file(1));
        assert_eq!(cache.stats().entries, 0);
    }

    #[test]
    fn capacity_0_holds_nothing_and_still_counts() {
        let (cache, now) = (DekCache::new(0, TTL), Instant::now());
        cache.insert(&key(1), &dek(1), now);
        assert!(cache.find(&key(1), now).is_none());
        assert_eq!((cache.stats().entries, cache.stats().misses), (0, 1));
    }

    #[test]
    fn the_bound_holds_over_all_shards() {
        for capacity in [1, 63, 64, 129, 1000, 1024, 5000] {
            let (cache, now) = (DekCache::new(capacity, TTL), Instant::now());
            for number in 0..20_000 {
                cache.insert(&key(number), &dek(1), now);
            }
            let stats = cache.stats();
            assert_eq!(stats.entries, capacity as u64);
            assert_eq!(stats.entries + stats.evictions, 20_000);
        }
        assert_eq!(DekCache::new(DekCache::DEFAULT_CAPACITY, TTL).shards.len(), MAX_SHARDS);
    }

    #[test]
    fn a_closed_cache_takes_nothing_more() {
        let (cache, now) = (DekCache::new(8, TTL), Instant::now());
        cache.insert(&key(1), &dek(1), now);
        cache.close();
        cache.insert(&key(2), &dek(2), now);
        assert!(cache.find(&key(1), now).is_none() && cache.find(&key(2), now).is_none());
        assert_eq!(cache.stats().entries, 0);
    }

    #[test]
    fn many_threads_find_only_their_own() {
        let (cache, now) = (DekCache::new(1024, TTL), Instant::now());
        std::thread::scope(|scope| {
            for thread in 0..4_u32 {
                let cache = &cache;
                scope.spawn(move || {
                    for round in 0..5_000_u32 {
                        let number = (round * 7 + thread) % 2_000;
                        let byte = (number % 251) as u8;
                        match cache.find(&key(number), now) {
                            Some(found) => assert_eq!(found.expose(), &[byte; 32]),
                            None => cache.insert(&key(number), &dek(byte), now),
                        }
                        if round % 97 == 0 {
                            cache.forget(file(number));
                        }
                    }
                });
            }
        });
        let stats = cache.stats();
        assert_eq!(stats.hits + stats.misses, 20_000);
        assert!(stats.entries <= 1024);
    }
}
