//! How costs grow: one file's with the number of files in a tree and in one directory, one
//! byte's with the size of a file. Straight level lines are what is hoped for.

use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};

use crate::arguments::Arguments;
use crate::machine;
use crate::report::distinct;
use crate::systems::System;
use crate::table::{align, digits};

mod chart;
mod files;
mod sizes;

/// What costs at every size.
pub struct Scaling {
    machine: String,
    curves: Vec<Curve>,
}

/// The cost of one kind of work on one system.
struct Curve {
    panel: Panel,
    system: &'static str,
    work: &'static str,
    points: Vec<Point>,
}

/// What the size counts, and what costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Panel {
    Tree,
    Directory,
    File,
}

/// One measurement.
struct Point {
    size: u64,
    micros: f64,
    /// The most memory that the daemon had until then, since its mount.
    peak_kib: u64,
}

impl Scaling {
    /// Measures systems, one after the other, until `ended`: by default ssefs alone.
    pub fn measure(arguments: &Arguments, ended: &AtomicBool) -> Self {
        let mut scaling = Self { machine: machine::description(), curves: Vec::new() };
        let backing = arguments.backings.first().expect("one is the default");
        let directory = backing.directory();
        let scratch = tempfile::Builder::new().prefix("ssefs-bench-").tempdir_in(directory);
        let scratch = scratch.unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
        let is_wanted = |name: &str, _| match arguments.wants_all() {
            true => name == "ssefs",
            false => arguments.names(name),
        };
        for system in &System::start_all(scratch.path(), is_wanted) {
            let mut note = |panel: Panel, work, size, micros| {
                eprintln!(
                    "{:13} {:9} {work:12} {size:>12}: {micros:9.2} us",
                    system.name(),
                    panel.name()
                );
                let peak_kib = system.peak_kib();
                scaling.curve(panel, system.name(), work).push(Point { size, micros, peak_kib });
            };
            let largest = arguments.largest_tree();
            for (panel, counts, width) in [
                (Panel::Tree, &[1_000, 10_000, 100_000, 1_000_000][..], Some(1000)),
                (Panel::Directory, &[1_000, 10_000, 100_000], None),
            ] {
                for count in counts.iter().copied().filter(|count| *count <= largest) {
                    if !ended.load(Ordering::Relaxed) {
                        files::measure(system, count, width, |work, micros| {
                            note(panel, work, count, micros);
                        });
                    }
                }
            }
            for mib in [1, 16, 256, 4 << 10, 100 << 10] {
                if !ended.load(Ordering::Relaxed) {
                    sizes::measure(system, mib << 20, |work, micros| {
                        note(Panel::File, work, mib << 20, micros);
                    });
                }
            }
        }
        scaling
    }

    fn curve(&mut self, panel: Panel, system: &'static str, work: &'static str) -> &mut Vec<Point> {
        let is_it =
            |curve: &Curve| (curve.panel, curve.system, curve.work) == (panel, system, work);
        let index = self.curves.iter().position(is_it).unwrap_or_else(|| {
            self.curves.push(Curve { panel, system, work, points: Vec::new() });
            self.curves.len() - 1
        });
        &mut self.curves[index].points
    }

    /// As tables in Markdown.
    pub fn table(&self) -> String {
        let mut text = format!("{}\n", self.machine);
        for panel in Panel::ALL {
            let curves = || self.curves.iter().filter(|curve| curve.panel == panel);
            let sizes = sizes_of(curves());
            let head = ["system".to_owned(), panel.cost().to_owned()].into_iter();
            let mut rows = vec![head.chain(sizes.iter().map(|size| panel.label(*size))).collect()];
            for curve in curves() {
                let start = [curve.system.to_owned(), curve.work.to_owned()].into_iter();
                let cells = sizes.iter().map(|size| {
                    let point = curve.points.iter().find(|point| point.size == *size);
                    point.map_or("-".to_owned(), |point| digits(point.micros))
                });
                rows.push(start.chain(cells).collect::<Vec<_>>());
            }
            for system in distinct(curves().map(|curve| curve.system)) {
                let start = [system.to_owned(), "peak memory, MiB".to_owned()].into_iter();
                let peak = |size: &u64| {
                    let own = curves().filter(|curve| curve.system == system);
                    let points = own.flat_map(|curve| &curve.points);
                    let peaks = points.filter(|point| point.size == *size);
                    peaks.map(|point| point.peak_kib).max().unwrap_or(0) >> 10
                };
                rows.push(start.chain(sizes.iter().map(|size| peak(size).to_string())).collect());
            }
            text.push('\n');
            align(&mut text, &rows);
        }
        text
    }

    /// For programs.
    pub fn json(&self) -> String {
        let curves = self.curves.iter().map(|curve| {
            let points = curve.points.iter().map(|point| {
                json!({"size": point.size, "us": point.micros, "peak_rss_kib": point.peak_kib})
            });
            json!({
                "panel": curve.panel.name(),
                "system": curve.system,
                "work": curve.work,
                "cost": curve.panel.cost(),
                "points": points.collect::<Vec<Value>>(),
            })
        });
        let value = json!({"machine": self.machine, "scaling": curves.collect::<Vec<_>>()});
        serde_json::to_string_pretty(&value).expect("plain data")
    }

    /// As SVG.
    pub fn chart(&self) -> String {
        chart::of(&self.curves)
    }
}

/// The sizes that were measured, which grow from one point of a curve to the next.
fn sizes_of<'a>(curves: impl Iterator<Item = &'a Curve>) -> Vec<u64> {
    distinct(curves.flat_map(|curve| &curve.points).map(|point| point.size))
}

impl Panel {
    const ALL: [Self; 3] = [Self::Tree, Self::Directory, Self::File];

    fn name(self) -> &'static str {
        match self {
            Self::Tree => "tree",
            Self::Directory => "directory",
            Self::File => "file",
        }
    }

    fn cost(self) -> &'static str {
        match self {
            Self::Tree | Self::Directory => "us per file",
            Self::File => "us per MiB, or per read",
        }
    }

    /// What the size is of.
    fn axis(self) -> &'static str {
        match self {
            Self::Tree => "files in a tree",
            Self::Directory => "files in one directory",
            Self::File => "length of a file",
        }
    }

    fn label(self, size: u64) -> String {
        match self {
            Self::Tree | Self::Directory if size >= 1_000_000 => format!("{} M", size / 1_000_000),
            Self::Tree | Self::Directory => format!("{} k", size / 1000),
            Self::File if size >= 1 << 30 => format!("{} GiB", size >> 30),
            Self::File => format!("{} MiB", size >> 20),
        }
    }
}
