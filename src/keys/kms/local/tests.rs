//! The operations of the local KMS, one by one.

use std::collections::BTreeMap;
use std::fs;
use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::{AliasName, CreateKey, Encrypted, GrantRequest, LocalKms};
use crate::crypto::Secret;
use crate::format::KeyId;
use crate::keys::audit::{AuditLog, AuditOptions};
use crate::keys::identity::Identity;
use crate::keys::keystore::Keystore;
use crate::keys::kms::action::Action;
use crate::keys::kms::error::{ErrorCode, KmsError};
use crate::keys::kms::grant::Constraints;
use crate::keys::kms::policy::{Policy, Principal};
use crate::keys::kms::state::{KeyState, Origin, RotationType};
use crate::keys::provider::Caller;

const START: u64 = 1_700_000_000;
const DAY: u64 = 86_400;
const STRANGER: u32 = 4_000_000;

/// A KMS with a clock that tests set.
pub(super) struct Scratch {
    directory: tempfile::TempDir,
    pub(super) date: Arc<AtomicU64>,
    pub(super) kms: LocalKms,
    pub(super) own: Identity,
}

impl Scratch {
    pub(super) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let date = Arc::new(AtomicU64::new(START));
        let keystore = Keystore::open_or_create(&directory.path().join("k")).unwrap();
        let kms = open(keystore, &date);
        Self { directory, date, kms, own: Identity::own() }
    }

    /// Another KMS on the same keystore, as another process would have it.
    pub(super) fn another(&self) -> LocalKms {
        open(Keystore::open(&self.directory.path().join("k")).unwrap(), &self.date)
    }

    pub(super) fn pass(&self, seconds: u64) -> u64 {
        self.date.fetch_add(seconds, Ordering::Relaxed) + seconds
    }

    pub(super) fn key(&self) -> String {
        self.kms.create_key(&self.own, CreateKey::default()).unwrap().key_id.0
    }

    pub(super) fn external_key(&self) -> String {
        let request = CreateKey { origin: Some(Origin::External), ..CreateKey::default() };
        self.kms.create_key(&self.own, request).unwrap().key_id.0
    }

    pub(super) fn encrypt(&self, key: &str, plaintext: &[u8]) -> Encrypted {
        self.kms.encrypt(&self.own, key, plaintext, &nothing()).unwrap()
    }

    pub(super) fn decrypts(&self, blob: &[u8], plaintext: &[u8]) -> bool {
        let decrypted = self.kms.decrypt(&self.own, None, blob, &nothing());
        decrypted.is_ok_and(|decrypted| decrypted.plaintext.as_slice() == plaintext)
    }
}

fn open(keystore: Keystore, date: &Arc<AtomicU64>) -> LocalKms {
    let keystore = Arc::new(keystore);
    let audit = AuditLog::open(Arc::clone(&keystore), AuditOptions::default()).unwrap();
    let date = Arc::clone(date);
    let clock = Box::new(move || date.load(Ordering::Relaxed));
    LocalKms::with_clock(keystore, Arc::new(audit), clock)
}

pub(super) fn nothing() -> BTreeMap<String, String> {
    BTreeMap::new()
}

pub(super) fn code<T>(result: Result<T, KmsError>) -> Option<ErrorCode> {
    match result {
        Ok(_) => None,
        Err(KmsError::Refused { code, .. }) => Some(code),
        Err(KmsError::Key(error)) => panic!("{error}"),
    }
}

fn stranger() -> Identity {
    Identity::of(Caller { uid: STRANGER, gid: STRANGER, pid: 0 })
}

fn message<T>(result: Result<T, KmsError>) -> String {
    result.err().unwrap().to_string()
}

