//! Threads that go where their caller is.
//!
//! Through `/dev/fuse` a request reaches whichever thread waits, on whichever CPU, and two CPUs
//! are woken for each. While one caller alone asks, and for little at a time, all threads are
//! better where it is: it waits for them anyway.

use std::cell::OnceCell;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::thread::{CpuSet, sched_getaffinity};

use super::{Bell, Server};
use crate::sys::scheduling::{self, bind};

/// The threads of a session, and who calls them.
#[derive(Debug)]
pub(in super::super) struct Callers {
    bell: Arc<Bell>,
    servers: Mutex<Vec<Member>>,
    /// The thread that called last.
    latest: AtomicU32,
    /// How often that was another one than before.
    changes: AtomicU64,
    /// Requests that moved much.
    bulky: AtomicU64,
}

#[derive(Debug, Clone)]
struct Member {
    server: Arc<Server>,
    /// Where it may run when it goes nowhere.
    home: CpuSet,
}

/// Whether it is good to stand aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Good {
    /// Others would have to wait.
    No,
    /// Where the threads are.
    Here,
    /// On this CPU.
    On(usize),
}

/// What the watch knows of them.
pub(super) struct Following {
    callers: Arc<Callers>,
    changes: u64,
    bulky: u64,
    /// How many threads are on one CPU, and on which.
    gathered: Option<(usize, usize)>,
}

impl Callers {
    pub(in super::super) fn new(bell: Arc<Bell>) -> Self {
        Self {
            bell,
            servers: Mutex::default(),
            latest: AtomicU32::new(NOBODY),
            changes: AtomicU64::new(0),
            bulky: AtomicU64::new(0),
        }
    }

    /// Notes that the calling thread, which serves no other session, serves a request of `caller`,
    /// a thread, that moves so many bytes. What the kernel writes back is of nobody.
    pub(in super::super) fn note(&self, caller: u32, bytes: usize) {
        thread_local! {
            static OWN: OnceCell<Arc<Server>> = const { OnceCell::new() };
        }
        OWN.with(|own| own.get_or_init(|| self.join()).note());
        if bytes >= BULKY {
            self.bulky.fetch_add(1, Ordering::Relaxed);
        }
        if caller != NOBODY && self.latest.load(Ordering::Relaxed) != caller {
            self.latest.store(caller, Ordering::Relaxed);
            self.changes.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn join(&self) -> Arc<Server> {
        let server = Arc::new(Server::of_this_thread(Arc::clone(&self.bell)));
        // One that does not know where it may run goes nowhere.
        if let Ok(home) = sched_getaffinity(None) {
            self.members().push(Member { server: Arc::clone(&server), home });
        }
        server
    }

    fn members(&self) -> MutexGuard<'_, Vec<Member>> {
        self.servers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Following {
    pub(super) fn new(callers: Arc<Callers>) -> Self {
        Self { callers, changes: 0, bulky: 0, gathered: None }
    }

    pub(super) fn servers(&self) -> Vec<Arc<Server>> {
        self.callers.members().iter().map(|member| Arc::clone(&member.server)).collect()
    }

    /// Whether one caller alone asks, who got `served` answers in the last period, and where that
    /// is.
    pub(super) fn look(&mut self, served: u64) -> Good {
        let changes = self.callers.changes.load(Ordering::Relaxed);
        let bulky = self.callers.bulky.load(Ordering::Relaxed);
        let changed = changes - std::mem::replace(&mut self.changes, changes);
        let moved = bulky - std::mem::replace(&mut self.bulky, bulky);
        if served < TELLING {
            return Good::Here;
        }
        if changed.max(moved) * MOST_OTHERS > served {
            return Good::No;
        }
        let caller = self.callers.latest.load(Ordering::Relaxed);
        scheduling::cpu_of(caller).map_or(Good::No, Good::On)
    }

    /// Goes there with all threads; whether any has moved.
    pub(super) fn gather(&mut self, cpu: usize) -> bool {
        let mut set = CpuSet::new();
        set.set(cpu);
        let members = self.callers.members().clone();
        let there = Some((members.len(), cpu));
        if self.gathered == there {
            return false;
        }
        self.gathered = there;
        for member in &members {
            if let Err(error) = bind(member.server.thread, &set) {
                log::debug!("CPU {cpu}: a thread cannot go there: {error}");
            }
        }
        true
    }

    /// Lets all threads run where they did.
    pub(super) fn disperse(&mut self) {
        if self.gathered.take().is_none() {
            return;
        }
        for member in self.callers.members().clone() {
            if let Err(error) = bind(member.server.thread, &member.home) {
                log::debug!("a thread stays where it is: {error}");
            }
        }
    }
}

/// The kernel itself, or a thread that is not to be seen from here.
const NOBODY: u32 = 0;
/// From so many bytes on the caller had better go on while they are moved.
const BULKY: usize = 32 << 10;
/// With fewer answers in a period there is nothing to be learnt of who called.
const TELLING: u64 = 8;
/// One change of the caller in so many requests is too often.
const MOST_OTHERS: u64 = 8;

#[cfg(test)]
mod tests {
    use super::*;

    fn own_thread() -> u32 {
        rustix::thread::gettid().as_raw_nonzero().get().cast_unsigned()
    }

    #[test]
    fn one_caller_with_small_requests_is_followed() {
        let callers = Arc::new(Callers::new(Arc::default()));
        let mut following = Following::new(Arc::clone(&callers));
        let own = own_thread();
        let call = |times: u64, caller, bytes| (0..times).for_each(|_| callers.note(caller, bytes));
        call(TELLING, own, 100);
        assert!(matches!(following.look(TELLING), Good::On(_)));
        assert_eq!(following.look(TELLING - 1), Good::Here, "too few to tell");
        call(TELLING - 1, own, 100);
        call(1, own, BULKY);
        assert!(matches!(following.look(TELLING), Good::On(_)), "one in eight");
        call(2, own, BULKY);
        assert_eq!(following.look(TELLING), Good::No, "two in eight");
        call(1, own + 1, 100);
        call(1, own, 100);
        assert_eq!(following.look(TELLING), Good::No, "two callers");
        call(TELLING - 2, NOBODY, 100);
        assert!(matches!(following.look(TELLING), Good::On(_)), "and the kernel for it");
        assert_eq!(following.servers().len(), 1);
    }

    #[test]
    fn threads_go_to_one_cpu_and_back() {
        let callers = Arc::new(Callers::new(Arc::default()));
        let mut following = Following::new(Arc::clone(&callers));
        let home = sched_getaffinity(None).unwrap();
        let cpu = (0..CpuSet::MAX_CPU).rfind(|cpu| home.is_set(*cpu)).unwrap();
        callers.note(own_thread(), 0);
        assert!(following.gather(cpu));
        assert!(!following.gather(cpu), "it is there");
        let there = sched_getaffinity(None).unwrap();
        assert!(there.count() == 1 && there.is_set(cpu));
        assert_eq!(scheduling::cpu_of(own_thread()), Some(cpu));
        std::thread::scope(|scope| {
            scope.spawn(|| callers.note(own_thread(), 0)).join().unwrap();
        });
        assert!(following.gather(cpu), "one more thread");
        following.disperse();
        assert_eq!(sched_getaffinity(None).unwrap(), home);
    }
}
