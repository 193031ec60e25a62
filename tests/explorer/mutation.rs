//! The explorer bites: with syncs left out it finds what is lost by that.

use ssefs::store::SyncScope;
use ssefs::store::recorder::DroppedSyncs;
use ssefs::volume::Durability;

use super::explore::{Death, Exploration, Finding, Limits};
use super::harness::TestVolume;
use super::operations::OPERATIONS;
use super::play::play;
use super::sequences::{Sequence, Start, Then};
use super::settings::Random;

const LIMITS: Limits = Limits { crashes: 64, second_in: 1000, second_crashes: 1, journals_in: 8 };

/// Each change to files that are durable, and a sync.
fn sequences() -> impl Iterator<Item = Sequence> {
    let starts = [Start::Small, Start::Blocks, Start::Edge];
    starts.into_iter().flat_map(|start| {
        OPERATIONS.map(|(operation, _)| Sequence { start, steps: vec![(operation, Then::Sync)] })
    })
}

fn findings(sequence: &Sequence, durability: Durability, dropped: DroppedSyncs) -> Vec<Finding> {
    let death = Death::OfPower;
    let exploration = Exploration { sequence, death, durability, dropped, limits: LIMITS };
    exploration.run(&mut Random::new(1)).1
}

/// How much is found over all sequences, and how much of it is lost for good.
fn count(durability: Durability, dropped: DroppedSyncs) -> (usize, usize) {
    let found: Vec<Finding> =
        sequences().flat_map(|it| findings(&it, durability, dropped)).collect();
    let is_lost = |finding: &&Finding| finding.what.contains("promised");
    let lost = found.iter().filter(is_lost).count();
    println!(
        "durability {durability:?}, syncs dropped {dropped:?}: {} findings, {lost} blocks lost",
        found.len()
    );
    (found.len(), lost)
}

#[test]
fn without_its_syncs_it_fails() {
    let (power, process) = (Durability::Power, Durability::Process);
    assert_eq!(count(power, DroppedSyncs::None), (0, 0));
    // The barrier within a commit, every sync, and a mount that asks for no barrier.
    for (durability, dropped) in [
        (power, DroppedSyncs::Of(SyncScope::Data)),
        (power, DroppedSyncs::All),
        (process, DroppedSyncs::None),
    ] {
        let (found, lost) = count(durability, dropped);
        assert!(found >= 100 && lost >= 20, "{found} findings, {lost} blocks lost");
    }
}

#[test]
fn each_sync_that_comes_before_data_is_missed() {
    let (mut missed, mut all, power) = (0, 0, Durability::Power);
    for sequence in sequences() {
        let played = play(&mut TestVolume::new(), &sequence, DroppedSyncs::None);
        for nth in 0..played.segments.len() - 1 {
            let found = findings(&sequence, power, DroppedSyncs::Nth(nth));
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
