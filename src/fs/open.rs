//! Opening and closing files. Each object that is open has one [`EncryptedFile`], however many
//! threads open it at once; its backing file is open for reading and writing wherever that is
//! allowed, so that a handle for writing can be read through by the kernel's cache.
//!
//! [`EncryptedFile`]: crate::volume::EncryptedFile

use std::path::PathBuf;
use std::sync::Arc;

use rustix::io::Errno;

use super::error::{At, refused};
use super::handles::FileHandle;
use super::nodes::ObjectId;
use super::open_table::{InodeUse, OpenInode};
use super::pinned::{Pinned, Reached};
use super::reach::pause;
use super::{FileSystem, FsError, Handle, NodeId, Opened, Wanted};
use crate::format::KeyId;
use crate::keys::{Access, Caller, Operation};
use crate::store::SyncScope;
use crate::store::disk::DiskFile;
use crate::store::tree::{FileKind, OpenFlags, Stat};
use crate::sys::fail_point;

/// What an open is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    Read,
    Write,
    /// Only its header is read, without a key.
    Describe,
}

impl FileSystem {
    /// Opens a file. Of `flags` the access mode and `O_TRUNC` count.
    pub fn open(&self, caller: Caller, node: NodeId, flags: i32) -> Result<Opened, FsError> {
        self.counters.count(|counts| &counts.opens);
        let mode = OpenMode::from_flags(flags);
        if mode.writable || mode.truncate {
            self.check_writable()?;
        }
        let purpose = if mode.writable || mode.truncate { Purpose::Write } else { Purpose::Read };
        let before = self.nodes.stamp(node);
        let used = self.open_inode(caller, node, purpose, mode.wanted(), None)?;
        if !self.resized.may_open(used.inode().object()) {
            // The kernel answers by looking the name up anew, and then opens it again.
            return Err(FsError::Stale { node });
        }
        let keep_cache = before == 0 || before == used.inode().stamp();
        if mode.truncate {
            self.truncate(caller, used.inode(), 0)?;
        }
        Ok(Opened { handle: self.hold(caller, used, mode), keep_cache })
    }

    /// Counts what the kernel asks for at a close. Nothing is to be done then: what a write has
    /// brought outlives this process. The kernel does not ask again once it is told so.
    pub fn count_flush(&self) {
        self.counters.count(|counts| &counts.flushes);
    }

    /// Closes a handle. With the last one that could write, the file's header is brought up to
    /// date.
    pub fn release(&self, handle: Handle) -> Result<(), FsError> {
        self.counters.count(|counts| &counts.releases);
        let file = self.files.remove(handle).ok_or(FsError::BadHandle { handle })?;
        self.close(&file)
    }

    /// Makes a file durable.
    pub fn sync(&self, handle: Handle, data_only: bool) -> Result<(), FsError> {
        self.counters.count(|counts| &counts.syncs);
        let file = self.file(handle)?;
        self.sync_inode(file.inode(), if data_only { SyncScope::Data } else { SyncScope::All })
    }

    pub(super) fn sync_inode(&self, inode: &OpenInode, scope: SyncScope) -> Result<(), FsError> {
        let file = inode.file();
        if !file.is_writable() {
            return Ok(());
        }
        let wrap = |source| self.volume_error(inode.node(), source);
        if file.sync_in_journal(scope).map_err(wrap)? {
            return Ok(());
        }
        // First, so that the sync finds nothing to do that would need its time put back.
        self.settle(inode, true)?;
        file.sync(scope).map_err(wrap)
    }

    /// A handle on a file that was opened for `mode`.
    pub(super) fn hold(&self, caller: Caller, used: InodeUse, mode: OpenMode) -> Handle {
        if mode.writable {
            used.inode().add_writer();
        }
        self.files.insert(FileHandle {
            used,
            readable: mode.readable,
            writable: mode.writable,
            by_superuser: caller.uid == 0,
        })
    }

    /// The file of a handle.
    pub(super) fn file(&self, handle: Handle) -> Result<Arc<FileHandle>, FsError> {
        self.files.find(handle).ok_or(FsError::BadHandle { handle })
    }

    /// The file of a handle that may write.
    pub(super) fn file_to_write(&self, handle: Handle) -> Result<Arc<FileHandle>, FsError> {
        self.check_writable()?;
        self.file(handle).and_then(|file| match file.writable {
            true => Ok(file),
            false => Err(FsError::BadHandle { handle }),
        })
    }

    /// What closing means besides letting go.
    pub(super) fn close(&self, file: &FileHandle) -> Result<(), FsError> {
        let inode = file.inode();
        fail_point::hit("fs.release.before_settle");
        let is_last = file.writable && inode.remove_writer();
        let settled =
            if is_last && !self.lingers(inode) { self.settle(inode, false) } else { Ok(()) };
        self.note_left(inode);
        settled
    }

