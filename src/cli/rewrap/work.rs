//! One pass over all files, by several workers at once, with the file system below synced from
//! time to time.

use std::io;
use std::panic::resume_unwind;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use super::tally::{Fate, Left, Tally};
use crate::cli::crew::{self, Crew, everything, go_on};
use crate::cli::exit::{Exit, Failure};
use crate::cli::progress::Progress;
use crate::cli::reason::Reason;
use crate::cli::walk::{Found, Step, walk};
use crate::store::tree::DiskTree;

/// What is done with each file; from many threads at once.
pub trait Task: Sync {
    /// Deals with one file.
    fn rewrap(&self, found: &Found) -> Result<Fate, Trouble>;
}

/// A file that was not dealt with.
pub enum Trouble {
    /// It is left, and the others go on.
    Left(Left),
    /// It would be the same with all others.
    Fatal(Failure),
}

/// How a pass is made.
pub struct Pass<'a> {
    /// What to walk.
    pub tree: &'a DiskTree,
    /// Made durable from time to time, so that little is to be done again after a power cut.
    pub synced: &'a DiskTree,
    /// How many workers.
    pub jobs: usize,
    /// Where each file shows.
    pub progress: &'a Progress,
    /// Set from outside to break off.
    pub stop: &'a AtomicBool,
}

/// How it ended.
pub struct Passed {
    /// What became of the files.
    pub tally: Tally,
    /// Why it broke off, unless it was told to.
    pub failure: Option<Failure>,
}

impl Pass<'_> {
    /// How many files there are.
    pub fn count(tree: &DiskTree, stop: &AtomicBool) -> u64 {
        let mut files = 0;
        walk(tree, &mut |step| {
            files += u64::from(matches!(step, Step::File(_)));
            go_on(stop)
        });
        files
    }

    /// Makes it.
    pub fn run(&self, task: &dyn Task) -> Passed {
        let Self { tree, jobs, progress, stop, .. } = *self;
        let starts = everything();
        let crew = Crew { tree, starts: &starts, jobs, progress, stop };
        let (done, ended) = channel::<()>();
        let ((mut tally, failure), synced) = thread::scope(|scope| {
            let syncing = scope.spawn(|| self.keep_syncing(ended));
            let passed = crew.run(&Rewrapping(task));
            drop(done);
            (passed, syncing.join().unwrap_or_else(|panic| resume_unwind(panic)))
        });
        // The kernel tells of it once: the sync at the end would succeed.
        let failure = failure.or_else(|| synced.err().map(|it| Failure::new(Exit::Backing, it)));
        tally.incomplete |= failure.is_some() || stop.load(Ordering::Relaxed);
        Passed { tally, failure }
    }

    fn keep_syncing(&self, ended: Receiver<()>) -> io::Result<()> {
        let mut synced = Ok(());
        while ended.recv_timeout(SYNC_EVERY) == Err(RecvTimeoutError::Timeout) {
            synced = synced.and(self.synced.sync_file_system());
        }
        synced
    }
}

/// The task as the crew does it.
struct Rewrapping<'a>(&'a dyn Task);

impl crew::Task for Rewrapping<'_> {
    type Tally = Tally;

    fn work(&self, found: &Found, tally: &mut Tally) -> Result<(), Failure> {
        match self.0.rewrap(found) {
            Ok(fate) => tally.add(fate),
            Err(Trouble::Left(left)) => tally.leave(left),
            Err(Trouble::Fatal(failure)) => return Err(failure),
        }
        Ok(())
    }

    fn failed(&self, path: PathBuf, error: io::Error, tally: &mut Tally) {
        let (reason, detail) = (Reason::of_io(&error), error.to_string());
        tally.leave(Left { path, reason, detail, key: None });
    }
}

impl crew::Tally for Tally {
    fn merge(&mut self, other: Self) {
        Tally::merge(self, other);
    }
}

const SYNC_EVERY: Duration = Duration::from_secs(10);
