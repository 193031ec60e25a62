//! One pass over all files, by several workers at once. It breaks off cleanly, with the file
//! that each worker has in hand done, when it is told to stop or when going on makes no sense.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use super::progress::Progress;
use super::tally::{Fate, Left, Reason, Tally};
use super::walk::{Found, Step, walk};
use crate::cli::exit::Failure;
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
        let (sender, receiver) = sync_channel(QUEUE_LEN);
        let receiver = Arc::new(Mutex::new(receiver));
        let failure = Mutex::new(None);
        let broken = AtomicBool::new(false);
        let (done, ended) = channel::<()>();
        thread::scope(|scope| {
            scope.spawn(|| self.keep_syncing(ended));
            let workers: Vec<_> = (0..self.jobs.max(1))
                .map(|_| {
                    let receiver = Arc::clone(&receiver);
                    let (failure, broken) = (&failure, &broken);
                    scope.spawn(move || self.work(task, &receiver, failure, broken))
                })
                .collect();
            // What is sent when no worker is left any more is refused.
            drop(receiver);
            let mut tally = Tally::default();
            walk(self.tree, &mut |step| {
                match step {
                    Step::File(found) => {
                        if sender.send(found).is_err() {
                            return ControlFlow::Break(());
                        }
                    }
                    Step::Failed(path, error) => tally.leave(Left {
                        path,
                        reason: Reason::of_io(&error),
                        detail: error.to_string(),
                        key: None,
                    }),
                }
                go_on(&broken)?;
                go_on(self.stop)
            });
            drop(sender);
            for worker in workers {
                match worker.join() {
                    Ok(part) => tally.merge(part),
                    Err(panic) => std::panic::resume_unwind(panic),
                }
            }
            drop(done);
            let failure = failure.lock().unwrap_or_else(PoisonError::into_inner).take();
            tally.incomplete |= failure.is_some() || self.stop.load(Ordering::Relaxed);
            Passed { tally, failure }
        })
    }

    fn work(
        &self,
        task: &dyn Task,
        receiver: &Mutex<Receiver<Found>>,
        failure: &Mutex<Option<Failure>>,
        broken: &AtomicBool,
    ) -> Tally {
        let mut tally = Tally::default();
        loop {
            let next = receiver.lock().unwrap_or_else(PoisonError::into_inner).recv();
            let Ok(found) = next else { return tally };
            if go_on(self.stop).is_break() || go_on(broken).is_break() {
                continue;
            }
            match task.rewrap(&found) {
                Ok(fate) => tally.add(fate),
                Err(Trouble::Left(left)) => tally.leave(left),
                Err(Trouble::Fatal(error)) => {
                    broken.store(true, Ordering::Relaxed);
                    failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                }
            }
            self.progress.advance();
        }
    }

    fn keep_syncing(&self, ended: Receiver<()>) {
        while ended.recv_timeout(SYNC_EVERY) == Err(RecvTimeoutError::Timeout) {
            // The sync at the end is the one whose failure counts.
            if let Err(error) = self.synced.sync_file_system() {
                log::warn!("sync of the backing file system: {error}");
            }
        }
    }
}

fn go_on(stop: &AtomicBool) -> ControlFlow<()> {
    match stop.load(Ordering::Relaxed) {
        true => ControlFlow::Break(()),
        false => ControlFlow::Continue(()),
    }
}

const QUEUE_LEN: usize = 1024;
const SYNC_EVERY: Duration = Duration::from_secs(10);
