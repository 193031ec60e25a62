//! SQLite with a write-ahead log and with a rollback journal: every transaction whose `COMMIT`
//! has returned is there, and the database is whole.
//!
//! With a rollback journal a commit is the removal of a file, which SQLite makes durable at
//! `synchronous=EXTRA` only.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use super::lock;
use crate::cut::{Power, Site, Workload};
use crate::harness::{Dialogue, Random, needs_program};
use crate::tally::Tally;

pub struct Wal(Database);
pub struct Rollback(Database);

struct Database {
    path: PathBuf,
    journal: &'static str,
    acknowledged: Mutex<u64>,
}

impl Database {
    fn make(directory: &Path, journal: &'static str) -> Option<Self> {
        if !needs_program("sqlite3") {
            return None;
        }
        let path = directory.join(format!("{journal}.db"));
        let database = Self { path, journal, acknowledged: Mutex::new(0) };
        database.create();
        Some(database)
    }

    fn create(&self) {
        let journal = self.journal;
        let said = self.run(&format!(
            "PRAGMA journal_mode={journal};
             {SYNCHRONOUS}
             CREATE TABLE t(id INTEGER PRIMARY KEY, data TEXT);
             CREATE INDEX by_data ON t(data);
             CREATE TABLE counter(n INTEGER);
             INSERT INTO counter VALUES(0);"
        ));
        assert_eq!(said.as_deref(), Ok(journal), "this journal mode was refused");
    }

    /// What the statements answer, or the complaint about one of them.
    fn run(&self, statements: &str) -> Result<String, String> {
        let mut program = Command::new("sqlite3");
        let output = program.arg("-bail").arg(&self.path).arg(statements).output().unwrap();
        match output.status.success() {
            true => Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned()),
            false => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        }
    }

    fn work(&self, mut random: Random, power: &Power) -> io::Result<()> {
        let mut acknowledged = lock(&self.acknowledged);
        let mut program = Dialogue::start(Command::new("sqlite3").arg("-bail").arg(&self.path))?;
        let settings = format!("{SYNCHRONOUS} PRAGMA wal_autocheckpoint=50; SELECT 'ready';");
        program.tell(&settings, "ready")?;
        while power.is_on() {
            let n = *acknowledged + 1;
            let (len, from) = (random.below(900), random.below(n));
            let transaction = format!(
                "BEGIN; INSERT INTO t VALUES({n}, hex(randomblob({len})));
                 UPDATE t SET data = hex(randomblob(20)) WHERE id BETWEEN {from} AND {from} + 3;
                 UPDATE counter SET n = {n}; COMMIT; SELECT {n};"
            );
            program.tell(&transaction, &n.to_string())?;
            if power.is_on() {
                *acknowledged = n;
            }
        }
        Ok(())
    }

    fn verify(&mut self, tally: &mut Tally) {
        let acknowledged = *lock(&self.acknowledged);
        tally.acknowledged += acknowledged;
        let found = self.run("PRAGMA integrity_check;").and_then(|whole| match whole.as_str() {
            "ok" => self.run("SELECT count(*), max(id), (SELECT n FROM counter) FROM t;"),
            _ => Err(whole),
        });
        let last = match found {
            Ok(found) => {
                let numbers: Vec<u64> = found.split('|').map(|n| n.parse().unwrap_or(0)).collect();
                let [rows, last, counted] = numbers[..] else { panic!("no numbers: {found}") };
                if rows != last || last != counted {
                    tally.wrong(format_args!("{rows} rows, the last {last}, counted {counted}"));
                }
                last
            }
            Err(error) => {
                tally.wrong(format_args!("{}: {error}", self.path.display()));
                for suffix in ["", "-journal", "-wal", "-shm"] {
                    let mut path = self.path.clone().into_os_string();
                    path.push(suffix);
                    let _ = fs::remove_file(path);
                }
                self.create();
                0
            }
        };
        if last < acknowledged {
            tally.lost(acknowledged - last, self.path.display());
        }
        *lock(&self.acknowledged) = last;
    }
}

impl Workload for Wal {
    fn prepare(site: &Site) -> Option<Self> {
        Database::make(&site.directory, "wal").map(Self)
    }

    fn lanes(&self) -> usize {
        1
    }

    fn work(&self, _: usize, random: Random, power: &Power) -> io::Result<()> {
        self.0.work(random, power)
    }

    fn verify(&mut self, tally: &mut Tally) {
        self.0.verify(tally);
    }
}

impl Workload for Rollback {
    fn prepare(site: &Site) -> Option<Self> {
        Database::make(&site.directory, "delete").map(Self)
    }

    fn lanes(&self) -> usize {
        1
    }

    fn work(&self, _: usize, random: Random, power: &Power) -> io::Result<()> {
        self.0.work(random, power)
    }

    fn verify(&mut self, tally: &mut Tally) {
        self.0.verify(tally);
    }
}

const SYNCHRONOUS: &str = "PRAGMA synchronous=EXTRA;";