#[test]
fn a_key_is_made_described_and_listed() {
    let scratch = Scratch::new();
    let request = CreateKey {
        description: "payroll",
        alias: Some("alias/finance"),
        rotation_days: Some(180),
        ..CreateKey::default()
    };
    let made = scratch.kms.create_key(&scratch.own, request).unwrap();
    assert_eq!((made.description.as_str(), made.creation_date), ("payroll", START));
    assert_eq!((made.key_state, made.enabled, made.deletion_date), (KeyState::Enabled, true, None));
    assert_eq!((made.origin, made.current_key_version), (Origin::AwsKms, Some(1)));
    assert_eq!(made.aliases, [AliasName::parse("alias/finance").unwrap()]);
    let another = scratch.another();
    for named in ["alias/finance", &made.key_id.0, &made.key_id.0.to_uppercase()] {
        assert_eq!(another.describe_key(&scratch.own, named).unwrap(), made);
    }
    let second = scratch.key();
    let listed: Vec<_> =
        another.list_keys(&scratch.own).unwrap().into_iter().map(|key| key.key_id.0).collect();
    assert_eq!(listed.len(), 2);
    assert!(listed.contains(&second) && listed.contains(&made.key_id.0));
    let status = another.key_rotation_status(&scratch.own, &made.key_id.0).unwrap();
    assert_eq!(status.next_rotation_date, Some(START + 180 * DAY));

    scratch.kms.update_description(&scratch.own, &second, "other").unwrap();
    assert_eq!(another.describe_key(&scratch.own, &second).unwrap().description, "other");
    let long = "x".repeat(8193);
    let refused = scratch.kms.update_description(&scratch.own, &second, &long);
    assert_eq!(code(refused), Some(ErrorCode::Validation));
}

#[test]
fn a_key_that_is_refused_is_not_made() {
    let scratch = Scratch::new();
    scratch.kms.create_key(&scratch.own, alias_request("alias/a")).unwrap();
    let with = |request| code(scratch.kms.create_key(&scratch.own, request));
    assert_eq!(with(alias_request("alias/a")), Some(ErrorCode::AlreadyExists));
    assert_eq!(with(alias_request("alias/aws/b")), Some(ErrorCode::InvalidAliasName));
    let rotation = |origin| CreateKey { rotation_days: Some(89), origin, ..CreateKey::default() };
    assert_eq!(with(rotation(None)), Some(ErrorCode::Validation));
    let external = CreateKey { rotation_days: Some(90), ..rotation(Some(Origin::External)) };
    assert_eq!(with(external), Some(ErrorCode::UnsupportedOperation));
    let policy = Some(Policy::default_for(STRANGER));
    let locked_out = CreateKey { policy: policy.clone(), ..CreateKey::default() };
    assert_eq!(with(locked_out), Some(ErrorCode::MalformedPolicyDocument));
    let refused = scratch.kms.create_key(&stranger(), CreateKey::default());
    assert_eq!(code(refused), Some(ErrorCode::AccessDenied));
    assert_eq!(scratch.kms.list_keys(&scratch.own).unwrap().len(), 1);
    let forced = CreateKey { policy, bypass_lockout_check: true, ..CreateKey::default() };
    assert_eq!(with(forced), None);
}

fn alias_request(alias: &str) -> CreateKey<'_> {
    CreateKey { alias: Some(alias), ..CreateKey::default() }
}

#[test]
fn unknown_keys_are_named_with_what_to_do() {
    let scratch = Scratch::new();
    let absent = KeyId::random().0;
    for given in [absent.as_str(), "no-id", "", "../../etc/passwd"] {
        let refused = scratch.kms.describe_key(&scratch.own, given);
        let text = message(refused);
        assert!(text.starts_with("NotFoundException: ") && text.contains(given), "{text}");
        assert!(text.contains("--keystore"), "{text}");
        assert_eq!(code(scratch.kms.cmk(&KeyId(given.into()))), Some(ErrorCode::NotFound));
    }
    assert_eq!(code(scratch.kms.resolve("alias/none")), Some(ErrorCode::NotFound));
    assert_eq!(code(scratch.kms.resolve("alias/a b")), Some(ErrorCode::InvalidAliasName));
}

