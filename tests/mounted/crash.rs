//! The daemon is killed while programs write: what was closed or synced reads right, the rest
//! reads as some moment of its past, and nothing answers EIO.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::harness::sys::close;
use crate::harness::{Mount, Random, Setup, assert_same, pattern};

crate::matrix! { Setup::new().mount_only("a plain directory has no daemon to kill") =>
    closed_files_survive,
    synced_files_survive,
    overwrites_are_old_or_new,
    appends_are_a_prefix,
    truncations_are_all_or_nothing,
    renames_are_all_or_nothing,
    many_crashes_of_one_volume,
    a_tail_that_is_cut_off_does_not_read_as_zeros,
}

/// Runs `work` on threads until the daemon has died under them, then mounts again.
fn crash_under(m: &mut Mount, after: Duration, work: impl Fn(usize, &AtomicBool) + Sync) {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for worker in 0..2 {
            let (work, stop) = (&work, &stop);
            scope.spawn(move || work(worker, stop));
        }
        std::thread::sleep(after);
        m.kill_and_leave();
        stop.store(true, Ordering::Release);
    });
    // Only now: a worker must not find the bare mount point and write there.
    m.take_away();
    m.mount();
}

/// The moments of death to try, in milliseconds.
const MOMENTS: &[u64] = &[5, 30, 90, 170];

fn closed_files_survive(m: &mut Mount) {
    for &moment in MOMENTS {
        let closed = Mutex::new(Vec::new());
        let root = m.mnt().to_path_buf();
        crash_under(m, Duration::from_millis(moment), |worker, stop| {
            for index in 0u64.. {
                let path = root.join(format!("{moment}-{worker}-{index}"));
                let (seed, len) = (index + worker as u64 * 1000, (index * 3313 % 70_000) as usize);
                // A failing write or close is the crash itself.
                let Ok(mut file) = File::create(&path) else { return };
                if file.write_all(&pattern(seed, len)).is_err() || close(file).is_err() {
                    return;
                }
                // A close tells nothing once the daemon is gone: the kernel drops what it holds.
                if rustix::fs::statfs(&root).is_err() {
                    return;
                }
                closed.lock().unwrap().push((path, seed, len));
                if stop.load(Ordering::Acquire) {
                    return;
                }
            }
        });
        let closed = closed.into_inner().unwrap();
        for (path, seed, len) in &closed {
            let what = format!("{}, killed after {moment} ms", path.display());
            assert_same(&fs::read(path).unwrap(), &pattern(*seed, *len), &what);
        }
        every_file_opens(m);
    }
}

fn synced_files_survive(m: &mut Mount) {
    for &moment in MOMENTS {
        let synced = Mutex::new(Vec::new());
        let root = m.mnt().to_path_buf();
        crash_under(m, Duration::from_millis(moment), |worker, stop| {
            let path = root.join(format!("{moment}-{worker}"));
            let Ok(file) = File::create(&path) else { return };
            for index in 0u64.. {
                let data = pattern(index, 5000);
                if file.write_all_at(&data, index * 5000).is_err() || file.sync_data().is_err() {
                    return;
                }
                synced.lock().unwrap().push((path.clone(), index));
                if stop.load(Ordering::Acquire) {
                    return;
                }
            }
        });
        for (path, index) in synced.into_inner().unwrap() {
            let mut back = vec![0; 5000];
            File::open(&path).unwrap().read_exact_at(&mut back, index * 5000).unwrap();
            assert_same(&back, &pattern(index, 5000), &format!("{} {index}", path.display()));
        }
        every_file_opens(m);
    }
}

