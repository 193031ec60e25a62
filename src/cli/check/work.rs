//! One file of a volume under check: checked, repaired and salvaged as was asked for. Of a
//! mounted volume it is read again where it may have been written meanwhile.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::salvage::SalvageDirectory;
use super::tally::{Condition, Record, Repair, SalvagedFile, Tally};
use super::voice::Voice;
use super::wording;
use crate::cli::crew::Task;
use crate::cli::exit::{Failure, Outcome};
use crate::cli::reason::Reason;
use crate::cli::walk::Found;
use crate::keys::Access;
use crate::store::BackingFile;
use crate::store::disk::DiskFile;
use crate::store::tree::{DiskTree, OpenFlags, Stat};
use crate::volume::{
    CheckScope, FileReport, Problem, Severity, SpareThreads, Volume, VolumeError, Watcher,
};

/// The work on all files.
pub struct Checking<'a> {
    pub tree: &'a DiskTree,
    pub volume: &'a Arc<Volume>,
    pub headers_only: bool,
    pub repair: bool,
    /// Whether a mount may write the files meanwhile.
    pub mounted: bool,
    pub salvage: Option<&'a SalvageDirectory>,
    pub spare_threads: &'a SpareThreads,
    pub voice: Voice<'a>,
    pub stop: &'a AtomicBool,
    /// Files of several names, by device and inode; all, where paths may overlap.
    pub seen: Mutex<HashSet<(u64, u64)>>,
    pub paths_overlap: bool,
}

/// A file that was opened.
struct File {
    disk: Arc<DiskFile>,
    /// Why it can only be read.
    read_only: Option<io::Error>,
}

/// How looking at a file ended.
enum Looked {
    At(FileReport),
    /// It was written again and again.
    Busy,
}

