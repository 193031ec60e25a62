//! Syncs that the journal answers: what was promised in it stays there until it is durable in its
//! file, and whatever else has changed is not left to it.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use ssefs::format::{CipherOffset, JOURNAL_SLOT_LEN, plain_size, slot_start};
use ssefs::store::faulty::{Call, CallKind, Fault, FaultPlan, FaultyFile};
use ssefs::store::memory::MemoryFile;
use ssefs::store::observer::{Event, FileEvent, observe};
use ssefs::store::{BackingFile, SyncScope};
use ssefs::volume::{Durability, EncryptedFile};

use super::faults::{faulty, syncs};
use super::harness::{TestVolume, pattern};
use super::journal::die_with;
use super::model::content;

const BLOCK: usize = 4096;

struct Synced {
    volume: TestVolume,
    plan: FaultPlan,
    backing: Arc<FaultyFile<MemoryFile>>,
    file: EncryptedFile,
}

impl Synced {
    /// A file of `blocks` blocks of pattern 1, synced and then written in this epoch.
    fn new(blocks: usize) -> Self {
        let (mut volume, plan, backing) = faulty();
        let file = volume.open(&backing).unwrap();
        file.write(0, &pattern(1, blocks * BLOCK)).unwrap();
        file.settle().unwrap();
        drop(file);
        volume.remount();
        let file = volume.open(&backing).unwrap();
        file.write(0, &pattern(1, BLOCK)).unwrap();
        file.sync(SyncScope::Data).unwrap();
        plan.take_calls();
        Self { volume, plan, backing, file }
    }

    fn write(&self, block: usize, seed: u64) {
        self.file.write((block * BLOCK) as u64, &pattern(seed, BLOCK)).unwrap();
    }

    /// How often the backing file was changed or synced since this was asked last.
    fn touched(&self) -> usize {
        let touches = |kind: &CallKind| !matches!(kind, CallKind::Read | CallKind::Size);
        self.plan.take_calls().iter().filter(|call| touches(&call.kind)).count()
    }

    fn slot(&self, number: u32) -> Vec<u8> {
        slot(&self.volume, number)
    }

    /// The power fails: of the backing file nothing is left that was not synced.
    fn cut(self, durable: &MemoryFile) -> (TestVolume, Arc<MemoryFile>) {
        let Self { mut volume, file, .. } = self;
        die_with(&mut volume, file);
        (volume, Arc::new(durable.snapshot()))
    }
}

/// A slot of this mount's journal, as it is.
fn slot(volume: &TestVolume, number: u32) -> Vec<u8> {
    let at = slot_start(number) as usize;
    volume.journals()[0].1[at..at + JOURNAL_SLOT_LEN as usize].to_vec()
}

fn with(blocks: usize, changed: &[(usize, u64)]) -> Vec<u8> {
    let mut expected = pattern(1, blocks * BLOCK);
    for (block, seed) in changed {
        expected[block * BLOCK..(block + 1) * BLOCK].copy_from_slice(&pattern(*seed, BLOCK));
    }
    expected
}

/// Runs `work` and counts the syncs of the journal, the only file here that is on disk.
fn journal_syncs(work: impl FnOnce()) -> usize {
    let syncs = Rc::new(Cell::new(0));
    let counted = Rc::clone(&syncs);
    observe(Some(Box::new(move |event| {
        if matches!(event, Event::File(_, FileEvent::Synced(_))) {
            counted.set(counted.get() + 1);
        }
    })));
    work();
    observe(None);
    syncs.get()
}

