//! The daemon: a volume, the file system on it, the session that serves it, and what goes on
//! beside the requests. It ends when the file system is unmounted, from either side, and leaves
//! everything on the backing store and no key in memory.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::{Handle as SignalHandle, Signals};

use super::exit::{Exit, Failure, Outcome};
use super::mount::Request;
use super::unlock::{now, unlock};
use crate::fs::{FileSystem, FsOptions};
use crate::fuse::{Detached, KernelCache, Session, Stopper};
use crate::store::tree::DiskTree;
use crate::sys::{locked, process};
use crate::volume::Volume;

/// A mount that answers.
pub struct Daemon {
    session: Session,
    fs: Arc<FileSystem>,
    volume: Arc<Volume>,
    tree: Arc<DiskTree>,
    signals: SignalHandle,
    /// Dropped to end the upkeep.
    upkeep: Sender<()>,
    threads: Vec<JoinHandle<()>>,
}

impl Daemon {
    /// Unlocks the volume and mounts it.
    pub fn start(request: &Request) -> Outcome<Self> {
        let most_open = prepare_process();
        let backing = &request.unlock.backing;
        let tree = DiskTree::open(backing).map_err(|error| {
            Failure::new(Exit::Backing, format!("{}: {error}", backing.display()))
        })?;
        let tree = Arc::new(tree);
        let mount_point = &request.plan.mount_point;
        let holder =
            format!("process {}, mounted on {}", std::process::id(), mount_point.display());
        let volume = unlock(Arc::clone(&tree), &request.unlock, &holder)?;
        warn_of_swap();
        // From here on a signal waits for the thread that handles it.
        let signals = Signals::new([SIGTERM, SIGINT, SIGHUP])
            .map_err(|error| Failure::new(Exit::Other, error))?;
        let idle_files = request.fs.idle_files.min(most_open / IDLE_SHARE);
        let options = FsOptions { idle_files, ..request.fs.clone() };
        let fs = FileSystem::new(Arc::clone(&volume), Arc::clone(&tree), options)
            .map_err(|error| Failure::new(Exit::Backing, error))?;
        let fs = Arc::new(fs);
        let session = match Session::start(Arc::clone(&fs), &request.plan) {
            Ok(session) => session,
            Err(error) => {
                if let Err(failure) = settle(&fs, &tree, &volume) {
                    log::error!("{}", failure.message);
                }
                return Err(error.into());
            }
        };
        let (upkeep, stop) = channel();
        let handle = signals.handle();
        let stopper = session.stopper();
        let (kept, fetching, kernel) = (Arc::clone(&fs), Arc::clone(&fs), session.kernel_cache());
        let upkeep_of = Upkeep {
            fs: kept,
            volume: Arc::clone(&volume),
            kernel,
            check_every: request.key_check,
        };
        let threads = vec![
            std::thread::spawn(move || unmount_on_signal(signals, &stopper)),
            std::thread::spawn(move || upkeep_of.run(&stop)),
            std::thread::spawn(move || survive("fetching ahead", || fetching.fetch_ahead())),
        ];
        Ok(Self { session, fs, volume, tree, signals: handle, upkeep, threads })
    }

    /// Serves until it is unmounted.
    pub fn serve(self) -> Outcome {
        let Self { session, fs, volume, tree, signals, upkeep, threads } = self;
        log::info!("volume {} is mounted on {}", volume.id(), session.mount_point().display());
        let served = session.wait();
        drop(upkeep);
        fs.end_fetching();
        signals.close();
        for thread in threads {
            if thread.join().is_err() {
                log::error!("a thread of the daemon panicked");
            }
        }
        settle(&fs, &tree, &volume)?;
        log::info!("volume {} is unmounted", volume.id());
        served.map_err(|error| Failure::new(Exit::Fuse, format!("the session broke off: {error}")))
    }
}

/// Puts everything on the backing store, ends the epoch, wipes the keys.
fn settle(fs: &FileSystem, tree: &DiskTree, volume: &Volume) -> Outcome {
    fs.shut_down();
    let synced = tree.sync_file_system().map_err(|error| Failure::new(Exit::Backing, error));
    // Without the sync nothing is known to be in place: the epoch then counts as unclean.
    let ended = synced.and_then(|()| Ok(volume.end_epoch()?));
    volume.keyring().wipe();
    ended
}

