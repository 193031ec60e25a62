//! The file system that the power is cut from: an image file on a loop device, mounted over the
//! backing directory of a volume.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::fs::{Advice, fadvise};
use rustix::mount::UnmountFlags;

use crate::harness::scratch::{self, Scratch, is_mounted};
use crate::harness::{Random, is_root, succeed, wait_for};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Ext4,
    Xfs,
}

/// A file system in an image file, mounted at `at` except during a cut.
pub struct Lower {
    kind: Kind,
    /// Holds the image.
    place: Scratch,
    at: PathBuf,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Kind::Ext4 => "ext4",
            Kind::Xfs => "xfs",
        }
    }

    fn make(self, image: &Path) -> Command {
        let mut command = Command::new(format!("mkfs.{}", self.name()));
        command.arg("-q").arg(image);
        command
    }

    /// Why this file system cannot be cut here.
    pub fn impossible(self) -> Option<String> {
        let name = self.name();
        let known = fs::read_to_string("/proc/filesystems").unwrap_or_default();
        if !is_root() {
            return Some("needs root".to_owned());
        }
        if !Path::new("/dev/loop-control").exists() {
            return Some("there are no loop devices".to_owned());
        }
        if !known.lines().any(|line| line.split_whitespace().last() == Some(name)) {
            return Some(format!("the kernel has no {name}"));
        }
        if Command::new(format!("mkfs.{name}")).arg("-V").output().is_err() {
            return Some(format!("the program mkfs.{name} is missing"));
        }
        None
    }
}

impl Lower {
    /// Makes the image and mounts it over the directory `at`; a reason where that is impossible.
    pub fn make(kind: Kind, at: PathBuf) -> Result<Self, String> {
        let place = Scratch::below(&place_of_images());
        let image = place.path().join("image");
        File::create(&image).and_then(|file| file.set_len(IMAGE_LEN)).unwrap();
        succeed(&mut kind.make(&image));
        let lower = Self { kind, place, at };
        let output = lower.mount_command().output().unwrap();
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).trim().to_owned());
        }
        // Nobody's file, which a volume would show.
        let _ = fs::remove_dir(lower.at.join("lost+found"));
        Ok(lower)
    }

    /// The power is gone: nothing more reaches the disk, and what only the log's memory has is
    /// lost.
    pub fn lose_power(&self) {
        let root = File::open(&self.at).unwrap();
        let around = fs::metadata(self.at.parent().expect("it lies in a scratch directory"));
        // The machine's own file system must not be meant by mistake.
        assert_ne!(root.metadata().unwrap().dev(), around.unwrap().dev(), "nothing is mounted");
        ssefs::sys::shutdown::lose_what_is_not_logged(root.as_fd()).unwrap();
    }

    /// Unmounts what has lost its power and mounts it again, with a replay of its log.
    pub fn start_again(&self) {
        let unmount = || rustix::mount::unmount(&self.at, UnmountFlags::NOFOLLOW).is_ok();
        assert!(wait_for(LIMIT, unmount), "{} stays busy", self.at.display());
        assert!(!is_mounted(&self.at));
        // The loop device goes a moment later than its file system.
        let mount = || self.mount_command().output().unwrap().status.success();
        if !wait_for(LIMIT, mount) {
            succeed(&mut self.mount_command());
        }
    }

    fn mount_command(&self) -> Command {
        let mut command = Command::new("mount");
        let image = self.place.path().join("image");
        command.args(["-o", "loop", "-t", self.kind.name()]).arg(image).arg(&self.at);
        command
    }

    /// Sends some dirty pages of some file to the disk, as writeback does in an order of its own,
    /// and now and then commits the log, with whatever sizes and names have changed so far.
    pub fn stir(&self, random: &mut Random) {
        if random.below(40) == 0 {
            // Changed, so that there is something to commit.
            let Ok(root) = File::open(&self.at) else { return };
            let now = std::time::SystemTime::now();
            let _ = root.set_modified(now).and_then(|()| root.sync_all());
            return;
        }
        let Some(path) = any_file(&self.at, random) else { return };
        let Ok(file) = File::open(path) else { return };
        let pages = file.metadata().map_or(0, |metadata| metadata.len()).div_ceil(PAGE_LEN);
        if pages > 0 {
            let start = random.below(pages) * PAGE_LEN;
            let len = (1 + random.below(8)) * PAGE_LEN;
            let _ = fadvise(file, start, std::num::NonZeroU64::new(len), Advice::DontNeed);
        }
    }
}

/// In memory, where more happens between two cuts: an image need not outlive this machine.
fn place_of_images() -> PathBuf {
    let memory = PathBuf::from("/dev/shm");
    if memory.is_dir() { memory } else { scratch::root() }
}

/// A file below the directory, found by walking down at random.
fn any_file(directory: &Path, random: &mut Random) -> Option<PathBuf> {
    let mut at = directory.to_path_buf();
    loop {
        let entries: Vec<_> = fs::read_dir(&at).ok()?.flatten().collect();
        if entries.is_empty() {
            return None;
        }
        let entry = &entries[random.below(entries.len() as u64) as usize];
        at = entry.path();
        if !entry.file_type().ok()?.is_dir() {
            return Some(at);
        }
    }
}

/// Sparse. XFS wants 300 MB at least.
const IMAGE_LEN: u64 = 512 << 20;
const PAGE_LEN: u64 = 4096;
const LIMIT: Duration = Duration::from_secs(30);
