//! The benchmark of mounts: each workload on each system over the same backing store, in
//! interleaved rounds, so that what else the machine does falls on all alike. Prints medians
//! and their ratios to native and to mode managed, as a table or as JSON.
//!
//! Usage: scripts/bench [--rounds N] [--backing DIR]... [--only WORKLOAD]
//!                      [--systems NAME,...] [--json FILE]

mod report;
mod systems;
mod workloads;

use std::path::PathBuf;
use std::time::Duration;

use report::Report;
use systems::System;
use workloads::Workload;

/// What is asked for on the command line.
struct Arguments {
    rounds: usize,
    backings: Vec<PathBuf>,
    only: Option<String>,
    systems: Option<String>,
    json: Option<PathBuf>,
}

fn main() {
    let arguments = Arguments::parse();
    let mut report = Report::default();
    for backing in &arguments.backings {
        let scratch = tempfile::Builder::new().prefix("ssefs-bench-").tempdir_in(backing);
        let scratch = scratch.unwrap_or_else(|error| panic!("{}: {error}", backing.display()));
        let systems = System::start_all(scratch.path(), arguments.systems.as_deref());
        for workload in Workload::ALL {
            if arguments.only.as_ref().is_some_and(|only| only != workload.name()) {
                continue;
            }
            eprintln!("{}: {} on {} systems", backing.display(), workload.name(), systems.len());
            for system in &systems {
                workload.prepare(system.directory());
            }
            for _ in 0..arguments.rounds {
                // In small pieces: a machine that others use too changes from second to second.
                let mut times = vec![Duration::ZERO; systems.len()];
                for piece in 0..workloads::PIECES {
                    for (system, time) in systems.iter().zip(&mut times) {
                        *time += workload.run(system.directory(), piece);
                    }
                }
                for (system, time) in systems.iter().zip(times) {
                    report.add(backing, workload, system.name(), time / workloads::OPERATIONS);
                }
            }
        }
    }
    report.print();
    if let Some(path) = &arguments.json {
        std::fs::write(path, report.to_json()).expect("the JSON file can be written");
    }
}

impl Arguments {
    fn parse() -> Self {
        let mut parsed =
            Self { rounds: 15, backings: Vec::new(), only: None, systems: None, json: None };
        let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
        while let Some(name) = arguments.next() {
            let mut value = || arguments.next().unwrap_or_else(|| usage());
            match name.as_str() {
                "--rounds" => parsed.rounds = value().parse().unwrap_or_else(|_| usage()),
                "--backing" => parsed.backings.push(value().into()),
                "--only" => parsed.only = Some(value()),
                "--systems" => parsed.systems = Some(value()),
                "--json" => parsed.json = Some(value().into()),
                _ => usage(),
            }
        }
        if parsed.backings.is_empty() {
            parsed.backings = vec!["/dev/shm".into(), "/var/tmp".into()];
        }
        parsed
    }
}

fn usage() -> ! {
    let names: Vec<_> = Workload::ALL.iter().map(|workload| workload.name()).collect();
    eprintln!(
        "usage: scripts/bench [--rounds N] [--backing DIR]... [--only WORKLOAD] \
                 [--systems NAME,...] [--json FILE]\n\
         systems: native, managed, kms, kms-sync-always, kms-uses, kms-bucket-key, supplied, \
                 gocryptfs\n\
         workloads: {}",
        names.join(", ")
    );
    std::process::exit(2);
}
