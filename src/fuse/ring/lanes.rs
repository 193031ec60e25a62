//! Who serves what: the home threads on the CPUs, the bulk threads, the slow threads, and the
//! ways between them.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use super::entry::{Entry, Ticket, serve};
use super::serve::Service;
use crate::sys::fail_point;
use crate::sys::uring::RingAddress;

/// What all threads of a connection share.
pub(super) struct Lanes {
    pub(super) service: Service,
    homes: Vec<HomeThread>,
    bulk: Vec<BulkThread>,
    slow: SlowQueue,
    queues: Vec<Presence>,
    stopping: AtomicBool,
    failure: Mutex<Option<String>>,
}

/// A thread on the CPU of its queues.
pub(super) struct HomeThread {
    pub(super) address: RingAddress<Ticket>,
    /// The other one of the same queue, where there is one.
    pub(super) neighbour: Option<usize>,
    /// How many of its entries are with the kernel, as it told last.
    entries: AtomicUsize,
}

impl HomeThread {
    pub(super) fn new(address: RingAddress<Ticket>, neighbour: Option<usize>) -> Self {
        Self { address, neighbour, entries: AtomicUsize::new(0) }
    }
}

struct BulkThread {
    address: RingAddress<Ticket>,
    /// Requests that it knows of and has not answered.
    load: AtomicUsize,
}

/// Requests that may wait, until a thread takes them.
#[derive(Default)]
struct SlowQueue {
    /// Lock order: taken alone.
    requests: Mutex<SlowRequests>,
    arrived: Condvar,
}

#[derive(Default)]
struct SlowRequests {
    waiting: VecDeque<Entry>,
    closed: bool,
}

/// How many entries a queue has, how many are with threads elsewhere, and who of its own waits.
struct Presence {
    entries: AtomicUsize,
    away: AtomicUsize,
    /// The home thread that serves what may wait, if one does; [`NOBODY`] otherwise.
    waiting: AtomicUsize,
}

impl BulkThread {
    fn hand(&self, entry: Entry) -> Result<(), Entry> {
        self.load.fetch_add(1, Ordering::Relaxed);
        self.address.hand(entry).map_err(|(entry, error)| {
            self.load.fetch_sub(1, Ordering::Relaxed);
            log::error!("a request could not be passed on: {error}");
            entry
        })
    }
}

impl Lanes {
    pub(super) fn new(
        service: Service,
        queues: usize,
        homes: Vec<HomeThread>,
        bulk: Vec<RingAddress<Ticket>>,
    ) -> Self {
        let bulk = bulk.into_iter();
        Self {
            service,
            homes,
            bulk: bulk.map(|address| BulkThread { address, load: AtomicUsize::new(0) }).collect(),
            slow: SlowQueue::default(),
            queues: (0..queues).map(|_| Presence::new()).collect(),
            stopping: AtomicBool::new(false),
            failure: Mutex::new(None),
        }
    }

    /// Passes a request on to the bulk thread with the least to do.
    ///
    /// # Errors
    /// The entry, when it could not be passed on.
    pub(super) fn to_bulk(&self, entry: Entry) -> Result<(), Entry> {
        match self.bulk.iter().min_by_key(|thread| thread.load.load(Ordering::Relaxed)) {
            Some(thread) => thread.hand(entry),
            None => Err(entry),
        }
    }

    /// Passes a request on to a bulk thread that has nothing to do.
    ///
    /// # Errors
    /// The entry, when there is none or it could not be passed on.
    pub(super) fn to_idle_bulk(&self, entry: Entry) -> Result<(), Entry> {
        match self.bulk.iter().find(|thread| thread.load.load(Ordering::Relaxed) == 0) {
            Some(thread) => thread.hand(entry),
            None => Err(entry),
        }
    }

    /// The bulk thread `index` has a request that was not passed on to it.
    pub(super) fn bulk_begins(&self, index: usize) {
        self.bulk[index].load.fetch_add(1, Ordering::Relaxed);
    }

    /// The bulk thread `index` has answered a request, or passed it on.
    pub(super) fn bulk_done(&self, index: usize) {
        self.bulk[index].load.fetch_sub(1, Ordering::Relaxed);
    }

    /// Passes a request on to the slow threads.
    ///
    /// # Errors
    /// The entry, when there are none any more.
    pub(super) fn to_slow(&self, entry: Entry) -> Result<(), Entry> {
        let mut requests = lock(&self.slow.requests);
        if requests.closed {
            return Err(entry);
        }
        requests.waiting.push_back(entry);
        drop(requests);
        self.slow.arrived.notify_one();
        Ok(())
    }

    /// Serves what may wait, until the lane is closed and empty.
    pub(super) fn run_slow(&self) {
        while let Some(mut entry) = self.next_slow() {
            fail_point::hit("fuse.ring.slow");
            serve(&mut entry, &self.service);
            if let Err(lost) = self.to_home(entry) {
                self.fail(&format!("an answer could not be passed on: {lost}"));
            }
        }
    }