#[test]
fn copies_of_records_are_left_alone() {
    let scratch = Scratch::new();
    let key = scratch.key();
    let record = |name: &str| scratch.kms.keystore().path().join(name);
    let original = record(&format!("cmk-{key}.record"));
    for copy in ["cmk-a b.record", "cmk-.record", "cmk-copy.record"] {
        fs::copy(&original, record(copy)).unwrap();
    }
    fs::copy(&original, record(&format!("cmk-{}.record", key.to_uppercase()))).unwrap();
    scratch.kms.maintain(START).unwrap();
    assert_eq!(scratch.kms.list_keys(&scratch.own).unwrap().len(), 1);
    let other = KeyId::random();
    fs::copy(&original, record(&format!("cmk-{other}.record"))).unwrap();
    assert!(matches!(scratch.kms.maintain(START), Err(KmsError::Key(_))), "it is said");
    assert_eq!(scratch.kms.list_keys(&scratch.own).unwrap().len(), 1);
}

#[test]
fn what_changes_a_key_takes_no_alias() {
    let scratch = Scratch::new();
    let made = scratch.kms.create_key(&scratch.own, alias_request("alias/a")).unwrap();
    let refused = scratch.kms.disable_key(&scratch.own, "alias/a");
    assert!(message(refused).contains(&made.key_id.0));
    let (kms, own) = (&scratch.kms, &scratch.own);
    assert_eq!(code(kms.schedule_key_deletion(own, "alias/a", 7)), Some(ErrorCode::Validation));
    assert_eq!(code(kms.key_policy(own, "alias/a")), Some(ErrorCode::Validation));
    assert_eq!(code(kms.create_alias(own, "alias/b", "alias/a")), Some(ErrorCode::Validation));
    assert_eq!(kms.describe_key(own, "alias/a").unwrap().key_state, KeyState::Enabled);
}

#[test]
fn encryption_is_bound_to_key_and_context() {
    let scratch = Scratch::new();
    let (kms, own) = (&scratch.kms, &scratch.own);
    let key = kms.create_key(own, alias_request("alias/a")).unwrap().key_id.0;
    let other = scratch.key();
    let context = BTreeMap::from([("department".to_owned(), "finance".to_owned())]);
    let encrypted = kms.encrypt(own, "alias/a", b"secret", &context).unwrap();
    assert_eq!((encrypted.key_id.0.as_str(), encrypted.key_version), (key.as_str(), 1));
    for named in [None, Some("alias/a"), Some(key.as_str())] {
        let decrypted = kms.decrypt(own, named, &encrypted.blob, &context).unwrap();
        assert_eq!(decrypted.plaintext.as_slice(), b"secret");
        assert_eq!(decrypted.key_id.0, key);
    }
    let wrong_key = kms.decrypt(own, Some(&other), &encrypted.blob, &context);
    assert_eq!(code(wrong_key), Some(ErrorCode::IncorrectKey));
    let wrong_context = kms.decrypt(own, None, &encrypted.blob, &nothing());
    assert_eq!(code(wrong_context), Some(ErrorCode::InvalidCiphertext));
    for len in [0, 4097] {
        let refused = kms.encrypt(own, &key, &vec![0; len], &nothing());
        assert_eq!(code(refused), Some(ErrorCode::Validation));
    }
    scratch.encrypt(&key, &[0; 4096]);
    let long = BTreeMap::from([("n".to_owned(), "v".repeat(8192))]);
    assert_eq!(code(kms.encrypt(own, &key, b"x", &long)), Some(ErrorCode::Validation));
    let unnamed = BTreeMap::from([(String::new(), "v".to_owned())]);
    assert_eq!(code(kms.generate_data_key(own, &key, &unnamed)), Some(ErrorCode::Validation));
}

#[test]
fn any_altered_byte_of_a_blob_is_refused() {
    let scratch = Scratch::new();
    let encrypted = scratch.encrypt(&scratch.key(), b"secret");
    for at in 0..encrypted.blob.len() {
        let mut altered = encrypted.blob.clone();
        altered[at] ^= 1;
        let refused = code(scratch.kms.decrypt(&scratch.own, None, &altered, &nothing()));
        let expected = match at {
            // The id of a key that is not here.
            8..24 => ErrorCode::NotFound,
            _ => ErrorCode::InvalidCiphertext,
        };
        assert_eq!(refused, Some(expected), "byte {at}");
    }
    let elsewhere = Scratch::new();
    assert!(!elsewhere.decrypts(&encrypted.blob, b"secret"));
}

