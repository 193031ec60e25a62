//! Every change to a log is found, and the record that it was done to is named: by who has the
//! keystore and by who has the public key alone.

use std::fs;
use std::path::{Path, PathBuf};

use ssefs::keys::Keystore;
use ssefs::keys::audit::{
    AuditOptions, Expectation, FindingKind, Link, Trust, Verification, from_pem, verify,
};

use super::harness::{TestLog, options, put_byte, record};

/// A closed log, and a copy of its directory to tamper with.
struct Victim {
    log: TestLog,
    copy: PathBuf,
}

impl Victim {
    fn new(records: u64, segment_size: u64) -> Self {
        let log = TestLog::new();
        let small = AuditOptions { segment_size, ..options() };
        let open = log.open_with(small).unwrap();
        for number in 0..records {
            record(&open, number).unwrap();
        }
        drop(open);
        log.assert_clean();
        let copy = log.path().with_file_name("copy");
        let victim = Self { log, copy };
        victim.restore();
        victim
    }

    fn restore(&self) {
        let _ = fs::remove_dir_all(&self.copy);
        fs::create_dir(&self.copy).unwrap();
        for entry in fs::read_dir(self.log.dir()).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), self.copy.join(entry.file_name())).unwrap();
        }
    }

    fn segment(&self, number: u32) -> PathBuf {
        self.copy.join(format!("audit-{number:08}.jsonl"))
    }

    fn lines(&self, segment: u32) -> Vec<Vec<u8>> {
        let bytes = fs::read(self.segment(segment)).unwrap();
        bytes.split_inclusive(|&byte| byte == b'\n').map(<[u8]>::to_vec).collect()
    }

    /// Puts these lines in place of a segment's, verifies in both ways, and undoes it.
    fn with_lines(&self, segment: u32, lines: &[Vec<u8>]) -> [Verification; 2] {
        fs::write(self.segment(segment), lines.concat()).unwrap();
        let results = self.verify(&self.log.keystore());
        self.restore();
        results
    }

    fn verify(&self, keystore: &Keystore) -> [Verification; 2] {
        let pem = fs::read_to_string(self.log.dir().join("public-key.pem")).unwrap();
        let public_key = from_pem(&pem).unwrap();
        [Trust::Keystore(keystore), Trust::PublicKey(public_key)]
            .map(|trust| verify(&trust, Some(&self.copy), Expectation::default()).unwrap())
    }
}

#[track_caller]
fn assert_first(verification: &Verification, kind: FindingKind, seq: u64, what: &str) {
    let Some(first) = verification.findings.first() else { panic!("{what}: nothing was found") };
    assert_eq!((first.kind, first.seq), (kind, Some(seq)), "{what}: {first}");
}

#[test]
fn every_byte_of_every_record() {
    let victim = Victim::new(20, 1 << 20);
    let keystore = victim.log.keystore();
    let (path, lines) = (victim.segment(1), victim.lines(1));
    assert_eq!(lines.len(), 22, "created, twenty events, checkpoint");
    let mut at = 0;
    for (index, line) in lines.iter().enumerate() {
        for (within, &byte) in line.iter().enumerate() {
            put_byte(&path, at, byte ^ 1 << (at % 8));
            for verification in victim.verify(&keystore) {
                let first = verification.findings.first();
                let named = first.map(|first| (first.segment, first.line, first.seq));
                let place = index as u64 + 1;
                assert_eq!(named, Some((1, place, Some(place))), "byte {within} of it: {first:?}");
            }
            put_byte(&path, at, byte);
            at += 1;
        }
    }
    assert!(victim.verify(&keystore).iter().all(Verification::is_clean));
}

#[test]
fn every_byte_of_the_head_and_the_public_key() {
    let victim = Victim::new(2, 1 << 20);
    let keystore = victim.log.keystore();
    for name in ["head", "public-key.pem"] {
        let path = victim.copy.join(name);
        for (at, byte) in fs::read(&path).unwrap().into_iter().enumerate() {
            put_byte(&path, at as u64, byte ^ 0x10);
            let [verification, _] = victim.verify(&keystore);
            let kind = verification.findings.first().map(|first| first.kind);
            // White space around the key's text means nothing.
            let harmless = name == "public-key.pem" && verification.is_clean();
            assert!(kind == Some(FindingKind::Anchor) || harmless && byte == b'\n', "{name} {at}");
            put_byte(&path, at as u64, byte);
        }
    }
}

