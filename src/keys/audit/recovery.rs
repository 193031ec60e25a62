//! Finding the end of the log: at the start, after other processes have appended, after a crash,
//! and where somebody has changed it. It owns the difference between the three kinds of loss:
//! the torn last line of a process that died, records that a crash of the machine took before
//! they were synced, and everything else, which is tampering. Each is recorded in the log.

use std::collections::BTreeMap;
use std::sync::Arc;

use data_encoding::HEXLOWER;
use rustix::fs::{fsync, ftruncate};
use serde_json::{Value, json};

use super::appender::{Appender, Tail, failed};
use super::frame::{Frame, Link};
use super::head::Head;
use super::place::{FoundHead, read_from};
use super::registration::to_pem;
use crate::crypto::{MacKey, sha256};
use crate::keys::error::KeyError;

/// The records of a stretch of a segment, as far as they are whole and follow each other.
struct Scan {
    /// The last of them.
    link: Option<Link>,
    /// Their length together.
    len: usize,
    /// The length of the last line.
    line_len: usize,
    /// The last that is a signed checkpoint.
    checkpoint_seq: Option<u64>,
    end: ScanEnd,
}

#[derive(Debug, PartialEq, Eq)]
enum ScanEnd {
    /// Nothing follows.
    Whole,
    /// The beginning of a line follows.
    Torn,
    /// A line follows that is not the next record.
    Foreign,
}

impl Appender {
    /// Reads what others have appended since.
    pub(super) fn catch_up(&mut self) -> Result<(), KeyError> {
        let tail = self.tail.take().expect("the log was entered");
        let len = read_from(&tail.file, tail.size).map(|bytes| bytes.len());
        if len.map_err(|error| failed(self.place(), &tail, error))? == 0 {
            // Somebody cut it.
            return self.load();
        }
        if let FoundHead::Is(head) = self.place().read_head(&self.keys.mac)? {
            self.synced_seq = self.synced_seq.max(head.synced_seq);
        }
        self.follow(tail, self.surroundings.boot_id)
    }

    /// Finds the end of the log, beginning it if there is none, and records what was lost.
    pub(super) fn load(&mut self) -> Result<(), KeyError> {
        let segments = self.place().segments()?;
        match (self.place().read_head(&self.keys.mac)?, segments.last()) {
            (FoundHead::Is(head), _) => {
                self.synced_seq = head.synced_seq;
                match self.resume(&head)? {
                    Some(tail)
                        if head.boot_id == self.surroundings.boot_id
                            || head.synced_seq >= head.link.seq =>
                    {
                        self.follow(tail, head.boot_id)
                    }
                    tail => self.recover(&head, tail),
                }
            }
            (FoundHead::Absent, None) if self.keys.begun => {
                self.begin()?;
                self.note_tampering("the log was removed as a whole")
            }
            (FoundHead::Absent, None) => self.begin(),
            (FoundHead::Absent, Some(1)) if !self.keys.begun => self.finish_beginning(),
            (FoundHead::Absent, _) => self.go_on_after_tampering(None, "the head was removed"),
            (FoundHead::Damaged, _) => self.go_on_after_tampering(None, "the head was altered"),
        }
    }

    /// Records that the log was changed by others than ssefs.
    pub(super) fn note_tampering(&mut self, what: &str) -> Result<(), KeyError> {
        log::error!("{}: the audit log was tampered with: {what}", self.path().display());
        self.append_own(TAMPERED, &BTreeMap::from([("finding", json!(what))]))
    }

    /// The first record of a new log.
    fn begin(&mut self) -> Result<(), KeyError> {
        self.place().publish_key(&self.keys)?;
        let file = Arc::new(self.place().create_segment(1)?);
        self.synced_seq = 0;
        let link = Link::START;
        let tail = Tail { segment: 1, file, size: 0, line_len: 0, link, checkpoint_seq: 0 };
        self.tail = Some(tail);
        let additional = BTreeMap::from([
            ("logId", json!(self.keys.log_id)),
            ("signingKeyId", json!(self.keys.signer_id)),
            ("publicKey", json!(to_pem(&self.keys.signer.verifying_key()))),
        ]);
        self.append_own(CREATED, &additional)?;
        // The head's file must be whole on the medium before it is rewritten in place.
        for file in [&self.tail().file, &self.place().head_file()] {
            fsync(file).map_err(|error| failed(self.place(), self.tail(), error))?;
        }
        self.synced_seq = self.tail().link.seq;
        Ok(())
    }

