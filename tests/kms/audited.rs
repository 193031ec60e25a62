//! Every operation and its event: one for each, before anything is changed or handed out, and
//! nothing secret in it.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use data_encoding::{BASE64, HEXLOWER};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use serde_json::{Value, json};
use ssefs::crypto::Secret;
use ssefs::format::KeyId;
use ssefs::keys::identity::Identity;
use ssefs::keys::kms::policy::Principal;
use ssefs::keys::kms::{Action, CreateKey, GrantRequest, KmsError, Origin, Policy};
use ssefs::keys::{Caller, KeyError};

use super::peer::{Opened, skip};

const STRANGER: u32 = 4_000_000;

struct Scratch {
    directory: tempfile::TempDir,
    opened: Opened,
    stranger: Identity,
}

impl Scratch {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        Self::over(directory)
    }

    fn over(directory: tempfile::TempDir) -> Self {
        let opened = Opened::at(&directory.path().join("keystore"));
        let stranger = Identity::of(Caller { uid: STRANGER, gid: STRANGER, pid: 0 });
        Self { directory, opened, stranger }
    }

    fn keystore(&self) -> PathBuf {
        self.directory.path().join("keystore")
    }

    fn log(&self) -> String {
        fs::read_to_string(self.keystore().join("audit/audit-00000001.jsonl")).unwrap()
    }

    /// The events of the KMS.
    fn events(&self) -> Vec<Value> {
        let log = self.log();
        let records = log.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        records.filter(|record| record["eventSource"] == "ssefs.kms").collect()
    }

    /// What `operation` records, which must be one event: its name and its error.
    fn event_of<T>(&self, operation: impl FnOnce(&Opened) -> Result<T, KmsError>) -> Value {
        let before = self.events().len();
        let failed = operation(&self.opened).err();
        let mut events = self.events().split_off(before);
        assert_eq!(events.len(), 1, "{events:#?}");
        let event = events.remove(0);
        let code = failed.map(|error| match error {
            KmsError::Refused { code, .. } => code.name(),
            KmsError::Key(error) => panic!("{error}"),
        });
        assert_eq!(event["errorCode"].as_str(), code);
        event
    }
}

fn nothing() -> BTreeMap<String, String> {
    BTreeMap::new()
}

fn grant(operations: &[Action]) -> GrantRequest<'_> {
    let grantee = Principal::user("0").unwrap();
    GrantRequest { name: Some("n".into()), grantee, operations, constraints: None }
}

/// A change or use of a key that must be recorded.
type Operation = fn(&Opened, &str) -> Result<(), KmsError>;

