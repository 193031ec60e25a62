//! Openings that differ from the one before by the file alone, as those of a program that reads
//! many files do: who asks, for which key and with which context has just been looked at, and the
//! answer is known for as long as nothing changes that it rests on.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::cmk::{Cmk, Look};
use crate::format::{Envelope, KeyId, VolumeId};
use crate::keys::audit::Template;
use crate::keys::identity::{Identity, NO_EXECVE_WITHIN};
use crate::keys::provider::{Access, Binding, Caller, Operation};

/// The last opening of each of a few processes.
#[derive(Default)]
pub(super) struct Familiars {
    /// By the process's number.
    places: [Mutex<Option<Familiar>>; PLACES],
}

/// An opening of a file whose DEK was in memory, which was allowed.
pub(super) struct Familiar {
    pub(super) shape: Shape,
    pub(super) identity: Arc<Identity>,
    /// When the process asked last, and until when it is known to be that of the identity.
    pub(super) asked: Instant,
    pub(super) until: Instant,
    /// The key as it was, and what tells whether it still is.
    pub(super) cmk: Arc<Cmk>,
    pub(super) look: Look,
    /// The record of it, if it is to be recorded.
    pub(super) record: Option<Arc<Template>>,
}

/// All that an opening's answer and its record depend on, but for time, file and path.
pub(super) struct Shape {
    caller: Caller,
    operation: Operation,
    volume: VolumeId,
    key_id: KeyId,
    key_version: u32,
    /// The user's pairs of the encryption context.
    pairs: BTreeMap<String, String>,
}

impl Familiars {
    /// The place of a process.
    pub(super) fn place(&self, caller: Caller) -> MutexGuard<'_, Option<Familiar>> {
        let place = &self.places[caller.pid as usize % PLACES];
        place.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Familiar {
    /// Whether it is still known who asks, at `now`, which then is when he asked last.
    pub(super) fn knows_caller(&mut self, now: Instant) -> bool {
        let known = now < self.until && now - self.asked < NO_EXECVE_WITHIN;
        if known {
            self.asked = now;
        }
        known
    }
}

impl Shape {
    /// Of an opening.
    pub(super) fn of(envelope: &Envelope, binding: Binding, access: &Access<'_>) -> Self {
        Self {
            caller: access.caller,
            operation: access.operation,
            volume: binding.volume,
            key_id: envelope.key_id.clone(),
            key_version: envelope.key_version,
            pairs: envelope.context.clone(),
        }
    }

    /// Whether an opening has it.
    pub(super) fn fits(&self, envelope: &Envelope, binding: Binding, access: &Access<'_>) -> bool {
        self.caller == access.caller
            && self.operation == access.operation
            && self.volume == binding.volume
            && self.key_id == envelope.key_id
            && self.key_version == envelope.key_version
            && self.pairs == envelope.context
    }
}

const PLACES: usize = 8;

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::time::Duration;

    use serde_json::Value;

    use super::*;
    use crate::format::FileId;
    use crate::keys::audit::{AuditLog, AuditOptions, AuditReader, AuditSync};
    use crate::keys::kms::{CreateKey, KmsOptions, KmsProvider, LocalKms, Policy};
    use crate::keys::{KeyError, KeyProvider, Keystore};

    struct Scratch {
        directory: tempfile::TempDir,
        kms: Arc<LocalKms>,
        own: Identity,
        key: KeyId,
    }

    impl Scratch {
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let kms = Self::kms(&directory);
            let own = Identity::own();
            let key = kms.create_key(&own, CreateKey::default()).unwrap().key_id;
            Self { directory, kms, own, key }
        }

        /// As another process has it.
        fn kms(directory: &tempfile::TempDir) -> Arc<LocalKms> {
            let keystore = Keystore::open_or_create(&directory.path().join("k")).unwrap();
            let keystore = Arc::new(keystore);
            let sync = AuditSync::Interval(Duration::from_secs(60));
            let options = AuditOptions { sync, lease: true, ..AuditOptions::default() };
            let audit = AuditLog::open(Arc::clone(&keystore), options).unwrap();
            Arc::new(LocalKms::new(keystore, Arc::new(audit)))
        }

        fn provider(&self) -> KmsProvider {
            let kms = Arc::clone(&self.kms);
            KmsProvider::new(kms, Some(&self.key.0), VOLUME, KmsOptions::default()).unwrap()
        }

