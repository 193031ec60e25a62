//! The threads that have rings. A home thread is pinned to the CPU of its queue and serves what is
//! short there and then, and what may wait while its neighbour is there for the rest; a bulk thread
//! moves data, and what else reaches it goes home.

use std::io;
use std::sync::Arc;

use rustix::thread::sched_setaffinity;

use super::super::aside::{Bell, Request, Server};
use super::super::negotiate::MAX_WRITE;
use super::entry::{Entry, Ticket, caller, commit_id, lane, serve};
use super::lanes::Lanes;
use super::serve::Lane;
use crate::sys::fail_point;
use crate::sys::scheduling::only;
use crate::sys::uring::{Event, Ring, Slot};

/// What a thread with a ring is there for.
#[derive(Debug, Clone)]
pub(super) enum Role {
    /// The home with this number, of the entries of these queues; another may have the same ones.
    Home { index: usize, queues: Vec<u16>, cpu: Option<usize>, neighbour: Option<usize> },
    /// The bulk thread with this number.
    Bulk { index: usize },
}

/// A thread with a ring.
pub(super) struct Worker {
    ring: Ring<Ticket>,
    role: Role,
    server: Option<Arc<Server>>,
    lanes: Arc<Lanes>,
    alone: Alone,
}

/// Whether the requests that come to a thread are those of one caller.
#[derive(Default)]
struct Alone {
    caller: u32,
    /// How many there have been of it after its first one.
    in_a_row: u32,
}

impl Alone {
    /// What the kernel writes back is of nobody.
    fn note(&mut self, caller: u32) {
        if caller == 0 {
            return;
        }
        self.in_a_row = if caller == self.caller { self.in_a_row.saturating_add(1) } else { 0 };
        self.caller = caller;
    }

    fn is_one(&self) -> bool {
        self.in_a_row >= ALONE_AFTER
    }
}

impl Role {
    /// Moves the calling thread to where it belongs. Where it is bound to a CPU then, what is to be
    /// known of it.
    pub(super) fn settle(&self, bell: &Arc<Bell>) -> Option<Arc<Server>> {
        let Self::Home { cpu: Some(cpu), .. } = self else { return None };
        sched_setaffinity(None, &only(*cpu))
            .inspect_err(|errno| log::debug!("CPU {cpu}: its thread runs anywhere: {errno}"))
            .ok()?;
        Server::of_this_thread(Arc::clone(bell)).map(Arc::new)
    }
}

impl Worker {
    pub(super) fn new(
        ring: Ring<Ticket>,
        role: Role,
        server: Option<Arc<Server>>,
        lanes: Arc<Lanes>,
    ) -> Self {
        Self { ring, role, server, lanes, alone: Alone::default() }
    }

    /// Registers the entries of a home thread.
    ///
    /// # Errors
    /// What the kernel refused the first of them with.
    pub(super) fn register(&mut self) -> io::Result<()> {
        let Role::Home { index, queues, .. } = self.role.clone() else { return Ok(()) };
        if fail_point::refuses("fuse.ring.register") {
            return Err(rustix::io::Errno::INVAL.into());
        }
        for queue in queues {
            self.add_entry(queue, index)?;
        }
        self.ring.submit()?;
        while let Some(event) = self.ring.next_event() {
            match event {
                // Whoever was quick to use the mount may have ended it by now.
                Event::Ended(_, error) if !has_ended(&error) => return Err(error),
                other => self.take(other),
            }
        }
        Ok(())
    }

    /// Serves until the connection ends.
    pub(super) fn run(mut self) -> io::Result<()> {
        while !(self.lanes.is_stopping() && self.ring.outstanding() == 0) {
            if let Role::Home { index, .. } = self.role {
                self.lanes.tell_entries(index, self.ring.outstanding());
            }
            self.ring.wait()?;
            while let Some(event) = self.ring.next_event() {
                self.take(event);
                if self.ring.has_event() {
                    // Whoever waits for the answer need not wait for the next request's.
                    self.ring.submit()?;
                }
            }
        }
        Ok(())
    }

    fn take(&mut self, event: Event<Ticket>) {
        match event {
            Event::Woken => {}
            Event::Ended(entry, error) => self.ended(&entry, &error),
            Event::Ready(entry) => self.route(entry, false),
            Event::Handed(entry) if entry.extra().is_answered => self.commit(entry),
            Event::Handed(entry) => self.route(entry, true),
        }
    }

