//! Threads that stand aside for those whom they answer.
//!
//! Whoever waits for an answer is woken by the thread that gives it, and that is still running
//! then: the kernel finds the CPU taken and wakes the other one on the next that sleeps. Its next
//! request is served there, and so on. Each of them costs the waking of a CPU, several times
//! all the rest. But a CPU that runs nothing except threads of the policy `SCHED_IDLE` counts as
//! free: who is woken by one of those goes on where it was.
//!
//! Where others want the CPU as well such a thread hardly comes to run. So it has that policy only
//! while requests follow one another, and a watch takes it away as soon as it wants to run and
//! does not.

mod judge;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle, Thread};
use std::time::{Duration, Instant};

use rustix::process::Pid;

use self::judge::Judge;
use crate::sys::scheduling::{self, Policy};

/// A thread that serves requests on one CPU.
#[derive(Debug)]
pub(super) struct Server {
    thread: Pid,
    served: AtomicU64,
    watch: OnceLock<Arc<Bell>>,
}

/// Calls the watch when there is something to see.
#[derive(Debug)]
struct Bell {
    thread: Thread,
    is_awake: AtomicBool,
    is_over: AtomicBool,
}

/// Has threads stand aside when that is good, until it is dropped.
pub(super) struct Watch {
    bell: Arc<Bell>,
    thread: Option<JoinHandle<()>>,
}

/// The threads that serve one CPU.
struct Group {
    servers: Vec<(Arc<Server>, u64)>,
    judge: Judge,
}

impl Server {
    /// The calling thread.
    pub(super) fn of_this_thread() -> Self {
        Self { thread: rustix::thread::gettid(), served: AtomicU64::new(0), watch: OnceLock::new() }
    }

    /// Notes that it serves a request.
    pub(super) fn note(&self) {
        // It alone writes.
        let served = self.served.load(Ordering::Relaxed) + 1;
        self.served.store(served, Ordering::Relaxed);
        if served.is_multiple_of(CALL_EVERY)
            && let Some(bell) = self.watch.get()
        {
            bell.ring();
        }
    }
}

impl Bell {
    fn ring(&self) {
        if !self.is_awake.load(Ordering::Relaxed) {
            self.is_awake.store(true, Ordering::Relaxed);
            self.thread.unpark();
        }
    }
}

impl Watch {
    /// Watches groups of threads, each of one CPU. `None` where this process may not have them
    /// stand aside, and come back.
    pub(super) fn start(groups: Vec<Vec<Arc<Server>>>) -> Option<Self> {
        if !scheduling::may_change_policy() {
            log::debug!("threads do not stand aside: without CAP_SYS_NICE they may not come back");
            return None;
        }
        let servers: Vec<_> = groups.iter().flatten().cloned().collect();
        let mut groups: Vec<_> = groups.into_iter().map(Group::new).collect();
        let known: Arc<OnceLock<Arc<Bell>>> = Arc::default();
        let told = Arc::clone(&known);
        let spawned = thread::Builder::new().name("aside".to_owned()).spawn(move || {
            let bell = loop {
                match told.get() {
                    Some(bell) => break bell,
                    None => thread::park(),
                }
            };
            watch(&mut groups, bell);
        });
        let thread = spawned.inspect_err(|error| log::debug!("no watch: {error}")).ok()?;
        let bell = Arc::new(Bell {
            thread: thread.thread().clone(),
            is_awake: AtomicBool::new(true),
            is_over: AtomicBool::new(false),
        });
        known.get_or_init(|| Arc::clone(&bell));
        bell.thread.unpark();
        for server in servers {
            server.watch.get_or_init(|| Arc::clone(&bell));
        }
        Some(Self { bell, thread: Some(thread) })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.bell.is_over.store(true, Ordering::Release);
        self.bell.thread.unpark();
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            log::error!("the watch of the threads that stand aside panicked");
        }
    }
}

fn watch(groups: &mut [Group], bell: &Bell) {
    while !bell.is_over.load(Ordering::Acquire) {
        let now = Instant::now();
        // Each is to be asked.
        let go_on = groups.iter_mut().filter_map(|group| group.look(now).then_some(())).count();
        if go_on > 0 {
            thread::park_timeout(PERIOD);
        } else {
            bell.is_awake.store(false, Ordering::Relaxed);
            thread::park();
        }
    }
    for group in groups {
        group.set(Policy::Usual);
    }
}

impl Group {
    fn new(servers: Vec<Arc<Server>>) -> Self {
        let servers = servers.into_iter().map(|server| (server, 0)).collect();
        Self { servers, judge: Judge::default() }
    }

    /// Sees to it that the threads stand aside, or do not; whether that is to be seen to again
    /// after the next period.
    fn look(&mut self, now: Instant) -> bool {
        let mut lately = 0;
        for (server, before) in &mut self.servers {
            let served = server.served.load(Ordering::Relaxed);
            lately += served - std::mem::replace(before, served);
        }
        let mut threads = self.servers.iter().map(|(server, _)| server.thread);
        let want = || threads.any(scheduling::is_runnable);
        if let Some(aside) = self.judge.next(now, lately, want) {
            self.set(if aside { Policy::Idle } else { Policy::Usual });
        }
        self.judge.goes_on(lately)
    }

    fn set(&self, policy: Policy) {
        for (server, _) in &self.servers {
            match policy.set(server.thread) {
                // It has ended.
                Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {}
                Err(error) => log::error!("a thread cannot be given another policy: {error}"),
                Ok(()) => {}
            }
        }
    }
}

/// So many requests of a thread wake the watch.
const CALL_EVERY: u64 = 32;
/// Who wants to run and does not is helped after this time at the latest, or twice of it.
const PERIOD: Duration = Duration::from_millis(4);

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    fn wait_until(holds: impl Fn() -> bool) {
        let start = Instant::now();
        while !holds() {
            assert!(start.elapsed() < Duration::from_secs(60));
            thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn a_thread_stands_aside_while_requests_follow_one_another() {
        if !scheduling::may_change_policy() {
            println!("skipped: this process may not change the policy of its threads");
            return;
        }
        let (tell, told) = channel();
        let (busy, ends) = (AtomicBool::new(true), AtomicBool::new(false));
        let until = |flag: &AtomicBool, value| flag.load(Ordering::Acquire) == value;
        thread::scope(|scope| {
            scope.spawn(|| {
                let server = Arc::new(Server::of_this_thread());
                tell.send(Arc::clone(&server)).unwrap();
                while !until(&ends, true) {
                    if until(&busy, true) {
                        server.note();
                    }
                    thread::sleep(Duration::from_micros(10));
                }
            });
            let server: Arc<Server> = told.recv().unwrap();
            let is = |policy| Policy::of(server.thread).unwrap() == Some(policy);
            let watch = Watch::start(vec![vec![Arc::clone(&server)]]).unwrap();
            for _ in 0..2 {
                wait_until(|| is(Policy::Idle));
                busy.store(false, Ordering::Release);
                wait_until(|| is(Policy::Usual));
                wait_until(|| !until(&watch.bell.is_awake, true));
                busy.store(true, Ordering::Release);
            }
            wait_until(|| is(Policy::Idle));
            drop(watch);
            assert!(is(Policy::Usual));
            ends.store(true, Ordering::Release);
        });
    }
}
