//! Appending to the chain, by one thread of one process at a time. It owns the order of writes:
//! the records, then the head; records that could not be written are cut off again, so that the
//! log ends in a whole record whatever fails.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::fd::OwnedFd;
use rustix::fs::{fdatasync, fstat, ftruncate};
use serde_json::{Value, json};

use super::body::write_own;
use super::burst::Burst;
use super::frame::{self, Link};
use super::head::Head;
use super::lease::Lease;
use super::pending::{Expansion, records_behind_head};
use super::place::{Place, PlaceLock, read_from, write_at};
use super::registration::LogKeys;
use super::surroundings::Surroundings;
use super::time::UtcTime;
use super::{AuditOptions, AuditSync};
use crate::keys::error::KeyError;
use crate::keys::identity::Identity;
use crate::keys::keystore::Keystore;
use crate::sys::fail_point;

/// One log, as this process appends to it.
pub(super) struct Appender {
    pub(super) keystore: Arc<Keystore>,
    pub(super) keys: LogKeys,
    pub(super) surroundings: Surroundings,
    segment_size: u64,
    /// Whether the lock may be kept over a burst of records.
    may_lease: bool,
    pub(super) lease: Lease,
    /// Whether the records of a burst may be hashed after their keys are used.
    may_defer: bool,
    pub(super) burst: Arc<Burst>,
    pub(super) own: Identity,
    pub(super) place: Option<Place>,
    /// `None` until the log was read, and after a failure that could not be undone.
    pub(super) tail: Option<Tail>,
    /// Memory for the records of a burst, as they waited and as lines.
    spare: (Vec<u8>, Vec<u8>),
    /// Of the records of this burst.
    expansion: Expansion,
    /// Records that this process appended so far.
    appended: u64,
    /// The last record known to be on stable storage.
    pub(super) synced_seq: u64,
    /// The last of them.
    own_seq: u64,
    /// When the oldest record without a checkpoint after it was seen.
    unsigned_since: Option<Instant>,
    /// Checkpoints that the system's log is still to be told.
    anchors: Vec<Link>,
}

/// The end of the log.
#[derive(Clone)]
pub(super) struct Tail {
    pub(super) segment: u32,
    pub(super) file: Arc<OwnedFd>,
    pub(super) size: u64,
    pub(super) line_len: u64,
    pub(super) link: Link,
    pub(super) checkpoint_seq: u64,
}

/// What is to be synced: how far this process had come, and in which file.
pub(super) struct Unsynced {
    pub(super) appended: u64,
    pub(super) file: Arc<OwnedFd>,
    segment: u32,
    seq: u64,
}

impl Appender {
    pub(super) fn new(
        keystore: Arc<Keystore>,
        keys: LogKeys,
        surroundings: Surroundings,
        options: &AuditOptions,
    ) -> Self {
        Self {
            keystore,
            keys,
            surroundings,
            segment_size: options.segment_size,
            may_lease: options.lease,
            lease: Lease::new(),
            may_defer: options.lease && matches!(options.sync, AuditSync::Interval(_)),
            burst: Arc::default(),
            own: Identity::own(),
            place: None,
            tail: None,
            spare: Default::default(),
            expansion: Expansion::default(),
            appended: 0,
            own_seq: 0,
            synced_seq: 0,
            unsigned_since: None,
            anchors: Vec::new(),
        }
    }

    /// Takes the lock and reads what others have appended meanwhile; nothing of that while the
    /// lock is kept, then there is none to give back. With `thorough` it is also made sure that
    /// the files are still those of the keystore.
    pub(super) fn enter(&mut self, thorough: bool) -> Result<Option<PlaceLock>, KeyError> {
        if self.lease.is_held() {
            let goes_on = !thorough && self.tail.is_some() && !self.burst.is_open();
            if goes_on && !self.lease.is_over(Instant::now()) {
                return Ok(None);
            }
            self.end_lease();
        }
        loop {
            let place = match self.place.take() {
                Some(place) => place,
                None => {
                    self.tail = None;
                    Place::open(&self.keystore)?
                }
            };
            let lock = place.lock()?;
            if lock.was_waited_for() {
                self.lease.note_others(Instant::now());
            }
            if let Some(tail) = &self.tail {
                let stat = fstat(&tail.file).map_err(|error| failed(&place, tail, error))?;
                let removed = stat.st_nlink == 0
                    || (thorough && !place.holds(&self.keystore, tail.segment, &tail.file));
                if removed {
                    log::warn!(
                        "{}: the audit log was moved",
                        place.path_of(tail.segment).display()
                    );
                    continue;
                }
                let known = u64::try_from(stat.st_size).is_ok_and(|size| size == tail.size);
                self.place = Some(place);
                if !known {
                    self.lease.note_others(Instant::now());
                    self.catch_up()?;
                }
            } else {
                self.place = Some(place);
                self.load()?;
            }
            self.take_in_pending()?;
            return Ok(Some(lock));
        }
    }

