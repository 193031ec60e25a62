//! A backing file that fails on purpose: it records every call, and a plan says which call
//! fails, with what error, and how much of a write still reaches the file below. Owns no data.

use std::io::{self, IoSlice};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{BackingFile, SyncScope};

/// A file whose calls go through a [`FaultPlan`] before they reach `inner`.
#[derive(Debug)]
pub struct FaultyFile<F> {
    inner: F,
    file: u32,
    plan: FaultPlan,
}

impl<F: BackingFile> FaultyFile<F> {
    /// Wraps `inner`. Files may share a plan: their calls are counted and recorded together.
    pub fn new(inner: F, plan: &FaultPlan) -> Self {
        let mut state = plan.lock();
        let file = state.files;
        state.files += 1;
        drop(state);
        Self { inner, file, plan: plan.clone() }
    }

    /// The file below, where nothing fails or is recorded.
    pub fn inner(&self) -> &F {
        &self.inner
    }

    fn pass(&self, kind: CallKind, offset: u64, len: u64) -> io::Result<()> {
        match self.plan.judge(Call { file: self.file, kind, offset, len, failed: false }) {
            Some(verdict) => Err(verdict.error()),
            None => Ok(()),
        }
    }
}

impl<F: BackingFile> BackingFile for FaultyFile<F> {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.pass(CallKind::Read, offset, buf.len() as u64)?;
        self.inner.read_at(buf, offset)
    }

    fn write_at(&self, bufs: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        let len = bufs.iter().map(|buf| buf.len() as u64).sum();
        let call = Call { file: self.file, kind: CallKind::Write, offset, len, failed: false };
        let Some(verdict) = self.plan.judge(call) else {
            return self.inner.write_at(bufs, offset);
        };
        if let Some(prefix) = verdict.torn_after {
            self.inner.write_at(&cut(bufs, prefix), offset)?;
        }
        Err(verdict.error())
    }

    fn size(&self) -> io::Result<u64> {
        self.pass(CallKind::Size, 0, 0)?;
        self.inner.size()
    }

    fn set_size(&self, size: u64) -> io::Result<()> {
        self.pass(CallKind::SetSize, size, 0)?;
        self.inner.set_size(size)
    }

    fn allocate(&self, offset: u64, len: u64, keep_size: bool) -> io::Result<()> {
        self.pass(CallKind::Allocate, offset, len)?;
        self.inner.allocate(offset, len, keep_size)
    }

    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        self.pass(CallKind::Punch, offset, len)?;
        self.inner.punch(offset, len)
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<u64>> {
        self.pass(CallKind::NextData, offset, 0)?;
        self.inner.next_data(offset)
    }

    fn sync(&self, scope: SyncScope) -> io::Result<()> {
        self.pass(CallKind::Sync(scope), 0, 0)?;
        self.inner.sync(scope)
    }
}

/// Which method was called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallKind {
    Read,
    Write,
    Size,
    SetSize,
    Allocate,
    Punch,
    NextData,
    Sync(SyncScope),
}

impl CallKind {
    /// Whether the call changes the file.
    pub fn modifies(self) -> bool {
        matches!(self, Self::Write | Self::SetSize | Self::Allocate | Self::Punch)
    }
}

/// One recorded call. `SetSize` has the new size as `offset`; what does not apply is 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Call {
    /// The file, numbered from 0 in the order in which they joined the plan.
    pub file: u32,
    pub kind: CallKind,
    pub offset: u64,
    pub len: u64,
    /// Whether the plan made it fail.
    pub failed: bool,
}

/// What goes wrong, and when.
#[derive(Debug, Clone, Copy)]
pub struct Fault {
    nth: u64,
    filter: Filter,
    errno: i32,
    torn_after: Option<u64>,
    duration: Duration,
}

impl Fault {
    /// The `nth` call (0 is the next one after [`FaultPlan::add`]) fails with `errno`, once,
    /// and does nothing.
    pub fn at(nth: u64, errno: i32) -> Self {
        Self { nth, filter: Filter::Any, errno, torn_after: None, duration: Duration::Once }
    }

