//! The explorer bites: with syncs left out it finds what is lost by that.

use ssefs::store::SyncScope;
use ssefs::store::recorder::DroppedSyncs;

use super::explore::{Death, Exploration, Finding, Limits};
use super::harness::TestVolume;
use super::operations::OPERATIONS;
use super::play::play;
use super::sequences::{Sequence, Start, Then};
use super::settings::Random;

const LIMITS: Limits = Limits { crashes: 64, second_in: 1000, second_crashes: 1 };

/// Each change to files that are durable, and a sync.
fn sequences() -> impl Iterator<Item = Sequence> {
    let starts = [Start::Small, Start::Blocks, Start::Edge];
    starts.into_iter().flat_map(|start| {
        OPERATIONS.map(|(operation, _)| Sequence { start, steps: vec![(operation, Then::Sync)] })
    })
}

fn findings(sequence: &Sequence, dropped: DroppedSyncs) -> Vec<Finding> {
    let exploration = Exploration { sequence, death: Death::OfPower, dropped, limits: LIMITS };
    exploration.run(&mut Random::new(1)).1
}

fn losses(dropped: DroppedSyncs) -> usize {
    let is_loss = |finding: &Finding| finding.what.contains("promised");
    let losses = |it: Sequence| findings(&it, dropped).into_iter().filter(is_loss).count();
    sequences().map(losses).sum()
}

#[test]
fn with_no_sync_done_much_is_lost() {
    let lost = losses(DroppedSyncs::All);
    println!("no sync done: {lost} losses");
    assert!(lost >= 100, "{lost} losses");
}

#[test]
fn without_the_barrier_alone_much_is_lost() {
    let lost = losses(DroppedSyncs::Of(SyncScope::Data));
    println!("no barrier within a sync: {lost} losses");
    assert!(lost >= 100, "{lost} losses");
}

#[test]
fn each_sync_that_comes_before_data_is_missed() {
    let (mut missed, mut all) = (0, 0);
    for sequence in sequences() {
        let played = play(&mut TestVolume::new(), &sequence, DroppedSyncs::None);
        for nth in 0..played.segments.len() - 1 {
            let found = findings(&sequence, DroppedSyncs::Nth(nth));
            all += 1;
            missed += usize::from(!found.is_empty());
            if found.is_empty() {
                println!("{sequence}: nothing shows that sync {nth} is missing");
            }
        }
    }
    println!("{missed} of {all} syncs are missed when they are left out");
    assert!(missed * 2 >= all, "{missed} of {all}");
}