    /// Gives the lock back, or keeps it if records come in a burst. Whether a lease has begun,
    /// which somebody then has to end.
    pub(super) fn leave(&mut self, lock: Option<PlaceLock>) -> bool {
        let now = Instant::now();
        match lock {
            Some(lock) if self.may_lease => {
                let begun = self.lease.begin(lock, now);
                if begun && self.may_defer && self.tail.is_some() {
                    self.open_burst();
                }
                begun
            }
            Some(_) => false,
            None => {
                self.lease.note_record(now);
                false
            }
        }
    }

    /// Ends the lease if it is over; else it is to be looked at again after what is returned.
    pub(super) fn goes_on_leasing(&mut self) -> Option<Duration> {
        let now = Instant::now();
        if let Some(left) = self.lease.pause(now).filter(|left| !left.is_zero()) {
            return Some(left);
        }
        if !self.goes_on_in_burst(now) {
            self.end_lease();
        }
        self.lease.pause(now)
    }

    /// Takes in the records of a burst while others are put, fewer each time. Whether the lock
    /// may be kept for more of them.
    fn goes_on_in_burst(&mut self, now: Instant) -> bool {
        if !self.burst.is_open() {
            return false;
        }
        for _ in 0..PASSES {
            if self.tail.is_some()
                && let Err(error) = self.take_in_burst()
            {
                log::warn!("{error}");
            }
        }
        let wanted = self.tail.is_some() && !self.place().is_waited_for();
        if !wanted || !self.lease.prolong(now, self.burst.last()) {
            return false;
        }
        let burst = Arc::clone(&self.burst);
        burst.rewind(|| {
            let due = self.unsigned() >= CHECKPOINT_RECORDS;
            // If it fails, the next record of its own tries again.
            u64::from(due && self.checkpoint("records").is_ok())
        })
    }

    /// Lets the lock go, with the head in its place; first to those who wait for it.
    pub(super) fn end_lease(&mut self) {
        self.burst.close();
        if self.lease.is_held() && self.tail.is_some() {
            let written = self.take_in_burst().and_then(|()| self.refresh_head().map(drop));
            if let Err(error) = written.and_then(|()| self.tail_stands()) {
                log::warn!("{error}");
                // What became of it is found out before the next record.
                self.tail = None;
            }
        }
        if let Some(last) = self.burst.end() {
            self.lease.note_record(last);
        }
        self.lease.end();
        if let Some(place) = self.place.as_ref().filter(|place| place.is_waited_for()) {
            self.lease.note_others(Instant::now());
            place.give_way();
        }
    }

    /// Appends a record, in a new segment if this one is full.
    pub(super) fn append(&mut self, body: &mut Vec<u8>) -> Result<(), KeyError> {
        let tail = self.tail();
        let size = tail.size + body.len() as u64 + FRAME_LEN;
        if tail.size > 0 && size > self.segment_size {
            self.rotate()?;
        }
        self.push(body, false)?;
        if self.unsigned() >= CHECKPOINT_RECORDS
            && let Err(error) = self.checkpoint("records")
        {
            // The record itself stands; the next one tries again.
            log::warn!("{error}");
        }
        Ok(())
    }

    /// Appends what happened to the log itself.
    pub(super) fn append_own(
        &mut self,
        name: &str,
        additional: &BTreeMap<&'static str, Value>,
    ) -> Result<(), KeyError> {
        let mut body = write_own(name, &self.own, UtcTime::now(), additional);
        self.push(&mut body, false)
    }

    /// Signs how far the chain has come.
    pub(super) fn checkpoint(&mut self, reason: &str) -> Result<(), KeyError> {
        let additional = BTreeMap::from([
            ("logId", json!(self.keys.log_id)),
            ("signingKeyId", json!(self.keys.signer_id)),
            ("reason", json!(reason)),
        ]);
        let mut body = write_own(CHECKPOINT, &self.own, UtcTime::now(), &additional);
        self.push(&mut body, true)?;
        self.anchors.push(self.tail().link);
        Ok(())
    }

    /// Signs a checkpoint if the last one is long ago.
    pub(super) fn checkpoint_if_due(&mut self) -> Result<(), KeyError> {
        if self.unsigned() == 0 {
            self.unsigned_since = None;
            return Ok(());
        }
        let since = *self.unsigned_since.get_or_insert_with(Instant::now);
        if since.elapsed() >= CHECKPOINT_INTERVAL {
            self.checkpoint("time")?;
        }
        Ok(())
    }

