//! Reads and writes take their memory from what their thread keeps: once it has served one like
//! it, a request allocates nothing. What a write leaves to be kept, pages of entries in a cache
//! that is not full and blocks that wait for a commit, is not the request's.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ssefs::crypto::Secret;
use ssefs::format::{Descriptor, FORMAT_VERSION, FileId, KeySlot, Mode, VolumeId};
use ssefs::fs::{FileSystem, FsOptions, Handle, NodeId};
use ssefs::keys::{Access, Binding, Caller, DekCache, Keyring, SuppliedProvider};
use ssefs::store::tree::DiskTree;
use ssefs::volume::{VolumeDirectory, VolumeUse};

#[test]
fn the_same_read_again() {
    let file = File::of(4 * MIB);
    for (offset, len) in [(0, 4096), (5000, 100), (MIB, 4096), (MIB, 128 << 10), (100, MIB)] {
        let mut buf = vec![0; len as usize];
        let mut read = || file.read(offset, &mut buf);
        read();
        assert_eq!(allocations(read), 0, "{len} bytes at {offset}");
    }
}

#[test]
fn reading_on_in_a_large_file() {
    // Twice what the cache of tag pages describes.
    let file = File::of(128 * MIB);
    let mut buf = vec![0; 128 << 10];
    let mut reads = (0..128 * MIB).step_by(128 << 10);
    reads.by_ref().take(640).for_each(|offset| file.read(offset, &mut buf));
    let counted = allocations(|| reads.by_ref().take(128).for_each(|at| file.read(at, &mut buf)));
    assert_eq!(counted, 0);
}

#[test]
fn the_same_write_again_where_no_sync_covers_it() {
    let file = File::of(4 * MIB);
    let data = vec![2; MIB as usize];
    for (offset, len) in [(0, 4096), (5000, 100), (MIB, 4096), (MIB, 128 << 10), (100, MIB)] {
        let write = || file.write(offset, &data[..len as usize]);
        write();
        assert_eq!(allocations(write), 0, "{len} bytes at {offset}");
    }
}

#[test]
fn writing_on_in_a_large_file() {
    let file = File::of(0);
    let data = vec![3; MIB as usize];
    let mut writes = (0..128 * MIB).step_by(MIB as usize);
    writes.by_ref().take(80).for_each(|offset| file.write(offset, &data));
    let counted = allocations(|| writes.by_ref().take(16).for_each(|at| file.write(at, &data)));
    assert_eq!(counted, 0);
}

#[test]
fn the_same_write_again_over_what_a_sync_covers() {
    let file = File::of(4 * MIB);
    file.fs.sync(file.handle, false).unwrap();
    let data = vec![4; MIB as usize];
    for (offset, len) in [(0, 4096), (5000, 100), (MIB, 4096), (MIB, 128 << 10)] {
        let write = || file.write(offset, &data[..len as usize]);
        // What waits for the commit after the first is given back by the second.
        (0..2).for_each(|_| write());
        assert_eq!(allocations(write), 0, "{len} bytes at {offset}");
    }
}

#[test]
fn the_same_write_again_and_again_each_with_its_sync() {
    let file = File::of(4 * MIB);
    let data = vec![5; 4096];
    let write = || {
        file.write(MIB, &data);
        file.fs.sync(file.handle, true).unwrap();
    };
    (0..4).for_each(|_| write());
    assert_eq!(allocations(write), 0);
}

struct File {
    fs: FileSystem,
    handle: Handle,
    _scratch: tempfile::TempDir,
}

impl File {
    /// With `len` bytes written.
    fn of(len: u64) -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let fs = mount(scratch.path());
        let flags = libc::O_RDWR | libc::O_CREAT;
        let (_, opened) =
            fs.create(CALLER, NodeId::ROOT, "file".as_ref(), 0o644, 0, flags).unwrap();
        let file = Self { fs, handle: opened.handle, _scratch: scratch };
        let data = vec![1; MIB as usize];
        (0..len).step_by(MIB as usize).for_each(|offset| file.write(offset, &data));
        file
    }

    fn read(&self, offset: u64, buf: &mut [u8]) {
        assert_eq!(self.fs.read(self.handle, offset, buf).unwrap(), buf.len());
    }

    fn write(&self, offset: u64, data: &[u8]) {
        self.fs.write(self.handle, offset, data, false).unwrap();
    }
}

/// How many times `work` allocates.
fn allocations(work: impl FnOnce()) -> u64 {
    allocation_counter::measure(work).count_total
}

fn mount(directory: &std::path::Path) -> FileSystem {
    let tree = Arc::new(DiskTree::open(directory).unwrap());
    let directory = VolumeDirectory::claim(Arc::clone(&tree), "a test").unwrap();
    let volume_id = VolumeId::random();
    let provider = SuppliedProvider::new(Secret::copy_from(&[7; 32]), volume_id);
    let deks = DekCache::new(4, Duration::from_secs(60));
    let keyring = Keyring::new(vec![Box::new(provider)], Mode::Supplied, deks);
    let binding = Binding { volume: volume_id, file: FileId::VOLUME };
    let made = keyring.generate(binding, &Access::own(&PathBuf::new)).unwrap();
    let slot = KeySlot { envelope: made.envelope, supplied: None };
    let descriptor =
        Descriptor { format_version: FORMAT_VERSION, volume_id, created: 0, key_slots: vec![slot] };
    directory.create(&descriptor, &made.dek).unwrap();
    let volume = directory.start(&descriptor, &made.dek, keyring, VolumeUse::default()).unwrap();
    FileSystem::new(volume, tree, FsOptions { writeback: true, ..FsOptions::default() }).unwrap()
}

const CALLER: Caller = Caller { uid: 0, gid: 0, pid: 0 };
const MIB: u64 = 1 << 20;