    /// Goes on where a process was killed while it began the log.
    fn finish_beginning(&mut self) -> Result<(), KeyError> {
        let begun = self.place().open_segment(1)?;
        let bytes = begun.map(|file| read_from(&file, 0)).transpose();
        let bytes = bytes.map_err(|source| KeyError::Io { path: self.path(), source })?;
        let bytes = bytes.unwrap_or_default();
        let scan = Scan::of(&bytes, Some(Link::START), &self.keys.mac);
        let only_created = scan.link.is_none_or(|link| link.seq == 1);
        if only_created && scan.end != ScanEnd::Foreign {
            return self.begin();
        }
        self.go_on_after_tampering(None, "the head was removed")
    }

    /// The end that the head tells, if it is there.
    fn resume(&self, head: &Head) -> Result<Option<Tail>, KeyError> {
        let Some(file) = self.place().open_segment(head.segment)? else { return Ok(None) };
        let tail = Tail {
            segment: head.segment,
            file: Arc::new(file),
            size: head.size,
            line_len: head.line_len,
            link: head.link,
            checkpoint_seq: head.checkpoint_seq,
        };
        if head.line_len == 0 {
            return Ok(Some(tail));
        }
        let start = head.size.saturating_sub(head.line_len);
        let bytes = read_from(&tail.file, start);
        let bytes = bytes.map_err(|error| failed(self.place(), &tail, error))?;
        let line = usize::try_from(head.line_len).ok().and_then(|len| bytes.get(..len));
        Ok(line.filter(|line| sha256(line) == head.link.hash).map(|_| tail))
    }

    /// Follows the chain from `tail` to its end. `boot_id` is that of the head.
    fn follow(&mut self, mut tail: Tail, boot_id: [u8; 16]) -> Result<(), KeyError> {
        loop {
            let bytes = read_from(&tail.file, tail.size);
            let bytes = bytes.map_err(|error| failed(self.place(), &tail, error))?;
            let scan = Scan::of(&bytes, Some(tail.link), &self.keys.mac);
            tail.advance(&scan);
            let rest = &bytes[scan.len..];
            match scan.end {
                ScanEnd::Whole => match self.place().open_segment(tail.segment + 1)? {
                    Some(file) => {
                        let (segment, file) = (tail.segment + 1, Arc::new(file));
                        tail = Tail { segment, file, size: 0, line_len: 0, ..tail };
                    }
                    None => {
                        self.tail = Some(tail);
                        return Ok(());
                    }
                },
                ScanEnd::Torn => return self.repair(tail, rest),
                // Before a crash of the machine pages may have been written in any order.
                ScanEnd::Foreign if boot_id != self.surroundings.boot_id => {
                    cut(&tail).map_err(|error| failed(self.place(), &tail, error))?;
                    return self.repair(tail, rest);
                }
                ScanEnd::Foreign => {
                    let seq = tail.link.seq;
                    let what = format!("what follows record {seq} is not the next record");
                    return self.go_on_after_tampering(Some(seq), &what);
                }
            }
        }
    }

    /// Puts a record that tells of it over the torn line of a process that died. A torn line has
    /// no end of line, so what a death in between leaves of it is again a torn line.
    fn repair(&mut self, tail: Tail, torn: &[u8]) -> Result<(), KeyError> {
        log::warn!(
            "{}: {} bytes of an unfinished record are cut off",
            self.place().path_of(tail.segment).display(),
            torn.len()
        );
        self.tail = Some(tail);
        self.append_own(REPAIRED, &told_of_cut(torn))?;
        cut(self.tail()).map_err(|error| failed(self.place(), self.tail(), error))
    }