        fn policy(&self, further: &str) -> Policy {
            let uid = self.own.caller().uid;
            let own = format!(
                r#"{{"Effect": "Allow", "Principal": {{"User": "{uid}"}}, "Action": "kms:*"}}"#
            );
            Policy::parse(&format!(r#"{{"Statement": [{own}{further}]}}"#)).unwrap()
        }

        /// The records of openings, without what differs from one to the next.
        fn openings(&self) -> Vec<Value> {
            let keystore = Keystore::open(&self.directory.path().join("k")).unwrap();
            let reader = AuditReader::of(&keystore).unwrap();
            let records = reader.records().map(|record| record.unwrap());
            let uses = records.filter(|record| record.event_name() == "Decrypt");
            uses.map(|record| {
                let mut value: Value = serde_json::from_str(&record.json).unwrap();
                for name in ["eventTime", "eventID", "seq", "prevHash", "mac"] {
                    value.as_object_mut().unwrap().remove(name);
                }
                value
            })
            .collect()
        }
    }

    fn open(provider: &KmsProvider, file: u8, envelope: &Envelope) -> Result<(), KeyError> {
        let path = move || PathBuf::from(format!("dir/file {file}"));
        let access = Access { operation: Operation::Open, ..Access::own(&path) };
        provider.authorise(envelope, binding(file), &access, true)
    }

    fn made(provider: &KmsProvider, file: u8) -> Envelope {
        provider.generate(binding(file), &Access::own(&PathBuf::new)).unwrap().envelope
    }

    fn binding(file: u8) -> Binding {
        Binding { volume: VOLUME, file: FileId([file; 16]) }
    }

    fn is_familiar(provider: &KmsProvider) -> bool {
        provider.familiars.place(Caller::own()).is_some()
    }

    /// Opens until the next one may be answered from memory.
    fn become_familiar(provider: &KmsProvider, file: u8, envelope: &Envelope) {
        let begun = Instant::now();
        while !is_familiar(provider) {
            assert!(begun.elapsed() < Duration::from_secs(10), "it never is");
            std::thread::sleep(Duration::from_millis(5));
            open(provider, file, envelope).unwrap();
        }
    }

    #[test]
    fn its_records_are_those_that_it_would_have_otherwise() {
        let scratch = Scratch::new();
        let provider = scratch.provider();
        let envelopes: Vec<_> = (0..20).map(|file| made(&provider, file)).collect();
        for (file, envelope) in (0..).zip(&envelopes) {
            // Of a mount that has seen nothing yet.
            open(&scratch.provider(), file, envelope).unwrap();
        }
        let otherwise = scratch.openings();
        assert_eq!(otherwise.len(), 20);
        become_familiar(&provider, 0, &envelopes[0]);
        let before = scratch.openings().len();
        for (file, envelope) in (0..).zip(&envelopes) {
            open(&provider, file, envelope).unwrap();
        }
        assert!(is_familiar(&provider));
        assert_eq!(scratch.openings()[before..], otherwise);
    }

    #[test]
    fn what_another_process_changes_counts_for_the_very_next() {
        let scratch = Scratch::new();
        let provider = scratch.provider();
        let envelope = made(&provider, 1);
        let other = Scratch::kms(&scratch.directory);
        let own = Identity::own();
        let deny = r#", {"Effect": "Deny", "Principal": "*", "Action": "kms:Decrypt"}"#;
        for _ in 0..3 {
            become_familiar(&provider, 1, &envelope);
            open(&provider, 1, &envelope).unwrap();
            other.put_key_policy(&own, &scratch.key.0, scratch.policy(deny), false).unwrap();
            assert!(matches!(open(&provider, 1, &envelope), Err(KeyError::Denied { .. })));
            other.put_key_policy(&own, &scratch.key.0, scratch.policy(""), false).unwrap();
            open(&provider, 1, &envelope).unwrap();
            become_familiar(&provider, 1, &envelope);
            other.disable_key(&own, &scratch.key.0).unwrap();
            assert!(matches!(open(&provider, 1, &envelope), Err(KeyError::NotUsable { .. })));
            other.enable_key(&own, &scratch.key.0).unwrap();
            open(&provider, 1, &envelope).unwrap();
        }
    }

    #[test]
    fn a_policy_that_looks_at_the_file_is_asked_for_each() {
        let scratch = Scratch::new();
        let provider = scratch.provider();
        let envelopes: Vec<_> = (0..4).map(|file| made(&provider, file)).collect();
        let condition = format!(
            r#", {{"Effect": "Deny", "Principal": "*", "Action": "kms:Decrypt", "Condition":
            {{"StringEquals": {{"kms:EncryptionContext:ssefs:file_id": "{}"}}}}}}"#,
            binding(3).file
        );
        // What is known of the policy before does not outlive it.
        become_familiar(&provider, 1, &envelopes[1]);
        let policy = scratch.policy(&condition);
        scratch.kms.put_key_policy(&scratch.own, &scratch.key.0, policy, false).unwrap();
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_millis(300) {
            for file in 0..3 {
                open(&provider, file, &envelopes[usize::from(file)]).unwrap();
            }
            assert!(matches!(open(&provider, 3, &envelopes[3]), Err(KeyError::Denied { .. })));
        }
        assert!(!is_familiar(&provider));
    }

    #[test]
    fn another_process_or_key_version_is_looked_at_for_itself() {
        let scratch = Scratch::new();
        let provider = scratch.provider();
        let envelope = made(&provider, 1);
        become_familiar(&provider, 1, &envelope);
        let fits = |envelope: &Envelope, access: &Access<'_>, binding| {
            let place = provider.familiars.place(Caller::own());
            place.as_ref().unwrap().shape.fits(envelope, binding, access)
        };
        let own = Access { operation: Operation::Open, ..Access::own(&PathBuf::new) };
        assert!(fits(&envelope, &own, binding(1)) && fits(&envelope, &own, binding(2)));
        let newer = Envelope { key_version: 2, ..envelope.clone() };
        let context = [("a".to_owned(), "b".to_owned())].into();
        let of_context = Envelope { context, ..envelope.clone() };
        assert!(!fits(&newer, &own, binding(1)) && !fits(&of_context, &own, binding(1)));
        let volume = Binding { volume: VolumeId([9; 16]), ..binding(1) };
        let caller = Caller { uid: 4711, ..Caller::own() };
        assert!(!fits(&envelope, &own, volume));
        assert!(!fits(&envelope, &Access { caller, ..own }, binding(1)));
    }

    const VOLUME: VolumeId = VolumeId([1; 16]);
}
