//! The audit log of a keystore: who used which key, when and for what. Records form one chain
//! over all processes that append; `AUDIT.md` beside this file gives every byte. A record is
//! written before the key is used, else the use is refused.

mod appender;
mod body;
mod burst;
mod event;
mod filter;
mod frame;
mod group_sync;
mod head;
mod lease;
mod left_behind;
mod lines;
mod pending;
mod place;
mod reader;
mod recovery;
mod registration;
mod summary;
mod surroundings;
mod template;
mod time;
mod verify;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::fdatasync;
use serde_json::json;

pub use body::escape_path;
pub use event::{Event, EventError, Target};
pub use filter::{FileFilter, Filter};
pub use frame::Link;
pub use place::DIR_NAME;
pub use reader::{AuditReader, AuditRecord, Outcome, UserIdentity};
pub use registration::{from_pem, to_pem};
pub use summary::{
    Bucket, Counts, FileSummary, Incident, KeySummary, MAX_REFUSALS, Refusal, Span, Summary,
    UserSummary,
};
pub use surroundings::Surroundings;
pub use template::Template;
pub use time::UtcTime;
pub use verify::{Expectation, Finding, FindingKind, MAX_FINDINGS, Trust, Verification, verify};

use self::appender::Appender;
use self::burst::Burst;
use self::group_sync::GroupSync;
use self::lease::Keeper;
use self::registration::LogKeys;
use self::template::LastTemplate;
use super::error::KeyError;
use super::keystore::Keystore;
use crate::format::FileId;

/// When a record is on stable storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuditSync {
    /// Before the key is used.
    Always,
    /// At the latest this long after.
    Interval(Duration),
}

/// How the log is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditOptions {
    /// When a record is on stable storage.
    pub sync: AuditSync,
    /// Whether a record that cannot be written is only logged, and the key used all the same.
    pub best_effort: bool,
    /// At which size in bytes a new segment begins.
    pub segment_size: u64,
    /// Whether the lock between processes is kept over a burst of records, for some
    /// milliseconds. For who records much and lives long.
    pub lease: bool,
}

/// The log, open for appending.
pub struct AuditLog {
    options: AuditOptions,
    /// Not held while a sync is waited for, except where a segment ends, nor together with the
    /// lock within [`GroupSync`]. The log's own lock between processes is taken within it.
    writer: Arc<Mutex<Writer>>,
    syncs: GroupSync,
    /// The writer's: records are put there without it.
    burst: Arc<Burst>,
    /// Started with the first lease, as a thread does not live on in a process that forks.
    keeper: OnceLock<Option<Keeper>>,
}

struct Writer {
    appender: Appender,
    /// When the oldest record that was not synced was written, or earlier.
    unsynced_since: Option<Instant>,
    /// How many records the head on stable storage vouches for.
    vouched: u64,
    /// When the end of the log was last looked after.
    looked: Option<Instant>,
    missed: Missed,
    complaint: Complaint,
}

/// Records that could not be written, under `best_effort`.
#[derive(Default)]
struct Missed {
    count: u64,
    since: Option<UtcTime>,
    last_problem: String,
}

/// When a failure was logged last, so that a full disk does not fill the system's log too.
#[derive(Default)]
struct Complaint {
    last: Option<Instant>,
    kept_back: u64,
}

impl AuditLog {
    /// Opens the log of `keystore`, making it at its first use; repairs a torn end. Not to be
    /// called while the keystore's lock is held.
    pub fn open(keystore: Arc<Keystore>, options: AuditOptions) -> Result<Self, KeyError> {
        let surroundings = Surroundings::of_this_machine()
            .map_err(|source| KeyError::Io { path: keystore.path().to_owned(), source })?;
        Self::open_in(keystore, options, surroundings)
    }

    /// The same on a machine that is told.
    pub fn open_in(
        keystore: Arc<Keystore>,
        options: AuditOptions,
        surroundings: Surroundings,
    ) -> Result<Self, KeyError> {
        let appender = |keys| {
            let keystore = Arc::clone(&keystore);
            Appender::new(keystore, keys, surroundings, &options)
        };
        let appender = match LogKeys::read(&keystore)? {
            Some(keys) if keys.begun => {
                let mut appender = appender(keys);
                if let Err(error) = appender.enter(false) {
                    if !options.best_effort {
                        return Err(error);
                    }
                    log::error!("{error}");
                }
                appender
            }
            _ => begin(&keystore, appender)?,
        };
        let burst = Arc::clone(&appender.burst);
        let writer = Writer {
            appender,
            unsynced_since: None,
            vouched: 0,
            looked: None,
            missed: Missed::default(),
            complaint: Complaint::default(),
        };
        Ok(Self {
            options,
            writer: Arc::new(Mutex::new(writer)),
            syncs: GroupSync::default(),
            burst,
            keeper: OnceLock::new(),
        })
    }

