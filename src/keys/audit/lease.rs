//! The log's lock, kept over a burst of records: while one process holds it nobody else can have
//! appended, so that a record costs neither the lock nor a look at what others did. It owns when
//! the lock may be kept, for how long, and when others were seen, who then get their turn; a
//! process that is killed lets go of it by that.

use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::Writer;
use super::place::PlaceLock;
use crate::sys::scheduling;

/// Whether the lock is kept at present.
pub(super) struct Lease {
    held: Option<Held>,
    /// When a record was appended last.
    last: Option<Instant>,
    /// Until when the lock is taken for each record alone, as others append too.
    shared_until: Option<Instant>,
}

struct Held {
    _lock: PlaceLock,
    begun: Instant,
    /// When it was last looked for others who wait, or it began.
    looked: Instant,
    /// Whether records are put without a look at the log. Then nobody wakes to see whether they
    /// still come.
    in_burst: bool,
    /// Records that the head does not tell yet.
    behind: u32,
}

/// The thread that ends a lease after which no record comes.
pub(super) struct Keeper {
    begun: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Lease {
    pub(super) const fn new() -> Self {
        Self { held: None, last: None, shared_until: None }
    }

    pub(super) const fn is_held(&self) -> bool {
        self.held.is_some()
    }

    /// Whether it has to end: others may be waiting, or no record has come for a while.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        self.pause(now).is_some_and(|pause| pause.is_zero())
    }

    /// After how long it may have to end; `None` if it is not held.
    pub(super) fn pause(&self, now: Instant) -> Option<Duration> {
        let held = self.held.as_ref()?;
        let left = LONGEST.saturating_sub(now - held.looked);
        if held.in_burst {
            return Some(left);
        }
        let idle = self.last.is_none_or(|last| now - last >= IDLE);
        Some(if idle { Duration::ZERO } else { left.min(IDLE) })
    }

    /// Keeps the lock if this record, appended under it, is one of a burst; else lets it go.
    pub(super) fn begin(&mut self, lock: PlaceLock, now: Instant) -> bool {
        let burst = self.last.replace(now).is_some_and(|last| now - last < BURST_GAP);
        if burst && self.shared_until.is_none_or(|until| now >= until) {
            self.held =
                Some(Held { _lock: lock, begun: now, looked: now, in_burst: false, behind: 0 });
        }
        self.is_held()
    }

    /// Keeps the lock of a burst in which a record came at `last` for once more as long. False if
    /// it has to end.
    pub(super) fn prolong(&mut self, now: Instant, last: Option<Instant>) -> bool {
        let Some(held) = self.held.as_mut().filter(|held| held.in_burst) else { return false };
        let comes = last.is_some_and(|last| last > held.looked) && now - held.begun < LONGEST_BURST;
        if comes {
            held.looked = now;
        }
        comes
    }

    /// Records are put without a look at the log from now on.
    pub(super) fn note_burst(&mut self) {
        if let Some(held) = &mut self.held {
            held.in_burst = true;
        }
    }

    /// A record was appended under the kept lock.
    pub(super) fn note_record(&mut self, now: Instant) {
        self.last = Some(now);
    }

    /// Whether the record that is appended now moves the head; without a lease each does.
    pub(super) fn moves_head(&mut self) -> bool {
        let Some(held) = &mut self.held else { return true };
        held.behind += 1;
        let moves = held.behind > MOST_BEHIND;
        if moves {
            held.behind = 0;
        }
        moves
    }

    /// Lets the lock go.
    pub(super) fn end(&mut self) {
        self.held = None;
    }

    /// Others append too: who keeps the lock would keep them waiting again and again.
    pub(super) fn note_others(&mut self, now: Instant) {
        self.shared_until = Some(now + SHARED_FOR);
    }
}

impl Keeper {
    /// One that waits for leases of this writer; `None` where no thread can be started.
    pub(super) fn start(writer: &Arc<Mutex<Writer>>) -> Option<Self> {
        let (begun, is_begun) = sync_channel(1);
        let writer = Arc::clone(writer);
        let thread = std::thread::Builder::new().name("audit-lease".to_owned());
        let thread = thread.spawn(move || keep(&is_begun, &writer)).ok()?;
        Some(Self { begun: Some(begun), thread: Some(thread) })
    }

    /// A lease has begun.
    pub(super) fn watch(&self) {
        // Full is as good: it will look in any case.
        let _ = self.begun.as_ref().map(|begun| begun.try_send(()));
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.begun = None;
        if let Some(thread) = self.thread.take() {
            // It has ended, if only by a panic, which is logged as all are.
            let _ = thread.join();
        }
    }
}

fn keep(begun: &Receiver<()>, writer: &Mutex<Writer>) {
    // A thread that serves requests starts it, and may be one that gives way to others just then.
    if let Err(error) = scheduling::treat_as_first() {
        log::debug!("the thread that keeps leases of the audit log: {error}");
    }
    while begun.recv().is_ok() {
        loop {
            let pause = {
                let mut writer = writer.lock().unwrap_or_else(PoisonError::into_inner);
                writer.go_on_leasing()
            };
            let Some(pause) = pause else { break };
            if begun.recv_timeout(pause) == Err(RecvTimeoutError::Disconnected) {
                return;
            }
        }
    }
}

/// So long the lock is kept at most without a look for others.
const LONGEST: Duration = Duration::from_millis(20);
/// And so long at most in a burst, where nobody waits.
const LONGEST_BURST: Duration = Duration::from_millis(500);
/// Without a record it is let go after this, or at most after twice as long.
const IDLE: Duration = Duration::from_millis(4);
/// Records that follow each other so fast are a burst.
const BURST_GAP: Duration = Duration::from_millis(2);
/// After others were seen to append, or to wait.
const SHARED_FOR: Duration = Duration::from_millis(200);
/// So many records the log may be ahead of its head.
const MOST_BEHIND: u32 = 15;