#[test]
fn a_data_key_is_what_its_blob_holds() {
    let scratch = Scratch::new();
    let data_key = scratch.kms.generate_data_key(&scratch.own, &scratch.key(), &nothing()).unwrap();
    assert!(scratch.decrypts(&data_key.encrypted.blob, data_key.plaintext.expose()));
}

#[test]
fn re_encryption_moves_between_keys_and_contexts() {
    let scratch = Scratch::new();
    let (kms, own) = (&scratch.kms, &scratch.own);
    let (first, second) = (scratch.key(), scratch.key());
    let context = BTreeMap::from([("a".to_owned(), "b".to_owned())]);
    let old = kms.encrypt(own, &first, b"secret", &context).unwrap();
    let new = kms.re_encrypt(own, None, &old.blob, &context, &second, &nothing()).unwrap();
    assert_eq!(new.key_id.0, second);
    assert!(scratch.decrypts(&new.blob, b"secret"));
    let wrong = kms.re_encrypt(own, Some(&second), &old.blob, &context, &second, &nothing());
    assert_eq!(code(wrong), Some(ErrorCode::IncorrectKey));
    kms.disable_key(own, &second).unwrap();
    let disabled = kms.re_encrypt(own, None, &old.blob, &context, &second, &nothing());
    assert_eq!(code(disabled), Some(ErrorCode::Disabled));
}

#[test]
fn old_versions_decrypt_and_only_the_newest_encrypts() {
    let scratch = Scratch::new();
    let (kms, own, key) = (&scratch.kms, &scratch.own, scratch.key());
    let mut blobs = vec![scratch.encrypt(&key, b"secret")];
    for round in 1..=25 {
        assert_eq!(kms.rotate_key_on_demand(own, &key).unwrap(), round + 1);
        blobs.push(scratch.encrypt(&key, b"secret"));
    }
    let refused = kms.rotate_key_on_demand(own, &key);
    assert_eq!(code(refused), Some(ErrorCode::LimitExceeded));
    for (number, blob) in (1..).zip(&blobs) {
        assert_eq!(blob.key_version, number);
        assert!(scratch.decrypts(&blob.blob, b"secret"));
    }
    let rotations = kms.list_key_rotations(own, &key).unwrap();
    assert_eq!(rotations.len(), 26);
    assert!(rotations.iter().all(|one| one.current == (one.key_version == 26)));
    assert_eq!(rotations[0].rotation_type, RotationType::Initial);
    assert_eq!(rotations[25].rotation_type, RotationType::OnDemand);
    let mut names: Vec<_> = rotations.iter().map(|one| &one.key_material_id).collect();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), 26, "each material has a name of its own");
    let missing = blobs[0].blob[..24].iter().chain(&[27, 0, 0, 0]).chain(&blobs[0].blob[28..]);
    let missing: Vec<_> = missing.copied().collect();
    let refused = kms.decrypt(own, None, &missing, &nothing());
    assert_eq!(code(refused), Some(ErrorCode::InvalidCiphertext));
}

#[test]
fn imported_material_is_kept_in_versions() {
    let scratch = Scratch::new();
    let (kms, own, key) = (&scratch.kms, &scratch.own, scratch.external_key());
    let import = |byte| kms.import_key_material(own, &key, Secret::copy_from(&[byte; 32]));
    let refused = kms.encrypt(own, &key, b"x", &nothing());
    assert_eq!(code(refused), Some(ErrorCode::InvalidState));
    assert_eq!(import(1).unwrap(), 1);
    let first = scratch.encrypt(&key, b"x");
    assert_eq!(import(1).unwrap(), 1, "the same again is no rotation");
    assert_eq!(import(2).unwrap(), 2);
    assert_eq!(import(1).unwrap(), 1, "nor is an older one");
    assert_eq!(scratch.encrypt(&key, b"x").key_version, 2);
    assert!(scratch.decrypts(&first.blob, b"x"));
    kms.disable_key(own, &key).unwrap();
    assert_eq!(code(import(3)), Some(ErrorCode::Disabled));
    assert_eq!(import(2).unwrap(), 2);
    assert_eq!(kms.key_rotation_status(own, &key).unwrap().on_demand_rotations, 1);
    let made_here = scratch.key();
    let refused = kms.import_key_material(own, &made_here, Secret::random());
    assert_eq!(code(refused), Some(ErrorCode::UnsupportedOperation));
}

