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

mod follow;
mod judge;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle, Thread};
use std::time::{Duration, Instant};

use rustix::process::Pid;

use self::follow::{Following, Good};
use self::judge::Judge;
use crate::sys::scheduling::{self, Policy};

pub(super) use self::follow::Callers;

/// A thread that serves requests.
#[derive(Debug)]
pub(super) struct Server {
    thread: Pid,
    served: AtomicU64,
    bell: Arc<Bell>,
}

/// Calls the watch when there is something to see.
#[derive(Debug, Default)]
pub(super) struct Bell {
    watch: OnceLock<Thread>,
    is_awake: AtomicBool,
    is_over: AtomicBool,
}

/// Has threads stand aside when that is good, until it is dropped.
pub(super) struct Watch {
    bell: Arc<Bell>,
    thread: Option<JoinHandle<()>>,
}

/// Threads that stand aside together.
pub(super) struct Group {
    members: Members,
    served: u64,
    judge: Judge,
}

enum Members {
    Bound(Vec<Arc<Server>>),
    Following(Following),
}

impl Server {
    /// The calling thread.
    pub(super) fn of_this_thread(bell: Arc<Bell>) -> Self {
        Self { thread: rustix::thread::gettid(), served: AtomicU64::new(0), bell }
    }

    /// Notes that it serves a request.
    pub(super) fn note(&self) {
        // It alone writes.
        let served = self.served.load(Ordering::Relaxed) + 1;
        self.served.store(served, Ordering::Relaxed);
        if served.is_multiple_of(CALL_EVERY) {
            self.bell.ring();
        }
    }
}

impl Bell {
    fn ring(&self) {
        if !self.is_awake.load(Ordering::Relaxed)
            && let Some(watch) = self.watch.get()
        {
            self.is_awake.store(true, Ordering::Relaxed);
            watch.unpark();
        }
    }
}

impl Watch {
    /// Watches groups of threads that ring the bell. `None` where this process may not have them
    /// stand aside, and come back.
    pub(super) fn start(bell: Arc<Bell>, mut groups: Vec<Group>) -> Option<Self> {
        if !scheduling::may_change_policy() {
            log::debug!("threads do not stand aside: without CAP_SYS_NICE they may not come back");
            return None;
        }
        let heard = Arc::clone(&bell);
        let spawned = thread::Builder::new().name("aside".to_owned()).spawn(move || {
            heard.watch.get_or_init(thread::current);
            watch(&mut groups, &heard);
        });
        let thread = spawned.inspect_err(|error| log::debug!("no watch: {error}")).ok()?;
        Some(Self { bell, thread: Some(thread) })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.bell.is_over.store(true, Ordering::Release);
        let Some(thread) = self.thread.take() else { return };
        thread.thread().unpark();
        if thread.join().is_err() {
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
        group.come_back();
    }
}

impl Group {
    /// Threads that are bound to one CPU.
    pub(super) fn bound(servers: Vec<Arc<Server>>) -> Self {
        Self::of(Members::Bound(servers))
    }

    /// Threads that go where their caller is.
    pub(super) fn following(callers: Arc<Callers>) -> Self {
        Self::of(Members::Following(Following::new(callers)))
    }

    fn of(members: Members) -> Self {
        Self { members, served: 0, judge: Judge::default() }
    }

    /// Sees to it that the threads stand aside, or do not; whether that is to be seen to again
    /// after the next period.
    fn look(&mut self, now: Instant) -> bool {
        let servers = self.servers();
        let served = servers.iter().map(|server| server.served.load(Ordering::Relaxed)).sum();
        let lately = served - std::mem::replace(&mut self.served, served);
        let good = match &mut self.members {
            Members::Bound(_) => Good::Here,
            Members::Following(following) => following.look(lately),
        };
        let want = || servers.iter().any(|server| scheduling::is_runnable(server.thread));
        let decided = self.judge.next(now, lately, good != Good::No, want);
        if decided == Some(false) {
            self.come_back();
        } else if self.judge.is_aside() {
            let has_moved = match (good, &mut self.members) {
                (Good::On(cpu), Members::Following(following)) => following.gather(cpu),
                _ => false,
            };
            if has_moved || decided.is_some() {
                self.set(Policy::Idle);
            }
        }
        self.judge.goes_on(lately)
    }

    fn come_back(&mut self) {
        self.set(Policy::Usual);
        if let Members::Following(following) = &mut self.members {
            following.disperse();
        }
    }

    fn servers(&self) -> Vec<Arc<Server>> {
        match &self.members {
            Members::Bound(servers) => servers.clone(),
            Members::Following(following) => following.servers(),
        }
    }

    fn set(&self, policy: Policy) {
        for server in self.servers() {
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
/// Who wants to run and does not is helped after two or three of these.
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
        let (bell, (tell, told)) = (Arc::new(Bell::default()), channel());
        let (busy, ends) = (AtomicBool::new(true), AtomicBool::new(false));
        let until = |flag: &AtomicBool, value| flag.load(Ordering::Acquire) == value;
        thread::scope(|scope| {
            scope.spawn(|| {
                let server = Arc::new(Server::of_this_thread(Arc::clone(&bell)));
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
            let group = Group::bound(vec![Arc::clone(&server)]);
            let watch = Watch::start(Arc::clone(&bell), vec![group]).unwrap();
            for _ in 0..2 {
                wait_until(|| is(Policy::Idle));
                busy.store(false, Ordering::Release);
                wait_until(|| is(Policy::Usual));
                wait_until(|| until(&bell.is_awake, false));
                busy.store(true, Ordering::Release);
            }
            wait_until(|| is(Policy::Idle));
            drop(watch);
            assert!(is(Policy::Usual));
            ends.store(true, Ordering::Release);
        });
    }
}
