//! PostgreSQL with pgbench at work and a ledger of its own: every transaction that the server has
//! acknowledged is there after its recovery, and the tables of pgbench agree with each other.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::lock;
use crate::cut::{Power, Site, Workload};
use crate::harness::{Dialogue, NOBODY, Random, skip, succeed, wait_for};
use crate::tally::Tally;

pub struct Postgres {
    programs: PathBuf,
    data: PathBuf,
    /// Sockets, whose paths must be short, and the log.
    outside: PathBuf,
    server: Option<Child>,
    load: Option<Child>,
    /// The transactions that each lane was told are committed.
    acknowledged: [Mutex<u64>; LANES],
}

impl Postgres {
    /// One of the server's programs, as the user who owns the cluster.
    fn program(&self, name: &str) -> Command {
        let mut command = Command::new(self.programs.join(name));
        command.uid(NOBODY).gid(NOBODY).current_dir(&self.outside).stdin(Stdio::null());
        command.env("PGHOST", &self.outside).env("LC_ALL", "C");
        command.env("PGUSER", "postgres").env("PGDATABASE", "postgres");
        command
    }

    fn log(&self) -> File {
        File::options().append(true).create(true).open(self.outside.join("log")).unwrap()
    }

    /// Starts the server, which recovers its cluster; false if it does not come up.
    fn start(&mut self) -> bool {
        let mut command = self.program("postgres");
        command.arg("-D").arg(&self.data).args(["-c", "listen_addresses="]);
        command.arg("-c").arg(format!("unix_socket_directories={}", self.outside.display()));
        let server = command.stdout(self.log()).stderr(self.log()).spawn().unwrap();
        let server = self.server.insert(server);
        let mut ended = false;
        let ready = wait_for(START_LIMIT, || {
            ended = server.try_wait().unwrap().is_some();
            let mut ask = Command::new(self.programs.join("pg_isready"));
            ask.env("PGHOST", &self.outside).args(["-q", "-t", "1"]);
            ended || ask.status().is_ok_and(|status| status.success())
        });
        ready && !ended
    }

    /// Ends the server and its children at once, without a checkpoint.
    fn stop_at_once(&mut self) {
        if let Some(mut load) = self.load.take() {
            let _ = load.kill();
            load.wait().unwrap();
        }
        let Some(mut server) = self.server.take() else { return };
        let pid = Pid::from_child(&server);
        let _ = kill_process(pid, Signal::QUIT);
        if !wait_for(STOP_LIMIT, || server.try_wait().unwrap().is_some()) {
            server.kill().unwrap();
            server.wait().unwrap();
        }
    }

