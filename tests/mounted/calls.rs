//! What operations cost: the daemon's system calls, counted by strace.

use std::fs::{self, File};
use std::io::Write;
use std::time::Duration;

use crate::harness::strace::{Call, Recording};
use crate::harness::{Mount, Setup, counters, pattern, wait_for};

/// Two for the new file and one for its header and content together. The kernel's own look-up of
/// the name, before, is one more.
#[test]
fn a_small_file_is_made_and_written_with_three_calls_and_a_look_up() {
    // With the kernel's cache the write comes only when the file is closed.
    let Some(m) = mounted("writeback=off") else { return };
    let Some(recording) = Recording::start(&m) else { return };
    let files = ["1", "100", "4000"].map(|len| {
        recording.during(len, || {
            let mut file = File::create_new(m.path(format!("new-{len}"))).unwrap();
            file.write_all(&pattern(1, len.parse().unwrap())).unwrap();
            file
        })
    });
    let calls = recording.end();
    for len in ["1", "100", "4000"] {
        let calls = backing(&m, calls(len));
        let names: Vec<_> = calls.iter().map(|call| call.name.as_str()).collect();
        assert_eq!(names, ["statx", "openat", "statx", "pwritev"], "{len} bytes: {calls:#?}");
        assert!(calls[0].line.contains(&format!("\"new-{len}\"")), "the look-up: {calls:#?}");
    }
    drop(files);
    m.finish();
}

/// One call for each buffer of 32 KiB and one for each entry's attributes, whether the kernel asks
/// for them with the names or afterwards. The entry that a reply of 32 KiB has no room for any more
/// is looked at again for the next one.
#[test]
fn a_listing_costs_a_call_a_buffer_and_a_call_an_entry() {
    const ENTRIES: usize = 2000;
    let Some(mut m) = mounted("writeback=off") else { return };
    fs::create_dir(m.path("many")).unwrap();
    for number in 0..ENTRIES {
        File::create(m.path("many").join(format!("{number:0>30}"))).unwrap();
    }
    // linux_dirent64: 19 bytes, the name and its zero, in units of 8; no entry is torn.
    let record = (19_usize + 30 + 1).next_multiple_of(8);
    let buffers = ENTRIES.div_ceil((32 << 10) / record);
    // With attributes, fuse_entry_out and fuse_dirent: 128 and 24 bytes, and the name.
    let replies = ENTRIES.div_ceil((32 << 10) / (128 + 24_usize + 30).next_multiple_of(8));
    for with_attributes in [false, true] {
        m.remount();
        let Some(recording) = Recording::start(&m) else { return };
        recording.during("listing", || {
            let entries = fs::read_dir(m.path("many")).unwrap().map(Result::unwrap);
            let wanted = entries.filter(|it| !with_attributes || it.metadata().unwrap().len() == 0);
            assert_eq!(wanted.count(), ENTRIES);
        });
        let calls = backing(&m, recording.end()("listing"));
        let count = |name| calls.iter().filter(|call| call.name == name).count();
        let (listed, looked) = (count("getdents64"), count("statx"));
        let others = calls.len() - listed - looked;
        let told = format!(
            "{ENTRIES} entries, attributes asked for: {with_attributes}: {listed} getdents64 for \
             {buffers} buffers, {looked} statx for at most {replies} replies, {others} others"
        );
        eprintln!("{told}");
        // More are the two that find the end, and those for the directory itself.
        assert!((buffers..=buffers + 2).contains(&listed), "{told}");
        let least = if with_attributes { ENTRIES } else { 0 };
        assert!((least..=ENTRIES + replies + 1).contains(&looked), "{told}");
        assert!(others <= 5, "{told}");
    }
    m.finish();
}

/// Page 0 is all that is read: one byte, if it is in memory, to know that the rest does not keep
/// others waiting, and then the whole.
#[test]
fn a_file_whose_key_is_cached_is_opened_with_no_call_for_the_key() {
    let Some(m) = mounted("mode=managed") else { return };
    fs::write(m.path("file"), pattern(1, 20_000)).unwrap();
    let open = || File::open(m.path("file")).unwrap();
    let close = |file| {
        drop(file);
        let closed = || counters(m.mnt())["open_files"] == 0;
        assert!(wait_for(Duration::from_secs(20), closed), "{:#}", counters(m.mnt()));
    };
    close(open());
    let hits = || counters(m.mnt())["dek_cache"]["hits"].as_u64().unwrap();
    let before = hits();
    let Some(recording) = Recording::start(&m) else { return };
    let file = recording.during("opening", open);
    let calls = recording.end()("opening");
    assert_eq!(hits(), before + 1, "the key was not found in the cache");
    close(file);
    let thread = calls.iter().find(|call| call.name == "openat" && call.line.contains("\"file\""));
    let thread = thread.unwrap_or_else(|| panic!("not opened: {calls:#?}")).thread;
    let calls: Vec<_> = calls.iter().filter(|call| call.thread == thread).collect();
    let names: Vec<_> = calls.iter().map(|call| call.name.as_str()).collect();
    assert_eq!(names, ["openat", "statx", "fcntl", "preadv2", "pread64"], "{calls:#?}");
    m.finish();
}

fn mounted(option: &str) -> Option<Mount> {
    Setup::new().option(option).mount_only("a plain directory has no daemon").start()
}

/// The calls that concern the backing directory.
fn backing(m: &Mount, calls: Vec<Call>) -> Vec<Call> {
    let path = m.backing().to_str().unwrap();
    calls.into_iter().filter(|call| call.line.contains(path)).collect()
}
