//! Threads that go where their caller is.
//!
//! Through `/dev/fuse` a request reaches whichever thread waits, on whichever CPU, and two CPUs
//! are woken for each. While one caller alone asks, and for little at a time, all threads are
//! better where it is: it waits for them anyway.
//!
//! They are all on that CPU, or each is where it was before.

use std::cell::OnceCell;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::thread::CpuSet;

use super::{Bell, Request, Server};

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
}

/// What the watch knows of them.
pub(super) struct Following {
    callers: Arc<Callers>,
    changes: u64,
    unseen: u64,
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
        }
    }

    /// Notes that the calling thread, which serves no other session, serves a request.
    pub(in super::super) fn note(&self, request: Request) {
        thread_local! {
            static OWN: OnceCell<Option<Arc<Server>>> = const { OnceCell::new() };
        }
        OWN.with(|own| {
            if let Some(server) = own.get_or_init(|| self.join()) {
                server.note(request);
            }
        });
        match request.caller {
            _ if request.is_written_back => {}
            NOBODY => {
                self.unseen.fetch_add(1, Ordering::Relaxed);
            }
            caller if self.latest.load(Ordering::Relaxed) != caller => {
                self.latest.store(caller, Ordering::Relaxed);
                self.changes.fetch_add(1, Ordering::Relaxed);
            }
            _ => {}
        }
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

impl Following {
    pub(super) fn new(callers: Arc<Callers>) -> Self {
        Self { callers, changes: 0, unseen: 0, gathered: None }
    }

    /// The threads that have come after so many.
    pub(super) fn servers_after(&self, known: usize) -> Vec<Arc<Server>> {
        self.callers.servers()[known..].to_vec()
    }

    /// Whom they have served last.
    pub(super) fn latest_caller(&self) -> u32 {
        self.callers.latest.load(Ordering::Relaxed)
    }

    /// Whether one caller alone has asked in the last period.
    pub(super) fn has_one_caller(&mut self) -> bool {
        let changes = self.callers.changes.load(Ordering::Relaxed);
        let unseen = self.callers.unseen.load(Ordering::Relaxed);
        let changed = changes - std::mem::replace(&mut self.changes, changes);
        let unseen = unseen - std::mem::replace(&mut self.unseen, unseen);
        changed + unseen <= MOST_CHANGES
    }

    /// Goes to this CPU with all of these threads; whether they are there now.
    pub(super) fn gather(&mut self, servers: &[Arc<Server>], cpu: usize) -> bool {
        let is_there = |there: &Gathered| there.cpu == cpu && there.threads.len() == servers.len();
        if self.gathered.as_ref().is_some_and(is_there) {
            return true;
        }
        let mut gathered = self.gathered.take().unwrap_or(Gathered { cpu, threads: Vec::new() });
        gathered.cpu = cpu;
        let known = gathered.threads.len();
        let gone = gathered.take_in(&servers[known..]).and_then(|()| gathered.go());
        self.gathered = Some(gathered);
        match gone {
            Ok(()) => true,
            Err(error) => {
                log::debug!("the threads do not go to CPU {cpu}: {error}");
                self.disperse();
                false
            }
        }
    }

    /// Lets all threads run where they did.
    pub(super) fn disperse(&mut self) {
        for (server, home) in self.gathered.take().into_iter().flat_map(|there| there.threads) {
            if let Err(error) = server.thread.bind(&home).or_else(|_| server.thread.bind(&all())) {
                log::error!("a thread that serves requests stays bound to one CPU: {error}");
            }
        }
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
        let mut there = CpuSet::new();
        there.set(self.cpu);
        self.threads.iter().try_for_each(|(server, _)| server.thread.bind(&there))
    }
}

/// All CPUs, of which the kernel takes those that the process may have.
fn all() -> CpuSet {
    let mut all = CpuSet::new();
    (0..CpuSet::MAX_CPU).for_each(|cpu| all.set(cpu));
    all
}

/// A thread that is not to be seen from here.
const NOBODY: u32 = 0;
/// Of the caller in a period. At the second one somebody has come back, or a third one has come.
const MOST_CHANGES: u64 = 1;

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use rustix::thread::gettid;

    use super::*;
    use crate::sys::scheduling::Thread;

    fn own_number() -> u32 {
        gettid().as_raw_nonzero().get().cast_unsigned()
    }

    #[test]
    fn one_caller_alone_is_told_from_several() {
        let callers = Arc::new(Callers::new(Arc::default()));
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

    #[test]
    fn threads_go_to_one_cpu_and_back() {
        let callers = Arc::new(Callers::new(Arc::default()));
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
        following.disperse();
        assert_eq!(own.cpus().unwrap(), home);

        let nowhere = CpuSet::MAX_CPU - 1;
        if !home.is_set(nowhere) {
            assert!(!following.gather(&following.servers_after(0)[..1], nowhere));
            assert_eq!(own.cpus().unwrap(), home);
        }
    }
}