    fn query(&self, statement: &str) -> Result<String, String> {
        let output = self.program("psql").args(["-AtX", "-c", statement]).output().unwrap();
        match output.status.success() {
            true => Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned()),
            false => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        }
    }

    fn end_of_log(&self) -> String {
        let log = fs::read_to_string(self.outside.join("log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().rev().take(15).collect();
        lines.into_iter().rev().map(|line| format!("\n    {line}")).collect()
    }
}

impl Workload for Postgres {
    fn prepare(site: &Site) -> Option<Self> {
        let Some(programs) = server_programs() else {
            skip("PostgreSQL's server is missing");
            return None;
        };
        let outside = site.scratch.join("s");
        fs::create_dir(&outside).unwrap();
        let data = site.directory.join("db");
        fs::create_dir(&data).unwrap();
        for path in [&outside, &data] {
            chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
        }
        let (server, load) = (None, None);
        let mut cluster =
            Self { programs, data, outside, server, load, acknowledged: Default::default() };
        let mut initdb = cluster.program("initdb");
        initdb.args(["-U", "postgres", "-A", "trust", "--data-checksums", "--wal-segsize=2"]);
        succeed(initdb.arg("-D").arg(&cluster.data));
        let settings = cluster.data.join("postgresql.conf");
        let mut text = fs::read_to_string(&settings).unwrap();
        text.push_str(SETTINGS);
        fs::write(&settings, text).unwrap();
        File::open(&settings).unwrap().sync_all().unwrap();
        assert!(cluster.start(), "{}", cluster.end_of_log());
        succeed(cluster.program("pgbench").args(["-i", "-q", "-s", "1"]));
        let made = cluster.query("CREATE TABLE ledger(lane int, n int, note text); CHECKPOINT");
        assert!(made.is_ok(), "{made:?}");
        Some(cluster)
    }

    fn lanes(&self) -> usize {
        LANES
    }

    fn begin(&mut self) {
        if self.server.is_none() {
            assert!(self.start(), "{}", self.end_of_log());
        }
        let mut pgbench = self.program("pgbench");
        pgbench.args(["-n", "-c", "2", "-T", "600"]);
        self.load = Some(pgbench.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    }

    fn work(&self, lane: usize, mut random: Random, power: &Power) -> io::Result<()> {
        let mut acknowledged = lock(&self.acknowledged[lane]);
        let mut psql = self.program("psql");
        let mut psql = Dialogue::start(psql.args(["-AtXq", "-v", "ON_ERROR_STOP=1"]))?;
        while power.is_on() {
            let n = *acknowledged + 1;
            let checkpoint = if random.below(40) == 0 { "CHECKPOINT;" } else { "" };
            let transaction = format!(
                "{checkpoint}
                 INSERT INTO ledger VALUES ({lane}, {n}, repeat('x', {}));
                 SELECT {n};",
                random.below(2000)
            );
            psql.tell(&transaction, &n.to_string())?;
            if power.is_on() {
                *acknowledged = n;
            }
        }
        Ok(())
    }

    fn end(&mut self) {
        self.stop_at_once();
    }

    fn verify(&mut self, tally: &mut Tally) {
        assert!(self.start(), "no recovery after cut {}{}", tally.cuts, self.end_of_log());
        for lane in 0..LANES {
            let mut acknowledged = lock(&self.acknowledged[lane]);
            tally.acknowledged += *acknowledged;
            let rows =
                format!("SELECT count(*), coalesce(max(n), 0) FROM ledger WHERE lane = {lane}");
            let found = self.query(&rows).unwrap_or_else(|error| {
                tally.wrong(error);
                "0|0".to_owned()
            });
            let (count, last) = found.split_once('|').expect("two columns");
            let (count, last): (u64, u64) = (count.parse().unwrap(), last.parse().unwrap());
            if count != last {
                tally.wrong(format_args!("lane {lane}: {count} rows, the last is {last}"));
            }
            if last < *acknowledged {
                tally.lost(*acknowledged - last, format_args!("lane {lane}"));
            }
            *acknowledged = last;
        }
        let agrees = self.query(AGREEMENT);
        if agrees.as_deref() != Ok("t") {
            tally.wrong(format_args!("pgbench: {agrees:?}"));
        }
    }

    fn finish(&mut self, tally: &mut Tally) {
        let stopped = self
            .program("pg_ctl")
            .args(["stop", "-w", "-m", "fast", "-D"])
            .arg(&self.data)
            .output();
        assert!(stopped.unwrap().status.success(), "{}", self.end_of_log());
        if let Some(mut server) = self.server.take() {
            server.wait().unwrap();
        }
        let checked = self.program("pg_checksums").arg("-c").arg("-D").arg(&self.data).output();
        let checked = checked.unwrap();
        if !checked.status.success() {
            tally.wrong(String::from_utf8_lossy(&checked.stderr));
        }
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.stop_at_once();
    }
}

/// Where the distribution keeps the server's programs: not on the PATH.
fn server_programs() -> Option<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").ok()?.flatten();
    let mut found: Vec<PathBuf> = versions.map(|entry| entry.path().join("bin")).collect();
    found.retain(|bin| bin.join("initdb").is_file() && bin.join("pgbench").is_file());
    found.sort();
    found.pop()
}

const LANES: usize = 2;
/// Small segments and frequent checkpoints, so that log files are recycled between cuts.
const SETTINGS: &str = "
fsync = on
full_page_writes = on
synchronous_commit = on
shared_buffers = 16MB
max_connections = 20
min_wal_size = 4MB
max_wal_size = 8MB
checkpoint_timeout = 30s
";
/// Each transaction of pgbench adds one delta to an account, a teller and a branch.
const AGREEMENT: &str = "SELECT h = (SELECT sum(abalance) FROM pgbench_accounts)
    AND h = (SELECT sum(tbalance) FROM pgbench_tellers)
    AND h = (SELECT sum(bbalance) FROM pgbench_branches)
    FROM (SELECT coalesce(sum(delta), 0) AS h FROM pgbench_history) AS history";
/// Its recovery syncs each file of the cluster, which recovers each file.
const START_LIMIT: Duration = Duration::from_secs(300);
const STOP_LIMIT: Duration = Duration::from_secs(15);