/// Every operation on one key, in an order in which all are allowed, with its event's name and
/// whether it only reads.
const OPERATIONS: &[(&str, bool, Operation)] = &[
    ("DescribeKey", true, |o, key| o.kms.describe_key(&o.own, key).map(drop)),
    ("UpdateKeyDescription", false, |o, key| o.kms.update_description(&o.own, key, "new")),
    ("GetKeyPolicy", true, |o, key| o.kms.key_policy(&o.own, key).map(drop)),
    ("PutKeyPolicy", false, |o, key| {
        let policy = r#"{"Version": "2012-10-17", "Statement": {"Effect": "Allow",
            "Principal": "*", "Action": "kms:*", "Resource": "*"}}"#;
        o.kms.put_key_policy(&o.own, key, Policy::parse(policy)?, false)
    }),
    ("CreateGrant", false, |o, key| {
        o.kms.create_grant(&o.own, key, grant(&[Action::Decrypt])).map(drop)
    }),
    ("ListGrants", true, |o, key| o.kms.list_grants(&o.own, key).map(drop)),
    ("CreateAlias", false, |o, key| o.kms.create_alias(&o.own, "alias/a", key)),
    ("UpdateAlias", false, |o, key| o.kms.update_alias(&o.own, "alias/a", key)),
    ("ListAliases", true, |o, key| o.kms.list_aliases(&o.own, Some(key)).map(drop)),
    ("DeleteAlias", false, |o, _| o.kms.delete_alias(&o.own, "alias/a")),
    ("EnableKeyRotation", false, |o, key| o.kms.enable_key_rotation(&o.own, key, 90)),
    ("GetKeyRotationStatus", true, |o, key| o.kms.key_rotation_status(&o.own, key).map(drop)),
    ("RotateKeyOnDemand", false, |o, key| o.kms.rotate_key_on_demand(&o.own, key).map(drop)),
    ("ListKeyRotations", true, |o, key| o.kms.list_key_rotations(&o.own, key).map(drop)),
    ("DisableKeyRotation", false, |o, key| o.kms.disable_key_rotation(&o.own, key)),
    ("Encrypt", true, |o, key| o.kms.encrypt(&o.own, key, b"x", &nothing()).map(drop)),
    ("GenerateDataKey", true, |o, key| o.kms.generate_data_key(&o.own, key, &nothing()).map(drop)),
    ("DisableKey", false, |o, key| o.kms.disable_key(&o.own, key)),
    ("EnableKey", false, |o, key| o.kms.enable_key(&o.own, key)),
    ("ScheduleKeyDeletion", false, |o, key| o.kms.schedule_key_deletion(&o.own, key, 7).map(drop)),
    ("CancelKeyDeletion", false, |o, key| o.kms.cancel_key_deletion(&o.own, key)),
];

#[test]
fn each_operation_is_one_event() {
    let scratch = Scratch::new();
    let made = scratch.event_of(|o| o.kms.create_key(&o.own, CreateKey::default()));
    assert_eq!((&made["eventName"], &made["readOnly"]), (&json!("CreateKey"), &json!(false)));
    let key = made["resources"][0]["keyId"].as_str().unwrap().to_owned();
    assert_eq!(made["additionalEventData"]["keyMaterialVersion"], 1);
    for (name, read_only, operation) in OPERATIONS {
        let event = scratch.event_of(|opened| operation(opened, &key));
        assert_eq!((&event["eventName"], &event["readOnly"]), (&json!(name), &json!(read_only)));
        assert_eq!(event["resources"][0]["keyId"], json!(key), "{name}");
        assert_eq!(event["errorCode"], json!(null), "{name}: {}", event["errorMessage"]);
    }
    let listed = scratch.event_of(|o| o.kms.list_keys(&o.own));
    assert_eq!(listed["eventName"], "ListKeys");
    let imported = scratch.event_of(|o| o.kms.import_key_material(&o.own, &key, Secret::random()));
    assert_eq!(imported["errorCode"], "UnsupportedOperationException");
}

#[test]
fn a_use_names_version_material_and_context() {
    let scratch = Scratch::new();
    let Opened { kms, own } = &scratch.opened;
    let (first, second) = (scratch.opened.create_key(), scratch.opened.create_key());
    kms.create_alias(own, "alias/a", &first).unwrap();
    let context = BTreeMap::from([("department".to_owned(), "finance".to_owned())]);
    let encrypted = kms.encrypt(own, "alias/a", b"x", &context).unwrap();
    kms.rotate_key_on_demand(own, &first).unwrap();
    let event = scratch.event_of(|_| kms.decrypt(own, None, &encrypted.blob, &context));
    assert_eq!(event["requestParameters"]["encryptionContext"], json!(context));
    assert_eq!(event["additionalEventData"]["keyMaterialVersion"], 1);
    let cmk = kms.cmk(&KeyId(first.clone())).unwrap();
    let material_id = cmk.material_id(1).unwrap();
    assert_eq!(event["additionalEventData"]["keyMaterialId"], json!(material_id));

    let before = scratch.events().len();
    kms.re_encrypt(own, None, &encrypted.blob, &context, &second, &nothing()).unwrap();
    let events = scratch.events().split_off(before);
    let told: Vec<_> =
        events.iter().map(|one| (&one["eventName"], &one["resources"][0]["keyId"])).collect();
    let expected = [(json!("ReEncryptFrom"), json!(first)), (json!("ReEncryptTo"), json!(second))];
    assert_eq!(told, expected.iter().map(|(name, key)| (name, key)).collect::<Vec<_>>());
}

