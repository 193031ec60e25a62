//! Records of a burst on their way into the chain. While this process keeps the log's lock, a
//! record is put into the file `pending` with a few stores to memory: there it outlives the
//! process, so that its key may be used. Hashing it and writing it into the log are left to the
//! thread that keeps the lock, for many at once. Whoever takes the lock next after a process was
//! killed finds what is still in the file.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::fstat;

use super::appender::FRAME_LEN;
use super::body::{Moment, SOURCE_AT};
use super::pending::{self, FILE_LEN, HEAD_LEN, LEN_LEN, PendingHead, PendingKey};
use super::template::Template;
use crate::crypto::Secret;
use crate::format::FileId;
use crate::sys::fail_point;
use crate::sys::shared_file::SharedFile;

/// What a process puts into the file.
#[derive(Default)]
pub(super) struct Burst {
    /// Taken for a few copies at a time, alone or while the log's writer is held.
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    file: Option<Pending>,
    /// While the lock is kept and records may be put.
    open: Option<Open>,
    /// Where a record is put together.
    record: Vec<u8>,
    /// All that was put, as it stands in the file: who can write to that has no way from there
    /// into the log.
    put: Vec<u8>,
}

/// The file, as this process uses it.
struct Pending {
    file: Arc<OwnedFd>,
    shared: SharedFile,
    head: PendingHead,
    key: PendingKey,
    /// Records put so far.
    counter: u64,
}

struct Open {
    /// Whether no more are taken: what is there is about to be written into the log.
    closed: bool,
    next_seq: u64,
    /// The template that was put last.
    template: Option<u64>,
    /// Where the next record is put, and from where on they are not in the log.
    end: usize,
    taken: usize,
    /// How many bytes the log's segment still takes.
    left: u64,
    last: Instant,
}

impl Burst {
    /// From now on records may be put, the first with the number `next_seq`, as long as `left`
    /// bytes of the log's segment last. False where the file cannot be used that way.
    pub(super) fn open(
        &self,
        file: &Arc<OwnedFd>,
        audit_key: &Secret,
        boot_id: [u8; 16],
        next_seq: u64,
        left: u64,
    ) -> bool {
        let mut state = self.state();
        let same = state.file.as_ref().is_some_and(|pending| Arc::ptr_eq(&pending.file, file));
        if !same {
            state.file = Pending::new(file, audit_key, boot_id)
                .inspect_err(|error| log::debug!("the audit log's file `pending`: {error}"))
                .ok();
        }
        let ready = state.file.as_mut().is_some_and(Pending::make_ready);
        state.put.clear();
        state.open = ready.then(|| Open {
            closed: false,
            next_seq,
            template: None,
            end: HEAD_LEN,
            taken: HEAD_LEN,
            left,
            last: Instant::now(),
        });
        ready
    }

    /// Puts a record, an object of JSON without its closing brace, where it outlives the process.
    /// False if there is no burst, or no room in it.
    pub(super) fn put(&self, body: &[u8]) -> bool {
        let mut state = self.state();
        let put = state.put(1, body.len(), |out| out.extend_from_slice(body));
        drop(state);
        fail_point::hit("audit.burst.after_put");
        put
    }

    /// The same of a record from a template.
    pub(super) fn put_like(
        &self,
        template: &Template,
        moment: Moment,
        file: FileId,
        path: &Path,
    ) -> bool {
        if template.len() > pending::LONGEST_TEMPLATE {
            return false;
        }
        let mut state = self.state();
        let known = state.open.as_ref().is_some_and(|open| open.template == Some(template.id));
        if !known {
            if !state.put(0, 0, |out| pending::write_template(out, template)) {
                return false;
            }
            state.open.as_mut().expect("it was put there").template = Some(template.id);
        }
        // A byte may take six in the log.
        let len = SOURCE_AT + template.len() + 6 * path.as_os_str().len();
        let put = state.put(1, len, |out| pending::write_like(out, moment, file, path));
        drop(state);
        fail_point::hit("audit.burst.after_put");
        put
    }

    /// Whether records may be put, or some are not in the log yet.
    pub(super) fn is_open(&self) -> bool {
        self.state().open.is_some()
    }

