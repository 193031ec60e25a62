//! Records of a burst, which wait in the file `pending` for their place in the chain: a death
//! takes none of them, whenever it comes, none is there twice, and no change to them goes unseen.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::thread;
use std::time::Duration;

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use ssefs::format::{FileId, VolumeId};
use ssefs::keys::audit::{AuditOptions, Event, Target, Template};
use ssefs::keys::identity::Identity;
use ssefs::keys::{KeyError, Operation};

use super::harness::{AppendingChild, TestLog, key_id, leasing, program, record, skip};

/// A log whose process was killed with records waiting; the numbers that it acknowledged.
fn left_behind() -> (TestLog, Vec<u64>) {
    for _ in 0..50 {
        let log = TestLog::new();
        let mut child = AppendingChild::start(log.path(), 0);
        let mut said: Vec<_> = (0..12).map(|_| child.hear().unwrap()).collect();
        said.extend(child.kill());
        if waiting(&log) > 3 {
            return (log, said);
        }
    }
    panic!("no death met a burst");
}

/// How many records wait in the file.
fn waiting(log: &TestLog) -> u64 {
    let note = log.verify().notes.into_iter().find(|note| note.contains("wait in the file"));
    note.map_or(0, |note| note.split(' ').next().unwrap().parse().unwrap())
}

/// Where the last whole record in the file tells its number (`AUDIT.md`, 11). Behind it there may
/// be half a one, whose length was not put yet when its process died.
fn last_number(pending: &[u8]) -> usize {
    let mut end = 64;
    let length_at = |at: usize| u64::from_le_bytes(*pending[at..].first_chunk().unwrap()) as usize;
    while length_at(end) != 0 {
        end += 8 + 16 + (16 + length_at(end)).next_multiple_of(8);
    }
    pending[..end].windows(8).rposition(|eight| eight == b"\"number\"").unwrap()
}

/// What was acknowledged is told at once, and is in the chain after the next use, once.
#[track_caller]
fn assert_complete(log: &TestLog, acknowledged: &[u64]) {
    let assert_each_once = |numbers: Vec<u64>| {
        let once: BTreeSet<_> = numbers.iter().copied().collect();
        assert_eq!(once.len(), numbers.len(), "none is there twice: {numbers:?}");
        let missing: Vec<_> = acknowledged.iter().filter(|one| !once.contains(one)).collect();
        assert!(missing.is_empty(), "{missing:?} were acknowledged");
    };
    log.assert_clean();
    assert_each_once(log.whole_numbers());
    drop(log.open());
    log.assert_clean();
    assert_eq!(waiting(log), 0);
    assert_each_once(log.numbers());
}

#[test]
fn what_a_killed_process_left_is_told_and_put_into_the_log() {
    let (log, acknowledged) = left_behind();
    assert!(log.numbers().len() < acknowledged.len(), "some wait");
    assert_complete(&log, &acknowledged);
    assert_eq!(log.numbers(), acknowledged[..acknowledged.len().min(log.numbers().len())]);
}

#[test]
fn killed_between_the_steps_of_a_burst() {
    if !cfg!(debug_assertions) {
        return skip("a release build has no fail points");
    }
    let log = TestLog::new();
    let (mut acknowledged, mut left) = (Vec::new(), 0);
    let points =
        [("audit.burst.after_put", [3, 17, 60, 150]), ("audit.burst.after_append", [1, 2, 3, 4])];
    for (round, (point, hit)) in
        (1..).zip(points.iter().flat_map(|(point, hits)| hits.iter().map(move |hit| (point, hit))))
    {
        let point = format!("{point}:{hit}");
        acknowledged.extend(AppendingChild::start_killed_in(log.path(), 100_000 * round, &point));
        left += u32::from(waiting(&log) > 0);
        // Whoever comes next may be killed too, while it takes in what was left.
        if program("strace") {
            for nth in 1..=6 {
                let first = 100_000 * round + 10_000 * nth;
                let next = u32::try_from(nth).unwrap();
                acknowledged.extend(AppendingChild::start_killed_at(
                    log.path(),
                    first,
                    "pwrite64",
                    next,
                ));
            }
        }
        assert_complete(&log, &acknowledged);
    }
    assert!(left >= 2, "only {left} deaths left something");
}