#[test]
fn one_sync_of_the_journal_makes_durable_what_waits() {
    let it = Synced::new(5);
    let durable = it.backing.inner().snapshot();
    it.write(1, 2);
    it.write(3, 3);
    let counted = journal_syncs(|| assert!(it.file.sync_in_journal(SyncScope::Data).unwrap()));
    assert!(counted == 1 || !cfg!(debug_assertions), "{counted} syncs");
    let counted = journal_syncs(|| assert!(it.file.sync_in_journal(SyncScope::Data).unwrap()));
    assert_eq!((counted, it.touched()), (0, 0), "nothing has changed since");
    it.write(3, 4);
    assert!(it.file.sync_in_journal(SyncScope::All).unwrap());
    let calls = it.plan.take_calls();
    let kinds: Vec<CallKind> = calls.iter().map(|call| call.kind).collect();
    assert_eq!(kinds, [CallKind::Sync(SyncScope::All)], "of the file its attributes");
    let (volume, backing) = it.cut(&durable);
    let file = volume.open(&backing).unwrap();
    assert!(content(&file).unwrap() == with(5, &[(1, 2), (3, 4)]));
}

#[test]
fn what_else_has_changed_is_not_left_to_the_journal() {
    type Change = fn(&EncryptedFile);
    let changes: [(&str, Change); 5] = [
        ("longer", |file| file.write(5 * BLOCK as u64, b"more").unwrap()),
        ("a gap at its end", |file| file.set_size(20 * BLOCK as u64).unwrap()),
        ("cut", |file| file.set_size(3 * BLOCK as u64).unwrap()),
        ("emptied", |file| file.set_size(0).unwrap()),
        ("punched", |file| file.punch_hole(3 * BLOCK as u64, BLOCK as u64).unwrap()),
    ];
    for (what, change) in changes {
        let it = Synced::new(5);
        change(&it.file);
        if what != "emptied" {
            it.write(1, 2);
        }
        assert!(!it.file.sync_in_journal(SyncScope::Data).unwrap(), "{what}");
        it.file.sync(SyncScope::Data).unwrap();
        if what != "emptied" {
            it.write(2, 3);
            assert!(it.file.sync_in_journal(SyncScope::Data).unwrap(), "{what}, and synced");
        }
    }
    let it = Synced::new(5);
    assert!(!it.file.sync_in_journal(SyncScope::Data).unwrap(), "nothing waits");
    it.file.set_size(9 * BLOCK as u64).unwrap();
    it.file.sync(SyncScope::Data).unwrap();
    it.write(7, 2);
    assert!(!it.file.sync_in_journal(SyncScope::Data).unwrap(), "a hole is filled");
}

#[test]
fn a_file_closed_unsynced_is_synced_itself_first() {
    let Synced { volume, backing, file, plan } = Synced::new(5);
    file.write(0, &pattern(2, BLOCK)).unwrap();
    file.settle().unwrap();
    drop(file);
    let file = volume.open(&backing).unwrap();
    plan.take_calls();
    file.write(BLOCK as u64, &pattern(3, BLOCK)).unwrap();
    file.sync(SyncScope::Data).unwrap();
    file.write(BLOCK as u64, &pattern(4, BLOCK)).unwrap();
    assert!(file.sync_in_journal(SyncScope::Data).unwrap());
}

#[test]
fn without_the_promise_for_power_cuts_there_is_no_journal_to_sync() {
    let volume = TestVolume::with(Durability::Process);
    let file = volume.open(&Arc::new(MemoryFile::new())).unwrap();
    for _ in 0..2 {
        file.write(0, &pattern(1, BLOCK)).unwrap();
        assert!(!file.sync_in_journal(SyncScope::Data).unwrap());
        file.sync(SyncScope::Data).unwrap();
    }
}

#[test]
fn a_promised_record_stays_until_its_block_is_synced() {
    let it = Synced::new(9);
    let durable = it.backing.inner().snapshot();
    it.write(1, 2);
    assert!(it.file.sync_in_journal(SyncScope::Data).unwrap());
    let promised = it.slot(0);
    it.file.commit().unwrap();
    for block in 2..6 {
        it.write(block, 3);
    }
    assert!(it.slot(0) == promised, "its block is in flight");
    it.write(6, 4);
    assert!(
        it.file.sync_in_journal(SyncScope::Data).unwrap(),
        "what a commit brought of it is promised already"
    );
    let (volume, backing) = it.cut(&durable);
    let found = content(&volume.open(&backing).unwrap()).unwrap();
    assert!(found == with(9, &[(1, 2), (2, 3), (3, 3), (4, 3), (5, 3), (6, 4)]));

    let it = Synced::new(9);
    it.write(1, 2);
    assert!(it.file.sync_in_journal(SyncScope::Data).unwrap());
    let promised = it.slot(0);
    it.file.sync(SyncScope::All).unwrap();
    it.write(2, 3);
    assert!(it.slot(0) != promised, "its block is synced, its slot is used again");
}

