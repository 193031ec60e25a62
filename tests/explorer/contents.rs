//! The contents of files through crashes: every sequence of one change, and of two and three
//! changes as many as the time allows, or all.

use std::time::Instant;

use ssefs::store::recorder::DroppedSyncs;

use super::explore::{Death, Exploration, Finding, Limits, Tally};
use super::report::{by_kind, kind};
use super::sequences::{Sequence, Then};
use super::settings::{Random, Settings};

/// What a run over many sequences has come to.
pub struct Report {
    pub tally: Tally,
    pub findings: Vec<Finding>,
}

/// Goes through sequences: all of `lens` in order if `settings` set no end, else those of one
/// change and a sample of the others.
pub fn explore(settings: &Settings, death: Death, limits: Limits) -> Report {
    let mut report = Report { tally: Tally::default(), findings: Vec::new() };
    let mut random = Random::new(settings.seed);
    let mut run = |sequence: &Sequence, report: &mut Report| {
        let exploration = Exploration { sequence, death, dropped: DroppedSyncs::None, limits };
        let (tally, findings) = exploration.run(&mut random);
        report.tally.add(&tally);
        report.findings.extend(findings);
    };
    let all_of = |len| (0..Sequence::count(len)).map(move |number| Sequence::nth(len, number));
    if settings.is_exhaustive() {
        let started = Instant::now();
        for (done, sequence) in (1..=LONGEST).flat_map(all_of).enumerate() {
            run(&sequence, &mut report);
            if done % 1000 == 999 {
                let seconds = started.elapsed().as_secs();
                println!("{seconds} s: {}, {} findings", report.tally, report.findings.len());
            }
            if report.findings.len() > MANY {
                break;
            }
        }
        return report;
    }
    let deadline = settings.deadline();
    all_of(1).for_each(|sequence| run(&sequence, &mut report));
    let mut lens = Random::new(settings.seed ^ 1);
    while deadline.is_some_and(|deadline| Instant::now() < deadline)
        && report.findings.len() <= MANY
    {
        let len = 2 + lens.below(LONGEST - 1);
        run(&Sequence::random(len, &mut lens), &mut report);
    }
    report
}

/// Prints what was found, each kind once with its count and the shortest way to it, and fails if
/// there is anything.
pub fn insist_on_none(report: &Report, settings: &Settings, death: Death, limits: Limits) {
    let length = |finding: &Finding| finding.sequence.steps.len();
    for (count, shortest) in by_kind(&report.findings, |finding| &finding.what, length) {
        let finding = shrink(shortest, settings.seed, death, limits);
        println!("{count} times {finding}");
    }
    assert!(report.findings.is_empty(), "{} findings: see above", report.findings.len());
}

/// The same kind of finding with fewer changes and fewer syncs, as far as that goes.
fn shrink(finding: &Finding, seed: u64, death: Death, limits: Limits) -> Finding {
    let limits = Limits { crashes: limits.crashes * 4, second_in: 2, ..limits };
    let mut best = finding.clone();
    let mut attempt = 0;
    while let Some(smaller) = smaller_ones(&best.sequence).get(attempt) {
        attempt += 1;
        let sequence = smaller;
        let exploration = Exploration { sequence, death, dropped: DroppedSyncs::None, limits };
        let (_, findings) = exploration.run(&mut Random::new(seed));
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

const LIMITS: Limits = Limits { crashes: 48, second_in: 12, second_crashes: 12 };
const ALL: Limits = Limits { crashes: 256, second_in: 4, second_crashes: 32 };

#[test]
fn a_power_cut_loses_nothing_that_was_synced() {
    let settings = Settings::from_environment(30);
    if let Some(text) = &settings.sequence {
        one(text, &settings);
        return;
    }
    let limits = if settings.is_exhaustive() { ALL } else { LIMITS };
    let report = explore(&settings, Death::OfPower, limits);
    println!("power: {}, seed {}", report.tally, settings.seed);
    insist_on_none(&report, &settings, Death::OfPower, limits);
    let Tally { sequences, states, second_states, .. } = report.tally;
    assert!(sequences >= 288 && states >= 3000 && second_states >= 1000, "{}", report.tally);
}

#[test]
fn the_death_of_the_process_loses_nothing_that_was_closed() {
    let settings = Settings::from_environment(8);
    if settings.sequence.is_some() {
        return;
    }
    let limits = if settings.is_exhaustive() { ALL } else { LIMITS };
    let report = explore(&settings, Death::OfProcess, limits);
    println!("process: {}, seed {}", report.tally, settings.seed);
    insist_on_none(&report, &settings, Death::OfProcess, limits);
    assert!(report.tally.sequences >= 288 && report.tally.states >= 1000, "{}", report.tally);
}

/// One sequence, with far more of its crashes.
fn one(text: &str, settings: &Settings) {
    let sequence = &text.parse::<Sequence>().unwrap();
    let limits = Limits { crashes: 4096, second_in: 1, second_crashes: 64 };
    for death in [Death::OfPower, Death::OfProcess] {
        let exploration = Exploration { sequence, death, dropped: DroppedSyncs::None, limits };
        let (tally, findings) = exploration.run(&mut Random::new(settings.seed));
        println!("{sequence}, {death:?}: {tally}");
        for finding in findings.iter().take(20) {
            println!("{finding}");
        }
        assert!(findings.is_empty(), "{} findings", findings.len());
    }
}