    /// When the last record was put in this burst, or it began; `None` if there is none.
    pub(super) fn last(&self) -> Option<Instant> {
        self.state().open.as_ref().map(|open| open.last)
    }

    /// If all that was put is in the log, makes room for as much again, before which `between`
    /// appends to the log and tells how many records. False if something waits, or the burst
    /// has to end.
    pub(super) fn rewind(&self, between: impl FnOnce() -> u64) -> bool {
        let mut state = self.state();
        let State { file: Some(pending), open: Some(open), put, .. } = &mut *state else {
            return false;
        };
        if open.closed || open.taken < open.end {
            return false;
        }
        pending.shared.publish(HEAD_LEN, 0);
        put.clear();
        (open.end, open.taken, open.template) = (HEAD_LEN, HEAD_LEN, None);
        open.next_seq += between();
        pending.shared.make_writable().is_ok()
    }

    /// Copies out what is not in the log yet.
    pub(super) fn waiting(&self, out: &mut Vec<u8>) {
        let state = self.state();
        out.clear();
        if let Some(open) = &state.open {
            out.extend_from_slice(&state.put[open.taken - HEAD_LEN..]);
        }
    }

    /// The first `len` bytes of what was copied out are in the log.
    pub(super) fn note_taken(&self, len: usize) {
        if let Some(open) = &mut self.state().open {
            open.taken += len;
        }
    }

    /// No more are taken.
    pub(super) fn close(&self) {
        if let Some(open) = &mut self.state().open {
            open.closed = true;
        }
    }

    /// Ends the burst, and tells when the last record was put. Unless all that was put is in the
    /// log, it stays in the file.
    pub(super) fn end(&self) -> Option<Instant> {
        let mut state = self.state();
        let open = state.open.take()?;
        if let Some(pending) = &mut state.file
            && open.taken == open.end
        {
            pending.shared.publish(HEAD_LEN, 0);
        }
        Some(open.last)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Puts what `write` appends, and counts it as so many records, whose bodies have `len` bytes
    /// in the log at most.
    fn put(&mut self, records: u64, len: usize, write: impl FnOnce(&mut Vec<u8>)) -> bool {
        let Self { file: Some(pending), open: Some(open), record, put } = self else {
            return false;
        };
        if open.closed {
            return false;
        }
        let counter = pending.counter + 1;
        let body_len = pending.key.complete(record, counter, open.next_seq, write);
        let len = records * (len as u64 + FRAME_LEN);
        if open.left < len || open.end + LEN_LEN + record.len() > FILE_LEN {
            // With this counter nothing else may be authenticated, nor may one be missing.
            (pending.counter, open.closed) = (counter, true);
            return false;
        }
        pending.shared.write(open.end + LEN_LEN, record);
        pending.shared.publish(open.end, body_len);
        put.extend_from_slice(&u64::from(body_len).to_le_bytes());
        put.extend_from_slice(&record[..record.len() - LEN_LEN]);
        pending.counter = counter;
        open.end += record.len();
        open.next_seq += records;
        open.left -= len;
        open.last = Instant::now();
        true
    }
}

impl Pending {
    fn new(file: &Arc<OwnedFd>, audit_key: &Secret, boot_id: [u8; 16]) -> io::Result<Self> {
        let shared = SharedFile::new(file.as_fd(), FILE_LEN)?;
        let head = PendingHead::new(boot_id);
        Ok(Self { file: Arc::clone(file), shared, key: head.key(audit_key), head, counter: 0 })
    }

    /// Makes the file, which holds nothing, this process's own. False where it is not there any
    /// more, or takes nothing.
    fn make_ready(&mut self) -> bool {
        let whole = fstat(&self.file).is_ok_and(|stat| {
            stat.st_nlink > 0 && usize::try_from(stat.st_size).is_ok_and(|len| len >= FILE_LEN)
        });
        let ready = whole && self.shared.make_writable().is_ok();
        if ready {
            self.shared.publish(HEAD_LEN, 0);
            self.shared.write(0, &self.head.encode());
        }
        ready
    }
}
