//! Sets the limits that the kernel has for a FUSE mount and that only root may change, in
//! `/sys/class/bdi`. Best effort: a mount without them works, only slower.
//!
//! Read-ahead is set. Of what programs write the kernel gathers little before it sends it on:
//! then the daemon encrypts while the program goes on, and not afterwards, and a crash of the
//! machine takes less with it. Where large files are written over that would send blocks that are
//! soon written again, and each alone; so for as long as many are the limit is off.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
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
        if let Some(read_ahead) = Setting::open(&settings, "read_ahead_kb") {
            read_ahead.set(&fs.options().read_ahead_kib.to_string());
        }
        let limits = Limits::open(&settings);
        limits.lift();
        if !fs.options().writeback || !limits.can_be_in_bytes() {
            return tuner;
        }
        let watched = Arc::clone(fs);
        let watching = thread::Builder::new().name("tune".to_owned()).stack_size(STACK);
        match watching.spawn(move || watch(&watched, &limits, &stopping)) {
            Ok(thread) => tuner.thread = Some(thread),
            Err(error) => log::debug!("dirty pages are not limited: {error}"),
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
                log::error!("the thread that limits dirty pages panicked");
            }
        }
    }
}

/// The limits of a mount's dirty pages. Their files are open for as long as they are needed: when
/// the mount is gone its number may be another one's.
struct Limits {
    strict_limit: Option<Setting>,
    max_ratio: Option<Setting>,
    max_bytes: Option<Setting>,
}

impl Limits {
    fn open(settings: &Path) -> Self {
        let open = |name| Setting::open(settings, name);
        Self {
            strict_limit: open("strict_limit"),
            max_ratio: open("max_ratio"),
            max_bytes: open("max_bytes"),
        }
    }

    /// Not so before Linux 6.2.
    fn can_be_in_bytes(&self) -> bool {
        self.strict_limit.is_some() && self.max_bytes.is_some()
    }

    /// A limit of this mount's own, or none where the kernel refuses it.
    fn set(&self) {
        let set = |setting: &Option<Setting>, value| {
            setting.as_ref().is_some_and(|setting| setting.set(value))
        };
        if !(set(&self.max_bytes, MOST_BYTES) && set(&self.strict_limit, "1")) {
            self.lift();
        }
    }

    /// No limit but the machine's own, as far as the kernel lets go of its.
    fn lift(&self) {
        for (setting, value) in [(&self.strict_limit, "0"), (&self.max_ratio, "100")] {
            if let Some(setting) = setting {
                setting.set(value);
            }
        }
    }
}

/// One file of the mount's directory.
struct Setting {
    path: PathBuf,
    file: File,
}

impl Setting {
    fn open(settings: &Path, name: &str) -> Option<Self> {
        let path = settings.join(name);
        match File::options().write(true).open(&path) {
            Ok(file) => Some(Self { path, file }),
            Err(error) => {
                log::debug!("{}: {error}", path.display());
                None
            }
        }
    }

    fn set(&self, value: &str) -> bool {
        let written: io::Result<()> = self.file.write_all_at(value.as_bytes(), 0);
        written.inspect_err(|error| log::debug!("{}: {error}", self.path.display())).is_ok()
    }
}

/// Changes the limit with the way that writes come.
fn watch(fs: &FileSystem, limits: &Limits, stopping: &AtomicBool) {
    let this = thread::current();
    let is_stopping = || stopping.load(Ordering::Acquire);
    let mut seen = (Instant::now(), fs.overwrites());
    while !is_stopping() {
        // Again and again, since the kernel keeps it as a part of the machine's own limit.
        limits.set();
        fs.await_overwrites(&this, true);
        thread::park_timeout(REFRESHED);
        let now = (Instant::now(), fs.overwrites());
        let many = now.1 - seen.1 >= MANY && now.0 - seen.0 < MANY_WITHIN;
        seen = now;
        if many && !is_stopping() {
            fs.await_overwrites(&this, false);
            limits.lift();
            // Those that are under way are not to count as later ones.
            thread::park_timeout(MANY_WITHIN);
            while !is_stopping() && !is_quiet(fs, &is_stopping) {}
        }
    }
}

/// Waits for a while; whether few overwrites have come.
fn is_quiet(fs: &FileSystem, is_stopping: &dyn Fn() -> bool) -> bool {
    let (begun, before) = (Instant::now(), fs.overwrites());
    while let Some(left) = HELD.checked_sub(begun.elapsed())
        && !is_stopping()
    {
        thread::park_timeout(left);
    }
    fs.overwrites() - before < MANY
}

/// 64 MiB: from three quarters of it on the kernel sends what it has, unless told otherwise by
/// `vm.dirty_background_ratio`, and at all of it writers wait.
const MOST_BYTES: &str = "67108864";
const REFRESHED: Duration = Duration::from_secs(30);
/// So many overwrites, one step of [`FileSystem::await_overwrites`], ...
const MANY: u64 = 64;
/// ... within this time are worth gathering, ...
const MANY_WITHIN: Duration = Duration::from_secs(1);
/// ... and fewer within this time are not any more. The kernel sends what has been dirty for half
/// a minute (`vm.dirty_expire_centisecs`): until then overwrites go on unseen.
const HELD: Duration = Duration::from_secs(40);
const STACK: usize = 64 << 10;
