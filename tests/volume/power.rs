//! What a power cut may not take: the exact order of writes and syncs, and how many of them each
//! operation costs. `tests/explorer` shows that the order suffices; this shows that it stays.

use std::io::IoSlice;
use std::sync::Arc;

use ssefs::store::faulty::{CallKind, Fault, FaultPlan};
use ssefs::store::memory::MemoryFile;
use ssefs::store::{BackingFile, SyncScope};
use ssefs::volume::EncryptedFile;

use super::faults::{faulty, syncs};
use super::gate::{Gate, Kept};
use super::harness::{TestVolume, pattern};
use super::model::content;

/// The pages of the backing file that calls concern here.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// A write of whole or partial pages, by the number of the first.
    Pages(u64, u64),
    Size,
    Punch,
    Sync,
}

struct Traced {
    plan: FaultPlan,
    file: EncryptedFile,
    _volume: TestVolume,
}

impl Traced {
    /// A file of an earlier epoch, all durable, that this epoch has not changed yet.
    fn with(plain: &[u8]) -> Self {
        let (mut volume, plan, backing) = faulty();
        let file = volume.open(&backing).unwrap();
        file.write(0, plain).unwrap();
        file.sync(SyncScope::All).unwrap();
        drop(file);
        volume.remount();
        let file = volume.open(&backing).unwrap();
        plan.take_calls();
        Self { plan, file, _volume: volume }
    }

    /// The same, once this epoch has changed it, so that its record tells of this epoch.
    fn warm(plain: &[u8]) -> Self {
        let traced = Self::with(plain);
        traced.file.write(0, &plain[..1]).unwrap();
        traced.file.sync(SyncScope::Data).unwrap();
        traced.steps();
        traced
    }

    /// What has reached the backing file since the last call of this.
    fn steps(&self) -> Vec<Step> {
        let steps = self.plan.take_calls().into_iter().filter_map(|call| match call.kind {
            CallKind::Write => {
                Some(Step::Pages(call.offset / 4096, (call.offset + call.len).div_ceil(4096)))
            }
            CallKind::SetSize => Some(Step::Size),
            CallKind::Punch => Some(Step::Punch),
            CallKind::Sync(_) => Some(Step::Sync),
            _ => None,
        });
        steps.collect()
    }

    fn sync(&self) {
        self.file.sync(SyncScope::Data).unwrap();
    }
}

/// Page 0 alone.
const HEADER: Step = Step::Pages(0, 1);
/// The tag page of blocks 16 to 79.
const TAGS: Step = Step::Pages(17, 18);

#[test]
fn an_overwrite_waits_for_the_sync_of_its_entries() {
    let traced = Traced::warm(&pattern(1, 20 * 4096));
    traced.file.write(5 * 4096, &pattern(2, 2 * 4096)).unwrap();
    assert_eq!(traced.steps(), [], "gathered");
    traced.sync();
    assert_eq!(traced.steps(), [HEADER, Step::Sync, Step::Pages(6, 8), Step::Sync]);
    traced.file.write(17 * 4096, &pattern(3, 4096)).unwrap();
    traced.sync();
    let blocks = Step::Pages(19, 20);
    assert_eq!(traced.steps(), [TAGS, HEADER, Step::Sync, blocks, Step::Sync]);
}

#[test]
fn the_first_change_in_an_epoch_waits_for_its_record() {
    let traced = Traced::with(&pattern(1, 4096));
    traced.file.write(4096, &pattern(2, 4096)).unwrap();
    assert_eq!(traced.steps(), [HEADER, Step::Sync, HEADER, Step::Pages(2, 3)]);
    let traced = Traced::with(&pattern(1, 4096));
    traced.file.set_size(4096 * 3).unwrap();
    assert_eq!(traced.steps()[..2], [HEADER, Step::Sync]);
}

#[test]
fn new_blocks_need_no_order() {
    let traced = Traced::warm(&pattern(1, 4096));
    for block in 1..5 {
        traced.file.write(block * 4096, &pattern(block, 4096)).unwrap();
    }
    assert!(!traced.steps().contains(&Step::Sync));
    traced.file.write(2 * 4096, &pattern(9, 4096)).unwrap();
    assert!(!traced.steps().contains(&Step::Sync), "not synced yet, so not to be kept");
    traced.sync();
    let syncs = traced.steps().into_iter().filter(|step| *step == Step::Sync).count();
    assert_eq!(syncs, 1);
}

