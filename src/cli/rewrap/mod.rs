//! `ssefs rewrap`: moves the files of a volume to the newest version of their key, to another
//! key or to another mode, by their headers alone. An unmounted volume is held as by a mount; of
//! a mounted one the daemon is asked, file by file. Two rewraps of a volume exclude each other.
//!
//! It may be ended at any point: a file has its old envelope or its new one, and the next run
//! takes up where this one ended.

mod args;
mod keys;
mod offline;
mod online;
mod plan;
mod report;
mod slots;
mod tally;
mod work;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use args::Destination;
pub use args::RewrapArgs;
use keys::{Gathering, Keys};
use offline::Offline;
use online::{MountedVolume, Online};
use plan::{Goal, Plan, Selection};
use report::Report;
use slots::Slots;
use tally::Tally;
use work::{Pass, Passed, Task};

use crate::cli::backing::{not_a_volume, open_backing};
use crate::cli::crew;
use crate::cli::exit::{Exit, Failure, Outcome};
use crate::cli::keys_at_hand::KeystoreAtHand;
use crate::cli::progress::{Progress, Total};
use crate::cli::unlock::name_directory;
use crate::format::Descriptor;
use crate::keys::{Keyring, Keystore};
use crate::store::tree::DiskTree;
use crate::sys::process;
use crate::volume::{RewrapLock, VolumeDirectory, VolumeError, VolumeUse};

/// The command.
pub fn run(args: &RewrapArgs, keystore: Option<PathBuf>) -> Outcome {
    process::forbid_dumps().map_err(|error| Failure::new(Exit::Other, error))?;
    let rewrap = Rewrap::prepare(args, keystore)?;
    let holder = format!("process {}, which rewraps it", std::process::id());
    let claimed = VolumeDirectory::claim(Arc::clone(&rewrap.tree), &holder);
    let report = match claimed {
        Ok(directory) => rewrap.unmounted(directory)?,
        Err(error @ VolumeError::InUse { .. }) => match MountedVolume::find(&rewrap.tree)? {
            Some(mounted) => rewrap.mounted(&mounted)?,
            None => return Err(rewrap.named(error)),
        },
        Err(error) => return Err(rewrap.named(error)),
    };
    report.conclude(&rewrap.backing, args.many_files.json)
}

/// One run of the command.
struct Rewrap<'a> {
    args: &'a RewrapArgs,
    backing: PathBuf,
    tree: Arc<DiskTree>,
    lock: RewrapLock,
    selection: Selection,
    destination: Destination,
    keystore: KeystoreAtHand,
    stop: Arc<AtomicBool>,
}

impl<'a> Rewrap<'a> {
    fn prepare(args: &'a RewrapArgs, keystore: Option<PathBuf>) -> Outcome<Self> {
        let destination = args.destination()?;
        let (backing, tree) = open_backing(&args.backing)?;
        let named = |error| name_directory(error, &backing);
        let lock = RewrapLock::take(Arc::clone(&tree)).map_err(named)?;
        let place = Keystore::locate(keystore.as_deref());
        let keystore = KeystoreAtHand::new(place, backing.clone());
        let selection = args.selection(|name| keystore.resolve_alias(name))?;
        let stop = watch_signals()?;
        Ok(Self { args, backing, tree, lock, selection, destination, keystore, stop })
    }

    /// The volume is ours alone: its headers are written here.
    fn unmounted(&self, directory: VolumeDirectory) -> Outcome<Report> {
        let named = |error| self.named(error);
        let descriptor = self.descriptor()?;
        let (keyring, mut slots, plan) = self.planned(descriptor)?;
        let volume = directory
            .start(slots.descriptor(), slots.volume_key(), keyring, VolumeUse::default())
            .map_err(named)?;
        let task = Offline::new(&self.tree, &volume, &plan).map_err(|error| named(error.into()))?;
        let Passed { tally, failure } = self.pass(&self.tree, &task);
        // What was moved must be there before anything says that it is.
        self.tree.sync_file_system().map_err(|error| named(error.into()))?;
        let slots_moved = slots.refresh(volume.keyring(), &plan).map_err(named)?;
        let retired = slots.retire(&plan, &tally).map_err(named)?;
        offline::end(&self.tree, &volume).map_err(named)?;
        match failure {
            Some(failure) => Err(failure),
            None => Ok(Report {
                volume: volume.id(),
                mount_point: None,
                tally,
                slots_moved,
                retired,
                still_open: Vec::new(),
                interrupted: self.is_interrupted(),
            }),
        }
    }

