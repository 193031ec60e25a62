//! A file system over a scratch directory, for the tests of this module.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;

use super::{FileSystem, FsOptions, NodeId};
use crate::crypto::Secret;
use crate::format::{Descriptor, FORMAT_VERSION, FileId, KeySlot, METADATA_DIR, Mode, VolumeId};
use crate::keys::{Access, Binding, Caller, DekCache, Keyring, SuppliedProvider};
use crate::store::tree::DiskTree;
use crate::volume::{Volume, VolumeDirectory, VolumeUse};

pub const ROOT_CALLER: Caller = Caller { uid: 0, gid: 0, pid: 0 };
pub const USER: Caller = Caller { uid: 12_345, gid: 54_321, pid: 0 };

/// A volume that is mounted, but for the mount.
pub struct Fixture {
    pub fs: FileSystem,
    volume: Arc<Volume>,
    scratch: TempDir,
    options: FsOptions,
}

impl Fixture {
    pub fn new() -> Self {
        Self::with(|_| {})
    }

    pub fn with(adapt: impl FnOnce(&mut FsOptions)) -> Self {
        rustix::process::umask(rustix::fs::Mode::empty());
        let mut options = options();
        adapt(&mut options);
        let scratch = tempfile::tempdir().unwrap();
        let (fs, volume) = mount(scratch.path(), &options, supplied);
        Self { fs, volume, scratch, options }
    }

    /// With other keys, made for the volume's id.
    pub fn with_keys(keyring: impl FnOnce(VolumeId) -> Keyring) -> Self {
        rustix::process::umask(rustix::fs::Mode::empty());
        let options = options();
        let scratch = tempfile::tempdir().unwrap();
        let (fs, volume) = mount(scratch.path(), &options, keyring);
        Self { fs, volume, scratch, options }
    }

    /// Unmounts cleanly and mounts again.
    pub fn remount(&mut self) {
        self.fs.shut_down();
        self.volume.end_epoch().unwrap();
        // The volume is locked for as long as somebody holds it.
        let elsewhere = tempfile::tempdir().unwrap();
        (self.fs, self.volume) = mount(elsewhere.path(), &self.options, supplied);
        (self.fs, self.volume) = mount(self.scratch.path(), &self.options, supplied);
    }

    /// What is underneath as it is now, mounted elsewhere: as after a crash. `change` comes before.
    pub fn crashed(&self, change: impl FnOnce(&Path)) -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let mut copy = std::process::Command::new("cp");
        copy.args(["-a", "--"]).arg(self.scratch.path().join(".")).arg(scratch.path());
        assert!(copy.status().unwrap().success());
        change(scratch.path());
        let (fs, volume) = mount(scratch.path(), &self.options, supplied);
        Self { fs, volume, scratch, options: self.options.clone() }
    }

    /// Where an object lies underneath.
    pub fn backing(&self, path: &str) -> PathBuf {
        self.scratch.path().join(path)
    }

    pub fn lookup(&self, parent: NodeId, name: &str) -> NodeId {
        self.fs.lookup(ROOT_CALLER, parent, os(name)).unwrap().node
    }

    /// Makes a file with this content, and closes it.
    pub fn create(&self, parent: NodeId, name: &str, content: &[u8]) -> NodeId {
        let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL;
        let (entry, opened) =
            self.fs.create(ROOT_CALLER, parent, os(name), 0o644, 0, flags).unwrap();
        if !content.is_empty() {
            self.fs.write(opened.handle, 0, content, false).unwrap();
        }
        self.fs.release(opened.handle).unwrap();
        entry.node
    }

    /// How many files are open that neither linger nor are idle.
    pub fn in_use(&self) -> usize {
        self.fs.close_unused();
        self.fs.open.len()
    }

    /// All that a file holds, read through a handle of its own.
    pub fn content(&self, node: NodeId) -> Vec<u8> {
        let handle = self.fs.open(ROOT_CALLER, node, libc::O_RDONLY).unwrap().handle;
        let size = self.fs.attributes(node, Some(handle)).unwrap().size;
        let mut buf = vec![0xee; usize::try_from(size).unwrap() + 1];
        let read = self.fs.read(handle, 0, &mut buf).unwrap();
        assert_eq!(read as u64, size);
        buf.truncate(read);
        self.fs.release(handle).unwrap();
        buf
    }

    /// Descriptors of this process on what is in the scratch directory, but for the volume's own
    /// files.
    pub fn open_descriptors(&self) -> usize {
        let leads_here = |link: std::io::Result<std::fs::DirEntry>| {
            let Ok(to) = std::fs::read_link(link.unwrap().path()) else { return false };
            let inside = to.strip_prefix(self.scratch.path());
            inside.is_ok_and(|path| path != Path::new("") && !path.starts_with(METADATA_DIR))
        };
        std::fs::read_dir("/proc/self/fd")
            .unwrap()
            .filter_map(|l| leads_here(l).then_some(()))
            .count()
    }
}

/// Four idle files for each shard of the table of open ones.
fn options() -> FsOptions {
    FsOptions { idle_files: 256, idle_age: Duration::from_secs(60), ..FsOptions::default() }
}

/// A value of `security.capability`; `None` where this process may not set it.
pub fn capability() -> Option<Vec<u8>> {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: only root may set security.capability");
        return None;
    }
    let mut capability = vec![0; 20];
    capability[3] = 2;
    capability[4] = 1;
    Some(capability)
}

pub fn os(name: &str) -> &OsStr {
    OsStr::new(name)
}

fn supplied(volume: VolumeId) -> Keyring {
    let provider = SuppliedProvider::new(Secret::copy_from(&[7; 32]), volume);
    let cache = DekCache::new(64, Duration::from_secs(60));
    Keyring::new(vec![Box::new(provider)], Mode::Supplied, cache)
}

fn mount(
    directory: &Path,
    options: &FsOptions,
    keyring: impl FnOnce(VolumeId) -> Keyring,
) -> (FileSystem, Arc<Volume>) {
    let tree = Arc::new(DiskTree::open(directory).unwrap());
    let directory = VolumeDirectory::claim(Arc::clone(&tree), "a test").unwrap();
    let existing = directory.descriptor().unwrap();
    let volume_id = existing.as_ref().map_or_else(VolumeId::random, |there| there.volume_id);
    let keyring = keyring(volume_id);
    let (access, binding) =
        (Access::own(&PathBuf::new), Binding { volume: volume_id, file: FileId::VOLUME });
    let (descriptor, volume_key) = match existing {
        Some(descriptor) => {
            let key = keyring.dek(&descriptor.key_slots[0].envelope, binding, &access).unwrap();
            (descriptor, key)
        }
        None => {
            let made = keyring.generate(binding, &access).unwrap();
            let slot = KeySlot { envelope: made.envelope, supplied: None };
            let descriptor = Descriptor {
                format_version: FORMAT_VERSION,
                volume_id,
                created: 0,
                key_slots: vec![slot],
            };
            directory.create(&descriptor, &made.dek).unwrap();
            (descriptor, made.dek)
        }
    };
    let volume = directory.start(&descriptor, &volume_key, keyring, VolumeUse::default()).unwrap();
    (FileSystem::new(Arc::clone(&volume), tree, options.clone()).unwrap(), volume)
}
