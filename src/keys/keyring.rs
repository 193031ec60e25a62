//! All the keys of one mount: the providers, the mode of new files, and the cache before them.
//! A cached DEK is handed out only after the provider has authorised this very request. Once
//! wiped, it answers nothing any more.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Instant;

use super::cache::{CacheKey, CacheStats, DekCache};
use super::error::KeyError;
use super::provider::{Access, Binding, Generated, KeyProvider};
use crate::crypto::Secret;
use crate::format::{Envelope, FileId, KeyId, Mode};

/// The keys of a mount.
pub struct Keyring {
    /// `None` once wiped. Held only to clone the `Arc`, never across a provider's call.
    providers: RwLock<Option<Providers>>,
    default_mode: Mode,
    cache: DekCache,
}

impl Keyring {
    /// With these providers, of which one must serve `default_mode` if files are to be made.
    /// Several may serve one mode: the first that holds the envelope's key is used.
    pub fn new(providers: Vec<Box<dyn KeyProvider>>, default_mode: Mode, cache: DekCache) -> Self {
        Self { providers: RwLock::new(Some(providers.into())), default_mode, cache }
    }

    /// The mode of new files.
    pub fn default_mode(&self) -> Mode {
        self.default_mode
    }

    /// Makes a DEK in the default mode.
    pub fn generate(&self, binding: Binding, access: &Access<'_>) -> Result<Generated, KeyError> {
        let providers = self.providers()?;
        let provider = default_provider(&providers, self.default_mode)?;
        let generated = provider.generate(binding, access)?;
        self.remember(&generated.envelope, binding, &generated.dek);
        Ok(generated)
    }

    /// Wraps a DEK that exists in the default mode; `previous` is the envelope that it had.
    pub fn wrap(
        &self,
        dek: &Secret,
        previous: Option<&Envelope>,
        binding: Binding,
        access: &Access<'_>,
    ) -> Result<Envelope, KeyError> {
        let providers = self.providers()?;
        default_provider(&providers, self.default_mode)?.wrap(dek, previous, binding, access)
    }

    /// Wraps a DEK that exists under the newest material of the key that its envelope names.
    pub fn wrap_again(
        &self,
        dek: &Secret,
        current: &Envelope,
        binding: Binding,
        access: &Access<'_>,
    ) -> Result<Envelope, KeyError> {
        let providers = self.providers()?;
        let provider = holder(&providers, current, |provider| {
            provider.authorise(current, binding, access, false)
        })?;
        let access = Access { key_id: Some(&current.key_id), ..*access };
        provider.wrap(dek, Some(current), binding, &access)
    }

    /// The DEK of an envelope. The caller's right is checked first, whether the DEK is cached
    /// or not. May block while a provider unwraps; other files do not wait for it.
    pub fn dek(
        &self,
        envelope: &Envelope,
        binding: Binding,
        access: &Access<'_>,
    ) -> Result<Secret, KeyError> {
        let providers = self.providers()?;
        let key = CacheKey::new(envelope, binding);
        let cached = self.cache.find(&key, Instant::now());
        let provider = holder(&providers, envelope, |provider| {
            provider.authorise(envelope, binding, access, cached.is_some())
        })?;
        if let Some(dek) = cached {
            return Ok(dek);
        }
        let dek = provider.unwrap(envelope, binding, access)?;
        self.cache.insert(&key, &dek, Instant::now());
        Ok(dek)
    }

    /// The DEK of an envelope, past the cache.
    pub(super) fn dek_uncached(
        &self,
        envelope: &Envelope,
        binding: Binding,
        access: &Access<'_>,
    ) -> Result<Secret, KeyError> {
        let providers = self.providers()?;
        let provider = holder(&providers, envelope, |provider| {
            provider.authorise(envelope, binding, access, false)
        })?;
        provider.unwrap(envelope, binding, access)
    }

    /// Whether the caller may use the envelope's key now, for a file that is open already.
    pub fn authorise(
        &self,
        envelope: &Envelope,
        binding: Binding,
        access: &Access<'_>,
    ) -> Result<(), KeyError> {
        let providers = self.providers()?;
        holder(&providers, envelope, |provider| provider.authorise(envelope, binding, access, true))
            .map(drop)
    }

