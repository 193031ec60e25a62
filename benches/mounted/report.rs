//! Medians and ratios.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use crate::workloads::Workload;

/// All measurements: for each backing store and workload, the systems in their order with the
/// times of their rounds.
#[derive(Default)]
pub struct Report {
    measured: BTreeMap<(PathBuf, Workload), Vec<Rounds>>,
}

/// A system and the times of its rounds.
type Rounds = (&'static str, Vec<Duration>);

struct Line {
    system: &'static str,
    median_us: f64,
    to_native: f64,
    to_managed: f64,
}

impl Report {
    /// Adds one round.
    pub fn add(
        &mut self,
        backing: &Path,
        workload: Workload,
        system: &'static str,
        time: Duration,
    ) {
        let systems = self.measured.entry((backing.to_owned(), workload)).or_default();
        match systems.iter_mut().find(|(name, _)| *name == system) {
            Some((_, rounds)) => rounds.push(time),
            None => systems.push((system, vec![time])),
        }
    }

    /// Prints a table for each backing store and workload.
    pub fn print(&self) {
        for ((backing, workload), systems) in &self.measured {
            let rounds = systems.first().map_or(0, |(_, rounds)| rounds.len());
            println!("\n{} on {}, {rounds} rounds", workload.description(), backing.display());
            println!("{:24} {:>10} {:>10} {:>10}", "", "median us", "to native", "to managed");
            for Line { system, median_us, to_native, to_managed } in lines(systems) {
                let (native, managed) = (shown(to_native), shown(to_managed));
                println!("{system:24} {median_us:>10.2} {native:>10} {managed:>10}");
            }
        }
    }

    /// The same for programs.
    pub fn to_json(&self) -> String {
        let tables = self.measured.iter().map(|((backing, workload), systems)| {
            let lines: Vec<Value> = lines(systems)
                .map(|line| {
                    json!({
                        "system": line.system,
                        "median_us": line.median_us,
                        "ratio_to_native": line.to_native,
                        "ratio_to_managed": line.to_managed,
                    })
                })
                .collect();
            json!({"backing": backing, "workload": workload.name(), "systems": lines})
        });
        serde_json::to_string_pretty(&tables.collect::<Vec<_>>()).expect("plain data")
    }
}

/// A system's ratio is the median of the ratios of its rounds: both parts of a ratio saw the
/// machine at about the same time.
fn lines<'a>(systems: &'a [(&'static str, Vec<Duration>)]) -> impl Iterator<Item = Line> + use<'a> {
    let of = |name| systems.iter().find(|(system, _)| *system == name).map(|(_, rounds)| rounds);
    let (native, managed) = (of("native"), of("managed"));
    systems.iter().map(move |(system, rounds)| {
        let seconds = rounds.iter().map(Duration::as_secs_f64);
        let ratio_to = |other: Option<&Vec<Duration>>| {
            let other = other.into_iter().flatten().map(Duration::as_secs_f64);
            median(seconds.clone().zip(other).map(|(one, other)| one / other).collect())
        };
        Line {
            system,
            median_us: median(seconds.clone().collect()) * 1e6,
            to_native: ratio_to(native),
            to_managed: ratio_to(managed),
        }
    })
}

/// A ratio, or a dash where what it is to was not measured.
fn shown(ratio: f64) -> String {
    if ratio.is_nan() { "-".to_owned() } else { format!("{ratio:.3}") }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
