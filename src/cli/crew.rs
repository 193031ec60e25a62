//! Several workers on the files of a directory tree at once. They break off cleanly, with the
//! file that each has in hand done, when they are told to stop or when going on makes no sense.

use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use super::exit::Failure;
use super::progress::Progress;
use super::walk::{Found, Step, walk_at};
use crate::store::tree::DiskTree;

/// What is done with each file; from many threads at once.
pub trait Task: Sync {
    /// What becomes of the files.
    type Tally: Tally;

    /// Deals with one file. A failure is one that would be the same with all others.
    fn work(&self, found: &Found, tally: &mut Self::Tally) -> Result<(), Failure>;

    /// A directory or name could not be read.
    fn failed(&self, path: PathBuf, error: io::Error, tally: &mut Self::Tally);
}

/// Sums; each worker has its own, and they are added up in the end.
pub trait Tally: Default + Send {
    /// Adds another one.
    fn merge(&mut self, other: Self);
}

/// The workers and what they go through.
pub struct Crew<'a> {
    /// What to walk.
    pub tree: &'a DiskTree,
    /// From where on; an empty path is the root.
    pub starts: &'a [PathBuf],
    /// How many workers.
    pub jobs: usize,
    /// Where each file shows.
    pub progress: &'a Progress,
    /// Set from outside to break off.
    pub stop: &'a AtomicBool,
}

impl Crew<'_> {
    /// Does the work; with the tally comes why it was broken off, unless it was told to.
    pub fn run<T: Task>(&self, task: &T) -> (T::Tally, Option<Failure>) {
        let (sender, receiver) = sync_channel(QUEUE_LEN);
        let receiver = Arc::new(Mutex::new(receiver));
        let failure = Mutex::new(None);
        let broken = AtomicBool::new(false);
        let tally = thread::scope(|scope| {
            let workers: Vec<_> = (0..self.jobs.max(1))
                .map(|_| {
                    let receiver = Arc::clone(&receiver);
                    let (failure, broken) = (&failure, &broken);
                    scope.spawn(move || self.work(task, &receiver, failure, broken))
                })
                .collect();
            // What is sent when no worker is left any more is refused.
            drop(receiver);
            let mut tally = T::Tally::default();
            let mut visit = |step| {
                match step {
                    Step::File(found) => {
                        if sender.send(found).is_err() {
                            return ControlFlow::Break(());
                        }
                    }
                    Step::Failed(path, error) => task.failed(path, error, &mut tally),
                }
                go_on(&broken)?;
                go_on(self.stop)
            };
            for start in self.starts {
                if walk_at(self.tree, start, &mut visit).is_break() {
                    break;
                }
            }
            drop(sender);
            for worker in workers {
                match worker.join() {
                    Ok(part) => tally.merge(part),
                    Err(panic) => std::panic::resume_unwind(panic),
                }
            }
            tally
        });
        (tally, failure.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    fn work<T: Task>(
        &self,
        task: &T,
        receiver: &Mutex<Receiver<Found>>,
        failure: &Mutex<Option<Failure>>,
        broken: &AtomicBool,
    ) -> T::Tally {
        let mut tally = T::Tally::default();
        loop {
            let next = receiver.lock().unwrap_or_else(PoisonError::into_inner).recv();
            let Ok(found) = next else { return tally };
            if go_on(self.stop).is_break() || go_on(broken).is_break() {
                continue;
            }
            if let Err(error) = task.work(&found, &mut tally) {
                broken.store(true, Ordering::Relaxed);
                failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
            }
            self.progress.advance();
        }
    }
}

/// The root alone: all that there is.
pub fn everything() -> Vec<PathBuf> {
    vec![Path::new("").to_owned()]
}

/// As many workers as were asked for, else one for each CPU.
pub fn jobs(asked: Option<u16>) -> usize {
    asked.map_or_else(
        || thread::available_parallelism().map_or(1, std::num::NonZero::get),
        usize::from,
    )
}

/// Whether nobody has asked to stop.
pub fn go_on(stop: &AtomicBool) -> ControlFlow<()> {
    match stop.load(Ordering::Relaxed) {
        true => ControlFlow::Break(()),
        false => ControlFlow::Continue(()),
    }
}

const QUEUE_LEN: usize = 1024;
