//! Much of everything, and little of it: open files, entries of one directory, threads on one
//! file, descriptors, memory; and a panic where no bug is known. Slow, or a clean errno; never
//! corruption, and the daemon lives.
//!
//! `SSEFS_TEST_SCALE` multiplies the numbers; with 100 they are those that `tests/README.md` gives.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit, setrlimit};

use crate::harness::{
    Mount, Random, Setup, assert_errno, assert_same, counters, is_root, kernel_settings,
    needs_root, pattern, skip, wait_for,
};

fn scale() -> u64 {
    std::env::var("SSEFS_TEST_SCALE").map_or(1, |text| text.parse().unwrap())
}

fn mounted() -> Option<Mount> {
    Setup::new().mount_only("a plain directory has no daemon").start()
}

/// 200 open files, times the scale; or as many as the limit of descriptors lets this process, or
/// the daemon, have.
#[test]
fn many_open_files() {
    let wanted = 200 * scale();
    let limit = raised_limit(wanted + 100);
    let Some(m) = mounted() else { return };
    let mut open = Vec::new();
    for number in 0..wanted {
        let created = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(m.path(format!("f{number}")));
        match created {
            Ok(file) => {
                file.write_all_at(&pattern(number, 5000), 0).unwrap();
                open.push(file);
            }
            Err(error) => {
                let errno = Errno::from_io_error(&error);
                assert!(matches!(errno, Some(Errno::MFILE | Errno::NFILE)), "{error}");
                skip(&format!("{} files were open when the limit was met", open.len()));
                break;
            }
        }
    }
    assert!(open.len() as u64 >= wanted.min(limit / 4));
    for (number, file) in open.iter().enumerate() {
        let mut back = vec![0; 5000];
        file.read_exact_at(&mut back, 0).unwrap();
        assert_same(&back, &pattern(number as u64, 5000), &format!("file {number}"));
    }
    drop(open);
    fs::write(m.path("one more"), b"after them").unwrap();
    m.finish();
}

/// Lets this process, and a daemon that it starts from now on, have so many descriptors if it may;
/// how many it may have.
fn raised_limit(wanted: u64) -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let most = limit.maximum.unwrap_or(u64::MAX);
    let raised = most.max(wanted);
    // Beyond its maximum only root may go.
    for limit in [raised, most] {
        let both = Rlimit { current: Some(limit), maximum: Some(limit) };
        if setrlimit(Resource::Nofile, both).is_ok() {
            return limit;
        }
    }
    limit.current.unwrap_or(u64::MAX)
}

/// A daemon that may open no more answers so, goes on with what is open, and recovers.
#[test]
fn a_daemon_out_of_descriptors() {
    let Some(mut m) = mounted() else { return };
    if !needs_root() {
        return;
    }
    for number in 0..200 {
        fs::write(m.path(format!("f{number}")), pattern(number, 5000)).unwrap();
    }
    m.remount();
    let daemon = Pid::from_raw(m.daemon_pid().unwrap().cast_signed()).unwrap();
    let few = Rlimit { current: Some(100), maximum: Some(100) };
    prlimit(Some(daemon), Resource::Nofile, few).unwrap();
    let mut open = Vec::new();
    let refused = (0..200).find_map(|number| match File::open(m.path(format!("f{number}"))) {
        Ok(file) => {
            open.push(file);
            None
        }
        Err(error) => Some(error),
    });
    let errno = Errno::from_io_error(&refused.expect("200 files need more than 100 descriptors"));
    assert!(matches!(errno, Some(Errno::MFILE | Errno::NFILE)), "{errno:?}");
    for (number, file) in open.iter().enumerate() {
        let mut back = vec![0; 5000];
        file.read_exact_at(&mut back, 0).unwrap();
        assert_same(&back, &pattern(number as u64, 5000), &format!("file {number}"));
    }
    drop(open);
    // Closing reaches the daemon a moment later.
    let again = || fs::read(m.path("f150")).is_ok();
    assert!(wait_for(Duration::from_secs(5), again), "it does not recover");
    assert_same(&fs::read(m.path("f199")).unwrap(), &pattern(199, 5000), "after them");
    m.finish();
}

/// 1,000 entries in a directory, times the scale.
#[test]
fn a_large_directory() {
    let Some(mut m) = mounted() else { return };
    let count = 1000 * scale();
    fs::create_dir(m.path("d")).unwrap();
    for number in 0..count {
        File::create(m.path(format!("d/{number}"))).unwrap();
    }
    let listed = |m: &Mount| {
        let entries = fs::read_dir(m.path("d")).unwrap();
        let mut numbers: Vec<u64> = entries
            .map(|entry| entry.unwrap().file_name().to_str().unwrap().parse().unwrap())
            .collect();
        numbers.sort_unstable();
        numbers
    };
    assert!(listed(&m).into_iter().eq(0..count));
    m.remount();
    assert!(listed(&m).into_iter().eq(0..count));
    for number in (0..count).step_by(2) {
        fs::remove_file(m.path(format!("d/{number}"))).unwrap();
    }
    assert!(listed(&m).into_iter().eq((0..count).filter(|number| number % 2 == 1)));
    m.finish();
}

