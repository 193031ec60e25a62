//! Threads that stand aside for those whom they serve.
//!
//! Whoever waits for an answer is woken by the thread that gives it, and that is still running
//! then: the kernel finds the CPU taken and wakes the other one on the next that sleeps. Its next
//! request is served there, and so on. Each of them costs the waking of a CPU, several times
//! all the rest. But a CPU that runs nothing except threads of the policy `SCHED_IDLE` counts as
//! free: who is woken by one of those goes on where it was.
//!
//! Where others want the CPU as well such a thread hardly comes to run. So it has that policy only
//! while requests follow one another, and a watch takes it away when one has wanted to run for two
//! periods and has served nobody. A request waits no longer for that than some ten milliseconds,
//! and what it holds a lock of no longer either; and it is not tried again at once.
//!
//! No thread stands aside while the watch sleeps, and none does when it has ended.

mod follow;
mod judge;

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use self::follow::Following;
use self::judge::{Good, Judge, QUICK, Seen};
use crate::sys::scheduling::{self, Policy, Thread, Whereabouts};

pub(super) use self::follow::Callers;

/// A thread that serves requests.
#[derive(Debug)]
pub(super) struct Server {
    thread: Thread,
    served: AtomicU64,
    /// Those of them that moved much, for whoever waits for that.
    bulky: AtomicU64,
    /// Those that the kernel sent by itself, and of these those that moved much.
    written_back: AtomicU64,
    bulky_back: AtomicU64,
    latest_caller: AtomicU32,
    /// How often that was another one than before.
    changes: AtomicU64,
    bell: Arc<Bell>,
}

/// What is to be known of a request.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Request {
    /// The thread that it comes from; 0 for one that is not to be seen from here.
    pub(super) caller: u32,
    /// It moves so much that the caller had better go on meanwhile.
    pub(super) is_bulky: bool,
    /// The kernel sends it by itself, with what somebody has written before.
    pub(super) is_written_back: bool,
}

/// Calls the watch when there is something to see.
#[derive(Debug, Default)]
pub(super) struct Bell {
    watch: OnceLock<thread::Thread>,
    is_awake: AtomicBool,
    /// The caller has left the threads that go where it is.
    has_moved: AtomicBool,
    is_over: AtomicBool,
}

/// Has threads stand aside when that is good, until it is dropped.
pub(super) struct Watch {
    bell: Arc<Bell>,
    thread: Option<JoinHandle<()>>,
}

/// Threads that stand aside together. When it is dropped none of them does.
pub(super) struct Group {
    servers: Vec<Arc<Server>>,
    /// What is known of each of them.
    known: Vec<Known>,
    /// So many of them have the policy for it, or may have.
    idle: usize,
    /// They could not come back, which was told.
    is_stuck: bool,
    following: Option<Following>,
    judge: Judge,
}

#[derive(Debug, Clone, Copy, Default)]
struct Known {
    served: u64,
    bulky: u64,
    written_back: u64,
    bulky_back: u64,
    changes: u64,
    /// What it has served in the last period.
    lately: u64,
    /// How often it wanted to run and had served next to nothing, less one for each time that this
    /// was not so.
    wanting: u32,
}

/// What threads have done in a period.
#[derive(Debug, Clone, Copy, Default)]
struct Lately {
    served: u64,
    bulky: u64,
    written_back: u64,
    bulky_back: u64,
    changes: u64,
}

impl Server {
    /// The calling thread. `None` where it could not be watched.
    pub(super) fn of_this_thread(bell: Arc<Bell>) -> Option<Self> {
        let thread = Thread::current();
        let thread = thread.inspect_err(|error| log::debug!("a thread is not watched: {error}"));
        Some(Self {
            thread: thread.ok()?,
            served: AtomicU64::default(),
            bulky: AtomicU64::default(),
            written_back: AtomicU64::default(),
            bulky_back: AtomicU64::default(),
            latest_caller: AtomicU32::new(NOBODY),
            changes: AtomicU64::default(),
            bell,
        })
    }

