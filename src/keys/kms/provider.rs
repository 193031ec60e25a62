//! The key provider of kms mode: each DEK is wrapped by a CMK of the local KMS. Every opening is
//! checked against the key's state, policy and grants, whether its DEK is in memory or not, and
//! is recorded in the audit log before the DEK is used.

use std::cell::Cell;
use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::fmt::{Display, Write};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use super::action::Action;
use super::bucket_key::{BucketKeyLimits, BucketKeys, BucketWrap};
use super::cmk::Cmk;
use super::error::{ErrorCode, KmsError};
use super::familiar::{Familiar, Familiars, Shape};
use super::grant::{Constraints, Grant};
use super::local::LocalKms;
use crate::crypto::Secret;
use crate::format::{Envelope, KeyId, Mode, VolumeId, WrapAlgorithm};
use crate::keys::audit::{Event, EventError, Target, Template};
use crate::keys::error::KeyError;
use crate::keys::identity::{Identities, Identity};
use crate::keys::provider::{Access, Binding, KeyProvider, Operation};
use crate::keys::wrap::{Wrapper, unwrap};

/// The provider of kms mode for one volume.
pub struct KmsProvider {
    kms: Arc<LocalKms>,
    /// Id or alias of the CMK that wraps the DEKs of new files whose directory names no other;
    /// `None` where only existing files are opened. An alias may move, and counts as it is when
    /// a file is made.
    default_key: Option<KeyId>,
    options: KmsOptions,
    identities: Identities,
    buckets: BucketKeys,
    pub(super) familiars: Familiars,
    /// Whether each key that was used so far could be used when that was last looked at.
    used: Mutex<HashMap<KeyId, bool>>,
}

/// How the CMKs are used.
#[derive(Debug, Clone, Default)]
pub struct KmsOptions {
    /// The user's pairs of the encryption context of new files.
    pub context: BTreeMap<String, String>,
    /// What is recorded.
    pub level: AuditLevel,
    /// Whether bucket keys wrap new DEKs, and how long.
    pub bucket_keys: Option<BucketKeyLimits>,
}

/// What is recorded in the audit log, besides refusals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AuditLevel {
    /// Every opening.
    #[default]
    Opens,
    /// Every use of a CMK, but not openings whose DEK was in memory.
    Uses,
}

impl KmsProvider {
    /// For `volume`, with the CMK of new files named by id or alias.
    pub fn new(
        kms: Arc<LocalKms>,
        default_key: Option<&str>,
        volume: VolumeId,
        options: KmsOptions,
    ) -> Result<Self, KeyError> {
        let default_key = default_key.map(|name| KeyId(name.to_owned()));
        if let Some(named) = &default_key {
            let found = kms.resolve(&named.0).and_then(|key_id| kms.cmk(&key_id));
            found.map_err(|error| key_error(error, named.clone()))?;
        }
        // Files made with bucket keys are opened also where new ones are made without.
        let limits = options.bucket_keys.unwrap_or(BucketKeyLimits::DEFAULT);
        Ok(Self {
            buckets: BucketKeys::new(volume, limits),
            kms,
            default_key,
            options,
            identities: Identities::new(),
            familiars: Familiars::default(),
            used: Mutex::default(),
        })
    }

    /// The CMK that new files have now whose directory names no other.
    pub fn default_key(&self) -> Result<KeyId, KeyError> {
        let Some(named) = &self.default_key else {
            return Err(KeyError::Unusable(
                "no CMK was given to this mount for new files: give one with --key-id".into(),
            ));
        };
        self.resolved(named)
    }

    /// The CMK for a new file.
    fn key_for(&self, access: &Access<'_>) -> Result<KeyId, KeyError> {
        access.key_id.map_or_else(|| self.default_key(), |named| self.resolved(named))
    }

    fn resolved(&self, named: &KeyId) -> Result<KeyId, KeyError> {
        self.kms.resolve(&named.0).map_err(|error| key_error(error, named.clone()))
    }

