//! Reads and writes take their memory from what their thread keeps: once it has served one like
//! it, a request allocates nothing. What a write leaves to be kept, pages of entries in a cache
//! that is not full and blocks that wait for a commit, is not the request's.

use ssefs::fs::{FileSystem, FsOptions, Handle, NodeId};
use ssefs::keys::Caller;
use ssefs::volume::VolumeUse;

#[path = "../fs_model/mount.rs"]
mod mount;

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
        let options = FsOptions { writeback: true, ..FsOptions::default() };
        let (fs, _) = mount::mount(scratch.path(), VolumeUse::default(), 4, options);
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

const CALLER: Caller = Caller { uid: 0, gid: 0, pid: 0 };
const MIB: u64 = 1 << 20;