    /// Notes that it serves a request.
    pub(super) fn note(&self, request: Request) {
        // It alone writes.
        let add = |counter: &AtomicU64| {
            let count = counter.load(Ordering::Relaxed) + 1;
            counter.store(count, Ordering::Relaxed);
            count
        };
        if request.is_bulky {
            add(if request.is_written_back { &self.bulky_back } else { &self.bulky });
        }
        if request.is_written_back {
            add(&self.written_back);
        }
        if request.caller != NOBODY && request.caller != self.latest_caller.load(Ordering::Relaxed)
        {
            self.latest_caller.store(request.caller, Ordering::Relaxed);
            add(&self.changes);
        }
        if add(&self.served).is_multiple_of(CALL_EVERY) {
            self.bell.ring();
        }
    }
}

impl Bell {
    /// Whether there is a watch.
    fn is_heard(&self) -> bool {
        self.watch.get().is_some()
    }

    fn ring(&self) {
        if !self.is_awake.load(Ordering::Relaxed)
            && let Some(watch) = self.watch.get()
        {
            self.is_awake.store(true, Ordering::Relaxed);
            watch.unpark();
        }
    }

    /// Has the threads go after their caller.
    fn call(&self) {
        if let Some(watch) = self.watch.get() {
            self.has_moved.store(true, Ordering::Release);
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
        let go_on = groups.iter_mut().fold(false, |go_on, group| group.look(now) | go_on);
        if go_on {
            let until = now + PERIOD;
            while let Some(left) = until.checked_duration_since(Instant::now()) {
                thread::park_timeout(left);
                if bell.has_moved.swap(false, Ordering::Acquire) {
                    groups.iter_mut().for_each(|group| group.go_after(now));
                } else {
                    break;
                }
            }
        } else {
            bell.is_awake.store(false, Ordering::Relaxed);
            thread::park();
            // What has come since is not of one period.
            groups.iter_mut().for_each(Group::skip);
            let is_enough = || {
                let has_enough = |group: &Group| group.has_served() >= QUICK;
                bell.is_over.load(Ordering::Acquire) || groups.iter().any(has_enough)
            };
            first_period(is_enough, thread::park_timeout);
        }
    }
}

/// Waits for a period, or less where enough comes earlier.
fn first_period(is_enough: impl Fn() -> bool, mut wait: impl FnMut(Duration)) {
    for _ in 0..FIRST_LOOKS {
        wait(PERIOD / FIRST_LOOKS);
        if is_enough() {
            break;
        }
    }
}

impl Group {
    /// Threads that are bound to one CPU.
    pub(super) fn bound(servers: Vec<Arc<Server>>) -> Self {
        Self::of(servers, None)
    }

    /// Threads that go where their caller is.
    pub(super) fn following(callers: Arc<Callers>) -> Self {
        Self::of(Vec::new(), Some(Following::new(callers)))
    }

    fn of(servers: Vec<Arc<Server>>, following: Option<Following>) -> Self {
        Self {
            servers,
            known: Vec::new(),
            idle: 0,
            is_stuck: false,
            following,
            judge: Judge::default(),
        }
    }

    /// Sees to it that the threads stand aside, or do not; whether that is to be seen to again
    /// after the next period.
    fn look(&mut self, now: Instant) -> bool {
        let lately = self.learn();
        let (good, place) = self.judge_lately(now, lately);
        let seen = self.see(lately, good);
        let decided = self.judge.next(now, seen);
        if let Some(aside) = decided {
            log::trace!("threads stand aside: {aside}, at {place:?} after {seen:?}");
        }
        if self.judge.is_aside() {
            self.stand_aside_or_not(now, place);
        } else if self.is_elsewhere() {
            self.come_back();
        }
        self.judge.is_about_it() || lately.served >= QUICK || self.is_elsewhere()
    }

    /// Takes no notice of what has come since the last look.
    fn skip(&mut self) {
        self.learn();
        self.has_one_caller();
        if let Some(following) = &mut self.following {
            following.begin_turns();
        }
    }

    /// How much has come since the last look.
    fn has_served(&self) -> u64 {
        let known = self.servers.iter().zip(&self.known);
        let since = |(server, known): (&Arc<Server>, &Known)| {
            server.served.load(Ordering::Relaxed) - known.served
        };
        known.map(since).sum()
    }

