//! When and where the kernel lets threads run.

use std::io;

use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_setaffinity};

/// How the kernel treats a thread that wants a CPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// `SCHED_OTHER`: it gets its share.
    Usual,
    /// `SCHED_IDLE`: it gives way at once to whoever has another policy, and gets next to nothing
    /// where others want the CPU. A CPU that runs nothing else counts as free.
    Idle,
}

impl Policy {
    /// How a thread is treated; `None` for yet another policy.
    pub fn of(thread: Pid) -> io::Result<Option<Self>> {
        // SAFETY: no memory is involved.
        match unsafe { libc::sched_getscheduler(thread.as_raw_nonzero().get()) } {
            -1 => Err(io::Error::last_os_error()),
            libc::SCHED_OTHER => Ok(Some(Self::Usual)),
            libc::SCHED_IDLE => Ok(Some(Self::Idle)),
            _ => Ok(None),
        }
    }

    /// Has a thread of this process treated like that.
    ///
    /// # Errors
    /// `ESRCH` when it has ended: its number may be that of a thread elsewhere by then.
    pub fn set(self, thread: Pid) -> io::Result<()> {
        check_own(thread)?;
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

/// Whether this process may change the policy of its threads and back: without `CAP_SYS_NICE`,
/// or an `RLIMIT_NICE` that allows it, there is no way back. Also false where the process was
/// given another policy than the usual one.
pub fn may_change_policy() -> bool {
    if !matches!(Policy::of(rustix::thread::gettid()), Ok(Some(Policy::Usual))) {
        return false;
    }
    // A thread that does not come back ends at once.
    let tried = std::thread::spawn(|| {
        let own = rustix::thread::gettid();
        Policy::Idle.set(own).and_then(|()| Policy::Usual.set(own))
    });
    tried.join().is_ok_and(|changed| changed.is_ok())
}

/// Lets a thread of this process run on these CPUs only.
///
/// # Errors
/// As [`Policy::set`].
pub fn bind(thread: Pid, cpus: &CpuSet) -> io::Result<()> {
    check_own(thread)?;
    Ok(sched_setaffinity(Some(thread), cpus)?)
}

/// The CPU that a thread of any process runs on, or ran on last. `None` once it is gone, or where
/// it is not to be seen.
pub fn cpu_of(thread: u32) -> Option<usize> {
    field_of(&format!("/proc/{thread}"), PROCESSOR)?.parse().ok()
}

/// Whether a thread of this process is running or waits for a CPU. False once it is gone.
pub fn is_runnable(thread: Pid) -> bool {
    field_of(&own(thread), STATE).is_some_and(|state| state == "R")
}

fn check_own(thread: Pid) -> io::Result<()> {
    match std::fs::exists(own(thread))? {
        true => Ok(()),
        false => Err(io::Error::from_raw_os_error(libc::ESRCH)),
    }
}

fn own(thread: Pid) -> String {
    format!("/proc/self/task/{}", thread.as_raw_nonzero())
}

fn field_of(directory: &str, field: usize) -> Option<String> {
    let text = std::fs::read_to_string(format!("{directory}/stat")).ok()?;
    // The name before it, in parentheses, may hold anything.
    let (_, fields) = text.rsplit_once(") ")?;
    fields.split_ascii_whitespace().nth(field - FIRST_AFTER_NAME).map(str::to_owned)
}

/// Fields of `/proc/PID/stat` by their numbers in proc_pid_stat(5).
const FIRST_AFTER_NAME: usize = 3;
const STATE: usize = 3;
const PROCESSOR: usize = 39;

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
        let own = rustix::thread::gettid();
        Policy::Idle.set(own).unwrap();
        assert_eq!(Policy::of(own).unwrap(), Some(Policy::Idle));
        assert!(!may_change_policy());
        Policy::Usual.set(own).unwrap();
        assert_eq!(Policy::of(own).unwrap(), Some(Policy::Usual));
    }

    #[test]
    fn who_runs_is_told_from_who_waits() {
        assert!(is_runnable(rustix::thread::gettid()));
        let (tell, told) = channel();
        let ends = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| {
                tell.send(rustix::thread::gettid()).unwrap();
                while !ends.load(Ordering::Acquire) {
                    std::thread::park();
                }
            });
            let waits = told.recv().unwrap();
            while is_runnable(waits) {
                std::thread::yield_now();
            }
            ends.store(true, Ordering::Release);
            waiting.thread().unpark();
        });
        let gone = std::thread::spawn(rustix::thread::gettid).join().unwrap();
        while std::fs::exists(super::own(gone)).unwrap() {
            std::thread::yield_now();
        }
        assert!(!is_runnable(gone));
        let refused = Policy::Usual.set(gone).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::ESRCH));
    }
}
