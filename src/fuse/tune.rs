//! Sets the limits that the kernel has for a FUSE mount and that only root may change, in
//! `/sys/class/bdi`. Best effort: a mount without them works, only slower.
//!
//! Read-ahead is raised. Of what programs write the kernel gathers little before it sends it on:
//! then the daemon encrypts while the program goes on, and not afterwards, and a crash of the
//! machine takes less with it. Where files are written over that would send blocks that are soon
//! written again, and each alone; so for as long as many are the limit is off.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::attach::Device;
use crate::fs::FileSystem;

/// Keeps the limits of a mount until it is dropped.
pub(super) struct Tuner {
    stopping: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Tuner {
    /// Call it when the session runs.
    pub(super) fn start(device: Device, fs: &Arc<FileSystem>) -> Self {
        let stopping = Arc::new(AtomicBool::new(false));
        let mut tuner = Self { stopping: Arc::clone(&stopping), thread: None };
        if !rustix::process::geteuid().is_root() {
            return tuner;
        }
        let settings = PathBuf::from(format!("/sys/class/bdi/{}:{}", device.major, device.minor));
        set(&settings, "read_ahead_kb", READ_AHEAD_KIB);
        if !fs.options().writeback {
            return tuner;
        }
        if !gather_little(&settings) {
            gather_much(&settings);
            return tuner;
        }
        let watched = Arc::clone(fs);
        let watching = thread::Builder::new().name("tune".to_owned()).stack_size(STACK);
        match watching.spawn(move || watch(&watched, &settings, &stopping)) {
            Ok(thread) => tuner.thread = Some(thread),
            Err(error) => log::debug!("the limits of dirty pages stay as they are: {error}"),
        }
        tuner
    }
}

impl Drop for Tuner {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            if thread.join().is_err() {
                log::error!("the thread that sets the limits of dirty pages panicked");
            }
        }
    }
}

/// Changes the limit with the way that writes come.
fn watch(fs: &FileSystem, settings: &Path, stopping: &AtomicBool) {
    let this = thread::current();
    let is_stopping = || stopping.load(Ordering::Acquire);
    fs.await_overwrites(&this, true);
    let mut seen = (Instant::now(), fs.overwrites());
    while !is_stopping() {
        thread::park();
        let now = (Instant::now(), fs.overwrites());
        let many = now.1 - seen.1 >= MANY && now.0 - seen.0 < MANY_WITHIN;
        seen = now;
        if !many {
            continue;
        }
        fs.await_overwrites(&this, false);
        gather_much(settings);
        while !is_stopping() {
            thread::park_timeout(HELD);
            let count = fs.overwrites();
            if count - std::mem::replace(&mut seen.1, count) < MANY {
                break;
            }
        }
        gather_little(settings);
        fs.await_overwrites(&this, true);
        seen.0 = Instant::now();
    }
}

/// A limit of this mount's own. False where it cannot be had (Linux before 6.2).
fn gather_little(settings: &Path) -> bool {
    // The kernel keeps them as parts of the machine's own limit, which changes from moment to
    // moment, and refuses a most that is less than the least.
    let limits = [
        ("min_bytes", "0"),
        ("max_bytes", MOST_BYTES),
        ("min_bytes", LEAST_BYTES),
        ("strict_limit", "1"),
    ];
    limits.iter().all(|(name, value)| set(settings, name, value))
}

/// No limit but the machine's own.
fn gather_much(settings: &Path) {
    // `max_ratio` means nothing to a strict limit.
    if set(settings, "strict_limit", "0") {
        set(settings, "max_ratio", "100");
    }
}

fn set(settings: &Path, name: &str, value: &str) -> bool {
    let path = settings.join(name);
    let written: io::Result<()> = std::fs::write(&path, value);
    written.inspect_err(|error| log::debug!("{}: {error}", path.display())).is_ok()
}

/// Two requests, so that two threads serve one reader.
const READ_AHEAD_KIB: &str = "2048";
/// 32 MiB: from half of it on the kernel sends what it has, and at all of it writers wait.
const MOST_BYTES: &str = "33554432";
/// 30 MiB: this mount's share, whatever others write.
const LEAST_BYTES: &str = "31457280";
/// So many overwrites, one step of [`FileSystem::await_overwrites`], ...
const MANY: u64 = 64;
/// ... within this time are worth gathering, ...
const MANY_WITHIN: Duration = Duration::from_secs(1);
/// ... and fewer within this time are not any more.
const HELD: Duration = Duration::from_secs(5);
const STACK: usize = 64 << 10;