/// 64 threads write and read records of their own, of 1,000 bytes, in turn in the same blocks.
#[test]
fn many_threads_on_one_file() {
    const THREADS: u64 = 64;
    const RECORD: u64 = 1000;
    const RECORDS: u64 = 40;
    let Some(mut m) = mounted() else { return };
    let rounds = 20 * scale();
    let path = m.path("f");
    let seed = |thread: u64, record: u64, round: u64| (thread << 40) + (record << 20) + round;
    let place = |thread: u64, record: u64| (record * THREADS + thread) * RECORD;
    File::create(&path).unwrap().set_len(THREADS * RECORDS * RECORD).unwrap();
    let worked = |thread: u64| {
        let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        let mut rounds_of = [0; RECORDS as usize];
        let mut random = Random::new(thread);
        for round in 1..=rounds {
            let record = random.below(RECORDS);
            let data = pattern(seed(thread, record, round), RECORD as usize);
            file.write_all_at(&data, place(thread, record)).unwrap();
            rounds_of[record as usize] = round;
            let read = random.below(RECORDS);
            let mut back = vec![0; RECORD as usize];
            file.read_exact_at(&mut back, place(thread, read)).unwrap();
            let expected = match rounds_of[read as usize] {
                0 => vec![0; RECORD as usize],
                round => pattern(seed(thread, read, round), RECORD as usize),
            };
            assert_same(&back, &expected, &format!("record {read} of thread {thread}"));
            if random.below(20) == 0 {
                file.sync_data().unwrap();
            }
        }
        rounds_of
    };
    let last: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> =
            (0..THREADS).map(|thread| scope.spawn(move || worked(thread))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    m.remount();
    let content = fs::read(&path).unwrap();
    for (thread, rounds_of) in (0..).zip(&last) {
        for (record, round) in (0..).zip(rounds_of) {
            let at = place(thread, record) as usize;
            let expected = match round {
                0 => vec![0; RECORD as usize],
                round => pattern(seed(thread, record, *round), RECORD as usize),
            };
            assert_same(&content[at..at + RECORD as usize], &expected, "after a remount");
        }
    }
    m.finish();
}

/// A memory cgroup for one process, taken away at the end.
struct Cgroup(PathBuf);

impl Cgroup {
    fn with_limit(bytes: u64, name: &str) -> Option<Self> {
        let places =
            [("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")];
        for (root, limit) in places {
            let dir = Path::new(root).join(format!("ssefs-{name}-{}", std::process::id()));
            if Path::new(root).join("cgroup.procs").exists() && fs::create_dir(&dir).is_ok() {
                let group = Self(dir);
                if fs::write(group.0.join(limit), bytes.to_string()).is_ok() {
                    return Some(group);
                }
            }
        }
        skip("no memory cgroup can be made here");
        None
    }

    fn take_in(&self, pid: u32) {
        fs::write(self.0.join("cgroup.procs"), pid.to_string()).unwrap();
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        wait_for(Duration::from_secs(5), || fs::remove_dir(&self.0).is_ok());
    }
}

/// The daemon, with the page cache that it causes, has 64 MiB: files larger than that are
/// written, overwritten after a sync, so that blocks are gathered, and read by 16 threads.
#[test]
fn a_daemon_with_64_mib_of_memory() {
    let Some(mut m) = mounted() else { return };
    let Some(group) = Cgroup::with_limit(64 << 20, "memory") else { return };
    group.take_in(m.daemon_pid().unwrap());
    let len = (12 << 20) + 4321;
    let of = |thread: u64, generation: u64| pattern(thread * 100 + generation, len);
    std::thread::scope(|scope| {
        for thread in 0..16 {
            let (path, of) = (m.path(format!("f{thread}")), &of);
            scope.spawn(move || {
                fs::write(&path, of(thread, 0)).unwrap();
                let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
                file.sync_all().unwrap();
                file.write_all_at(&of(thread, 1), 0).unwrap();
                assert_same(&fs::read(&path).unwrap(), &of(thread, 1), "not synced");
            });
        }
    });
    let peak = fs::read_to_string(format!("/proc/{}/status", m.daemon_pid().unwrap())).unwrap();
    println!("{}", peak.lines().find(|line| line.starts_with("VmHWM")).unwrap());
    m.remount();
    for thread in 0..16 {
        assert_same(&fs::read(m.path(format!("f{thread}"))).unwrap(), &of(thread, 1), "remounted");
    }
    m.finish();
}

/// Pages that programs have written and the daemon has not got yet are few, unless files are
/// written over, when gathering them is worth it.
#[test]
fn dirty_pages_are_few_but_for_overwrites() {
    let Some(m) = mounted() else { return };
    let settings = kernel_settings(m.mnt());
    let read = |name: &str| fs::read_to_string(settings.join(name)).unwrap_or_default();
    let bytes = |name: &str| read(name).trim().parse::<u64>().unwrap_or_default();
    let most = settings.join("max_bytes");
    if !is_root() || fs::write(&most, bytes("max_bytes").to_string()).is_err() {
        return skip("limits of dirty pages cannot be set here (Linux before 6.2, a container)");
    }
    let is_limited = || read("strict_limit").trim() == "1";
    let is_little = || (16 << 20..96 << 20).contains(&bytes("max_bytes"));
    assert!(wait_for(Duration::from_secs(60), || is_limited() && is_little()));
    // What makes a file longer leaves it alone.
    let file = File::create_new(m.path("f")).unwrap();
    for place in 0..64 {
        file.write_all_at(&vec![7; 1 << 20], place << 20).unwrap();
    }
    file.sync_all().unwrap();
    std::thread::sleep(Duration::from_millis(200));
    assert!(is_limited(), "a growing file lifted the limit");
    let overwrite = || {
        for place in 0..1000_u64 {
            file.write_all_at(&[1; 4096], place * 7919 % 8192 * 4096).unwrap();
        }
        file.sync_all().unwrap();
    };
    let lifted = wait_for(Duration::from_secs(60), || {
        overwrite();
        !is_limited()
    });
    assert!(lifted, "overwrites are not gathered");
    assert!(wait_for(Duration::from_secs(120), is_limited), "the limit stays off");
    drop(file);
    m.finish();
}

/// A database that writes over its blocks and asks for `fdatasync` waits for the disk once each
/// time, not for nonces and blocks in turn.
#[test]
fn a_data_sync_takes_one_flush() {
    let Some(m) = mounted() else { return };
    let file = File::create_new(m.path("f")).unwrap();
    file.write_all_at(&pattern(1, 1 << 20), 0).unwrap();
    file.sync_all().unwrap();
    let flushes = || counters(m.mnt())["backing_flushes"].as_u64().unwrap();
    let synced = |sync: &dyn Fn()| {
        let before = flushes();
        for place in 0..100_u64 {
            file.write_all_at(&pattern(place, 5000), place * 7919 % 100 * 8192).unwrap();
            sync();
        }
        flushes() - before
    };
    let (data, all) = (synced(&|| file.sync_data().unwrap()), synced(&|| file.sync_all().unwrap()));
    println!("100 data syncs took {data} flushes, 100 full ones {all}");
    // A commit of what has waited for 5 seconds may come in between.
    assert!((100..110).contains(&data), "{data} flushes");
    assert!((200..220).contains(&all), "{all} flushes");
    drop(file);
    m.finish();
}

/// A second mount is refused and names who holds the volume.
#[test]
fn a_volume_in_use_names_its_holder() {
    let Some(m) = mounted() else { return };
    let other = m.scratch().join("other");
    fs::create_dir(&other).unwrap();
    let mut second = m.command();
    second.arg("mount").arg("--keystore").arg(m.keystore()).arg(m.backing()).arg(&other);
    let output = second.output().unwrap();
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "mounted twice");
    let holder = format!("process {}", m.daemon_pid().unwrap());
    assert!(message.contains(&holder), "{message}");
    assert!(message.contains(m.mnt().to_str().unwrap()), "{message}");
    m.finish();
}

