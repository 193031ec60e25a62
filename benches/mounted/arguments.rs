//! The command line.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::systems::{self, Scope};
use crate::workloads::Workload;

/// What is asked for.
pub struct Arguments {
    pub rounds: usize,
    pub backings: Vec<Backing>,
    pub json: Option<PathBuf>,
    pub chart: Option<PathBuf>,
    pub table: Option<PathBuf>,
    pub quick: bool,
    /// Whether costs are measured by size, and not by system.
    pub scale: bool,
    largest_tree: Option<u64>,
    tree_files: Option<usize>,
    only: Vec<String>,
    systems: Vec<String>,
}

/// A directory in which backing directories are made, and what the report calls it.
pub struct Backing(String);

/// How much each workload does.
#[derive(Clone, Copy)]
pub struct Scale {
    /// How long a workload runs that can stop at any operation.
    pub slice: Duration,
    /// Bytes of the file that is streamed.
    pub stream_len: u64,
    /// Files of the tree that is unpacked.
    pub tree_files: usize,
    /// Transactions of a database.
    pub transactions: usize,
}

impl Arguments {
    /// From the process's arguments; ends the process if they make no sense.
    pub fn parse() -> Self {
        let mut parsed = Self {
            rounds: 0,
            backings: Vec::new(),
            json: None,
            chart: None,
            table: None,
            quick: false,
            scale: false,
            largest_tree: None,
            tree_files: None,
            only: Vec::new(),
            systems: Vec::new(),
        };
        let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
        while let Some(name) = arguments.next() {
            if name == "--help" || name == "-h" {
                print!("{}", help(parsed.scale()));
                std::process::exit(0);
            }
            match name.as_str() {
                "--quick" => parsed.quick = true,
                "--scale" => parsed.scale = true,
                _ => {
                    let Some(value) = arguments.next() else { wrong(&name) };
                    parsed.take(&name, &value);
                }
            }
        }
        parsed.complete()
    }

    fn take(&mut self, name: &str, value: &str) {
        let names = || value.split(',').map(str::to_owned);
        match name {
            "--rounds" => self.rounds = value.parse().unwrap_or_else(|_| wrong(value)),
            "--largest-tree" => {
                self.largest_tree = Some(value.parse().unwrap_or_else(|_| wrong(value)));
            }
            "--tree-files" => {
                // Half of it is a tree too.
                let files = value.parse().ok().filter(|files| *files > 1);
                self.tree_files = Some(files.unwrap_or_else(|| wrong(value)));
            }
            "--backing" => self.backings.extend(names().map(Backing)),
            "--only" => self.only.extend(names()),
            "--systems" => self.systems.extend(names()),
            "--json" => self.json = Some(value.into()),
            "--chart" => self.chart = Some(value.into()),
            "--table" => self.table = Some(value.into()),
            _ => wrong(name),
        }
    }

    fn complete(mut self) -> Self {
        if self.rounds == 0 {
            self.rounds = if self.quick { 2 } else { 5 };
        }
        if self.backings.is_empty() {
            self.backings = vec![Backing("tmpfs".to_owned()), Backing("disk".to_owned())];
        }
        for system in &self.systems {
            if !systems::names().any(|(name, _)| name == system) {
                wrong(system);
            }
        }
        for only in &self.only {
            if !Workload::all().any(|workload| workload.is_called(only)) {
                wrong(only);
            }
        }
        self
    }

    /// Whether a system takes part.
    pub fn wants(&self, name: &str, scope: Scope) -> bool {
        if self.systems.is_empty() { scope != Scope::OnRequest } else { self.names(name) }
    }

    /// Whether no system was chosen.
    pub fn wants_all(&self) -> bool {
        self.systems.is_empty()
    }

    /// Files of the largest tree that costs are measured on.
    pub fn largest_tree(&self) -> u64 {
        self.largest_tree.unwrap_or(if self.quick { 10_000 } else { 1_000_000 })
    }

