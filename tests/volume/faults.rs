//! Backing errors reach the caller as they are, and what was written before is unharmed.

use std::sync::Arc;

use proptest::prelude::{ProptestConfig, any, prop, proptest};
use ssefs::store::faulty::{CallKind, Fault, FaultPlan, FaultyFile};
use ssefs::store::memory::MemoryFile;
use ssefs::volume::VolumeError;

use super::harness::{TestVolume, pattern};
use super::model::{Step, content, step};

const ENOSPC: i32 = 28;

/// A volume, and a backing file in memory that fails as planned.
pub fn faulty() -> (TestVolume, FaultPlan, Arc<FaultyFile<MemoryFile>>) {
    let plan = FaultPlan::new();
    let backing = Arc::new(FaultyFile::new(MemoryFile::new(), &plan));
    (TestVolume::new(), plan, backing)
}

/// How many syncs the backing file was asked for since the calls were taken last.
pub fn syncs(plan: &FaultPlan) -> usize {
    plan.take_calls().iter().filter(|call| matches!(call.kind, CallKind::Sync(_))).count()
}

/// Whether every block of `now` is that of `old` or that of `new`.
fn old_or_new(now: &[u8], old: &[u8], new: &[u8]) -> bool {
    now.chunks(4096).enumerate().all(|(index, block)| {
        let at = index * 4096;
        let of = |model: &[u8]| {
            let stored = &model[at.min(model.len())..model.len().min(at + block.len())];
            block.starts_with(stored) && block[stored.len()..].iter().all(|byte| *byte == 0)
        };
        of(old) || of(new)
    })
}

fn fail_everywhere(before: &[Step], last: &Step, from_then_on: bool) {
    for nth in 0.. {
        let (mut volume, plan, backing) = faulty();
        let file = volume.open(&backing).unwrap();
        let mut old = Vec::new();
        for step in before {
            step.apply(&file).unwrap();
            step.apply_to(&mut old);
        }
        let mut new = old.clone();
        last.apply_to(&mut new);
        plan.take_calls();
        let fault = Fault::at(nth, ENOSPC).of_modifications().after_bytes(3 * 4096);
        plan.add(if from_then_on { fault.from_then_on() } else { fault });
        let outcome = last.apply(&file);
        if !plan.has_struck() {
            outcome.unwrap();
            break;
        }
        match outcome {
            Err(VolumeError::Backing(error)) => assert_eq!(error.raw_os_error(), Some(ENOSPC)),
            other => panic!("{other:?} for {last:?}, call {nth}"),
        }
        // A full disk can still be read, and the error is no lasting harm.
        let now = content(&file).unwrap();
        assert!(old_or_new(&now, &old, &new), "{last:?} after {before:?}, call {nth}");
        plan.heal();
        file.settle().unwrap();
        // What could not be undone then is finished now, one way or the other.
        let now = content(&file).unwrap();
        assert!(old_or_new(&now, &old, &new), "settled: {last:?} after {before:?}, call {nth}");
        drop(file);
        let file = volume.open(&backing).unwrap();
        assert!(content(&file).unwrap() == now, "reopened: {last:?} after {before:?}, call {nth}");
        last.apply(&file).unwrap();
        file.settle().unwrap();
        drop(file);
        volume.remount();
        let file = volume.open(&backing).unwrap();
        assert!(old_or_new(&content(&file).unwrap(), &now, &new));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn the_nth_call_fails_once_or_for_good(
        before in prop::collection::vec(step(), 0..4),
        last in step(),
        from_then_on in any::<bool>(),
    ) {
        fail_everywhere(&before, &last, from_then_on);
    }
}

#[test]
fn chosen_operations_fail_cleanly() {
    let full = |blocks: usize, seed| Step::Write { at: 0, len: blocks * 4096, seed };
    for from_then_on in [false, true] {
        for (before, last) in [
            (vec![], full(100, 1)),
            (vec![full(20, 1)], full(100, 2)),
            (vec![full(100, 1)], full(100, 2)),
            (vec![full(100, 1)], Step::SetSize(70_000)),
            (vec![full(100, 1)], Step::Punch { at: 100, len: 300_000 }),
        ] {
            fail_everywhere(&before, &last, from_then_on);
        }
    }
}

#[test]
fn a_failed_write_past_the_end_leaves_neither_gap_nor_length() {
    let (volume, plan, backing) = faulty();
    let file = volume.open(&backing).unwrap();
    let data = pattern(1, 400_000);
    for (round, at) in [300_000, 200_000].into_iter().enumerate() {
        file.write(0, &data[..100]).unwrap();
        // Every call of the far write fails in turn, then one nearer by succeeds.
        for nth in 0.. {
            plan.take_calls();
            plan.add(Fault::at(nth, ENOSPC).of_modifications());
            let outcome = file.write(at, &data[..5000]);
            if !plan.has_struck() {
                outcome.unwrap();
                break;
            }
            outcome.unwrap_err();
            plan.heal();
            assert_eq!(file.size(), 100, "call {nth} of round {round}");
            file.write(50_000, &data[50_000..60_000]).unwrap();
            let mut expected = data[..60_000].to_vec();
            expected[100..50_000].fill(0);
            assert!(content(&file).unwrap() == expected, "call {nth} of round {round}");
            file.set_size(100).unwrap();
        }
        plan.heal();
        let mut expected = data[..100].to_vec();
        expected.resize(at as usize, 0);
        expected.extend(&data[..5000]);
        assert!(content(&file).unwrap() == expected);
        file.set_size(100).unwrap();
    }
}

#[test]
fn a_block_whose_punching_failed_can_be_written_and_the_writer_die() {
    let (mut volume, plan, backing) = faulty();
    let data = pattern(1, 100 * 4096);
    let file = volume.open(&backing).unwrap();
    file.write(0, &data).unwrap();
    plan.take_calls();
    plan.add(Fault::at(0, ENOSPC).of(CallKind::Punch));
    file.punch_hole(20 * 4096, 4096).unwrap_err();
    assert!(plan.has_struck());
    plan.heal();
    // The entry arrives, its data does not.
    plan.take_calls();
    plan.add(Fault::at(1, ENOSPC).of(CallKind::Write).then_dead());
    file.write(20 * 4096, &data[..4096]).unwrap_err();
    drop(file);
    plan.heal();
    volume.crash();
    let now = content(&volume.open(&backing).unwrap()).unwrap();
    let mut punched = data.clone();
    punched[20 * 4096..21 * 4096].fill(0);
    assert!(now == data || now == punched);
}

#[test]
fn an_extension_and_its_undoing_that_both_reach_the_disk_and_fail() {
    fail_everywhere(
        &[Step::Write { at: 61_440, len: 4097, seed: 0 }],
        &Step::Allocate { at: 0, len: 69_633, keep_size: false },
        true,
    );
}
