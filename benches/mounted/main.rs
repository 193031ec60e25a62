//! The benchmark of mounts: each workload on each system over the same backing store, in
//! interleaved rounds, so that what else the machine does falls on all alike. Prints medians
//! and ratios, what the daemons spent, and on request JSON and a chart.
//!
//! `scripts/bench --help` tells how to call it.

mod arguments;
mod chart;
mod json;
mod machine;
mod measure;
mod place;
mod plain;
mod report;
mod scale;
mod systems;
mod table;
mod workloads;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use arguments::Arguments;
use place::Place;
use report::Report;
use scale::Scaling;
use systems::{Scope, System};
use workloads::Workload;

fn main() {
    let mut daemon = std::env::args_os().skip(1);
    if daemon.next().is_some_and(|argument| argument == plain::ARGUMENT) {
        let mut directory = || daemon.next().expect("two directories follow");
        let (backing, mount_point) = (directory(), directory());
        return plain::serve(backing.as_ref(), mount_point.as_ref()).expect("it can be mounted");
    }
    let arguments = Arguments::parse();
    // Nobody wants to unmount by hand what an interrupted run has left.
    let ended = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        let registered = signal_hook::flag::register(signal, Arc::clone(&ended));
        registered.expect("these signals can be caught");
    }
    let (table, json, chart) = if arguments.scale {
        let scaling = Scaling::measure(&arguments, &ended);
        (scaling.table(), scaling.json(), scaling.chart())
    } else {
        let report = compare(&arguments, &ended);
        (table::print(&report), json::of(&report), chart::of(&report))
    };
    print!("{table}");
    for (path, text) in
        [(&arguments.json, json), (&arguments.chart, chart), (&arguments.table, table)]
    {
        let Some(path) = path else { continue };
        let written = std::fs::write(path, text);
        written.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
}

/// Runs the workloads on all systems, until `ended`.
fn compare(arguments: &Arguments, ended: &AtomicBool) -> Report {
    let mut report = Report::new(arguments);
    let begin = Instant::now();
    for backing in &arguments.backings {
        if ended.load(Ordering::Relaxed) {
            break;
        }
        let directory = backing.directory();
        let scratch = tempfile::Builder::new().prefix("ssefs-bench-").tempdir_in(directory);
        let scratch = scratch.unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
        let systems = System::start_all(scratch.path(), |name, scope| arguments.wants(name, scope));
        report.tell_transports(&systems);
        let kit = scratch.path().join("kit");
        std::fs::create_dir(&kit).expect("the scratch directory can be written");
        for workload in Workload::all() {
            if !arguments.has_chosen(workload) || ended.load(Ordering::Relaxed) {
                continue;
            }
            let is_for = |system: &&System| {
                system.scope() != Scope::Modes
                    || workload.compares_modes
                    || arguments.names(system.name())
            };
            let places: Vec<Place> = systems
                .iter()
                .filter(is_for)
                .map(|system| Place::new(system, &kit, arguments.scale()))
                .collect();
            let (seconds, count) = (begin.elapsed().as_secs(), places.len());
            eprintln!("{seconds:5} s: {} on {} ({count} systems)", workload.name, backing.label());
            run(workload, places, arguments.rounds, ended, |place| {
                report.add(backing.label(), workload, place);
            });
        }
    }
    report
}

/// Runs all rounds, until `ended`; `finish` is told of each place after each round. A system on
/// which the workload fails is left out of it from then on.
fn run(
    workload: &Workload,
    mut places: Vec<Place>,
    rounds: usize,
    ended: &AtomicBool,
    mut finish: impl FnMut(&Place),
) {
    let attempt = |place: &Place, work: &dyn Fn()| {
        let outcome = catch_unwind(AssertUnwindSafe(work));
        if outcome.is_err() {
            eprintln!("{} fails on {} and is left out", workload.name, place.system().name());
        }
        outcome.is_ok()
    };
    places.retain(|place| {
        place.system().forget_peak();
        attempt(place, &|| (workload.prepare)(place))
    });
    for round in 0..rounds {
        // In small pieces: a machine that others use too changes from second to second.
        for piece in 0..workload.pieces {
            if ended.load(Ordering::Relaxed) {
                return;
            }
            // Nobody always comes after the same one.
            let turn = (round + piece as usize) % places.len().max(1);
            let (last, first) = places.split_at(turn);
            let in_turn = first.iter().chain(last);
            let failed = in_turn.filter(|place| !attempt(place, &|| (workload.run)(place, piece)));
            let failed: Vec<&str> = failed.map(|place| place.system().name()).collect();
            places.retain(|place| !failed.contains(&place.system().name()));
        }
        places.iter().for_each(&mut finish);
    }
    for place in &places {
        attempt(place, &|| (workload.clean)(place));
    }
}
