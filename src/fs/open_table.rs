//! Files that are open: one entry for each object, shared by all its handles, so that there is
//! one size, one set of locks and one DEK. An entry is there for as long as somebody uses it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, RwLock, TryLockError};

use super::error::At;
use super::locks::{lock, read, write};
use super::nodes::ObjectId;
use super::{FsError, NodeId};
use crate::store::disk::DiskFile;
use crate::store::tree::{Stat, TimeSet};
use crate::volume::{EncryptedFile, VolumeError};

/// All open files, by object.
pub struct OpenTable {
    shards: Box<[Mutex<HashMap<ObjectId, Entry>>]>,
}

/// An object that is open, or about to be.
pub struct OpenInode {
    node: NodeId,
    object: ObjectId,
    ready: OnceLock<Ready>,
    /// Held while the file is opened or its backing file is opened anew, also across the answer
    /// of a key server: it keeps waiting only those who open this very file. Outermost.
    opening: Mutex<()>,
    /// Held by whatever gives the file a new modification time, and while one is put back.
    /// Outside of the file's own lock.
    modifying: Mutex<()>,
    writers: AtomicU32,
    stamp: AtomicU64,
    /// Whether a user has read, so that the access time counts.
    was_read: AtomicBool,
    /// Whether it is known to have no `security.capability`.
    bare: AtomicBool,
    /// Where the file ends, as far as writes and cuts have told.
    end: AtomicU64,
}

/// One use of an open file; the last one that is dropped closes it. The file is not closed, and
/// opened anew beside it, while a use is held.
pub struct InodeUse {
    table: Arc<OpenTable>,
    inode: Arc<OpenInode>,
}

struct Entry {
    inode: Arc<OpenInode>,
    users: usize,
}

struct Ready {
    file: EncryptedFile,
    disk: RwLock<Arc<DiskFile>>,
}

impl OpenTable {
    /// With no open files.
    pub fn new() -> Self {
        Self { shards: (0..SHARDS).map(|_| Mutex::default()).collect() }
    }

    /// One more use of the object; it is opened by the first who then calls
    /// [`OpenInode::open_once`].
    pub fn claim(self: &Arc<Self>, node: NodeId, object: ObjectId) -> InodeUse {
        let mut shard = lock(self.shard(object));
        let entry = shard
            .entry(object)
            .or_insert_with(|| Entry { inode: Arc::new(OpenInode::new(node, object)), users: 0 });
        self.used(entry)
    }

    /// One more use of the object, if it is open.
    pub fn find(self: &Arc<Self>, object: ObjectId) -> Option<InodeUse> {
        let mut shard = lock(self.shard(object));
        shard.get_mut(&object).filter(|entry| entry.inode.is_ready()).map(|it| self.used(it))
    }

    /// One more use of each file that is open at this time.
    pub fn all(self: &Arc<Self>) -> Vec<InodeUse> {
        let mut all = Vec::new();
        for shard in &self.shards {
            let mut shard = lock(shard);
            let ready = shard.values_mut().filter(|entry| entry.inode.is_ready());
            all.extend(ready.map(|entry| self.used(entry)));
        }
        all
    }

    fn used(self: &Arc<Self>, entry: &mut Entry) -> InodeUse {
        entry.users += 1;
        InodeUse { table: Arc::clone(self), inode: Arc::clone(&entry.inode) }
    }

    /// How many objects are open.
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).len()).sum()
    }

    fn shard(&self, object: ObjectId) -> &Mutex<HashMap<ObjectId, Entry>> {
        let place = object.ino % SHARDS as u64;
        &self.shards[usize::try_from(place).expect("less than the number of shards")]
    }
}

impl OpenInode {
    fn new(node: NodeId, object: ObjectId) -> Self {
        Self {
            node,
            object,
            ready: OnceLock::new(),
            opening: Mutex::default(),
            modifying: Mutex::default(),
            writers: AtomicU32::new(0),
            stamp: AtomicU64::new(0),
            was_read: AtomicBool::new(false),
            bare: AtomicBool::new(false),
            end: AtomicU64::new(0),
        }
    }

    /// The node that it was opened by.
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// The object.
    pub fn object(&self) -> ObjectId {
        self.object
    }

    /// Notes how far a write reaches; whether that is well within what was there. Requests that
    /// make a file longer may overtake one another.
    pub fn writes_over(&self, end: u64) -> bool {
        let reached = self.end.fetch_max(end, Ordering::Relaxed);
        end.saturating_add(OVERTAKEN) <= reached
    }

    /// Notes that the file was cut, or made longer, to this size.
    pub fn ends_at(&self, size: u64) {
        self.end.store(size, Ordering::Relaxed);
    }

    /// Whether it is known to have no `security.capability`.
    pub fn is_bare(&self) -> bool {
        self.bare.load(Ordering::SeqCst)
    }

    /// Notes whether that is known.
    pub fn set_bare(&self, bare: bool) {
        self.bare.store(bare, Ordering::SeqCst);
    }