#[test]
fn an_append_to_a_partial_block_is_an_overwrite_that_grows_first() {
    let traced = Traced::warm(&pattern(1, 100));
    traced.file.write(100, &pattern(2, 200)).unwrap();
    assert_eq!(traced.steps(), [Step::Size]);
    traced.sync();
    assert_eq!(traced.steps(), [HEADER, Step::Sync, Step::Pages(1, 2), Step::Sync]);
}

#[test]
fn a_third_generation_waits_for_the_second() {
    let traced = Traced::warm(&pattern(1, 4 * 4096));
    traced.file.write(0, &pattern(2, 4096)).unwrap();
    traced.file.commit().unwrap();
    assert_eq!(traced.steps(), [HEADER, Step::Sync, Step::Pages(1, 2)]);
    traced.file.write(2 * 4096, &pattern(3, 4096)).unwrap();
    assert_eq!(traced.steps(), [], "another block need not wait");
    traced.file.write(0, &pattern(4, 4096)).unwrap();
    // The block in flight is synced, with what else has waited.
    let expected = [HEADER, Step::Sync, Step::Pages(3, 4), Step::Sync];
    assert_eq!(traced.steps(), expected);
    traced.sync();
    assert_eq!(traced.steps(), [HEADER, Step::Sync, Step::Pages(1, 2), Step::Sync]);
}

#[test]
fn a_block_that_is_written_often_before_a_sync_is_written_once() {
    let traced = Traced::warm(&pattern(1, 4096));
    let mut expected = pattern(1, 4096);
    for round in 0..50 {
        let piece = pattern(round, 10);
        traced.file.write(round * 7, &piece).unwrap();
        expected[round as usize * 7..][..10].copy_from_slice(&piece);
        assert!(content(&traced.file).unwrap() == expected, "round {round}");
    }
    traced.sync();
    assert_eq!(traced.steps(), [HEADER, Step::Sync, Step::Pages(1, 2), Step::Sync]);
    assert!(content(&traced.file).unwrap() == expected);
}

#[test]
fn a_cut_at_an_edge_takes_one_sync_and_within_a_block_two() {
    let traced = Traced::warm(&pattern(1, 4 * 4096));
    traced.file.set_size(2 * 4096).unwrap();
    // The record with the smaller durable size, the cut, the entries, the record.
    assert_eq!(traced.steps(), [HEADER, Step::Size, Step::Sync, HEADER, HEADER]);
    let traced = Traced::warm(&pattern(1, 4 * 4096));
    traced.file.set_size(4096 + 10).unwrap();
    let announced = [HEADER, HEADER, Step::Sync, Step::Pages(2, 3), Step::Sync];
    let cut = [Step::Size, Step::Sync, HEADER, HEADER];
    assert_eq!(traced.steps(), announced.into_iter().chain(cut).collect::<Vec<_>>());
}

#[test]
fn what_was_never_synced_is_cut_without_a_sync() {
    let traced = Traced::warm(&pattern(1, 4096));
    traced.file.write(4096, &pattern(2, 3 * 4096)).unwrap();
    traced.file.set_size(4096 * 2 + 7).unwrap();
    assert!(!traced.steps().contains(&Step::Sync));
}

#[test]
fn nothing_comes_into_an_emptied_file_before_its_emptiness_is_synced() {
    let traced = Traced::warm(&pattern(1, 4 * 4096));
    traced.file.set_size(0).unwrap();
    assert_eq!(traced.steps(), [Step::Size]);
    traced.file.write(0, b"new").unwrap();
    assert_eq!(traced.steps(), [Step::Sync, Step::Pages(0, 2)]);
    let traced = Traced::warm(&pattern(1, 4 * 4096));
    traced.file.set_size(0).unwrap();
    traced.file.settle().unwrap();
    assert_eq!(traced.steps(), [Step::Size, Step::Sync], "opened anew it would not be known");
}

