//! Power cuts: the file ends where it was last synced, or somewhere after it, and the machine
//! has another boot id. What may be lost is recorded as lost, more than that is tampering.

use std::fs;

use ssefs::keys::audit::FindingKind;

use super::harness::{TestLog, record};

/// A log with the records 0 and 1 synced, 2 to 4 not, and the process gone without a close.
fn cut_short() -> (TestLog, Vec<usize>) {
    let log = TestLog::new();
    let open = log.open();
    for number in 0..2 {
        record(&open, number).unwrap();
    }
    open.flush().unwrap();
    for number in 2..5 {
        record(&open, number).unwrap();
    }
    let (bytes, head) = (fs::read(log.segment(1)).unwrap(), fs::read(log.dir().join("head")));
    drop(open);
    fs::write(log.segment(1), &bytes).unwrap();
    fs::write(log.dir().join("head"), head.unwrap()).unwrap();
    let ends = bytes.iter().enumerate().filter(|(_, byte)| **byte == b'\n');
    (log, ends.map(|(at, _)| at + 1).collect())
}

#[test]
fn records_that_were_not_synced_may_be_lost_and_are_named() {
    let (_, ends) = cut_short();
    assert_eq!(ends.len(), 6, "created, and five events");
    let near_an_end = |len: &usize| ends.iter().any(|end| end.abs_diff(*len) < 4);
    for len in (ends[2]..ends[5]).filter(|len| near_an_end(len) || len % 101 == 0) {
        let (mut log, _) = cut_short();
        let bytes = fs::read(log.segment(1)).unwrap();
        fs::write(log.segment(1), &bytes[..len]).unwrap();
        log.surroundings().boot_id = [7; 16];
        log.append(10..11);
        let verification = log.assert_clean();
        let whole = ends.iter().filter(|end| **end <= len).count() as u64;
        let (first, last) = (whole + 1, 6);
        let note = match first {
            6 => "record 6 lost".to_owned(),
            first => format!("the records {first} to {last} lost"),
        };
        assert!(verification.notes[0].starts_with(&note), "{:?}", verification.notes);
        let records = log.records();
        let lost = records.iter().find(|record| record["eventName"] == "AuditRecordsLost").unwrap();
        let data = &lost["additionalEventData"];
        assert_eq!((&data["firstLost"], &data["lastLost"]), (&first.into(), &last.into()));
        let torn = len - ends.iter().rev().find(|end| **end <= len).unwrap();
        assert_eq!(data["bytesCut"], torn);
        assert_eq!(*log.numbers().last().unwrap(), 10);
    }
}

#[test]
fn pages_that_were_not_written_are_cut_off() {
    let (mut log, ends) = cut_short();
    let mut bytes = fs::read(log.segment(1)).unwrap();
    bytes[ends[3]..ends[3] + 200].fill(0);
    fs::write(log.segment(1), &bytes).unwrap();
    log.surroundings().boot_id = [7; 16];
    log.append(10..11);
    let verification = log.assert_clean();
    assert!(verification.notes[0].starts_with("the records 5 to 6 lost"), "{verification:?}");
    assert_eq!(log.numbers(), [0, 1, 2, 10]);
}

#[test]
fn what_was_synced_is_not_lost_in_a_power_cut() {
    let (mut log, ends) = cut_short();
    let bytes = fs::read(log.segment(1)).unwrap();
    fs::write(log.segment(1), &bytes[..ends[1]]).unwrap();
    log.surroundings().boot_id = [7; 16];
    log.append(10..11);
    let kinds: Vec<_> = log.verify().findings.iter().map(|finding| finding.kind).collect();
    assert_eq!(kinds, [FindingKind::Dropped, FindingKind::Recorded]);
}

#[test]
fn the_same_cut_without_a_power_cut_is_tampering() {
    let (log, ends) = cut_short();
    let bytes = fs::read(log.segment(1)).unwrap();
    fs::write(log.segment(1), &bytes[..ends[3]]).unwrap();
    assert_eq!(log.verify().findings[0].kind, FindingKind::Cut);
    log.append(10..11);
    let kinds: Vec<_> = log.verify().findings.iter().map(|finding| finding.kind).collect();
    assert_eq!(kinds, [FindingKind::Dropped, FindingKind::Recorded]);
}

/// The head's page may be older than the records after a power cut.
#[test]
fn an_older_head_is_caught_up_with() {
    let (mut log, _) = cut_short();
    let newer = fs::read(log.segment(1)).unwrap();
    let other = TestLog::new();
    other.append(0..1);
    let open = other.open();
    let head = fs::read(other.dir().join("head")).unwrap();
    record(&open, 1).unwrap();
    record(&open, 2).unwrap();
    drop(open);
    fs::write(other.dir().join("head"), head).unwrap();
    other.append(3..4);
    other.assert_clean();
    assert_eq!(other.numbers(), [0, 1, 2, 3]);
    log.surroundings().boot_id = [7; 16];
    log.append(5..6);
    log.assert_clean();
    assert!(fs::read(log.segment(1)).unwrap().starts_with(&newer));
}
