//! Verifying a log: that every record is as it was written, in its place, and none is missing.
//! With the keystore every record's MAC is verified; with the public key alone the chain of
//! hashes and the signed checkpoints. It only reads.

use std::fmt;
use std::iter::Peekable;
use std::path::Path;

use super::appender::CHECKPOINT;
use super::body::{LOG_SOURCE, SOURCE_AT};
use super::frame::{Frame, LAST_SEQ, Link};
use super::head::Head;
use super::lines::{Line, Lines, Picture, read_small};
use super::pending;
use super::place::{DIR_NAME, PUBLIC_KEY_NAME};
use super::recovery::{CREATED, LOST, NOT_WRITTEN, TAMPERED};
use super::registration::{LogKeys, from_pem};
use super::surroundings::Surroundings;
use crate::crypto::{VerifyingKey, sha256};
use crate::keys::error::KeyError;
use crate::keys::keystore::Keystore;

/// What a log is verified with.
pub enum Trust<'a> {
    /// The keystore that it belongs to.
    Keystore(&'a Keystore),
    /// The public key of its checkpoints.
    PublicKey(VerifyingKey),
}

/// What is expected of a log.
#[derive(Debug, Clone, Copy, Default)]
pub struct Expectation {
    /// The last record that was archived elsewhere; the log begins after it.
    pub after: Option<Link>,
    /// Whether these are archived segments: without a head, ending in a signed checkpoint.
    pub archive: bool,
}

/// What came out.
#[derive(Debug, Default)]
pub struct Verification {
    /// What is wrong, the first first; at most [`MAX_FINDINGS`].
    pub findings: Vec<Finding>,
    /// What is right but worth knowing; a thousand at most.
    pub notes: Vec<String>,
    /// How many records were read.
    pub records: u64,
    /// How many segments.
    pub segments: usize,
    /// The number of the first record.
    pub first_seq: Option<u64>,
    /// The last record.
    pub last: Option<Link>,
    /// How many signed checkpoints.
    pub checkpoints: u64,
    /// The last signed record.
    pub signed_seq: Option<u64>,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What was done to the log.
    pub kind: FindingKind,
    /// In which segment; 0 for the log as a whole.
    pub segment: u32,
    /// In which line, from 1; 0 for a segment or the log as a whole.
    pub line: u64,
    /// To which record, if that is known.
    pub seq: Option<u64>,
    /// One sentence for people.
    pub what: String,
}

/// What was done to a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FindingKind {
    /// A record is not as it was written.
    Altered,
    /// Records are missing between others.
    Dropped,
    /// A record stands in another place, or twice.
    Reordered,
    /// Records are missing at the beginning or the end.
    Cut,
    /// The head, the public key or the keystore's record of the log is missing or was altered.
    Anchor,
    /// A record by ssefs says that the log was tampered with.
    Recorded,
}

/// Verifies the log in `dir`, or that of the keystore. An error means that it could not be read.
pub fn verify(
    trust: &Trust<'_>,
    dir: Option<&Path>,
    expectation: Expectation,
) -> Result<Verification, KeyError> {
    let (keys, verifying_key) = match trust {
        Trust::Keystore(keystore) => {
            let keys = LogKeys::read(keystore)?;
            let verifying_key = keys.as_ref().map(|keys| keys.signer.verifying_key());
            (keys, verifying_key)
        }
        Trust::PublicKey(verifying_key) => (None, Some(*verifying_key)),
    };
    let own_dir = match trust {
        Trust::Keystore(keystore) if dir.is_none() => Some(keystore.path().join(DIR_NAME)),
        _ => None,
    };
    let dir = own_dir.as_deref().or(dir).unwrap_or(Path::new("."));
    let picture = Picture::take(dir)?;
    let mut verifier = Verifier {
        picture: &picture,
        head: None,
        log_id: keys.as_ref().map(|keys| keys.log_id.clone()),
        begun: keys.as_ref().is_some_and(|keys| keys.begun),
        keys,
        with_keystore: matches!(trust, Trust::Keystore(_)),
        in_place: own_dir.is_some(),
        verifying_key,
        expectation,
        last: expectation.after.map_or(Link::START, |link| Link {
            // A later one follows no record, and is followed by none.
            seq: link.seq.min(LAST_SEQ),
            ..link
        }),
        segment: None,
        tainted: false,
        out: Verification { segments: picture.segments.len(), ..Verification::default() },
    };
    verifier.check_anchors(dir);
    verifier.check_lines()?;
    verifier.check_end();
    verifier.check_left_behind(trust)?;
    Ok(verifier.out)
}

