//! The report for programs.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::report::{Line, Report};

/// All figures; those that are not known are `null`.
pub fn of(report: &Report) -> String {
    let value = json!({
        "machine": report.machine,
        "rounds": report.rounds,
        "quick": report.quick,
        "transports": report.transports.iter().cloned().collect::<BTreeMap<_, _>>(),
        "rows": report.lines.iter().map(row).collect::<Vec<_>>(),
    });
    serde_json::to_string_pretty(&value).expect("plain data")
}

fn row(line: &Line) -> Value {
    let unit = line.row.unit;
    let systems: Vec<Value> = line
        .cells
        .iter()
        .map(|cell| {
            let rounds = cell.rounds.iter().map(|seconds| unit.value(*seconds));
            json!({
                "system": cell.system,
                "median": cell.value(unit),
                "rounds": rounds.collect::<Vec<_>>(),
                "speed_to_native": line.speed(cell.system, "native"),
                "speed_to_gocryptfs": line.speed(cell.system, "gocryptfs"),
                "requests_per_operation": cell.requests(),
                "flushes_per_operation": cell.flushes(),
                "dek_cache_hits_per_operation": cell.dek_hits(),
                "processor_seconds": cell.processor(unit),
                "processor_seconds_per": if unit.counts_bytes() { "GiB" } else { "1000 operations" },
                "peak_rss_kib": cell.peak_kib,
            })
        })
        .collect();
    json!({
        "backing": line.backing,
        "row": line.row.name,
        "description": line.description,
        "unit": unit.name(),
        "systems": systems,
    })
}