impl Checking<'_> {
    fn file(&self, found: &Found, tally: &mut Tally) -> Result<Outcome, VolumeError> {
        let file = match self.open(found) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Ok(())),
            opened => opened?,
        };
        let stat = file.disk.stat()?;
        if (stat.nlink > 1 || self.paths_overlap) && !self.is_new(&stat) {
            return Ok(Ok(()));
        }
        let path = || found.path.clone();
        let access = Access::check(&path);
        let mut report = match self.look(&file, &access)? {
            Looked::At(report) => report,
            Looked::Busy => {
                tally.count(Condition::InUse);
                return Ok(self.voice.in_use(&found.path));
            }
        };
        let mut repaired = false;
        if self.repair && report.is_repairable() {
            if let Some(error) = file.read_only {
                return Err(error.into());
            }
            let backing = Arc::clone(&file.disk) as Arc<dyn BackingFile>;
            self.volume.repair_file(&backing, &report, &access)?;
            if let Err(failure) = self.tell_repairs(&found.path, &report, tally) {
                return Ok(Err(failure));
            }
            repaired = true;
            report = self.volume.check_file(backing, &self.scope(), &access)?;
        }
        tally.bytes += report.size;
        let condition = self.condition(&stat, &report, repaired);
        tally.count(condition);
        tally.unopened += u64::from(condition == Condition::Damaged && report.epoch.is_none());
        if condition == Condition::InUse {
            return Ok(Ok(()));
        }
        let told = self.tell(&found.path, &report, tally);
        Ok(told.and_then(|()| self.salvage(&file, &found.path, condition, tally)))
    }

    /// Checks it, of a mounted volume until no write came in between.
    fn look(&self, file: &File, access: &Access<'_>) -> Result<Looked, VolumeError> {
        let mut written = false;
        for attempt in 0..ATTEMPTS {
            std::thread::sleep(PAUSE * attempt);
            let before = file.disk.stat()?;
            let backing = Arc::clone(&file.disk) as Arc<dyn BackingFile>;
            let report = self.volume.check_file(backing, &self.scope(), access)?;
            if !self.mounted || report.findings.worst() < Some(Severity::Unchecked) {
                return Ok(Looked::At(report));
            }
            if report.findings.tell_of(Problem::LaterEpoch) {
                // Another mount has begun since the epochs were read.
                return Ok(Looked::Busy);
            }
            let after = file.disk.stat()?;
            written |= (before.mtime, before.size) != (after.mtime, after.size);
            if attempt + 1 == ATTEMPTS && !written {
                return Ok(Looked::At(report));
            }
        }
        Ok(Looked::Busy)
    }

    fn condition(&self, stat: &Stat, report: &FileReport, repaired: bool) -> Condition {
        match report.findings.worst() {
            Some(Severity::Damaged) => Condition::Damaged,
            Some(Severity::Unchecked) => Condition::NotChecked(Reason::Failed),
            Some(Severity::Recoverable)
                if self.mounted && report.epoch == Some(self.volume.epoch()) =>
            {
                Condition::InUse
            }
            Some(Severity::Recoverable) => Condition::ToRecover,
            Some(Severity::Note) | None if report.interrupted => {
                Condition::NotChecked(Reason::Failed)
            }
            Some(Severity::Note) | None if repaired => Condition::Repaired,
            Some(Severity::Note) | None if stat.size == 0 => Condition::Empty,
            Some(Severity::Note) | None => Condition::Sound,
        }
    }

    fn tell(&self, path: &Path, report: &FileReport, tally: &mut Tally) -> Outcome {
        for finding in report.findings.list() {
            tally.keep(Record::of(path, finding));
            self.voice.finding(path, finding)?;
        }
        tally.findings_left_out += report.findings.left_out();
        self.voice.more(path, report.findings.left_out())
    }

    fn tell_repairs(&self, path: &Path, report: &FileReport, tally: &mut Tally) -> Outcome {
        let details = report.findings.list().iter().filter(|it| it.problem != Problem::Unclean);
        let whole = report.findings.list().iter().filter(|it| it.problem == Problem::Unclean);
        for finding in whole.chain(details) {
            let Some(what) = wording::repaired(finding.problem) else { continue };
            let what = wording::line(finding, what);
            self.voice.repaired(path, &what)?;
            tally.repairs.push(Repair { path: path.to_string_lossy().into_owned(), what });
        }
        Ok(())
    }

    fn salvage(
        &self,
        file: &File,
        path: &Path,
        condition: Condition,
        tally: &mut Tally,
    ) -> Outcome {
        let lost = matches!(condition, Condition::Damaged | Condition::NotChecked(_));
        let Some(directory) = self.salvage.filter(|_| lost) else { return Ok(()) };
        match directory.save(self.volume, &*file.disk, path) {
            Ok(salvaged) => {
                tally.salvaged.push(SalvagedFile {
                    path: path.to_string_lossy().into_owned(),
                    size: salvaged.size,
                    bytes: salvaged.bytes,
                    lost_blocks: salvaged.lost_blocks,
                    older_blocks: salvaged.older_blocks,
                });
                self.voice.salvaged(path, &salvaged)
            }
            Err(error) => self.voice.not_salvaged(path, &error.to_string()),
        }
    }

    fn scope(&self) -> CheckScope<'_> {
        CheckScope {
            headers_only: self.headers_only,
            spare_threads: self.spare_threads,
            watcher: self,
        }
    }

    fn open(&self, found: &Found) -> io::Result<File> {
        let open = |flags| {
            let fd = self.tree.open_file(&found.directory, &found.name, flags)?;
            Ok::<_, io::Error>(Arc::new(DiskFile::from(fd)))
        };
        if !self.repair {
            return Ok(File { disk: open(OpenFlags::READ)?, read_only: None });
        }
        match open(OpenFlags::READ_WRITE) {
            Ok(disk) => Ok(File { disk, read_only: None }),
            // It may turn out that it need not be written.
            Err(error) => match Reason::of_io(&error) {
                Reason::Denied | Reason::Busy => {
                    Ok(File { disk: open(OpenFlags::READ)?, read_only: Some(error) })
                }
                _ => Err(error),
            },
        }
    }

    fn is_new(&self, stat: &Stat) -> bool {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).insert(stat.identity())
    }

    fn leave(&self, path: &Path, reason: Reason, detail: &str, tally: &mut Tally) -> Outcome {
        tally.count(Condition::NotChecked(reason));
        tally.keep(Record {
            path: path.to_string_lossy().into_owned(),
            severity: Severity::Unchecked.name(),
            kind: reason.name(),
            first_block: None,
            blocks: None,
            what: detail.to_owned(),
            advice: advice(reason),
        });
        self.voice.not_checked(path, reason, &format!("{detail}; {}", advice(reason)))
    }
}

impl Watcher for Checking<'_> {
    fn advance(&self, bytes: u64) {
        self.voice.progress.advance_bytes(bytes);
    }

    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

impl Task for Checking<'_> {
    type Tally = Tally;

    fn work(&self, found: &Found, tally: &mut Tally) -> Result<(), Failure> {
        match self.file(found, tally) {
            Ok(told) => told,
            Err(error) => self.leave(&found.path, Reason::of(&error), &error.to_string(), tally),
        }
    }

    fn failed(&self, path: PathBuf, error: io::Error, tally: &mut Tally) {
        let told = self.leave(&path, Reason::of_io(&error), &error.to_string(), tally);
        if let Err(failure) = told {
            log::error!("{}", failure.message);
        }
    }
}

fn advice(reason: Reason) -> &'static str {
    match reason {
        Reason::NoKey => "give its key too",
        Reason::Denied => "run this as a user who may",
        Reason::Busy => "run this again later",
        Reason::Damaged | Reason::Failed => "see to the cause and run this again",
    }
}

const ATTEMPTS: u32 = 4;
/// Grows with each attempt. Longer than the clock of times in the file system takes for a step.
const PAUSE: Duration = Duration::from_millis(20);