#[test]
fn others_need_a_policy_or_a_grant() {
    let scratch = Scratch::new();
    let (kms, own, key) = (&scratch.kms, &scratch.own, scratch.key());
    let stranger = stranger();
    let blob = scratch.encrypt(&key, b"x").blob;
    let denied = |result| assert_eq!(code(result), Some(ErrorCode::AccessDenied));
    denied(kms.decrypt(&stranger, None, &blob, &nothing()).map(drop));
    denied(kms.encrypt(&stranger, &key, b"x", &nothing()).map(drop));
    denied(kms.disable_key(&stranger, &key));
    denied(kms.describe_key(&stranger, &key).map(drop));
    denied(kms.list_keys(&stranger).map(drop));
    denied(kms.list_aliases(&stranger, None).map(drop));
    denied(kms.create_alias(&stranger, "alias/a", &key));
    let decrypt = GrantRequest {
        name: Some("reader".to_owned()),
        grantee: Principal::user(&STRANGER.to_string()).unwrap(),
        operations: &[Action::Decrypt],
        constraints: None,
    };
    let grant = kms.create_grant(own, &key, decrypt).unwrap();
    assert!(scratch.another().decrypt(&stranger, None, &blob, &nothing()).is_ok());
    denied(kms.encrypt(&stranger, &key, b"x", &nothing()).map(drop));
    kms.revoke_grant(own, &key, grant.id()).unwrap();
    denied(kms.decrypt(&stranger, None, &blob, &nothing()).map(drop));
    assert_eq!(code(kms.revoke_grant(own, &key, grant.id())), Some(ErrorCode::NotFound));
    let refused = message(kms.decrypt(&stranger, None, &blob, &nothing()));
    assert!(refused.contains("user 4000000 is not allowed kms:Decrypt on key"), "{refused}");
}

#[test]
fn a_grant_asked_for_twice_is_one_grant() {
    let scratch = Scratch::new();
    let (kms, own, key) = (&scratch.kms, &scratch.own, scratch.key());
    let request = |name: Option<&str>, value: &str| GrantRequest {
        name: name.map(str::to_owned),
        grantee: Principal::user("4000000").unwrap(),
        operations: &[Action::Decrypt],
        constraints: Some(Constraints::EncryptionContextSubset(BTreeMap::from([(
            "a".to_owned(),
            value.to_owned(),
        )]))),
    };
    let grant = |name, value| kms.create_grant(own, &key, request(name, value)).unwrap();
    let first = grant(Some("n"), "1");
    assert_eq!(grant(Some("n"), "1").id(), first.id());
    assert_ne!(grant(Some("n"), "2").id(), first.id());
    assert_ne!(grant(None, "1").id(), grant(None, "1").id());
    assert_eq!(kms.list_grants(own, &key).unwrap().len(), 4);
}

#[test]
fn a_record_that_is_full_is_refused_and_stays_readable() {
    let scratch = Scratch::new();
    let (kms, own, key) = (&scratch.kms, &scratch.own, scratch.key());
    let bulky = BTreeMap::from([("a".to_owned(), "x".repeat(100_000))]);
    let request = || GrantRequest {
        name: None,
        grantee: Principal::user("4000000").unwrap(),
        operations: &[Action::Decrypt],
        constraints: Some(Constraints::EncryptionContextEquals(bulky.clone())),
    };
    let added = (0..20).take_while(|_| kms.create_grant(own, &key, request()).is_ok()).count();
    assert!((9..11).contains(&added), "{added}");
    let refused = kms.create_grant(own, &key, request());
    assert_eq!(code(refused), Some(ErrorCode::LimitExceeded));
    assert_eq!(scratch.another().list_grants(own, &key).unwrap().len(), added);
}

