//! Threads that go where their caller is.
//!
//! Through `/dev/fuse` a request reaches whichever thread waits, on whichever CPU, and two CPUs
//! are woken for each. While one caller alone asks, for little at a time, and waits for each answer
//! before it goes on, all threads are better where it is.
//!
//! They are all on that CPU, or each is where it was before; one that has served nobody until then
//! joins them a little later.

use std::cell::OnceCell;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use rustix::thread::CpuSet;

use super::{Bell, NOBODY, Request, Server};
use crate::sys::scheduling::{self, Whereabouts, only, own_number};

/// The threads of a session, and who calls them.
#[derive(Debug)]
pub(in super::super) struct Callers {
    bell: Arc<Bell>,
    /// All that have served a request. Taken alone.
    servers: Mutex<Vec<Arc<Server>>>,
    /// The thread that called last.
    latest: AtomicU32,
    /// How often that was another one than before.
    changes: AtomicU64,
    /// Requests of callers who are not to be seen from here.
    unseen: AtomicU64,
    /// From so many of both together on no more need be counted until the watch has looked.
    enough: AtomicU64,
    moves: Moves,
}

/// Whether the caller has left the CPU on which the threads are. They are not asked then by whoever
/// is woken there, but by another CPU that has to wake this one: requests come slowly.
#[derive(Debug)]
struct Moves {
    since: Instant,
    /// [`NOWHERE`] while the threads are not gathered.
    gathered_on: AtomicUsize,
    /// When the last request came, in nanoseconds.
    last: AtomicU64,
    /// So many have come slowly, one after the other.
    slow: AtomicU32,
    /// When it was last looked where the caller is.
    looked: AtomicU64,
}

/// What the watch knows of them.
pub(super) struct Following {
    callers: Arc<Callers>,
    counted: u64,
    /// So much of it has come in the last period.
    counted_lately: u64,
    /// The caller of the last look, and how often it had come to run by then.
    caller: (u32, Option<u64>),
    gathered: Option<Gathered>,
}

/// Threads on one CPU.
struct Gathered {
    cpu: usize,
    /// Each with the CPUs that it may run on otherwise.
    threads: Vec<(Arc<Server>, CpuSet)>,
}

impl Callers {
    pub(in super::super) fn new(bell: Arc<Bell>) -> Self {
        Self {
            bell,
            servers: Mutex::default(),
            latest: AtomicU32::new(NOBODY),
            changes: AtomicU64::new(0),
            unseen: AtomicU64::new(0),
            enough: AtomicU64::new(MOST_CHANGES + 1),
            moves: Moves::new(),
        }
    }

    /// Notes that the calling thread, which serves no other session, serves a request.
    pub(in super::super) fn note(&self, request: Request) {
        if !self.bell.is_heard() {
            return;
        }
        thread_local! {
            static OWN: OnceCell<Option<Arc<Server>>> = const { OnceCell::new() };
        }
        OWN.with(|own| {
            if let Some(server) = own.get_or_init(|| self.join()) {
                server.note(request);
            }
        });
        match request.caller {
            _ if request.is_written_back || self.counted() >= self.enough() => {}
            NOBODY => {
                self.unseen.fetch_add(1, Ordering::Relaxed);
            }
            caller if self.latest.load(Ordering::Relaxed) != caller => {
                self.latest.store(caller, Ordering::Relaxed);
                self.changes.fetch_add(1, Ordering::Relaxed);
            }
            caller if self.moves.may_have_moved() && self.moves.has_moved(caller) => {
                self.bell.call();
            }
            _ => {}
        }
    }

    /// Of what tells that somebody else asks.
    fn counted(&self) -> u64 {
        self.changes.load(Ordering::Relaxed) + self.unseen.load(Ordering::Relaxed)
    }

    fn enough(&self) -> u64 {
        self.enough.load(Ordering::Relaxed)
    }

    fn join(&self) -> Option<Arc<Server>> {
        let server = Arc::new(Server::of_this_thread(Arc::clone(&self.bell))?);
        self.servers().push(Arc::clone(&server));
        Some(server)
    }

