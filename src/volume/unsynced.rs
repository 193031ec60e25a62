//! Files that were closed before all of them was synced. Of these, and only these, a part is
//! not durable when they are opened again in the same epoch.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::journal::Kept;
use crate::format::{FileId, PlainSize};

/// The files, each with how much of it is durable, and the promised records of the journal that
/// have to stay until the rest is.
#[derive(Default)]
pub(super) struct Unsynced {
    files: Mutex<Noted>,
}

#[derive(Default)]
struct Noted {
    files: HashMap<FileId, Note>,
    /// Counts the notes, so that a sync takes out those that were made before it.
    notes: u64,
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
        let mut noted = self.lock();
        noted.notes += 1;
        let number = noted.notes;
        if let Some(before) = noted.files.remove(&file) {
            kept.extend(before.kept);
        }
        noted.files.insert(file, Note { durable, number, kept });
    }

    /// The file was synced before it was closed.
    pub(super) fn forget(&self, file: FileId) {
        let mut noted = self.lock();
        if !noted.files.is_empty()
            && let Some(note) = noted.files.remove(&file)
        {
            note.end();
        }
    }

    /// How many records wait for a sync.
    pub(super) fn kept(&self) -> usize {
        self.lock().files.values().map(|note| note.kept.len()).sum()
    }

    /// How much of the file is synced, and its records, which whoever asks has to keep from now on;
    /// `None` if all of it is.
    pub(super) fn take(&self, file: FileId) -> Option<(PlainSize, Vec<Kept>)> {
        let mut noted = self.lock();
        let note = noted.files.get_mut(&file)?;
        Some((note.durable, std::mem::take(&mut note.kept)))
    }

    /// The records of all files, for whoever keeps them from now on.
    pub(super) fn take_all(&self) -> Vec<(FileId, Vec<Kept>)> {
        let mut noted = self.lock();
        noted.files.iter_mut().map(|(file, note)| (*file, std::mem::take(&mut note.kept))).collect()
    }

    /// What to give to [`Self::note_synced`] after a sync of everything that begins now; `None`
    /// if nothing is to be synced.
    pub(super) fn now(&self) -> Option<u64> {
        let noted = self.lock();
        (!noted.files.is_empty()).then_some(noted.notes)
    }

    /// All that was noted up to `until` is synced.
    pub(super) fn note_synced(&self, until: u64) {
        let mut noted = self.lock();
        let synced = noted.files.extract_if(|_, note| note.number <= until);
        synced.for_each(|(_, note)| note.end());
        noted.files.shrink_to(LEFT_ALLOCATED);
    }

    /// All of this one that was noted up to `until` is synced.
    pub(super) fn note_file_synced(&self, file: FileId, until: u64) {
        let mut noted = self.lock();
        if noted.files.get(&file).is_some_and(|note| note.number <= until)
            && let Some(note) = noted.files.remove(&file)
        {
            note.end();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Noted> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const LEFT_ALLOCATED: usize = 1024;

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