#[test]
fn nobody_locks_themself_out_by_mistake() {
    let scratch = Scratch::new();
    let (kms, own, key) = (&scratch.kms, &scratch.own, scratch.key());
    let theirs = Policy::default_for(STRANGER);
    let refused = kms.put_key_policy(own, &key, theirs.clone(), false);
    assert_eq!(code(refused), Some(ErrorCode::MalformedPolicyDocument));
    assert_eq!(kms.key_policy(own, &key).unwrap(), Policy::default_for(own.caller().uid));
    kms.put_key_policy(own, &key, theirs.clone(), true).unwrap();
    assert_eq!(code(kms.key_policy(own, &key)), Some(ErrorCode::AccessDenied));
    assert_eq!(kms.key_policy(&stranger(), &key).unwrap(), theirs);
}

#[test]
fn aliases_move_and_files_do_not_follow() {
    let scratch = Scratch::new();
    let (kms, own) = (&scratch.kms, &scratch.own);
    let (first, second) = (scratch.key(), scratch.key());
    kms.create_alias(own, "alias/a", &first).unwrap();
    let blob = scratch.encrypt("alias/a", b"x");
    kms.update_alias(own, "alias/a", &second).unwrap();
    assert_eq!(scratch.encrypt("alias/a", b"x").key_id.0, second);
    assert!(scratch.decrypts(&blob.blob, b"x"));
    let refused = kms.decrypt(own, Some("alias/a"), &blob.blob, &nothing());
    assert_eq!(code(refused), Some(ErrorCode::IncorrectKey));
    assert_eq!(kms.list_aliases(own, Some(&first)).unwrap(), []);
    assert_eq!(kms.list_aliases(own, Some(&second)).unwrap().len(), 1);
    kms.schedule_key_deletion(own, &first, 7).unwrap();
    let refused = kms.update_alias(own, "alias/a", &first);
    assert_eq!(code(refused), Some(ErrorCode::InvalidState));
    kms.delete_alias(own, "alias/a").unwrap();
    assert_eq!(code(kms.delete_alias(own, "alias/a")), Some(ErrorCode::NotFound));
}

#[test]
fn an_alias_is_taken_from_nobody_without_right() {
    let scratch = Scratch::new();
    let (kms, own) = (&scratch.kms, &scratch.own);
    let (ours, theirs) = (scratch.key(), scratch.key());
    let policy = Policy::default_for(STRANGER);
    kms.create_alias(own, "alias/a", &ours).unwrap();
    kms.put_key_policy(own, &theirs, policy, true).unwrap();
    let refused = kms.update_alias(&stranger(), "alias/a", &theirs);
    assert_eq!(code(refused), Some(ErrorCode::AccessDenied));
    assert_eq!(code(kms.delete_alias(&stranger(), "alias/a")), Some(ErrorCode::AccessDenied));
    assert_eq!(kms.resolve("alias/a").unwrap().0, ours);
}

#[test]
fn maintenance_rotates_what_is_due_and_destroys_what_has_waited() {
    let scratch = Scratch::new();
    let (kms, own) = (&scratch.kms, &scratch.own);
    let (rotated, deleted, kept) = (scratch.key(), scratch.key(), scratch.key());
    kms.enable_key_rotation(own, &rotated, 90).unwrap();
    kms.create_alias(own, "alias/deleted", &deleted).unwrap();
    kms.create_alias(own, "alias/kept", &kept).unwrap();
    let blob = scratch.encrypt(&rotated, b"x").blob;
    let lost = scratch.encrypt(&deleted, b"x").blob;
    assert_eq!(kms.schedule_key_deletion(own, &deleted, 30).unwrap(), START + 30 * DAY);
    assert_eq!(code(kms.encrypt(own, &deleted, b"x", &nothing())), Some(ErrorCode::InvalidState));
    kms.maintain(START + 30 * DAY - 1).unwrap();
    let another = scratch.another();
    another.cmk(&KeyId(deleted.clone())).unwrap();

    let now = scratch.pass(90 * DAY);
    assert_eq!(code(another.cmk(&KeyId(deleted.clone()))), Some(ErrorCode::NotFound), "in memory");
    let late = kms.cancel_key_deletion(own, &deleted);
    assert_eq!(code(late), Some(ErrorCode::NotFound));
    kms.maintain(now).unwrap();
    kms.maintain(now).unwrap();
    assert_eq!(scratch.encrypt(&rotated, b"x").key_version, 2);
    assert!(scratch.decrypts(&blob, b"x") && !scratch.decrypts(&lost, b"x"));
    let status = kms.key_rotation_status(own, &rotated).unwrap();
    assert_eq!(status.next_rotation_date, Some(now + 90 * DAY));
    assert_eq!(kms.list_key_rotations(own, &rotated).unwrap()[1].rotation_type.name(), "AUTOMATIC");
    let names: Vec<_> = fs::read_dir(scratch.kms.keystore().path()).unwrap().collect();
    let of_deleted = |name: &str| name.contains(&deleted);
    assert!(
        !names
            .iter()
            .any(|entry| { of_deleted(&entry.as_ref().unwrap().file_name().to_string_lossy()) })
    );
    let aliases = kms.list_aliases(own, None).unwrap();
    assert_eq!(
        aliases.iter().map(|one| one.alias_name.as_str()).collect::<Vec<_>>(),
        ["alias/kept"]
    );
    assert_eq!(kms.list_keys(own).unwrap().len(), 2);
}