    /// Notes how a file is left whose handle was closed.
    pub(super) fn note_left(&self, inode: &OpenInode) {
        self.nodes.set_stamp(inode.node(), inode.stamp());
        self.note_closed(inode);
    }

    /// Brings the header up to date, `in_use` by somebody who goes on writing or not.
    pub(super) fn settle(&self, inode: &OpenInode, in_use: bool) -> Result<(), FsError> {
        if !inode.file().is_writable() {
            return Ok(());
        }
        inode.settle(in_use, |source| self.volume_error(inode.node(), source))
    }

    /// Opens the object of a node, or joins those who have it open, if its mode allows what is
    /// `wanted` of it. `key_id` is the CMK that
    /// its directory names, looked for here if it is wanted and not given.
    pub(super) fn open_inode(
        &self,
        caller: Caller,
        node: NodeId,
        purpose: Purpose,
        wanted: Wanted,
        key_id: Option<&KeyId>,
    ) -> Result<InodeUse, FsError> {
        let (object, kind) = self.nodes.object(node).ok_or(FsError::Stale { node })?;
        match kind {
            FileKind::Regular => {}
            FileKind::Directory => return refused(node, Errno::ISDIR),
            FileKind::Symlink => return refused(node, Errno::LOOP),
            _ => return refused(node, Errno::NXIO),
        }
        let used = self.claim(node, object)?;
        let inode = Arc::clone(used.inode());
        let _alone = inode.open_alone();
        self.check_permitted(caller, node, wanted)?;
        let path = || self.nodes.path(node);
        let access = access(caller, Operation::Open, &path, None);
        let wrap = |source| self.volume_error(node, source);
        if !inode.is_ready() {
            let (disk, stat, writable) = self.open_backing(node, object, purpose)?;
            if purpose == Purpose::Read {
                self.fetch_at_once(node, &disk, &stat);
            }
            let disk = Arc::new(disk);
            let backing = Arc::clone(&disk) as Arc<_>;
            let file = self.volume.open_file_of_size(backing, stat.size, writable, &access);
            inode.set_ready(file.map_err(wrap)?, disk, &stat);
            self.resized.opened(object, stat.size, inode.file().size(), writable);
        } else {
            inode.file().authorise(&access).map_err(wrap)?;
            if purpose == Purpose::Write && !inode.file().is_writable() {
                let (disk, stat, writable) = self.open_backing(node, object, purpose)?;
                inode.replace_disk(Arc::new(disk)).map_err(wrap)?;
                self.resized.opened(object, stat.size, inode.file().size(), writable);
            }
        }
        if purpose == Purpose::Write {
            self.prepare_write(caller, &inode, key_id)?;
        }
        inode.note_opened();
        Ok(used)
    }

    /// One more use of the object of a node. Where that is idle, and its backing file is not the
    /// one of that name any more or not as it was left, it is closed, to be opened anew.
    pub(super) fn claim(&self, node: NodeId, object: ObjectId) -> Result<InodeUse, FsError> {
        let mut round = 0;
        loop {
            if let Some(used) = self.open.claim(node, object) {
                let inode = Arc::clone(used.inode());
                if round < MOST_ROUNDS && self.is_left_over(node, &inode) {
                    drop(used);
                    self.end_lingering_of(object);
                } else {
                    let _alone = inode.open_alone();
                    if !inode.is_idle() || !inode.is_given_up() && self.awakes(node, &inode)? {
                        return Ok(used);
                    }
                }
            }
            if self.nodes.object(node).is_none_or(|(found, _)| found != object) {
                return Err(FsError::Stale { node });
            }
            pause(round);
            round = round.saturating_add(1);
        }
    }

    /// Whether the kernel has forgotten the node that it was opened by, and knows the object by
    /// another number now: it is open no longer than until it is settled.
    fn is_left_over(&self, node: NodeId, inode: &OpenInode) -> bool {
        inode.node() != node && !inode.is_idle() && self.nodes.object(inode.node()).is_none()
    }

    fn awakes(&self, node: NodeId, inode: &OpenInode) -> Result<bool, FsError> {
        let stat = self.stat_by_name(node);
        let age = self.options.idle_age;
        let awakes = stat.as_ref().is_ok_and(|stat| inode.is_as_left(node, stat, age));
        match awakes {
            true => inode.note_awake(),
            false => inode.give_up(),
        }
        stat.map(|_| awakes)
    }

    /// Sees to it that the file has a DEK, because it will be written.
    fn prepare_write(
        &self,
        caller: Caller,
        inode: &OpenInode,
        key_id: Option<&KeyId>,
    ) -> Result<(), FsError> {
        let node = inode.node();
        let found = match key_id {
            None if inode.file().size() == 0 => self.key_for(node)?,
            _ => None,
        };
        let path = || self.nodes.path(node);
        let access = access(caller, Operation::Create, &path, key_id.or(found.as_ref()));
        inode.file().prepare_write(&access).map_err(|source| self.volume_error(node, source))
    }

