//! Changes of attributes: permissions, owners, sizes, times.

use rustix::io::Errno;

use super::error::{At, refused};
use super::open::Purpose;
use super::open_table::OpenInode;
use super::pinned::Reached;
use super::{AttributeChange, Attributes, FileSystem, FsError, Handle, NodeId, TimeChange, Wanted};
use crate::format::MAX_PLAIN_SIZE;
use crate::keys::Caller;
use crate::store::tree::{Stat, TimeSet};

impl FileSystem {
    /// Changes attributes, in the order owner, permissions, size, times.
    pub fn set_attributes(
        &self,
        caller: Caller,
        node: NodeId,
        handle: Option<Handle>,
        change: &AttributeChange,
    ) -> Result<Attributes, FsError> {
        self.counters.count(|counts| &counts.changes);
        self.check_writable()?;
        if !change.may_be_a_flush() {
            self.admit(caller, node)?;
        }
        if let Some(stat) = self.with_times_as_asked(node, handle, change)? {
            return Ok(self.shown(&stat));
        }
        let handle = handle.and_then(|handle| self.files.find(handle));
        let reached = match &handle {
            Some(file) => Reached::Open(file.inode().disk()),
            None => self.reach(node)?,
        };
        if change.uid.is_some() || change.gid.is_some() {
            reached.chown(change.uid, change.gid).at(node)?;
        }
        if let Some(mode) = change.mode {
            reached.chmod(mode).at(node)?;
        }
        if let Some(size) = change.size {
            match handle.filter(|file| file.writable) {
                Some(file) => self.truncate(caller, file.inode(), size)?,
                None => self.truncate_by_name(caller, node, size)?,
            }
        }
        if change.atime.is_some() || change.mtime.is_some() {
            let (atime, mtime) = (time_set(change.atime), time_set(change.mtime));
            let set = || reached.set_times(atime, mtime).at(node);
            // Its header may be written this very moment, after a close that nobody waits for.
            match self.open_now(node) {
                Some(open) => open.inode().set_times(set)?,
                None => set()?,
            }
        }
        Ok(self.shown(&reached.stat().at(node)?))
    }

    /// The attributes of an object that has the times already that the kernel flushes. After
    /// each change of a name it does so with what it has been told before, and with its own time
    /// of the change, which the object underneath got by that change.
    fn with_times_as_asked(
        &self,
        node: NodeId,
        handle: Option<Handle>,
        change: &AttributeChange,
    ) -> Result<Option<Stat>, FsError> {
        let AttributeChange {
            mode: None,
            uid: None,
            gid: None,
            size: None,
            atime: None,
            mtime: Some(TimeChange::At(mtime)),
            ctime: Some(ctime),
        } = *change
        else {
            return Ok(None);
        };
        // With a handle it is the flush after a write, by which the times have changed.
        if handle.is_some() {
            return Ok(None);
        }
        let stat = self.stat(node)?;
        let shown = self.shown(&stat);
        Ok((shown.mtime == mtime && shown.ctime >= ctime).then_some(stat))
    }

    /// Sets the size of an open file on behalf of `caller`.
    pub(super) fn truncate(
        &self,
        caller: Caller,
        inode: &OpenInode,
        size: u64,
    ) -> Result<(), FsError> {
        let node = inode.node();
        if size > MAX_PLAIN_SIZE.0 {
            return refused(node, Errno::FBIG);
        }
        let disk = inode.disk();
        let before = disk.stat().at(node)?;
        if caller.uid != 0 && without_set_ids(before.mode) != before.mode {
            disk.chmod(without_set_ids(before.mode)).at(node)?;
        }
        inode
            .change(|file| file.set_size(size))
            .map_err(|source| self.volume_error(node, source))?;
        inode.ends_at(size);
        // A size that stays wrote nothing underneath, and is a change of the file all the same.
        if disk.stat().at(node)?.mtime == before.mtime {
            disk.set_times(TimeSet::Omit, TimeSet::Now).at(node)?;
        }
        Ok(())
    }

    fn truncate_by_name(&self, caller: Caller, node: NodeId, size: u64) -> Result<(), FsError> {
        let used = self.open_inode(caller, node, Purpose::Write, Wanted::WRITE, None)?;
        let inode = used.inode();
        inode.add_writer();
        let truncated = self.truncate(caller, inode, size);
        let settled = if inode.remove_writer() { self.settle(inode, false) } else { Ok(()) };
        self.note_closed(inode);
        truncated.and(settled)
    }
}

impl AttributeChange {
    /// Whether it may be the kernel's own flush of times, which comes in the name of whoever is
    /// about, or nothing at all.
    fn may_be_a_flush(&self) -> bool {
        let AttributeChange { mode: None, uid: None, gid: None, size: None, atime: None, .. } =
            self
        else {
            return false;
        };
        match self.mtime {
            None => true,
            Some(TimeChange::At(_)) => self.ctime.is_some(),
            Some(TimeChange::Now) => false,
        }
    }
}

/// The mode that a change without privilege leaves: no set-user-id bit, and no set-group-id bit
/// where the group may execute. Without that it stands for something else.
pub(super) fn without_set_ids(mode: u32) -> u32 {
    if mode & libc::S_IFMT != libc::S_IFREG {
        return mode;
    }
    let cleared = mode & !libc::S_ISUID;
    if mode & libc::S_IXGRP != 0 { cleared & !libc::S_ISGID } else { cleared }
}

