//! One sync for all who wait: the first who comes syncs what everyone has written so far, those
//! who come meanwhile wait and are covered together by the next.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::keys::error::KeyError;

/// How far everything is on stable storage, counted in records of this process.
#[derive(Default)]
pub(super) struct GroupSync {
    state: Mutex<State>,
    done: Condvar,
}

#[derive(Default)]
struct State {
    covered: u64,
    running: bool,
    /// Whether the last sync failed: the system may have dropped what it could not write.
    failed: bool,
}

impl GroupSync {
    /// Returns once `ticket` is covered. `sync` is told whether the one before failed, and
    /// returns up to where it has covered everything. No lock is held while it runs.
    pub(super) fn cover(
        &self,
        ticket: u64,
        sync: impl FnOnce(bool) -> Result<u64, KeyError>,
    ) -> Result<(), KeyError> {
        let mut state = self.state();
        while state.running && state.covered < ticket {
            state = self.done.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.covered >= ticket && !state.failed {
            return Ok(());
        }
        state.running = true;
        let again = state.failed;
        drop(state);
        let running = Running(self);
        let synced = sync(again);
        let mut state = self.state();
        state.failed = synced.is_err();
        if let Ok(covered) = &synced {
            state.covered = state.covered.max(*covered);
        }
        drop(state);
        drop(running);
        synced.map(drop)
    }

    /// Whether nothing up to `ticket` is left to sync.
    pub(super) fn is_covered(&self, ticket: u64) -> bool {
        let state = self.state();
        state.covered >= ticket && !state.failed
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Lets the next one sync, also when this one panics.
struct Running<'a>(&'a GroupSync);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.state().running = false;
        self.0.done.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;

    use super::*;

    #[test]
    fn those_who_wait_share_one_sync() {
        let (syncs, written, runs) = (GroupSync::default(), AtomicU64::new(0), AtomicU64::new(0));
        std::thread::scope(|scope| {
            for _ in 0..32 {
                scope.spawn(|| {
                    let ticket = written.fetch_add(1, Ordering::SeqCst) + 1;
                    let sync = |again: bool| {
                        assert!(!again);
                        runs.fetch_add(1, Ordering::SeqCst);
                        let covered = written.load(Ordering::SeqCst);
                        std::thread::sleep(Duration::from_millis(50));
                        Ok(covered)
                    };
                    syncs.cover(ticket, sync).unwrap();
                    assert!(syncs.is_covered(ticket));
                });
            }
        });
        assert!(runs.load(Ordering::SeqCst) < 16, "{runs:?} syncs for 32 records");
    }

    #[test]
    fn a_failed_sync_is_told_to_its_caller_and_the_next_writes_again() {
        let syncs = GroupSync::default();
        let refused = || KeyError::Audit { path: "log".into(), problem: "EIO".into() };
        assert!(syncs.cover(1, |_| Err(refused())).is_err());
        assert!(!syncs.is_covered(0));
        let mut was_told = false;
        syncs
            .cover(1, |again| {
                was_told = again;
                Ok(1)
            })
            .unwrap();
        assert!(was_told && syncs.is_covered(1));
    }
}
