//! Files that are open: one entry for each object, shared by all its handles, so that there is
//! one size, one set of locks and one DEK. An entry is there for as long as somebody uses it, and
//! idle for a moment longer: programs open the same files again and again, and what is open
//! already need not be opened, read and unlocked anew. But the key's provider is asked at each
//! opening, and whether the backing file is where and as it was left.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, RwLock, TryLockError};
use std::time::{Duration, Instant};

use lru::LruCache;

use super::error::At;
use super::locks::{lock, read, shard, write};
use super::nodes::ObjectId;
use super::write_out::WriteOut;
use super::{FsError, NodeId};
use crate::store::disk::DiskFile;
use crate::store::tree::{Stat, TimeSet};
use crate::volume::{EncryptedFile, VolumeError};

/// All open files, by object.
pub struct OpenTable {
    shards: Box<[Mutex<Shard>]>,
    /// So many idle files a shard has at most.
    idle_in_shard: usize,
}

struct Shard {
    used: HashMap<ObjectId, Entry>,
    /// Files that nobody uses, the one longest unused first to go.
    idle: LruCache<ObjectId, Arc<OpenInode>>,
    /// Files that were closed after the only use of them, the latest last. Who reads or makes a
    /// whole tree comes back to none of its files soon: only what is used again is kept.
    seen: VecDeque<ObjectId>,
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
    write_out: WriteOut,
    writers: AtomicU32,
    stamp: AtomicU64,
    /// Whether a user has read, so that the access time counts.
    was_read: AtomicBool,
    /// Whether it is known to have no `security.capability`.
    bare: AtomicBool,
    /// Where the file ends, as far as writes and cuts have told.
    end: AtomicU64,
    /// The backing file as it was when it was opened, or last settled, with the time of its last
    /// change of any kind.
    left: AtomicU64,
    /// How often the file had changed it by then.
    left_after: AtomicU64,
    /// It has been idle, and nobody has seen since that its backing file is as it was left.
    idle: AtomicBool,
    /// It has been idle ever.
    often: AtomicBool,
    /// It is closed when nobody uses it any more.
    given_up: AtomicBool,
    /// It has no name any more: nothing of it is to be written.
    unlinked: AtomicBool,
    /// How often idle files were closed since somebody opened it.
    rounds: AtomicU8,
}

/// One use of an open file; after the last one it is closed, at once or in a moment. The file is
/// not closed, and opened anew beside it, while a use is held.
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
    since: Instant,
}

impl OpenTable {
    /// With no open files. Of those that nobody uses any more it keeps up to `idle` open.
    pub fn new(idle: usize) -> Self {
        let shards = (0..SHARDS).map(|_| Mutex::new(Shard::new())).collect();
        Self { shards, idle_in_shard: idle / SHARDS }
    }

    /// One more use of the object, which its user opens if nobody has. An idle one is to be
    /// looked at first. `None` while one is still used that was given up when it was looked at:
    /// uses of it must come to an end, and then it is closed.
    pub fn claim(self: &Arc<Self>, node: NodeId, object: ObjectId) -> Option<InodeUse> {
        let mut shard = lock(self.shard(object));
        shard.wake(object);
        let entry = shard
            .used
            .entry(object)
            .or_insert_with(|| Entry { inode: Arc::new(OpenInode::new(node, object)), users: 0 });
        let inode = &entry.inode;
        let is_ending = inode.is_unlinked() || inode.is_idle() && inode.is_given_up();
        (entry.users == 0 || !is_ending).then(|| self.used(entry))
    }

    /// Marks an object that has no name any more, if it has one user only: nothing of it is to be
    /// written, and nobody joins that user.
    pub fn end_unlinked(&self, object: ObjectId) -> bool {
        let mut shard = lock(self.shard(object));
        let Some(entry) = shard.used.get(&object).filter(|entry| entry.users == 1) else {
            return false;
        };
        entry.inode.unlinked.store(true, Ordering::Release);
        shard.give_up(object);
        true
    }

    /// One more use of the object, if somebody has it open.
    pub fn find(self: &Arc<Self>, object: ObjectId) -> Option<InodeUse> {
        let mut shard = lock(self.shard(object));
        let entry = shard.used.get_mut(&object);
        entry.filter(|entry| entry.inode.is_in_use()).map(|it| self.used(it))
    }

    /// How often the object is in use: open, or about to be.
    pub fn users(&self, object: ObjectId) -> usize {
        lock(self.shard(object)).used.get(&object).map_or(0, |entry| entry.users)
    }

    /// One more use of the object, if it is open, be it idle.
    pub fn find_or_wake(self: &Arc<Self>, object: ObjectId) -> Option<InodeUse> {
        let mut shard = lock(self.shard(object));
        shard.wake(object);
        let entry = shard.used.get_mut(&object);
        let is_there = |entry: &&mut Entry| entry.inode.is_ready() && !entry.inode.is_unlinked();
        entry.filter(is_there).map(|it| self.used(it))
    }

