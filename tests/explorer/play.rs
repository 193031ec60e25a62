//! Runs a sequence on a file whose backing operations are recorded, and keeps the model beside.

use std::sync::Arc;

use ssefs::store::SyncScope;
use ssefs::store::memory::MemoryFile;
use ssefs::store::recorder::{DroppedSyncs, RecordedFile, Segment};
use ssefs::volume::EncryptedFile;

use super::harness::{TestVolume, pattern};
use super::journal::{IS_HEARD, JournalLog};
use super::model::{Found, History, Promise, Version};
use super::sequences::{Sequence, Start, Then};

/// A sequence that was run.
pub struct Played {
    /// The epoch of the mount.
    pub epoch: u64,
    pub segments: Vec<Segment>,
    pub journal: JournalLog,
    pub history: History,
    /// Syncs that the journal answered.
    pub in_journal: u64,
}

/// Runs `sequence` in `volume`, which is new, up to where the machine goes down.
pub fn play(volume: &mut TestVolume, sequence: &Sequence, dropped: DroppedSyncs) -> Played {
    let base = Arc::new(MemoryFile::new());
    let before = prepare(volume, sequence.start, &base);
    let backing = Arc::new(RecordedFile::over(&base));
    backing.drop_syncs(dropped);
    let run = || run(volume, sequence, &backing, before);
    // Only the crash ends what the process does with the file.
    let ((history, file, in_journal), journal) = JournalLog::of(&backing, run);
    drop(file);
    let (epoch, segments) = (volume.volume().epoch(), backing.segments());
    Played { epoch, segments, journal, history, in_journal }
}

fn run(
    volume: &TestVolume,
    sequence: &Sequence,
    backing: &Arc<RecordedFile>,
    before: Vec<u8>,
) -> (History, EncryptedFile, u64) {
    let mut in_journal = 0;
    let mut file = volume.open(backing).unwrap();
    let now = look(&file);
    let mut history = History::new(before, now.envelope.clone());
    let mut content = now.content().expect("what was there before is there");
    if content != history.newest().content {
        let (content, envelope) = (content.clone(), now.envelope);
        history.add(Version { content, envelope, begun: 0, by_write: true });
    }
    for (number, (operation, then)) in sequence.steps.iter().enumerate() {
        let (begun, seed) = (backing.position(), number as u64 + 2);
        let size = content.len() as u64;
        operation.apply(volume.volume(), &file, size, seed).unwrap();
        operation.apply_to(&mut content, seed);
        let found = look(&file);
        assert!(found.content().as_ref() == Some(&content), "{sequence}: no crash is needed");
        let (content, envelope) = (content.clone(), found.envelope);
        history.add(Version { content, envelope, begun, by_write: operation.is_write() });
        history.promise(Promise::Answered, backing.position());
        if matches!(then, Then::Sync | Then::SyncAndReopen) {
            // All, so that it can be told from a barrier within.
            file.sync(SyncScope::All).unwrap();
        }
        if *then == Then::SyncInJournal {
            match IS_HEARD && file.sync_in_journal(SyncScope::Data).unwrap() {
                true => in_journal += 1,
                false => file.sync(SyncScope::All).unwrap(),
            }
        }
        if *then == Then::Commit {
            file.commit().unwrap();
        }
        if matches!(then, Then::Sync | Then::SyncInJournal | Then::SyncAndReopen) {
            history.promise(Promise::Synced, backing.position());
        }
        if matches!(then, Then::Reopen | Then::SyncAndReopen) {
            close(&file);
            drop(file);
            history.promise(Promise::Closed, backing.position());
            file = volume.open(backing).unwrap();
        }
    }
    (history, file, in_journal)
}

/// What the last handle that could write does when it is closed.
pub fn close(file: &EncryptedFile) {
    file.settle().unwrap();
}

/// Everything that can be read of a file.
pub fn look(file: &EncryptedFile) -> Found {
    let size = file.size();
    let block = |at: u64| {
        let mut bytes = vec![0xee; (size - at).min(4096) as usize];
        let read = file.read(at, &mut bytes).map_err(|error| error.to_string())?;
        if read < bytes.len() { Err(format!("{read} bytes read")) } else { Ok(bytes) }
    };
    let blocks = (0..size).step_by(4096).map(block).collect();
    let envelope = file.envelope().map(|(_, envelope)| envelope);
    Found { size, blocks, envelope }
}

/// Makes what is there before the sequence, in an epoch of its own; returns what is durable.
fn prepare(volume: &mut TestVolume, start: Start, base: &Arc<MemoryFile>) -> Vec<u8> {
    let len = match start {
        Start::New => return Vec::new(),
        Start::Small => 1000,
        Start::Blocks | Start::Holes | Start::Recovered => 3 * 4096 + 1000,
        Start::Edge => 16 * 4096 + 500,
    };
    let mut content = pattern(1, len);
    let file = volume.open(base).unwrap();
    file.write(0, &content).unwrap();
    if start == Start::Holes {
        file.punch_hole(4096, 4096).unwrap();
        file.set_size(20_000).unwrap();
        content[4096..8192].fill(0);
        content.resize(20_000, 0);
    }
    file.sync(SyncScope::All).unwrap();
    if start == Start::Recovered {
        file.write(5000, &pattern(9, 6000)).unwrap();
        drop(file);
        volume.leave_journals(&[]);
        volume.crash();
    } else {
        close(&file);
        drop(file);
        volume.remount();
    }
    content
}
