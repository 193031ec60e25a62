//! Process death at every backing call, and within it at every page: after recovery each block
//! reads as it was before or after the operation in flight.

use std::sync::Arc;

use proptest::prelude::{ProptestConfig, any, prop, proptest};
use ssefs::format::BlockIndex;
use ssefs::store::faulty::{CallKind, Fault, FaultPlan, FaultyFile};
use ssefs::store::memory::MemoryFile;
use ssefs::store::{BackingFile, SyncScope};
use ssefs::volume::Durability;

use super::faults::faulty;
use super::harness::{TestVolume, pattern};
use super::journal::die_with;
use super::model::{Step, content, step};

const EIO: i32 = 5;

fn cipher_start(block: u64) -> u64 {
    BlockIndex(block).cipher_start().0
}

/// Runs `before`, then `last` until the `nth` changing call dies after `bytes`; recovers and
/// returns what is read, or `None` when `last` was over sooner. `settled` says whether the
/// state record was up to date before `last`.
fn die_in(before: &[Step], settled: bool, last: &Step, nth: u64, bytes: u64) -> Option<Vec<u8>> {
    let (mut volume, plan, backing) = faulty();
    let file = volume.open(&backing).unwrap();
    for step in before {
        step.apply(&file).unwrap();
    }
    if settled {
        file.settle().unwrap();
    }
    plan.take_calls();
    plan.add(Fault::at(nth, EIO).of_modifications().after_bytes(bytes).then_dead());
    let _ = last.apply(&file);
    let died = plan.has_struck();
    plan.heal();
    die_with(&mut volume, file);
    let file = volume.open_read_only(&backing).unwrap();
    content(&file).unwrap_or_else(|error| {
        panic!("{error} read-only after {before:?}, dead in {last:?}, call {nth}, byte {bytes}")
    });
    drop(file);
    let file = volume.open(&backing).unwrap();
    let recovered = content(&file).unwrap_or_else(|error| {
        panic!("{error} after {before:?}, dead in {last:?}, call {nth}, byte {bytes}")
    });
    file.settle().unwrap();
    drop(file);
    // Recovery is over: from here on the file is an ordinary one.
    volume.remount();
    let again = content(&volume.open(&backing).unwrap()).unwrap();
    assert!(again == recovered, "recovery was not final");
    died.then_some(recovered)
}

/// Holds what was recovered to the promise.
fn check(before: &[Step], last: &Step, recovered: &[u8]) {
    let mut old = Vec::new();
    for step in before {
        step.apply_to(&mut old);
    }
    let mut new = old.clone();
    last.apply_to(&mut new);
    if let Step::SetSize(_) = last {
        assert!(recovered == old || recovered == new, "a truncate is all or nothing");
        return;
    }
    let sizes = old.len().min(new.len())..=old.len().max(new.len());
    assert!(sizes.contains(&recovered.len()), "size {} in {sizes:?}", recovered.len());
    for (index, block) in recovered.chunks(4096).enumerate() {
        // A block past the old end that grew by zeros is before its data came.
        let was = |model: &[u8]| {
            let from = (index * 4096).min(model.len());
            let stored = &model[from..model.len().min(from + block.len())];
            let (same, rest) = block.split_at(stored.len());
            same == stored && rest.iter().all(|byte| *byte == 0)
        };
        assert!(was(&old) || was(&new), "block {index} is neither old nor new");
    }
}

fn die_everywhere(before: &[Step], settled: bool, last: &Step) -> u64 {
    let mut deaths = 0;
    for nth in 0.. {
        let mut any = false;
        // A write is torn at every page of the first few, and far into a long one.
        for pages in [0, 1, 2, 3, 5, 16, 17, 18, 64, 65, 80] {
            if let Some(recovered) = die_in(before, settled, last, nth, pages * 4096) {
                check(before, last, &recovered);
                (any, deaths) = (true, deaths + 1);
            }
        }
        if !any {
            break;
        }
    }
    deaths
}

#[test]
fn chosen_operations_survive_death_at_any_call() {
    let full = |blocks: usize, seed| Step::Write { at: 0, len: blocks * 4096, seed };
    let cases: Vec<(Vec<Step>, Step)> = vec![
        (vec![], full(1, 1)),
        (vec![], full(100, 1)),
        (vec![], Step::Write { at: 50_000, len: 9000, seed: 1 }),
        (vec![full(1, 1)], full(1, 2)),
        (vec![full(100, 1)], full(100, 2)),
        (vec![full(100, 1), full(100, 2)], Step::Write { at: 5000, len: 200_000, seed: 3 }),
        (vec![Step::Write { at: 0, len: 100, seed: 1 }], Step::Write { at: 100, len: 50, seed: 2 }),
        (
            vec![Step::Write { at: 0, len: 100, seed: 1 }],
            Step::Write { at: 9000, len: 50, seed: 2 },
        ),
        (vec![full(17, 1)], Step::SetSize(5000)),
        (vec![full(100, 1)], Step::SetSize(70_000)),
        (vec![full(100, 1)], Step::SetSize(4096)),
        (vec![full(100, 1)], Step::SetSize(0)),
        (vec![Step::Write { at: 0, len: 100, seed: 1 }], Step::SetSize(200)),
        (vec![Step::Write { at: 0, len: 100, seed: 1 }], Step::SetSize(400_000)),
        (vec![], Step::SetSize(400_000)),
        (vec![full(100, 1)], Step::Punch { at: 4096, len: 300_000 }),
        (vec![full(100, 1), Step::Punch { at: 4096, len: 300_000 }], full(40, 2)),
        (vec![full(30, 1)], Step::Zero { at: 100, len: 300_000, keep_size: false }),
        (vec![full(3, 1)], Step::Allocate { at: 0, len: 300_000, keep_size: false }),
    ];
    let deaths: u64 = cases.iter().map(|(before, last)| die_everywhere(before, true, last)).sum();
    assert!(deaths > 200, "only {deaths} deaths: the plan did not strike");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn random_operations_survive_death_at_any_call(
        before in prop::collection::vec(step(), 0..5),
        settled in any::<bool>(),
        last in step(),
    ) {
        die_everywhere(&before, settled, &last);
    }
}