#[test]
fn a_commit_of_what_was_not_promised_is_not_left_to_the_journal() {
    let it = Synced::new(9);
    it.write(1, 2);
    assert!(it.file.sync_in_journal(SyncScope::Data).unwrap());
    it.write(2, 3);
    it.file.commit().unwrap();
    it.write(3, 4);
    assert!(
        !it.file.sync_in_journal(SyncScope::Data).unwrap(),
        "block 2 is in flight and in no journal"
    );
}

#[test]
fn a_promised_record_outlives_the_close_of_its_file() {
    let Synced { volume, backing, file, .. } = Synced::new(9);
    let other = Arc::new(MemoryFile::new());
    let others = volume.open(&other).unwrap();
    others.write(0, &pattern(1, 9 * BLOCK)).unwrap();
    others.sync(SyncScope::All).unwrap();
    let slot = || slot(&volume, 0);
    file.write(BLOCK as u64, &pattern(2, BLOCK)).unwrap();
    assert!(file.sync_in_journal(SyncScope::Data).unwrap());
    let promised = slot();
    file.settle().unwrap();
    drop(file);
    others.write(0, &pattern(3, BLOCK)).unwrap();
    assert!(slot() == promised, "it was closed, and not synced");
    drop(volume.open(&backing).unwrap());
    others.write(BLOCK as u64, &pattern(3, BLOCK)).unwrap();
    assert!(slot() == promised, "nor was it when it was opened again");
    let until = volume.volume().unsynced_now().unwrap();
    volume.volume().note_all_synced(until);
    others.write(2 * BLOCK as u64, &pattern(3, BLOCK)).unwrap();
    assert!(slot() != promised, "it is synced now");
}

#[test]
fn what_was_promised_stays_beside_what_comes_after_it() {
    let it = Synced::new(5);
    let durable = it.backing.inner().snapshot();
    it.write(1, 2);
    assert!(it.file.sync_in_journal(SyncScope::Data).unwrap());
    let first = it.slot(0);
    for seed in 3..20 {
        it.write(1, seed);
    }
    assert!(it.slot(0) == first, "what came after it is not synced");
    let journals = it.volume.journals();
    let mut only_first = journals.clone();
    only_first[0].1.truncate(slot_start(1) as usize);
    assert!(it.file.sync_in_journal(SyncScope::Data).unwrap());
    it.write(2, 20);
    assert!(it.slot(0) != first, "the record after it is promised, its slot is used again");
    let Synced { mut volume, file, .. } = it;
    drop(file);
    for (left, seed) in [(journals, 19), (only_first, 2)] {
        volume.leave_journals(&left);
        volume.crash();
        let backing = Arc::new(durable.snapshot());
        let found = content(&volume.open(&backing).unwrap()).unwrap();
        assert!(found == with(5, &[(1, seed)]), "seed {seed}");
    }
}