    /// Appends one record; it is written when this returns.
    pub fn record(&self, event: &Event<'_>) -> Result<(), KeyError> {
        self.record_line(|line, template| {
            body::write_event(line, template, event, UtcTime::now());
        })
    }

    /// The same from a template, for this file, which has this path now.
    pub fn record_from(
        &self,
        template: &Template,
        file: FileId,
        path: &Path,
    ) -> Result<(), KeyError> {
        let moment = body::Moment::at(UtcTime::now());
        if self.burst.put_like(template, moment, file, path) {
            return Ok(());
        }
        self.record_line(|line, _| body::write_like(line, template, moment, file, path))
    }

    fn record_line(
        &self,
        write: impl FnOnce(&mut Vec<u8>, &mut LastTemplate),
    ) -> Result<(), KeyError> {
        let appended = LINE.with_borrow_mut(|(line, template)| {
            line.clear();
            line.shrink_to(LONGEST_KEPT);
            write(line, template);
            self.append(line)
        });
        let written = appended.and_then(|ticket| match ticket {
            Some(ticket) => self.sync(ticket),
            None => Ok(()),
        });
        let Err(error) = written.map_err(|error| self.refused(error)) else { return Ok(()) };
        let mut writer = self.writer();
        writer.complaint.log(&error);
        if !self.options.best_effort {
            return Err(error);
        }
        writer.missed.add(&error);
        Ok(())
    }

    /// Syncs what the interval has left, and signs a checkpoint if there is something new; to be
    /// called every second or so, and at the end.
    pub fn flush(&self) -> Result<(), KeyError> {
        let written = {
            let mut writer = self.writer();
            if writer.is_at_rest() {
                return Ok(());
            }
            let entered = writer.appender.enter(true);
            let written = entered.and_then(|_lock| {
                writer.tell_missed()?;
                writer.appender.checkpoint_if_due()
            });
            writer.looked = written.is_ok().then(Instant::now);
            written
        };
        let synced = self.sync_all();
        self.send_anchors();
        written.and(synced).map_err(|error| self.refused(error))
    }

    /// Writes a record; what it returns is still to be synced.
    fn append(&self, body: &mut Vec<u8>) -> Result<Option<u64>, KeyError> {
        if self.burst.put(body) {
            return Ok(None);
        }
        let mut writer = self.writer();
        let lock = writer.appender.enter(false)?;
        writer.tell_missed()?;
        writer.appender.append(body)?;
        if writer.appender.leave(lock) {
            match self.keeper.get_or_init(|| Keeper::start(&self.writer)) {
                Some(keeper) => keeper.watch(),
                None => writer.appender.end_lease(),
            }
        }
        let ticket = writer.appender.appended();
        Ok(match self.options.sync {
            AuditSync::Always => Some(ticket),
            AuditSync::Interval(interval) => {
                let since = *writer.unsynced_since.get_or_insert_with(Instant::now);
                (since.elapsed() >= interval).then_some(ticket)
            }
        })
    }

    /// Returns once the record of this number is on stable storage. Who comes while another
    /// sync runs waits for one that covers all who wait.
    fn sync(&self, ticket: u64) -> Result<(), KeyError> {
        self.syncs.cover(ticket, |again| {
            let begun = Instant::now();
            let unsynced = {
                let mut writer = self.writer();
                let _lock = writer.appender.enter(false)?;
                if again {
                    writer.appender.write_again()?;
                }
                writer.appender.unsynced()
            };
            fdatasync(&unsynced.file).map_err(|error| self.failed(error))?;
            let mut writer = self.writer();
            writer.appender.note_synced(&unsynced);
            let later = writer.appender.appended() > unsynced.appended;
            writer.unsynced_since = later.then_some(begun);
            Ok(unsynced.appended)
        })
    }

    /// Syncs everything, then the head, which from then on vouches for it.
    fn sync_all(&self) -> Result<(), KeyError> {
        let (ticket, vouched) = {
            let writer = self.writer();
            (writer.appender.appended(), writer.vouched)
        };
        if self.syncs.is_covered(ticket) && vouched == ticket {
            return Ok(());
        }
        self.sync(ticket)?;
        let head = {
            let mut writer = self.writer();
            let _lock = writer.appender.enter(false)?;
            writer.appender.refresh_head()?
        };
        fdatasync(&head).map_err(|error| self.failed(error))?;
        self.writer().vouched = ticket;
        Ok(())
    }

    fn send_anchors(&self) {
        let (anchors, surroundings, log_id, signer_id) = {
            let mut writer = self.writer();
            let anchors = writer.appender.take_anchors();
            if anchors.is_empty() {
                return;
            }
            let Appender { surroundings, keys, .. } = &writer.appender;
            (anchors, surroundings.clone(), keys.log_id.clone(), keys.signer_id.clone())
        };
        for link in anchors {
            surroundings.anchor(link, &log_id, &signer_id);
        }
    }

