//! What a million nodes cost, measured in a process of its own, so that no other test's memory
//! is counted.

use std::ffi::OsStr;
use std::process::Command;

use super::nodes::{NodeTable, ObjectId};
use super::types::NodeId;
use crate::store::tree::{Stat, Timestamp};

const NODES: u64 = 1_000_000;
const MOST_BYTES: u64 = 400;
const CHILD: &str = "SSEFS_TEST_MEASURES_NODES";
const TEST: &str = "fs::memory_tests::a_node_costs_at_most_400_bytes_and_no_descriptor";

#[test]
fn a_node_costs_at_most_400_bytes_and_no_descriptor() {
    if std::env::var_os(CHILD).is_some() {
        measure();
        return;
    }
    let own = std::env::current_exe().unwrap();
    let child = Command::new(own)
        .args([TEST, "--exact", "--nocapture", "--test-threads=1"])
        .env(CHILD, "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&child.stdout);
    assert!(child.status.success(), "{text}{}", String::from_utf8_lossy(&child.stderr));
    let line = text.lines().find(|line| line.contains("bytes a node"));
    println!("{}", line.expect("the child tells what it measured"));
}

fn measure() {
    let (memory, descriptors) = (resident_bytes(), open_descriptors());
    let table = NodeTable::new(ObjectId { dev: 1, ino: 1 });
    let mut parent = NodeId::ROOT;
    for number in 0..NODES {
        // As in a source tree: twenty files to a directory, names of some length.
        let is_directory = number % 20 == 0;
        let name = format!("source_file_{number:07}.rs");
        let stat = synthetic(number + 2, is_directory);
        let seen = table.renames().seen();
        let node = table.enter(&stat, parent, OsStr::new(&name), seen).unwrap();
        if is_directory {
            parent = node;
        }
    }
    assert_eq!(table.len(), NODES + 1);
    let each = (resident_bytes() - memory) / NODES;
    println!("{each} bytes a node");
    assert!(each <= MOST_BYTES, "{each} bytes a node");
    assert!(each >= size_of::<u64>() as u64 * 8, "{each} bytes a node cannot be right");
    assert_eq!(open_descriptors(), descriptors);
}

/// Attributes of no file there is.
pub(super) fn synthetic(ino: u64, is_directory: bool) -> Stat {
    let time = Timestamp { secs: 0, nanos: 0 };
    Stat {
        dev: 1,
        ino,
        mode: if is_directory { libc::S_IFDIR | 0o755 } else { libc::S_IFREG | 0o644 },
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        size: 0,
        blocks: 0,
        atime: time,
        mtime: time,
        ctime: time,
        btime: None,
    }
}

fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() * 1024
}

fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}