    /// Opens the backing file for reading and writing, or only for reading where that is all
    /// that is wanted and allowed. Tells whether it may be written.
    pub(super) fn open_backing(
        &self,
        node: NodeId,
        object: ObjectId,
        purpose: Purpose,
    ) -> Result<(DiskFile, Stat, bool), FsError> {
        let open = |flags| match self.open_backing_as(node, object, flags) {
            Err(error) if error.is(Errno::ACCESS) => self.open_as_owner(node, object, flags),
            opened => opened,
        };
        if purpose == Purpose::Read && !self.is_read_only() {
            match self.open_backing_as(node, object, OpenFlags::READ_WRITE) {
                Err(error) if may_still_be_read(&error) => {}
                opened => return opened.map(|(disk, stat)| (disk, stat, true)),
            }
        }
        let (flags, writable) = match purpose {
            Purpose::Write => (OpenFlags::READ_WRITE, true),
            Purpose::Read | Purpose::Describe => (OpenFlags::READ, false),
        };
        open(flags).map(|(disk, stat)| (disk, stat, writable))
    }

    fn open_backing_as(
        &self,
        node: NodeId,
        object: ObjectId,
        flags: OpenFlags,
    ) -> Result<(DiskFile, Stat), FsError> {
        let (fd, stat) = self.by_name(
            node,
            |pinned: Arc<Pinned>| self.with_room(|| pinned.located().reopen_with_stat(flags)),
            |directory, name| {
                let open = || self.tree.open_file_with_stat(directory, name, flags);
                let (fd, stat) = self.with_room(open)?;
                Ok(((fd, stat), stat))
            },
        )?;
        if ObjectId::of(&stat) != object {
            return Err(FsError::Stale { node });
        }
        Ok((fd.into(), stat))
    }

    /// The mode bits have allowed the open, but an owner without privilege may be denied by its
    /// own: files of mode 0200 or 0444 must open all the same.
    fn open_as_owner(
        &self,
        node: NodeId,
        object: ObjectId,
        flags: OpenFlags,
    ) -> Result<(DiskFile, Stat), FsError> {
        let reached: Reached = self.locate(node)?;
        let stat = reached.stat().at(node)?;
        if stat.uid != self.daemon.uid || stat.mode & OWNER_BITS == OWNER_BITS {
            return refused(node, Errno::ACCESS);
        }
        reached.chmod(stat.mode | OWNER_BITS).at(node)?;
        let opened = self.open_backing_as(node, object, flags);
        reached.chmod(stat.mode).at(node)?;
        opened
    }
}

/// How a file is opened, from the flags of `open(2)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct OpenMode {
    pub readable: bool,
    pub writable: bool,
    pub truncate: bool,
    /// The kernel opens it to run it.
    pub executes: bool,
}

impl OpenMode {
    pub(super) fn from_flags(flags: i32) -> Self {
        let access = flags & libc::O_ACCMODE;
        Self {
            readable: access != libc::O_WRONLY,
            writable: access != libc::O_RDONLY,
            truncate: flags & libc::O_TRUNC != 0,
            executes: flags & TO_EXECUTE != 0,
        }
    }

    fn wanted(self) -> Wanted {
        Wanted::NOTHING
            .and_if(self.executes, Wanted::EXECUTE)
            .and_if(self.readable && !self.executes, Wanted::READ)
            .and_if(self.writable || self.truncate, Wanted::WRITE)
    }
}

/// What is asked of a key provider, by whom.
pub(super) fn access<'a>(
    caller: Caller,
    operation: Operation,
    path: &'a dyn Fn() -> PathBuf,
    key_id: Option<&'a KeyId>,
) -> Access<'a> {
    Access { caller, operation, path, key_id }
}

/// Whether a file that cannot be opened for writing may be open for reading yet: for its mode,
/// a read-only or immutable backing store, or as it is being executed there.
fn may_still_be_read(error: &FsError) -> bool {
    [Errno::ACCESS, Errno::ROFS, Errno::PERM, Errno::TXTBSY].iter().any(|errno| error.is(*errno))
}

const OWNER_BITS: u32 = 0o600;
/// Some hundred milliseconds.
const MOST_ROUNDS: u32 = 2000;
/// `__FMODE_EXEC` of the kernel, which no program can give.
pub(super) const TO_EXECUTE: i32 = 0x20;

#[cfg(test)]
mod tests {
    use std::thread;

    use super::super::tests::{Fixture, ROOT_CALLER, os};
    use super::*;