    fn writer(&self) -> MutexGuard<'_, Writer> {
        // A panic has taken the tail out of the appender: it reads the log anew.
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failed(&self, error: impl ToString) -> KeyError {
        KeyError::Audit { path: self.writer().appender.path(), problem: error.to_string() }
    }

    /// Whatever it was, the record is missing.
    fn refused(&self, error: KeyError) -> KeyError {
        match error {
            KeyError::Audit { .. } => error,
            other => self.failed(other),
        }
    }
}

impl Drop for AuditLog {
    fn drop(&mut self) {
        let signed = {
            let mut writer = self.writer();
            let entered = writer.appender.enter(true);
            entered.and_then(|_lock| {
                writer.tell_missed()?;
                match writer.appender.unsigned() {
                    0 => Ok(()),
                    _ => writer.appender.checkpoint("close"),
                }
            })
        };
        let synced = self.sync_all();
        self.send_anchors();
        if let Err(error) = signed.and(synced) {
            log::error!("{error}");
        }
        // No lease has begun since the lock was taken above.
        self.keeper.take();
    }
}

impl Default for AuditOptions {
    fn default() -> Self {
        let sync = AuditSync::Always;
        Self { sync, best_effort: false, segment_size: 64 << 20, lease: false }
    }
}

impl Writer {
    /// Looks after the lease: after how long again, if it goes on.
    fn go_on_leasing(&mut self) -> Option<Duration> {
        let before = self.appender.appended();
        let pause = self.appender.goes_on_leasing();
        if self.appender.appended() > before {
            self.unsynced_since.get_or_insert_with(Instant::now);
        }
        pause
    }

    /// Whether this process has left nothing to do. It then keeps away from the lock, which
    /// others may want to keep, and looks after their end of the log now and then only.
    fn is_at_rest(&self) -> bool {
        self.missed.since.is_none()
            && self.vouched == self.appender.appended()
            && !self.appender.owes_checkpoint()
            && self.looked.is_some_and(|looked| looked.elapsed() < LOOK_EVERY)
    }

    /// Puts on record how many records are missing, as soon as something can be written again.
    fn tell_missed(&mut self) -> Result<(), KeyError> {
        let Some(since) = self.missed.since else { return Ok(()) };
        let additional = BTreeMap::from([
            ("count", json!(self.missed.count)),
            ("since", json!(since.to_string())),
            ("until", json!(UtcTime::now().to_string())),
            ("problem", json!(self.missed.last_problem)),
        ]);
        self.appender.append_own(recovery::NOT_WRITTEN, &additional)?;
        self.missed = Missed::default();
        Ok(())
    }
}

impl Missed {
    fn add(&mut self, error: &KeyError) {
        self.count += 1;
        self.since.get_or_insert_with(UtcTime::now);
        self.last_problem = error.to_string();
    }
}

impl Complaint {
    fn log(&mut self, error: &KeyError) {
        if self.last.is_some_and(|last| last.elapsed() < COMPLAINT_INTERVAL) {
            self.kept_back += 1;
            return;
        }
        match std::mem::take(&mut self.kept_back) {
            0 => log::error!("{error}"),
            kept_back => log::error!("{error} (and {kept_back} times before)"),
        }
        self.last = Some(Instant::now());
    }
}

/// Makes the log, or goes on making it; under the keystore's lock, which is taken before the
/// log's own.
fn begin(
    keystore: &Arc<Keystore>,
    appender: impl FnOnce(LogKeys) -> Appender,
) -> Result<Appender, KeyError> {
    let lock = keystore.lock()?;
    let found = LogKeys::read(keystore)?;
    let known = found.is_some();
    let keys = match found {
        Some(keys) => keys,
        None => LogKeys::make(keystore, &lock)?,
    };
    let begun = keys.begun;
    let mut appender = appender(keys);
    let place_lock = appender.enter(false)?;
    if !known && appender.tail().link.seq > 1 {
        appender.note_tampering("the keystore's record of the log was removed")?;
    }
    drop(place_lock);
    if !known {
        appender.place().publish_key(&appender.keys)?;
    }
    if !begun {
        appender.keys.note_begun(keystore, &lock)?;
    }
    Ok(appender)
}

thread_local! {
    /// Where records are put together: none of them is secret.
    static LINE: RefCell<(Vec<u8>, LastTemplate)> = RefCell::default();
}

/// How long a log to which this process does not append is left to those who do.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// Of a longer record the memory is given back.
const LONGEST_KEPT: usize = 16 << 10;
const COMPLAINT_INTERVAL: Duration = Duration::from_secs(10);
