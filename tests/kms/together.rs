//! Processes that change one keystore at once.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use ssefs::keys::kms::policy::Principal;
use ssefs::keys::kms::{Action, GrantRequest};

use super::peer::{Opened, Peer};

const PROCESSES: usize = 4;
const ROUNDS: usize = 12;

/// Gives every key that the argument names an alias of its own, rotates it once and adds a grant.
pub fn alias_role(opened: &Opened, argument: &str) {
    let (number, key) = argument.split_once(' ').unwrap();
    let Opened { kms, own } = opened;
    for round in 0..ROUNDS {
        kms.create_alias(own, &format!("alias/{number}/{round}"), key).unwrap();
        let grant = GrantRequest {
            name: None,
            grantee: Principal::user("0").unwrap(),
            operations: &[Action::Decrypt],
            constraints: None,
        };
        kms.create_grant(own, key, grant).unwrap();
        if round % 2 == 0 {
            kms.rotate_key_on_demand(own, key).unwrap();
        }
        assert!(opened.decrypts(&opened.encrypt(key)));
    }
}

#[test]
fn no_change_of_one_undoes_that_of_another() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("keystore");
    let opened = Opened::at(&path);
    let key = opened.create_key();
    let first = opened.encrypt(&key);
    let peers: Vec<_> = (0..PROCESSES)
        .map(|number| Peer::start("alias", &path, &format!("{number} {key}")))
        .collect();
    peers.into_iter().for_each(Peer::finish);
    let aliases = opened.kms.list_aliases(&opened.own, Some(&key)).unwrap();
    assert_eq!(aliases.len(), PROCESSES * ROUNDS);
    assert_eq!(opened.kms.list_grants(&opened.own, &key).unwrap().len(), PROCESSES * ROUNDS);
    let rotations = u32::try_from(PROCESSES * ROUNDS / 2).unwrap();
    assert_eq!(opened.newest_version(&key), 1 + rotations);
    assert!(opened.decrypts(&first), "the process that was there all the time sees all of it");
}

/// Where the directory has not changed the record is not looked at; the change must show in it.
#[test]
fn a_key_that_another_disables_in_a_burst_is_refused_at_the_very_next_use() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("keystore");
    let (bursting, other) = (Opened::at(&path), Opened::at(&path));
    let key = bursting.create_key();
    let unrelated = bursting.create_key();
    let blob = bursting.encrypt(&key);
    for round in 0..8 {
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_millis(150) {
            assert!(bursting.decrypts(&blob));
        }
        if round % 2 == 0 {
            other.kms.update_description(&other.own, &unrelated, "changed").unwrap();
            assert!(bursting.decrypts(&blob));
        }
        other.kms.disable_key(&other.own, &key).unwrap();
        assert!(!bursting.decrypts(&blob), "round {round}");
        other.kms.enable_key(&other.own, &key).unwrap();
        assert!(bursting.decrypts(&blob), "round {round}");
    }
}

/// What ssefs never does, a backup may: write into the record instead of replacing it.
#[test]
fn a_record_that_is_written_over_is_read_again_within_a_second() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("keystore");
    let opened = Opened::at(&path);
    let key = opened.create_key();
    let blob = opened.encrypt(&key);
    let record = path.join(format!("cmk-{key}.record"));
    opened.kms.disable_key(&opened.own, &key).unwrap();
    let disabled = fs::read(&record).unwrap();
    opened.kms.enable_key(&opened.own, &key).unwrap();
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(300) {
        assert!(opened.decrypts(&blob));
    }
    fs::write(&record, &disabled).unwrap();
    thread::sleep(Duration::from_millis(1100));
    assert!(!opened.decrypts(&blob));
}