    #[test]
    fn all_openers_share_one_file() {
        let fx = Fixture::new();
        let file = fx.create(NodeId::ROOT, "file", b"start");
        let handles: Vec<Handle> = thread::scope(|scope| {
            let open = || fx.fs.open(ROOT_CALLER, file, libc::O_RDWR).unwrap().handle;
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(open)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let first = fx.fs.file(handles[0]).unwrap();
        for handle in &handles {
            assert!(Arc::ptr_eq(fx.fs.file(*handle).unwrap().inode(), first.inode()));
        }
        assert_eq!(fx.fs.open.len(), 1);
        drop(first);
        for handle in handles {
            fx.fs.release(handle).unwrap();
            assert!(fx.fs.release(handle).unwrap_err().is(Errno::BADF));
        }
        assert_eq!((fx.in_use(), fx.fs.files.len()), (0, 0));
    }

    #[test]
    fn a_failed_open_leaves_nothing_open() {
        let fx = Fixture::new();
        let file = fx.create(NodeId::ROOT, "file", b"start");
        std::fs::write(fx.backing("file"), b"foreign bytes").unwrap();
        assert!(fx.fs.open(ROOT_CALLER, file, libc::O_RDONLY).unwrap_err().is(Errno::IO));
        assert_eq!((fx.in_use(), fx.fs.files.len()), (0, 0));
    }

    #[test]
    fn closing_keeps_the_time_that_was_set() {
        let fx = Fixture::new();
        let file = fx.create(NodeId::ROOT, "file", b"start");
        let handle = fx.fs.open(ROOT_CALLER, file, libc::O_RDWR).unwrap().handle;
        fx.fs.write(handle, 0, b"more than before", false).unwrap();
        let time = super::super::Timestamp { secs: -5, nanos: 123_456_789 };
        let change = super::super::AttributeChange {
            mtime: Some(super::super::TimeChange::At(time)),
            ..Default::default()
        };
        fx.fs.set_attributes(ROOT_CALLER, file, Some(handle), &change).unwrap();
        fx.fs.sync(handle, false).unwrap();
        assert_eq!(fx.fs.attributes(file, None).unwrap().mtime, time, "after fsync");
        fx.fs.release(handle).unwrap();
        assert_eq!(fx.fs.attributes(file, None).unwrap().mtime, time, "after close");
        assert_eq!(fx.content(file), b"more than before");
    }

    #[test]
    fn a_time_that_is_set_while_the_file_is_closed_stays() {
        let fx = Fixture::new();
        let file = fx.create(NodeId::ROOT, "file", b"start");
        let start = std::sync::Barrier::new(2);
        for round in 0..1000 {
            let handle = fx.fs.open(ROOT_CALLER, file, libc::O_RDWR).unwrap().handle;
            fx.fs.write(handle, round, b"x", false).unwrap();
            let time = super::super::Timestamp { secs: round.cast_signed(), nanos: 7 };
            let change = super::super::AttributeChange {
                mtime: Some(super::super::TimeChange::At(time)),
                ..Default::default()
            };
            thread::scope(|scope| {
                scope.spawn(|| {
                    start.wait();
                    fx.fs.release(handle).unwrap();
                });
                start.wait();
                fx.fs.set_attributes(ROOT_CALLER, file, None, &change).unwrap();
            });
            assert_eq!(fx.fs.attributes(file, None).unwrap().mtime, time, "round {round}");
        }
    }

    #[test]
    fn the_cache_is_kept_until_the_ciphertext_changes_underneath() {
        let fx = Fixture::new();
        let file = fx.create(NodeId::ROOT, "file", b"one");
        fx.create(NodeId::ROOT, "other", b"three");
        let kept = || {
            let opened = fx.fs.open(ROOT_CALLER, file, libc::O_RDONLY).unwrap();
            fx.fs.release(opened.handle).unwrap();
            opened.keep_cache
        };
        assert!(kept() && kept());
        std::fs::copy(fx.backing("other"), fx.backing("file")).unwrap();
        assert!(!kept());
        assert!(kept());
        assert_eq!(fx.content(file), b"three");
    }

    #[test]
    fn unlinked_files_stay_usable_until_forgotten() {
        let fx = Fixture::new();
        let file = fx.create(NodeId::ROOT, "file", b"text");
        let before = fx.in_use() + fx.open_descriptors();
        fx.fs.unlink(NodeId::ROOT, os("file")).unwrap();
        assert_eq!(fx.content(file), b"text", "opened anew");
        let attributes = fx.fs.attributes(file, None).unwrap();
        assert_eq!((attributes.nlink, attributes.size), (0, 4));
        fx.create(NodeId::ROOT, "file", b"another");
        assert_eq!(fx.content(file), b"text");
        fx.fs.forget(file, 1);
        assert_eq!(fx.in_use() + fx.open_descriptors(), before);
        assert!(fx.fs.attributes(file, None).unwrap_err().is(Errno::STALE));
    }
}