#[test]
fn enabling_again_rotates_what_became_due() {
    let scratch = Scratch::new();
    let (kms, own, key) = (&scratch.kms, &scratch.own, scratch.key());
    kms.enable_key_rotation(own, &key, 90).unwrap();
    kms.disable_key(own, &key).unwrap();
    let now = scratch.pass(100 * DAY);
    kms.maintain(now).unwrap();
    assert_eq!(kms.describe_key(own, &key).unwrap().current_key_version, Some(1));
    kms.enable_key(own, &key).unwrap();
    assert_eq!(kms.describe_key(own, &key).unwrap().current_key_version, Some(2));
}

#[test]
fn another_process_is_noticed_at_the_next_look() {
    let scratch = Scratch::new();
    let (kms, own, key) = (&scratch.kms, &scratch.own, scratch.key());
    let key_id = KeyId(key.clone());
    let another = scratch.another();
    another.cmk(&key_id).unwrap();
    for settle in [Duration::ZERO, Duration::from_millis(120)] {
        for _ in 0..5 {
            thread::sleep(settle);
            kms.cmk(&key_id).unwrap();
            another.cmk(&key_id).unwrap();
            kms.disable_key(own, &key).unwrap();
            let cmk = another.cmk(&key_id).unwrap();
            let refused = another.authorise(&cmk, own, Action::Decrypt, &nothing());
            assert_eq!(code(refused), Some(ErrorCode::Disabled));
            another.enable_key(own, &key).unwrap();
            let cmk = kms.cmk(&key_id).unwrap();
            assert!(kms.check_usable(&cmk, Action::Decrypt).is_ok());
            kms.rotate_key_on_demand(own, &key).unwrap();
            let newest = |kms: &LocalKms| kms.cmk(&key_id).unwrap().newest().unwrap().0;
            assert_eq!(newest(&another), newest(kms));
        }
    }
}

#[test]
fn a_cached_look_at_a_key_takes_about_one_system_call() {
    const ROUNDS: u32 = 20_000;
    let scratch = Scratch::new();
    let key_id = KeyId(scratch.key());
    thread::sleep(Duration::from_millis(150));
    let cmk = scratch.kms.cmk(&key_id).unwrap();
    let begin = Instant::now();
    for _ in 0..ROUNDS {
        black_box(scratch.kms.cmk(&key_id).unwrap());
    }
    println!("a cached look at a key: {:?}", begin.elapsed() / ROUNDS);
    let nothing = nothing();
    let begin = Instant::now();
    for _ in 0..ROUNDS {
        scratch.kms.authorise(&cmk, &scratch.own, Action::Decrypt, &nothing).unwrap();
    }
    println!("an authorisation: {:?}", begin.elapsed() / ROUNDS);
    assert!(Arc::ptr_eq(&cmk, &scratch.kms.cmk(&key_id).unwrap()), "it was read once");
    scratch.kms.disable_key(&scratch.own, &key_id.0).unwrap();
    assert!(!Arc::ptr_eq(&cmk, &scratch.kms.cmk(&key_id).unwrap()));
}
