//! Going to the background: a fork whose parent waits until the child says how it went.
//!
//! The fork comes first, while there is one thread and no key material to copy; the child
//! stays in the foreground group of the terminal, so it can still ask for a passphrase and an
//! interrupt reaches it, until [`StatusWriter::ready`] detaches it.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, WaitOptions, WaitStatus, waitpid};

/// Which of the two processes this is after the fork.
pub enum Role {
    /// The process that was started: shows the outcome and exits.
    Parent(StatusReader),
    /// The process that goes on in the background.
    Child(StatusWriter),
}

/// How the child's start went.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It works in the background now.
    Ready,
    /// It gave up, with the exit code and the line to show for it.
    Failed { exit_code: u8, message: String },
    /// It ended without a word; `cause` says how, as "exit code 1" or "signal 9".
    Died { cause: String },
}

/// The parent's end.
pub struct StatusReader {
    pipe: File,
    child: Pid,
}

/// The child's end. Dropped unused, the parent reports that the child died.
pub struct StatusWriter {
    pipe: File,
}

/// Forks. Both processes return from this call.
///
/// # Errors
/// `EBUSY` when there is more than one thread: a fork would copy only this one, and locks that
/// the others hold would never open in the child.
pub fn start() -> io::Result<Role> {
    if std::fs::read_dir("/proc/self/task")?.count() != 1 {
        return Err(rustix::io::Errno::BUSY.into());
    }
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
    match fork()? {
        Some(child) => Ok(Role::Parent(StatusReader { pipe: reader.into(), child })),
        None => Ok(Role::Child(StatusWriter { pipe: writer.into() })),
    }
}

impl StatusReader {
    /// Waits for the child to say how it went, or to end.
    pub fn wait(mut self) -> io::Result<Outcome> {
        let mut report = [0; 2];
        match read_full(&mut self.pipe, &mut report)? {
            1.. if report[0] == READY => Ok(Outcome::Ready),
            2 if report[0] == FAILED => {
                let mut message = Vec::new();
                self.pipe.read_to_end(&mut message)?;
                let message = String::from_utf8_lossy(&message).into_owned();
                Ok(Outcome::Failed { exit_code: report[1], message })
            }
            _ => Ok(Outcome::Died { cause: self.cause_of_death()? }),
        }
    }

    fn cause_of_death(&self) -> io::Result<String> {
        let status = loop {
            match waitpid(Some(self.child), WaitOptions::empty()) {
                Err(rustix::io::Errno::INTR) => {}
                other => break other?.map(|(_, status)| status),
            }
        };
        Ok(status.map_or_else(|| "unknown".to_owned(), describe))
    }
}

impl StatusWriter {
    /// Detaches from the terminal, the session, the standard streams and the working
    /// directory, then lets the parent go. Relative paths mean nothing from here on.
    pub fn ready(mut self) -> io::Result<()> {
        rustix::process::chdir("/")?;
        let null: OwnedFd = File::options().read(true).write(true).open("/dev/null")?.into();
        rustix::stdio::dup2_stdin(&null)?;
        rustix::stdio::dup2_stdout(&null)?;
        rustix::stdio::dup2_stderr(&null)?;
        rustix::process::setsid()?;
        self.pipe.write_all(&[READY, 0])
    }

    /// Makes the parent show `message` and exit with `exit_code`. This process ends next, by
    /// its own doing.
    pub fn failed(mut self, exit_code: u8, message: &str) -> io::Result<()> {
        self.pipe.write_all(&[&[FAILED, exit_code], message.as_bytes()].concat())
    }
}

/// How many forks lie between the program's start and this process: what is drawn at random
/// and kept must not be used by both sides of one.
pub fn forks() -> u32 {
    FORKS.load(Ordering::Relaxed)
}

/// The child's id in the parent, `None` in the child. The program forks nowhere else.
fn fork() -> io::Result<Option<Pid>> {
    // SAFETY: called with one thread only, so the child inherits no lock that another holds.
    let child = unsafe { libc::fork() };
    if child < 0 {
        return Err(io::Error::last_os_error());
    }
    let child = Pid::from_raw(child);
    if child.is_none() {
        FORKS.fetch_add(1, Ordering::Relaxed);
    }
    Ok(child)
}

fn describe(status: WaitStatus) -> String {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "unknown".to_owned(),
    }
}

fn read_full(pipe: &mut File, buf: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buf.len() {
        match pipe.read(&mut buf[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

static FORKS: AtomicU32 = AtomicU32::new(0);

const READY: u8 = b'R';
const FAILED: u8 = b'F';

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs `child` after `start` in a process of its own, which has one thread as `start`
    /// wants it, and returns what its parent learned.
    fn outcome_of(child: impl FnOnce(StatusWriter) -> i32) -> String {
        let (mut reader, writer) = std::io::pipe().unwrap();
        if let Some(launcher) = fork().unwrap() {
            drop(writer);
            let mut told = String::new();
            reader.read_to_string(&mut told).unwrap();
            waitpid(Some(launcher), WaitOptions::empty()).unwrap();
            return told;
        }
        let code = match start() {
            Ok(Role::Parent(reader)) => {
                write!(&writer, "{:?}", reader.wait().unwrap()).unwrap();
                0
            }
            Ok(Role::Child(status)) => {
                drop(writer);
                child(status)
            }
            Err(_) => 99,
        };
        // SAFETY: ends the process at once; the test harness's threads do not exist in it.
        unsafe { libc::_exit(code) }
    }

    #[test]
    fn the_parent_learns_that_the_child_is_ready_before_it_ends() {
        let (mut reader, writer) = std::io::pipe().unwrap();
        let told = outcome_of(|status| {
            status.ready().unwrap();
            let session = rustix::process::getsid(None).unwrap();
            let detached = session == rustix::process::getpid()
                && std::env::current_dir().unwrap() == std::path::Path::new("/")
                && (0..3).all(|number| {
                    let path = format!("/proc/self/fd/{number}");
                    std::fs::read_link(path).unwrap() == std::path::Path::new("/dev/null")
                });
            // The parent has gone by itself: this process ends only when the test lets it.
            (&writer).write_all(&[u8::from(detached)]).unwrap();
            std::thread::sleep(std::time::Duration::from_millis(300));
            0
        });
        assert_eq!(told, "Ready");
        let mut detached = [9];
        reader.read_exact(&mut detached).unwrap();
        assert_eq!(detached, [1]);
    }

    #[test]
    fn a_failure_arrives_with_its_code_and_message() {
        let long = "no such key ".repeat(20_000);
        let told = outcome_of(|status| {
            status.failed(7, &long).unwrap();
            0
        });
        assert_eq!(told, format!("{:?}", Outcome::Failed { exit_code: 7, message: long.clone() }));
    }

    #[test]
    fn a_child_that_dies_without_a_word_is_noticed() {
        let told = outcome_of(|status| {
            drop(status);
            3
        });
        assert_eq!(told, "Died { cause: \"exit code 3\" }");
        let told = outcome_of(|_| {
            rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL)
                .unwrap();
            0
        });
        assert_eq!(told, "Died { cause: \"signal 9\" }");
    }

    #[test]
    fn a_process_with_threads_is_refused() {
        let (sender, receiver) = std::sync::mpsc::channel::<()>();
        let other = std::thread::spawn(move || receiver.recv());
        assert_eq!(start().err().unwrap().raw_os_error(), Some(libc::EBUSY));
        drop(sender);
        other.join().unwrap().unwrap_err();
    }
}