    /// The CMK, once `usage` is allowed. A refusal is recorded.
    fn allowed(&self, usage: &Usage<'_>) -> Result<Arc<Cmk>, KeyError> {
        let found = self.kms.cmk(usage.key_id).and_then(|cmk| {
            if !usage.cached {
                self.note_use(usage.key_id);
            }
            self.kms.authorise(&cmk, &usage.identity, usage.action, &usage.context.0).map(|()| cmk)
        });
        found.map_err(|error| self.refused(usage, error))
    }

    /// Records a refusal, and says it as the mount does.
    fn refused(&self, usage: &Usage<'_>, error: KmsError) -> KeyError {
        let code = match &error {
            KmsError::Refused { code, .. } => code.name(),
            KmsError::Key(_) => INTERNAL,
        };
        let told = EventError { code, message: error.to_string() };
        if let Err(failed) = self.record(usage, Some(told)) {
            log::error!("a refused {} is not in the audit log: {failed}", usage.action.name());
        }
        let uid = usage.identity.caller().uid;
        let state = || self.kms.cmk(usage.key_id).map_or("Unavailable", |cmk| cmk.state().name());
        match error {
            KmsError::Refused { code: ErrorCode::AccessDenied, .. } => KeyError::Denied {
                key_id: usage.key_id.clone(),
                uid,
                operation: usage.action.name(),
            },
            KmsError::Refused { code: ErrorCode::Disabled | ErrorCode::InvalidState, .. } => {
                KeyError::NotUsable { key_id: usage.key_id.clone(), state: state() }
            }
            error => key_error(error, usage.key_id.clone()),
        }
    }

    fn record(&self, usage: &Usage<'_>, error: Option<EventError>) -> Result<(), KeyError> {
        self.kms.audit().record(&usage.event(&path_of(usage.access), error))
    }

    /// The answer to an opening that is like the last one of its process, with its record.
    fn answer_familiar(
        &self,
        envelope: &Envelope,
        binding: Binding,
        access: &Access<'_>,
    ) -> Option<Result<(), KeyError>> {
        let mut place = self.familiars.place(access.caller);
        let familiar = place.as_mut().filter(|it| it.shape.fits(envelope, binding, access))?;
        let now = Instant::now();
        if !familiar.knows_caller(now) || !self.kms.is_unchanged(&familiar.look, now) {
            return None;
        }
        let record = familiar.record.clone();
        // Others of this place need not wait until it is recorded.
        drop(place);
        Some(match &record {
            Some(record) => self.kms.audit().record_from(record, binding.file, &path_of(access)),
            None => Ok(()),
        })
    }

    /// Takes note of an opening that was allowed, if the next one may be answered like it.
    fn note_familiar(&self, usage: &Usage<'_>, cmk: &Arc<Cmk>, envelope: &Envelope) {
        let Usage { identity, access, binding, .. } = usage;
        let caller = access.caller;
        let Some(look) = self.kms.look(cmk) else { return };
        let Some(until) = self.identities.stands_until(caller, identity) else { return };
        let asked = Instant::now();
        let mut place = self.familiars.place(caller);
        if let Some(familiar) = place.as_mut()
            && familiar.shape.fits(envelope, *binding, access)
            && Arc::ptr_eq(&familiar.identity, identity)
            && Arc::ptr_eq(&familiar.cmk, cmk)
        {
            (familiar.asked, familiar.until, familiar.look) = (asked, until, look);
            return;
        }
        *place = None;
        let grants = cmk.grants().iter().filter_map(Grant::constraints);
        let of_this_file = cmk.policy().looks_at(CONTEXT_FILE)
            || grants.map(Constraints::pairs).any(|pairs| pairs.contains_key(CONTEXT_FILE));
        if of_this_file {
            return;
        }
        let record = match self.options.level {
            AuditLevel::Opens => match Template::of(&usage.event(&path_of(access), None)) {
                Some(template) => Some(Arc::new(template)),
                None => return,
            },
            AuditLevel::Uses => None,
        };
        let cmk = Arc::clone(cmk);
        let shape = Shape::of(envelope, *binding, access);
        let identity = Arc::clone(identity);
        *place = Some(Familiar { shape, identity, asked, until, cmk, look, record });
    }