/// The sync was answered; that a later write to the file fails takes nothing of it back.
#[test]
fn what_was_promised_and_cannot_be_committed_is_in_the_journal() {
    let Synced { mut volume, plan, backing, file } = Synced::new(5);
    let durable = backing.inner().snapshot();
    file.write(BLOCK as u64, &pattern(2, BLOCK)).unwrap();
    assert!(file.sync_in_journal(SyncScope::Data).unwrap());
    file.write(3 * BLOCK as u64, &pattern(3, BLOCK)).unwrap();
    plan.take_calls();
    plan.add(Fault::at(0, 5).of(CallKind::Sync(SyncScope::Data)));
    file.sync(SyncScope::Data).unwrap_err();
    assert!(
        !file.sync_in_journal(SyncScope::Data).unwrap(),
        "of a file that has failed nothing is promised any more"
    );
    drop(file);
    let expected = with(5, &[(1, 2)]);
    let file = volume.open(&backing).unwrap();
    assert!(content(&file).unwrap() == expected, "in the same mount");
    let journals = volume.journals();
    drop(file);
    for backing in [Arc::new(durable.snapshot()), Arc::new(backing.inner().snapshot())] {
        volume.leave_journals(&journals);
        volume.crash();
        assert!(content(&volume.open(&backing).unwrap()).unwrap() == expected, "in the next one");
        volume.leave_journals(&journals);
        volume.crash_and_look();
        let found = content(&volume.open_read_only(&backing).unwrap()).unwrap();
        assert!(found == expected, "read only");
    }
}

#[test]
fn an_epoch_does_not_end_cleanly_over_what_only_its_journal_has() {
    let Synced { mut volume, plan, backing, file } = Synced::new(5);
    file.write(BLOCK as u64, &pattern(2, BLOCK)).unwrap();
    assert!(file.sync_in_journal(SyncScope::Data).unwrap());
    plan.take_calls();
    plan.add(Fault::at(0, 5).of(CallKind::Sync(SyncScope::Data)));
    file.settle().unwrap_err();
    drop(file);
    volume.remount();
    assert_eq!(volume.volume().unclean_epochs(), 1);
    let found = content(&volume.open(&backing).unwrap()).unwrap();
    assert!(found == with(5, &[(1, 2)]));
}

/// A third generation of the block came while the second one was in the file.
#[test]
fn a_block_that_a_broken_commit_has_written_is_not_replaced_before_it_is_committed() {
    let mut refused = 0;
    for (nth, then_again) in (0..4).flat_map(|nth| [(nth, false), (nth, true)]) {
        let Synced { mut volume, plan, backing, file } = Synced::new(9);
        file.write(BLOCK as u64, &pattern(2, BLOCK)).unwrap();
        file.write(5 * BLOCK as u64, &pattern(3, BLOCK)).unwrap();
        plan.take_calls();
        plan.add(Fault::at(nth, 28).of(CallKind::Write).from_then_on());
        let failed = file.sync(SyncScope::Data).is_err();
        let mut changed = vec![(1, 2), (5, 3), (7, 6)];
        match file.write(BLOCK as u64, &pattern(4, BLOCK)) {
            Ok(()) => changed[0].1 = 4,
            Err(_) => refused += 1,
        }
        file.write(7 * BLOCK as u64, &pattern(6, BLOCK)).unwrap();
        plan.heal();
        if then_again {
            file.write(BLOCK as u64, &pattern(5, BLOCK)).unwrap();
            changed[0].1 = 5;
        }
        let died = Arc::new(backing.inner().snapshot());
        die_with(&mut volume, file);
        let found = content(&volume.open(&died).unwrap()).unwrap();
        assert!(found == with(9, &changed), "write {nth} failed ({failed}): {changed:?}");
    }
    assert!(refused > 0, "no commit broke off with block 1 written");
}

/// The next sync of everything takes for written what the failed one has told of.
#[test]
fn promised_records_stay_after_a_sync_of_everything_has_failed() {
    let Synced { mut volume, backing, file, .. } = Synced::new(9);
    let durable = backing.inner().snapshot();
    file.write(BLOCK as u64, &pattern(2, BLOCK)).unwrap();
    assert!(file.sync_in_journal(SyncScope::Data).unwrap());
    file.settle().unwrap();
    drop(file);
    let until = volume.volume().unsynced_now().unwrap();
    volume.volume().note_sync_failed();
    volume.volume().note_all_synced(until);
    let reopened = volume.open(&backing).unwrap();
    reopened.sync(SyncScope::All).unwrap();
    reopened.write(5 * BLOCK as u64, &pattern(3, BLOCK)).unwrap();
    reopened.sync(SyncScope::All).unwrap();
    drop(reopened);
    volume.remount();
    assert_eq!(volume.volume().unclean_epochs(), 1, "it did not end cleanly");
    let mut block = vec![0; BLOCK];
    volume.open(&Arc::new(durable)).unwrap().read(BLOCK as u64, &mut block).unwrap();
    assert!(block == pattern(2, BLOCK), "from what the medium held when the sync failed");

    let mut volume = TestVolume::new();
    volume.volume().note_sync_failed();
    volume.remount();
    assert_eq!(volume.volume().unclean_epochs(), 1, "whatever file it was");
}

