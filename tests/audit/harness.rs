//! A keystore of its own for each test, in memory, with a log that records numbered events; and
//! second processes, which run this test program again in a named role.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use ssefs::format::{FileId, KeyId, VolumeId};
use ssefs::keys::audit::{
    AuditLog, AuditOptions, AuditReader, AuditSync, Event, EventError, Expectation, Surroundings,
    Target, Trust, Verification, verify,
};
use ssefs::keys::identity::Identity;
use ssefs::keys::{KeyError, Keystore, Operation};

/// A keystore with its audit log.
pub struct TestLog {
    _scratch: Option<tempfile::TempDir>,
    path: PathBuf,
    surroundings: Surroundings,
}

impl TestLog {
    pub fn new() -> Self {
        let memory = Path::new("/dev/shm");
        let parent = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
        let scratch = tempfile::tempdir_in(parent).unwrap();
        let path = scratch.path().join("keystore");
        let mut surroundings = Surroundings::of_this_machine().unwrap();
        surroundings.syslog = scratch.path().join("no-syslog");
        Self { _scratch: Some(scratch), path, surroundings }
    }

    /// That of a keystore that is there.
    pub fn at(path: &Path) -> Self {
        let mut surroundings = Surroundings::of_this_machine().unwrap();
        surroundings.syslog = path.join("no-syslog");
        Self { _scratch: None, path: path.to_owned(), surroundings }
    }

    /// On a machine of its own.
    pub fn surroundings(&mut self) -> &mut Surroundings {
        &mut self.surroundings
    }

    pub fn keystore(&self) -> Arc<Keystore> {
        Arc::new(Keystore::open_or_create(&self.path).unwrap())
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn dir(&self) -> PathBuf {
        self.path.join("audit")
    }

    pub fn segment(&self, number: u32) -> PathBuf {
        self.dir().join(format!("audit-{number:08}.jsonl"))
    }

    pub fn open(&self) -> AuditLog {
        self.open_with(options()).unwrap()
    }

    pub fn open_with(&self, options: AuditOptions) -> Result<AuditLog, KeyError> {
        AuditLog::open_in(self.keystore(), options, self.surroundings.clone())
    }

    /// Records the events `numbers` and closes the log.
    pub fn append(&self, numbers: std::ops::Range<u64>) {
        let log = self.open();
        for number in numbers {
            record(&log, number).unwrap();
        }
    }

    pub fn verify(&self) -> Verification {
        verify(&Trust::Keystore(&self.keystore()), None, Expectation::default()).unwrap()
    }

    #[track_caller]
    pub fn assert_clean(&self) -> Verification {
        let verification = self.verify();
        assert!(verification.is_clean(), "{:#?}", verification.findings);
        verification
    }

    /// The numbers of the events whose records are whole.
    pub fn whole_numbers(&self) -> Vec<u64> {
        let reader = AuditReader::at(&self.dir()).unwrap();
        let records = reader
            .records()
            .map(|record| serde_json::from_str::<Value>(&record.unwrap().json).unwrap());
        records.filter_map(|record| record["requestParameters"]["number"].as_u64()).collect()
    }

    /// All records, in order.
    pub fn records(&self) -> Vec<Value> {
        let mut records = Vec::new();
        for number in 1.. {
            let Ok(text) = fs::read_to_string(self.segment(number)) else { break };
            records.extend(text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()));
        }
        records
    }

    /// The number of the last record that the head tells.
    pub fn head_seq(&self) -> u64 {
        let head = fs::read(self.dir().join("head")).unwrap();
        u64::from_le_bytes(head[8..16].try_into().unwrap())
    }

    /// The numbers of the recorded events, in order.
    pub fn numbers(&self) -> Vec<u64> {
        let number = |record: &Value| record["requestParameters"]["number"].as_u64();
        self.records().iter().filter_map(number).collect()
    }

    /// The names of the records about the log itself, in order.
    pub fn own_events(&self) -> Vec<String> {
        let records = self.records();
        let own = records.iter().filter(|record| record["eventSource"] == "ssefs.audit");
        own.map(|record| record["eventName"].as_str().unwrap().to_owned()).collect()
    }
}

/// As a mount with `--audit-sync interval` keeps it.
pub fn leasing() -> AuditOptions {
    AuditOptions { lease: true, ..options() }
}

/// The same with the lock taken for each record alone, so that a test sees the head move.
pub fn options() -> AuditOptions {
    AuditOptions { sync: AuditSync::Interval(Duration::from_secs(3600)), ..AuditOptions::default() }
}

/// Records the opening of a file under a number.
pub fn record(log: &AuditLog, number: u64) -> Result<(), KeyError> {
    record_as(log, number, &Identity::own(), "/reports/2026.ods", None)
}

pub fn record_as(
    log: &AuditLog,
    number: u64,
    identity: &Identity,
    path: &str,
    error: Option<EventError>,
) -> Result<(), KeyError> {
    let context = BTreeMap::from([("department".to_owned(), "finance".to_owned())]);
    log.record(&Event {
        name: "Decrypt",
        read_only: true,
        identity,
        target: Some(Target {
            operation: Operation::Open,
            volume: VolumeId([1; 16]),
            file: FileId([2; 16]),
            path: Path::new(path),
        }),
        key_id: Some(&key_id()),
        key_version: Some(1),
        context: &context,
        cache_hit: Some(true),
        error,
        parameters: BTreeMap::from([("number", json!(number))]),
        additional: BTreeMap::new(),
    })
}