    /// Excludes others who open the same object.
    pub fn open_alone(&self) -> MutexGuard<'_, ()> {
        lock(&self.opening)
    }

    /// Whether it is open.
    pub fn is_ready(&self) -> bool {
        self.ready.get().is_some()
    }

    /// Puts what was opened in place; only under [`Self::open_alone`], and once.
    pub fn set_ready(&self, file: EncryptedFile, disk: Arc<DiskFile>, stat: &Stat) {
        self.stamp.store(stamp(stat), Ordering::Relaxed);
        self.end.store(file.size(), Ordering::Relaxed);
        let fresh = self.ready.set(Ready { file, disk: RwLock::new(disk) });
        assert!(fresh.is_ok(), "openers exclude each other and look first");
    }

    /// Takes a backing file that may be written; only under [`Self::open_alone`].
    pub fn replace_disk(&self, disk: Arc<DiskFile>) -> Result<(), VolumeError> {
        self.file().replace_backing(Arc::clone(&disk) as Arc<_>)?;
        *write(&self.ready().disk) = disk;
        self.was_read.store(false, Ordering::Release);
        Ok(())
    }

    /// The encrypted file.
    pub fn file(&self) -> &EncryptedFile {
        &self.ready().file
    }

    /// The backing file.
    pub fn disk(&self) -> Arc<DiskFile> {
        Arc::clone(&read(&self.ready().disk))
    }

    /// What the backing file looked like when it was opened, or last settled.
    pub fn stamp(&self) -> u64 {
        self.stamp.load(Ordering::Relaxed)
    }

    /// Changes the content, which gives the file a new modification time.
    pub fn change<T>(&self, change: impl FnOnce(&EncryptedFile) -> T) -> T {
        let _modifying = lock(&self.modifying);
        change(self.file())
    }

    /// Whether a change, or a time that is set, would wait for another one, which may wait for the
    /// disk.
    pub fn is_being_changed(&self) -> bool {
        matches!(self.modifying.try_lock(), Err(TryLockError::WouldBlock))
    }

    /// Writes all of `data`; sealing as much of it as can be keeps nobody else waiting.
    pub fn write(&self, offset: u64, data: &[u8]) -> Result<(), VolumeError> {
        self.file().preseal(offset, data, |presealed| {
            self.change(|file| file.write_presealed(offset, data, presealed))
        })?
    }

    /// Sets times of the file, not while [`Self::settle`] is about to put one back.
    pub fn set_times(&self, set: impl FnOnce() -> Result<(), FsError>) -> Result<(), FsError> {
        let _modifying = lock(&self.modifying);
        set()
    }

    /// Reads the content on behalf of a user: unlike the reading of headers and entries this
    /// is an access to the file.
    pub fn read(&self, offset: u64, buf: &mut [u8]) -> Result<usize, VolumeError> {
        if !self.was_read.load(Ordering::Acquire) {
            self.disk().count_reads()?;
            self.was_read.store(true, Ordering::Release);
        }
        self.file().read(offset, buf)
    }

    /// Whether a handle is open that may write.
    pub fn has_writers(&self) -> bool {
        self.writers.load(Ordering::Acquire) > 0
    }

    /// One more handle may write.
    pub fn add_writer(&self) {
        self.writers.fetch_add(1, Ordering::AcqRel);
    }

    /// One handle less may write; true for the last one.
    pub fn remove_writer(&self) -> bool {
        self.writers.fetch_sub(1, Ordering::AcqRel) == 1
    }

    /// Brings the header up to date and puts back the modification time: what is no change of
    /// the content must not undo a `utimensat`.
    pub fn settle(
        &self,
        in_use: bool,
        wrap: impl FnOnce(VolumeError) -> FsError,
    ) -> Result<(), FsError> {
        {
            let _modifying = lock(&self.modifying);
            if self.file().is_settled(in_use) {
                let stat = self.disk().stat().at(self.node)?;
                self.stamp.store(stamp(&stat), Ordering::Relaxed);
                return Ok(());
            }
        }
        self.keep_time(|file| file.settle_while(in_use).map_err(wrap))
    }

    /// Writes what is no change of the content, and puts back the modification time.
    pub fn keep_time(
        &self,
        write: impl FnOnce(&EncryptedFile) -> Result<(), FsError>,
    ) -> Result<(), FsError> {
        let _modifying = lock(&self.modifying);
        let disk = self.disk();
        let before = disk.stat().at(self.node);
        // Whatever `stat` says: without it the file would not open again.
        write(self.file())?;
        let (before, after) = (before?, disk.stat().at(self.node)?);
        self.stamp.store(stamp(&after), Ordering::Relaxed);
        if after.mtime == before.mtime {
            return Ok(());
        }
        self.stamp.store(stamp(&Stat { mtime: before.mtime, ..after }), Ordering::Relaxed);
        let mtime = TimeSet::At { secs: before.mtime.secs, nanos: before.mtime.nanos };
        disk.set_times(TimeSet::Omit, mtime).at(self.node)
    }

    fn ready(&self) -> &Ready {
        self.ready.get().expect("only open files are handed out")
    }
}

impl InodeUse {
    /// The open file.
    pub fn inode(&self) -> &Arc<OpenInode> {
        &self.inode
    }
}

impl Drop for InodeUse {
    fn drop(&mut self) {
        let mut shard = lock(self.table.shard(self.inode.object));
        let Some(entry) = shard.get_mut(&self.inode.object) else { return };
        entry.users -= 1;
        if entry.users == 0 {
            // Whoever opens it next has to know how it was left; only letting go of the backing
            // file, which may take long, comes after the lock.
            if let Some(ready) = self.inode.ready.get() {
                ready.file.end();
            }
            let closed = shard.remove(&self.inode.object);
            drop(shard);
            drop(closed);
        }
    }
}

/// What changes when somebody writes to the backing file: its size and modification time, mixed
/// into one number that is not 0.
pub(super) fn stamp(stat: &Stat) -> u64 {
    let time = stat.mtime.secs.cast_unsigned() ^ u64::from(stat.mtime.nanos).rotate_left(34);
    let mixed = time.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ stat.size.rotate_left(17);
    mixed.max(1)
}

const SHARDS: usize = 64;
/// As much as all threads may have in hand.
const OVERTAKEN: u64 = 16 << 20;
