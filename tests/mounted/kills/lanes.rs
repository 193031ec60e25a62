//! The programs that work while the daemon is killed.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::Lane;
use crate::harness::sys::close;
use crate::harness::{
    Changing, Dialogue, Random, assert_same, needs_program, pattern, succeed, wait_for,
};

/// fio overwrites the blocks of a file, syncing now and then, and can tell a block that it wrote
/// whole, at whatever time, from any other.
pub struct Fio {
    path: PathBuf,
    /// Where it may leave what it likes.
    scratch: PathBuf,
    seed: u64,
}

impl Fio {
    pub fn prepare(mnt: &Path, scratch: &Path) -> Option<Box<dyn Lane>> {
        if !needs_program("fio") {
            return None;
        }
        let fio = Self { path: mnt.join("fio"), scratch: scratch.to_path_buf(), seed: 0 };
        succeed(fio.command().args(["--rw=write", "--do_verify=0", "--end_fsync=1"]));
        Some(Box::new(fio))
    }

    fn command(&self) -> Command {
        let mut command = Command::new("fio");
        command.arg("--name=blocks").arg(format!("--filename={}", self.path.display()));
        command.args(["--size=1M", "--bs=4k", "--verify=crc32c", "--verify_state_save=0"]);
        command.current_dir(&self.scratch).stdin(Stdio::null());
        command
    }
}

impl Lane for Fio {
    fn work(&mut self, _: Random, over: &AtomicBool) -> io::Result<()> {
        self.seed += 1;
        let mut command = self.command();
        command.args(["--rw=randwrite", "--do_verify=0", "--fsync=8", "--time_based"]);
        command.arg("--runtime=600").arg(format!("--randseed={}", self.seed));
        let mut process = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let ended = || over.load(Ordering::SeqCst) || process.try_wait().is_ok_and(|e| e.is_some());
        wait_for(WORK_LIMIT, ended);
        let _ = process.kill();
        process.wait().map(drop)
    }

    fn verify(&mut self) {
        // Reading alone asks no block for the run that it is of.
        succeed(self.command().arg("--rw=read"));
    }
}

/// tar unpacks a tree again and again. It says which files it could not write.
pub struct Untar {
    directory: PathBuf,
    archive: PathBuf,
    files: usize,
    /// The trees so far, and the names in the last one that were written and closed.
    trees: usize,
    closed: Vec<String>,
}

impl Untar {
    pub fn prepare(mnt: &Path, scratch: &Path) -> Option<Box<dyn Lane>> {
        if !needs_program("tar") {
            return None;
        }
        let (tree, archive) = (scratch.join("tree"), scratch.join("tree.tar"));
        let files = 400;
        for number in 0..files {
            let path = tree.join(Self::name(number));
            fs::create_dir_all(path.parent().expect("it has one")).unwrap();
            fs::write(path, Self::content(number)).unwrap();
        }
        succeed(Command::new("tar").arg("-cf").arg(&archive).arg("-C").arg(&tree).arg("."));
        let directory = mnt.join("untar");
        fs::create_dir(&directory).unwrap();
        Some(Box::new(Self { directory, archive, files, trees: 0, closed: Vec::new() }))
    }

    fn name(number: usize) -> String {
        format!("{}/{}/file-{number}", number % 5, number % 7)
    }

    fn content(number: usize) -> Vec<u8> {
        pattern(number as u64, number * 7919 % 50_000)
    }

    fn tree(&self) -> PathBuf {
        self.directory.join(format!("tree-{}", self.trees))
    }
}

impl Lane for Untar {
    fn work(&mut self, _: Random, over: &AtomicBool) -> io::Result<()> {
        while !over.load(Ordering::SeqCst) {
            let last = self.tree();
            self.trees += 1;
            self.closed.clear();
            fs::create_dir(self.tree())?;
            let mut tar = Command::new("tar");
            tar.args(["--no-same-owner", "-xvf"]).arg(&self.archive).current_dir(self.tree());
            let output = tar.env("LC_ALL", "C").stdin(Stdio::null()).output()?;
            let complaints = String::from_utf8_lossy(&output.stderr).into_owned();
            let failed: Vec<&str> =
                complaints.lines().filter_map(|line| line.split(": ").nth(1)).collect();
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            let closed = said.lines().filter(|name| !name.ends_with('/') && !failed.contains(name));
            self.closed = closed.map(str::to_owned).collect();
            let _ = fs::remove_dir_all(last);
        }
        Ok(())
    }

    fn verify(&mut self) {
        for number in 0..self.files {
            let name = format!("./{}", Self::name(number));
            let path = self.tree().join(&name);
            if self.closed.contains(&name) {
                assert_same(&fs::read(&path).unwrap(), &Self::content(number), &name);
            }
        }
        let _ = fs::remove_dir_all(self.tree());
    }
}

/// SQLite commits transactions.
pub struct Database {
    path: PathBuf,
    committed: u64,
}

