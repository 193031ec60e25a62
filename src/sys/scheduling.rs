//! When and where the kernel lets threads run.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use rustix::process::{Pid, getpid};
use rustix::thread::{CpuSet, gettid, sched_getaffinity, sched_setaffinity};

/// How the kernel treats a thread that wants a CPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// `SCHED_OTHER`: it gets its share.
    Usual,
    /// `SCHED_IDLE`: where others of its group want the CPU it gives way at once, and gets next to
    /// nothing of it. A CPU that runs nothing else counts as free, whatever the groups.
    Idle,
}

/// A thread of this process, as the others see it. Its number is never taken for that of a thread
/// that came after it.
#[derive(Debug)]
pub struct Thread {
    id: Pid,
    /// `/proc/self/task/ID/stat`; open, so that nothing is needed to read it.
    stat: File,
}

/// What a thread of any process is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Whereabouts {
    /// The CPU that it runs on, or ran on last.
    pub cpu: usize,
    /// It runs, or waits for a CPU.
    pub is_runnable: bool,
}

impl Policy {
    fn of(thread: Pid) -> io::Result<Option<Self>> {
        // SAFETY: no memory is involved.
        match unsafe { libc::sched_getscheduler(thread.as_raw_nonzero().get()) } {
            -1 => Err(io::Error::last_os_error()),
            libc::SCHED_OTHER => Ok(Some(Self::Usual)),
            libc::SCHED_IDLE => Ok(Some(Self::Idle)),
            _ => Ok(None),
        }
    }

    fn set(self, thread: Pid) -> io::Result<()> {
        let policy = match self {
            Self::Usual => libc::SCHED_OTHER,
            Self::Idle => libc::SCHED_IDLE,
        };
        let parameters = libc::sched_param { sched_priority: 0 };
        let thread = thread.as_raw_nonzero().get();
        // SAFETY: reads `parameters`, which outlives the call, and changes no memory.
        match unsafe { libc::sched_setscheduler(thread, policy, &raw const parameters) } {
            -1 => Err(io::Error::last_os_error()),
            _ => Ok(()),
        }
    }
}

impl Thread {
    /// The calling one.
    pub fn current() -> io::Result<Self> {
        Ok(Self { id: gettid(), stat: File::open("/proc/thread-self/stat")? })
    }

    /// Whether it runs or waits for a CPU. Where that is not to be found out it may.
    pub fn is_runnable(&self) -> bool {
        match self.whereabouts() {
            Ok(found) => found.is_none_or(|found| found.is_runnable),
            Err(error) => !is_gone(&error),
        }
    }

    /// How it is treated; `None` for yet another policy.
    pub fn policy(&self) -> io::Result<Option<Policy>> {
        Policy::of(self.id)
    }

    /// Has it treated like that, if it is treated like the other. Not once it has ended.
    pub fn set_policy(&self, policy: Policy) -> io::Result<()> {
        let other = match policy {
            Policy::Usual => Policy::Idle,
            Policy::Idle => Policy::Usual,
        };
        match self.has_ended() || self.policy()? != Some(other) {
            true => Ok(()),
            false => policy.set(self.id),
        }
    }

    /// The CPUs that it may run on.
    pub fn cpus(&self) -> io::Result<CpuSet> {
        Ok(sched_getaffinity(Some(self.id))?)
    }

    /// Lets it run on these CPUs only. Not once it has ended.
    pub fn bind(&self, cpus: &CpuSet) -> io::Result<()> {
        match self.has_ended() {
            true => Ok(()),
            false => Ok(sched_setaffinity(Some(self.id), cpus)?),
        }
    }

    fn has_ended(&self) -> bool {
        self.whereabouts().is_err_and(|error| is_gone(&error))
    }

    fn whereabouts(&self) -> io::Result<Option<Whereabouts>> {
        let mut text = [0; STAT_LEN];
        let len = self.stat.read_at(&mut text, 0)?;
        Ok(Whereabouts::parse(&text[..len]))
    }
}

impl Whereabouts {
    /// Of a thread. `None` once it is gone, or where it is not to be seen.
    pub fn of(thread: u32) -> Option<Self> {
        // In its process's own directory the kernel adds up what all its threads have done.
        Self::parse(&std::fs::read(format!("/proc/{thread}/task/{thread}/stat")).ok()?)
    }

    /// From a `stat` file, as proc_pid_stat(5) has it.
    fn parse(text: &[u8]) -> Option<Self> {
        // The name before the third field, in parentheses, may hold anything.
        let after_name = text.iter().rposition(|byte| *byte == b')')? + 1;
        let fields = std::str::from_utf8(&text[after_name..]).ok()?;
        let mut fields = fields.split_ascii_whitespace();
        let is_runnable = fields.next()? == "R";
        Some(Self { cpu: fields.nth(PROCESSOR - 4)?.parse().ok()?, is_runnable })
    }
}

/// This CPU alone.
pub fn only(cpu: usize) -> CpuSet {
    let mut cpus = CpuSet::new();
    cpus.set(cpu);
    cpus
}

/// The number of the calling thread, as [`Whereabouts::of`] and [`turns`] take it.
pub fn own_number() -> u32 {
    gettid().as_raw_nonzero().get().cast_unsigned()
}

