//! Where a workload runs, and the clock that it runs by.

use std::cell::{Cell, RefCell};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Instant;

use rustix::fs::{Advice, fadvise};

use crate::arguments::Scale;
use crate::measure::{Spent, Usage};
use crate::systems::System;

/// A system as a workload sees it.
pub struct Place<'a> {
    system: &'a System,
    kit: &'a Path,
    scale: Scale,
    measured: RefCell<Vec<Measured>>,
    serial: Cell<u64>,
}

/// What one timed piece did.
#[derive(Clone, Copy)]
pub struct Measured {
    pub row: &'static str,
    pub seconds: f64,
    pub amount: Amount,
    pub spent: Spent,
}

/// How much was done.
#[derive(Clone, Copy, Default)]
pub struct Amount {
    pub operations: u64,
    pub bytes: u64,
}

impl<'a> Place<'a> {
    pub fn new(system: &'a System, kit: &'a Path, scale: Scale) -> Self {
        let (measured, serial) = (RefCell::default(), Cell::default());
        Self { system, kit, scale, measured, serial }
    }

    pub fn system(&self) -> &'a System {
        self.system
    }

    pub fn scale(&self) -> Scale {
        self.scale
    }

    /// A path in the system.
    pub fn path(&self, name: &str) -> PathBuf {
        self.system.directory().join(name)
    }

    /// A path beside all systems, for what they share: what is unpacked, what is cloned.
    pub fn kit(&self, name: &str) -> PathBuf {
        self.kit.join(name)
    }

    /// A number that no piece on this place has had.
    pub fn serial(&self) -> u64 {
        self.serial.replace(self.serial.get() + 1)
    }

    /// Makes the system forget everything.
    pub fn forget_all(&self) {
        self.system.remount();
    }

    /// The same, and has the kernel let go of all that it has read of the disk. False where there
    /// is none.
    pub fn forget_disk(&self) -> bool {
        let kind = rustix::fs::statfs(self.kit).expect("the scratch directory is there").f_type;
        let is_on_disk = kind != TMPFS_MAGIC;
        if is_on_disk {
            self.system.remount_after(drop_pages_below);
        }
        is_on_disk
    }

    /// Does the work by the clock, as part of this row.
    pub fn timed(&self, row: &'static str, work: impl FnOnce() -> Amount) {
        self.timed_by_program(row, || {
            let begin = Instant::now();
            let amount = work();
            (begin.elapsed().as_secs_f64(), amount)
        });
    }

    /// Does work that tells by itself how many seconds it took.
    pub fn timed_by_program(&self, row: &'static str, work: impl FnOnce() -> (f64, Amount)) {
        let before = Usage::of(self.system);
        let (seconds, amount) = work();
        let spent = Usage::of(self.system).since(&before);
        self.measured.borrow_mut().push(Measured { row, seconds, amount, spent });
    }

    /// Repeats the operation, each time with the next number, for as long as a slice lasts or
    /// until `limit`; ends with `finish`, which is on the clock too.
    pub fn repeated(
        &self,
        row: &'static str,
        operation_len: u64,
        limit: u64,
        mut operation: impl FnMut(u64),
        finish: impl FnOnce(),
    ) {
        self.timed(row, || {
            let begin = Instant::now();
            let mut operations = 0;
            while operations < limit && begin.elapsed() < self.scale.slice {
                operation(operations);
                operations += 1;
            }
            finish();
            Amount { operations, bytes: operations * operation_len }
        });
    }

    /// What was measured last, and will be told by [`Self::take_measured`] too.
    pub fn latest(&self) -> Option<Measured> {
        self.measured.borrow().last().copied()
    }

    /// What was measured since this was last asked.
    pub fn take_measured(&self) -> Vec<Measured> {
        self.measured.take()
    }
}

impl Amount {
    /// One operation on so many bytes.
    pub fn bytes(bytes: u64) -> Self {
        Self { operations: 1, bytes }
    }

    /// So many operations.
    pub fn operations(operations: u64) -> Self {
        Self { operations, bytes: 0 }
    }
}

/// Makes the kernel drop the clean pages of a file, so that reads of it go to the daemon.
pub fn drop_pages(file: &File) {
    file.sync_all().expect("the mount can sync");
    fadvise(file, 0, None, Advice::DontNeed).expect("advice is taken");
}

fn drop_pages_below(directory: &Path) {
    for entry in fs::read_dir(directory).expect("what lies below can be listed").flatten() {
        let path = entry.path();
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => drop_pages_below(&path),
            Ok(kind) if kind.is_file() => drop_pages(&File::open(&path).expect("it is there")),
            _ => {}
        }
    }
}

/// `TMPFS_MAGIC` of statfs(2).
const TMPFS_MAGIC: rustix::fs::FsWord = 0x0102_1994;
