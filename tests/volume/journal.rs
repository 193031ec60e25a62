//! The journal: what is acknowledged and only gathered outlives the process; what does not come
//! next in its file does not come back.

use std::fs;
use std::sync::Arc;

use ssefs::format::{JOURNAL_RECORD_LEN, JOURNAL_SLOT_LEN, journal_name, slot_start};
use ssefs::store::faulty::{CallKind, Fault};
use ssefs::store::memory::MemoryFile;
use ssefs::store::{BackingFile, SyncScope};
use ssefs::volume::{Durability, EncryptedFile};

use super::faults::faulty;
use super::harness::{TestVolume, pattern};
use super::model::content;

const BLOCK: usize = 4096;

/// A volume with a synced file of `len` bytes of pattern 1, which is open.
fn synced(len: usize) -> (TestVolume, Arc<MemoryFile>, EncryptedFile) {
    let volume = TestVolume::new();
    let backing = Arc::new(MemoryFile::new());
    let file = volume.open(&backing).unwrap();
    file.write(0, &pattern(1, len)).unwrap();
    file.sync(SyncScope::All).unwrap();
    (volume, backing, file)
}

/// The process dies with a file that is open: it does nothing more with it, and what it has put
/// into its journal stays there.
pub fn die_with(volume: &mut TestVolume, file: EncryptedFile) {
    let journals = volume.journals();
    drop(file);
    volume.leave_journals(&journals);
    volume.crash();
}

fn with(mut content: Vec<u8>, at: usize, bytes: &[u8]) -> Vec<u8> {
    content.resize(content.len().max(at + bytes.len()), 0);
    content[at..at + bytes.len()].copy_from_slice(bytes);
    content
}

#[test]
fn what_was_gathered_outlives_the_process() {
    let (mut volume, backing, file) = synced(100 * BLOCK);
    let (inner, run) = (pattern(2, 100), pattern(3, 70 * BLOCK));
    let mut expected = pattern(1, 100 * BLOCK);
    for (at, bytes) in [(20 * BLOCK, &run), (5 * BLOCK + 7, &inner)] {
        file.write(at as u64, bytes).unwrap();
        expected = with(expected, at, bytes);
    }
    assert!(file.has_gathered());
    die_with(&mut volume, file);
    volume.crash_and_look();
    assert!(content(&volume.open_read_only(&backing).unwrap()).unwrap() == expected);
    volume.crash();
    // A reader recovers it, closes it, and with that all is in the file.
    let reader = volume.open(&backing).unwrap();
    assert!(content(&reader).unwrap() == expected && !reader.has_gathered());
    drop(reader);
    volume.crash();
    let file = volume.open(&backing).unwrap();
    assert!(content(&file).unwrap() == expected);
    file.settle().unwrap();
    drop(file);
    volume.remount();
    assert_eq!(volume.journals().len(), 0);
    assert!(content(&volume.open(&backing).unwrap()).unwrap() == expected);
}

#[test]
fn of_two_writes_to_a_block_the_later_one_counts() {
    let (mut volume, backing, file) = synced(3 * BLOCK);
    for seed in 2..40 {
        file.write(BLOCK as u64, &pattern(seed, BLOCK)).unwrap();
    }
    die_with(&mut volume, file);
    let found = content(&volume.open(&backing).unwrap()).unwrap();
    assert!(found == with(pattern(1, 3 * BLOCK), BLOCK, &pattern(39, BLOCK)));
}

/// The process died while it wrote the record of the second write: only the first was answered.
#[test]
fn a_record_that_was_not_written_whole_leaves_the_one_before_it() {
    let (mut volume, backing, file) = synced(3 * BLOCK);
    file.write(BLOCK as u64, &pattern(2, BLOCK)).unwrap();
    let first = volume.journals();
    file.write(BLOCK as u64, &pattern(3, BLOCK)).unwrap();
    let mut both = volume.journals();
    both[0].1[..first[0].1.len()].copy_from_slice(&first[0].1);
    both[0].1.truncate(slot_start(1) as usize + JOURNAL_RECORD_LEN + 100);
    drop(file);
    volume.leave_journals(&both);
    volume.crash();
    let found = content(&volume.open(&backing).unwrap()).unwrap();
    assert!(found == with(pattern(1, 3 * BLOCK), BLOCK, &pattern(2, BLOCK)));
}

