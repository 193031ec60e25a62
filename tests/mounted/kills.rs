//! `kill -9` of the daemon, at random moments and at every fail point, while fio, tar, SQLite and
//! changes of size, holes and names go on: what was acknowledged of closed or synced files is
//! right after the next mount, and nothing answers EIO.
//!
//! `SSEFS_KILL_ROUNDS` is the number of kills at random moments, and at each fail point.

mod lanes;

use std::fs;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use ssefs::sys::fail_point::NAMES;

use crate::harness::{Mount, Random, Setup, has_fail_points, skip};
use lanes::{Changes, Database, Fio, Saves, Untar};

/// A program that writes into its own directory, and knows what must outlive the daemon.
trait Lane: Send {
    /// Works until a call fails, which is the kill, or `over` says so.
    fn work(&mut self, random: Random, over: &AtomicBool) -> io::Result<()>;

    /// Looks for it in a fresh mount.
    fn verify(&mut self);
}

#[test]
fn at_random() {
    let Some(mut bench) = Bench::start() else { return };
    for round in 0..rounds(12) {
        bench.mount(None);
        let after = Duration::from_millis(20 + bench.random.below(700));
        bench.kill_under_work(after);
        bench.verify(&format!("round {round}, killed after {after:?}"));
    }
    bench.finish();
}

/// But for those that only another command passes, which `rewrap::kills` has, and those of a
/// ring and of the start, which `transport` has.
#[test]
fn at_every_fail_point() {
    if !has_fail_points() {
        return skip("only a debug build has fail points");
    }
    let Some(mut bench) = Bench::start() else { return };
    let elsewhere = |name: &str| {
        ["volume.rewrap.", "fuse.ring.", "fs.statistics", "audit.burst."]
            .iter()
            .any(|at| name.starts_with(at))
    };
    for name in NAMES.iter().filter(|name| !elsewhere(name)) {
        let mut struck = 0;
        for round in 0..rounds(2) {
            // The first hit first, then some later one.
            let count = if round == 0 { 1 } else { 1 + bench.random.below(60) };
            let armed = format!("{name}:{count}");
            bench.mount(Some(&armed));
            let mut died = bench.kill_under_work(WORK_LIMIT);
            if name.starts_with("volume.recover.") {
                bench.mount(Some(&armed));
                died |= bench.kill_under_reads();
            }
            struck += u64::from(died);
            bench.verify(&armed);
        }
        assert!(struck > 0, "the daemon never came by {name}");
    }
    bench.finish();
}

/// A mount and the programs that work in it.
struct Bench {
    mount: Mount,
    lanes: Vec<Box<dyn Lane>>,
    random: Random,
}

impl Bench {
    fn start() -> Option<Self> {
        let mut mount = Setup::new().mount_only("no daemon to kill").start()?;
        let made: Vec<Option<Box<dyn Lane>>> = vec![
            Fio::prepare(mount.mnt(), mount.scratch()),
            Untar::prepare(mount.mnt(), mount.scratch()),
            Database::prepare(mount.mnt(), "wal"),
            Database::prepare(mount.mnt(), "delete"),
            Changes::prepare(mount.mnt(), true),
            Changes::prepare(mount.mnt(), false),
            Saves::prepare(mount.mnt()),
        ];
        mount.unmount();
        let seed = Instant::now().elapsed().as_nanos() as u64 ^ u64::from(std::process::id());
        Some(Self { mount, lanes: made.into_iter().flatten().collect(), random: Random::new(seed) })
    }

    fn mount(&mut self, fail_point: Option<&str>) {
        let writeback = if self.random.below(2) == 0 { "writeback=on" } else { "writeback=off" };
        self.mount.arm(fail_point);
        self.mount.mount_with(&[writeback]);
    }

    /// Lets the programs work until the daemon dies, and sees to it that it has died in the
    /// end. Whether it died by itself.
    fn kill_under_work(&mut self, limit: Duration) -> bool {
        let over = AtomicBool::new(false);
        let seed = self.random.number();
        let (mount, lanes, over) = (&mut self.mount, &mut self.lanes, &over);
        let died = thread::scope(|scope| {
            for (at, lane) in lanes.iter_mut().enumerate() {
                scope.spawn(move || {
                    // A call that fails is the kill itself; verifying tells what came of it.
                    let _ = lane.work(Random::new(seed ^ at as u64), over);
                });
            }
            let died = mount.wait_for_death(limit);
            mount.kill_and_leave();
            over.store(true, Ordering::SeqCst);
            died
        });
        // Only now: no program may find the bare mount point and write there.
        self.mount.take_away();
        died
    }

    /// The same while everything is opened and read.
    fn kill_under_reads(&mut self) -> bool {
        let _ = read_everything(self.mount.mnt());
        let died = self.mount.wait_for_death(Duration::from_millis(100));
        self.mount.kill_daemon();
        died
    }

    /// Mounts again and looks for what was acknowledged.
    fn verify(&mut self, when: &str) {
        self.mount(None);
        println!("{when}");
        read_everything(self.mount.mnt()).unwrap_or_else(|error| panic!("{when}: {error}"));
        self.lanes.iter_mut().for_each(|lane| lane.verify());
        self.mount.unmount();
    }

    fn finish(self) {
        self.mount.finish();
    }
}

/// Reads every file; the error says which one did not read.
fn read_everything(directory: &Path) -> io::Result<()> {
    let named = |path: &Path, error: io::Error| {
        io::Error::new(error.kind(), format!("{}: {error}", path.display()))
    };
    for entry in fs::read_dir(directory).map_err(|error| named(directory, error))? {
        let entry = entry.map_err(|error| named(directory, error))?;
        let path = entry.path();
        let kind = entry.file_type().map_err(|error| named(&path, error))?;
        if kind.is_dir() {
            read_everything(&path)?;
        } else if kind.is_file() {
            fs::read(&path).map_err(|error| named(&path, error))?;
        }
    }
    Ok(())
}

fn rounds(default: u64) -> u64 {
    let given = std::env::var("SSEFS_KILL_ROUNDS").ok();
    given.map_or(default, |rounds| rounds.parse().expect("SSEFS_KILL_ROUNDS is a number"))
}

/// How long programs may work before a fail point that they do not pass is given up.
const WORK_LIMIT: Duration = Duration::from_secs(4);