    /// Records after the last checkpoint.
    pub(super) fn unsigned(&self) -> u64 {
        let tail = self.tail();
        tail.link.seq.saturating_sub(tail.checkpoint_seq)
    }

    /// Whether a record of this process has no checkpoint after it, as far as is known.
    pub(super) fn owes_checkpoint(&self) -> bool {
        self.tail.as_ref().is_none_or(|tail| self.own_seq > tail.checkpoint_seq)
    }

    /// The checkpoints that the system's log was not told yet.
    pub(super) fn take_anchors(&mut self) -> Vec<Link> {
        std::mem::take(&mut self.anchors)
    }

    /// Records that this process appended so far.
    pub(super) fn appended(&self) -> u64 {
        self.appended
    }

    /// What a sync has to cover.
    pub(super) fn unsynced(&self) -> Unsynced {
        let Tail { segment, file, link, .. } = self.tail();
        Unsynced {
            appended: self.appended,
            file: Arc::clone(file),
            segment: *segment,
            seq: link.seq,
        }
    }

    /// Notes what was synced; the head tells it from the next record on.
    pub(super) fn note_synced(&mut self, synced: &Unsynced) {
        if self.tail.as_ref().is_some_and(|tail| tail.segment >= synced.segment) {
            self.synced_seq = self.synced_seq.max(synced.seq);
        }
    }

    /// Writes the newest segment again. A sync that failed leaves pages that count as clean
    /// without being on the medium, and the next sync would not write them.
    pub(super) fn write_again(&mut self) -> Result<(), KeyError> {
        let (tail, place) = (self.tail(), self.place());
        let bytes = read_from(&tail.file, 0).map_err(|error| failed(place, tail, error))?;
        write_at(&tail.file, &bytes, 0).map_err(|error| failed(place, tail, error))
    }

    /// Writes the head as it now is.
    pub(super) fn refresh_head(&mut self) -> Result<Arc<OwnedFd>, KeyError> {
        let (tail, place) = (self.tail(), self.place());
        let head = self.head_at(tail).encode(&self.keys.mac);
        place.write_head(&head).map_err(|error| failed(place, tail, error))?;
        Ok(place.head_file())
    }

    /// Whether the log still ends where it did.
    fn tail_stands(&self) -> Result<(), KeyError> {
        let (tail, place) = (self.tail(), self.place());
        let stat = fstat(&tail.file).map_err(|error| failed(place, tail, error))?;
        match stat.st_nlink > 0 && u64::try_from(stat.st_size) == Ok(tail.size) {
            true => Ok(()),
            false => Err(KeyError::Audit {
                path: place.path_of(tail.segment),
                problem: "was changed by others".to_owned(),
            }),
        }
    }

    /// Lets records be put without a look at the log, while the lock is kept.
    fn open_burst(&mut self) {
        self.expansion = Expansion::default();
        let (tail, boot_id) = (self.tail(), self.surroundings.boot_id);
        let left = self.segment_size.saturating_sub(tail.size);
        let (file, audit_key) = (self.place().pending_file(), self.keystore.audit_key());
        if self.burst.open(file, audit_key, boot_id, tail.link.seq + 1, left) {
            self.lease.note_burst();
        }
    }

    /// Appends the records that were put.
    fn take_in_burst(&mut self) -> Result<(), KeyError> {
        let mut waiting = std::mem::take(&mut self.spare.0);
        self.burst.waiting(&mut waiting);
        let records = records_behind_head(&waiting);
        let mut appended = self.tail_stands();
        if appended.is_ok() && !records.is_empty() {
            let mut expansion = std::mem::take(&mut self.expansion);
            appended = self.append_all(records.iter(), |record, out| expansion.expand(record, out));
            self.expansion = expansion;
            fail_point::hit("audit.burst.after_append");
        }
        match appended {
            Ok(()) => self.burst.note_taken(waiting.len()),
            // What waits is read from the file, from its beginning.
            Err(_) => self.tail = None,
        }
        self.spare.0 = waiting;
        appended
    }