    /// Whether it is good to stand aside now, and on which CPU if not where the threads are.
    fn judge_lately(&mut self, now: Instant, lately: Lately) -> (Good, Option<usize>) {
        let is_much = |bulky| bulky >= 2 && bulky * MOST_BULKY > lately.served;
        let has_one_caller = self.has_one_caller();
        let is_due = lately.served >= QUICK && self.judge.may(now);
        let is_aside = self.judge.is_aside();
        let Some(following) = &mut self.following else {
            let good = if is_much(lately.bulky) { Good::No } else { Good::Yes };
            return (good, None);
        };
        // One that comes just now may be counted as written back, and not yet as served.
        let asked_for = lately.served.saturating_sub(lately.written_back);
        let is_by_itself = lately.written_back >= FEW
            && asked_for * MOST_BY_ITSELF < lately.written_back
            || is_much(lately.bulky_back);
        let waits = match is_due {
            true => following.is_waited_for(asked_for),
            false => {
                following.skip_turns();
                None
            }
        };
        match waits {
            _ if is_much(lately.bulky) || !has_one_caller => (Good::No, None),
            // What the kernel sends by itself it sends to all CPUs at once.
            _ if is_by_itself => (Good::NotNow, None),
            Some(false) => (Good::No, None),
            None if !is_due => (Good::Yes, None),
            None if !is_aside => (Good::NotNow, None),
            _ => match following.place() {
                None => (Good::NotNow, None),
                place => (Good::Yes, place),
            },
        }
    }

    fn has_one_caller(&mut self) -> bool {
        self.following.as_mut().is_none_or(Following::has_one_caller)
    }

    /// The caller has moved.
    fn go_after(&mut self, now: Instant) {
        if self.judge.is_aside()
            && let Some(cpu) = self.following.as_ref().and_then(Following::place)
        {
            self.stand_aside_or_not(now, Some(cpu));
        }
    }

    fn stand_aside_or_not(&mut self, now: Instant, place: Option<usize>) {
        if !self.stand_aside(place) {
            self.judge.put_off(now);
            self.come_back();
        }
    }

    /// What the threads have done since the last time.
    fn learn(&mut self) -> Lately {
        if let Some(following) = &self.following {
            self.servers.extend(following.servers_after(self.servers.len()));
        }
        self.known.resize(self.servers.len(), Known::default());
        let mut lately = Lately::default();
        for (server, known) in self.servers.iter().zip(&mut self.known) {
            let since = |counter: &AtomicU64, known: &mut u64| {
                let count = counter.load(Ordering::Relaxed);
                count - std::mem::replace(known, count)
            };
            known.lately = since(&server.served, &mut known.served);
            lately.served += known.lately;
            lately.bulky += since(&server.bulky, &mut known.bulky);
            lately.written_back += since(&server.written_back, &mut known.written_back);
            lately.bulky_back += since(&server.bulky_back, &mut known.bulky_back);
            lately.changes += since(&server.changes, &mut known.changes);
        }
        lately
    }

    fn see(&mut self, lately: Lately, good: Good) -> Seen {
        let Lately { served, changes, .. } = lately;
        let others = self.following.as_ref().map_or(changes > 0, Following::has_others);
        let (mut wants, mut runs, mut caller_runs) = (false, false, true);
        let is_about_it = self.judge.is_about_it();
        for (server, known) in self.servers.iter().zip(&mut self.known) {
            let is_slow = known.lately == 0 || served < FEW;
            if !(is_about_it && is_slow && server.thread.is_runnable()) {
                known.wanting = known.wanting.saturating_sub(1);
                continue;
            }
            known.wanting += 1;
            runs = true;
            if known.wanting >= MOST_WANTING {
                (known.wanting, wants) = (0, true);
                let caller = match &self.following {
                    Some(following) => following.latest_caller(),
                    None => server.latest_caller.load(Ordering::Relaxed),
                };
                caller_runs &= Whereabouts::of(caller).is_some_and(|caller| caller.is_runnable);
            }
        }
        Seen { served, good, wants, runs, caller_runs, others }
    }

