//! flock, POSIX record locks and open-file locks, between processes and within one.

use std::path::PathBuf;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::harness::child::say;
use crate::harness::sys::{
    RecordLock, blocking_record_lock, set_open_file_lock, set_record_lock, wait_record_lock,
};
use crate::harness::{Mount, Peer, Setup, assert_errno, open_or_create};

crate::matrix! { Setup::new() =>
    flock_excludes_another_process,
    flock_shared_by_two,
    flock_excludes_within_one_process,
    flock_ends_with_its_process,
    record_locks_exclude_by_range,
    record_lock_wait_is_granted,
    record_locks_end_with_their_process,
    record_locks_do_not_exclude_their_owner,
    open_file_locks_exclude_within_one_process,
    locks_do_not_outlive_an_unlinked_file,
}

fn outcome<T, E: Into<std::io::Error>>(result: Result<T, E>) -> String {
    match result.map_err(Into::into) {
        Ok(_) => "ok".to_owned(),
        Err(error) => match error.raw_os_error() {
            Some(libc::EAGAIN | libc::EACCES) => "busy".to_owned(),
            other => format!("{other:?}"),
        },
    }
}

/// Answers `exclusive`, `shared`, `unlock` with `ok` or `busy`.
pub fn flock_role(path: PathBuf, lines: &mut dyn Iterator<Item = String>) {
    let file = open_or_create(path);
    for line in lines {
        let operation = match line.as_str() {
            "exclusive" => FlockOperation::NonBlockingLockExclusive,
            "shared" => FlockOperation::NonBlockingLockShared,
            "unlock" => FlockOperation::Unlock,
            other => panic!("{other}"),
        };
        say(outcome(flock(&file, operation)));
    }
}

/// Answers `read|write|none|wait START LEN` with `ok` or `busy`, `test START LEN` with the
/// lock in the way.
pub fn record_lock_role(path: PathBuf, lines: &mut dyn Iterator<Item = String>) {
    let file = open_or_create(path);
    for line in lines {
        let words: Vec<&str> = line.split(' ').collect();
        let (start, len) = (words[1].parse().unwrap(), words[2].parse().unwrap());
        match words[0] {
            "read" => say(outcome(set_record_lock(&file, RecordLock::Read, start, len))),
            "write" => say(outcome(set_record_lock(&file, RecordLock::Write, start, len))),
            "none" => say(outcome(set_record_lock(&file, RecordLock::None, start, len))),
            "wait" => {
                say("waiting");
                say(outcome(wait_record_lock(&file, RecordLock::Write, start, len)));
            }
            "test" => {
                let found = blocking_record_lock(&file, RecordLock::Write, start, len).unwrap();
                say(format!("{found:?}"));
            }
            other => panic!("{other}"),
        }
    }
}

fn flock_excludes_another_process(m: &mut Mount) {
    let file = open_or_create(m.path("f"));
    let mut peer = Peer::start("flock", m.path("f"));
    flock(&file, FlockOperation::LockExclusive).unwrap();
    assert_eq!(peer.ask("exclusive"), "busy");
    assert_eq!(peer.ask("shared"), "busy");
    flock(&file, FlockOperation::Unlock).unwrap();
    assert_eq!(peer.ask("exclusive"), "ok");
    assert_errno(flock(&file, FlockOperation::NonBlockingLockShared), Errno::WOULDBLOCK);
}

fn flock_shared_by_two(m: &mut Mount) {
    let file = open_or_create(m.path("f"));
    let mut peer = Peer::start("flock", m.path("f"));
    flock(&file, FlockOperation::LockShared).unwrap();
    assert_eq!(peer.ask("shared"), "ok");
    assert_eq!(peer.ask("exclusive"), "busy");
    flock(&file, FlockOperation::Unlock).unwrap();
    assert_eq!(peer.ask("exclusive"), "ok");
}

fn flock_excludes_within_one_process(m: &mut Mount) {
    let (one, two) = (open_or_create(m.path("f")), open_or_create(m.path("f")));
    flock(&one, FlockOperation::LockExclusive).unwrap();
    assert_errno(flock(&two, FlockOperation::NonBlockingLockExclusive), Errno::WOULDBLOCK);
    let copy = one.try_clone().unwrap();
    drop(one);
    assert_errno(flock(&two, FlockOperation::NonBlockingLockExclusive), Errno::WOULDBLOCK);
    drop(copy);
    flock(&two, FlockOperation::NonBlockingLockExclusive).unwrap();
}

