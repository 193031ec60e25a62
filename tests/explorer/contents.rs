//! The contents of files through crashes: every sequence of one change, and of two and three
//! changes as many as the time allows, or all.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use ssefs::store::recorder::DroppedSyncs;
use ssefs::volume::Durability;

use super::explore::{Death, Exploration, Finding, Limits, Tally};
use super::journal::IS_HEARD;
use super::operations::{OPERATIONS, Operation};
use super::report::{by_kind, kind};
use super::sequences::{Sequence, Start, THENS, Then};
use super::settings::{Random, Settings};

/// Who dies under which promise, and how much of it is looked at.
#[derive(Debug, Clone, Copy)]
struct Terms {
    death: Death,
    durability: Durability,
    limits: Limits,
}

impl Terms {
    fn explore(self, sequence: &Sequence, seed: u64) -> (Tally, Vec<Finding>) {
        let Self { death, durability, limits } = self;
        let dropped = DroppedSyncs::None;
        Exploration { sequence, death, durability, dropped, limits }.run(&mut Random::new(seed))
    }
}

/// What a run over many sequences has come to.
#[derive(Default)]
struct Report {
    tally: Tally,
    findings: Vec<Finding>,
}

/// Goes through sequences: all of them in order if `settings` set no end, else those of one
/// change and a sample of the others.
fn explore(settings: &Settings, terms: Terms) -> Report {
    let (report, next) = (Mutex::new(Report::default()), AtomicU64::new(0));
    let (started, deadline) = (Instant::now(), settings.deadline());
    let work = || {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let is_over = deadline
                .is_some_and(|deadline| number >= Sequence::count(1) && Instant::now() >= deadline);
            let Some(sequence) = sequence(settings, number).filter(|_| !is_over) else { break };
            let (tally, findings) = terms.explore(&sequence, settings.seed.wrapping_add(number));
            let mut report = report.lock().unwrap_or_else(PoisonError::into_inner);
            report.tally.add(&tally);
            report.findings.extend(findings);
            if number % 1000 == 999 && settings.workers > 1 {
                let (seconds, found) = (started.elapsed().as_secs(), report.findings.len());
                println!("{seconds} s, {:?}: {}, {found} findings", terms.death, report.tally);
            }
            if report.findings.len() > MANY {
                break;
            }
        }
    };
    std::thread::scope(|scope| {
        (0..settings.workers).for_each(|_| drop(scope.spawn(work)));
    });
    report.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// The sequence that comes in this place.
fn sequence(settings: &Settings, number: u64) -> Option<Sequence> {
    let mut left = number;
    for len in 1..=LONGEST {
        if left < Sequence::count(len) {
            return Some(Sequence::nth(len, left));
        }
        if !settings.is_exhaustive() {
            let mut random = Random::new(settings.seed ^ number);
            let len = 2 + random.below(LONGEST - 1);
            return Some(Sequence::random(len, &mut random));
        }
        left -= Sequence::count(len);
    }
    None
}

/// Prints what was found, each kind once with its count and the shortest way to it, and fails if
/// there is anything.
fn insist_on_none(report: &Report, settings: &Settings, terms: Terms) {
    let length = |finding: &Finding| finding.sequence.steps.len();
    for (count, shortest) in by_kind(&report.findings, |finding| &finding.what, length) {
        let finding = shrink(shortest, settings.seed, terms);
        println!("{count} times {finding}");
    }
    assert!(report.findings.is_empty(), "{} findings: see above", report.findings.len());
}

/// The same kind of finding with fewer changes and fewer syncs, as far as that goes.
fn shrink(finding: &Finding, seed: u64, terms: Terms) -> Finding {
    let crashes = terms.limits.crashes * 4;
    let terms = Terms { limits: Limits { crashes, second_in: 2, ..terms.limits }, ..terms };
    let mut best = finding.clone();
    let mut attempt = 0;
    while let Some(smaller) = smaller_ones(&best.sequence).get(attempt) {
        attempt += 1;
        let (_, findings) = terms.explore(smaller, seed);
        let same = findings.into_iter().find(|other| kind(&other.what) == kind(&best.what));
        if let Some(same) = same {
            (best, attempt) = (same, 0);
        }
    }
    best
}

fn smaller_ones(sequence: &Sequence) -> Vec<Sequence> {
    let mut smaller = Vec::new();
    for at in 0..sequence.steps.len() {
        let mut without = sequence.clone();
        without.steps.remove(at);
        smaller.push(without);
    }
    for at in 0..sequence.steps.len() {
        let mut without = sequence.clone();
        if without.steps[at].1 != Then::Nothing {
            without.steps[at].1 = Then::Nothing;
            smaller.push(without);
        }
    }
    smaller
}

const LONGEST: usize = 3;
/// With so many findings there is nothing to be learnt from more.
const MANY: usize = 2000;

const LIMITS: Limits = Limits { crashes: 48, second_in: 12, second_crashes: 12, journals_in: 8 };
const ALL: Limits = Limits { crashes: 256, second_in: 4, second_crashes: 32, journals_in: 8 };