struct Verifier<'a> {
    picture: &'a Picture,
    head: Option<Head>,
    keys: Option<LogKeys>,
    log_id: Option<String>,
    begun: bool,
    with_keystore: bool,
    /// Whether it is the log in use, on this machine.
    in_place: bool,
    verifying_key: Option<VerifyingKey>,
    expectation: Expectation,
    /// The record before: its number as expected, its hash as found.
    last: Link,
    segment: Option<(u32, u64)>,
    /// Whether the record before is known to be wrong, so that the next need not fit.
    tainted: bool,
    out: Verification,
}

impl Verifier<'_> {
    /// Head, public key, the keystore's record.
    fn check_anchors(&mut self, dir: &Path) {
        let empty = self.picture.segments.is_empty();
        if self.with_keystore && self.keys.is_none() && !empty {
            self.anchor("the keystore does not know of this log: its record was removed");
        }
        if empty && self.begun {
            self.anchor("the log was removed as a whole");
            return;
        }
        if empty && !self.with_keystore {
            self.anchor("there is no audit log here");
            return;
        }
        if empty || self.expectation.archive {
            return;
        }
        self.head = self.picture.head.as_deref().and_then(|bytes| match &self.keys {
            Some(keys) => Head::decode(bytes, &keys.mac),
            None => Head::decode_unverified(bytes),
        });
        match (&self.head, &self.picture.head) {
            // A process died while it began the log; nothing was acknowledged yet.
            (None, None) if self.keys.is_some() && !self.begun => {
                self.out.note("the log is still to be begun".to_owned());
            }
            (None, None) => self.anchor("the head is missing"),
            (None, Some(_)) => self.anchor("the head was altered"),
            (Some(_), _) => {}
        }
        let published = read_small(&dir.join(PUBLIC_KEY_NAME)).unwrap_or_default();
        let published = String::from_utf8(published).unwrap_or_default();
        if self.verifying_key.is_some() && from_pem(&published) != self.verifying_key {
            self.anchor("public-key.pem is not the key that this log is verified with");
        }
    }

    fn check_lines(&mut self) -> Result<(), KeyError> {
        let mut lines = self.picture.lines().peekable();
        while let Some(line) = lines.next() {
            let line = line?;
            self.enter_segment(&line);
            self.check_line(&line, &mut lines);
            self.segment = Some((line.segment, line.number));
        }
        Ok(())
    }

    /// Segments are numbered without gaps.
    fn enter_segment(&mut self, line: &Line) {
        let expected = match self.segment {
            Some((segment, _)) if segment == line.segment => return,
            Some((segment, _)) => segment + 1,
            None if self.expectation.after.is_some() => return,
            None => 1,
        };
        if line.segment != expected {
            let seq = Some(self.last.seq + 1);
            let kind = if self.segment.is_none() { FindingKind::Cut } else { FindingKind::Dropped };
            let what = match line.segment - 1 {
                last if last <= expected => format!("segment {expected} is missing"),
                last => format!("the segments {expected} to {last} are missing"),
            };
            self.found(kind, expected, 0, seq, what);
            if let Some(frame) = Frame::parse(&line.bytes) {
                self.last.seq = self.last.seq.max(frame.seq.saturating_sub(1));
            }
            self.tainted = true;
        }
    }

    fn check_line(&mut self, line: &Line, following: &mut Peekable<Lines<'_>>) {
        let expected = self.last.seq + 1;
        let hash = sha256(&line.bytes);
        let Some(frame) = Frame::parse(&line.bytes) else {
            if !line.bytes.ends_with(b"\n") && self.is_unfinished(line) {
                let len = line.bytes.len();
                self.out.note(format!(
                    "{len} bytes of an unfinished record follow record {}; the next use of the \
                     log will cut them off and say so",
                    self.last.seq
                ));
                return;
            }
            self.altered(line, expected);
            self.go_on(expected, hash, true);
            return;
        };
        self.out.records += 1;
        self.out.first_seq.get_or_insert(frame.seq);
        let authentic = self.keys.as_ref().is_none_or(|keys| frame.is_authentic(&keys.mac));
        let signed_well =
            !frame.is_signed() || self.verifying_key.is_some_and(|key| frame.is_signed_by(&key));
        if !authentic || !signed_well {
            self.altered(line, expected);
            self.go_on(expected, hash, true);
            return;
        }
        let event = LogEvent::parse(&line.bytes);
        let fits = frame.prev_hash == self.last.hash;
        let in_order = frame.seq == expected;
        let mut tainted = false;
        match (fits || self.tainted, in_order) {
            (true, true) => {}
            (false, true) => tainted = self.broken_link(line, &frame, following),
            (fits, false) => tainted = self.out_of_order(line, &frame, fits, event.as_ref()),
        }
        if let Some(head) = self.head
            && head.link.seq == frame.seq
            && head.link.hash != hash
            && self.out.findings.is_empty()
        {
            self.altered(line, frame.seq);
            tainted = true;
        }
        if let Some(event) = event {
            self.check_event(line, frame.seq, &event);
        }
        if frame.is_signed() && !tainted {
            self.out.checkpoints += 1;
            self.out.signed_seq = Some(frame.seq);
        }
        self.go_on(frame.seq.max(self.last.seq), hash, tainted);
    }

    /// The number is right, the hash of the line before is not: one of the two was altered. With
    /// the keystore both are authentic, and one of them comes from elsewhere.
    fn broken_link(
        &mut self,
        line: &Line,
        frame: &Frame<'_>,
        following: &mut Peekable<Lines<'_>>,
    ) -> bool {
        let hash = sha256(&line.bytes);
        let next = match following.peek() {
            Some(Ok(next)) => Frame::parse(&next.bytes).map(|next| next.prev_hash),
            _ => self.head.filter(|head| head.link.seq == frame.seq).map(|head| head.link.hash),
        };
        if self.segment.is_none() && self.expectation.after.is_some() {
            let what = format!("record {} does not follow what it is said to follow", frame.seq);
            self.found(FindingKind::Cut, line.segment, line.number, Some(frame.seq), what);
            return true;
        }
        if let Some((segment, number)) = self.segment
            && next == Some(hash)
            && self.keys.is_none()
        {
            let before = Line { segment, number, bytes: Vec::new() };
            self.altered(&before, frame.seq - 1);
            return false;
        }
        self.altered(line, frame.seq);
        true
    }

    /// The number is not the next one. Whether something is wrong with this very record.
    fn out_of_order(
        &mut self,
        line: &Line,
        frame: &Frame<'_>,
        fits: bool,
        event: Option<&LogEvent>,
    ) -> bool {
        let (seq, expected) = (frame.seq, self.last.seq + 1);
        let place = |verifier: &mut Self, kind, seq, what| {
            verifier.found(kind, line.segment, line.number, Some(seq), what);
        };
        let range = |first: u64, last: u64| match last - first {
            0 => format!("record {first}"),
            _ => format!("the records {first} to {last}"),
        };
        let explained = event.filter(|_| fits && !self.tainted).filter(|_| seq > expected);
        let is_about_loss = explained.is_some_and(|event| [LOST, TAMPERED].contains(&&*event.name));
        if fits && !self.tainted && self.segment.is_some() && !is_about_loss {
            // It was written to follow the record before: its number is what was changed.
            self.altered(line, expected);
            return true;
        }
        if seq < expected {
            let what = format!("record {seq} stands after record {}, or twice", self.last.seq);
            place(self, FindingKind::Reordered, seq, what);
            return true;
        }
        let missing = range(expected, seq - 1);
        match explained.map(|event| event.name.as_str()) {
            Some(LOST)
                if explained.is_some_and(|event| event.lost == Some((expected, seq - 1))) =>
            {
                self.out.note(format!(
                    "{missing} lost in a crash of the machine, as record {seq} tells"
                ));
                return false;
            }
            Some(TAMPERED) => {
                let what = format!("{missing} missing here, as record {seq} tells");
                place(self, FindingKind::Dropped, expected, what);
                return false;
            }
            _ => {}
        }
        if self.segment.is_none() && !self.appears_later(expected) {
            let what = format!(
                "the log begins with record {seq}: {missing} cut off, or archived (then give \
                 --after)"
            );
            place(self, FindingKind::Cut, expected, what);
        } else if self.appears_later(expected) {
            let what = format!("record {seq} stands where record {expected} should be");
            place(self, FindingKind::Reordered, seq, what);
        } else {
            place(self, FindingKind::Dropped, expected, format!("{missing} missing here"));
        }
        true
    }

    /// What the records about the log itself say.
    fn check_event(&mut self, line: &Line, seq: u64, event: &LogEvent) {
        let mut found = |what: String| {
            self.out.add(FindingKind::Recorded, line.segment, line.number, Some(seq), what);
        };
        match event.name.as_str() {
            TAMPERED => found(format!("ssefs recorded then: {}", event.finding)),
            CREATED | CHECKPOINT if self.log_id.as_ref().is_some_and(|id| *id != event.log_id) => {
                found("the record belongs to another log of this keystore".to_owned());
            }
            CREATED if seq != 1 => found("a log begins within the log".to_owned()),
            NOT_WRITTEN => self.out.note(format!(
                "before record {seq}, {} records were not written (best effort)",
                event.count
            )),
            _ => {}
        }
    }

    /// Whether this is the machine of the log, and was started anew since it had this id.
    fn machine_crashed(&self, boot_id: [u8; 16]) -> bool {
        let now = Surroundings::of_this_machine().map(|machine| machine.boot_id);
        self.in_place && now.is_ok_and(|now| now != boot_id)
    }

    /// What is written, but not in the chain yet.
    fn check_left_behind(&mut self, trust: &Trust<'_>) -> Result<(), KeyError> {
        if self.expectation.archive {
            return Ok(());
        }
        let Some(left) = self.picture.left_behind()? else {
            self.anchor("the file of what waits to become records was altered");
            return Ok(());
        };
        let authentic = match (trust, &left.head) {
            (Trust::Keystore(keystore), Some(head)) => {
                pending::authentic(head, &left.put, keystore.audit_key())
            }
            _ => left.put.len(),
        };
        let count = left.records(authentic).len();
        if count > 0 {
            self.out.note(format!(
                "{count} records of a process that died wait in the file `pending`; the next use \
                 of the log puts them into it"
            ));
        }
        if authentic == left.put.len() {
            return Ok(());
        }
        if left.head.is_some_and(|head| self.machine_crashed(head.boot_id)) {
            self.out.note("what waits to become records is torn by a crash of the machine".into());
        } else {
            let what = "what waits to become a record was altered".to_owned();
            self.found(FindingKind::Altered, 0, 0, None, what);
        }
        Ok(())
    }

    /// The end against the head.
    fn check_end(&mut self) {
        self.out.last = (self.out.records > 0).then_some(self.last);
        let (segment, line) = self.segment.unwrap_or((0, 0));
        if self.expectation.archive {
            if self.out.signed_seq != Some(self.last.seq) {
                let what = "archived segments must end in a signed checkpoint".to_owned();
                self.found(FindingKind::Cut, segment, line, Some(self.last.seq), what);
            }
            return;
        }
        let Some(head) = self.head else { return };
        if head.link.seq <= self.last.seq {
            return;
        }
        let (first, last) = (self.last.seq + 1, head.link.seq);
        if self.machine_crashed(head.boot_id) && self.last.seq >= head.synced_seq {
            self.out.note(format!(
                "the records {first} to {last} were lost in a crash of the machine; the next use \
                 of the log will record it"
            ));
            return;
        }
        let gone = match head.segment {
            there if there <= segment => String::new(),
            gone => format!(", segment {gone} is missing"),
        };
        let what = format!("the log ended with record {last}: {first} to {last} were cut{gone}");
        self.found(FindingKind::Cut, segment, line + 1, Some(first), what);
    }

    /// Whether a torn line is what a process that died left behind: then nothing acknowledged is
    /// missing.
    fn is_unfinished(&self, line: &Line) -> bool {
        let newest = self.picture.segments.last().map(|&(number, _)| number);
        let acknowledged = self.head.map_or(u64::MAX, |head| head.link.seq);
        newest == Some(line.segment) && acknowledged <= self.last.seq && !self.tainted
    }

    /// Whether a record of this number stands anywhere. Not looked for once no more findings are
    /// listed, so that a log in disorder is not read once for each of its lines.
    fn appears_later(&self, seq: u64) -> bool {
        if self.out.findings.len() >= MAX_FINDINGS {
            return false;
        }
        let mut lines = self.picture.lines().filter_map(Result::ok);
        lines.any(|line| Frame::parse(&line.bytes).is_some_and(|frame| frame.seq == seq))
    }

    fn altered(&mut self, line: &Line, seq: u64) {
        let what = "the record is not as it was written".to_owned();
        self.found(FindingKind::Altered, line.segment, line.number, Some(seq), what);
    }

    fn anchor(&mut self, what: &str) {
        self.found(FindingKind::Anchor, 0, 0, None, what.to_owned());
    }

    fn found(
        &mut self,
        kind: FindingKind,
        segment: u32,
        line: u64,
        seq: Option<u64>,
        what: String,
    ) {
        self.out.add(kind, segment, line, seq, what);
    }

    fn go_on(&mut self, seq: u64, hash: [u8; 32], tainted: bool) {
        self.last = Link { seq, hash };
        self.tainted = tainted;
    }
}

