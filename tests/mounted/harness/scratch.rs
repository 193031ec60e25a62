//! Scratch directories: one per test, unique among parallel runs, removed also after a panic
//! with whatever was mounted and still runs there, and those of dead runs cleaned up by the next.
//!
//! Nothing is removed below a mount point that is still mounted.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::mount::UnmountFlags;

use super::{is_root, test_name};

/// A directory of one test.
pub struct Scratch {
    path: PathBuf,
}

impl Scratch {
    pub fn new() -> Self {
        Self::below(&root())
    }

    /// In another place than where scratch directories are.
    pub fn below(root: &Path) -> Self {
        static CLEAN: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let first = CLEAN.lock().unwrap().insert(root.to_path_buf());
        if first {
            clean_dead_runs(root);
        }
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let pid = std::process::id();
        let path = root.join(format!("{PREFIX}{pid}-{number}-{}", short_name()));
        fs::create_dir(&path).unwrap();
        Self { path }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes a directory in it.
    pub fn directory(&self, name: &str) -> PathBuf {
        let path = self.path.join(name);
        fs::create_dir(&path).unwrap();
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        clear(&self.path);
    }
}

/// Whether something is mounted at exactly this path.
pub fn is_mounted(path: &Path) -> bool {
    mount_points().iter().any(|mounted| mounted == path)
}

/// Detaches whatever is mounted at the path, however dead its daemon is.
pub fn detach(path: &Path) {
    if is_root() {
        let _ = rustix::mount::unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW);
    } else {
        let _ = Command::new("fusermount3").arg("-uz").arg(path).output();
    }
}

/// The place of all scratch directories.
pub fn root() -> PathBuf {
    std::env::var_os("SSEFS_TEST_DIR").map_or_else(|| PathBuf::from("/tmp"), PathBuf::from)
}

fn short_name() -> String {
    let name = test_name().replace("::", "-");
    let start = name.len().saturating_sub(60);
    name[start..].trim_start_matches('-').to_owned()
}

/// Mount points from the kernel's table, where blanks are written as octal escapes.
fn mount_points() -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/self/mounts").unwrap();
    let second = table.lines().filter_map(|line| line.split(' ').nth(1));
    second.map(|path| PathBuf::from(path.replace("\\040", " "))).collect()
}

/// Removes what runs left behind whose process is gone.
fn clean_dead_runs(root: &Path) {
    let Ok(entries) = fs::read_dir(root) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.split('-').next());
        let Some(pid) = pid.and_then(|pid| pid.parse::<u32>().ok()) else { continue };
        if Path::new(&format!("/proc/{pid}")).exists() {
            continue;
        }
        clear(&entry.path());
    }
}

/// Takes away a scratch directory, what is mounted in it, and the daemons that serve it.
fn clear(directory: &Path) {
    // The last mounted first: it may lie in another, or over it.
    for mounted in mount_points().iter().rev().filter(|mounted| mounted.starts_with(directory)) {
        detach(mounted);
    }
    end_processes_naming(directory);
    remove_tree(directory);
}

/// Processes whose arguments name the directory or what is below it, but not this one.
pub fn processes_naming(directory: &Path) -> Vec<u32> {
    let needle = directory.as_os_str().as_encoded_bytes();
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| {
        let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let names_it = arguments.windows(needle.len()).any(|window| window == needle);
        names_it && *pid != std::process::id()
    })
    .collect()
}

fn end_processes_naming(directory: &Path) {
    for pid in processes_naming(directory) {
        if let Some(pid) = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }
}

fn remove_tree(path: &Path) {
    if mount_points().iter().any(|mounted| mounted.starts_with(path)) {
        eprintln!("{}: left in place, something is still mounted below", path.display());
        return;
    }
    // Deep trees and odd modes are the job of rm, which walks with descriptors.
    let output = Command::new("rm").args(["-rf", "--one-file-system", "--"]).arg(path).output();
    if let Err(error) = output {
        eprintln!("{}: not removed: {error}", path.display());
    }
}

const PREFIX: &str = "ssefs-test-";