    /// Whether the home thread `index` may serve what may wait: as long as its neighbour does not,
    /// so that one of them is there for the other requests of their queue.
    pub(super) fn begins_wait(&self, index: usize, queue: u16) -> bool {
        let waiting = &self.queues[usize::from(queue)].waiting;
        self.homes[index].neighbour.is_some()
            && waiting.compare_exchange(NOBODY, index, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// The home thread `index` has given so many entries to the kernel.
    pub(super) fn tell_entries(&self, index: usize, entries: usize) {
        let told = &self.homes[index].entries;
        // Seldom another number: what others read is not to be written with each request.
        if told.load(Ordering::Relaxed) != entries {
            told.store(entries, Ordering::Relaxed);
        }
    }

    /// Whether a request can come to the neighbour of the home thread `index`.
    pub(super) fn neighbour_has_entry(&self, index: usize) -> bool {
        let neighbour = self.homes[index].neighbour;
        neighbour.is_some_and(|it| self.homes[it].entries.load(Ordering::Relaxed) > 0)
    }

    /// Leaves an answered entry to the neighbour of the home thread `index`, where that has none.
    ///
    /// # Errors
    /// The entry, where there is no neighbour, or it has one.
    pub(super) fn to_neighbour_without(&self, index: usize, mut entry: Entry) -> Result<(), Entry> {
        let Some(neighbour) = self.homes[index].neighbour else { return Err(entry) };
        let home = &self.homes[neighbour];
        let none_told = home.entries.compare_exchange(0, 1, Ordering::Relaxed, Ordering::Relaxed);
        if none_told.is_err() {
            return Err(entry);
        }
        entry.extra_mut().home = neighbour;
        home.address.hand(entry).map_err(|(mut entry, error)| {
            log::debug!("an answer was not left to a neighbour: {error}");
            home.entries.store(0, Ordering::Relaxed);
            entry.extra_mut().home = index;
            entry
        })
    }

    /// The home thread that began to wait serves everything again.
    pub(super) fn ends_wait(&self, queue: u16) {
        self.queues[usize::from(queue)].waiting.store(NOBODY, Ordering::Release);
    }

    /// Brings an entry back to the thread on its queue's CPU, or to its neighbour while it waits.
    pub(super) fn to_home(&self, entry: Entry) -> io::Result<()> {
        let home = &self.homes[entry.extra().home];
        let waiting = self.queues[usize::from(entry.queue())].waiting.load(Ordering::Acquire);
        let there = match home.neighbour {
            Some(neighbour) if waiting == entry.extra().home => &self.homes[neighbour],
            _ => home,
        };
        there.address.hand(entry).map_err(|(_, error)| error)
    }

    /// Counts an entry that is new to its queue.
    pub(super) fn added(&self, queue: u16) {
        self.queues[usize::from(queue)].entries.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts an entry that its queue has to do without for a while. True when the queue is to get
    /// another one in its place, so that those who ask meanwhile find one.
    pub(super) fn leaves(&self, entry: &mut Entry) -> bool {
        let presence = &self.queues[usize::from(entry.queue())];
        let mut away = presence.away.load(Ordering::Relaxed);
        if !std::mem::replace(&mut entry.extra_mut().is_away, true) {
            away = presence.away.fetch_add(1, Ordering::Relaxed) + 1;
        }
        let entries = presence.entries.load(Ordering::Relaxed);
        entries < ENTRIES_MAX && entries.saturating_sub(away) < ENTRIES_PRESENT
    }

    /// The entry is with the kernel again.
    pub(super) fn returns(&self, entry: &mut Entry) {
        if std::mem::take(&mut entry.extra_mut().is_away) {
            self.queues[usize::from(entry.queue())].away.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Whether the connection has ended.
    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// Ends the connection for a reason that nobody can mend.
    pub(super) fn fail(&self, reason: &str) {
        if self.is_stopping() {
            return;
        }
        log::error!("{reason}; the connection is ended");
        lock(&self.failure).get_or_insert_with(|| reason.to_owned());
        self.service.device.abort();
    }

    /// Why the connection was ended from this side.
    pub(super) fn failure(&self) -> Option<String> {
        lock(&self.failure).clone()
    }

    /// No request comes any more: the slow threads end with what they have.
    pub(super) fn close_slow(&self) {
        self.stopping.store(true, Ordering::Release);
        lock(&self.slow.requests).closed = true;
        self.slow.arrived.notify_all();
    }

    /// Makes the other threads look at whether to end.
    pub(super) fn wake_all(&self) {
        let homes = self.homes.iter().map(|thread| &thread.address);
        for address in homes.chain(self.bulk.iter().map(|thread| &thread.address)) {
            // One whose thread has ended needs no waking.
            let _ = address.wake();
        }
    }

    fn next_slow(&self) -> Option<Entry> {
        let mut requests = lock(&self.slow.requests);
        loop {
            if let Some(entry) = requests.waiting.pop_front() {
                return Some(entry);
            }
            if requests.closed {
                return None;
            }
            let waited = self.slow.arrived.wait(requests);
            requests = waited.unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Presence {
    const fn new() -> Self {
        Self {
            entries: AtomicUsize::new(0),
            away: AtomicUsize::new(0),
            waiting: AtomicUsize::new(NOBODY),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// No home thread has this number.
const NOBODY: usize = usize::MAX;
/// What a queue has at hand while others are away: one for each of its threads.
const ENTRIES_PRESENT: usize = 2;
/// Entries of a queue at most. While all of them wait, so does whoever asks on that CPU.
const ENTRIES_MAX: usize = 64;