    /// The head's record is not where the head says: lost in a crash of the machine, or taken. Or
    /// the machine was started anew, and what was not synced may have been lost anywhere.
    fn recover(&mut self, head: &Head, at_head: Option<Tail>) -> Result<(), KeyError> {
        let same_boot = head.boot_id == self.surroundings.boot_id;
        let Some(file) = self.place().open_segment(head.segment)? else {
            let what = format!("segment {} was removed", head.segment);
            return self.go_on_after_tampering(Some(head.link.seq), &what);
        };
        let mut tail = self.at_start_of(head.segment, file)?;
        let bytes = read_from(&tail.file, 0);
        let bytes = bytes.map_err(|error| failed(self.place(), &tail, error))?;
        let scan = Scan::of(&bytes, tail.link.follows_nothing(), &self.keys.mac);
        tail.advance(&scan);
        if let Some(at_head) = at_head.filter(|at_head| tail.size >= at_head.size) {
            return self.follow(at_head, head.boot_id);
        }
        let reached = tail.link.seq;
        if same_boot || reached < head.synced_seq || reached >= head.link.seq {
            let what = format!(
                "the log ended with record {}, whose line is not there any more",
                head.link.seq
            );
            return self.go_on_after_tampering(Some(head.link.seq), &what);
        }
        let (first, last) = (reached + 1, head.link.seq);
        log::warn!(
            "{}: the audit records {first} to {last} were lost in a crash of the machine",
            self.path().display()
        );
        cut(&tail).map_err(|error| failed(self.place(), &tail, error))?;
        let mut additional = told_of_cut(&bytes[scan.len..]);
        additional.insert("firstLost", json!(first));
        additional.insert("lastLost", json!(last));
        self.tail = Some(tail);
        self.note_lost(last, &additional)
    }

    /// Records that the records up to `last` were lost, and counts on after them.
    pub(super) fn note_lost(
        &mut self,
        last: u64,
        additional: &BTreeMap<&'static str, Value>,
    ) -> Result<(), KeyError> {
        let skip_to = |appender: &mut Self, seq| {
            let skipped = appender.tail.as_mut().map(|tail| &mut tail.link.seq);
            skipped.map_or(seq, |place| std::mem::replace(place, seq))
        };
        let reached = skip_to(self, last);
        let told = self.append_own(LOST, additional);
        if told.is_err() && self.tail.is_some() {
            // Else nothing would explain the jump.
            skip_to(self, reached);
            if self.refresh_head().is_err() {
                self.tail = None;
            }
        }
        told
    }

    /// The beginning of a segment: its predecessor's last record, as far as that is there.
    fn at_start_of(&self, segment: u32, file: rustix::fd::OwnedFd) -> Result<Tail, KeyError> {
        let before = match segment.checked_sub(1) {
            Some(before) => self.place().open_segment(before)?,
            None => None,
        };
        let bytes = before.map(|file| read_from(&file, 0)).transpose();
        let bytes = bytes.map_err(|source| KeyError::Io { path: self.path(), source })?;
        let scan = Scan::of(&bytes.unwrap_or_default(), None, &self.keys.mac);
        Ok(Tail {
            segment,
            file: Arc::new(file),
            size: 0,
            line_len: 0,
            link: scan.link.unwrap_or(Link::START),
            checkpoint_seq: scan.checkpoint_seq.unwrap_or(0),
        })
    }

    /// Goes on after whatever is there, without touching it, and records that it was tampered
    /// with. Numbers go on after `known_seq` or what is found, whichever is later.
    fn go_on_after_tampering(
        &mut self,
        known_seq: Option<u64>,
        what: &str,
    ) -> Result<(), KeyError> {
        let segments = self.place().segments()?;
        let head = match self.place().read_head(&self.keys.mac)? {
            FoundHead::Is(head) => Some(head),
            FoundHead::Absent | FoundHead::Damaged => None,
        };
        let head_segment = head.map_or(0, |head| head.segment);
        let newest = segments.last().copied().filter(|&newest| newest >= head_segment);
        let mut torn = Vec::new();
        let mut tail = match newest {
            Some(segment) => {
                let file = self.place().open_segment(segment)?.ok_or_else(|| KeyError::Audit {
                    path: self.place().path_of(segment),
                    problem: "was removed at this moment".into(),
                })?;
                let mut tail = self.at_start_of(segment, file)?;
                let bytes = read_from(&tail.file, 0);
                let mut bytes = bytes.map_err(|error| failed(self.place(), &tail, error))?;
                let whole = bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
                torn = bytes.split_off(whole);
                tail.go_to_end(&bytes, &self.keys.mac);
                tail
            }
            None => {
                let segment = head_segment + 1;
                let file = Arc::new(self.place().create_segment(segment)?);
                let link = head.map_or(Link::START, |head| head.link);
                let checkpoint_seq = head.map_or(0, |head| head.checkpoint_seq);
                Tail { segment, file, size: 0, line_len: 0, link, checkpoint_seq }
            }
        };
        tail.link.seq = tail.link.seq.max(known_seq.unwrap_or(0));
        if torn.is_empty() {
            self.tail = Some(tail);
        } else {
            self.repair(tail, &torn)?;
        }
        self.note_tampering(what)
    }
}