/// The record named the new epoch before the blocks were in the file: they were not found again.
#[test]
fn a_recovery_that_breaks_off_anywhere_takes_nothing_from_the_journal() {
    let mut failures = 0;
    for nth in 0.. {
        let (mut volume, plan, backing) = faulty();
        let file = volume.open(&backing).unwrap();
        file.write(0, &pattern(1, 20 * BLOCK + 7)).unwrap();
        file.sync(SyncScope::All).unwrap();
        file.write(3, &pattern(2, 18 * BLOCK)).unwrap();
        file.write(20 * BLOCK as u64 + 7, &pattern(3, 90)).unwrap();
        let expected = with(pattern(1, 20 * BLOCK + 7), 3, &pattern(2, 18 * BLOCK));
        let expected = with(expected, 20 * BLOCK + 7, &pattern(3, 90));
        die_with(&mut volume, file);
        plan.take_calls();
        plan.add(Fault::at(nth, 5));
        let failed = volume.open(&backing).is_err();
        plan.heal();
        failures += u64::from(failed);
        if nth % 2 == 0 {
            volume.crash();
        }
        let found = content(&volume.open(&backing).unwrap()).unwrap();
        assert!(found == expected, "call {nth}");
        if !failed {
            break;
        }
    }
    assert!(failures > 10, "{failures}");
}

#[test]
fn a_file_that_could_only_be_read_gets_its_blocks_once_it_may_be_written() {
    let (mut volume, backing, file) = synced(3 * BLOCK);
    file.write(BLOCK as u64, &pattern(2, BLOCK)).unwrap();
    let expected = with(pattern(1, 3 * BLOCK), BLOCK, &pattern(2, BLOCK));
    die_with(&mut volume, file);
    let file = volume.open_read_only(&backing).unwrap();
    assert!(content(&file).unwrap() == expected && !file.has_gathered());
    file.commit().unwrap();
    file.replace_backing(Arc::clone(&backing) as Arc<_>).unwrap();
    assert!(content(&file).unwrap() == expected && !file.has_gathered());
    drop(file);
    assert_eq!(volume.journals().len(), 0);
    volume.crash();
    assert!(content(&volume.open(&backing).unwrap()).unwrap() == expected);
}

#[test]
fn a_synced_tail_that_was_appended_to_is_as_long_as_it_was() {
    for len in [1, 100, BLOCK - 1, BLOCK, 16 * BLOCK + 5, 80 * BLOCK + 9] {
        for appended in [1, 50, 5000] {
            let (mut volume, backing, file) = synced(len);
            file.write(len as u64, &pattern(2, appended)).unwrap();
            file.write((len + appended) as u64, &pattern(3, 3)).unwrap();
            die_with(&mut volume, file);
            let appended_to = with(pattern(1, len), len, &pattern(2, appended));
            let expected = with(appended_to, len + appended, &pattern(3, 3));
            let found = content(&volume.open(&backing).unwrap()).unwrap();
            assert!(found == expected, "{appended} to {len}: {}", found.len());
        }
    }
}

#[test]
fn what_was_committed_is_not_written_a_second_time() {
    let (mut volume, backing, file) = synced(3 * BLOCK);
    file.write(0, &pattern(2, BLOCK)).unwrap();
    let before = volume.journals();
    file.sync(SyncScope::All).unwrap();
    file.write(0, &pattern(3, BLOCK)).unwrap();
    file.sync(SyncScope::All).unwrap();
    // As where a power cut has taken the later changes of the journal.
    volume.leave_journals(&before);
    die_with(&mut volume, file);
    let found = content(&volume.open(&backing).unwrap()).unwrap();
    assert!(found == with(pattern(1, 3 * BLOCK), 0, &pattern(3, BLOCK)));
}

#[test]
fn a_block_that_waited_does_not_come_back_into_a_file_that_was_cut() {
    let (mut volume, backing, file) = synced(3 * BLOCK);
    file.write(2 * BLOCK as u64, &pattern(2, BLOCK)).unwrap();
    let before = volume.journals();
    file.set_size(BLOCK as u64).unwrap();
    file.set_size(3 * BLOCK as u64).unwrap();
    file.sync(SyncScope::All).unwrap();
    volume.leave_journals(&before);
    die_with(&mut volume, file);
    let found = content(&volume.open(&backing).unwrap()).unwrap();
    let mut expected = pattern(1, BLOCK);
    expected.resize(3 * BLOCK, 0);
    assert!(found == expected);
}

