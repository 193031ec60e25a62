//! The cuts: programs work on a mount, the file system below loses its power at a random moment,
//! the daemon dies, both are mounted again, and what was acknowledged is looked for.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, SystemTime};

use crate::harness::{Mount, Random, Setup, skip, test_name};
use crate::lower::{Kind, Lower};
use crate::tally::Tally;

/// Programs that write, and know what they were told is safe.
pub trait Workload: Sync + Sized {
    /// Makes what the programs work on, durably. `None`, with a printed reason, where the
    /// programs are missing.
    fn prepare(site: &Site) -> Option<Self>;

    /// How many of them work at once.
    fn lanes(&self) -> usize;

    /// Gets ready in a fresh mount; the moment of the cut is counted from its end.
    fn begin(&mut self) {}

    /// Works until a call fails, which is the cut, or the power is gone.
    fn work(&self, lane: usize, random: Random, power: &Power) -> io::Result<()>;

    /// Lets go of the mount, which is dead.
    fn end(&mut self) {}

    /// In a fresh mount after the cut: looks for what was acknowledged, and takes what is there
    /// as the start of the next cut.
    fn verify(&mut self, tally: &mut Tally);

    /// Ends what runs in a mount that lives.
    fn finish(&mut self, _tally: &mut Tally) {}
}

/// Whether there is power still.
#[derive(Default)]
pub struct Power {
    gone: AtomicBool,
}

impl Power {
    /// To be asked after each call that acknowledges something: a disk without power cannot, but
    /// a file system that was shut down may say that there is nothing left to sync.
    pub fn is_on(&self) -> bool {
        !self.gone.load(Ordering::SeqCst)
    }

    fn is_about_to_go(&self) {
        self.gone.store(true, Ordering::SeqCst);
    }
}

/// Where a workload may put its files.
pub struct Site {
    /// On the mount.
    pub directory: PathBuf,
    /// Outside of it, where nothing is lost.
    pub scratch: PathBuf,
}

/// Cuts the power under a workload as often as is asked for; nothing may be lost.
pub fn cut_under<W: Workload>(kind: Kind) {
    let Some(tally) = tally_under::<W>(kind, "durability=power", cuts()) else { return };
    println!("\n{tally}\n{}", tally.notes());
    assert!(tally.is_clean(), "{tally}\n{}", tally.notes());
}

/// The same without the promise: then something is lost, or the cuts prove nothing.
pub fn lose_under<W: Workload>(kind: Kind) {
    let Some(tally) = tally_under::<W>(kind, "durability=process", DEFAULT_CUTS) else { return };
    assert!(!tally.is_clean(), "{tally}");
}

/// What the cuts cost with a mount option; `None`, with a printed reason, where there can be
/// none.
fn tally_under<W: Workload>(kind: Kind, option: &str, cuts: u64) -> Option<Tally> {
    if let Some(reason) = kind.impossible() {
        skip(&reason);
        return None;
    }
    let setup = Setup::new().for_all_users().mount_only("it is about what ssefs promises");
    let mut mount = setup.start()?;
    mount.unmount();
    let lower = match Lower::make(kind, mount.backing().to_path_buf()) {
        Ok(lower) => lower,
        Err(reason) => {
            skip(&reason);
            return None;
        }
    };
    mount.mount_with(&[option]);
    fs::set_permissions(mount.mnt(), fs::Permissions::from_mode(0o777)).unwrap();

    let site = Site { directory: mount.path("work"), scratch: mount.scratch().to_path_buf() };
    fs::create_dir(&site.directory).unwrap();
    let mut workload = W::prepare(&site)?;
    sync_directory(&site.directory).unwrap();
    sync_directory(mount.mnt()).unwrap();
    let mut random = Random::new(seed());
    let mut tally = Tally::new(test_name());
    while tally.cuts < cuts {
        workload.begin();
        let early = cut(&mut mount, &lower, &workload, &mut random);
        workload.end();
        // Only now, as nothing of the workload can write into the bare mount point any more.
        mount.take_away();
        lower.start_again();
        // Without the kernel's cache every write reaches the daemon at once.
        let writeback = if random.below(2) == 0 { "writeback=on" } else { "writeback=off" };
        mount.mount_with(&[writeback, option]);
        tally.cuts += 1;
        early.into_iter().for_each(|error| tally.wrong(format_args!("before the cut: {error}")));
        workload.verify(&mut tally);
        read_everything(mount.mnt(), &mut tally);
    }
    workload.finish(&mut tally);
    drop(workload);
    mount.finish();
    Some(tally)
}

/// Lets the programs work for a while, then takes the power away. Returns how programs failed
/// before that.
fn cut(
    mount: &mut Mount,
    lower: &Lower,
    workload: &impl Workload,
    random: &mut Random,
) -> Vec<io::Error> {
    let power = &Power::default();
    let seed = random.number();
    thread::scope(|scope| {
        let work = |lane| {
            scope.spawn(move || {
                let worked = workload.work(lane, Random::new(seed ^ lane as u64), power);
                worked.err().filter(|_| power.is_on())
            })
        };
        let lanes: Vec<_> = (0..workload.lanes()).map(work).collect();
        scope.spawn(move || {
            let mut random = Random::new(!seed);
            while power.is_on() {
                lower.stir(&mut random);
                pause(&mut random);
            }
        });
        thread::sleep(Duration::from_millis(20 + random.below(400)));
        power.is_about_to_go();
        if random.below(2) == 0 {
            // The daemon outlives its disk.
            lower.lose_power();
            thread::sleep(Duration::from_millis(random.below(3)));
            mount.kill_and_leave();
        } else {
            mount.kill_and_leave();
            lower.lose_power();
        }
        lanes.into_iter().filter_map(|lane| lane.join().expect("lanes do not panic")).collect()
    })
}

/// Nothing in the mount answers an error.
fn read_everything(directory: &Path, tally: &mut Tally) {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) => return tally.unreadable(directory, &error),
    };
    for entry in entries {
        let entry = match entry {
            Ok(entry) => entry,
            Err(error) => return tally.unreadable(directory, &error),
        };
        let path = entry.path();
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => read_everything(&path, tally),
            Ok(kind) if kind.is_file() => drop(tally.read(&path)),
            Ok(_) => {}
            Err(error) => tally.unreadable(&path, &error),
        }
    }
}

/// Lets some time pass, so that others come in between.
pub fn pause(random: &mut Random) {
    thread::sleep(Duration::from_micros(random.below(2000)));
}

/// Makes the names in a directory durable.
pub fn sync_directory(path: &Path) -> io::Result<()> {
    fs::File::open(path)?.sync_all()
}

/// How many cuts for each workload and file system.
fn cuts() -> u64 {
    let given = std::env::var("SSEFS_POWER_CUTS").ok();
    given.map_or(DEFAULT_CUTS, |cuts| cuts.parse().expect("SSEFS_POWER_CUTS is a number"))
}

/// Another one each time: the moments cannot be repeated anyway.
fn seed() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_nanos() as u64)
}

const DEFAULT_CUTS: u64 = 5;