    /// Gathers the keys, opens the volume to the new one, and says what is to be done.
    fn planned(&self, descriptor: Descriptor) -> Outcome<(Keyring, Slots<'_>, Plan)> {
        let Keys { keyring, cmk, verifier } = self.keys(&descriptor)?;
        let mut slots = Slots::open(&self.lock, descriptor, &keyring)?;
        let goal = match self.destination {
            Destination::NewestVersion => Goal::NewestVersion,
            _ => {
                let admitted = slots.admit(&keyring, cmk.as_ref(), verifier);
                admitted.map_err(|error| self.named(error))?
            }
        };
        Ok((keyring, slots, Plan::new(self.selection.clone(), goal)))
    }

    /// A daemon holds the volume, and is asked.
    fn mounted(&self, mounted: &MountedVolume) -> Outcome<Report> {
        let named = |error| self.named(error);
        let descriptor = self.descriptor()?;
        let volume_id = descriptor.volume_id;
        let (keyring, mut slots, plan) = self.planned(descriptor)?;
        // Files are renamed and made while we walk: what a pass has missed, the next one finds.
        let mut tally: Option<Tally> = None;
        let mut failure = None;
        for _ in 0..MOST_PASSES {
            let lockout = self.args.allow_lockout;
            let task = Online::new(mounted, volume_id, &keyring, &plan, lockout);
            let passed = self.pass(&mounted.tree, &task);
            let found = passed.tally.rewrapped;
            tally = Some(match tally {
                None => passed.tally,
                Some(before) => before.followed_by(passed.tally),
            });
            failure = passed.failure;
            if found == 0 || failure.is_some() || self.is_interrupted() {
                break;
            }
        }
        let tally = tally.unwrap_or_default();
        self.tree.sync_file_system().map_err(|error| named(error.into()))?;
        keyring.flush()?;
        if let Some(failure) = failure {
            if tally.rewrapped == 0 {
                slots.withdraw().map_err(named)?;
            }
            return Err(failure);
        }
        let slots_moved = slots.refresh(&keyring, &plan).map_err(named)?;
        Ok(Report {
            volume: volume_id,
            mount_point: Some(mounted.mount_point.clone()),
            slots_moved,
            retired: Vec::new(),
            // The mount may make files under the old key at any time.
            still_open: slots.to_retire(&plan, &tally),
            tally,
            interrupted: self.is_interrupted(),
        })
    }

    fn is_interrupted(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn descriptor(&self) -> Outcome<Descriptor> {
        let found = self.lock.descriptor().map_err(|error| self.named(error))?;
        found.ok_or_else(|| not_a_volume(&self.backing))
    }

    fn keys(&self, descriptor: &Descriptor) -> Outcome<Keys> {
        let gathering = Gathering {
            descriptor,
            args: self.args,
            selection: &self.selection,
            destination: &self.destination,
            keystore: &self.keystore,
            backing: &self.backing,
        };
        gathering.keys()
    }

    fn pass(&self, tree: &DiskTree, task: &dyn Task) -> Passed {
        let total = Total::Files(Pass::count(&self.tree, &self.stop));
        let progress = Progress::start(total, self.args.many_files.quiet);
        let jobs = crew::jobs(self.args.many_files.jobs);
        let pass = Pass { tree, synced: &self.tree, jobs, progress: &progress, stop: &self.stop };
        let passed = pass.run(task);
        progress.finish();
        passed
    }

    fn named(&self, error: VolumeError) -> Failure {
        name_directory(error, Path::new(&self.backing))
    }
}

/// Set by the first signal that asks to end; a second one ends at once.
pub(in crate::cli) fn watch_signals() -> Outcome<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register_conditional_default(signal, Arc::clone(&stop))
            .and_then(|_| signal_hook::flag::register(signal, Arc::clone(&stop)))
            .map_err(|error| Failure::new(Exit::Other, error))?;
    }
    Ok(stop)
}

/// A volume in which files are made without end is left to the next run.
const MOST_PASSES: usize = 5;
