//! Changes stopped before each single change of the disk, as by `kill -9`: afterwards the
//! keystore is as before or as after, no version of material is ever lost, and work goes on.

use super::tests::{Scratch, code, nothing};
use super::{CreateKey, LocalKms};
use crate::crypto::Secret;
use crate::format::KeyId;
use crate::keys::kms::error::{ErrorCode, KmsError};
use crate::keys::kms::policy::Policy;
use crate::keys::kms::record::CmkRecord;
use crate::keys::private_dir::kill;

const DAY: u64 = 86_400;

/// Runs `change` in fresh keystores of `prepare`, stopped one step later each time, until it is
/// not stopped any more. `check` gets what another process finds then, and whether the change
/// was said to have been done.
fn stopped_everywhere<P, T>(
    prepare: impl Fn(&Scratch) -> P,
    change: impl Fn(&Scratch, &P) -> Result<T, KmsError>,
    check: impl Fn(&Scratch, &P, &LocalKms, bool),
) {
    let mut steps = 0;
    loop {
        let scratch = Scratch::new();
        let prepared = prepare(&scratch);
        let (result, killed) = kill::after(steps, || change(&scratch, &prepared));
        assert!(killed || result.is_ok(), "step {steps}: {:?}", result.err());
        check(&scratch, &prepared, &scratch.another(), result.is_ok());
        // Whatever was left behind is in nobody's way.
        code(change(&scratch, &prepared));
        check(&scratch, &prepared, &scratch.another(), true);
        if !killed {
            assert!(steps >= 4, "a change takes at least so many steps, not {steps}");
            return;
        }
        steps += 1;
    }
}

fn versions(kms: &LocalKms, key: &str) -> u32 {
    kms.cmk(&KeyId(key.to_owned())).unwrap().newest().map_or(0, |(version, _)| version)
}

/// A key with three versions, and a blob under each.
fn rotated(scratch: &Scratch) -> (String, Vec<Vec<u8>>) {
    let key = scratch.key();
    let mut blobs = vec![scratch.encrypt(&key, b"secret").blob];
    for _ in 0..2 {
        scratch.kms.rotate_key_on_demand(&scratch.own, &key).unwrap();
        blobs.push(scratch.encrypt(&key, b"secret").blob);
    }
    (key, blobs)
}

fn nothing_is_lost(scratch: &Scratch, kms: &LocalKms, key: &str, blobs: &[Vec<u8>]) {
    for blob in blobs {
        let decrypted = kms.decrypt(&scratch.own, None, blob, &nothing()).unwrap();
        assert_eq!(decrypted.plaintext.as_slice(), b"secret");
    }
    let new = kms.encrypt(&scratch.own, key, b"secret", &nothing()).unwrap();
    assert!(scratch.decrypts(&new.blob, b"secret"), "both processes know the newest version");
}

#[test]
fn a_rotation_on_demand() {
    stopped_everywhere(
        rotated,
        |scratch, (key, _)| scratch.kms.rotate_key_on_demand(&scratch.own, key),
        |scratch, (key, blobs), kms, done| {
            let versions = versions(kms, key);
            assert!((3 + u32::from(done)..=5).contains(&versions), "{versions}");
            let on_demand = kms.key_rotation_status(&scratch.own, key).unwrap().on_demand_rotations;
            assert_eq!(on_demand + 1, versions, "they are counted together");
            nothing_is_lost(scratch, kms, key, blobs);
        },
    );
}

#[test]
fn a_rotation_by_age() {
    let prepare = |scratch: &Scratch| {
        let (key, blobs) = rotated(scratch);
        scratch.kms.enable_key_rotation(&scratch.own, &key, 90).unwrap();
        (key, blobs, scratch.pass(90 * DAY))
    };
    stopped_everywhere(
        prepare,
        |scratch, (_, _, now)| scratch.kms.maintain(*now),
        |scratch, (key, blobs, now), kms, done| {
            let versions = versions(kms, key);
            assert!((3 + u32::from(done)..=4).contains(&versions), "once and not twice");
            let next = kms.key_rotation_status(&scratch.own, key).unwrap().next_rotation_date;
            assert_eq!(next == Some(now + 90 * DAY), versions == 4);
            nothing_is_lost(scratch, kms, key, blobs);
        },
    );
}

