//! The provider of kms mode on envelopes that were moved, altered or mixed.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use super::{BucketKeyLimits, CreateKey, KmsOptions, KmsProvider, LocalKms};
use crate::format::{Envelope, FileId, KeyId, Mode, VolumeId, WrapAlgorithm};
use crate::keys::audit::{AuditLog, AuditOptions};
use crate::keys::identity::Identity;
use crate::keys::{Access, Binding, KeyError, KeyProvider, Keystore};

const BINDING: Binding = Binding { volume: VolumeId([1; 16]), file: FileId([2; 16]) };

struct Scratch {
    _directory: tempfile::TempDir,
    kms: Arc<LocalKms>,
    own: Identity,
}

impl Scratch {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let keystore = Arc::new(Keystore::open_or_create(&directory.path().join("k")).unwrap());
        let audit = AuditLog::open(Arc::clone(&keystore), AuditOptions::default()).unwrap();
        let kms = Arc::new(LocalKms::new(keystore, Arc::new(audit)));
        Self { _directory: directory, kms, own: Identity::own() }
    }

    fn key(&self) -> KeyId {
        self.kms.create_key(&self.own, CreateKey::default()).unwrap().key_id
    }

    fn provider(&self, key: &KeyId, options: KmsOptions) -> KmsProvider {
        let volume = BINDING.volume;
        KmsProvider::new(Arc::clone(&self.kms), Some(&key.0), volume, options).unwrap()
    }
}

fn access() -> Access<'static> {
    Access { operation: crate::keys::Operation::Create, ..Access::own(&PathBuf::new) }
}

fn options(bucket_keys: bool) -> KmsOptions {
    KmsOptions {
        context: BTreeMap::from([("department".into(), "finance".into())]),
        bucket_keys: bucket_keys.then_some(BucketKeyLimits::DEFAULT),
        ..KmsOptions::default()
    }
}

#[test]
fn an_envelope_opens_in_its_place_only() {
    for bucket_keys in [false, true] {
        let scratch = Scratch::new();
        let (key, other_key) = (scratch.key(), scratch.key());
        let provider = scratch.provider(&key, options(bucket_keys));
        let made = provider.generate(BINDING, &access()).unwrap();
        let envelope = made.envelope;
        assert_eq!((envelope.mode, &envelope.key_id), (Mode::Kms, &key));
        assert_eq!(envelope.wrap_algorithm == WrapAlgorithm::Provider, bucket_keys);
        // As a mount that has never seen it, and as the one that made it.
        for reader in [scratch.provider(&key, options(false)), provider] {
            let unwrap = |envelope: &Envelope, binding| {
                reader.unwrap(envelope, binding, &access()).map(|dek| dek.equals(&made.dek))
            };
            assert!(unwrap(&envelope, BINDING).unwrap());
            let other_file = Binding { file: FileId([3; 16]), ..BINDING };
            let other_volume = Binding { volume: VolumeId([3; 16]), ..BINDING };
            for binding in [other_file, other_volume] {
                let refused = unwrap(&envelope, binding);
                assert!(matches!(refused, Err(KeyError::UnwrapFailed { .. })));
            }
            let context = |pairs: &[(&str, &str)]| {
                pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect()
            };
            let altered = [
                Envelope { mode: Mode::Managed, ..envelope.clone() },
                Envelope { provider: "keystore".into(), ..envelope.clone() },
                Envelope { key_id: other_key.clone(), ..envelope.clone() },
                Envelope { created: envelope.created + 1, ..envelope.clone() },
                Envelope { context: context(&[]), ..envelope.clone() },
                Envelope { context: context(&[("department", "law")]), ..envelope.clone() },
                Envelope {
                    context: context(&[("department", "finance"), ("a", "b")]),
                    ..envelope.clone()
                },
                Envelope { wrapped_dek: Vec::new(), ..envelope.clone() },
            ];
            for altered in altered {
                let refused = unwrap(&altered, BINDING);
                assert!(matches!(refused, Err(KeyError::UnwrapFailed { .. })), "{altered:?}");
            }
        }
    }
}

#[test]
fn a_version_stands_for_itself_and_a_missing_one_is_refused() {
    for bucket_keys in [false, true] {
        let scratch = Scratch::new();
        let key = scratch.key();
        let provider = scratch.provider(&key, options(bucket_keys));
        let old = provider.generate(BINDING, &access()).unwrap();
        scratch.kms.rotate_key_on_demand(&scratch.own, &key.0).unwrap();
        let new = provider.generate(BINDING, &access()).unwrap();
        assert_eq!((old.envelope.key_version, new.envelope.key_version), (1, 2));
        for made in [&old, &new] {
            let dek = provider.unwrap(&made.envelope, BINDING, &access()).unwrap();
            assert!(dek.equals(&made.dek));
            let swapped =
                Envelope { key_version: 3 - made.envelope.key_version, ..made.envelope.clone() };
            let refused = provider.unwrap(&swapped, BINDING, &access());
            assert!(matches!(refused, Err(KeyError::UnwrapFailed { .. })));
            let missing = Envelope { key_version: 3, ..made.envelope.clone() };
            let refused = provider.unwrap(&missing, BINDING, &access());
            assert!(matches!(refused, Err(KeyError::VersionNotFound { version: 3, .. })));
        }
        // A rewrap keeps date and context, and moves to the newest version.
        let moved = provider.wrap(&old.dek, Some(&old.envelope), BINDING, &access()).unwrap();
        assert_eq!((moved.key_version, moved.created), (2, old.envelope.created));
        assert_eq!(moved.context, old.envelope.context);
        assert!(provider.unwrap(&moved, BINDING, &access()).unwrap().equals(&old.dek));
    }
}
