//! The daemon's threads stand aside for a caller whose requests follow one another, and come back.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::harness::{Bench, needs_root, skip, wait_for};
use crate::transport::is_offered;

#[test]
fn threads_stand_aside_while_one_caller_asks_and_come_back() {
    if !needs_root() {
        return;
    }
    if !ssefs::sys::scheduling::may_change_policy() {
        return skip("this process may not change the policy of its threads");
    }
    let Some(bench) = Bench::new() else { return };
    for transport in ["classic", "uring"] {
        if transport == "uring" && !is_offered() {
            continue;
        }
        bench.mount(&["-o", &format!("transport={transport}")]);
        let daemon = bench.daemon();
        let usual = || servers(daemon).iter().all(|server| server.is_as(daemon));
        assert!(usual() && !servers(daemon).is_empty());
        let callers = AtomicUsize::new(1);
        std::thread::scope(|scope| {
            for index in 0..2 {
                let (bench, callers) = (&bench, &callers);
                scope.spawn(move || {
                    let mut number = 0_u64;
                    loop {
                        match callers.load(Ordering::Relaxed) {
                            0 => break,
                            calling if index < calling => {
                                number += 1;
                                let name = format!("missing-{index}-{number}");
                                assert!(!bench.file(name).exists());
                            }
                            _ => std::thread::sleep(Duration::from_millis(1)),
                        }
                    }
                });
            }
            let aside = || servers(daemon).iter().any(|server| server.policy == IDLE);
            let mut ok = wait_for(LIMIT, aside);
            if transport == "classic" {
                callers.store(2, Ordering::Relaxed);
                ok = ok && wait_for(LIMIT, usual);
                callers.store(1, Ordering::Relaxed);
                let gathered = || servers(daemon).iter().any(|server| server.is_bound());
                ok = ok && wait_for(LIMIT, gathered);
            }
            callers.store(0, Ordering::Relaxed);
            assert!(ok, "{transport}: {:?}", servers(daemon));
        });
        assert!(wait_for(LIMIT, usual), "{transport}: {:?}", servers(daemon));
        bench.unmount();
    }
}

/// A thread that serves requests.
#[derive(Debug)]
struct Server {
    name: String,
    policy: u32,
    cpus: String,
}

impl Server {
    /// Whether it is treated as the daemon's first thread; of a ring it is bound to its CPU.
    fn is_as(&self, daemon: u32) -> bool {
        let may_run_anywhere = || self.cpus == cpus(Path::new(&format!("/proc/{daemon}")));
        self.policy == USUAL && (self.name.starts_with("ring-") || may_run_anywhere())
    }

    fn is_bound(&self) -> bool {
        self.policy == IDLE && self.cpus.parse::<u32>().is_ok()
    }
}

fn servers(daemon: u32) -> Vec<Server> {
    let tasks = std::fs::read_dir(format!("/proc/{daemon}/task")).unwrap();
    let servers = tasks.filter_map(|task| {
        let task = task.unwrap().path();
        let name = std::fs::read_to_string(task.join("comm")).ok()?.trim().to_owned();
        let serves = name.starts_with("fuser-") || name.starts_with("ring-");
        serves.then(|| {
            let stat = std::fs::read_to_string(task.join("stat")).unwrap();
            let (_, fields) = stat.rsplit_once(") ").unwrap();
            // Fields by their numbers in proc_pid_stat(5); the third one comes first here.
            let policy = fields.split(' ').nth(41 - 3).unwrap().parse().unwrap();
            Server { name, policy, cpus: cpus(&task) }
        })
    });
    servers.collect()
}

fn cpus(task: &Path) -> String {
    let status = std::fs::read_to_string(task.join("status")).unwrap();
    let allowed = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    allowed.unwrap().trim().to_owned()
}

const USUAL: u32 = 0;
const IDLE: u32 = 5;
const LIMIT: Duration = Duration::from_secs(60);