/// Records of one template after another, as openings of two programs are, at the states that a
/// death between two of them leaves.
#[test]
fn records_from_templates_are_whole_whenever_the_process_dies() {
    let log = TestLog::new();
    let open = log.open_with(leasing()).unwrap();
    let templates = [opening_template("Decrypt"), opening_template("ReEncryptFrom")];
    let (copy, mut waited) = (log.path().with_file_name("copy"), 0);
    let mut expected = Vec::new();
    for number in 0..300_u64 {
        let path = format!("/dir\\{number}/\"\u{e4}");
        let template = &templates[usize::from(number % 7 == 0)];
        let file = FileId([u8::try_from(number % 200).unwrap(); 16]);
        open.record_from(template, file, Path::new(&path)).unwrap();
        expected.push((path.replace('\\', "\\\\"), file.to_string()));
        if number % 10 != 9 {
            continue;
        }
        let _ = fs::remove_dir_all(&copy);
        // What is rewritten in place first, so that it is not ahead of the rest.
        let names = ["audit/pending", "audit/head", "audit/audit-00000001.jsonl"];
        copy_keystore(log.path(), &copy, &names);
        let of_copy = TestLog::at(&copy);
        waited += waiting(&of_copy);
        drop(of_copy.open());
        of_copy.assert_clean();
        let records = of_copy.records();
        let opened = records.iter().filter(|record| record["eventSource"] == "ssefs.kms");
        let told: Vec<_> = opened
            .map(|record| {
                let request = &record["requestParameters"];
                let text = |name: &str| request[name].as_str().unwrap().to_owned();
                (text("path"), text("fileId"))
            })
            .collect();
        assert_eq!(told, expected);
    }
    assert!(waited > 20, "only {waited} records waited");
    drop(open);
    log.assert_clean();
}

fn opening_template(name: &'static str) -> Template {
    let context = BTreeMap::from([("file".to_owned(), FileId([9; 16]).to_string())]);
    let key_id = key_id();
    let identity = Identity::own();
    let event = Event {
        name,
        read_only: true,
        identity: &identity,
        target: Some(Target {
            operation: Operation::Open,
            volume: VolumeId([1; 16]),
            file: FileId([9; 16]),
            path: Path::new("/"),
        }),
        key_id: Some(&key_id),
        key_version: Some(1),
        context: &context,
        cache_hit: Some(true),
        error: None,
        parameters: BTreeMap::new(),
        additional: BTreeMap::new(),
    };
    Template::of(&event).unwrap()
}

/// These files first, then the others.
fn copy_keystore(from: &Path, to: &Path, first: &[&str]) {
    for (directory, copy) in
        [(from.to_owned(), to.to_owned()), (from.join("audit"), to.join("audit"))]
    {
        fs::create_dir(&copy).unwrap();
        fs::set_permissions(&copy, fs::metadata(&directory).unwrap().permissions()).unwrap();
    }
    for name in first {
        fs::copy(from.join(name), to.join(name)).unwrap();
    }
    for directory in ["", "audit"] {
        for entry in fs::read_dir(from.join(directory)).unwrap() {
            let name = Path::new(directory).join(entry.unwrap().file_name());
            if from.join(&name).is_file() && !to.join(&name).exists() {
                fs::copy(from.join(&name), to.join(&name)).unwrap();
            }
        }
    }
}