    /// Has all threads do so; false where that cannot be.
    fn stand_aside(&mut self, place: Option<usize>) -> bool {
        if let (Some(cpu), Some(following)) = (place, &mut self.following)
            && !following.gather(&self.servers, cpu)
        {
            return false;
        }
        if self.idle < self.servers.len() {
            self.idle = self.servers.len();
            if let Err(error) = self.set(Policy::Idle) {
                log::debug!("threads do not stand aside: {error}");
                return false;
            }
        }
        true
    }

    /// Whether any thread is not as it was before, or may not be.
    fn is_elsewhere(&self) -> bool {
        self.idle > 0 || self.following.as_ref().is_some_and(Following::is_gathered)
    }

    fn come_back(&mut self) {
        let usual = self.set(Policy::Usual);
        let dispersed = self.following.as_mut().map_or(Ok(()), Following::disperse);
        if usual.is_ok() {
            self.idle = 0;
        }
        match usual.and(dispersed) {
            Ok(()) => self.is_stuck = false,
            Err(error) if !self.is_stuck => {
                self.is_stuck = true;
                log::error!("threads that serve requests go on standing aside: {error}");
            }
            Err(_) => {}
        }
    }

    /// Tries it with all, and tells the last failure.
    fn set(&self, policy: Policy) -> io::Result<()> {
        let mut all = Ok(());
        for server in &self.servers {
            all = server.thread.set_policy(policy).and(all);
        }
        all
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.come_back();
    }
}

/// A thread that is not to be seen from here.
const NOBODY: u32 = 0;
/// So many requests of a thread wake the watch.
const CALL_EVERY: u64 = 32;
const PERIOD: Duration = Duration::from_millis(4);
/// How often it is looked in the first period whether enough has come.
const FIRST_LOOKS: u32 = 4;
/// Fewer requests than that in a period are few for threads that want to run.
const FEW: u64 = 8;
/// To want to run once says little: who has just been called by somebody who came from another CPU
/// does so too.
const MOST_WANTING: u32 = 2;
/// So many requests may the kernel send by itself for each that somebody waits for.
const MOST_BY_ITSELF: u64 = 4;
/// One request in so many may move much.
const MOST_BULKY: u64 = 8;

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    fn wait_until(holds: impl Fn() -> bool) -> bool {
        let start = Instant::now();
        while !holds() {
            if start.elapsed() > Duration::from_secs(60) {
                return false;
            }
            thread::sleep(Duration::from_millis(1));
        }
        true
    }