fn flock_ends_with_its_process(m: &mut Mount) {
    let file = open_or_create(m.path("f"));
    let mut peer = Peer::start("flock", m.path("f"));
    assert_eq!(peer.ask("exclusive"), "ok");
    drop(peer);
    flock(&file, FlockOperation::LockExclusive).unwrap();
}

fn record_locks_exclude_by_range(m: &mut Mount) {
    let file = open_or_create(m.path("f"));
    let mut peer = Peer::start("record-lock", m.path("f"));
    set_record_lock(&file, RecordLock::Write, 100, 50).unwrap();
    assert_eq!(peer.ask("write 149 1"), "busy");
    assert_eq!(peer.ask("read 100 1"), "busy");
    assert_eq!(peer.ask("write 150 10"), "ok");
    assert_eq!(peer.ask("write 0 100"), "ok");
    assert_eq!(peer.ask("test 0 0"), "(Write, 100, 50)");
    set_record_lock(&file, RecordLock::Read, 100, 50).unwrap();
    assert_eq!(peer.ask("read 120 5"), "ok");
    assert_eq!(peer.ask("write 120 5"), "busy");
    set_record_lock(&file, RecordLock::None, 110, 30).unwrap();
    assert_eq!(peer.ask("write 115 20"), "ok");
    assert_eq!(peer.ask("write 109 1"), "busy");
    assert!(set_record_lock(&file, RecordLock::Write, 1 << 40, 0).is_ok());
    assert_eq!(peer.ask("write 2000000000000 1"), "busy");
}

fn record_lock_wait_is_granted(m: &mut Mount) {
    let file = open_or_create(m.path("f"));
    let mut peer = Peer::start("record-lock", m.path("f"));
    set_record_lock(&file, RecordLock::Write, 0, 0).unwrap();
    peer.tell("wait 0 10");
    assert_eq!(peer.hear(), "waiting");
    std::thread::sleep(std::time::Duration::from_millis(50));
    set_record_lock(&file, RecordLock::None, 0, 0).unwrap();
    assert_eq!(peer.hear(), "ok");
    assert!(set_record_lock(&file, RecordLock::Write, 5, 1).is_err());
}

fn record_locks_end_with_their_process(m: &mut Mount) {
    let file = open_or_create(m.path("f"));
    let mut peer = Peer::start("record-lock", m.path("f"));
    assert_eq!(peer.ask("write 0 0"), "ok");
    drop(peer);
    set_record_lock(&file, RecordLock::Write, 0, 0).unwrap();
}

fn record_locks_do_not_exclude_their_owner(m: &mut Mount) {
    let (one, two) = (open_or_create(m.path("f")), open_or_create(m.path("f")));
    let mut peer = Peer::start("record-lock", m.path("f"));
    set_record_lock(&one, RecordLock::Write, 0, 10).unwrap();
    set_record_lock(&two, RecordLock::Write, 5, 10).unwrap();
    assert_eq!(peer.ask("write 0 1"), "busy");
    // POSIX: closing any descriptor of the file drops all locks of the process.
    drop(two);
    assert_eq!(peer.ask("write 0 20"), "ok");
    drop(one);
}

fn open_file_locks_exclude_within_one_process(m: &mut Mount) {
    let (one, two) = (open_or_create(m.path("f")), open_or_create(m.path("f")));
    set_open_file_lock(&one, RecordLock::Write, 0, 10).unwrap();
    let busy = set_open_file_lock(&two, RecordLock::Write, 5, 1);
    assert_errno(busy, Errno::AGAIN);
    set_open_file_lock(&two, RecordLock::Write, 10, 1).unwrap();
    drop(one);
    set_open_file_lock(&two, RecordLock::Write, 0, 10).unwrap();
}

fn locks_do_not_outlive_an_unlinked_file(m: &mut Mount) {
    let old = open_or_create(m.path("f"));
    flock(&old, FlockOperation::LockExclusive).unwrap();
    std::fs::remove_file(m.path("f")).unwrap();
    let new = open_or_create(m.path("f"));
    flock(&new, FlockOperation::NonBlockingLockExclusive).unwrap();
    set_record_lock(&old, RecordLock::Write, 0, 0).unwrap();
    let mut peer = Peer::start("record-lock", m.path("f"));
    assert_eq!(peer.ask("write 0 0"), "ok");
}