#[test]
fn a_change_to_what_waits_is_found_or_changes_nothing() {
    let (log, acknowledged) = left_behind();
    let wait = waiting(&log);
    let pending = log.dir().join("pending");
    let whole = fs::read(&pending).unwrap();
    let numbers = log.whole_numbers();
    let used = whole.iter().rposition(|byte| *byte != 0).unwrap() + 8;
    let file = OpenOptions::new().write(true).open(&pending).unwrap();
    let (mut found, mut cut) = (0, 0);
    for at in (0..used).filter(|at| *at < 200 || at % 13 == 0) {
        file.write_all_at(&[whole[at] ^ 0x20], at as u64).unwrap();
        let verification = log.verify();
        let told = verification.is_clean().then(|| log.whole_numbers());
        file.write_all_at(&[whole[at]], at as u64).unwrap();
        let Some(told) = told else {
            found += 1;
            continue;
        };
        // A length that does not fit cuts off what follows, as a death before it would have.
        cut += u32::from(told.len() < numbers.len());
        assert!(numbers.starts_with(&told), "byte {at}");
    }
    assert!(found > 50 && wait > 3, "{found} of the changes were found, {cut} cut something off");

    file.write_all_at(b"\"NUMBER\"", last_number(&whole) as u64).unwrap();
    assert!(!log.verify().is_clean());
    drop(log.open());
    assert!(log.own_events().contains(&"AuditLogTampered".to_owned()));
    assert!(!log.verify().is_clean(), "it stays known");
    let told = log.numbers();
    assert!(acknowledged.starts_with(&told[..told.len().min(acknowledged.len())]));
}

/// Nobody who lacks the root key can have a record of his own put into the chain.
#[test]
fn what_waits_cannot_come_from_another_log() {
    let (log, acknowledged) = left_behind();
    let (other, _) = left_behind();
    fs::copy(other.dir().join("pending"), log.dir().join("pending")).unwrap();
    assert!(!log.verify().is_clean());
    let before = log.numbers();
    drop(log.open());
    assert_eq!(log.numbers(), before);
    assert!(before.len() < acknowledged.len());
    assert!(log.own_events().contains(&"AuditLogTampered".to_owned()));
}

/// What is in the log already is not put there again when somebody brings the file back.
#[test]
fn an_older_copy_of_the_file_changes_nothing() {
    let (log, acknowledged) = left_behind();
    let older = fs::read(log.dir().join("pending")).unwrap();
    assert_complete(&log, &acknowledged);
    let numbers = log.numbers();
    let file = OpenOptions::new().write(true).open(log.dir().join("pending")).unwrap();
    file.write_all_at(&older, 0).unwrap();
    assert_eq!((waiting(&log), log.whole_numbers()), (0, numbers.clone()));
    log.append(7_000_000..7_000_001);
    log.assert_clean();
    assert_eq!(log.numbers().len(), numbers.len() + 1);
}

#[test]
fn after_a_crash_of_the_machine_what_waits_is_kept_as_far_as_it_is_whole() {
    // All of it was written back.
    let (mut log, acknowledged) = left_behind();
    log.surroundings().boot_id = [7; 16];
    assert_complete(&log, &acknowledged);

    // A page of it was not.
    let (mut log, acknowledged) = left_behind();
    let wait = waiting(&log);
    let pending = log.dir().join("pending");
    let bytes = fs::read(&pending).unwrap();
    let file = OpenOptions::new().write(true).open(&pending).unwrap();
    file.write_all_at(&[0; 32], last_number(&bytes) as u64).unwrap();
    log.surroundings().boot_id = [7; 16];
    let before = log.numbers().len() as u64;
    drop(log.open());
    log.assert_clean();
    assert_eq!(log.numbers().len() as u64, before + wait - 1);
    assert!(log.own_events().contains(&"AuditLogRepaired".to_owned()));
    assert!(acknowledged.len() as u64 >= before + wait - 1);
}

/// The log has lost what stood before the records that wait.
#[test]
fn records_that_a_crash_took_from_before_what_waits_are_named() {
    for crashed in [true, false] {
        let log = TestLog::new();
        let open = log.open();
        record(&open, 0).unwrap();
        open.flush().unwrap();
        let old =
            ["audit-00000001.jsonl", "head"].map(|name| (name, fs::read(log.dir().join(name))));
        for number in 1..4 {
            record(&open, number).unwrap();
        }
        drop(open);
        let mut child = AppendingChild::start(log.path(), 100);
        let mut said: Vec<_> = (0..12).map(|_| child.hear().unwrap()).collect();
        said.extend(child.kill());
        let wait = waiting(&log);
        if wait == 0 {
            continue;
        }
        let written: BTreeSet<_> = log.numbers().into_iter().collect();
        for (name, bytes) in old {
            fs::write(log.dir().join(name), bytes.unwrap()).unwrap();
        }
        let mut log = log;
        if crashed {
            log.surroundings().boot_id = [7; 16];
        }
        log.append(500..501);
        let told = log.own_events();
        let event = if crashed { "AuditRecordsLost" } else { "AuditLogTampered" };
        assert!(told.contains(&event.to_owned()), "{told:?}");
        assert_eq!(log.verify().is_clean(), crashed);
        // Some may have been in the log already, and not yet taken out of the file.
        let numbers = log.numbers();
        let waited = numbers[1..numbers.len() - 1].iter().filter(|one| !written.contains(one));
        assert_eq!((waited.count() as u64, numbers[0], numbers.last()), (wait, 0, Some(&500)));
        let once: BTreeSet<_> = numbers.iter().collect();
        assert_eq!(once.len(), numbers.len(), "none is there twice: {numbers:?}");
    }
}

