//! A disk that is full: the record is refused or counted, the log stays whole, and goes on when
//! there is room again.

use std::fs;
use std::path::Path;

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use ssefs::keys::KeyError;
use ssefs::keys::audit::AuditOptions;

use super::harness::{TestLog, leasing, options, record, skip};

/// A small file system in memory over a log's keystore.
struct SmallDisk<'a>(&'a Path);

impl<'a> SmallDisk<'a> {
    /// `None` where this may not mount.
    fn over(path: &'a Path) -> Option<Self> {
        fs::create_dir(path).unwrap();
        let mounted = mount("none", path, "tmpfs", MountFlags::empty(), c"size=128k,mode=700");
        if let Err(error) = mounted {
            skip(&format!("cannot mount a tmpfs: {error}"));
            return None;
        }
        Some(Self(path))
    }

    fn fill(&self) {
        let mut len = 64 << 10;
        for number in 0.. {
            if fs::write(self.0.join(format!("fill-{number}")), vec![1; len]).is_err() {
                len /= 2;
            }
            if len == 0 {
                return;
            }
        }
    }

    fn make_room(&self) {
        for entry in fs::read_dir(self.0).unwrap() {
            let entry = entry.unwrap();
            if entry.file_name().to_string_lossy().starts_with("fill-") {
                fs::remove_file(entry.path()).unwrap();
            }
        }
    }
}

impl Drop for SmallDisk<'_> {
    fn drop(&mut self) {
        unmount(self.0, UnmountFlags::DETACH).unwrap();
    }
}

/// Fills the disk and records until it is refused; how many records that took.
fn record_until_refused(disk: &SmallDisk<'_>, mut record: impl FnMut() -> bool) -> u64 {
    disk.fill();
    (0..1000).find(|_| !record()).expect("a full disk refuses within one page")
}

#[test]
fn a_record_is_refused_and_the_log_stays_whole() {
    refused_and_whole(&options());
}

#[test]
fn the_same_while_the_lock_is_kept() {
    refused_and_whole(&leasing());
}

fn refused_and_whole(options: &AuditOptions) {
    let log = TestLog::new();
    let Some(disk) = SmallDisk::over(log.path()) else { return };
    let open = log.open_with(options.clone()).unwrap();
    let mut written = 0;
    for _ in 0..3 {
        record_until_refused(&disk, || match record(&open, written) {
            Ok(()) => {
                written += 1;
                true
            }
            Err(KeyError::Audit { problem, .. }) => {
                assert!(problem.contains("No space left"), "{problem}");
                false
            }
            Err(other) => panic!("{other}"),
        });
        assert!(record(&open, 999_999).is_err(), "still full");
        let text = fs::read_to_string(log.segment(1)).unwrap();
        assert!(text.ends_with("}\n"), "cut back to the last whole record");
        log.assert_clean();
        disk.make_room();
        record(&open, written).unwrap();
        written += 1;
    }
    drop(open);
    log.assert_clean();
    assert_eq!(log.numbers(), (0..written).collect::<Vec<_>>());
}

#[test]
fn best_effort_counts_what_is_missing() {
    let log = TestLog::new();
    let Some(disk) = SmallDisk::over(log.path()) else { return };
    let best_effort = AuditOptions { best_effort: true, ..options() };
    let open = log.open_with(best_effort).unwrap();
    let last = |log: &TestLog| log.numbers().last().copied();
    let mut number = 0;
    record_until_refused(&disk, || {
        number += 1;
        record(&open, number).unwrap();
        last(&log) == Some(number)
    });
    for _ in 0..4 {
        number += 1;
        record(&open, number).unwrap();
    }
    disk.make_room();
    record(&open, number + 1).unwrap();
    drop(open);
    let verification = log.assert_clean();
    assert!(verification.notes[0].contains("5 records were not written"), "{verification:?}");
    let records = log.records();
    let told = records.iter().position(|record| record["eventName"] == "AuditRecordsNotWritten");
    let told = told.unwrap();
    assert_eq!(records[told]["additionalEventData"]["count"], 5);
    assert_eq!(records[told + 1]["requestParameters"]["number"], number + 1);
}

#[test]
fn a_log_that_cannot_be_begun_refuses_to_open() {
    let log = TestLog::new();
    let Some(disk) = SmallDisk::over(log.path()) else { return };
    drop(log.keystore());
    disk.fill();
    assert!(log.open_with(options()).is_err());
    disk.make_room();
    log.append(0..2);
    log.assert_clean();
}
