//! What was measured, as medians and ratios.

use std::ops::AddAssign;

use crate::arguments::Arguments;
use crate::machine;
use crate::measure::Spent;
use crate::place::{Amount, Place};
use crate::systems::System;
use crate::workloads::{Row, Unit, Workload};

/// All measurements.
pub struct Report {
    pub machine: String,
    pub rounds: usize,
    pub quick: bool,
    /// By what way requests reach a system that tells.
    pub transports: Vec<(&'static str, String)>,
    pub lines: Vec<Line>,
}

/// One row on one backing store.
pub struct Line {
    pub backing: String,
    pub row: &'static Row,
    pub description: String,
    pub cells: Vec<Cell>,
}

/// One system in a row.
pub struct Cell {
    pub system: &'static str,
    /// For each round, seconds for one operation or one byte.
    pub rounds: Vec<f64>,
    pub peak_kib: u64,
    total: Total,
}

/// Over all rounds.
#[derive(Clone, Copy, Default)]
struct Total {
    seconds: f64,
    operations: u64,
    bytes: u64,
    spent: Spent,
}

impl Report {
    pub fn new(arguments: &Arguments) -> Self {
        let (rounds, quick) = (arguments.rounds, arguments.quick);
        let (machine, transports) = (machine::description(), Vec::new());
        Self { machine, rounds, quick, transports, lines: Vec::new() }
    }

    /// Adds by what way requests reach the systems.
    pub fn tell_transports(&mut self, systems: &[System]) {
        for system in systems {
            let told =
                system.statistics().and_then(|it| Some(it["transport"].as_str()?.to_owned()));
            let is_new = self.transports.iter().all(|(name, _)| *name != system.name());
            self.transports.extend(told.filter(|_| is_new).map(|told| (system.name(), told)));
        }
    }

    /// Adds a round of one system.
    pub fn add(&mut self, backing: &str, workload: &'static Workload, place: &Place) {
        let measured = place.take_measured();
        for row in workload.rows {
            let pieces: Vec<_> = measured.iter().filter(|piece| piece.row == row.name).collect();
            if pieces.is_empty() && (row.on_disk_only || row.outside_mount) {
                continue;
            }
            let mut round = Total::default();
            for piece in pieces {
                round += Total::of(piece.seconds, piece.amount, piece.spent);
            }
            let cell = self.cell(backing, row, place);
            cell.rounds.push(round.seconds_for_one(row.unit));
            cell.total += round;
            cell.peak_kib = cell.peak_kib.max(place.system().peak_kib());
        }
    }

    fn cell(&mut self, backing: &str, row: &'static Row, place: &Place) -> &mut Cell {
        let system = place.system().name();
        let is_it = |line: &Line| line.backing == backing && line.row.name == row.name;
        let at = self.lines.iter().position(is_it).unwrap_or_else(|| {
            let (backing, description) = (backing.to_owned(), row.described(place.scale()));
            self.lines.push(Line { backing, row, description, cells: Vec::new() });
            self.lines.len() - 1
        });
        let cells = &mut self.lines[at].cells;
        let at = cells.iter().position(|cell| cell.system == system).unwrap_or_else(|| {
            let (rounds, total) = (Vec::new(), Total::default());
            cells.push(Cell { system, rounds, peak_kib: 0, total });
            cells.len() - 1
        });
        &mut cells[at]
    }
}

impl Line {
    /// A system's cell.
    pub fn of(&self, system: &str) -> Option<&Cell> {
        self.cells.iter().find(|cell| cell.system == system)
    }

    /// How many times as fast as the other a system is. The median of the ratios of the rounds:
    /// both parts of a ratio saw the machine at about the same time.
    pub fn speed(&self, system: &str, other: &str) -> Option<f64> {
        let (system, other) = (self.of(system)?, self.of(other)?);
        let rounds = system.rounds.iter().zip(&other.rounds);
        median(rounds.map(|(seconds, other)| other / seconds).collect())
    }
}

impl Cell {
    /// The median of its rounds, in the row's unit.
    pub fn value(&self, unit: Unit) -> Option<f64> {
        median(self.rounds.clone()).map(|seconds| unit.value(seconds))
    }

    /// Requests of the kernel to the daemon, for one operation.
    pub fn requests(&self) -> Option<f64> {
        self.for_one_operation(self.total.spent.requests)
    }

    /// Flushes of the backing store, for one operation.
    pub fn flushes(&self) -> Option<f64> {
        self.for_one_operation(self.total.spent.flushes)
    }

    /// DEKs found in the cache, for one operation.
    pub fn dek_hits(&self) -> Option<f64> {
        self.for_one_operation(self.total.spent.dek_hits)
    }

    /// Processor seconds of the daemon for a GiB, or for 1000 operations.
    pub fn processor(&self, unit: Unit) -> Option<f64> {
        let seconds = self.total.spent.processor?.as_secs_f64();
        let amount = if unit.counts_bytes() {
            self.total.bytes as f64 / f64::from(1 << 30)
        } else {
            self.total.operations as f64 / 1000.0
        };
        (amount > 0.0).then(|| seconds / amount)
    }

    fn for_one_operation(&self, count: Option<u64>) -> Option<f64> {
        let operations = self.total.operations;
        (operations > 0).then_some(count? as f64 / operations as f64)
    }
}

impl Total {
    fn of(seconds: f64, amount: Amount, spent: Spent) -> Self {
        Self { seconds, operations: amount.operations, bytes: amount.bytes, spent }
    }

    fn seconds_for_one(&self, unit: Unit) -> f64 {
        let count = if unit.counts_bytes() { self.bytes } else { self.operations };
        self.seconds / count as f64
    }
}

impl AddAssign for Total {
    fn add_assign(&mut self, other: Self) {
        self.seconds += other.seconds;
        self.operations += other.operations;
        self.bytes += other.bytes;
        self.spent += other.spent;
    }
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.retain(|value| value.is_finite());
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 {
        return values.get(middle).copied();
    }
    Some(f64::midpoint(*values.get(middle.checked_sub(1)?)?, *values.get(middle)?))
}

/// Each of them once, in the order in which they come first.
pub fn distinct<T: PartialEq>(all: impl IntoIterator<Item = T>) -> Vec<T> {
    let mut found = Vec::new();
    for one in all {
        if !found.contains(&one) {
            found.push(one);
        }
    }
    found
}