fn overwrites_are_old_or_new(m: &mut Mount) {
    const BLOCKS: usize = 100;
    let generation = |number: u8| -> Vec<u8> {
        (0..BLOCKS).flat_map(|block| [number ^ block as u8; 4096]).collect()
    };
    fs::write(m.path("f"), generation(1)).unwrap();
    m.remount();
    for (round, &moment) in MOMENTS.iter().enumerate() {
        let before = fs::read(m.path("f")).unwrap();
        let new = round as u8 + 10;
        let root = m.mnt().to_path_buf();
        crash_under(m, Duration::from_millis(moment), |worker, stop| {
            let Ok(file) = OpenOptions::new().write(true).open(root.join("f")) else { return };
            let mut random = Random::new(worker as u64 + moment);
            while !stop.load(Ordering::Acquire) {
                let block = random.below(BLOCKS as u64);
                let data = [new ^ block as u8; 4096];
                if file.write_all_at(&data, block * 4096).is_err() {
                    return;
                }
                if random.below(20) == 0 && file.sync_data().is_err() {
                    return;
                }
            }
        });
        let after = fs::read(m.path("f")).unwrap_or_else(|e| panic!("round {round}: {e}"));
        assert_eq!(after.len(), BLOCKS * 4096);
        for block in 0..BLOCKS {
            let range = block * 4096..(block + 1) * 4096;
            let block_after = &after[range.clone()];
            let is_new = block_after == [new ^ block as u8; 4096];
            assert!(is_new || block_after == &before[range], "block {block} is torn");
        }
    }
}

fn appends_are_a_prefix(m: &mut Mount) {
    for &moment in MOMENTS {
        let root = m.mnt().to_path_buf();
        let whole = pattern(moment, 4 << 20);
        crash_under(m, Duration::from_millis(moment), |worker, stop| {
            let path = root.join(format!("{moment}-{worker}"));
            let Ok(mut file) = OpenOptions::new().append(true).create(true).open(path) else {
                return;
            };
            for chunk in whole.chunks(1777) {
                if file.write_all(chunk).is_err() || stop.load(Ordering::Acquire) {
                    return;
                }
            }
        });
        for worker in 0..2 {
            let Ok(back) = fs::read(m.path(format!("{moment}-{worker}"))) else { continue };
            let mut expected = whole[..back.len()].to_vec();
            if m.has_option("writeback=on") {
                // The kernel sends several pieces at once: one may be there before another that
                // lies in front of it.
                for (block, back) in expected.chunks_mut(4096).zip(back.chunks(4096)) {
                    if back.iter().all(|byte| *byte == 0) {
                        block.fill(0);
                    }
                }
            }
            assert_same(&back, &expected, &format!("appended, {moment} ms"));
        }
        every_file_opens(m);
    }
}

fn truncations_are_all_or_nothing(m: &mut Mount) {
    let data = pattern(1, 100_000);
    for &moment in MOMENTS {
        let root = m.mnt().to_path_buf();
        crash_under(m, Duration::from_millis(moment), |worker, stop| {
            let path = root.join(format!("{moment}-{worker}"));
            if fs::write(&path, &data).is_err() {
                return;
            }
            let Ok(file) = OpenOptions::new().write(true).open(&path) else { return };
            let mut random = Random::new(moment + worker as u64);
            while !stop.load(Ordering::Acquire) {
                let cut = random.below(100_000);
                let rewritten = file.set_len(cut).and_then(|()| {
                    file.write_all_at(&data[cut as usize..], cut)?;
                    file.sync_data()
                });
                if rewritten.is_err() {
                    return;
                }
            }
        });
        for worker in 0..2 {
            let Ok(back) = fs::read(m.path(format!("{moment}-{worker}"))) else { continue };
            // Cut and rewritten with the same bytes: any prefix is right. Cached writes of
            // later blocks may be missing as zeros, never as something else.
            for (at, (byte, expected)) in back.iter().zip(&data).enumerate() {
                assert!(byte == expected || *byte == 0, "byte {at} is {byte}, not {expected}");
            }
        }
        every_file_opens(m);
    }
}