#[test]
fn two_deaths_in_a_row_lose_nothing() {
    die_twice(TestVolume::new());
    die_twice(TestVolume::with(Durability::Process));
}

fn die_twice(mut volume: TestVolume) {
    let plan = FaultPlan::new();
    let backing = Arc::new(FaultyFile::new(MemoryFile::new(), &plan));
    let old = pattern(1, 100 * 4096);
    let file = volume.open(&backing).unwrap();
    file.write(0, &old).unwrap();
    drop(file);
    volume.crash();
    for round in 0..20 {
        let file = volume.open(&backing).unwrap();
        assert!(content(&file).unwrap() == old, "round {round}");
        // Only the entries arrive: the data stays that of before.
        plan.add(Fault::at(round % 2 + 1, EIO).of(CallKind::Write).after_bytes(4096).then_dead());
        let _ = file.write(20 * 4096 * (round % 4), &pattern(round + 2, 4096));
        drop(file);
        plan.heal();
        volume.crash();
        let file = volume.open(&backing);
        let now = content(&file.unwrap()).unwrap();
        let differing: Vec<_> = (0..100)
            .filter(|block| now[block * 4096..][..4096] != old[block * 4096..][..4096])
            .collect();
        assert!(differing.len() <= 1, "round {round}: {differing:?}");
        volume.open(&backing).unwrap().write(0, &old).unwrap();
    }
}

#[test]
fn a_gap_behind_an_aligned_cut_is_a_gap_after_death() {
    let mut volume = TestVolume::new();
    let backing = Arc::new(MemoryFile::new());
    let data = pattern(1, 300_000);
    let file = volume.open(&backing).unwrap();
    file.write(0, &data).unwrap();
    file.sync(SyncScope::Data).unwrap();
    file.set_size(8192).unwrap();
    file.write(200_000, &data[..100]).unwrap();
    drop(file);
    volume.crash();
    let mut expected = data[..8192].to_vec();
    expected.resize(200_000, 0);
    expected.extend(&data[..100]);
    assert!(content(&volume.open_read_only(&backing).unwrap()).unwrap() == expected);
    assert!(content(&volume.open(&backing).unwrap()).unwrap() == expected);
}

#[test]
fn a_gap_that_a_change_of_size_leaves_inside_is_a_gap_after_death() {
    for size in [150_000, 200_050] {
        let mut volume = TestVolume::new();
        let backing = Arc::new(MemoryFile::new());
        let data = pattern(1, 100);
        let file = volume.open(&backing).unwrap();
        file.write(200_000, &data).unwrap();
        file.set_size(size).unwrap();
        drop(file);
        volume.crash();
        let mut expected = vec![0; 200_000];
        expected.extend(&data);
        expected.truncate(size as usize);
        assert!(content(&volume.open_read_only(&backing).unwrap()).unwrap() == expected);
        assert!(content(&volume.open(&backing).unwrap()).unwrap() == expected);
    }
}

#[test]
fn a_lost_block_between_new_ones_is_a_hole_that_the_record_allows() {
    let mut volume = TestVolume::new();
    let backing = Arc::new(MemoryFile::new());
    let data = pattern(1, 18 * 4096);
    let file = volume.open(&backing).unwrap();
    file.write(0, &data[..15 * 4096]).unwrap();
    file.sync(SyncScope::All).unwrap();
    file.write(15 * 4096, &data[15 * 4096..]).unwrap();
    drop(file);
    // Its entry and the block behind it have reached the medium, its data has not.
    backing.punch(cipher_start(16), 4096).unwrap();
    volume.crash();
    let mut expected = data;
    expected[16 * 4096..17 * 4096].fill(0);
    assert!(content(&volume.open(&backing).unwrap()).unwrap() == expected);
    assert!(content(&volume.open(&backing).unwrap()).unwrap() == expected);
}

#[test]
fn what_never_became_data_reads_as_zeros_through_a_read_only_file() {
    let (mut volume, plan, backing) = faulty();
    let file = volume.open(&backing).unwrap();
    file.set_size(100 * 4096).unwrap();
    // The entry arrives, its data does not.
    plan.take_calls();
    plan.add(Fault::at(1, EIO).of(CallKind::Write).then_dead());
    file.write(20 * 4096, &pattern(1, 4096)).unwrap_err();
    drop(file);
    plan.heal();
    volume.crash();
    let zeros = vec![0; 100 * 4096];
    volume.crash_and_look();
    assert!(content(&volume.open_read_only(&backing).unwrap()).unwrap() == zeros);
    volume.crash();
    assert!(content(&volume.open_read_only(&backing).unwrap()).unwrap() == zeros);
    assert!(content(&volume.open(&backing).unwrap()).unwrap() == zeros);
}