/// The erased record of a block that filled a hole asks for a hole: it must be gone for good
/// before there is one again.
#[cfg(debug_assertions)]
#[test]
fn a_hole_is_made_after_what_filled_it_is_erased_for_good() {
    use std::cell::Cell;
    use std::rc::Rc;

    use ssefs::store::observer::{Event, FileEvent, observe};

    let (_volume, _backing, file) = synced(BLOCK);
    file.set_size(9 * BLOCK as u64).unwrap();
    file.sync(SyncScope::All).unwrap();
    let syncs = Rc::new(Cell::new(0));
    let counted = Rc::clone(&syncs);
    observe(Some(Box::new(move |event| {
        if matches!(event, Event::File(_, FileEvent::Synced(_))) {
            counted.set(counted.get() + 1);
        }
    })));
    // The journal is the only file on disk here, others are in memory.
    file.write(4 * BLOCK as u64, &pattern(2, BLOCK)).unwrap();
    file.punch_hole(4 * BLOCK as u64, BLOCK as u64).unwrap();
    assert_eq!(syncs.get(), 1, "a hole that was filled is punched");
    file.punch_hole(5 * BLOCK as u64, BLOCK as u64).unwrap();
    assert_eq!(syncs.get(), 1, "nothing was erased since");
    file.write(6 * BLOCK as u64, &pattern(2, BLOCK)).unwrap();
    file.set_size(6 * BLOCK as u64).unwrap();
    file.write(8 * BLOCK as u64, b"past a gap").unwrap();
    assert_eq!(syncs.get(), 2, "a hole that was filled is cut off, a gap comes in its place");
    observe(None);
}

#[test]
fn nothing_that_was_altered_is_taken() {
    let old = pattern(1, 3 * BLOCK);
    let (mut volume, backing, file) = synced(3 * BLOCK);
    file.write(BLOCK as u64, &pattern(2, BLOCK)).unwrap();
    die_with(&mut volume, file);
    let (epoch, mut bytes) = volume.journals().remove(0);
    let slot = slot_start(0) as usize;
    let unused = bytes.split_off(slot + JOURNAL_SLOT_LEN as usize);
    assert!(unused.iter().all(|byte| *byte == 0));
    let altered = [0, 11, 20, 33, 60, slot, slot + 20, slot + 26, slot + 40, slot + 97, slot + 125]
        .into_iter()
        .chain([slot + JOURNAL_RECORD_LEN - 1, slot + JOURNAL_RECORD_LEN, bytes.len() - 1]);
    for at in altered {
        let mut changed = bytes.clone();
        changed[at] ^= 1;
        volume.leave_journals(&[(epoch, changed)]);
        volume.crash_and_look();
        let found = content(&volume.open_read_only(&backing).unwrap()).unwrap();
        assert!(found == old, "byte {at}");
    }
    for len in [0, 1, slot, slot + 50, slot + JOURNAL_RECORD_LEN, bytes.len() - 1] {
        volume.leave_journals(&[(epoch, bytes[..len].to_vec())]);
        volume.crash_and_look();
        let found = content(&volume.open_read_only(&backing).unwrap()).unwrap();
        assert!(found == old, "{len} bytes");
    }
    volume.leave_journals(&[(epoch, bytes)]);
    volume.crash_and_look();
    let found = content(&volume.open_read_only(&backing).unwrap()).unwrap();
    assert!(found == with(old, BLOCK, &pattern(2, BLOCK)), "and as it was it is taken");
}

#[test]
fn the_journal_of_a_later_version_is_refused_and_kept() {
    let (mut volume, _, file) = synced(3 * BLOCK);
    file.write(BLOCK as u64, &pattern(2, BLOCK)).unwrap();
    let (epoch, mut bytes) = volume.journals().remove(0);
    bytes[8] = 2;
    drop(file);
    volume.leave_journals(&[(epoch, bytes.clone())]);
    let error = volume.try_crash().unwrap_err().to_string();
    assert!(error.contains("version 2") && error.contains("journal"), "{error}");
    assert!(volume.journals() == [(epoch, bytes)]);
}