impl Verification {
    /// Whether nothing is wrong.
    pub fn is_clean(&self) -> bool {
        self.findings.is_empty()
    }

    fn note(&mut self, note: String) {
        if self.notes.len() < MAX_NOTES {
            self.notes.push(note);
        }
    }

    fn add(&mut self, kind: FindingKind, segment: u32, line: u64, seq: Option<u64>, what: String) {
        if self.findings.len() < MAX_FINDINGS {
            self.findings.push(Finding { kind, segment, line, seq, what });
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.segment > 0 {
            write!(f, "segment {}", self.segment)?;
            if self.line > 0 {
                write!(f, ", line {}", self.line)?;
            }
            if let Some(seq) = self.seq {
                write!(f, ", record {seq}")?;
            }
            f.write_str(": ")?;
        }
        write!(f, "{}: {}", self.kind.name(), self.what)
    }
}

impl FindingKind {
    /// Its name, in one word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Altered => "altered",
            Self::Dropped => "dropped",
            Self::Reordered => "reordered",
            Self::Cut => "cut",
            Self::Anchor => "anchor",
            Self::Recorded => "recorded",
        }
    }
}

/// What a record about the log itself says.
struct LogEvent {
    name: String,
    finding: String,
    log_id: String,
    count: u64,
    lost: Option<(u64, u64)>,
}

impl LogEvent {
    /// `None` for records about keys.
    fn parse(line: &[u8]) -> Option<Self> {
        if !line.get(SOURCE_AT..)?.starts_with(LOG_SOURCE.as_bytes()) {
            return None;
        }
        let record: serde_json::Value = serde_json::from_slice(line).ok()?;
        let data = &record["additionalEventData"];
        let text = |name: &str| data[name].as_str().unwrap_or_default().to_owned();
        Some(Self {
            name: record["eventName"].as_str()?.to_owned(),
            finding: text("finding"),
            log_id: text("logId"),
            count: data["count"].as_u64().unwrap_or(0),
            lost: data["firstLost"].as_u64().zip(data["lastLost"].as_u64()),
        })
    }
}

/// More are not listed.
pub const MAX_FINDINGS: usize = 20;
const MAX_NOTES: usize = 1000;
