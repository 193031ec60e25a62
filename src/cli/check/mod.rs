//! `ssefs check`: verifies the files of a volume, all or some, and repairs what can be proved.
//! An unmounted volume is held meanwhile, so that nobody changes it; a mounted one is only read.

mod args;
mod keys;
mod report;
mod salvage;
mod tally;
mod voice;
mod wording;
mod work;

use std::ops::ControlFlow;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

pub use args::CheckArgs;
use report::{MetadataFinding, Report};
use salvage::SalvageDirectory;
use tally::Tally;
use voice::Voice;
use work::Checking;

use crate::cli::backing::{not_a_volume, open_backing};
use crate::cli::crew::{self, Crew, everything, go_on};
use crate::cli::exit::{Exit, Failure, Outcome};
use crate::cli::keys_at_hand::KeystoreAtHand;
use crate::cli::progress::{Progress, Total};
use crate::cli::rewrap::watch_signals;
use crate::cli::unlock::name_directory;
use crate::cli::walk::{Step, walk_at};
use crate::format::METADATA_DIR;
use crate::keys::{KeyError, Keystore};
use crate::store::tree::DiskTree;
use crate::sys::process;
use crate::volume::{SpareThreads, Volume, VolumeDirectory, VolumeError, VolumeUse};

/// The command.
pub fn run(args: &CheckArgs, keystore: Option<PathBuf>) -> Outcome {
    process::forbid_dumps().map_err(|error| Failure::new(Exit::Other, error))?;
    let (backing, tree) = open_backing(&args.backing)?;
    let starts = starts(args, &backing)?;
    let salvage = args.salvage.as_deref().map(|path| SalvageDirectory::prepare(path, &backing));
    let keystore = KeystoreAtHand::new(Keystore::locate(keystore.as_deref()), backing.clone());
    let check = Check {
        args,
        backing,
        tree,
        starts,
        salvage: salvage.transpose()?,
        keystore,
        stop: watch_signals()?,
    };
    check.run()
}

/// One run of the command.
struct Check<'a> {
    args: &'a CheckArgs,
    backing: PathBuf,
    tree: Arc<DiskTree>,
    starts: Vec<PathBuf>,
    salvage: Option<SalvageDirectory>,
    keystore: KeystoreAtHand,
    stop: Arc<AtomicBool>,
}

/// A volume ready to be checked.
struct Ready {
    volume: Arc<Volume>,
    metadata: Vec<MetadataFinding>,
    holder: Option<String>,
}

impl Check<'_> {
    fn run(&self) -> Outcome {
        let ready = match self.open()? {
            Ok(ready) => ready,
            Err(finding) => {
                return report::unopened(&self.backing, &finding, self.args.many_files.json);
            }
        };
        let Ready { volume, metadata, holder } = ready;
        let unclean_epochs = volume.unclean_epochs();
        let start = Instant::now();
        let (tally, failure) = self.pass(&volume, holder.is_some());
        let duration = start.elapsed();
        let interrupted = self.stop.load(Ordering::Relaxed);
        let cleared = self.end(&volume, &tally, failure.is_some() || interrupted)?;
        if let Some(failure) = failure {
            return Err(failure);
        }
        let report = Report {
            backing: self.backing.clone(),
            volume: volume.id(),
            holder,
            headers_only: self.args.headers_only,
            repair: self.args.repair,
            tally,
            metadata,
            duration,
            unclean_epochs,
            epochs_cleared: cleared,
            interrupted,
        };
        report.conclude(self.args.many_files.json)
    }

    /// Opens the volume; what is wrong with its own files may keep it from being opened.
    fn open(&self) -> Outcome<Result<Ready, MetadataFinding>> {
        let named = |error| name_directory(error, &self.backing);
        let what = if self.args.repair { "repairs" } else { "checks" };
        let own = format!("process {}, which {what} it", std::process::id());
        let (directory, holder) = match VolumeDirectory::claim(Arc::clone(&self.tree), &own) {
            Ok(directory) => (directory, None),
            Err(VolumeError::InUse { holder }) if self.args.repair => {
                let at = self.backing.display();
                return Err(Failure::new(
                    Exit::InUse,
                    format!(
                        "{at}: is in use by {holder}: it can be checked, but repaired only \
                             once it is unmounted"
                    ),
                ));
            }
            Err(VolumeError::InUse { holder }) => {
                (VolumeDirectory::observe(Arc::clone(&self.tree)).map_err(named)?, Some(holder))
            }
            Err(error) => return Err(named(error)),
        };
        let descriptor = match directory.descriptor() {
            Ok(Some(descriptor)) => descriptor,
            Ok(None) => return Err(not_a_volume(&self.backing)),
            Err(error) => return damaged(DESCRIPTOR_PATH, error).map(Err).map_err(named),
        };
        let origin = self.args.key.origin();
        let keyring = keys::gather(&descriptor, origin.as_ref(), &self.keystore)?;
        let volume_key = match keyring.open_volume_key(&descriptor) {
            Ok(key) => key,
            Err(error @ KeyError::UnwrapFailed { .. }) => {
                return Ok(Err(MetadataFinding { path: DESCRIPTOR_PATH, what: error.to_string() }));
            }
            Err(error) => return Err(error.into()),
        };
        let slots = keys::damaged_slots(&descriptor, &volume_key, &keyring);
        let slot_finding = |what| MetadataFinding { path: DESCRIPTOR_PATH, what };
        let metadata = slots.into_iter().map(slot_finding).collect();
        let use_as = VolumeUse { read_only: !self.args.repair, ..VolumeUse::default() };
        match directory.start(&descriptor, &volume_key, keyring, use_as) {
            Ok(volume) => Ok(Ok(Ready { volume, metadata, holder })),
            Err(error) => damaged(EPOCHS_PATH, error).map(Err).map_err(named),
        }
    }

    fn pass(&self, volume: &Arc<Volume>, mounted: bool) -> (Tally, Option<Failure>) {
        let total = self.total();
        let progress = Progress::start(total, self.args.many_files.quiet);
        let jobs = crew::jobs(self.args.many_files.jobs);
        let spare_threads = SpareThreads::new(jobs - 1);
        let checking = Checking {
            tree: &self.tree,
            volume,
            headers_only: self.args.headers_only,
            repair: self.args.repair,
            mounted,
            salvage: self.salvage.as_ref(),
            spare_threads: &spare_threads,
            voice: Voice { progress: &progress, silent: self.args.many_files.json },
            stop: &self.stop,
            seen: Default::default(),
            paths_overlap: self.starts.len() > 1,
        };
        let crew = Crew {
            tree: &self.tree,
            starts: &self.starts,
            jobs,
            progress: &progress,
            stop: &self.stop,
        };
        let done = crew.run(&checking);
        progress.finish();
        done
    }

    /// How much there is to read; what a sparse file does not have is not read.
    fn total(&self) -> Total {
        let (mut bytes, mut files) = (0, 0);
        for start in &self.starts {
            let counted = walk_at(&self.tree, start, &mut |step| {
                if let Step::File(found) = step
                    && let Ok(stat) = self.tree.stat(&found.directory, &found.name)
                {
                    bytes += stat.size.min(stat.blocks * STAT_BLOCK_LEN);
                    files += 1;
                }
                go_on(&self.stop)
            });
            if counted == ControlFlow::Break(()) {
                break;
            }
        }
        Total::Bytes { bytes, files }
    }

    /// Ends the epoch of a repair. Answers whether all earlier epochs are clean now: every file
    /// has been seen, and those that needed it were recovered.
    fn end(&self, volume: &Volume, tally: &Tally, broken_off: bool) -> Outcome<bool> {
        let named = |error| name_directory(error, &self.backing);
        let mut cleared = false;
        if self.args.repair {
            self.tree.sync_file_system().map_err(|error| named(error.into()))?;
            let all_seen = self.args.paths.is_empty()
                && tally.not_checked_count() == 0
                && tally.unopened == 0
                && !broken_off;
            if all_seen {
                volume.forget_unclean_epochs().map_err(named)?;
                cleared = true;
            }
            volume.end_epoch().map_err(named)?;
        }
        let flushed = volume.keyring().flush();
        volume.keyring().wipe();
        flushed?;
        Ok(cleared)
    }
}