/// Its own descriptor is not asked, and the next sync of everything succeeds.
#[test]
fn promised_records_of_a_file_that_was_open_when_a_sync_failed_stay_after_its_close() {
    let Synced { volume, backing, file, .. } = Synced::new(9);
    let slot = || slot(&volume, 0);
    file.write(BLOCK as u64, &pattern(2, BLOCK)).unwrap();
    assert!(file.sync_in_journal(SyncScope::Data).unwrap());
    let promised = slot();
    volume.volume().note_sync_failed();
    file.settle().unwrap();
    drop(file);
    let until = volume.volume().unsynced_now().unwrap();
    volume.volume().note_all_synced(until);
    let file = volume.open(&backing).unwrap();
    file.write(3 * BLOCK as u64, &pattern(3, BLOCK)).unwrap();
    file.sync(SyncScope::All).unwrap();
    file.write(4 * BLOCK as u64, &pattern(4, BLOCK)).unwrap();
    assert!(slot() == promised);
}

#[test]
fn promised_records_of_a_file_closed_before_go_with_the_sync_of_who_opens_it() {
    for fails in [false, true] {
        let Synced { volume, plan, backing, file } = Synced::new(9);
        file.write(BLOCK as u64, &pattern(2, BLOCK)).unwrap();
        assert!(file.sync_in_journal(SyncScope::Data).unwrap());
        let slot = || slot(&volume, 0);
        let promised = slot();
        file.settle().unwrap();
        drop(file);
        let file = volume.open(&backing).unwrap();
        plan.take_calls();
        if fails {
            plan.add(Fault::at(0, 5).of(CallKind::Sync(SyncScope::All)));
        }
        assert_eq!(file.sync(SyncScope::All).is_err(), fails);
        drop(file);
        plan.heal();
        if let Some(until) = volume.volume().unsynced_now() {
            volume.volume().note_all_synced(until);
        }
        let file = volume.open(&backing).unwrap();
        file.sync(SyncScope::All).unwrap();
        file.write(3 * BLOCK as u64, &pattern(3, BLOCK)).unwrap();
        assert_eq!(slot() == promised, fails, "it stays where its block may not be there");
    }
}

/// Where a sync has failed, the file may show a block that the medium does not hold: to whoever
/// opens it in this mount or, while the machine runs, in a later one, for writing or for reading
/// first.
#[test]
fn what_only_memory_shows_is_written_once_more() {
    for (is_later, reads_first) in [(false, false), (true, false), (true, true)] {
        let Synced { mut volume, plan, backing, file } = Synced::new(9);
        file.write(BLOCK as u64, &pattern(2, BLOCK)).unwrap();
        assert!(file.sync_in_journal(SyncScope::Data).unwrap());
        file.commit().unwrap();
        plan.take_calls();
        plan.add(Fault::at(0, 5).of(CallKind::Sync(SyncScope::All)));
        file.sync(SyncScope::All).unwrap_err();
        drop(file);
        plan.heal();
        if is_later {
            volume.crash();
        }
        plan.take_calls();
        let file = match reads_first {
            true => volume.open_read_only(&backing).unwrap(),
            false => volume.open(&backing).unwrap(),
        };
        if reads_first {
            file.replace_backing(Arc::clone(&backing) as Arc<_>).unwrap();
        }
        let calls = plan.take_calls();
        let is_block = |call: &Call| {
            let place = (call.offset, call.len) == (2 * BLOCK as u64, BLOCK as u64);
            call.kind == CallKind::Write && place
        };
        let written = calls.iter().position(is_block).expect("it is written");
        let rest = &calls[written + 1..];
        let next = rest.iter().position(|call| matches!(call.kind, CallKind::Sync(_))).unwrap();
        let page_0 = rest.iter().position(|call| call.kind == CallKind::Write);
        assert!(page_0.is_none_or(|page_0| next < page_0), "synced before the record: {calls:?}");
        assert!(content(&file).unwrap() == with(9, &[(1, 2)]));
    }
}

