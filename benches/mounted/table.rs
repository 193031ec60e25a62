//! The report as tables in Markdown, which are to be read in a terminal too.

use std::fmt::Write;

use crate::report::{Cell, Line, Report, distinct};

/// All tables: for each backing store the speeds, then what the daemons spent.
pub fn print(report: &Report) -> String {
    let mut text = format!("{}\n", report.machine);
    let quick = if report.quick { ", quick" } else { "" };
    let _ = writeln!(text, "Medians of {} rounds{quick}", report.rounds);
    for (transport, by) in [("uring", "FUSE over io_uring"), ("classic", "/dev/fuse")] {
        let told = report.transports.iter().filter(|(_, told)| told == transport);
        let systems: Vec<&str> = told.map(|(system, _)| *system).collect();
        if !systems.is_empty() {
            let _ = writeln!(text, "By {by}: {}", systems.join(", "));
        }
    }
    let mut backings: Vec<&str> = report.lines.iter().map(|line| line.backing.as_str()).collect();
    backings.dedup();
    for backing in backings {
        let lines = report.lines.iter().filter(|line| line.backing == backing);
        let lines: Vec<&Line> = lines.collect();
        let systems = distinct(lines.iter().flat_map(|line| &line.cells).map(|cell| cell.system));
        // The modes take part in few rows, and would make the others wide.
        let in_most = |system: &&str| {
            lines.iter().filter(|line| line.of(system).is_some()).count() * 2 > lines.len()
        };
        let (most, few): (Vec<&str>, Vec<&str>) = systems.into_iter().partition(in_most);
        let _ = writeln!(text, "\nOn {backing} (in parentheses: speed relative to gocryptfs)\n");
        speeds(&mut text, &lines, &most);
        if !few.is_empty() {
            let _ = writeln!(text, "\nModes and caches on {backing}\n");
            let systems: Vec<&str> =
                ["ssefs"].into_iter().filter(|name| most.contains(name)).chain(few).collect();
            let in_few = |line: &&&Line| line.cells.iter().any(|cell| !most.contains(&cell.system));
            let lines: Vec<&Line> = lines.iter().filter(in_few).copied().collect();
            speeds(&mut text, &lines, &systems);
        }
        let served = lines.into_iter().filter(|line| !line.row.outside_mount);
        let served: Vec<&Line> = served.collect();
        if !served.is_empty() {
            let _ = writeln!(text, "\nWhat the daemon spends on {backing}\n");
            spending(&mut text, &served);
        }
    }
    text
}

fn speeds(text: &mut String, lines: &[&Line], systems: &[&str]) {
    let mut rows = vec![vec!["work".to_owned(), "unit".to_owned()]];
    rows[0].extend(systems.iter().map(|&system| system.to_owned()));
    for line in lines {
        let mut row = vec![line.description.clone(), line.row.unit.name().to_owned()];
        for system in systems {
            let value = line.of(system).and_then(|cell| cell.value(line.row.unit)).map(digits);
            let speed = match *system {
                "gocryptfs" => None,
                system => line.speed(system, "gocryptfs"),
            };
            row.push(match (value, speed) {
                (Some(value), Some(speed)) => format!("{value} ({})", digits(speed)),
                (Some(value), None) => value,
                (None, _) => "-".to_owned(),
            });
        }
        rows.push(row);
    }
    align(text, &rows);
}

fn spending(text: &mut String, lines: &[&Line]) {
    let head = ["work", "system", "requests/op", "flushes/op", "CPU s", "per", "peak MiB"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for line in lines {
        for cell in line.cells.iter().filter(|cell| cell.system != "native") {
            rows.push(spent(line, cell));
        }
    }
    align(text, &rows);
}

fn spent(line: &Line, cell: &Cell) -> Vec<String> {
    let unit = line.row.unit;
    let shown = |value: Option<f64>| value.map_or("-".to_owned(), digits);
    vec![
        line.row.name.to_owned(),
        cell.system.to_owned(),
        shown(cell.requests()),
        shown(cell.flushes()),
        shown(cell.processor(unit)),
        if unit.counts_bytes() { "GiB" } else { "1000 ops" }.to_owned(),
        (cell.peak_kib >> 10).to_string(),
    ]
}

/// Three digits that count.
pub fn digits(value: f64) -> String {
    match value {
        _ if value == 0.0 => "0".to_owned(),
        _ if value < 1.0 => format!("{value:.3}"),
        _ if value < 10.0 => format!("{value:.2}"),
        _ if value < 100.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

/// Appends the rows, the first as head, in columns that are as wide as they must.
pub fn align(text: &mut String, rows: &[Vec<String>]) {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    for (index, row) in rows.iter().enumerate() {
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(text, "| {cell:width$} ");
        }
        text.push_str("|\n");
        if index == 0 {
            for width in &widths {
                let _ = write!(text, "|{:-<1$}", "", width + 2);
            }
            text.push_str("|\n");
        }
    }
}