#[test]
fn data_is_freed_after_its_entries_are_synced() {
    let traced = Traced::warm(&pattern(1, 20 * 4096));
    traced.file.punch_hole(4096, 2 * 4096).unwrap();
    let flag = [HEADER, Step::Sync];
    let punch = [HEADER, Step::Sync, Step::Punch];
    assert_eq!(traced.steps(), flag.into_iter().chain(punch).collect::<Vec<_>>());
    traced.file.punch_hole(17 * 4096, 4096).unwrap();
    assert_eq!(traced.steps(), [TAGS, Step::Sync, Step::Punch]);
    traced.file.write(4096, &pattern(2, 4096)).unwrap();
    assert_eq!(traced.steps(), [], "the punching was synced with the other one");
    traced.file.write(17 * 4096, &pattern(2, 4096)).unwrap();
    assert!(traced.steps().contains(&Step::Sync));
}

#[test]
fn a_full_group_is_committed_by_whoever_fills_it() {
    let size = 9 << 20;
    let traced = Traced::warm(&pattern(1, size));
    let plain = pattern(2, size);
    for (index, piece) in plain.chunks(1 << 20).enumerate() {
        traced.file.write((index as u64) << 20, piece).unwrap();
    }
    let syncs = traced.steps().into_iter().filter(|step| *step == Step::Sync).count();
    assert_eq!(syncs, 1);
    assert!(traced.file.has_gathered(), "the ninth");
    assert!(content(&traced.file).unwrap() == plain);
}

#[test]
fn readers_do_not_wait_for_the_sync_of_a_commit() {
    let volume = TestVolume::new();
    let backing = Arc::new(Gate::default());
    let file = volume.open(&backing).unwrap();
    file.write(0, &pattern(1, 2 * 4096)).unwrap();
    file.sync(SyncScope::Data).unwrap();
    let new = pattern(2, 4096);
    file.write(0, &new).unwrap();
    backing.close(Kept::Syncs);
    std::thread::scope(|scope| {
        let syncing = scope.spawn(|| file.sync(SyncScope::Data).unwrap());
        backing.wait_for_call();
        let mut buf = [0; 4096];
        file.read(0, &mut buf).unwrap();
        assert!(buf == new[..], "what is being committed is read");
        file.write(4096, &pattern(3, 10)).unwrap();
        assert!(!syncing.is_finished());
        backing.open();
        syncing.join().unwrap();
    });
    assert!(file.has_gathered(), "what came during the sync waits for the next one");
}

#[test]
fn after_a_failed_sync_no_later_one_succeeds_until_the_file_is_opened_anew() {
    let (mut volume, plan, backing) = faulty();
    let file = volume.open(&backing).unwrap();
    let old = pattern(1, 3 * 4096);
    file.write(0, &old).unwrap();
    file.sync(SyncScope::All).unwrap();
    file.write(4096, &pattern(2, 4096)).unwrap();
    plan.add(Fault::at(0, 5).of(CallKind::Sync(SyncScope::Data)));
    assert!(file.sync(SyncScope::Data).is_err());
    for _ in 0..3 {
        assert!(file.sync(SyncScope::All).is_err(), "what failed once is reported to everyone");
    }
    let mut buf = [0; 4096];
    file.read(4096, &mut buf).unwrap();
    assert!(buf == pattern(2, 4096)[..], "it is still there to be saved elsewhere");
    file.settle().unwrap_err();
    assert!(!file.rest(), "or who opens it next would join it");
    drop(file);
    // Opened anew, the block is the old one: it was never written over.
    let file = volume.open(&backing).unwrap();
    assert!(content(&file).unwrap() == old);
    file.sync(SyncScope::All).unwrap();
    drop(file);
    volume.remount();
    assert!(content(&volume.open(&backing).unwrap()).unwrap() == old);
}

#[test]
fn a_sync_that_failed_by_another_descriptor_fails_for_the_open_file() {
    let (volume, _, backing) = faulty();
    let file = volume.open(&backing).unwrap();
    file.write(0, &pattern(1, 4096)).unwrap();
    file.note_sync_failed(&std::io::Error::from_raw_os_error(5));
    assert!(file.sync(SyncScope::All).is_err() && file.sync(SyncScope::Data).is_err());
    assert!(!file.rest());
}