/// How often a thread of any process has come to run, so far. `None` once it is gone, or where the
/// kernel does not count that.
pub fn turns(thread: u32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{thread}/task/{thread}/schedstat")).ok()?;
    let turns = text.split_ascii_whitespace().nth(2)?.parse().ok()?;
    Some(turns).filter(|turns| *turns > 0)
}

/// Whether this process may change the policy of its threads and back: without `CAP_SYS_NICE`,
/// or an `RLIMIT_NICE` that allows it, there is no way back. Also false where the process was
/// given another policy than the usual one.
pub fn may_change_policy() -> bool {
    if !matches!(Policy::of(gettid()), Ok(Some(Policy::Usual))) {
        return false;
    }
    // A thread that does not come back ends at once.
    let tried = std::thread::spawn(|| {
        let own = gettid();
        Policy::Idle.set(own).and_then(|()| Policy::Usual.set(own))
    });
    tried.join().is_ok_and(|changed| changed.is_ok())
}

/// Has the calling thread treated as the first one of the process is, whatever that was treated as
/// which has started it.
pub fn treat_as_first() -> io::Result<()> {
    let (own, first) = (gettid(), getpid());
    sched_setaffinity(None, &sched_getaffinity(Some(first))?)?;
    match (Policy::of(own)?, Policy::of(first)?) {
        (Some(Policy::Idle), Some(Policy::Usual)) => Policy::Usual.set(own),
        _ => Ok(()),
    }
}

fn is_gone(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ESRCH)
}

/// The number of the field that tells the CPU.
const PROCESSOR: usize = 39;
/// Fifty-two fields of up to 20 digits and a name.
const STAT_LEN: usize = 1200;

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn a_policy_is_changed_and_changed_back() {
        if !may_change_policy() {
            println!("skipped: this process may not change the policy of its threads");
            return;
        }
        let own = Thread::current().unwrap();
        own.set_policy(Policy::Idle).unwrap();
        assert_eq!(own.policy().unwrap(), Some(Policy::Idle));
        assert!(!may_change_policy());
        own.set_policy(Policy::Usual).unwrap();
        assert_eq!(own.policy().unwrap(), Some(Policy::Usual));
    }

    /// A thread that a serving one starts inherits what that was treated as.
    #[test]
    fn a_thread_is_treated_as_the_first_one() {
        if !may_change_policy() {
            println!("skipped: this process may not change the policy of its threads");
            return;
        }
        let own = Thread::current().unwrap();
        let all = own.cpus().unwrap();
        let last = (0..CpuSet::MAX_CPU).rfind(|cpu| all.is_set(*cpu)).unwrap();
        let one = only(last);
        own.bind(&one).unwrap();
        own.set_policy(Policy::Idle).unwrap();
        let started = std::thread::spawn(|| {
            let own = Thread::current().unwrap();
            let inherited = (own.policy().unwrap(), own.cpus().unwrap());
            treat_as_first().unwrap();
            (inherited, (own.policy().unwrap(), own.cpus().unwrap()))
        });
        let (inherited, then) = started.join().unwrap();
        own.set_policy(Policy::Usual).unwrap();
        own.bind(&all).unwrap();
        assert_eq!(inherited, (Some(Policy::Idle), one));
        assert_eq!(then, (Some(Policy::Usual), all));
    }

    #[test]
    fn who_runs_is_told_from_who_waits_and_who_has_ended() {
        assert!(Thread::current().unwrap().is_runnable());
        let (tell, told) = channel();
        let ends = AtomicBool::new(false);
        let gone = std::thread::scope(|scope| {
            let waiting = scope.spawn(|| {
                tell.send(Thread::current().unwrap()).unwrap();
                while !ends.load(Ordering::Acquire) {
                    std::thread::park();
                }
            });
            let waits = told.recv().unwrap();
            while waits.is_runnable() {
                std::thread::yield_now();
            }
            let id = waits.id.as_raw_nonzero().get().cast_unsigned();
            assert!(!Whereabouts::of(id).unwrap().is_runnable);
            ends.store(true, Ordering::Release);
            waiting.thread().unpark();
            waits
        });
        while !gone.has_ended() {
            std::thread::yield_now();
        }
        assert!(!gone.is_runnable());
        gone.set_policy(Policy::Idle).unwrap();
        gone.bind(&CpuSet::new()).unwrap();
    }

    #[test]
    fn who_waits_has_come_to_run_again() {
        let own = own_number();
        let Some(before) = turns(own) else {
            println!("skipped: this kernel does not count how often a thread comes to run");
            return;
        };
        for _ in 0..10 {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        // One may be over before it has begun.
        assert!(turns(own).unwrap() >= before + 5);
        assert_eq!(turns(u32::MAX), None);
    }

    #[test]
    fn a_name_may_look_like_the_fields_after_it() {
        let stat = format!("7 (a) S (b) R {}17 6 0 5", "0 ".repeat(34));
        let found = Whereabouts::parse(stat.as_bytes()).unwrap();
        assert_eq!(found, Whereabouts { cpu: 6, is_runnable: true });
        assert_eq!(Whereabouts::parse(b"7 (a) R 1 2"), None);
        assert_eq!(Whereabouts::parse(b""), None);
        let own = Whereabouts::of(own_number());
        assert!(own.unwrap().is_runnable);
        assert_eq!(Whereabouts::of(u32::MAX), None);
    }
}
