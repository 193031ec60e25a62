//! Deaths of appending processes, at any instant: nothing that was acknowledged is lost, and the
//! log is whole again with its next use.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::time::Duration;

use super::harness::{AppendingChild, TestLog, program, record, skip};

#[test]
fn killed_at_random_a_hundred_and_twenty_times() {
    let log = TestLog::new();
    let mut acknowledged = Vec::new();
    let mut next = 0;
    for round in 0..120_u64 {
        let mut child = AppendingChild::start(log.path(), next);
        acknowledged.push(child.hear().unwrap());
        // From at once to some hundred records later.
        std::thread::sleep(Duration::from_micros(round * 7919 % 5000));
        acknowledged.extend(child.kill());
        next = acknowledged.last().unwrap() + 1000;
        let verification = log.verify();
        assert!(verification.is_clean(), "before the log is used: {:#?}", verification.findings);
    }
    drop(log.open());
    log.assert_clean();
    let numbers = log.numbers();
    let mut found = numbers.iter().copied().peekable();
    for number in &acknowledged {
        // Each child may have written one more than it could say.
        while found.peek().is_some_and(|found| found < number) {
            found.next();
        }
        assert_eq!(found.next(), Some(*number), "it was acknowledged");
    }
    assert!(acknowledged.len() > 1000, "only {} records", acknowledged.len());
    assert!(numbers.len() <= acknowledged.len() + 120);
}

/// The states that a death within an append leaves: the line written up to one of its bytes, and
/// the head not yet moved.
#[test]
fn killed_at_each_step_of_an_append() {
    let log = TestLog::new();
    log.append(0..3);
    let (before, head) = (fs::read(log.segment(1)).unwrap(), fs::read(log.dir().join("head")));
    let head = head.unwrap();
    let open = log.open();
    record(&open, 3).unwrap();
    let after = fs::read(log.segment(1)).unwrap();
    let head_after = fs::read(log.dir().join("head")).unwrap();
    drop(open);
    let set = |bytes: &[u8], head: &[u8]| {
        fs::write(log.segment(1), bytes).unwrap();
        // In place, as the head is never replaced.
        let file = OpenOptions::new().write(true).open(log.dir().join("head")).unwrap();
        file.write_all_at(head, 0).unwrap();
    };
    let at_its_ends = |len: usize| len - before.len() < 40 || after.len() - len < 100;
    for len in (before.len()..=after.len()).filter(|&len| at_its_ends(len) || len % 41 == 0) {
        set(&after[..len], &head);
        log.assert_clean();
        log.append(4..5);
        log.assert_clean();
        let torn = len > before.len() && len < after.len();
        let repaired = log.own_events().contains(&"AuditLogRepaired".to_owned());
        assert_eq!(repaired, torn, "{} bytes of the line", len - before.len());
        let whole: &[u64] = if len == after.len() { &[0, 1, 2, 3, 4] } else { &[0, 1, 2, 4] };
        assert_eq!(log.numbers(), whole);
        if torn {
            let records = log.records();
            let repair = records.iter().find(|r| r["eventName"] == "AuditLogRepaired").unwrap();
            let cut = &repair["additionalEventData"]["bytesCut"];
            assert_eq!(*cut, len - before.len());
        }
    }
    set(&after, &head_after);
    log.assert_clean();
}

/// Before each system call that changes something, from the making of the keystore to the end of
/// a segment; each time the log of the process killed before is gone on with.
#[test]
fn killed_at_each_system_call() {
    if !program("strace") {
        return skip("the program strace is missing");
    }
    let log = TestLog::new();
    let mut next = 0;
    let mut acknowledged = Vec::new();
    let calls = [("pwrite64", 12), ("ftruncate", 1), ("fsync", 8), ("openat", 40), ("flock", 6)];
    for (call, count) in calls {
        for fresh in [true, false] {
            for nth in 1..=count {
                if fresh {
                    let _ = fs::remove_dir_all(log.path());
                    acknowledged.clear();
                }
                let heard = AppendingChild::start_killed_at(log.path(), next, call, nth);
                next += 1000;
                acknowledged.extend(heard);
                if !log.path().join("root.key").exists() {
                    continue;
                }
                let verification = log.verify();
                let what = format!("{call} {nth}, fresh: {fresh}");
                assert!(verification.is_clean(), "{what}: {:#?}", verification.findings);
                let numbers = log.whole_numbers();
                let missing: Vec<_> =
                    acknowledged.iter().filter(|number| !numbers.contains(number)).collect();
                assert!(missing.is_empty(), "{what}: {missing:?} were acknowledged");
            }
        }
    }
    drop(log.open());
    log.assert_clean();
}

/// A process that has the log open repairs what another left torn.
#[test]
fn a_torn_line_is_repaired_by_whoever_comes_next() {
    let log = TestLog::new();
    let open = log.open();
    record(&open, 0).unwrap();
    let mut bytes = fs::read(log.segment(1)).unwrap();
    let long = vec![b'x'; 5000];
    bytes.extend_from_slice(&long);
    fs::write(log.segment(1), &bytes).unwrap();
    record(&open, 1).unwrap();
    record(&open, 2).unwrap();
    drop(open);
    log.assert_clean();
    assert_eq!(log.numbers(), [0, 1, 2]);
    assert_eq!(log.own_events(), ["AuditLogCreated", "AuditLogRepaired", "AuditCheckpoint"]);
}

/// Deaths while the log is begun, and while a segment ends.
#[test]
fn killed_while_it_is_begun_or_a_segment_ends() {
    let model = TestLog::new();
    drop(model.open());
    let whole = fs::read(model.segment(1)).unwrap();
    let first_line = whole.split_inclusive(|&byte| byte == b'\n').next().unwrap().len();
    for len in [0, 1, first_line / 2, first_line - 1] {
        let log = TestLog::new();
        log.append(0..1);
        // As after the keystore's record was written and before it says that the log is begun:
        // such a record cannot be made from outside, so a log that is begun stands for it.
        let bytes = fs::read(log.segment(1)).unwrap();
        fs::write(log.segment(1), &bytes[..len]).unwrap();
        log.append(1..2);
        assert!(!log.verify().is_clean(), "a log cut to {len} bytes is not taken for a new one");
        assert_eq!(log.numbers(), [1]);
    }

    let log = TestLog::new();
    log.append(0..3);
    fs::write(log.segment(2), b"").unwrap();
    fs::set_permissions(log.segment(2), std::os::unix::fs::PermissionsExt::from_mode(0o600))
        .unwrap();
    log.append(3..5);
    log.assert_clean();
    assert!(fs::read_to_string(log.segment(2)).unwrap().contains("\"number\":4"));
    assert_eq!(log.numbers(), [0, 1, 2, 3, 4]);
}
