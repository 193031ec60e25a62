//! Files that were closed before all of them was synced. Of these, and only these, a part is
//! not durable when they are opened again in the same epoch.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::journal::Kept;
use crate::format::{FileId, PlainSize};

/// The files, each with how much of it is durable, and the promised records of the journal that
/// have to stay until the rest is.
#[derive(Default)]
pub(super) struct Unsynced {
    /// By the first byte of the file's id, which is random.
    shards: [Mutex<HashMap<FileId, Note>>; SHARDS],
    /// Counts the notes, so that a sync takes out those that were made before it.
    notes: AtomicU64,
}

struct Note {
    durable: PlainSize,
    number: u64,
    kept: Vec<Kept>,
}

impl Note {
    fn end(self) {
        self.kept.into_iter().for_each(Kept::end);
    }
}

impl Unsynced {
    /// Notes that the file was closed and that `durable` bytes of it are synced.
    pub(super) fn note(&self, file: FileId, durable: PlainSize, mut kept: Vec<Kept>) {
        let mut files = self.shard_of(file);
        let number = self.notes.fetch_add(1, Ordering::AcqRel) + 1;
        if let Some(before) = files.remove(&file) {
            kept.extend(before.kept);
        }
        files.insert(file, Note { durable, number, kept });
    }

    /// The file was synced before it was closed.
    pub(super) fn forget(&self, file: FileId) {
        if let Some(note) = self.shard_of(file).remove(&file) {
            note.end();
        }
    }

    /// How many records wait for a sync.
    pub(super) fn kept(&self) -> usize {
        let of = |files: MutexGuard<'_, HashMap<FileId, Note>>| -> usize {
            files.values().map(|note| note.kept.len()).sum()
        };
        self.shards().map(of).sum()
    }

    /// How much of the file is synced, and its records, which whoever asks has to keep from now on;
    /// `None` if all of it is.
    pub(super) fn take(&self, file: FileId) -> Option<(PlainSize, Vec<Kept>)> {
        let mut files = self.shard_of(file);
        let note = files.get_mut(&file)?;
        Some((note.durable, std::mem::take(&mut note.kept)))
    }

    /// The records of all files, for whoever keeps them from now on.
    pub(super) fn take_all(&self) -> Vec<(FileId, Vec<Kept>)> {
        let mut all = Vec::new();
        for mut files in self.shards() {
            all.extend(
                files.iter_mut().map(|(file, note)| (*file, std::mem::take(&mut note.kept))),
            );
        }
        all
    }

    /// What to give to [`Self::note_synced`] after a sync of everything that begins now; `None`
    /// if nothing is to be synced.
    pub(super) fn now(&self) -> Option<u64> {
        // First, so that none counts as older that is noted after its shard was looked at.
        let notes = self.notes.load(Ordering::Acquire);
        self.shards().any(|files| !files.is_empty()).then_some(notes)
    }

    /// All that was noted up to `until` is synced.
    pub(super) fn note_synced(&self, until: u64) {
        for mut files in self.shards() {
            files.extract_if(|_, note| note.number <= until).for_each(|(_, note)| note.end());
            files.shrink_to(LEFT_ALLOCATED);
        }
    }

    /// All of this one that was noted up to `until` is synced.
    pub(super) fn note_file_synced(&self, file: FileId, until: u64) {
        let mut files = self.shard_of(file);
        if files.get(&file).is_some_and(|note| note.number <= until)
            && let Some(note) = files.remove(&file)
        {
            note.end();
        }
    }

    fn shard_of(&self, file: FileId) -> MutexGuard<'_, HashMap<FileId, Note>> {
        let shard = &self.shards[usize::from(file.0[0]) % SHARDS];
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn shards(&self) -> impl Iterator<Item = MutexGuard<'_, HashMap<FileId, Note>>> {
        self.shards.iter().map(|shard| shard.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

const SHARDS: usize = 16;
const LEFT_ALLOCATED: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sync_covers_what_was_noted_before_it() {
        let unsynced = Unsynced::default();
        assert_eq!(unsynced.now(), None);
        let [one, two] = [1, 2].map(|byte| FileId([byte; 16]));
        let find = |file| unsynced.take(file).map(|(durable, _)| durable);
        unsynced.note(one, PlainSize(5), Vec::new());
        unsynced.note(two, PlainSize(6), Vec::new());
        let until = unsynced.now().unwrap();
        unsynced.note(two, PlainSize(7), Vec::new());
        unsynced.note_synced(until);
        assert_eq!((find(one), find(two)), (None, Some(PlainSize(7))));
        unsynced.note_synced(unsynced.now().unwrap());
        assert_eq!((find(two), unsynced.now()), (None, None));
    }

    #[test]
    fn one_file_may_be_synced_by_itself() {
        let unsynced = Unsynced::default();
        let [one, two] = [1, 2].map(|byte| FileId([byte; 16]));
        let find = |file| unsynced.take(file).map(|(durable, _)| durable);
        unsynced.note(one, PlainSize(5), Vec::new());
        unsynced.note(two, PlainSize(6), Vec::new());
        let until = unsynced.now().unwrap();
        unsynced.note(two, PlainSize(7), Vec::new());
        unsynced.note_file_synced(one, until);
        unsynced.note_file_synced(two, until);
        assert_eq!((find(one), find(two)), (None, Some(PlainSize(7))));
        unsynced.forget(two);
        assert_eq!(unsynced.now(), None);
    }
}