    fn servers(&self) -> MutexGuard<'_, Vec<Arc<Server>>> {
        self.servers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Moves {
    fn new() -> Self {
        Self {
            since: Instant::now(),
            gathered_on: AtomicUsize::new(NOWHERE),
            last: AtomicU64::new(0),
            slow: AtomicU32::new(0),
            looked: AtomicU64::new(0),
        }
    }

    /// Whether it is time to look where the caller is, one of whose requests comes now.
    fn may_have_moved(&self) -> bool {
        if self.gathered_on.load(Ordering::Relaxed) == NOWHERE {
            return false;
        }
        let now = u64::try_from(self.since.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let gap = now.saturating_sub(self.last.swap(now, Ordering::Relaxed));
        if gap < SLOW {
            self.slow.store(0, Ordering::Relaxed);
            return false;
        }
        let slow = self.slow.fetch_add(1, Ordering::Relaxed) + 1;
        let since_looked = now.saturating_sub(self.looked.load(Ordering::Relaxed));
        let is_time = slow >= MANY_SLOW && since_looked >= LOOK_EVERY;
        if is_time {
            self.slow.store(0, Ordering::Relaxed);
            self.looked.store(now, Ordering::Relaxed);
        }
        is_time
    }

    fn has_moved(&self, caller: u32) -> bool {
        let there = self.gathered_on.load(Ordering::Relaxed);
        Whereabouts::of(caller).is_some_and(|caller| caller.cpu != there)
    }
}

impl Following {
    pub(super) fn new(callers: Arc<Callers>) -> Self {
        if scheduling::turns(own_number()).is_none() {
            log::debug!("threads stand aside for nobody: the kernel does not count who runs");
        }
        Self { callers, counted: 0, counted_lately: 0, caller: (NOBODY, None), gathered: None }
    }

    /// The threads that have come after so many.
    pub(super) fn servers_after(&self, known: usize) -> Vec<Arc<Server>> {
        self.callers.servers()[known..].to_vec()
    }

    /// Whom they have served last.
    pub(super) fn latest_caller(&self) -> u32 {
        self.callers.latest.load(Ordering::Relaxed)
    }

    /// The CPU where that is; `None` once it is gone.
    pub(super) fn place(&self) -> Option<usize> {
        Whereabouts::of(self.latest_caller()).map(|caller| caller.cpu)
    }

    /// Whether one caller alone has asked in the last period.
    pub(super) fn has_one_caller(&mut self) -> bool {
        let counted = self.callers.counted();
        self.callers.enough.store(counted + MOST_CHANGES + 1, Ordering::Relaxed);
        self.counted_lately = counted - std::mem::replace(&mut self.counted, counted);
        self.counted_lately <= MOST_CHANGES
    }

    /// Whether another one than before has asked.
    pub(super) fn has_others(&self) -> bool {
        self.counted_lately > 0
    }

    /// What is known of the caller is not of the last period alone.
    pub(super) fn skip_turns(&mut self) {
        self.caller = (NOBODY, None);
    }

    /// From now on it is counted how often the caller comes to run.
    pub(super) fn begin_turns(&mut self) {
        let caller = self.latest_caller();
        self.caller = (caller, scheduling::turns(caller));
    }

    /// Whether the caller has waited for the answers that it got in the last period, so many: then
    /// it has come to run after each. Of those that it does not wait for, as when it closes a file,
    /// there are some as well. `None` where that is not known: of one that has not asked before,
    /// has ended, or is not counted.
    pub(super) fn is_waited_for(&mut self, answers: u64) -> Option<bool> {
        let (before, turns_before) = self.caller;
        self.begin_turns();
        let (caller, turns) = self.caller;
        let (now, then) = (turns?, turns_before.filter(|_| caller == before)?);
        Some(now.saturating_sub(then) * MOST_FOR_A_TURN >= answers)
    }

    /// Goes to this CPU with all of these threads; whether they are there now. If not, they are to
    /// be dispersed.
    pub(super) fn gather(&mut self, servers: &[Arc<Server>], cpu: usize) -> bool {
        let is_there = |there: &Gathered| there.cpu == cpu && there.threads.len() == servers.len();
        if self.gathered.as_ref().is_some_and(is_there) {
            return true;
        }
        let gathered = self.gathered.get_or_insert(Gathered { cpu, threads: Vec::new() });
        gathered.cpu = cpu;
        let known = gathered.threads.len();
        let gone = gathered.take_in(&servers[known..]).and_then(|()| gathered.go());
        self.callers.moves.gathered_on.store(cpu, Ordering::Relaxed);
        match gone {
            Ok(()) => true,
            Err(error) => {
                log::debug!("the threads do not go to CPU {cpu}: {error}");
                false
            }
        }
    }

    /// Lets all threads run where they did.
    pub(super) fn disperse(&mut self) -> std::io::Result<()> {
        self.callers.moves.gathered_on.store(NOWHERE, Ordering::Relaxed);
        let threads = self.gathered.iter().flat_map(|there| &there.threads);
        let mut all = Ok(());
        for (server, home) in threads {
            let freed = server.thread.bind(home).or_else(|_| server.thread.bind(&every_cpu()));
            all = all.and(freed);
        }
        if all.is_ok() {
            self.gathered = None;
        }
        all
    }

    pub(super) fn is_gathered(&self) -> bool {
        self.gathered.is_some()
    }
}

impl Gathered {
    fn take_in(&mut self, servers: &[Arc<Server>]) -> std::io::Result<()> {
        for server in servers {
            self.threads.push((Arc::clone(server), server.thread.cpus()?));
        }
        Ok(())
    }

    fn go(&self) -> std::io::Result<()> {
        if !self.threads.iter().all(|(_, home)| home.is_set(self.cpu)) {
            return Err(std::io::Error::other("not all of them may run there"));
        }
        let there = only(self.cpu);
        self.threads.iter().try_for_each(|(server, _)| server.thread.bind(&there))
    }
}

/// All CPUs, of which the kernel takes those that the process may have.
fn every_cpu() -> CpuSet {
    let mut all = CpuSet::new();
    (0..CpuSet::MAX_CPU).for_each(|cpu| all.set(cpu));
    all
}

/// So many answers may come for each time that the caller comes to run.
const MOST_FOR_A_TURN: u64 = 4;
const NOWHERE: usize = usize::MAX;
/// Nanoseconds between two requests, from which on another CPU may have had to be woken.
const SLOW: u64 = 25_000;
const MANY_SLOW: u32 = 3;
/// Nanoseconds from one look to the next.
const LOOK_EVERY: u64 = 300_000;
/// Of the caller in a period. At the second one somebody has come back, or a third one has come.
const MOST_CHANGES: u64 = 1;

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;
    use crate::sys::scheduling::Thread;

    fn heard() -> Arc<Bell> {
        let bell = Bell::default();
        bell.watch.get_or_init(std::thread::current);
        Arc::new(bell)
    }

    #[test]
    fn one_caller_alone_is_told_from_several() {
        let callers = Arc::new(Callers::new(heard()));
        let mut following = Following::new(Arc::clone(&callers));
        let request = Request { caller: 7, ..Request::default() };
        let other = Request { caller: 8, ..request };
        let unseen = Request { caller: NOBODY, ..request };
        let written_back = Request { is_written_back: true, ..unseen };
        let mut has_one = |requests: &[Request]| {
            requests.iter().for_each(|request| callers.note(*request));
            following.has_one_caller()
        };
        assert!(has_one(&[request; 100]));
        assert!(has_one(&[request, other]), "another one, perhaps from now on");
        assert!(!has_one(&[request, other]), "two in turn");
        assert!(has_one(&[other, written_back, written_back]));
        assert!(!has_one(&[unseen, unseen]));
        assert_eq!((following.latest_caller(), following.servers_after(0).len()), (8, 1));
    }

    /// Found by review: one that has many requests under way has them served by all CPUs.
    #[test]
    fn who_does_not_wait_is_not_followed() {
        let callers = Arc::new(Callers::new(heard()));
        let mut following = Following::new(Arc::clone(&callers));
        callers.note(Request { caller: own_number(), ..Request::default() });
        if scheduling::turns(own_number()).is_none() {
            println!("skipped: this kernel does not count how often a thread comes to run");
            return;
        }
        assert_eq!(following.is_waited_for(1), None, "nothing is known yet");
        for _ in 0..10 {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        assert_eq!(following.is_waited_for(5 * MOST_FOR_A_TURN), Some(true));
        assert_eq!(following.is_waited_for(1_000_000), Some(false));
        following.skip_turns();
        assert_eq!(following.is_waited_for(0), None);
        callers.note(Request { caller: u32::MAX, ..Request::default() });
        assert_eq!(following.is_waited_for(0), None, "it is gone");
    }

    #[test]
    fn threads_go_to_one_cpu_and_back() {
        let callers = Arc::new(Callers::new(heard()));
        let mut following = Following::new(Arc::clone(&callers));
        let own = Thread::current().unwrap();
        let home = own.cpus().unwrap();
        let cpu = (0..CpuSet::MAX_CPU).rfind(|cpu| home.is_set(*cpu)).unwrap();
        let is_there = || {
            let cpus = own.cpus().unwrap();
            cpus.count() == 1 && cpus.is_set(cpu)
        };
        let join = || callers.note(Request { caller: own_number(), ..Request::default() });
        join();
        assert!(following.gather(&following.servers_after(0), cpu) && is_there());
        let (joined, ends) = (Barrier::new(2), Barrier::new(2));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                join();
                joined.wait();
                ends.wait();
            });
            joined.wait();
            let gathered = following.gather(&following.servers_after(0), cpu) && is_there();
            ends.wait();
            assert!(gathered);
        });
        following.disperse().unwrap();
        assert_eq!(own.cpus().unwrap(), home);

        let nowhere = CpuSet::MAX_CPU - 1;
        if !home.is_set(nowhere) {
            assert!(!following.gather(&following.servers_after(0)[..1], nowhere));
            following.disperse().unwrap();
            assert_eq!(own.cpus().unwrap(), home);
        }
    }
}