/// Explores what `settings` say; `None` if that was one sequence, by hand.
fn run(seconds: u64, death: Death, durability: Durability) -> Option<Tally> {
    let settings = Settings::from_environment(seconds);
    if let Some(text) = &settings.sequence {
        let limits = Limits { crashes: 4096, second_in: 1, second_crashes: 64, journals_in: 8 };
        let terms = Terms { death, durability, limits };
        let (tally, findings) = terms.explore(&text.parse().unwrap(), settings.seed);
        println!("{text}, {death:?}, {durability:?}: {tally}");
        findings.iter().take(20).for_each(|finding| println!("{finding}"));
        assert!(findings.is_empty(), "{} findings", findings.len());
        return None;
    }
    let limits = if settings.is_exhaustive() { ALL } else { LIMITS };
    let terms = Terms { death, durability, limits };
    let report = explore(&settings, terms);
    println!("{death:?}, {durability:?}: {}, seed {}", report.tally, settings.seed);
    insist_on_none(&report, &settings, terms);
    Some(report.tally)
}

#[test]
fn a_power_cut_loses_nothing_that_was_synced() {
    let Some(tally) = run(25, Death::OfPower, Durability::Power) else { return };
    let Tally { sequences, states, second_states, .. } = tally;
    assert!(sequences >= 384 && states >= 3000 && second_states >= 1000, "{tally}");
}

#[test]
fn the_death_of_the_process_loses_nothing_that_was_closed() {
    let Some(tally) = run(8, Death::OfProcess, Durability::Power) else { return };
    assert!(tally.sequences >= 384 && tally.states >= 1000, "{tally}");
}

#[test]
fn without_barriers_the_death_of_the_process_loses_nothing_that_was_answered() {
    let Some(tally) = run(8, Death::OfProcess, Durability::Process) else { return };
    assert!(tally.sequences >= 384 && tally.states >= 1000, "{tally}");
}

/// Changes that are synced in the journal, and what may follow them.
fn sequences_with_journal() -> Vec<Sequence> {
    use Operation::{AppendPart, OverwriteAcross, OverwriteBlock, OverwriteInside, OverwriteTail};
    let mut sequences = Vec::new();
    for start in [Start::Small, Start::Blocks, Start::Edge, Start::Holes, Start::Recovered] {
        for written in [OverwriteInside, OverwriteTail, OverwriteBlock, OverwriteAcross, AppendPart]
        {
            let first = [(OverwriteInside, Then::Sync), (written, Then::SyncInJournal)];
            for (next, _) in OPERATIONS {
                for (then, _) in THENS {
                    let steps = [&first[..], &[(next, then)]].concat();
                    sequences.push(Sequence { start, steps });
                }
                for then in [Then::Nothing, Then::SyncInJournal] {
                    let committed = [first[0], first[1], (OverwriteTail, Then::Commit)];
                    let steps = [&committed[..], &[(next, then)]].concat();
                    sequences.push(Sequence { start, steps });
                }
            }
        }
    }
    sequences
}

#[test]
fn what_the_journal_has_synced_outlives_what_comes_after() {
    if !IS_HEARD {
        println!("skipped: this build does not tell what is done to a journal");
        return;
    }
    let settings = Settings::from_environment(25);
    let limits = Limits { journals_in: 1, ..LIMITS };
    let terms = Terms { death: Death::OfPower, durability: Durability::Power, limits };
    let mut sequences = sequences_with_journal();
    let mut random = Random::new(settings.seed);
    let (mut report, deadline) = (Report::default(), settings.deadline());
    while !sequences.is_empty() && deadline.is_none_or(|deadline| Instant::now() < deadline) {
        let sequence = sequences.swap_remove(random.below(sequences.len()));
        let (tally, findings) = terms.explore(&sequence, random.number());
        report.tally.add(&tally);
        report.findings.extend(findings);
    }
    println!("{}, {} sequences left, seed {}", report.tally, sequences.len(), settings.seed);
    insist_on_none(&report, &settings, terms);
    assert!(report.tally.in_journal >= 25, "{}", report.tally);
}

fn insist_on(sequence: &str) {
    let limits = Limits { crashes: 256, second_in: 2, second_crashes: 16, journals_in: 8 };
    let terms = Terms { death: Death::OfPower, durability: Durability::Power, limits };
    let (tally, findings) = terms.explore(&sequence.parse().unwrap(), 1);
    assert!(findings.is_empty(), "{}", findings[0]);
    assert!(tally.states > 4, "{tally}");
}

#[test]
fn a_sync_ends_what_an_earlier_close_has_left_unsynced() {
    insist_on("new append-blocks reopen append-part sync-reopen overwrite-across");
}

#[test]
fn a_growth_that_recovery_finishes_is_whole() {
    insist_on("small grow-far");
}

#[test]
fn a_lost_block_of_an_append_is_a_hole() {
    insist_on("edge cut-aligned append-blocks");
}

#[test]
fn a_cut_within_a_block_that_was_lost_leaves_what_is_before_it() {
    insist_on("new append-blocks cut-inside");
    insist_on("blocks append-blocks cut-inside");
}

#[test]
fn a_growth_over_several_blocks_is_there_or_not() {
    insist_on("recovered append-blocks grow-far punch-block");
    insist_on("holes append-blocks allocate");
    insist_on("edge append-blocks allocate");
    insist_on("holes append-far allocate");
}

#[test]
fn a_lost_append_whose_group_is_sparse_is_cut_off() {
    insist_on("edge cut-aligned append-blocks sync-reopen");
}

/// Page 0 was there from an earlier write, so the growth could come without its announcement.
#[test]
fn a_growth_of_a_file_that_was_never_synced_is_there_or_not() {
    insist_on("new grow-far append-blocks allocate");
}

#[test]
fn a_cut_waits_for_the_end_of_one_that_was_announced() {
    insist_on("edge cut-inside cut-aligned");
    insist_on("blocks grow-far cut-aligned");
}
