//! A backing file whose writes or syncs wait while it is closed to them.

use std::io::{self, IoSlice};
use std::sync::{Condvar, Mutex};
use std::time::Duration;

use ssefs::store::memory::MemoryFile;
use ssefs::store::{BackingFile, SyncScope};

/// The file, open at first.
#[derive(Default)]
pub struct Gate {
    inner: MemoryFile,
    state: Mutex<State>,
    changed: Condvar,
}

/// What has to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    Writes,
    Syncs,
}

#[derive(Default)]
struct State {
    closed_to: Option<Kept>,
    somebody_waits: bool,
}

impl Gate {
    pub fn close(&self, to: Kept) {
        *self.state.lock().unwrap() = State { closed_to: Some(to), somebody_waits: false };
    }

    pub fn open(&self) {
        self.state.lock().unwrap().closed_to = None;
        self.changed.notify_all();
    }

    /// Returns when a call waits.
    pub fn wait_for_call(&self) {
        let state = self.state.lock().unwrap();
        let waited = self.changed.wait_timeout_while(state, PATIENCE, |it| !it.somebody_waits);
        assert!(!waited.unwrap().1.timed_out(), "nothing came to the gate");
    }

    fn pass(&self, call: Kept) {
        let mut state = self.state.lock().unwrap();
        if state.closed_to == Some(call) {
            state.somebody_waits = true;
            self.changed.notify_all();
            // Nobody opens it where the test has failed.
            let is_closed = |it: &mut State| it.closed_to == Some(call);
            drop(self.changed.wait_timeout_while(state, 2 * PATIENCE, is_closed).unwrap());
        }
    }
}

impl BackingFile for Gate {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.inner.read_at(buf, offset)
    }

    fn write_at(&self, bufs: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        self.pass(Kept::Writes);
        self.inner.write_at(bufs, offset)
    }

    fn size(&self) -> io::Result<u64> {
        self.inner.size()
    }

    fn set_size(&self, size: u64) -> io::Result<()> {
        self.inner.set_size(size)
    }

    fn allocate(&self, offset: u64, len: u64, keep_size: bool) -> io::Result<()> {
        self.inner.allocate(offset, len, keep_size)
    }

    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        self.inner.punch(offset, len)
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<u64>> {
        self.inner.next_data(offset)
    }

    fn sync(&self, scope: SyncScope) -> io::Result<()> {
        self.pass(Kept::Syncs);
        self.inner.sync(scope)
    }
}

/// How long a test waits for what must come.
pub const PATIENCE: Duration = Duration::from_secs(30);