    /// Records a use of what is in memory already, if that is wanted.
    fn record_from_memory(&self, usage: &Usage<'_>) -> Result<(), KeyError> {
        match self.options.level {
            AuditLevel::Opens => self.record(usage, None),
            AuditLevel::Uses => Ok(()),
        }
    }

    fn usage<'a>(
        &self,
        action: Action,
        key_id: &'a KeyId,
        pairs: &BTreeMap<String, String>,
        binding: Binding,
        access: &'a Access<'a>,
    ) -> Usage<'a> {
        Usage {
            action,
            identity: self.identities.of(access.caller),
            key_id,
            key_version: None,
            context: Context::new(pairs, binding),
            binding,
            access,
            cached: false,
            bucket_key: None,
        }
    }

    fn usage_of<'a>(
        &self,
        envelope: &'a Envelope,
        binding: Binding,
        access: &'a Access<'a>,
        cached: bool,
    ) -> Usage<'a> {
        let pairs = &envelope.context;
        let usage = self.usage(Action::Decrypt, &envelope.key_id, pairs, binding, access);
        Usage { key_version: Some(envelope.key_version), cached, ..usage }
    }

    /// Unwraps through a bucket key, asking the CMK only where that is not in memory.
    fn unwrap_by_bucket_key(
        &self,
        envelope: &Envelope,
        material: &Secret,
        usage: &mut Usage<'_>,
    ) -> Result<Secret, KeyError> {
        let failed = || KeyError::UnwrapFailed {
            key_id: envelope.key_id.clone(),
            version: envelope.key_version,
        };
        let (key_id, version) = (&envelope.key_id, envelope.key_version);
        let wrap = BucketWrap::parse(&envelope.wrapped_dek).ok_or_else(failed)?;
        let held = self.buckets.find(key_id, version, &wrap);
        let asked_cmk = held.is_none();
        let key = match held {
            Some(key) => key,
            None => self.buckets.open(key_id, version, material, &wrap)?,
        };
        usage.bucket_key = Some(key.id());
        usage.cached = !asked_cmk;
        let aad = envelope.aad(usage.binding.volume, usage.binding.file);
        let dek = key.unwrap(&wrap, &aad).ok_or_else(failed)?;
        if asked_cmk {
            self.record(usage, None)?
        } else {
            self.record_from_memory(usage)?
        }
        Ok(dek)
    }

    fn note_use(&self, key_id: &KeyId) {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        if !used.contains_key(key_id) {
            used.insert(key_id.clone(), true);
        }
    }

    fn is_usable(&self, key_id: &KeyId) -> bool {
        let checked =
            self.kms.cmk(key_id).and_then(|cmk| self.kms.check_usable(&cmk, Action::Decrypt));
        !matches!(checked, Err(KmsError::Refused { .. }))
    }
}

impl KeyProvider for KmsProvider {
    fn mode(&self) -> Mode {
        Mode::Kms
    }