#[test]
fn each_record_dropped_repeated_or_swapped() {
    let victim = Victim::new(20, 1 << 20);
    let lines = victim.lines(1);
    let count = lines.len();
    for index in 0..count {
        let seq = index as u64 + 1;
        let mut without = lines.clone();
        without.remove(index);
        let kind = match index {
            0 => FindingKind::Cut,
            _ if index == count - 1 => FindingKind::Cut,
            _ => FindingKind::Dropped,
        };
        for verification in victim.with_lines(1, &without) {
            assert_first(&verification, kind, seq, "dropped");
        }
        let mut twice = lines.clone();
        twice.insert(index, lines[index].clone());
        for verification in victim.with_lines(1, &twice) {
            assert_first(&verification, FindingKind::Reordered, seq, "twice");
        }
        for other in index + 1..count {
            let mut swapped = lines.clone();
            swapped.swap(index, other);
            for verification in victim.with_lines(1, &swapped) {
                assert_first(&verification, FindingKind::Reordered, other as u64 + 1, "swapped");
            }
        }
    }
}

#[test]
fn every_cut_at_the_beginning_and_at_the_end() {
    let victim = Victim::new(20, 1 << 20);
    let lines = victim.lines(1);
    for kept in 1..lines.len() {
        for verification in victim.with_lines(1, &lines[kept..]) {
            assert_first(&verification, FindingKind::Cut, 1, "prefix");
        }
        for verification in victim.with_lines(1, &lines[..kept]) {
            assert_first(&verification, FindingKind::Cut, kept as u64 + 1, "suffix");
        }
    }
    for verification in victim.with_lines(1, &[]) {
        assert_first(&verification, FindingKind::Cut, 1, "all records");
    }
    let bytes = lines.concat();
    let len = bytes.len() - lines.last().unwrap().len() / 2;
    for verification in victim.with_lines(1, &[bytes[..len].to_vec()]) {
        assert_first(&verification, FindingKind::Altered, lines.len() as u64, "half a line");
    }
}

#[test]
fn segments_removed_swapped_or_taken_from_another_log() {
    let victim = Victim::new(20, 4000);
    let keystore = victim.log.keystore();
    let mut segments = 1;
    while victim.segment(segments + 1).exists() {
        segments += 1;
    }
    assert!(segments >= 5, "only {segments} segments");
    let first_seq = |segment: u32| {
        let line = victim.lines(segment).swap_remove(0);
        let record: serde_json::Value = serde_json::from_slice(&line).unwrap();
        record["seq"].as_u64().unwrap()
    };
    for removed in 1..=segments {
        let seq = first_seq(removed);
        fs::remove_file(victim.segment(removed)).unwrap();
        let kind = match removed {
            1 => FindingKind::Cut,
            _ if removed == segments => FindingKind::Cut,
            _ => FindingKind::Dropped,
        };
        for verification in victim.verify(&keystore) {
            assert_first(&verification, kind, seq, "segment removed");
            assert!(verification.findings[0].what.contains(&format!("segment {removed}")));
        }
        victim.restore();
        for other in removed + 1..=segments {
            let seq = first_seq(other);
            let aside = victim.copy.join("aside");
            fs::rename(victim.segment(removed), &aside).unwrap();
            fs::rename(victim.segment(other), victim.segment(removed)).unwrap();
            fs::rename(&aside, victim.segment(other)).unwrap();
            for verification in victim.verify(&keystore) {
                assert_first(&verification, FindingKind::Reordered, seq, "segments swapped");
            }
            victim.restore();
        }
    }
    let foreign = Victim::new(20, 4000);
    fs::copy(foreign.segment(3), victim.segment(3)).unwrap();
    for verification in victim.verify(&keystore) {
        let first = verification.findings.first().expect("a foreign segment is found");
        assert!(first.segment == 3 || first.segment == 2, "{first}");
    }
}

#[test]
fn a_replaced_record_needs_the_key_of_the_mac() {
    let victim = Victim::new(3, 1 << 20);
    let other = Victim::new(3, 1 << 20);
    let mut lines = victim.lines(1);
    lines[2] = other.lines(1).swap_remove(2);
    for verification in victim.with_lines(1, &lines) {
        assert_first(&verification, FindingKind::Altered, 3, "from another keystore");
    }
}