/// What is damaged, where it is that and not a failure of another kind.
fn damaged(path: &'static str, error: VolumeError) -> Result<MetadataFinding, VolumeError> {
    match error {
        VolumeError::Header(_) | VolumeError::Volume(_) => {
            Ok(MetadataFinding { path, what: error.to_string() })
        }
        error => Err(error),
    }
}

/// The paths that were given, below the backing directory.
fn starts(args: &CheckArgs, backing: &Path) -> Outcome<Vec<PathBuf>> {
    if args.paths.is_empty() {
        return Ok(everything());
    }
    args.paths.iter().map(|path| below(path, backing)).collect()
}

fn below(path: &Path, backing: &Path) -> Outcome<PathBuf> {
    let refused =
        |problem: &str| Err(Failure::new(Exit::Usage, format!("{}: {problem}", path.display())));
    let inner = match path.strip_prefix(backing) {
        Ok(inner) => inner,
        Err(_) if path.is_absolute() => return refused("is not in the backing directory"),
        Err(_) => path,
    };
    let mut start = PathBuf::new();
    for component in inner.components() {
        match component {
            Component::Normal(name) => start.push(name),
            Component::CurDir => {}
            _ => return refused("leads out of the backing directory"),
        }
    }
    if start.starts_with(METADATA_DIR) {
        return refused("is the volume's own, and checked in any case");
    }
    Ok(start)
}

const DESCRIPTOR_PATH: &str = ".ssefs/volume.json";
const EPOCHS_PATH: &str = ".ssefs/epochs.json";
/// The unit of `st_blocks`.
const STAT_BLOCK_LEN: u64 = 512;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::{DESCRIPTOR_NAME, EPOCHS_NAME};

    #[test]
    fn the_paths_are_those_of_the_metadata_directory() {
        assert_eq!(DESCRIPTOR_PATH, format!("{METADATA_DIR}/{DESCRIPTOR_NAME}"));
        assert_eq!(EPOCHS_PATH, format!("{METADATA_DIR}/{EPOCHS_NAME}"));
    }

    #[test]
    fn paths_stay_below_the_backing_directory() {
        let of = |path: &str| below(Path::new(path), Path::new("/b"));
        assert_eq!(of("d/./f").unwrap(), Path::new("d/f"));
        assert_eq!(of("/b/d").unwrap(), Path::new("d"));
        assert_eq!(of(".").unwrap(), Path::new(""));
        for refused in ["/c/d", "../c", "d/../../c", ".ssefs", ".ssefs/volume.json"] {
            assert_eq!(of(refused).unwrap_err().exit, Exit::Usage, "{refused}");
        }
    }
}