    fn wrap(
        &self,
        dek: &Secret,
        previous: Option<&Envelope>,
        binding: Binding,
        access: &Access<'_>,
    ) -> Result<Envelope, KeyError> {
        let key_id = self.key_for(access)?;
        let action = match previous {
            Some(_) => Action::ReEncryptTo,
            None => Action::GenerateDataKey,
        };
        let pairs = previous.map_or(&self.options.context, |previous| &previous.context);
        let mut usage = self.usage(action, &key_id, pairs, binding, access);
        let cmk = self.allowed(&usage)?;
        let (version, material) = cmk
            .newest()
            .ok_or(KeyError::NotUsable { key_id: key_id.clone(), state: cmk.state().name() })?;
        usage.key_version = Some(version);
        let wrapper = Wrapper {
            mode: Mode::Kms,
            provider: PROVIDER,
            key_id: &key_id,
            key_version: version,
            material,
            context: &self.options.context,
        };
        if self.options.bucket_keys.is_none() || access.operation != Operation::Create {
            self.record(&usage, None)?;
            return wrapper.wrap(dek, previous, binding);
        }
        let (key, made) = self.buckets.to_wrap(&key_id, version, material);
        usage.bucket_key = Some(key.id());
        usage.cached = !made;
        if made {
            self.record(&usage, None)?
        } else {
            self.record_from_memory(&usage)?
        }
        let mut envelope = wrapper.envelope(WrapAlgorithm::Provider, previous);
        let aad = envelope.aad(binding.volume, binding.file);
        envelope.wrapped_dek = key.wrap(dek, &aad);
        envelope.encode()?;
        Ok(envelope)
    }

    fn unwrap(
        &self,
        envelope: &Envelope,
        binding: Binding,
        access: &Access<'_>,
    ) -> Result<Secret, KeyError> {
        let mut usage = self.usage_of(envelope, binding, access, false);
        let cmk = self.allowed(&usage)?;
        let version = envelope.key_version;
        let missing = KeyError::VersionNotFound { key_id: envelope.key_id.clone(), version };
        let unwrapped = match (cmk.version(version), envelope.wrap_algorithm) {
            (None, _) => Err(missing),
            (Some(material), WrapAlgorithm::Provider) => {
                self.unwrap_by_bucket_key(envelope, material, &mut usage)
            }
            (Some(material), WrapAlgorithm::Aes256Gcm) => unwrap(material, envelope, binding)
                .and_then(|dek| {
                    self.record(&usage, None)?;
                    Ok(dek)
                }),
        };
        if let Err(error @ (KeyError::VersionNotFound { .. } | KeyError::UnwrapFailed { .. })) =
            &unwrapped
        {
            let code = ErrorCode::InvalidCiphertext.name();
            self.record(&usage, Some(EventError { code, message: error.to_string() }))?;
        }
        unwrapped
    }

    fn authorise(
        &self,
        envelope: &Envelope,
        binding: Binding,
        access: &Access<'_>,
        cached: bool,
    ) -> Result<(), KeyError> {
        if cached && let Some(answer) = self.answer_familiar(envelope, binding, access) {
            return answer;
        }
        let usage = self.usage_of(envelope, binding, access, cached);
        let cmk = self.allowed(&usage)?;
        if !cached {
            return Ok(());
        }
        self.record_from_memory(&usage)?;
        self.note_familiar(&usage, &cmk, envelope);
        Ok(())
    }

    fn check(&self, envelope: &Envelope) -> Result<(), KeyError> {
        let cmk = self.kms.cmk(&envelope.key_id);
        let cmk = cmk.map_err(|error| key_error(error, envelope.key_id.clone()))?;
        match self.kms.check_usable(&cmk, Action::Decrypt) {
            Ok(()) => Ok(()),
            Err(_) => Err(KeyError::NotUsable {
                key_id: envelope.key_id.clone(),
                state: cmk.state().name(),
            }),
        }
    }

    fn has_withdrawn(&self) -> bool {
        let keys: Vec<KeyId> = {
            let used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
            used.keys().cloned().collect()
        };
        let mut withdrawn = false;
        for key_id in keys {
            let usable = self.is_usable(&key_id);
            let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
            withdrawn |= used.insert(key_id, usable) == Some(true) && !usable;
        }
        if withdrawn {
            self.buckets.clear();
        }
        self.buckets.sweep();
        withdrawn
    }

    fn resolve(&self, name: &str, access: &Access<'_>) -> Result<KeyId, KeyError> {
        let key_id = self.resolved(&KeyId(name.to_owned()))?;
        let binding =
            Binding { volume: self.buckets.volume(), file: crate::format::FileId::VOLUME };
        let usage =
            self.usage(Action::GenerateDataKey, &key_id, &self.options.context, binding, access);
        self.allowed(&usage)?;
        Ok(key_id)
    }