pub fn key_id() -> KeyId {
    KeyId("b7c2f3ce-6d4a-4c39-9a43-0d2f8f4cbb10".to_owned())
}

/// Whether a program is on the `PATH`.
pub fn program(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(name).is_file())
}

/// Says why a test proves nothing here; the caller returns.
pub fn skip(reason: &str) {
    let name = std::thread::current().name().unwrap_or("unnamed").to_owned();
    let line = format!("SKIPPED {name}: {reason}");
    eprintln!("{line}");
    if let Some(path) = std::env::var_os("SSEFS_TEST_SKIPS") {
        let mut file = OpenOptions::new().append(true).create(true).open(path).unwrap();
        writeln!(file, "{line}").unwrap();
    }
}

/// Replaces one byte of a file.
pub fn put_byte(path: &Path, at: u64, byte: u8) {
    let file = OpenOptions::new().write(true).open(path).unwrap();
    file.write_all_at(&[byte], at).unwrap();
}

/// A second process that appends to the log at `path` until it is killed, from a number on, and
/// says each number once it is recorded.
pub struct AppendingChild {
    process: Child,
    output: BufReader<ChildStdout>,
}

impl AppendingChild {
    pub fn start(path: &Path, first: u64) -> Self {
        Self::spawn(&mut Command::new(std::env::current_exe().unwrap()), path, first)
    }

    /// Runs one that dies at a fail point; the numbers that it said.
    pub fn start_killed_in(path: &Path, first: u64, fail_point: &str) -> Vec<u64> {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.env(ssefs::sys::fail_point::VARIABLE, fail_point).stderr(Stdio::null());
        Self::spawn(&mut command, path, first).hear_out()
    }

    /// Runs one that is killed before its `nth` system call of this name, or after a hundred
    /// records; the numbers that it said.
    pub fn start_killed_at(path: &Path, first: u64, call: &str, nth: u32) -> Vec<u64> {
        let mut command = Command::new("strace");
        command
            .args(["-f", "-qq", "-o", "/dev/null", "-e", &format!("trace={call}")])
            .args(["-e", &format!("inject={call}:signal=KILL:when={nth}")])
            .arg(std::env::current_exe().unwrap())
            .env(CHILD_LIMIT, "100")
            .stderr(Stdio::null());
        Self::spawn(&mut command, path, first).hear_out()
    }

    /// `command` runs this test program, perhaps through another one.
    fn spawn(command: &mut Command, path: &Path, first: u64) -> Self {
        let mut process = command
            .args(["--exact", "harness::appending_child", "--nocapture", "--test-threads=1"])
            .env(CHILD_PATH, path)
            .env(CHILD_FIRST, first.to_string())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(process.stdout.take().expect("piped above"));
        Self { process, output }
    }

    /// All numbers until it ends.
    fn hear_out(mut self) -> Vec<u64> {
        let heard = std::iter::from_fn(|| self.hear()).collect();
        self.process.wait().unwrap();
        heard
    }

    /// Waits for the next number.
    pub fn hear(&mut self) -> Option<u64> {
        loop {
            let mut line = String::new();
            if self.output.read_line(&mut line).unwrap() == 0 {
                return None;
            }
            // A line that the kill has torn tells nothing.
            let said = line.strip_suffix('\n').and_then(|line| line.strip_prefix(SAYS));
            if let Some(number) = said.and_then(|said| said.parse().ok()) {
                return Some(number);
            }
        }
    }

    /// Kills it with no warning; the numbers that it said and were not heard yet.
    pub fn kill(mut self) -> Vec<u64> {
        self.process.kill().unwrap();
        self.hear_out()
    }
}

/// Not a test of its own: where a child process begins.
#[test]
fn appending_child() {
    let Some(path) = std::env::var_os(CHILD_PATH) else { return };
    let first = std::env::var(CHILD_FIRST).unwrap().parse::<u64>().unwrap();
    let mut surroundings = Surroundings::of_this_machine().unwrap();
    surroundings.syslog = PathBuf::from("/no such");
    let keystore = Arc::new(Keystore::open_or_create(Path::new(&path)).unwrap());
    let small = AuditOptions { segment_size: 64 << 10, ..leasing() };
    let log = AuditLog::open_in(keystore, small, surroundings).unwrap();
    let mut out = std::io::stdout();
    let limit = std::env::var(CHILD_LIMIT).map_or(u64::MAX, |limit| limit.parse().unwrap());
    for number in (first..).take(usize::try_from(limit).unwrap()) {
        record(&log, number).unwrap();
        // One write, so that a kill cannot tear it.
        out.write_all(format!("\n{SAYS}{number}\n").as_bytes()).unwrap();
        out.flush().unwrap();
    }
}

const CHILD_PATH: &str = "SSEFS_AUDIT_CHILD_PATH";
const CHILD_FIRST: &str = "SSEFS_AUDIT_CHILD_FIRST";
const CHILD_LIMIT: &str = "SSEFS_AUDIT_CHILD_LIMIT";
const SAYS: &str = "child-says:";