#[test]
fn an_import() {
    let prepare = |scratch: &Scratch| {
        let key = scratch.external_key();
        let material = Secret::copy_from(&[1; 32]);
        scratch.kms.import_key_material(&scratch.own, &key, material).unwrap();
        let blob = scratch.encrypt(&key, b"secret").blob;
        (key, vec![blob])
    };
    stopped_everywhere(
        prepare,
        |scratch, (key, _)| {
            let material = Secret::copy_from(&[2; 32]);
            scratch.kms.import_key_material(&scratch.own, key, material)
        },
        |scratch, (key, blobs), kms, done| {
            let versions = versions(kms, key);
            assert!((1 + u32::from(done)..=2).contains(&versions), "{versions}");
            nothing_is_lost(scratch, kms, key, blobs);
        },
    );
}

#[test]
fn a_new_key_with_an_alias() {
    let request = || CreateKey { alias: Some("alias/a"), ..CreateKey::default() };
    stopped_everywhere(
        |_| (),
        |scratch, ()| scratch.kms.create_key(&scratch.own, request()),
        |scratch, (), kms, done| {
            let keys = kms.list_keys(&scratch.own).unwrap();
            let aliases = kms.list_aliases(&scratch.own, None).unwrap();
            assert!(aliases.len() <= 1 && keys.len() <= 2);
            assert!(!done || aliases.len() == 1);
            for alias in &aliases {
                assert!(keys.iter().any(|key| key.key_id == alias.target_key_id));
            }
        },
    );
}

#[test]
fn a_policy_and_a_deletion_that_is_scheduled() {
    let theirs = Policy::default_for(4_000_000);
    stopped_everywhere(
        rotated,
        |scratch, (key, _)| {
            scratch.kms.schedule_key_deletion(&scratch.own, key, 7)?;
            scratch.kms.put_key_policy(&scratch.own, key, theirs.clone(), true)
        },
        |_, (key, _), kms, done| {
            let cmk = kms.cmk(&KeyId(key.clone())).unwrap();
            let pending = cmk.record.lifecycle.deletion().is_some();
            assert!(pending || *cmk.policy() != theirs, "in this order");
            assert!(!done || pending);
            assert_eq!(cmk.newest().unwrap().0, 3);
        },
    );
}

#[test]
fn a_destruction() {
    let prepare = |scratch: &Scratch| {
        let (deleted, kept) = (scratch.key(), scratch.key());
        scratch.kms.create_alias(&scratch.own, "alias/deleted", &deleted).unwrap();
        scratch.kms.create_alias(&scratch.own, "alias/kept", &kept).unwrap();
        scratch.kms.schedule_key_deletion(&scratch.own, &deleted, 7).unwrap();
        (deleted, kept, scratch.pass(7 * DAY))
    };
    stopped_everywhere(
        prepare,
        |scratch, (_, _, now)| scratch.kms.maintain(*now),
        |scratch, (deleted, kept, _), kms, done| {
            assert_eq!(code(kms.cmk(&KeyId(deleted.clone()))), Some(ErrorCode::NotFound));
            let there = kms.keystore().contains::<CmkRecord>(deleted).unwrap();
            let alias = kms.resolve("alias/deleted").is_ok();
            assert!(!(done && (there || alias)));
            assert!(there || !alias, "no alias is left without its key");
            assert_eq!(kms.resolve("alias/kept").unwrap().0, *kept);
            kms.encrypt(&scratch.own, kept, b"x", &nothing()).unwrap();
        },
    );
}
