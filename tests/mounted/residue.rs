//! What a daemon keeps in memory, seen from outside: keys of open and cached files are there,
//! those of evicted files and of the user are not. Nor does anything else show them.
//!
//! The keys searched for are unwrapped here, by the library, from what lies on the disk.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;
use std::time::Duration;

use ssefs::crypto::{Secret, derive};
use ssefs::format::{DATA_KEY_LABEL, Header, STATE_MAC_LABEL};
use ssefs::keys::{Access, Binding, KeyProvider, SuppliedProvider};

use crate::harness::{Bench, NOBODY, Setup, User, counters, needs_root, pattern, wait_for};

const KEY: [u8; 32] = *b"\x81supplied key\x82 of \x83 this volume\x84";
/// The start of a key is searched for: its expanded form begins with it, too.
const NEEDLE_LEN: usize = 16;

/// The keys of one file.
struct Keys {
    named: [(&'static str, Vec<u8>); 3],
}

impl Keys {
    /// From the header of a backing file, which must not be open for writing.
    fn of(bench: &Bench, name: &str) -> Self {
        let mut page = [0; 4096];
        File::open(bench.backing().join(name)).unwrap().read_exact_at(&mut page, 0).unwrap();
        let header = Header::parse(&page).unwrap();
        let (_, envelope) = header.slots_by_claim(&page).next().expect("an envelope");
        let (volume, file) = (header.prologue.volume_id, header.prologue.file_id);
        let provider = SuppliedProvider::new(Secret::copy_from(&KEY), volume);
        let access = Access::own(&PathBuf::new);
        let dek = provider.unwrap(envelope, Binding { volume, file }, &access).unwrap();
        let derived = |label| derive(&dek, label).expose().to_vec();
        Self {
            named: [
                ("DEK", dek.expose().to_vec()),
                ("data key", derived(DATA_KEY_LABEL)),
                ("key of the state MAC", derived(STATE_MAC_LABEL)),
            ],
        }
    }

    /// Which of them the process holds.
    fn held_by(&self, pid: u32) -> Vec<&'static str> {
        let needles = self.named.each_ref().map(|(_, key)| &key[..]);
        let found = search(pid, &needles);
        let names = self.named.iter().zip(found);
        names.filter(|(_, count)| *count > 0).map(|((name, _), _)| *name).collect()
    }
}

/// How often the start or the end of each key is in the writable memory of a process.
fn search(pid: u32, keys: &[&[u8]]) -> Vec<usize> {
    const CHUNK: usize = 1 << 20;
    let memory = File::open(format!("/proc/{pid}/mem")).unwrap();
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let mut found = vec![0; keys.len()];
    let mut buffer = vec![0; CHUNK + NEEDLE_LEN - 1];
    let mut searched = 0;
    for line in maps.lines() {
        let mut fields = line.split_ascii_whitespace();
        let (from, to) = fields.next().unwrap().split_once('-').unwrap();
        let [from, to] = [from, to].map(|text| u64::from_str_radix(text, 16).unwrap());
        if !fields.next().unwrap().starts_with("rw") {
            continue;
        }
        for at in (from..to).step_by(CHUNK) {
            let len = buffer.len().min((to - at) as usize);
            // It may have been unmapped meanwhile.
            let Ok(read) = memory.read_at(&mut buffer[..len], at) else { continue };
            searched += read;
            for (key, found) in keys.iter().zip(&mut found) {
                *found += occurrences(&buffer[..read], &key[..NEEDLE_LEN]);
                *found += occurrences(&buffer[..read], &key[key.len() - NEEDLE_LEN..]);
            }
        }
    }
    assert!(searched > 1 << 20, "only {searched} bytes of process {pid} could be searched");
    found
}

/// Searches by the first byte, which the standard library does fast also in test builds.
fn occurrences(memory: &[u8], needle: &[u8]) -> usize {
    let mut rest = memory;
    let mut count = 0;
    loop {
        match std::io::BufRead::skip_until(&mut rest, needle[0]).expect("memory is read") {
            0 => return count,
            _ => count += usize::from(rest.starts_with(&needle[1..])),
        }
    }
}

fn mounted(options: &str) -> Option<Bench> {
    if !needs_root() {
        return None;
    }
    let bench = Bench::new()?;
    let key = bench.private_file("key", KEY);
    let key = key.to_str().unwrap();
    bench.mount(&["--mode", "supplied", "--key-file", key, "-o", options]);
    Some(bench)
}

fn counter(bench: &Bench, name: &str) -> u64 {
    let report = counters(&bench.mnt());
    let place = if name == "open_files" { &report[name] } else { &report["dek_cache"][name] };
    place.as_u64().expect("a counter")
}

fn make(bench: &Bench, name: &str) -> Keys {
    fs::write(bench.file(name), pattern(1, 20_000)).unwrap();
    File::open(bench.file(name)).unwrap().sync_all().unwrap();
    wait_until_closed(bench);
    Keys::of(bench, name)
}

fn wait_until_closed(bench: &Bench) {
    let closed = wait_for(Duration::from_secs(10), || counter(bench, "open_files") == 0);
    assert!(closed, "closed files stay open");
}

#[test]
fn keys_of_open_and_cached_files_are_the_only_ones() {
    let Some(bench) = mounted("cache_entries=1,cache_ttl=3600") else { return };
    let pid = bench.daemon();
    let first = make(&bench, "first");
    assert_eq!(first.held_by(pid), ["DEK"], "closed and cached: the search finds it");
    let open = File::open(bench.file("first")).unwrap();
    open.read_at(&mut [0; 100], 0).unwrap();
    // A key of a MAC is never held as it is, only as the digests that it begins with.
    assert_eq!(first.held_by(pid), ["DEK", "data key"], "open");
    // Evicted by number from the cache, but still in the hands of the open file.
    let second = make_beside(&bench, "second");
    assert!(counter(&bench, "evictions") >= 1);
    assert!(first.held_by(pid).contains(&"data key"));
    drop(open);
    wait_until_closed(&bench);
    assert_eq!(first.held_by(pid), Vec::<&str>::new(), "evicted and closed");
    assert_eq!(second.held_by(pid), ["DEK"], "the last one is cached");
    bench.unmount();
}

/// The same while another file is open.
fn make_beside(bench: &Bench, name: &str) -> Keys {
    fs::write(bench.file(name), pattern(2, 20_000)).unwrap();
    File::open(bench.file(name)).unwrap().sync_all().unwrap();
    let closed = wait_for(Duration::from_secs(10), || counter(bench, "open_files") == 1);
    assert!(closed, "closed files stay open");
    Keys::of(bench, name)
}

#[test]
fn keys_that_grow_old_are_gone() {
    let Some(bench) = mounted("cache_ttl=1") else { return };
    let pid = bench.daemon();
    let keys = make(&bench, "f");
    let swept = wait_for(Duration::from_secs(20), || counter(&bench, "entries") == 0);
    assert!(swept, "cached keys outlive cache_ttl");
    assert_eq!(keys.held_by(pid), Vec::<&str>::new(), "expired and closed");
    fs::read(bench.file("f")).unwrap();
    let open = File::open(bench.file("f")).unwrap();
    assert!(keys.held_by(pid).contains(&"data key"), "the search finds it once it is used again");
    drop(open);
    bench.unmount();
}

#[test]
fn the_supplied_key_is_not_kept() {
    let Some(bench) = mounted("rw") else { return };
    let pid = bench.daemon();
    fs::write(bench.file("f"), pattern(1, 20_000)).unwrap();
    fs::read(bench.file("f")).unwrap();
    let hexadecimal = data_encoding::HEXLOWER.encode(&KEY);
    assert_eq!(search(pid, &[&KEY, hexadecimal.as_bytes()]), [0, 0]);
    for place in ["cmdline", "environ"] {
        let bytes = fs::read(format!("/proc/{pid}/{place}")).unwrap();
        for form in [&KEY[..], hexadecimal.as_bytes()] {
            assert_eq!(occurrences(&bytes, form), 0, "the key shows in {place}");
        }
    }
    bench.unmount();
}

#[test]
fn the_daemon_dumps_nothing() {
    let owner = User::ordinary(NOBODY);
    let setup = Setup::new().owned_by(owner.clone()).mount_only("there is no daemon");
    let Some(m) = setup.start() else { return };
    let pid = m.daemon_pid().expect("mounted");
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    let bounds: Vec<&str> = core.split_whitespace().skip(4).take(2).collect();
    assert_eq!(bounds, ["0", "0"], "{core}");
    // What is not dumpable belongs to root, and its memory is closed to its own user.
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    assert!(status.contains(&format!("Uid:\t{NOBODY}\t")), "{status}");
    for place in ["mem", "environ", "maps"] {
        let path = format!("/proc/{pid}/{place}");
        assert_eq!(fs::metadata(&path).unwrap().uid(), 0, "{place} is its user's");
        owner.run(|| assert!(File::open(&path).is_err(), "its user may read its {place}"));
    }
    m.finish();
}