fn renames_are_all_or_nothing(m: &mut Mount) {
    let versions = [0, 1].map(|seed| pattern(seed, 30_000));
    for &moment in MOMENTS {
        // Anew: whether a file opens is tried by appending to it, and no rename may come in time.
        fs::write(m.path("f"), &versions[0]).unwrap();
        let root = m.mnt().to_path_buf();
        crash_under(m, Duration::from_millis(moment), |worker, stop| {
            while !stop.load(Ordering::Acquire) {
                let temporary = root.join(format!("f.{worker}"));
                let Ok(mut file) = File::create(&temporary) else { return };
                if file.write_all(&versions[worker]).is_err() || file.sync_all().is_err() {
                    return;
                }
                drop(file);
                if fs::rename(&temporary, root.join("f")).is_err() {
                    return;
                }
            }
        });
        let back = fs::read(m.path("f")).unwrap();
        let places = versions.each_ref().map(|version| {
            version.iter().zip(&back).position(|(a, b)| a != b).unwrap_or(back.len())
        });
        assert!(
            versions.contains(&back),
            "f has {} bytes and differs from the versions at {places:?}, killed after {moment} ms",
            back.len()
        );
        every_file_opens(m);
    }
}

fn many_crashes_of_one_volume(m: &mut Mount) {
    for round in 0..8u64 {
        let data = pattern(round, 50_000);
        let file = File::create(m.path(format!("f{round}"))).unwrap();
        file.write_all_at(&data, 0).unwrap();
        file.sync_all().unwrap();
        m.kill_daemon();
        m.mount();
        drop(file);
        for earlier in 0..=round {
            let back = fs::read(m.path(format!("f{earlier}"))).unwrap();
            assert_same(&back, &pattern(earlier, 50_000), &format!("f{earlier} in {round}"));
        }
    }
}

/// The kernel was told the size before the file was opened and recovered.
fn a_tail_that_is_cut_off_does_not_read_as_zeros(m: &mut Mount) {
    let data = pattern(1, 5000);
    for name in ["read", "written"] {
        let file = File::create(m.path(name)).unwrap();
        file.write_all_at(&data, 0).unwrap();
        file.sync_all().unwrap();
        drop(file);
    }
    let writeback = m.has_option("writeback=on");
    m.kill_daemon();
    // As a power cut leaves it that has taken the data of an append, and not the new size.
    for name in ["read", "written"] {
        let backing = OpenOptions::new().write(true).open(m.backing().join(name)).unwrap();
        backing.set_len(backing.metadata().unwrap().len() + 12_000).unwrap();
    }
    // Where nothing may be written the tail stays, unseen.
    m.mount_with(&["ro"]);
    assert!(fs::metadata(m.path("read")).unwrap().len() > 5000);
    for _ in 0..2 {
        assert_same(&fs::read(m.path("read")).unwrap(), &data, "read-only");
    }
    m.remount_with(&[if writeback { "writeback=on" } else { "writeback=off" }]);
    let sizes = ["read", "written"].map(|name| fs::metadata(m.path(name)).unwrap().len());
    assert!(sizes.iter().all(|size| *size > 5000), "nothing was opened yet: {sizes:?}");
    fs::hard_link(m.path("read"), m.path("link")).unwrap();
    assert_same(&fs::read(m.path("read")).unwrap(), &data, "recovered by a reader");
    assert_same(&fs::read(m.path("link")).unwrap(), &data, "by another name");
    assert_eq!(fs::metadata(m.path("read")).unwrap().len(), 5000);
    let mut file = OpenOptions::new().append(true).open(m.path("written")).unwrap();
    file.write_all(b"more").unwrap();
    close(file).unwrap();
    let back = fs::read(m.path("written")).unwrap();
    assert_same(&back, &[&data[..], b"more"].concat(), "recovered by a writer");
}

/// Nothing in the volume answers EIO, to reading or to writing.
fn every_file_opens(m: &Mount) {
    for entry in fs::read_dir(m.mnt()).unwrap().map(Result::unwrap) {
        let path = entry.path();
        fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let mut file = OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(b"after the crash").unwrap();
        close(file).unwrap();
        let back = fs::read(&path).unwrap();
        assert!(back.ends_with(b"after the crash"), "{}", path.display());
    }
}