    #[test]
    fn a_thread_stands_aside_while_requests_follow_one_another() {
        if !scheduling::may_change_policy() {
            println!("skipped: this process may not change the policy of its threads");
            return;
        }
        let bell = Arc::new(Bell::default());
        let (busy, ends) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicBool::new(false)));
        let (tell, told) = channel();
        let of_it = (Arc::clone(&bell), Arc::clone(&busy), Arc::clone(&ends));
        let serving = thread::spawn(move || {
            let (bell, busy, ends) = of_it;
            let server = Arc::new(Server::of_this_thread(bell).unwrap());
            tell.send(Arc::clone(&server)).unwrap();
            while !ends.load(Ordering::Acquire) {
                if busy.load(Ordering::Acquire) {
                    server.note(Request::default());
                }
                thread::sleep(Duration::from_micros(10));
            }
        });
        let server = told.recv().unwrap();
        let is = |policy| server.thread.policy().unwrap() == Some(policy);
        let group = Group::bound(vec![Arc::clone(&server)]);
        let watch = Watch::start(Arc::clone(&bell), vec![group]).unwrap();
        for _ in 0..2 {
            assert!(wait_until(|| is(Policy::Idle)));
            busy.store(false, Ordering::Release);
            assert!(wait_until(|| is(Policy::Usual)));
            assert!(wait_until(|| !bell.is_awake.load(Ordering::Acquire)));
            busy.store(true, Ordering::Release);
        }
        assert!(wait_until(|| is(Policy::Idle)));
        drop(watch);
        assert!(is(Policy::Usual));
        ends.store(true, Ordering::Release);
        serving.join().unwrap();
    }

    /// Callers whom somebody watches, and the threads that go where they are.
    fn followed() -> (Arc<Callers>, Group) {
        let bell = Arc::new(Bell::default());
        bell.watch.get_or_init(thread::current);
        let callers = Arc::new(Callers::new(bell));
        (Arc::clone(&callers), Group::following(callers))
    }

    /// Found by review: it was hidden by others of the group that served.
    #[test]
    fn one_that_wants_to_run_is_seen_beside_others_that_serve() {
        let bell = Arc::new(Bell::default());
        let servers: Vec<_> =
            (0..2).map(|_| Arc::new(Server::of_this_thread(Arc::clone(&bell)).unwrap())).collect();
        let mut group = Group::bound(servers.clone());
        let mut serve = |times, which: usize| {
            (0..times).for_each(|_| servers[which].note(Request::default()));
            let lately = group.learn();
            let seen = group.see(lately, Good::Yes);
            group.judge.next(Instant::now(), seen)
        };
        assert_eq!(serve(QUICK, 0), Some(true));
        // Both are this thread, which runs. The second one has served nobody.
        assert_eq!(serve(1000, 0), None);
        assert_eq!(serve(1000, 0), Some(false));
    }

    #[test]
    fn threads_that_move_much_do_not_stand_aside() {
        let bell = Arc::new(Bell::default());
        let server = Arc::new(Server::of_this_thread(bell).unwrap());
        let mut group = Group::bound(vec![Arc::clone(&server)]);
        let bulky = Request { is_bulky: true, ..Request::default() };
        (0..QUICK).for_each(|_| server.note(Request::default()));
        (0..QUICK / MOST_BULKY + 1).for_each(|_| server.note(bulky));
        group.look(Instant::now());
        assert!(!group.judge.is_aside());
        assert_eq!(server.thread.policy().unwrap(), Some(Policy::Usual));
    }

    #[test]
    fn what_is_written_back_is_not_good_for_the_moment() {
        let (callers, mut group) = followed();
        let mut good = |requests: &[(u64, Request)]| {
            for (times, request) in requests {
                (0..*times).for_each(|_| callers.note(*request));
            }
            let lately = group.learn();
            group.judge_lately(Instant::now(), lately).0
        };
        let asked = Request { caller: 7, ..Request::default() };
        let back = Request { caller: NOBODY, is_written_back: true, is_bulky: false };
        assert_eq!(good(&[(FEW, asked), (1, back)]), Good::Yes, "a file that was closed");
        assert_eq!(good(&[(1, asked), (FEW, back)]), Good::NotNow);
        let bulky = Request { is_bulky: true, ..back };
        assert_eq!(good(&[(FEW, asked), (3, bulky)]), Good::NotNow);
        assert_eq!(good(&[(FEW, asked), (3, Request { is_bulky: true, ..asked })]), Good::No);
        let other = Request { caller: 8, ..asked };
        assert_eq!(good(&[(1, other), (1, asked)]), Good::No);
        assert!(group.following.as_ref().unwrap().has_others());
    }

    #[test]
    fn at_the_first_look_it_is_known_whether_the_caller_waits() {
        let (callers, mut group) = followed();
        let own = Request { caller: scheduling::own_number(), ..Request::default() };
        callers.note(own);
        group.skip();
        assert_eq!(group.has_served(), 0);
        for _ in 0..QUICK {
            callers.note(own);
            thread::sleep(Duration::from_micros(50));
        }
        assert_eq!(group.has_served(), QUICK);
        let waits = group.following.as_mut().unwrap().is_waited_for(QUICK);
        match scheduling::turns(scheduling::own_number()) {
            Some(_) => assert_eq!(waits, Some(true)),
            None => println!("skipped: this kernel does not count how often a thread runs"),
        }
    }

    #[test]
    fn the_first_period_ends_when_enough_has_come() {
        for (enough_after, waits) in [(1, 1), (3, 3), (100, FIRST_LOOKS)] {
            let waited = std::cell::Cell::new((0, Duration::ZERO));
            let wait = |time| waited.set((waited.get().0 + 1, waited.get().1 + time));
            first_period(|| waited.get().0 >= enough_after, wait);
            assert_eq!(waited.get(), (waits, PERIOD / FIRST_LOOKS * waits));
        }
    }
}