    /// Whether a system was asked for by name.
    pub fn names(&self, system: &str) -> bool {
        self.systems.iter().any(|name| name == system)
    }

    /// Whether a workload, or one of its rows, was asked for.
    pub fn has_chosen(&self, workload: &Workload) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| workload.is_called(only))
    }

    /// How much each workload does.
    pub fn scale(&self) -> Scale {
        let usual = if self.quick {
            Scale {
                slice: Duration::from_millis(60),
                stream_len: 32 << 20,
                tree_files: 500,
                transactions: 40,
            }
        } else {
            Scale {
                slice: Duration::from_millis(200),
                stream_len: 128 << 20,
                tree_files: 2000,
                transactions: 100,
            }
        };
        Scale { tree_files: self.tree_files.unwrap_or(usual.tree_files), ..usual }
    }
}

impl Backing {
    /// What the report calls it.
    pub fn label(&self) -> &str {
        &self.0
    }

    /// Where it is.
    pub fn directory(&self) -> &Path {
        Path::new(match self.0.as_str() {
            "tmpfs" => "/dev/shm",
            "disk" => "/var/tmp",
            other => other,
        })
    }
}

fn wrong(what: &str) -> ! {
    eprintln!("'{what}' is not understood, or lacks a value; see scripts/bench --help");
    std::process::exit(2);
}

fn help(scale: Scale) -> String {
    let mut text = HELP.to_owned();
    text.push_str("\nSystems (* only when named by --systems, + only on rows of small files):\n");
    for (name, scope) in systems::names() {
        let mark = match scope {
            Scope::Always => ' ',
            Scope::Modes => '+',
            Scope::OnRequest => '*',
        };
        text.push_str(&format!("{mark} {name}\n"));
    }
    text.push_str("\nWorkloads and their rows:\n");
    for workload in Workload::all() {
        text.push_str(&format!("  {}\n", workload.name));
        for row in workload.rows {
            text.push_str(&format!("    {:22} {}\n", row.name, row.described(scale)));
        }
    }
    text
}

const HELP: &str = "\
Compares ssefs with the file system below it and with other encrypted file systems, where they
are installed: each workload runs on all systems in turn, over and over, and the medians of the
rounds count. Needs no root, but FUSE: /dev/fuse as root, fusermount3 otherwise. It works in
directories of its own in /dev/shm and /var/tmp, needs about 2 GiB in each, and removes them.

Usage: scripts/bench [options]

  --quick             two rounds of less work: below 5 minutes instead of below 30
  --rounds N          rounds of each workload [default: 5]
  --backing LIST      where the encrypted files lie: tmpfs (/dev/shm), disk (/var/tmp), or
                      directories [default: tmpfs,disk]
  --only LIST         these workloads or rows only
  --systems LIST      these systems only; ratios need gocryptfs and native among them
  --tree-files N      files of the tree that is unpacked, at least 2; where this machine has no
                      such tree of sources, it is taken several times [default: 2000, with
                      --quick 500]
  --scale             instead: what a file costs among 1 thousand to 1 million, and a byte in
                      files of 1 MiB to 100 GiB (with holes), on the first backing; of ssefs
                      unless systems are named. A million files take 10 GiB and some minutes
  --largest-tree N    the most files for --scale [default: 1000000, with --quick 10000]
  --table FILE        write the tables to a file too
  --json FILE         write all figures as JSON
  --chart FILE        draw speeds relative to gocryptfs as SVG

'Cold' means that the mount is fresh: the system is unmounted and mounted again (for single
files, the kernel is told to drop their pages), so neither the kernel nor the daemon remembers
anything. What lies below the mount stays in memory, for all systems alike; the native file
system has no other cache, so its cold rows are warm ones.

'ssefs' takes FUSE over io_uring where the kernel has it switched on, as this script does for the
run if root starts it, and 'ssefs-classic' takes /dev/fuse, as all others do: so both ways are
compared. The table says which was taken.

'plain' is a FUSE daemon that encrypts nothing: what the transport costs. It knows only what the
workloads on single files and their directories ask for.
";