    /// Whether a provider serves `mode`.
    pub fn serves(&self, mode: Mode) -> bool {
        self.providers().is_ok_and(|all| all.iter().any(|provider| provider.mode() == mode))
    }

    /// Drops the file's DEK from the cache, as when the file is gone.
    pub fn forget(&self, file: FileId) {
        self.cache.forget(file);
    }

    /// What the cache did so far.
    pub fn stats(&self) -> CacheStats {
        self.cache.stats()
    }

    /// Whether the envelope's key may be used at all now, whoever asks.
    pub fn check(&self, envelope: &Envelope) -> Result<(), KeyError> {
        let providers = self.providers()?;
        holder(&providers, envelope, |provider| provider.check(envelope)).map(drop)
    }

    /// The id of the key in the default mode that the caller names, by id or alias.
    pub fn resolve(&self, name: &str, access: &Access<'_>) -> Result<KeyId, KeyError> {
        let providers = self.providers()?;
        default_provider(&providers, self.default_mode)?.resolve(name, access)
    }

    /// Drops cached DEKs that have grown too old, and all of them when a key has become
    /// unusable; to be called every few seconds.
    pub fn sweep(&self) {
        let providers = self.providers();
        let withdrawn = |all: Providers| {
            // Each is asked: the answer is given once.
            all.iter().fold(false, |any, provider| provider.has_withdrawn() | any)
        };
        if providers.is_ok_and(withdrawn) {
            self.cache.clear();
        }
        self.cache.sweep(Instant::now());
    }

    /// Puts what the providers have to record on stable storage; to be called every second and
    /// at the end. Every provider is asked; the first error is answered.
    pub fn flush(&self) -> Result<(), KeyError> {
        self.of_each(|provider| provider.flush())
    }

    /// The providers' work of a day, such as rotation by age; `now` in seconds since 1970-01-01
    /// UTC. Every provider is asked; the first error is answered.
    pub fn maintain(&self, now: u64) -> Result<(), KeyError> {
        self.of_each(|provider| provider.maintain(now))
    }

    /// Wipes the cache and all keys; every later call is [`KeyError::Wiped`]. A call under way
    /// finishes first with what it holds, and leaves nothing in the cache.
    pub fn wipe(&self) {
        *self.providers.write().unwrap_or_else(PoisonError::into_inner) = None;
        self.cache.close();
    }

    fn of_each(
        &self,
        ask: impl Fn(&dyn KeyProvider) -> Result<(), KeyError>,
    ) -> Result<(), KeyError> {
        let providers = self.providers()?;
        let mut result = Ok(());
        for provider in providers.iter() {
            result = result.and(ask(provider.as_ref()));
        }
        result
    }

    fn remember(&self, envelope: &Envelope, binding: Binding, dek: &Secret) {
        self.cache.insert(&CacheKey::new(envelope, binding), dek, Instant::now());
    }

    fn providers(&self) -> Result<Providers, KeyError> {
        let providers = self.providers.read().unwrap_or_else(PoisonError::into_inner);
        providers.clone().ok_or(KeyError::Wiped)
    }
}

type Providers = Arc<[Box<dyn KeyProvider>]>;

fn default_provider(
    providers: &[Box<dyn KeyProvider>],
    mode: Mode,
) -> Result<&dyn KeyProvider, KeyError> {
    let found = providers.iter().find(|provider| provider.mode() == mode);
    found.map(Box::as_ref).ok_or_else(|| {
        KeyError::Unusable(format!("no {mode} key was given to this mount for new files"))
    })
}

