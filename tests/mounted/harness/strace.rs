//! `strace` on the daemon of a mount: lets system calls fail, or records them.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::{Mount, needs_program, needs_root, wait_for};

/// It runs until it is dropped.
pub struct Strace(Child);

impl Strace {
    /// Lets these calls come out as `what` says (strace(1), inject); `None` where it cannot be
    /// done, with the reason printed.
    pub fn inject(m: &Mount, calls: &str, what: &str) -> Option<Self> {
        let inject = format!("inject={calls}:{what}");
        Self::attach(m, &["-e", &format!("trace={calls}"), "-e", &inject])
    }

    fn attach(m: &Mount, arguments: &[&str]) -> Option<Self> {
        if !needs_program("strace") || !needs_root() {
            return None;
        }
        let pid = m.daemon_pid().unwrap();
        let mut strace = Command::new("strace")
            .args(["-f", "-q"])
            .args(arguments)
            .args(["-p", &pid.to_string()])
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // Without -q it says that it is attached; each of the daemon's threads is stopped for
        // that, so a request is answered only afterwards.
        let traced = || {
            let mut tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
            tasks.all(|task| {
                let status = fs::read_to_string(task.unwrap().path().join("status"));
                status.is_ok_and(|status| !status.contains("TracerPid:\t0"))
            })
        };
        assert!(wait_for(Duration::from_secs(10), traced), "no strace");
        let output = BufReader::new(strace.stderr.take().unwrap());
        std::thread::spawn(move || output.lines().for_each(drop));
        Some(Self(strace))
    }
}

impl Drop for Strace {
    fn drop(&mut self) {
        // SIGTERM detaches.
        let pid = rustix::process::Pid::from_child(&self.0);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let _ = self.0.wait();
    }
}

/// Records the system calls of a daemon.
pub struct Recording {
    strace: Strace,
    output: PathBuf,
    mnt: PathBuf,
}

/// A system call of a daemon, with descriptors shown as what they are open on.
#[derive(Debug)]
pub struct Call {
    pub thread: u32,
    pub name: String,
    pub line: String,
}

impl Recording {
    pub fn start(m: &Mount) -> Option<Self> {
        let output = m.scratch().join("strace");
        File::create(&output).unwrap();
        let strace = Strace::attach(m, &["-y", "-s", "16", "-o", output.to_str().unwrap()])?;
        Some(Self { strace, output, mnt: m.mnt().to_owned() })
    }

    /// Runs `act`, whose calls [`end`](Self::end) tells by this name.
    pub fn during<T>(&self, name: &str, act: impl FnOnce() -> T) -> T {
        // The daemon looks for a name that is not there, which can be found in what it called.
        let mark = |edge| assert!(fs::metadata(self.mnt.join(format!("{edge}-{name}"))).is_err());
        mark("before");
        let done = act();
        mark("after");
        done
    }

    /// What was called while the act of this name ran, but for what brings requests and answers,
    /// the waiting of threads for each other, and the allocator.
    pub fn end(self) -> impl Fn(&str) -> Vec<Call> {
        drop(self.strace);
        let text = fs::read_to_string(self.output).unwrap();
        move |name| {
            let lines = text.lines();
            let lines = lines.skip_while(|line| !line.contains(&format!("\"before-{name}\"")));
            let lines = lines.take_while(|line| !line.contains(&format!("\"after-{name}\"")));
            lines
                .skip(1)
                .filter_map(Call::parse)
                .filter(|call| !call.is_around_operations())
                .collect()
        }
    }
}

impl Call {
    /// `None` for the end of a call whose beginning stands before, and for what is no call.
    fn parse(line: &str) -> Option<Self> {
        let (thread, rest) = line.split_once(' ')?;
        let (name, _) = rest.trim_start().split_once('(')?;
        let is_name = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        let name = is_name.then(|| name.to_owned())?;
        Some(Self { thread: thread.parse().ok()?, name, line: line.to_owned() })
    }

    fn is_around_operations(&self) -> bool {
        let names = |what| self.line.contains(what);
        let ways = ["futex", "sched_yield", "mmap", "munmap", "mprotect", "madvise", "brk"];
        ways.contains(&self.name.as_str())
            || names("</dev/fuse>")
            || names("<anon_inode:[io_uring]>")
    }
}
