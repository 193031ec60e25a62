//! The daemon's threads stand aside for a caller whose requests follow one another, and come back.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ssefs::sys::process::Status;

use crate::harness::{Bench, needs_root, skip, succeed, wait_for};
use crate::transport::is_offered;

#[test]
fn threads_that_serve_stand_aside_while_one_caller_asks_and_come_back() {
    let Some(bench) = bench() else { return };
    for transport in ["classic", "uring"] {
        if transport == "uring" && !is_offered() {
            continue;
        }
        bench.mount(&["-o", &format!("transport={transport}")]);
        let daemon = Daemon(bench.daemon());
        assert!(daemon.is_as_usual());
        let found = while_called(&bench, &AtomicBool::default(), |bench, number| {
            assert!(!bench.file(format!("missing-{number}")).exists());
        });
        assert!(found, "{transport}: {:?}", daemon.threads());
        assert!(wait_for(LIMIT, || daemon.is_as_usual()), "{transport}: {:?}", daemon.threads());
        bench.unmount();
    }
}

#[test]
fn they_do_not_where_that_is_switched_off() {
    let Some(bench) = bench() else { return };
    bench.mount(&["-o", "stand_aside=off"]);
    for number in 0..20_000 {
        assert!(!bench.file(format!("missing-{number}")).exists());
    }
    let daemon = Daemon(bench.daemon());
    assert!(daemon.is_as_usual());
    assert!(daemon.threads().iter().all(|thread| thread.name != "aside"));
    bench.unmount();
}

/// Found by review: the thread that keeps leases of the audit log is started by one that serves,
/// at the second use of a key in quick succession.
#[test]
fn threads_that_they_start_do_not_inherit_it() {
    let Some(bench) = bench() else { return };
    let keystore = bench.keystore();
    let mut create = bench.ssefs(&["key", "create", "--alias", "alias/a", "--keystore"]);
    succeed(create.arg(keystore));
    let mount =
        || bench.mount(&["--mode", "kms", "--key-id", "alias/a", "-o", "transport=classic"]);
    mount();
    fs::write(bench.file("file"), b"text").unwrap();
    bench.unmount();
    mount();
    let daemon = Daemon(bench.daemon());
    let opens = AtomicBool::new(false);
    let found = while_called(&bench, &opens, |bench, number| match opens.load(Ordering::Relaxed) {
        false => assert!(!bench.file(format!("missing-{number}")).exists()),
        true => drop(File::open(bench.file("file")).unwrap()),
    });
    assert!(found, "{:?}", daemon.threads());
    let usual = Thread::of(&daemon.directory()).unwrap();
    let keeper_is_as_usual = || {
        let threads = daemon.threads();
        let mut keeper = threads.iter().filter(|thread| thread.name == "audit-lease");
        keeper.any(|thread| (thread.policy, &thread.cpus) == (USUAL, &usual.cpus))
    };
    assert!(wait_for(LIMIT, keeper_is_as_usual), "{:?}", daemon.threads());
    bench.unmount();
}

fn bench() -> Option<Bench> {
    if !needs_root() {
        return None;
    }
    if !ssefs::sys::scheduling::may_change_policy() {
        skip("this process may not change the policy of its threads");
        return None;
    }
    Bench::new()
}

/// Calls again and again, with a number that counts up; whether the threads that serve were seen
/// to stand aside meanwhile. `seen` is told then, and some more calls come after it.
fn while_called(bench: &Bench, seen: &AtomicBool, call: impl Fn(&Bench, u64) + Sync) -> bool {
    let daemon = Daemon(bench.daemon());
    let ends = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let calling = scope.spawn(|| {
            let (mut number, mut left) = (0, MORE_CALLS);
            while left > 0 {
                number += 1;
                left -= u32::from(ends.load(Ordering::Relaxed));
                call(bench, number);
            }
        });
        let stand_aside = |threads: &[Thread]| threads.iter().any(Thread::stands_aside);
        let found = wait_for(LIMIT, || calling.is_finished() || stand_aside(&daemon.threads()));
        seen.store(true, Ordering::Relaxed);
        ends.store(true, Ordering::Relaxed);
        calling.join().unwrap();
        found
    })
}

struct Daemon(u32);

#[derive(Debug)]
struct Thread {
    name: String,
    policy: u32,
    cpus: String,
}

impl Daemon {
    fn directory(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}", self.0))
    }

    fn threads(&self) -> Vec<Thread> {
        let tasks = fs::read_dir(self.directory().join("task")).unwrap();
        tasks.filter_map(|task| Thread::of(&task.unwrap().path())).collect()
    }

    /// Whether all threads are treated as the first one; of a ring they are bound to their CPUs.
    fn is_as_usual(&self) -> bool {
        let first = Thread::of(&self.directory()).unwrap();
        let is_anywhere =
            |thread: &Thread| thread.name.starts_with("ring-") || thread.cpus == first.cpus;
        self.threads().iter().all(|thread| thread.policy == USUAL && is_anywhere(thread))
    }
}

impl Thread {
    /// `None` once it has ended.
    fn of(task: &Path) -> Option<Self> {
        let status = Status::of(task.file_name()?.to_str()?.parse().ok()?);
        let [name, cpus] = ["Name", "Cpus_allowed_list"].map(|name| status.field(name).next());
        let stat = fs::read_to_string(task.join("stat")).ok()?;
        let (_, fields) = stat.rsplit_once(") ")?;
        // Fields by their numbers in proc_pid_stat(5); the third one comes first here.
        let policy = fields.split(' ').nth(41 - 3)?.parse().ok()?;
        Some(Self { name: name?.to_owned(), policy, cpus: cpus?.to_owned() })
    }

    fn stands_aside(&self) -> bool {
        let serves = self.name.starts_with("fuser-") || self.name.starts_with("ring-");
        serves && self.policy == IDLE
    }
}

const USUAL: u32 = 0;
const IDLE: u32 = 5;
const MORE_CALLS: u32 = 100;
const LIMIT: Duration = Duration::from_secs(60);
