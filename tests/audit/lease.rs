//! The lock that is kept over a burst of records: others get their turn, a death takes nothing,
//! and the head is behind for moments only.

use std::fs::File;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use ssefs::keys::audit::AuditReader;

use super::harness::{AppendingChild, TestLog, leasing, options, record};

#[test]
fn others_get_their_turn_in_a_burst_without_end() {
    const ROUNDS: u64 = 6;
    let log = TestLog::new();
    let bursting = log.open_with(leasing()).unwrap();
    let stop = AtomicBool::new(false);
    let (mut appending, mut reading) = (Vec::new(), Vec::new());
    thread::scope(|scope| {
        let burst = scope.spawn(|| {
            let mut number = 0;
            while !stop.load(Ordering::Relaxed) {
                record(&bursting, number).unwrap();
                number += 1;
                thread::sleep(Duration::from_micros(50));
            }
            number
        });
        for round in 0..ROUNDS {
            // Until the other was forgotten, and the lock is kept again.
            thread::sleep(Duration::from_millis(300));
            let asked = Instant::now();
            let other = log.open();
            record(&other, 1_000_000 + round).unwrap();
            appending.push(asked.elapsed());
            drop(other);
            thread::sleep(Duration::from_millis(300));
            let asked = Instant::now();
            AuditReader::at(&log.dir()).unwrap();
            reading.push(asked.elapsed());
        }
        stop.store(true, Ordering::Relaxed);
        assert!(burst.join().unwrap() > 1000);
    });
    drop(bursting);
    log.assert_clean();
    assert_eq!(log.numbers().iter().filter(|number| **number >= 1_000_000).count(), 6);
    for waits in [&mut appending, &mut reading] {
        waits.sort_unstable();
        assert!(waits[2] < Duration::from_millis(100), "half of them at once: {waits:?}");
        assert!(waits[5] < Duration::from_secs(2), "a loaded machine sleeps longer: {waits:?}");
    }
}

#[test]
fn two_that_burst_together_take_turns_record_by_record() {
    let log = TestLog::new();
    let handles = [0, 1].map(|_| log.open_with(leasing()).unwrap());
    thread::scope(|scope| {
        for (handle, first) in handles.iter().zip([0, 1_000_000]) {
            scope.spawn(move || {
                let begun = Instant::now();
                let mut number = first;
                while begun.elapsed() < Duration::from_millis(500) {
                    record(handle, number).unwrap();
                    number += 1;
                }
            });
        }
    });
    drop(handles);
    log.assert_clean();
    let numbers = log.numbers();
    let changes = numbers.windows(2).filter(|pair| pair[0].abs_diff(pair[1]) > 500_000).count();
    assert!(changes > 10, "they took turns {changes} times only");
}

#[test]
fn after_a_burst_the_lock_is_free_and_the_head_in_its_place() {
    let log = TestLog::new();
    let open = log.open_with(leasing()).unwrap();
    let lock = File::open(log.dir().join("lock")).unwrap();
    let (mut kept, mut behind) = (0, 0);
    for round in 0..20 {
        for number in 0..30 {
            record(&open, round * 100 + number).unwrap();
        }
        kept += u32::from(lock.try_lock().is_err());
        let _ = lock.unlock();
        behind += u32::from(log.numbers().len() < 30 * (round as usize + 1));
        let idle = Instant::now();
        while lock.try_lock().is_err() {
            assert!(idle.elapsed() < Duration::from_secs(5), "nobody lets it go");
            thread::sleep(Duration::from_millis(1));
        }
        lock.unlock().unwrap();
        assert_eq!(log.head_seq(), log.records().len() as u64);
        assert_eq!(log.numbers().len(), 30 * (round as usize + 1));
    }
    assert!(kept > 2 && behind > 0, "the lock was kept {kept} times, the log behind {behind}");
    drop(open);
    log.assert_clean();
}

/// The records that are not in the log yet count, as those of any process that died.
#[test]
fn killed_while_the_lock_is_kept() {
    let log = TestLog::new();
    let (mut acknowledged, mut behind) = (Vec::new(), 0);
    for round in 0..12_u64 {
        let mut child = AppendingChild::start(log.path(), 10_000 * round);
        acknowledged.extend((0..20 + round % 7).map(|_| child.hear().unwrap()));
        acknowledged.extend(child.kill());
        let lock = File::open(log.dir().join("lock")).unwrap();
        lock.try_lock().expect("a dead process holds nothing");
        lock.unlock().unwrap();
        let notes = log.assert_clean().notes;
        behind += u32::from(notes.iter().any(|note| note.contains("wait in the file")));
        log.append(10_000 * round + 9000..10_000 * round + 9001);
    }
    let numbers = log.numbers();
    for number in &acknowledged {
        assert!(numbers.contains(number), "{number} was acknowledged");
    }
    assert!(behind > 0, "no death met a lease");
}

#[test]
fn what_is_cut_while_the_lock_is_kept_is_found() {
    let log = TestLog::new();
    let open = log.open_with(leasing()).unwrap();
    for number in 0..50 {
        record(&open, number).unwrap();
    }
    let segment = File::options().write(true).open(log.segment(1)).unwrap();
    segment.set_len(segment.metadata().unwrap().len() - 2000).unwrap();
    thread::sleep(Duration::from_millis(50));
    assert!(!log.verify().is_clean(), "the head knows what there was");
    record(&open, 50).unwrap();
    drop(open);
    assert!(log.own_events().contains(&"AuditLogTampered".to_owned()));
    assert!(!log.verify().is_clean());
}

#[test]
fn a_log_that_is_removed_while_the_lock_is_kept_is_noticed() {
    let log = TestLog::new();
    let open = log.open_with(leasing()).unwrap();
    for number in 0..50 {
        record(&open, number).unwrap();
    }
    std::fs::remove_file(log.segment(1)).unwrap();
    thread::sleep(Duration::from_millis(50));
    record(&open, 50).unwrap();
    drop(open);
    let told = std::fs::read_to_string(log.segment(2)).unwrap();
    assert!(told.contains("segment 1 was removed"), "{told}");
    assert!(!log.verify().is_clean());
}

#[test]
fn who_does_not_keep_the_lock_moves_the_head_with_each_record() {
    let log = TestLog::new();
    let open = log.open_with(options()).unwrap();
    for number in 0..30 {
        record(&open, number).unwrap();
        assert_eq!(log.head_seq(), log.records().len() as u64);
    }
}