    fn route(&mut self, mut entry: Entry, was_handed: bool) {
        fail_point::hit("fuse.ring.take");
        let lane = lane(&entry, &self.lanes.service);
        if !was_handed {
            let caller = caller(&entry);
            self.alone.note(caller);
            if let Some(server) = &self.server {
                let is_bulky = matches!(lane, Lane::Bulk { .. });
                server.note(Request { caller, is_bulky, is_written_back: false });
            }
        }
        match (lane, &self.role) {
            (Lane::Here, Role::Home { .. }) => self.answer(entry),
            (Lane::Slow | Lane::Disk, &Role::Home { index, .. })
                if self.begins_wait(index, &entry, lane) =>
            {
                let queue = entry.queue();
                self.answer(entry);
                self.lanes.ends_wait(queue);
            }
            (Lane::Bulk { others }, &Role::Bulk { index }) => {
                if !was_handed {
                    self.lanes.bulk_begins(index);
                }
                let passes_on = !was_handed && self.ring.events() >= others;
                let kept =
                    if passes_on { self.lanes.to_idle_bulk(entry).err() } else { Some(entry) };
                if let Some(entry) = kept {
                    fail_point::hit("fuse.ring.bulk");
                    self.answer(entry);
                }
                self.lanes.bulk_done(index);
            }
            (Lane::Here, Role::Bulk { .. }) => {
                if let Err(error) = self.lanes.to_home(entry) {
                    self.lanes.fail(&format!("a request could not be passed on: {error}"));
                }
            }
            (lane, _) => {
                if self.lanes.leaves(&mut entry) {
                    self.add_spare(&entry);
                }
                let passed_on = match lane {
                    Lane::Bulk { .. } => self.lanes.to_bulk(entry),
                    _ => self.lanes.to_slow(entry),
                };
                if let Err(entry) = passed_on {
                    self.answer(entry);
                }
            }
        }
    }

    /// Whether what may wait can be served here: nobody else is kept waiting by that, as no other
    /// request can come to this thread meanwhile. Where it has more entries, since much was moved,
    /// one could come; while it hears of one caller only, and others may come to its neighbour, it
    /// waits for the disk nevertheless.
    fn begins_wait(&self, index: usize, entry: &Entry, lane: Lane) -> bool {
        let others_have_a_way =
            || lane == Lane::Disk && self.alone.is_one() && self.lanes.neighbour_has_entry(index);
        (self.ring.outstanding() == 0 || others_have_a_way())
            && !self.ring.has_event()
            && self.lanes.begins_wait(index, entry.queue())
    }

    fn answer(&mut self, mut entry: Entry) {
        serve(&mut entry, &self.lanes.service);
        let entry = match self.role {
            // With all entries of a queue it could not wait for anything.
            Role::Home { index, .. } if self.ring.outstanding() > 0 => {
                self.lanes.to_neighbour_without(index, entry)
            }
            _ => Err(entry),
        };
        if let Err(entry) = entry {
            self.commit(entry);
        }
    }

    fn commit(&mut self, mut entry: Entry) {
        self.lanes.returns(&mut entry);
        entry.extra_mut().is_answered = false;
        let device = Arc::clone(&self.lanes.service.device);
        let commit_id = commit_id(&entry);
        self.ring.commit(&device, commit_id, entry);
    }

    /// Another entry for the queue of one that leaves. Without it the queue is only slower.
    fn add_spare(&mut self, leaving: &Entry) {
        if let Err(error) = self.add_entry(leaving.queue(), leaving.extra().home) {
            log::debug!("queue {}: no further entry: {error}", leaving.queue());
        }
    }

    fn add_entry(&mut self, queue: u16, home: usize) -> io::Result<()> {
        let slot = Slot::new(PAYLOAD_BYTES, queue, Ticket::of(home))?;
        let device = Arc::clone(&self.lanes.service.device);
        self.ring.register(&device, slot);
        self.lanes.added(queue);
        Ok(())
    }

    /// At the end of a connection all entries end. While it lives, one that does is one less to
    /// serve its queue, and somebody may wait for its answer.
    fn ended(&self, entry: &Entry, error: &io::Error) {
        if !has_ended(error) {
            self.lanes.fail(&format!("queue {}: an entry was lost: {error}", entry.queue()));
        }
    }
}

/// Whether this is how a connection ends.
fn has_ended(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOTCONN | libc::ECONNABORTED))
}

/// After so many further requests of one caller; when one of another comes meanwhile and has to
/// wait for the disk too, it begins anew.
const ALONE_AFTER: u32 = 16;
/// The kernel takes no less than it may have to put there.
const PAYLOAD_BYTES: usize = MAX_WRITE as usize;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_caller_is_alone_after_some_requests_and_until_another_comes() {
        let mut alone = Alone::default();
        for _ in 0..=ALONE_AFTER {
            assert!(!alone.is_one());
            alone.note(7);
            alone.note(0);
        }
        assert!(alone.is_one(), "what is written back is of another");
        alone.note(8);
        assert!(!alone.is_one());
        alone.note(7);
        assert!(!alone.is_one());
    }
}