/// What waits when the disk is full stays in its place until there is room; nothing more is
/// taken meanwhile.
#[test]
fn a_disk_that_is_full_in_a_burst_takes_nothing_that_was_acknowledged() {
    let log = TestLog::new();
    fs::create_dir(log.path()).unwrap();
    let mounted = mount("none", log.path(), "tmpfs", MountFlags::empty(), c"size=1m,mode=700");
    if let Err(error) = mounted {
        return skip(&format!("cannot mount a tmpfs: {error}"));
    }
    let _unmounted = Unmounted(log.path());
    let open = log.open_with(leasing()).unwrap();
    let (mut written, fill) = (Vec::new(), log.path().join("fill"));
    for round in 0..3_u64 {
        let mut len = 1 << 20;
        while len > 0 {
            let full = fs::write(&fill, vec![1; len]).is_err();
            len = if full { len - 4096 } else { 0 };
        }
        let refused = (0..3000).find(|number| {
            let number = 10_000 * round + number;
            thread::sleep(Duration::from_micros(20));
            match record(&open, number) {
                Ok(()) => {
                    written.push(number);
                    false
                }
                Err(KeyError::Audit { problem, .. }) => {
                    assert!(problem.contains("No space left"), "{problem}");
                    true
                }
                Err(other) => panic!("{other}"),
            }
        });
        assert!(refused.is_some(), "a full disk refuses in the end");
        assert!(record(&open, 999_999).is_err(), "still full");
        log.assert_clean();
        assert_eq!(log.whole_numbers(), written);
        fs::remove_file(&fill).unwrap();
        let number = 10_000 * round + 9_999;
        record(&open, number).unwrap();
        written.push(number);
    }
    drop(open);
    log.assert_clean();
    assert_eq!(log.numbers(), written);
}

struct Unmounted<'a>(&'a Path);

impl Drop for Unmounted<'_> {
    fn drop(&mut self) {
        unmount(self.0, UnmountFlags::DETACH).unwrap();
    }
}

/// Segments and checkpoints come when they are due, however many records a burst has.
#[test]
fn a_burst_ends_where_a_segment_or_a_checkpoint_is_due() {
    let log = TestLog::new();
    let small = AuditOptions { segment_size: 100 << 10, ..leasing() };
    let open = log.open_with(small).unwrap();
    for number in 0..4000 {
        record(&open, number).unwrap();
    }
    drop(open);
    let verification = log.assert_clean();
    assert_eq!(log.numbers(), (0..4000).collect::<Vec<_>>());
    assert!(verification.segments > 20, "{} segments", verification.segments);
    for number in 1..verification.segments {
        let len = fs::metadata(log.segment(u32::try_from(number).unwrap())).unwrap().len();
        assert!(len <= 101 << 10, "segment {number} has {len} bytes");
    }
    let log = TestLog::new();
    let open = log.open_with(leasing()).unwrap();
    for number in 0..4000 {
        record(&open, number).unwrap();
    }
    drop(open);
    let records = log.records();
    let signed = records.iter().filter(|record| record["eventName"] == "AuditCheckpoint");
    let signed: Vec<_> = signed.map(|record| record["seq"].as_u64().unwrap()).collect();
    // What is put while one is due comes before it.
    assert!(signed.windows(2).all(|pair| pair[1] - pair[0] < 2000), "{signed:?}");
    assert!(signed.len() >= 3);
}