    /// Appends the records of which `write` appends the bodies, with one write; where it says
    /// false there is none. When this fails the log is as it was.
    pub(super) fn append_all<T>(
        &mut self,
        all: impl Iterator<Item = T>,
        mut write: impl FnMut(T, &mut Vec<u8>) -> bool,
    ) -> Result<(), KeyError> {
        let tail = self.tail.take().expect("the log was entered");
        let mut lines = std::mem::take(&mut self.spare.1);
        lines.clear();
        let (mut link, mut records, mut line_len) = (tail.link, 0, tail.line_len);
        for one in all {
            let start = lines.len();
            if write(one, &mut lines) {
                link = frame::complete(&mut lines, start, link, None, &self.keys.mac);
                line_len = (lines.len() - start) as u64;
                records += 1;
            }
        }
        let next = Tail {
            file: Arc::clone(&tail.file),
            size: tail.size + lines.len() as u64,
            line_len,
            link,
            ..tail
        };
        let written = self.write(tail, next, &lines, true);
        self.spare.1 = lines;
        written?;
        self.appended += records;
        self.unsigned_since.get_or_insert_with(Instant::now);
        Ok(())
    }

    /// Appends one line and moves the head, but not with each line of a lease. When this fails
    /// the log is as it was.
    fn push(&mut self, line: &mut Vec<u8>, signed: bool) -> Result<(), KeyError> {
        let tail = self.tail.take().expect("the log was entered");
        let signer = signed.then_some(&self.keys.signer);
        let link = frame::complete(line, 0, tail.link, signer, &self.keys.mac);
        let next = Tail {
            file: Arc::clone(&tail.file),
            size: tail.size + line.len() as u64,
            line_len: line.len() as u64,
            checkpoint_seq: if signed { link.seq } else { tail.checkpoint_seq },
            link,
            ..tail
        };
        let moves_head = self.lease.moves_head();
        self.write(tail, next, line, moves_head)?;
        self.appended += 1;
        if signed {
            self.unsigned_since = None;
        } else {
            self.unsigned_since.get_or_insert_with(Instant::now);
        }
        Ok(())
    }

    /// Writes lines at the end of the log, which from then on is at `next`. The tail was taken
    /// out: unless it is put back, the log is read anew before the next record.
    fn write(
        &mut self,
        tail: Tail,
        next: Tail,
        lines: &[u8],
        moves_head: bool,
    ) -> Result<(), KeyError> {
        let head = moves_head.then(|| self.head_at(&next).encode(&self.keys.mac));
        let place = self.place();
        let written = write_at(&tail.file, lines, tail.size)
            .and_then(|()| head.map_or(Ok(()), |head| place.write_head(&head)));
        if let Err(error) = written {
            let error = failed(place, &tail, error);
            let old = self.head_at(&tail).encode(&self.keys.mac);
            if ftruncate(&tail.file, tail.size).is_ok() && place.write_head(&old).is_ok() {
                self.tail = Some(tail);
            }
            return Err(error);
        }
        self.own_seq = next.link.seq;
        self.tail = Some(next);
        Ok(())
    }

    /// Ends the segment with a checkpoint and begins the next. A segment is only ever made right
    /// after the one before has grown, so that other processes, which watch that one, see it.
    fn rotate(&mut self) -> Result<(), KeyError> {
        self.checkpoint("rotation")?;
        let (tail, place) = (self.tail(), self.place());
        fdatasync(&tail.file).map_err(|error| failed(place, tail, error))?;
        let number = tail.segment + 1;
        let file = Arc::new(place.create_segment(number)?);
        self.synced_seq = tail.link.seq;
        let tail = self.tail.as_mut().expect("the log was entered");
        *tail = Tail { segment: number, file, size: 0, line_len: 0, ..tail.clone() };
        Ok(())
    }

    pub(super) fn head_at(&self, tail: &Tail) -> Head {
        Head {
            link: tail.link,
            segment: tail.segment,
            size: tail.size,
            line_len: tail.line_len,
            checkpoint_seq: tail.checkpoint_seq,
            synced_seq: self.synced_seq.min(tail.link.seq),
            boot_id: self.surroundings.boot_id,
        }
    }

    pub(super) fn tail(&self) -> &Tail {
        self.tail.as_ref().expect("the log was entered")
    }

    pub(super) fn place(&self) -> &Place {
        self.place.as_ref().expect("the log was entered")
    }

    /// Where the log is, for messages.
    pub(super) fn path(&self) -> PathBuf {
        self.keystore.path().join(super::place::DIR_NAME)
    }
}

/// An error at the log's end.
pub(super) fn failed(place: &Place, tail: &Tail, error: impl Into<std::io::Error>) -> KeyError {
    KeyError::Audit { path: place.path_of(tail.segment), problem: error.into().to_string() }
}

/// The name of a signed record.
pub(super) const CHECKPOINT: &str = "AuditCheckpoint";
/// What the frame of a record adds to its body, at most.
pub(super) const FRAME_LEN: u64 = 256;
/// How often the records of a burst are taken in before nothing more may be put.
const PASSES: u32 = 3;
const CHECKPOINT_RECORDS: u64 = 1000;
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(60);