impl Database {
    pub fn prepare(mnt: &Path, journal: &str) -> Option<Box<dyn Lane>> {
        if !needs_program("sqlite3") {
            return None;
        }
        let database = Self { path: mnt.join(format!("{journal}.db")), committed: 0 };
        let said = database.run(&format!(
            "PRAGMA journal_mode={journal}; CREATE TABLE t(id INTEGER PRIMARY KEY, data TEXT);
             CREATE INDEX by_data ON t(data);"
        ));
        assert_eq!(said, journal, "this journal mode was refused");
        Some(Box::new(database))
    }

    #[track_caller]
    fn run(&self, statements: &str) -> String {
        let output = succeed(Command::new("sqlite3").arg("-bail").arg(&self.path).arg(statements));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }
}

impl Lane for Database {
    fn work(&mut self, mut random: Random, over: &AtomicBool) -> io::Result<()> {
        let mut program = Dialogue::start(Command::new("sqlite3").arg("-bail").arg(&self.path))?;
        program
            .tell("PRAGMA synchronous=FULL; PRAGMA wal_autocheckpoint=50; SELECT 'go';", "go")?;
        while !over.load(Ordering::SeqCst) {
            let n = self.committed + 1;
            let (len, from) = (random.below(900), random.below(n));
            let transaction = format!(
                "BEGIN; INSERT INTO t VALUES({n}, hex(randomblob({len})));
                 UPDATE t SET data = hex(randomblob(20)) WHERE id BETWEEN {from} AND {from} + 3;
                 COMMIT; SELECT {n};"
            );
            program.tell(&transaction, &n.to_string())?;
            self.committed = n;
        }
        Ok(())
    }

    fn verify(&mut self) {
        assert_eq!(self.run("PRAGMA integrity_check"), "ok", "{}", self.path.display());
        let found = self.run("SELECT count(*), coalesce(max(id), 0) FROM t");
        let (rows, last) = found.split_once('|').expect("two columns");
        assert_eq!(rows, last, "{}", self.path.display());
        let last = last.parse().unwrap();
        assert!(last >= self.committed, "{}: {last} of {}", self.path.display(), self.committed);
        self.committed = last;
    }
}

/// Changes of size, writes and holes in one file, each followed by an `fsync`, or by closing it.
pub struct Changes {
    path: PathBuf,
    synced: bool,
    content: Changing,
}

impl Changes {
    pub fn prepare(mnt: &Path, synced: bool) -> Option<Box<dyn Lane>> {
        let path = mnt.join(if synced { "synced" } else { "closed" });
        File::create(&path).unwrap();
        Some(Box::new(Self { path, synced, content: Changing::default() }))
    }
}

impl Lane for Changes {
    fn work(&mut self, mut random: Random, over: &AtomicBool) -> io::Result<()> {
        let mut file = OpenOptions::new().read(true).write(true).open(&self.path)?;
        while !over.load(Ordering::SeqCst) {
            self.content.change(&file, &mut random)?;
            if self.synced {
                file.sync_data()?;
            } else {
                close(file)?;
                file = OpenOptions::new().read(true).write(true).open(&self.path)?;
            }
            self.content.acknowledge();
        }
        Ok(())
    }

    fn verify(&mut self) {
        let accepted = self.content.accept(fs::read(&self.path).unwrap());
        accepted.unwrap_or_else(|why| panic!("{}: {why}", self.path.display()));
    }
}

/// A document that is replaced by a new file of its name, which was closed before.
pub struct Saves {
    document: PathBuf,
    /// The one whose rename has returned, and the last that was begun.
    renamed: u64,
    begun: u64,
}

impl Saves {
    pub fn prepare(mnt: &Path) -> Option<Box<dyn Lane>> {
        let document = mnt.join("document");
        fs::write(&document, Self::content(0)).unwrap();
        Some(Box::new(Self { document, renamed: 0, begun: 0 }))
    }

    fn content(version: u64) -> Vec<u8> {
        pattern(version, (version * 7919 % 50_000) as usize + 1)
    }
}

impl Lane for Saves {
    fn work(&mut self, _: Random, over: &AtomicBool) -> io::Result<()> {
        let new = self.document.with_extension("new");
        while !over.load(Ordering::SeqCst) {
            self.begun += 1;
            let mut file = File::create(&new)?;
            file.write_all(&Self::content(self.begun))?;
            close(file)?;
            fs::rename(&new, &self.document)?;
            self.renamed = self.begun;
        }
        Ok(())
    }

    fn verify(&mut self) {
        let found = fs::read(&self.document).unwrap();
        let mut versions = (self.renamed..=self.begun).rev();
        let version = versions.find(|version| found == Self::content(*version));
        let (renamed, begun) = (self.renamed, self.begun);
        self.renamed = version.unwrap_or_else(|| {
            panic!("{} bytes are no version from {renamed} to {begun}", found.len())
        });
    }
}

const WORK_LIMIT: Duration = Duration::from_secs(60);