#[test]
fn a_sync_of_a_file_that_failed_for_one_caller_fails_for_all() {
    let Synced { plan, file, .. } = Synced::new(5);
    file.write(BLOCK as u64, &pattern(2, BLOCK)).unwrap();
    plan.take_calls();
    plan.add(Fault::at(0, 5).of(CallKind::Sync(SyncScope::Data)));
    file.sync(SyncScope::Data).unwrap_err();
    plan.heal();
    file.sync(SyncScope::Data).unwrap_err();
    file.set_size(BLOCK as u64 + 7).unwrap_err();
    assert_eq!(syncs(&plan), 1, "the kernel would take the next for complete");
}

/// What the earlier mount promised is not for this one to lose.
#[test]
fn a_mount_without_barriers_syncs_what_it_takes_from_a_journal() {
    let Synced { mut volume, backing, file, .. } = Synced::new(9);
    let durable = backing.inner().snapshot();
    file.write(BLOCK as u64, &pattern(2, BLOCK)).unwrap();
    assert!(file.sync_in_journal(SyncScope::Data).unwrap());
    let journals = volume.journals();
    drop(file);
    volume.leave_journals(&journals);
    volume.durability = Durability::Process;
    volume.crash();
    let plan = FaultPlan::new();
    let recovering = Arc::new(FaultyFile::new(durable, &plan));
    let file = volume.open(&recovering).unwrap();
    assert!(content(&file).unwrap() == with(9, &[(1, 2)]));
    assert_eq!(syncs(&plan), 4, "what is there, entries, blocks, the record of the new epoch");
}

/// A file of 5 blocks and 1000 bytes, which ends within its last block.
fn ending_within() -> Synced {
    let it = Synced::new(5);
    it.file.write(5 * BLOCK as u64, &pattern(5, 1000)).unwrap();
    it.file.sync(SyncScope::Data).unwrap();
    it.plan.take_calls();
    it
}

fn append(it: &Synced, seed: u64, len: usize) {
    it.file.write(it.file.size(), &pattern(seed, len)).unwrap();
}

#[test]
fn a_file_that_grows_within_its_last_block_is_synced_by_the_journal() {
    let it = ending_within();
    let durable = it.backing.inner().snapshot();
    let before = content(&it.file).unwrap();
    let mut expected = before.clone();
    for (seed, len) in [(6, 200), (7, 1500), (8, 4096 - 2700)] {
        append(&it, seed, len);
        expected.extend(pattern(seed, len));
        let counted = journal_syncs(|| assert!(it.file.sync_in_journal(SyncScope::Data).unwrap()));
        assert!(counted == 1 || !cfg!(debug_assertions), "{counted} syncs");
        let kinds: Vec<CallKind> = it.plan.take_calls().iter().map(|call| call.kind).collect();
        let is_sync = |kind: &CallKind| matches!(kind, CallKind::Sync(_));
        assert!(!kinds.iter().any(is_sync), "{kinds:?}");
    }
    append(&it, 9, 10);
    assert!(!it.file.sync_in_journal(SyncScope::Data).unwrap(), "a block more");
    let (volume, backing) = it.cut(&durable);
    assert_eq!(plain_size(CipherOffset(backing.size().unwrap())).0, before.len() as u64);
    let reader = volume.open_read_only(&backing).unwrap();
    assert!(content(&reader).unwrap() == expected, "through a reader");
    drop(reader);
    let file = volume.open(&backing).unwrap();
    assert!(content(&file).unwrap() == expected);
    assert_eq!(plain_size(CipherOffset(backing.size().unwrap())).0, expected.len() as u64);
}