/// The provider that holds the envelope's key, if `asked` finds nothing against its use.
fn holder<'a>(
    providers: &'a [Box<dyn KeyProvider>],
    envelope: &Envelope,
    asked: impl Fn(&dyn KeyProvider) -> Result<(), KeyError>,
) -> Result<&'a dyn KeyProvider, KeyError> {
    let mut refusal = None;
    for provider in providers.iter().filter(|provider| provider.mode() == envelope.mode) {
        match asked(provider.as_ref()) {
            Ok(()) => return Ok(provider.as_ref()),
            Err(not_found @ KeyError::NotFound { .. }) => {
                refusal.get_or_insert(not_found);
            }
            Err(refused) => return Err(refused),
        }
    }
    Err(refusal.unwrap_or_else(|| KeyError::ModeNotAvailable {
        mode: envelope.mode,
        key_id: envelope.key_id.clone(),
    }))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
    use std::sync::mpsc::{Receiver, Sender, channel};
    use std::time::Duration;

    use super::super::SuppliedProvider;
    use super::*;
    use crate::format::VolumeId;

    const VOLUME: VolumeId = VolumeId([1; 16]);
    const BINDING: Binding = Binding { volume: VOLUME, file: FileId([2; 16]) };

    fn access() -> Access<'static> {
        Access::own(&PathBuf::new)
    }

    fn supplied(byte: u8) -> SuppliedProvider {
        SuppliedProvider::new(Secret::copy_from(&[byte; 32]), VOLUME)
    }

    fn cache() -> DekCache {
        DekCache::new(100, Duration::from_secs(60))
    }

    fn keyring(provider: impl KeyProvider + 'static) -> Keyring {
        Keyring::new(vec![Box::new(provider)], Mode::Supplied, cache())
    }

    /// A supplied provider that counts what it is asked, and can deny or stall.
    #[derive(Default)]
    struct Watch {
        unwraps: AtomicUsize,
        denied: AtomicBool,
    }

    struct Watched {
        watch: Arc<Watch>,
        inner: SuppliedProvider,
        stall: Option<(Sender<()>, std::sync::Mutex<Receiver<()>>)>,
    }

    impl KeyProvider for Watched {
        fn mode(&self) -> Mode {
            self.inner.mode()
        }

        fn wrap(
            &self,
            dek: &Secret,
            previous: Option<&Envelope>,
            binding: Binding,
            access: &Access<'_>,
        ) -> Result<Envelope, KeyError> {
            self.inner.wrap(dek, previous, binding, access)
        }

        fn unwrap(
            &self,
            envelope: &Envelope,
            binding: Binding,
            access: &Access<'_>,
        ) -> Result<Secret, KeyError> {
            self.watch.unwraps.fetch_add(1, Ordering::SeqCst);
            if let Some((begun, go_on)) = &self.stall {
                begun.send(()).unwrap();
                go_on.lock().unwrap().recv_timeout(Duration::from_secs(10)).unwrap();
            }
            self.inner.unwrap(envelope, binding, access)
        }

        fn authorise(
            &self,
            envelope: &Envelope,
            binding: Binding,
            access: &Access<'_>,
            cached: bool,
        ) -> Result<(), KeyError> {
            if self.watch.denied.load(Ordering::SeqCst) {
                let state = "Disabled";
                return Err(KeyError::NotUsable { key_id: envelope.key_id.clone(), state });
            }
            self.inner.authorise(envelope, binding, access, cached)
        }
    }

    #[test]
    fn a_second_opening_is_served_from_the_cache_but_not_past_the_right() {
        let watch = Arc::new(Watch::default());
        let inner = supplied(1);
        let made = inner.generate(BINDING, &access()).unwrap();
        let keyring = keyring(Watched { watch: Arc::clone(&watch), inner, stall: None });
        for _ in 0..3 {
            let dek = keyring.dek(&made.envelope, BINDING, &access()).unwrap();
            assert!(dek.equals(&made.dek));
        }
        assert_eq!(watch.unwraps.load(Ordering::SeqCst), 1);
        assert_eq!((keyring.stats().hits, keyring.stats().misses), (2, 1));

        watch.denied.store(true, Ordering::SeqCst);
        for refused in [
            keyring.dek(&made.envelope, BINDING, &access()).map(drop),
            keyring.authorise(&made.envelope, BINDING, &access()),
        ] {
            assert!(matches!(refused, Err(KeyError::NotUsable { state: "Disabled", .. })));
        }
        watch.denied.store(false, Ordering::SeqCst);
        keyring.forget(BINDING.file);
        keyring.dek(&made.envelope, BINDING, &access()).unwrap();
        assert_eq!(watch.unwraps.load(Ordering::SeqCst), 2);
    }

    #[test]
    fn a_generated_dek_is_cached_and_an_altered_envelope_is_refused_all_the_same() {
        let keyring = keyring(supplied(1));
        let made = keyring.generate(BINDING, &access()).unwrap();
        assert!(keyring.dek(&made.envelope, BINDING, &access()).unwrap().equals(&made.dek));
        assert_eq!(keyring.stats().hits, 1);
        let moved = Binding { file: FileId([3; 16]), ..BINDING };
        let elsewhere = Binding { volume: VolumeId([3; 16]), ..BINDING };
        let altered = Envelope { created: made.envelope.created + 1, ..made.envelope.clone() };
        for (envelope, binding) in
            [(&made.envelope, moved), (&made.envelope, elsewhere), (&altered, BINDING)]
        {
            let refused = keyring.dek(envelope, binding, &access());
            assert!(matches!(refused, Err(KeyError::UnwrapFailed { .. })));
        }
    }

    #[test]
    fn modes_without_a_provider_are_named() {
        let keyring = keyring(supplied(1));
        let made = keyring.generate(BINDING, &access()).unwrap();
        let managed = Envelope { mode: Mode::Managed, ..made.envelope };
        let refused = keyring.dek(&managed, BINDING, &access());
        assert!(matches!(refused, Err(KeyError::ModeNotAvailable { mode: Mode::Managed, .. })));
        assert!(keyring.serves(Mode::Supplied) && !keyring.serves(Mode::Managed));
        let without = Keyring::new(vec![Box::new(supplied(1))], Mode::Managed, cache());
        let message = without.generate(BINDING, &access()).err().unwrap().to_string();
        assert_eq!(message, "no managed key was given to this mount for new files");
    }

    #[test]
    fn of_two_keys_of_a_mode_the_one_that_fits_is_used() {
        let old = supplied(1).generate(BINDING, &access()).unwrap();
        let providers: Vec<Box<dyn KeyProvider>> =
            vec![Box::new(supplied(2)), Box::new(supplied(1))];
        let keyring = Keyring::new(providers, Mode::Supplied, cache());
        let dek = keyring.dek(&old.envelope, BINDING, &access()).unwrap();
        assert!(dek.equals(&old.dek));
        let new = keyring.wrap(&dek, Some(&old.envelope), BINDING, &access()).unwrap();
        assert_eq!(&new.key_id, supplied(2).key_id());
        assert!(keyring.dek(&new, BINDING, &access()).unwrap().equals(&old.dek));
        let foreign = Envelope { key_id: KeyId("supplied:no".into()), ..new };
        let refused = keyring.dek(&foreign, BINDING, &access());
        assert!(matches!(refused, Err(KeyError::NotFound { .. })));
    }

    #[test]
    fn a_wiped_keyring_answers_nothing() {
        let keyring = keyring(supplied(1));
        let made = keyring.generate(BINDING, &access()).unwrap();
        keyring.wipe();
        assert_eq!(keyring.stats().entries, 0);
        for refused in [
            keyring.generate(BINDING, &access()).map(drop),
            keyring.dek(&made.envelope, BINDING, &access()).map(drop),
            keyring.wrap(&made.dek, None, BINDING, &access()).map(drop),
            keyring.authorise(&made.envelope, BINDING, &access()),
            keyring.maintain(0),
        ] {
            assert!(matches!(refused, Err(KeyError::Wiped)));
        }
    }

    #[test]
    fn a_slow_unwrap_holds_up_neither_other_files_nor_the_wipe() {
        let inner = supplied(1);
        let slow = inner.generate(BINDING, &access()).unwrap();
        let (begun, has_begun) = channel();
        let (release, go_on) = channel();
        let watch = Arc::new(Watch::default());
        let keyring = keyring(Watched { watch, inner, stall: Some((begun, go_on.into())) });
        std::thread::scope(|scope| {
            let opening = scope.spawn(|| keyring.dek(&slow.envelope, BINDING, &access()));
            has_begun.recv_timeout(Duration::from_secs(10)).unwrap();
            let other = Binding { file: BINDING.file, volume: VolumeId([8; 16]) };
            let made = keyring.generate(other, &access()).unwrap();
            keyring.dek(&made.envelope, other, &access()).unwrap();
            keyring.wipe();
            release.send(()).unwrap();
            assert!(opening.join().unwrap().unwrap().equals(&slow.dek));
        });
        assert_eq!(keyring.stats().entries, 0, "what came late is not cached");
    }
}