    /// Counts, and fails, only calls of `kind`.
    pub fn of(self, kind: CallKind) -> Self {
        Self { filter: Filter::Kind(kind), ..self }
    }

    /// Counts, and fails, only calls that change the file.
    pub fn of_modifications(self) -> Self {
        Self { filter: Filter::Modifications, ..self }
    }

    /// Fails the later ones of the same kind too: a full disk.
    pub fn from_then_on(self) -> Self {
        Self { duration: Duration::FromThenOn, ..self }
    }

    /// Fails every later call of any kind too: the process died in this one.
    pub fn then_dead(self) -> Self {
        Self { duration: Duration::ThenDead, ..self }
    }

    /// Lets the first `bytes` of a write through before it fails.
    pub fn after_bytes(self, bytes: u64) -> Self {
        Self { torn_after: Some(bytes), ..self }
    }
}

/// Faults to come and calls so far, shared by clones.
#[derive(Debug, Clone, Default)]
pub struct FaultPlan(Arc<Mutex<State>>);

impl FaultPlan {
    /// A plan in which nothing fails.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a fault, counting calls from now.
    pub fn add(&self, fault: Fault) {
        self.lock().faults.push(Pending { fault, seen: 0 });
    }

    /// Forgets all faults, a death too: what follows runs on what the files now hold.
    pub fn heal(&self) {
        let mut state = self.lock();
        state.faults.clear();
        state.dead_with = None;
    }

    /// Whether one of the calls that [`Self::take_calls`] would return was made to fail.
    pub fn has_struck(&self) -> bool {
        self.lock().calls.iter().any(|call| call.failed)
    }

    /// The calls since the last time, in order of arrival.
    pub fn take_calls(&self) -> Vec<Call> {
        std::mem::take(&mut self.lock().calls)
    }

    fn judge(&self, call: Call) -> Option<Verdict> {
        let mut state = self.lock();
        let verdict = state.judge(call.kind);
        state.calls.push(Call { failed: verdict.is_some(), ..call });
        verdict
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug, Clone, Copy)]
enum Filter {
    Any,
    Kind(CallKind),
    Modifications,
}