    /// One more use of each file that somebody has open at this time.
    pub fn all(self: &Arc<Self>) -> Vec<InodeUse> {
        let mut all = Vec::new();
        for shard in &self.shards {
            let mut shard = lock(shard);
            let ready = shard.used.values_mut().filter(|entry| entry.inode.is_in_use());
            all.extend(ready.map(|entry| self.used(entry)));
        }
        all
    }

    /// The object has lost a name: it is closed as soon as nobody uses it, so that its space is
    /// free if that was its last one.
    pub fn let_go(&self, object: ObjectId) {
        let mut shard = lock(self.shard(object));
        shard.give_up(object);
        let closed = shard.end_idle(object);
        drop(shard);
        drop(closed);
    }

    /// Closes idle files that nobody has opened since the last time but one.
    pub fn close_idle(&self) {
        self.close_where(|inode| inode.rounds.fetch_add(1, Ordering::Relaxed) >= ROUNDS_KEPT);
    }

    /// Closes all idle files.
    pub fn close_all_idle(&self) {
        self.close_where(|_| true);
    }

    fn close_where(&self, close: impl Fn(&OpenInode) -> bool) {
        for shard in &self.shards {
            let due: Vec<_> = {
                let shard = lock(shard);
                let due = shard.idle.iter().filter(|(_, inode)| close(inode));
                due.map(|(object, _)| *object).collect()
            };
            for object in due {
                let mut shard = lock(shard);
                let closed = shard.end_idle(object);
                drop(shard);
                drop(closed);
            }
        }
    }

    fn used(self: &Arc<Self>, entry: &mut Entry) -> InodeUse {
        entry.users += 1;
        InodeUse { table: Arc::clone(self), inode: Arc::clone(&entry.inode) }
    }

    /// How many objects are open, with those that are idle.
    pub fn len(&self) -> usize {
        let len = |shard: MutexGuard<'_, Shard>| shard.used.len() + shard.idle.len();
        self.shards.iter().map(|shard| len(lock(shard))).sum()
    }

    fn shard(&self, object: ObjectId) -> &Mutex<Shard> {
        shard(&self.shards, object.ino)
    }
}

impl Shard {
    fn new() -> Self {
        let (used, idle) = (HashMap::new(), LruCache::unbounded());
        Self { used, idle, seen: VecDeque::new() }
    }

    /// Has an object closed as soon as nobody uses it. Its number may be another one's soon.
    fn give_up(&mut self, object: ObjectId) {
        if let Some(entry) = self.used.get(&object) {
            entry.inode.give_up();
        }
        self.seen.retain(|seen| *seen != object);
    }

    /// Ends an idle file, which is to be dropped without the lock.
    fn end_idle(&mut self, object: ObjectId) -> Option<Arc<OpenInode>> {
        self.idle.pop(&object).inspect(|inode| inode.end())
    }

    /// Whether the object was closed after a use of it lately; if not, it is one that was from now
    /// on. Of `most` this is known.
    fn sees_again(&mut self, object: ObjectId, most: usize) -> bool {
        if self.seen.contains(&object) {
            return true;
        }
        if self.seen.len() >= most {
            self.seen.pop_front();
        }
        self.seen.push_back(object);
        false
    }

    /// Takes a file that nobody uses any more; the one that makes room for it is to be closed.
    fn rest(&mut self, inode: Arc<OpenInode>, most: usize) -> Option<Arc<OpenInode>> {
        inode.idle.store(true, Ordering::Release);
        inode.often.store(true, Ordering::Relaxed);
        // Who gives it a capability does not look for idle files.
        inode.set_bare(false);
        self.idle.put(inode.object, inode);
        let is_full = self.idle.len() > most;
        is_full.then(|| self.idle.pop_lru()).flatten().map(|(_, inode)| inode)
    }