#[test]
fn each_refusal_is_one_event() {
    let scratch = Scratch::new();
    let Opened { kms, own } = &scratch.opened;
    let (key, stranger) = (scratch.opened.create_key(), &scratch.stranger);
    let blob = scratch.opened.encrypt(&key);
    let denied = scratch.event_of(|_| kms.decrypt(stranger, None, &blob, &nothing()));
    assert_eq!(denied["errorCode"], "AccessDeniedException");
    assert_eq!(denied["userIdentity"]["uid"], STRANGER);
    assert_eq!(denied["resources"][0]["keyId"], json!(key));
    let denied = scratch.event_of(|_| kms.disable_key(stranger, &key));
    assert_eq!(denied["errorCode"], "AccessDeniedException");
    let denied = scratch.event_of(|_| kms.create_key(stranger, CreateKey::default()));
    assert_eq!((&denied["eventName"], denied.get("resources")), (&json!("CreateKey"), None));
    let absent = scratch.event_of(|_| kms.describe_key(own, "alias/absent"));
    assert_eq!(absent["requestParameters"]["keyId"], "alias/absent");
    kms.disable_key(own, &key).unwrap();
    let disabled = scratch.event_of(|_| kms.decrypt(own, None, &blob, &nothing()));
    assert_eq!(disabled["errorCode"], "DisabledException");
    let long = "x".repeat(1 << 20);
    let refused = scratch.event_of(|_| kms.update_description(own, &key, &long));
    assert_eq!(refused["requestParameters"]["description"], "(1048576 bytes)");
}

#[test]
fn what_the_kms_does_by_itself_is_recorded() {
    let scratch = Scratch::new();
    let Opened { kms, own } = &scratch.opened;
    let (rotated, deleted) = (scratch.opened.create_key(), scratch.opened.create_key());
    kms.enable_key_rotation(own, &rotated, 90).unwrap();
    kms.schedule_key_deletion(own, &deleted, 7).unwrap();
    let before = scratch.events().len();
    kms.maintain(u64::from(u32::MAX)).unwrap();
    let mut told: Vec<_> = scratch
        .events()
        .split_off(before)
        .iter()
        .map(|one| (one["eventName"].to_string(), one["resources"][0]["keyId"].to_string()))
        .collect();
    told.sort();
    let quoted = |text: &str| format!("{text:?}");
    let expected =
        [(quoted("DeleteKey"), quoted(&deleted)), (quoted("RotateKey"), quoted(&rotated))];
    assert_eq!(told, expected);
}

#[test]
fn nothing_secret_is_in_the_log() {
    let scratch = Scratch::new();
    let Opened { kms, own } = &scratch.opened;
    let request = CreateKey { origin: Some(Origin::External), ..CreateKey::default() };
    let key = kms.create_key(own, request).unwrap().key_id.0;
    let material = Secret::random();
    let mut secrets = vec![material.expose().to_vec(), b"a plaintext of some length".to_vec()];
    kms.import_key_material(own, &key, material).unwrap();
    let blob = kms.encrypt(own, &key, &secrets[1], &nothing()).unwrap().blob;
    kms.decrypt(own, None, &blob, &nothing()).unwrap();
    let mut altered = blob.clone();
    altered[60] ^= 1;
    assert!(kms.decrypt(own, None, &altered, &nothing()).is_err());
    let data_key = kms.generate_data_key(own, &key, &nothing()).unwrap();
    secrets.push(data_key.plaintext.expose().to_vec());
    secrets.extend([blob, data_key.encrypted.blob]);
    let log = scratch.log();
    assert!(log.contains(&key), "it is the log");
    for secret in secrets {
        let tail = &secret[secret.len() - 16..];
        for text in [HEXLOWER.encode(tail), BASE64.encode(&tail[..15]), format!("{tail:?}")] {
            assert!(!log.contains(&text));
        }
        assert!(!log.contains(&*String::from_utf8_lossy(tail)));
    }
}