impl Tail {
    fn advance(&mut self, scan: &Scan) {
        let Some(link) = scan.link else { return };
        self.link = link;
        self.size += scan.len as u64;
        self.line_len = scan.line_len as u64;
        self.checkpoint_seq = scan.checkpoint_seq.unwrap_or(self.checkpoint_seq);
    }

    /// Goes behind the last of these lines, valid or not.
    fn go_to_end(&mut self, lines: &[u8], mac_key: &MacKey) {
        for line in lines.split_inclusive(|&byte| byte == b'\n') {
            if let Some(frame) = Frame::parse(line).filter(|frame| frame.is_authentic(mac_key)) {
                self.link.seq = self.link.seq.max(frame.seq);
                if frame.is_signed() {
                    self.checkpoint_seq = frame.seq;
                }
            }
            self.link.hash = sha256(line);
            self.line_len = line.len() as u64;
        }
        self.size = lines.len() as u64;
    }
}

impl Link {
    /// The link to follow, unless nothing is known.
    fn follows_nothing(self) -> Option<Self> {
        (self != Self::START).then_some(self)
    }
}

impl Scan {
    /// Of `bytes`, which follow `link`; `None` takes the first record as it is. A jump in the
    /// numbers is a record's own business: only who has the MAC's key can make one.
    fn of(bytes: &[u8], link: Option<Link>, mac_key: &MacKey) -> Self {
        let mut scan =
            Self { link: None, len: 0, line_len: 0, checkpoint_seq: None, end: ScanEnd::Whole };
        let mut last = link;
        for line in bytes.split_inclusive(|&byte| byte == b'\n') {
            if !line.ends_with(b"\n") {
                scan.end = ScanEnd::Torn;
                break;
            }
            let follows = |frame: &Frame<'_>| {
                let linked =
                    last.is_none_or(|last| frame.seq > last.seq && frame.prev_hash == last.hash);
                linked && frame.is_authentic(mac_key)
            };
            let Some(frame) = Frame::parse(line).filter(follows) else {
                scan.end = ScanEnd::Foreign;
                break;
            };
            let link = Link { seq: frame.seq, hash: sha256(line) };
            last = Some(link);
            scan.link = last;
            scan.len += line.len();
            scan.line_len = line.len();
            if frame.is_signed() {
                scan.checkpoint_seq = Some(frame.seq);
            }
        }
        scan
    }
}

/// Cuts off what follows the tail.
fn cut(tail: &Tail) -> rustix::io::Result<()> {
    ftruncate(&tail.file, tail.size)
}

pub(super) fn told_of_cut(bytes: &[u8]) -> BTreeMap<&'static str, Value> {
    BTreeMap::from([
        ("bytesCut", json!(bytes.len())),
        ("sha256OfCut", json!(HEXLOWER.encode(&sha256(bytes)))),
    ])
}

/// The first record.
pub(super) const CREATED: &str = "AuditLogCreated";
/// A torn line was cut off.
pub(super) const REPAIRED: &str = "AuditLogRepaired";
/// Records were lost in a crash of the machine.
pub(super) const LOST: &str = "AuditRecordsLost";
/// The log was changed by others.
pub(super) const TAMPERED: &str = "AuditLogTampered";
/// Under `best_effort`, how many records are missing before this one.
pub(super) const NOT_WRITTEN: &str = "AuditRecordsNotWritten";