    /// Puts an idle file among the used ones, for somebody who is about to use it.
    fn wake(&mut self, object: ObjectId) {
        if !self.idle.is_empty()
            && let Some(inode) = self.idle.pop(&object)
        {
            self.used.insert(object, Entry { inode, users: 0 });
        }
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
            write_out: WriteOut::default(),
            writers: AtomicU32::new(0),
            stamp: AtomicU64::new(0),
            was_read: AtomicBool::new(false),
            bare: AtomicBool::new(false),
            end: AtomicU64::new(0),
            left: AtomicU64::new(0),
            left_after: AtomicU64::new(0),
            idle: AtomicBool::new(false),
            often: AtomicBool::new(false),
            given_up: AtomicBool::new(false),
            unlinked: AtomicBool::new(false),
            rounds: AtomicU8::new(0),
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
        self.end.store(file.size(), Ordering::Relaxed);
        let ready = Ready { file, disk: RwLock::new(disk), since: Instant::now() };
        let fresh = self.ready.set(ready);
        assert!(fresh.is_ok(), "openers exclude each other and look first");
        self.note_left(stat);
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

    /// How it was written last.
    pub fn write_out(&self) -> &WriteOut {
        &self.write_out
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
                self.note_seen(&self.disk().stat().at(self.node)?);
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
        let is_left = |stat: &Stat| mark(stat) == self.left.load(Ordering::Relaxed);
        if !self.is_changed() && !before.as_ref().is_ok_and(is_left) {
            // Somebody else has changed it, which is not to be seen any more once this has written.
            self.give_up();
        }
        // Whatever `stat` says: without it the file would not open again.
        write(self.file())?;
        let (before, after) = (before?, disk.stat().at(self.node)?);
        if after.mtime == before.mtime {
            self.note_seen(&after);
            return Ok(());
        }
        let mtime = TimeSet::At { secs: before.mtime.secs, nanos: before.mtime.nanos };
        disk.set_times(TimeSet::Omit, mtime).at(self.node)?;
        self.note_left(&disk.stat().at(self.node)?);
        Ok(())
    }

    /// Whether the file has changed its backing file since it was noted how that is left.
    fn is_changed(&self) -> bool {
        self.file().changes() != self.left_after.load(Ordering::Relaxed)
    }

    /// Notes what the backing file looks like; if other than it was left and not by a change of
    /// this file, then somebody else has changed it.
    fn note_seen(&self, stat: &Stat) {
        match self.is_changed() {
            true => self.note_left(stat),
            false => self.stamp.store(stamp(stat), Ordering::Relaxed),
        }
    }

    fn note_left(&self, stat: &Stat) {
        self.stamp.store(stamp(stat), Ordering::Relaxed);
        self.left.store(mark(stat), Ordering::Relaxed);
        self.left_after.store(self.file().changes(), Ordering::Relaxed);
    }

    /// Whether it was idle, and is to be looked at before it is used.
    pub fn is_idle(&self) -> bool {
        self.idle.load(Ordering::Acquire)
    }

    /// Whether an idle file may be used again: it was opened less than `age` ago, and `stat` is
    /// what it was left as. `node` is the number that it is known by now.
    pub fn is_as_left(&self, node: NodeId, stat: &Stat, age: Duration) -> bool {
        let is_same = self.node == node && self.object == ObjectId::of(stat);
        is_same
            && mark(stat) == self.left.load(Ordering::Relaxed)
            && self.ready().since.elapsed() < age
    }

    /// It is as it was left, and in use again; only under [`Self::open_alone`].
    pub fn note_awake(&self) {
        self.idle.store(false, Ordering::Release);
    }

    /// Somebody was allowed to open it.
    pub fn note_opened(&self) {
        self.rounds.store(0, Ordering::Relaxed);
    }

    /// Has it closed as soon as nobody uses it.
    pub fn give_up(&self) {
        self.given_up.store(true, Ordering::Release);
    }

    /// Whether it is closed as soon as nobody uses it.
    pub fn is_given_up(&self) -> bool {
        self.given_up.load(Ordering::Acquire)
    }

    fn is_unlinked(&self) -> bool {
        self.unlinked.load(Ordering::Acquire)
    }

    fn is_often(&self) -> bool {
        self.often.load(Ordering::Relaxed)
    }

    fn is_in_use(&self) -> bool {
        self.is_ready() && !self.is_idle() && !self.is_unlinked()
    }

    /// Whether it may be idle. Of what it keeps in memory there is little then.
    fn rests(&self) -> bool {
        !self.is_given_up() && self.ready.get().is_some_and(|ready| ready.file.rest())
    }

    /// Tells how the file is left, for whoever opens it next.
    fn end(&self) {
        if let Some(ready) = self.ready.get() {
            if self.is_unlinked() {
                ready.file.discard();
            }
            ready.file.end();
        }
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
        let object = self.inode.object;
        let mut shard = lock(self.table.shard(object));
        let Some(entry) = shard.used.get_mut(&object) else { return };
        entry.users -= 1;
        if entry.users > 0 {
            return;
        }
        shard.used.remove(&object);
        let (inode, most) = (Arc::clone(&self.inode), self.table.idle_in_shard);
        let closed =
            if most > 0 && inode.rests() && (inode.is_often() || shard.sees_again(object, most)) {
                shard.rest(inode, most)
            } else {
                Some(inode)
            };
        // Whoever opens it next has to know how it was left; only letting go of the backing
        // file, which may take long, comes after the lock.
        if let Some(closed) = &closed {
            closed.end();
        }
        drop(shard);
        drop(closed);
    }
}

/// What changes when somebody writes to the backing file: its size and modification time, mixed
/// into one number that is not 0.
pub(super) fn stamp(stat: &Stat) -> u64 {
    let time = stat.mtime.secs.cast_unsigned() ^ u64::from(stat.mtime.nanos).rotate_left(34);
    let mixed = time.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ stat.size.rotate_left(17);
    mixed.max(1)
}

/// The same with the time of the last change of its attributes.
fn mark(stat: &Stat) -> u64 {
    let time = stat.ctime.secs.cast_unsigned() ^ u64::from(stat.ctime.nanos).rotate_left(34);
    stamp(stat) ^ time.wrapping_mul(0xd6e8_feb8_6659_fd93)
}

const SHARDS: usize = 64;
/// With a round each second a file stays open for one to two seconds.
const ROUNDS_KEPT: u8 = 1;
/// As much as all threads may have in hand.
const OVERTAKEN: u64 = 16 << 20;