    fn flush(&self) -> Result<(), KeyError> {
        self.kms.audit().flush()
    }

    fn maintain(&self, now: u64) -> Result<(), KeyError> {
        self.kms.maintain(now).map_err(|error| key_error(error, KeyId("of the keystore".into())))
    }
}

/// One use of a CMK on behalf of a file, and what is to be recorded of it.
struct Usage<'a> {
    action: Action,
    identity: Arc<Identity>,
    key_id: &'a KeyId,
    key_version: Option<u32>,
    /// The pairs that policies and the audit log see: the user's, volume and file.
    context: Context,
    binding: Binding,
    access: &'a Access<'a>,
    /// Whether the CMK was not asked, as DEK or bucket key was in memory.
    cached: bool,
    bucket_key: Option<String>,
}

impl Usage<'_> {
    /// What is recorded of it.
    fn event<'a>(&'a self, path: &'a Path, error: Option<EventError>) -> Event<'a> {
        Event {
            name: self.action.name(),
            read_only: true,
            identity: &self.identity,
            target: Some(Target {
                operation: self.access.operation,
                volume: self.binding.volume,
                file: self.binding.file,
                path,
            }),
            key_id: Some(self.key_id),
            key_version: self.key_version,
            context: &self.context.0,
            cache_hit: Some(self.cached),
            error,
            parameters: BTreeMap::new(),
            additional: (self.bucket_key.as_ref())
                .map(|id| BTreeMap::from([("bucketKeyId", id.as_str().into())]))
                .unwrap_or_default(),
        }
    }
}

/// The path at this time, from the root of the mount.
fn path_of(access: &Access<'_>) -> PathBuf {
    let mut path = (access.path)().into_os_string().into_vec();
    path.insert(0, b'/');
    PathBuf::from(OsString::from_vec(path))
}

/// An encryption context. Its memory is used again by the next one of the thread: mostly it
/// differs from the one before by the file alone.
struct Context(BTreeMap<String, String>);

impl Context {
    /// The user's pairs, volume and file.
    fn new(pairs: &BTreeMap<String, String>, binding: Binding) -> Self {
        let mut context = SPARE.take();
        let same = context.len() == pairs.len() + 2
            && pairs.iter().all(|(name, value)| context.get(name) == Some(value));
        if !same {
            context.clone_from(pairs);
        }
        set(&mut context, CONTEXT_VOLUME, &binding.volume);
        set(&mut context, CONTEXT_FILE, &binding.file);
        Self(context)
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        SPARE.set(std::mem::take(&mut self.0));
    }
}

fn set(context: &mut BTreeMap<String, String>, name: &str, value: &dyn Display) {
    let text = match context.get_mut(name) {
        Some(text) => text,
        None => context.entry(name.to_owned()).or_default(),
    };
    text.clear();
    write!(text, "{value}").expect("a string takes all");
}

thread_local! {
    /// The last context that is not in use any more.
    static SPARE: Cell<BTreeMap<String, String>> = const { Cell::new(BTreeMap::new()) };
}

/// A refusal of the KMS as a mount says it.
fn key_error(error: KmsError, key_id: KeyId) -> KeyError {
    match error {
        KmsError::Key(error) => error,
        KmsError::Refused { code: ErrorCode::NotFound, message } => {
            KeyError::NotFound { key_id, hint: message }
        }
        KmsError::Refused { code, message } => KeyError::Unusable(format!("{code}: {message}")),
    }
}

/// Prefix of the names in the encryption context that ssefs gives itself.
pub const CONTEXT_PREFIX: &str = "ssefs:";
const CONTEXT_VOLUME: &str = "ssefs:volume_id";
const CONTEXT_FILE: &str = "ssefs:file_id";
const PROVIDER: &str = "local";
/// AWS KMS's name for a failure of its own.
const INTERNAL: &str = "KMSInternalException";