impl Filter {
    fn matches(self, kind: CallKind) -> bool {
        match self {
            Self::Any => true,
            Self::Kind(wanted) => wanted == kind,
            Self::Modifications => kind.modifies(),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Duration {
    Once,
    FromThenOn,
    ThenDead,
}

#[derive(Debug, Default)]
struct State {
    faults: Vec<Pending>,
    dead_with: Option<i32>,
    files: u32,
    calls: Vec<Call>,
}

impl State {
    /// Every fault counts the call; the first that strikes decides.
    fn judge(&mut self, kind: CallKind) -> Option<Verdict> {
        if let Some(errno) = self.dead_with {
            return Some(Verdict { errno, torn_after: None });
        }
        let mut struck: Option<Fault> = None;
        for pending in self.faults.iter_mut().filter(|pending| pending.fault.filter.matches(kind)) {
            let Fault { nth, duration, .. } = pending.fault;
            let strikes =
                pending.seen == nth || (pending.seen > nth && duration == Duration::FromThenOn);
            pending.seen += 1;
            if strikes && struck.is_none() {
                struck = Some(pending.fault);
            }
        }
        let fault = struck?;
        if fault.duration == Duration::ThenDead {
            self.dead_with = Some(fault.errno);
        }
        Some(Verdict { errno: fault.errno, torn_after: fault.torn_after })
    }
}

#[derive(Debug)]
struct Pending {
    fault: Fault,
    seen: u64,
}

struct Verdict {
    errno: i32,
    torn_after: Option<u64>,
}

impl Verdict {
    fn error(&self) -> io::Error {
        io::Error::from_raw_os_error(self.errno)
    }
}

/// The first `prefix` bytes of the buffers.
fn cut<'a>(bufs: &'a [IoSlice<'_>], prefix: u64) -> Vec<IoSlice<'a>> {
    let mut left = usize::try_from(prefix).unwrap_or(usize::MAX);
    let mut kept = Vec::new();
    for buf in bufs {
        let len = buf.len().min(left);
        kept.push(IoSlice::new(&buf[..len]));
        left -= len;
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::conformance_tests;
    use crate::store::memory::MemoryFile;

    const EIO: i32 = 5;
    const ENOSPC: i32 = 28;

    fn file() -> (FaultyFile<MemoryFile>, FaultPlan) {
        let plan = FaultPlan::new();
        (FaultyFile::new(MemoryFile::new(), &plan), plan)
    }

    fn write(file: &impl BackingFile, offset: u64, bytes: &[u8]) -> Option<i32> {
        let (left, right) = bytes.split_at(bytes.len() / 2);
        file.write_at(&[IoSlice::new(left), IoSlice::new(right)], offset)
            .err()
            .map(|error| error.raw_os_error().unwrap())
    }

    #[test]
    fn without_faults_it_is_the_file_below() {
        conformance_tests::check(|| file().0);
    }

    #[test]
    fn one_call_fails_and_does_nothing() {
        let (file, plan) = file();
        plan.add(Fault::at(1, EIO));
        assert_eq!(write(&file, 0, b"ab"), None);
        assert_eq!(write(&file, 2, b"cd"), Some(EIO));
        assert!(plan.has_struck());
        assert_eq!(file.size().unwrap(), 2);
        assert_eq!(write(&file, 2, b"ef"), None);
    }

    #[test]
    fn a_fault_may_count_one_kind_and_last() {
        let (file, plan) = file();
        plan.add(Fault::at(1, ENOSPC).of(CallKind::Write).from_then_on());
        file.size().unwrap();
        file.sync(SyncScope::Data).unwrap();
        assert_eq!(write(&file, 0, b"ab"), None);
        assert_eq!(write(&file, 0, b"ab"), Some(ENOSPC));
        file.set_size(1).unwrap();
        assert_eq!(write(&file, 0, b"ab"), Some(ENOSPC));
        plan.heal();
        assert_eq!(write(&file, 0, b"ab"), None);
    }

    #[test]
    fn a_torn_write_leaves_its_prefix_and_then_nothing_works() {
        for torn in 0..=6 {
            let (file, plan) = file();
            plan.add(Fault::at(0, EIO).of_modifications().after_bytes(torn).then_dead());
            assert_eq!(file.read_at(&mut [0], 0).unwrap(), 0);
            assert_eq!(write(&file, 0, b"abcdef"), Some(EIO));
            assert_eq!(file.size().unwrap_err().raw_os_error(), Some(EIO));
            assert_eq!(file.sync(SyncScope::All).unwrap_err().raw_os_error(), Some(EIO));
            assert_eq!(file.inner().size().unwrap(), torn);
            plan.heal();
            let mut read = [0; 6];
            assert_eq!(file.read_at(&mut read, 0).unwrap(), torn as usize);
            assert_eq!(read[..torn as usize], b"abcdef"[..torn as usize]);
        }
    }

    #[test]
    fn calls_are_recorded_over_all_files_of_a_plan() {
        let (first, plan) = file();
        let second = FaultyFile::new(MemoryFile::new(), &plan);
        plan.add(Fault::at(0, EIO).of(CallKind::Sync(SyncScope::All)));
        write(&first, 7, b"abc");
        second.set_size(9).unwrap();
        second.sync(SyncScope::All).unwrap_err();
        let call = |file, kind, offset, len, failed| Call { file, kind, offset, len, failed };
        assert_eq!(
            plan.take_calls(),
            [
                call(0, CallKind::Write, 7, 3, false),
                call(1, CallKind::SetSize, 9, 0, false),
                call(1, CallKind::Sync(SyncScope::All), 0, 0, true),
            ]
        );
        assert!(plan.take_calls().is_empty());
    }
}