#[test]
fn archived_segments_are_verified_apart_and_the_rest_after_them() {
    let victim = Victim::new(20, 4000);
    let keystore = victim.log.keystore();
    let archive = victim.log.path().with_file_name("archive");
    fs::create_dir(&archive).unwrap();
    for number in [1, 2] {
        let name = victim.segment(number).file_name().unwrap().to_owned();
        fs::rename(victim.segment(number), archive.join(name)).unwrap();
    }
    let verify_in = |dir: &Path, expectation| {
        verify(&Trust::Keystore(&keystore), Some(dir), expectation).unwrap()
    };
    let archived = verify_in(&archive, Expectation { archive: true, after: None });
    assert!(archived.is_clean(), "{:?}", archived.findings);
    let end = archived.last.unwrap();
    let rest = verify_in(&victim.copy, Expectation { after: Some(end), archive: false });
    assert!(rest.is_clean(), "{:?}", rest.findings);
    assert_eq!(rest.first_seq, Some(end.seq + 1));

    let without = verify_in(&victim.copy, Expectation::default());
    assert_first(&without, FindingKind::Cut, 1, "nothing is said of an archive");
    let wrong_hash = Link { hash: [7; 32], ..end };
    let wrong = verify_in(&victim.copy, Expectation { after: Some(wrong_hash), archive: false });
    assert_first(&wrong, FindingKind::Cut, end.seq + 1, "another archive");
    let earlier = Link { seq: end.seq - 1, ..end };
    let wrong = verify_in(&victim.copy, Expectation { after: Some(earlier), archive: false });
    assert!(!wrong.is_clean(), "a record is missing between archive and log");

    let name = victim.segment(2).file_name().unwrap().to_owned();
    let bytes = fs::read(archive.join(&name)).unwrap();
    let end = bytes[..bytes.len() - 1].iter().rposition(|&byte| byte == b'\n').unwrap() + 1;
    fs::write(archive.join(&name), &bytes[..end]).unwrap();
    let cut = verify_in(&archive, Expectation { archive: true, after: None });
    assert_eq!(cut.findings[0].kind, FindingKind::Cut, "an archive without its checkpoint");
}

#[test]
fn what_is_done_to_a_log_in_use_is_recorded_by_the_next_opener() {
    type Tampering = fn(&TestLog);
    let cases: [(&str, Tampering); 6] = [
        ("last record cut", |log| {
            let text = fs::read_to_string(log.segment(1)).unwrap();
            let end = text[..text.len() - 1].rfind('\n').unwrap() + 1;
            fs::write(log.segment(1), &text[..end]).unwrap();
        }),
        ("segment removed", |log| fs::remove_file(log.segment(1)).unwrap()),
        ("head removed", |log| fs::remove_file(log.dir().join("head")).unwrap()),
        ("head altered", |log| put_byte(&log.dir().join("head"), 20, 0xee)),
        ("all removed", |log| fs::remove_dir_all(log.dir()).unwrap()),
        ("a record made up", |log| {
            let text = fs::read_to_string(log.segment(1)).unwrap();
            let last = text.lines().last().unwrap();
            fs::write(log.segment(1), format!("{text}{last}\n")).unwrap();
        }),
    ];
    for (what, tamper) in cases {
        let log = TestLog::new();
        log.append(0..5);
        tamper(&log);
        assert!(!log.verify().is_clean(), "{what}: not found before the log is used again");
        log.append(5..7);
        let verification = log.verify();
        let recorded = verification.findings.iter().find(|f| f.kind == FindingKind::Recorded);
        assert!(recorded.is_some(), "{what}: {:#?}", verification.findings);
        let events = log.dir().join("audit-00000002.jsonl");
        let newest = if events.exists() { events } else { log.segment(1) };
        let text = fs::read_to_string(newest).unwrap();
        assert!(text.contains("\"number\":6"), "{what}: the log goes on");
        log.append(7..8);
        assert!(!log.verify().is_clean(), "{what}: it is not forgotten");
    }
}

#[test]
fn a_log_moved_away_under_a_running_process_is_noticed() {
    let log = TestLog::new();
    let open = log.open();
    record(&open, 0).unwrap();
    fs::rename(log.dir(), log.path().join("elsewhere")).unwrap();
    open.flush().unwrap();
    record(&open, 1).unwrap();
    drop(open);
    assert_eq!(log.numbers(), [1]);
    assert!(log.own_events().contains(&"AuditLogTampered".to_owned()));

    let open = log.open();
    fs::remove_file(log.segment(1)).unwrap();
    record(&open, 2).unwrap();
    drop(open);
    assert!(fs::read_to_string(log.segment(2)).unwrap().contains("AuditLogTampered"));
}

#[test]
fn the_keystore_s_record_of_the_log_is_missed() {
    let log = TestLog::new();
    log.append(0..3);
    fs::remove_file(log.path().join("audit-log.record")).unwrap();
    assert_eq!(log.verify().findings[0].kind, FindingKind::Anchor);
    log.append(3..4);
    let findings = log.verify().findings;
    assert!(findings.iter().any(|finding| finding.kind == FindingKind::Recorded), "{findings:?}");
}