/// A small file system in memory over the directory of the log only.
struct FullLog(PathBuf);

impl FullLog {
    /// `None` where this may not mount.
    fn over(keystore: &Path) -> Option<Self> {
        let path = keystore.join("audit");
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&path).unwrap();
        let mounted = mount("none", &path, "tmpfs", MountFlags::empty(), c"size=256k,mode=700");
        if let Err(error) = mounted {
            skip(&format!("cannot mount a tmpfs: {error}"));
            return None;
        }
        Some(Self(path))
    }

    fn fill(&self) {
        let mut file = fs::File::create(self.0.join("fill")).unwrap();
        while file.write_all(&[1; 64]).is_ok() {}
    }

    fn make_room(&self) {
        fs::remove_file(self.0.join("fill")).unwrap();
    }
}

impl Drop for FullLog {
    fn drop(&mut self) {
        unmount(&self.0, UnmountFlags::DETACH).unwrap();
    }
}

/// All files of the keystore itself.
fn files(keystore: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let entries = fs::read_dir(keystore).unwrap().map(|entry| entry.unwrap().path());
    entries
        .filter(|path| path.is_file())
        .map(|path| (path.clone(), fs::read(&path).unwrap()))
        .collect()
}

#[test]
fn nothing_is_changed_or_used_without_its_event() {
    let directory = tempfile::tempdir().unwrap();
    let keystore = directory.path().join("keystore");
    let Some(log) = FullLog::over(&keystore) else { return };
    let scratch = Scratch::over(directory);
    let opened = &scratch.opened;
    let key = opened.create_key();
    let blob = opened.encrypt(&key);
    opened.kms.create_alias(&opened.own, "alias/b", &key).unwrap();
    let refused = |result: Result<(), KmsError>, name: &str| {
        assert!(matches!(result, Err(KmsError::Key(KeyError::Audit { .. }))), "{name}");
    };

    log.fill();
    // What is left of the last page of the log.
    while opened.kms.describe_key(&opened.own, &key).is_ok() {}
    let before = files(&keystore);
    refused(opened.kms.create_key(&opened.own, CreateKey::default()).map(drop), "CreateKey");
    refused(opened.kms.decrypt(&opened.own, None, &blob, &nothing()).map(drop), "Decrypt");
    refused(opened.kms.delete_alias(&opened.own, "alias/b"), "DeleteAlias");
    for (name, _, operation) in OPERATIONS {
        // They find the key as it was before each of them.
        if !["UpdateAlias", "DeleteAlias", "CancelKeyDeletion"].contains(name) {
            refused(operation(opened, &key), name);
        }
    }
    assert!(opened.kms.maintain(u64::from(u32::MAX)).is_ok(), "nothing was due");
    assert_eq!(files(&keystore), before);

    log.make_room();
    assert!(opened.decrypts(&blob));
    opened.kms.schedule_key_deletion(&opened.own, &key, 7).unwrap();
    log.fill();
    while opened.kms.describe_key(&opened.own, &key).is_ok() {}
    let before = files(&keystore);
    refused(opened.kms.maintain(u64::from(u32::MAX)), "DeleteKey");
    assert_eq!(files(&keystore), before, "a key is not destroyed without a record");
    log.make_room();
    opened.kms.cancel_key_deletion(&opened.own, &key).unwrap();
    opened.kms.enable_key(&opened.own, &key).unwrap();
    assert!(opened.decrypts(&blob));
    drop(scratch);
}