fn time_set(change: Option<TimeChange>) -> TimeSet {
    match change {
        None => TimeSet::Omit,
        Some(TimeChange::Now) => TimeSet::Now,
        Some(TimeChange::At(time)) => TimeSet::At { secs: time.secs, nanos: time.nanos },
    }
}

/// The permission bits with set-user-id, set-group-id and sticky.
pub(super) fn permission_bits(stat: &Stat) -> u32 {
    stat.mode & 0o7777
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Fixture, ROOT_CALLER, USER, os};
    use super::super::{Timestamp, change::permission_bits};
    use super::*;

    #[test]
    fn sizes_change_with_and_without_a_handle() {
        let fx = Fixture::new();
        let file = fx.create(NodeId::ROOT, "file", b"0123456789");
        let set = |size, handle| {
            let change = AttributeChange { size: Some(size), ..Default::default() };
            fx.fs.set_attributes(ROOT_CALLER, file, handle, &change)
        };
        assert_eq!(set(4, None).unwrap().size, 4);
        let handle = fx.fs.open(ROOT_CALLER, file, libc::O_RDWR).unwrap().handle;
        assert_eq!(set(6, Some(handle)).unwrap().size, 6);
        assert_eq!(fx.content(file), b"0123\0\0");
        fx.fs.release(handle).unwrap();
        assert!(set(u64::MAX, None).unwrap_err().is(Errno::FBIG));
        assert_eq!(fx.in_use(), 0);
    }

    #[test]
    fn a_size_that_stays_is_a_change_all_the_same() {
        let fx = Fixture::new();
        let file = fx.create(NodeId::ROOT, "file", b"0123");
        let old = TimeChange::At(Timestamp { secs: 1, nanos: 0 });
        let change = AttributeChange { mtime: Some(old), ..Default::default() };
        fx.fs.set_attributes(ROOT_CALLER, file, None, &change).unwrap();
        let change = AttributeChange { size: Some(4), ..Default::default() };
        let shown = fx.fs.set_attributes(ROOT_CALLER, file, None, &change).unwrap();
        assert!(shown.mtime.secs > 1);
    }

    #[test]
    fn truncation_without_privilege_clears_set_ids() {
        let fx = Fixture::new();
        let file = fx.create(NodeId::ROOT, "file", b"0123");
        let mode = AttributeChange { mode: Some(0o6755), ..Default::default() };
        fx.fs.set_attributes(ROOT_CALLER, file, None, &mode).unwrap();
        let size = AttributeChange { size: Some(1), ..Default::default() };
        let shown = fx.fs.set_attributes(ROOT_CALLER, file, None, &size).unwrap();
        assert_eq!(shown.mode & 0o7777, 0o6755);
        let shown = fx.fs.set_attributes(USER, file, None, &size).unwrap();
        assert_eq!(shown.mode & 0o7777, 0o755);
        fx.fs.set_attributes(ROOT_CALLER, file, None, &mode).unwrap();
        let flags = libc::O_WRONLY | libc::O_TRUNC;
        let handle = fx.fs.open(USER, file, flags).unwrap().handle;
        let stat = fx.fs.file(handle).unwrap().inode().disk().stat().unwrap();
        assert_eq!(permission_bits(&stat), 0o755);
        fx.fs.release(handle).unwrap();
    }

    /// After a rename the kernel flushes the times that it has, which the file has too.
    #[test]
    fn times_that_are_there_already_are_not_set_again() {
        let fx = Fixture::new();
        let file = fx.create(NodeId::ROOT, "file", b"0123");
        let before = fx.fs.attributes(file, None).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(20));
        let flush = |mtime, ctime| {
            let mtime = Some(TimeChange::At(mtime));
            let change = AttributeChange { mtime, ctime, ..Default::default() };
            fx.fs.set_attributes(ROOT_CALLER, file, None, &change).unwrap()
        };
        assert_eq!(flush(before.mtime, Some(before.ctime)), before);
        // A user who sets the same time changes the file; so does one who sets another.
        let set = flush(before.mtime, None);
        assert!(set.mtime == before.mtime && set.ctime > before.ctime);
        let later = Timestamp { secs: set.ctime.secs + 1, ..set.ctime };
        std::thread::sleep(std::time::Duration::from_millis(20));
        let again = flush(before.mtime, Some(later));
        assert!(again.mtime == before.mtime && again.ctime > set.ctime);
        let moved = Timestamp { secs: 7, nanos: 8 };
        assert_eq!(flush(moved, Some(before.ctime)).mtime, moved);
    }

    #[test]
    fn times_keep_their_nanoseconds_also_before_1970() {
        let fx = Fixture::new();
        let link = fx.fs.make_symlink(ROOT_CALLER, NodeId::ROOT, os("l"), os("t")).unwrap().node;
        for node in [fx.create(NodeId::ROOT, "file", b""), link, NodeId::ROOT] {
            let atime = Timestamp { secs: -1, nanos: 999_999_999 };
            let mtime = Timestamp { secs: 1 << 33, nanos: 1 };
            let change = AttributeChange {
                atime: Some(TimeChange::At(atime)),
                mtime: Some(TimeChange::At(mtime)),
                ..Default::default()
            };
            let shown = fx.fs.set_attributes(ROOT_CALLER, node, None, &change).unwrap();
            assert_eq!((shown.atime, shown.mtime), (atime, mtime));
        }
    }
}