#[test]
fn a_journal_goes_once_all_its_files_are_recovered() {
    let volume = &mut TestVolume::new();
    let files: Vec<_> = (0..3)
        .map(|seed| {
            let backing = Arc::new(MemoryFile::new());
            let file = volume.open(&backing).unwrap();
            file.write(0, &pattern(seed, 2 * BLOCK)).unwrap();
            file.sync(SyncScope::All).unwrap();
            file.write(0, &pattern(seed + 10, BLOCK)).unwrap();
            (backing, file)
        })
        .collect();
    let left = volume.journals();
    let backings: Vec<_> = files.into_iter().map(|(backing, _)| backing.snapshot()).collect();
    volume.crash();
    volume.leave_journals(&left);
    volume.crash();
    let is_there = |volume: &TestVolume| volume.journals().iter().any(|it| it.0 == left[0].0);
    for (seed, backing) in backings.into_iter().enumerate() {
        assert!(is_there(volume), "needed for file {seed}");
        let (backing, seed) = (Arc::new(backing), seed as u64);
        let file = volume.open(&backing).unwrap();
        let expected = with(pattern(seed, 2 * BLOCK), 0, &pattern(seed + 10, BLOCK));
        assert!(content(&file).unwrap() == expected, "file {seed}");
        file.settle().unwrap();
    }
    assert!(!is_there(volume));
}

#[test]
fn a_journal_in_which_nothing_waits_can_be_emptied() {
    let (mut volume, backing, file) = synced(30 * BLOCK);
    let used = |volume: &TestVolume| {
        let bytes = &volume.journals()[0].1;
        bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1
    };
    let mut expected = pattern(1, 30 * BLOCK);
    for seed in 2..5 {
        file.write(BLOCK as u64, &pattern(seed, 20 * BLOCK)).unwrap();
        expected = with(expected, BLOCK, &pattern(seed, 20 * BLOCK));
        let full = volume.journals();
        assert!(used(&volume) > slot_start(19) as usize);
        volume.volume().empty_journal();
        assert!(volume.journals() == full, "what waits stays");
        file.commit().unwrap();
        volume.volume().empty_journal();
        assert!(used(&volume) <= slot_start(0) as usize);
        file.sync(SyncScope::Data).unwrap();
    }
    file.write(0, &pattern(9, 2 * BLOCK)).unwrap();
    die_with(&mut volume, file);
    let found = content(&volume.open(&backing).unwrap()).unwrap();
    assert!(found == with(expected, 0, &pattern(9, 2 * BLOCK)));
}

#[test]
fn what_cannot_be_put_into_the_journal_is_committed_before_it_is_acknowledged() {
    let (mut volume, backing, file) = synced(3 * BLOCK);
    let name = journal_name(volume.volume().epoch());
    fs::create_dir(volume.metadata().join(name)).unwrap();
    file.write(BLOCK as u64, &pattern(2, BLOCK)).unwrap();
    assert!(!file.has_gathered());
    file.set_size(2 * BLOCK as u64 + 5).unwrap();
    assert!(!file.has_gathered());
    die_with(&mut volume, file);
    let found = content(&volume.open(&backing).unwrap()).unwrap();
    let mut expected = with(pattern(1, 3 * BLOCK), BLOCK, &pattern(2, BLOCK));
    expected.truncate(2 * BLOCK + 5);
    assert!(found == expected);
}

/// Of what could not be written, and was told to be lost, nothing comes back later.
#[test]
fn what_was_given_up_is_not_in_the_journal() {
    let (mut volume, plan, backing) = faulty();
    let file = volume.open(&backing).unwrap();
    file.write(0, &pattern(1, 2 * BLOCK)).unwrap();
    file.sync(SyncScope::All).unwrap();
    file.write(0, &pattern(2, BLOCK)).unwrap();
    plan.add(Fault::at(0, 5).of(CallKind::Sync(SyncScope::Data)));
    file.sync(SyncScope::Data).unwrap_err();
    drop(file);
    volume.crash();
    assert!(content(&volume.open(&backing).unwrap()).unwrap() == pattern(1, 2 * BLOCK));
}

#[test]
fn where_nothing_is_gathered_there_is_no_journal() {
    let volume = TestVolume::with(Durability::Process);
    let backing = Arc::new(MemoryFile::new());
    let file = volume.open(&backing).unwrap();
    for _ in 0..3 {
        file.write(0, &pattern(1, 2 * BLOCK)).unwrap();
        file.sync(SyncScope::All).unwrap();
    }
    assert_eq!((volume.journals().len(), file.has_gathered()), (0, false));
    assert!(backing.size().unwrap() > 0);
}