#[test]
fn a_file_rests_when_opening_it_anew_would_bring_nothing() {
    let (volume, plan, backing) = faulty();
    let file = volume.open(&backing).unwrap();
    assert!(!file.rest(), "it has no DEK");
    file.write(0, &pattern(1, 100 * 4096)).unwrap();
    assert!(file.rest(), "the header goes with the first write");
    file.write(100 * 4096, b"more").unwrap();
    assert!(!file.rest(), "its size is not in the header");
    file.settle().unwrap();
    assert!(file.rest());
    plan.take_calls();
    let mut buf = [0; 4096];
    file.read(99 * 4096, &mut buf).unwrap();
    assert!(buf == pattern(1, 100 * 4096)[99 * 4096..]);
    let reads = plan.take_calls().iter().filter(|call| call.kind == CallKind::Read).count();
    assert_eq!(reads, 2, "the block and its page of entries, which a file at rest forgets");
    file.sync(SyncScope::All).unwrap();
    file.write(4096, &pattern(2, 4096)).unwrap();
    assert!(file.has_gathered() && !file.rest(), "a write waits for its commit");
    file.settle().unwrap();
    assert!(file.rest());
    file.withdraw();
    assert!(!file.rest(), "its DEK was taken");
}

#[test]
fn a_file_closed_unsynced_keeps_what_was_synced_of_it() {
    let (mut volume, plan, backing) = faulty();
    let file = volume.open(&backing).unwrap();
    file.write(0, &pattern(1, 2 * 4096)).unwrap();
    file.sync(SyncScope::All).unwrap();
    file.write(0, &pattern(2, 4096)).unwrap();
    file.settle().unwrap();
    drop(file);
    plan.take_calls();
    let file = volume.open(&backing).unwrap();
    file.write(0, &pattern(3, 4096)).unwrap();
    assert_eq!(syncs(&plan), 1, "the block may be in flight");
    assert!(file.has_gathered());
    file.sync(SyncScope::All).unwrap();
    drop(file);
    plan.take_calls();
    let file = volume.open(&backing).unwrap();
    file.write(0, &pattern(4, 4096)).unwrap();
    assert_eq!(syncs(&plan), 0, "all of it is durable");
    assert!(file.has_gathered());
    drop(file);
    volume.remount();
    assert_eq!(backing.size().unwrap(), 3 * 4096);
}

/// A file system tells that a file is closed before it lets go of it: what opens it meanwhile
/// has to know how it was left.
#[test]
fn a_file_that_has_ended_may_be_opened_anew_before_it_is_dropped() {
    let (volume, plan, backing) = faulty();
    let ended = volume.open(&backing).unwrap();
    ended.write(0, &pattern(1, 2 * 4096)).unwrap();
    ended.sync(SyncScope::All).unwrap();
    ended.write(0, &pattern(2, 4096)).unwrap();
    ended.settle().unwrap();
    ended.end();
    plan.take_calls();
    let file = volume.open(&backing).unwrap();
    file.write(0, &pattern(3, 4096)).unwrap();
    assert_eq!(syncs(&plan), 1, "the block may be in flight");
    file.sync(SyncScope::All).unwrap();
    file.end();
    plan.take_calls();
    drop(ended);
    let anew = volume.open(&backing).unwrap();
    anew.write(0, &pattern(4, 4096)).unwrap();
    assert_eq!(syncs(&plan), 0, "all of it is durable");
    plan.add(Fault::at(0, 5).of(CallKind::Sync(SyncScope::Data)));
    anew.sync(SyncScope::Data).unwrap_err();
    anew.end();
    let last = volume.open(&backing).unwrap();
    let expected = [pattern(3, 4096), pattern(1, 2 * 4096)[4096..].to_vec()].concat();
    assert!(content(&last).unwrap() == expected, "the entry tells of what was not written");
}

#[test]
fn a_first_write_that_never_came_leaves_an_empty_file() {
    let mut volume = TestVolume::new();
    let backing = Arc::new(MemoryFile::new());
    backing.write_at(&[IoSlice::new(&[0; 5000])], 0).unwrap();
    assert!(volume.open(&backing).is_err(), "no mount has crashed here");
    volume.crash();
    assert_eq!(volume.open_read_only(&backing).unwrap().size(), 0);
    let file = volume.open(&backing).unwrap();
    assert_eq!((file.size(), backing.size().unwrap()), (0, 0));
}