/// Returns how many files may be open.
fn prepare_process() -> usize {
    process::clear_umask();
    let most_open = process::raise_open_files_limit().unwrap_or_else(|error| {
        log::debug!("open files: {error}");
        0
    });
    let at_once = u32::try_from(most_open).unwrap_or(u32::MAX).min(DESCRIPTORS);
    process::reserve_descriptors(at_once).unwrap_or_else(|error| {
        log::debug!("room for {at_once} descriptors: {error}");
    });
    if rustix::process::geteuid().is_root() {
        match process::lock_all_memory() {
            Ok(true) => {}
            Ok(false) => log::debug!("memory other than keys is not locked"),
            Err(error) => log::debug!("memory other than keys is not locked: {error}"),
        }
    }
    usize::try_from(most_open).unwrap_or(usize::MAX)
}

fn warn_of_swap() {
    if !locked::all_locked() {
        log::warn!(
            "keys may reach swap: the limit of locked memory is too low ('ulimit -l'); encrypt \
             the swap or raise it"
        );
    }
}

/// The first signal unmounts. Where that had to be lazy, a second one ends the process as a
/// crash would, which the next mount recovers from.
fn unmount_on_signal(mut signals: Signals, stopper: &Stopper) {
    let mut waiting = false;
    for signal in signals.forever() {
        if waiting {
            log::warn!("signal {signal}: ending while files are open");
            std::process::exit(Exit::Busy.code().into());
        }
        match stopper.stop() {
            Ok(Detached::Now) => log::info!("signal {signal}: unmounting"),
            Ok(Detached::Already) => log::warn!(
                "signal {signal}: not unmounted, another mount hides this one or it is gone"
            ),
            Ok(Detached::WhenUnused) => {
                waiting = true;
                log::warn!(
                    "signal {signal}: files are in use; ending with the last of them, or at \
                     the next signal"
                );
            }
            Err(error) => log::error!("signal {signal}: {error}"),
        }
    }
}

/// What goes on beside the requests.
struct Upkeep {
    fs: Arc<FileSystem>,
    volume: Arc<Volume>,
    kernel: KernelCache,
    /// How long an unusable key may go unnoticed by files that are open.
    check_every: Duration,
}

impl Upkeep {
    /// Commits and syncs what was written, drops DEKs that have grown too old or whose keys may
    /// not be used, and once a day lets keys rotate.
    fn run(&self, stop: &Receiver<()>) {
        self.maintain();
        let (mut maintained, mut checked) = (Instant::now(), Instant::now());
        let mut synced = Instant::now();
        let mut failing = false;
        while stop.recv_timeout(FLUSH_EVERY) == Err(RecvTimeoutError::Timeout) {
            let flushed = self.volume.keyring().flush();
            if let (Err(error), false) = (&flushed, failing) {
                log::error!("{error}");
            }
            failing = flushed.is_err();
            let sync_all = synced.elapsed() >= SYNC_EVERY;
            survive("committing what was written", || self.fs.keep_up(sync_all));
            if sync_all {
                synced = Instant::now();
            }
            if checked.elapsed() >= self.check_every {
                checked = Instant::now();
                survive("withdrawing keys", || {
                    self.fs.withdraw_unusable(|node| self.kernel.drop_file(node));
                });
            }
            if maintained.elapsed() >= MAINTAIN_EVERY {
                maintained = Instant::now();
                survive("maintaining keys", || self.maintain());
            }
        }
    }

    fn maintain(&self) {
        if let Err(error) = self.volume.keyring().maintain(now()) {
            log::error!("{error}");
        }
    }
}

/// Does a part of what goes on beside the requests. Should it panic, which the panic hook logs, the
/// rest goes on: what is written must be committed in any case.
fn survive(part: &str, work: impl FnOnce()) {
    if catch_unwind(AssertUnwindSafe(work)).is_err() {
        log::error!("{part} failed by an internal error; the rest goes on");
    }
}

/// Of directories, idle files and files in use as many as there usually are.
const DESCRIPTORS: u32 = 4096;
/// Files that nobody uses take no more than this part of the descriptors.
const IDLE_SHARE: usize = 8;
/// What was written and nobody has synced is durable after this time.
const SYNC_EVERY: Duration = Duration::from_secs(30);
const FLUSH_EVERY: Duration = Duration::from_secs(1);
const MAINTAIN_EVERY: Duration = Duration::from_secs(24 * 3600);