/// A thread panics while it holds a file's lock, in each of these steps: the caller gets `EIO`,
/// the log tells, the file can be used again, and everything else goes on.
#[test]
fn a_panic_in_a_handler() {
    for point in ["volume.write.after_entries", "volume.resize.after_announce"] {
        let armed = format!("panic:{point}:1");
        let setup = Setup::new().option("writeback=off").env("SSEFS_FAIL_POINT", &armed);
        let Some(mut m) = setup.mount_only("a plain directory has no daemon").start() else {
            return;
        };
        let old = pattern(1, 40 * 4096 + 100);
        let provoked = fs::write(m.path("f"), &old).and_then(|()| {
            let file = OpenOptions::new().write(true).open(m.path("f"))?;
            // Behind what is there, where the entries are written by themselves.
            file.write_all_at(&pattern(2, 9000), 45 * 4096)?;
            file.sync_all()?;
            file.set_len(30 * 4096 + 5)
        });
        if provoked.is_ok() && std::env::var_os("SSEFS_TEST_BIN").is_some() {
            return skip("the program has no fail points: it was not built for debugging");
        }
        assert_errno(provoked, Errno::IO);
        assert!(m.log().contains("at the fail point"), "not logged:\n{}", m.log());
        // Of its old length or a new one; what was written before is there.
        let now = fs::read(m.path("f")).unwrap();
        let kept = now.len().min(old.len());
        assert!(kept >= 30 * 4096, "{} bytes", now.len());
        assert_same(&now[..kept], &old[..kept], point);
        fs::write(m.path("f"), pattern(3, 50_000)).unwrap();
        fs::write(m.path("g"), pattern(4, 50_000)).unwrap();
        m.forgive_panics();
        m.remount();
        assert_same(&fs::read(m.path("f")).unwrap(), &pattern(3, 50_000), "f after a remount");
        assert_same(&fs::read(m.path("g")).unwrap(), &pattern(4, 50_000), "g after a remount");
        m.finish();
    }
}
