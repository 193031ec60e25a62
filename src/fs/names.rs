//! Removing, renaming and linking names. Before a name goes, the object behind it is pinned by
//! a descriptor, so that what the kernel still knows of it stays reachable; where no descriptor
//! can be had, the name goes all the same.

use std::ffi::OsStr;
use std::io;
use std::sync::Arc;

use rustix::io::Errno;

use super::error::{At, is_errno, refused};
use super::nodes::{ObjectId, Target};
use super::pinned::Pinned;
use super::reach::lacks_descriptors;
use super::{Entry, FileSystem, FsError, NodeId, check_new_name, check_old_name};
use crate::store::tree::{DirFd, FileKind, RenameMode};
use crate::sys::fail_point;

impl FileSystem {
    /// Removes a name of anything but a directory.
    pub fn unlink(&self, parent: NodeId, name: &OsStr) -> Result<(), FsError> {
        self.counters.count(|counts| &counts.removals);
        self.remove(parent, name, |directory| self.tree.unlink(directory, name))
    }

    /// Removes an empty directory.
    pub fn remove_directory(&self, parent: NodeId, name: &OsStr) -> Result<(), FsError> {
        self.counters.count(|counts| &counts.removals);
        self.remove(parent, name, |directory| self.tree.rmdir(directory, name))
    }

    /// Renames, with the flags of `renameat2(2)` but `RENAME_WHITEOUT`.
    pub fn rename(
        &self,
        parent: NodeId,
        name: &OsStr,
        new_parent: NodeId,
        new_name: &OsStr,
        flags: u32,
    ) -> Result<(), FsError> {
        self.counters.count(|counts| &counts.renames);
        self.check_writable()?;
        check_old_name(parent, name)?;
        check_new_name(new_parent, new_name)?;
        let mode = RenameMode::from_raw(flags).at(parent)?;
        let (from, to) = (self.directory(parent)?, self.directory(new_parent)?);
        let moved = self.tree.stat(&from, name).at(parent)?;
        let there = match mode {
            RenameMode::NoReplace => None,
            RenameMode::Replace | RenameMode::Exchange => match self.target(&to, new_name) {
                Ok(target) => Some(target),
                Err(error) if is_errno(&error, Errno::NOENT) => None,
                Err(source) => return Err(FsError::Backing { node: new_parent, source }),
            },
        };
        if let Some(target) = &there {
            let exchanged = (mode == RenameMode::Exchange).then_some(target);
            self.sync_before_rename(&moved, exchanged)?;
        }
        fail_point::hit("fs.rename.after_sync");

        let rename = self.nodes.renames().begin();
        self.tree.rename(&from, name, &to, new_name, mode).at(parent)?;
        rename.applied();

        let moved = ObjectId::of(&moved);
        let (old, new) = ((parent, name), (new_parent, new_name));
        match there {
            // Two names of one object: nothing was renamed.
            Some(target) if target.object == moved => return Ok(()),
            Some(target) if mode == RenameMode::Exchange => {
                self.nodes.moved(target.object, new, old);
            }
            Some(target) => self.gone(new_parent, new_name, target),
            None => {}
        }
        self.nodes.moved(moved, old, new);
        Ok(())
    }

    /// Gives an object one more name.
    pub fn link(
        &self,
        node: NodeId,
        new_parent: NodeId,
        new_name: &OsStr,
    ) -> Result<Entry, FsError> {
        self.counters.count(|counts| &counts.links);
        self.check_writable()?;
        check_new_name(new_parent, new_name)?;
        let (_, kind) = self.nodes.object(node).ok_or(FsError::Stale { node })?;
        if kind == FileKind::Directory {
            return refused(node, Errno::PERM);
        }
        let directory = self.directory(new_parent)?;
        let reached = self.locate(node)?;
        let Some(located) = reached.located() else { return Err(FsError::Stale { node }) };
        let seen = self.nodes.renames().seen();
        located.link_to(&directory, new_name).at(node)?;
        let stat = located.stat().at(node)?;
        self.enter(new_parent, &directory, new_name, stat, seen)
    }

    fn remove(
        &self,
        parent: NodeId,
        name: &OsStr,
        remove: impl FnOnce(&DirFd) -> io::Result<()>,
    ) -> Result<(), FsError> {
        self.check_writable()?;
        check_old_name(parent, name)?;
        let directory = self.directory(parent)?;
        // Readers that come between the removal and the table's learning of it try again.
        let _change = self.nodes.renames().begin();
        let target = self.target(&directory, name).at(parent)?;
        remove(&directory).at(parent)?;
        self.gone(parent, name, target);
        Ok(())
    }

    /// What a name leads to, pinned if that can be.
    fn target(&self, directory: &Arc<DirFd>, name: &OsStr) -> io::Result<Target> {
        let located = match self.with_room(|| self.tree.locate(directory, name)) {
            Ok(located) => located,
            Err(error) if lacks_descriptors(&error) => {
                let stat = self.tree.stat(directory, name)?;
                let (object, kind) = (ObjectId::of(&stat), stat.kind());
                return Ok(Target { object, kind, pinned: None });
            }
            Err(error) => return Err(error),
        };
        let stat = located.stat()?;
        let (object, kind) = (ObjectId::of(&stat), stat.kind());
        let pinned = if kind != FileKind::Directory {
            Some(Pinned::Other(located))
        } else {
            let known = self.nodes.node_of(object).and_then(|node| self.directories.find(node));
            let open = || self.tree.open_dir(directory, name);
            let opened = || self.with_room(open).ok().map(Arc::new);
            known.or_else(opened).map(Pinned::Directory)
        };
        Ok(Target { object, kind, pinned })
    }

    fn gone(&self, parent: NodeId, name: &OsStr, target: Target) {
        if matches!(target.pinned, Some(Pinned::Directory(_)))
            && let Some(node) = self.nodes.node_of(target.object)
        {
            self.directories.remove(node);
        }
        if self.drop_lingering(target.object) {
            return;
        }
        self.open.let_go(target.object);
        self.nodes.removed(parent, name, target);
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Fixture, ROOT_CALLER, os};
    use super::super::{AttributeChange, DirectoryEntry, DirectorySink, TimeChange, Timestamp};
    use super::*;

    const ROOT: NodeId = NodeId::ROOT;

    struct NoRoom;

    impl DirectorySink for NoRoom {
        fn add(&mut self, _: &DirectoryEntry<'_>) -> bool {
            false
        }
    }

    #[test]
    fn renames_carry_nodes_and_what_is_below_them() {
        let fx = Fixture::new();
        let directory =
            |name| fx.fs.make_directory(ROOT_CALLER, ROOT, os(name), 0o755, 0).unwrap().node;
        let (a, b) = (directory("a"), directory("b"));
        let file = fx.create(a, "file", b"text");
        fx.fs.rename(ROOT, os("a"), b, os("c"), libc::RENAME_NOREPLACE).unwrap();
        assert_eq!(fx.fs.nodes.path(file).to_str(), Some("b/c/file"));
        fx.fs.directories.remove(a);
        assert_eq!(fx.content(file), b"text");

        let other = fx.create(b, "other", b"swapped");
        fx.fs.rename(a, os("file"), b, os("other"), libc::RENAME_EXCHANGE).unwrap();
        assert_eq!((fx.content(file), fx.content(other)), (b"text".into(), b"swapped".into()));
        assert_eq!(fx.fs.nodes.path(other).to_str(), Some("b/c/file"));

        fx.fs.rename(a, os("file"), b, os("other"), 0).unwrap();
        assert_eq!((fx.content(file), fx.content(other)), (b"text".into(), b"swapped".into()));
        assert_eq!(fx.fs.attributes(file, None).unwrap().nlink, 0);
        let whiteout = fx.fs.rename(b, os("other"), b, os("x"), libc::RENAME_WHITEOUT);
        assert!(whiteout.unwrap_err().is(Errno::INVAL));
        let there = fx.fs.rename(b, os("other"), b, os("c"), libc::RENAME_NOREPLACE);
        assert!(there.unwrap_err().is(Errno::EXIST));
    }

    #[test]
    fn a_rename_between_names_of_one_file_keeps_both() {
        let fx = Fixture::new();
        let file = fx.create(ROOT, "a", b"text");
        assert_eq!(fx.fs.link(file, ROOT, os("b")).unwrap().node, file);
        fx.fs.rename(ROOT, os("a"), ROOT, os("b"), 0).unwrap();
        assert_eq!(fx.fs.nodes.place(file).unwrap().names.len(), 2);
        for name in ["a", "b"] {
            fx.fs.unlink(ROOT, os(name)).unwrap();
            assert_eq!(fx.content(file), b"text");
        }
    }

    #[test]
    fn everything_works_on_what_has_no_name_any_more() {
        let fx = Fixture::new();
        let file = fx.create(ROOT, "file", b"text");
        let link = fx.fs.make_symlink(ROOT_CALLER, ROOT, os("link"), os("target")).unwrap().node;
        fx.fs.unlink(ROOT, os("file")).unwrap();
        fx.fs.unlink(ROOT, os("link")).unwrap();
        assert_eq!(fx.fs.read_link(link).unwrap(), b"target");
        let change = AttributeChange {
            mode: Some(0o640),
            size: Some(2),
            mtime: Some(TimeChange::At(Timestamp { secs: 5, nanos: 6 })),
            ..Default::default()
        };
        let shown = fx.fs.set_attributes(ROOT_CALLER, file, None, &change).unwrap();
        assert_eq!((shown.mode & 0o7777, shown.size, shown.nlink), (0o640, 2, 0));
        assert_eq!(shown.mtime, Timestamp { secs: 5, nanos: 6 });
        fx.fs.set_xattr(ROOT_CALLER, file, os("user.x"), b"1", 0).unwrap();
        assert_eq!(fx.fs.xattr(ROOT_CALLER, file, os("user.x")).unwrap(), b"1");
        let handle = fx.fs.open(ROOT_CALLER, file, libc::O_RDWR).unwrap().handle;
        fx.fs.write(handle, 2, b"after", false).unwrap();
        fx.fs.sync(handle, false).unwrap();
        fx.fs.release(handle).unwrap();
        assert_eq!(fx.content(file), b"teafter");
        assert!(fx.fs.link(file, ROOT, os("back")).unwrap_err().is_not_found());
    }

    #[test]
    fn a_removed_directory_is_empty_and_takes_nothing() {
        let fx = Fixture::new();
        let directory = fx.fs.make_directory(ROOT_CALLER, ROOT, os("d"), 0o755, 0).unwrap().node;
        fx.fs.remove_directory(ROOT, os("d")).unwrap();
        assert_eq!(fx.fs.attributes(directory, None).unwrap().nlink, 0);
        assert!(fx.fs.lookup(ROOT_CALLER, directory, os("x")).unwrap_err().is_not_found());
        let made = fx.fs.make_directory(ROOT_CALLER, directory, os("x"), 0o755, 0);
        assert!(made.unwrap_err().is_not_found());
        fx.fs.open_directory(ROOT_CALLER, directory).unwrap();
        let read = fx.fs.read_directory(ROOT_CALLER, directory, 0, false, &mut NoRoom);
        assert!(read.unwrap_err().is_not_found(), "as getdents(2) answers, and readdir(3) ends");
    }

    #[test]
    fn errors_are_those_of_the_store() {
        let fx = Fixture::new();
        let directory = fx.fs.make_directory(ROOT_CALLER, ROOT, os("d"), 0o755, 0).unwrap().node;
        fx.create(directory, "file", b"");
        assert!(fx.fs.remove_directory(ROOT, os("d")).unwrap_err().is(Errno::NOTEMPTY));
        assert!(fx.fs.unlink(ROOT, os("d")).unwrap_err().is(Errno::ISDIR));
        assert!(fx.fs.remove_directory(directory, os("file")).unwrap_err().is(Errno::NOTDIR));
        assert!(fx.fs.unlink(ROOT, os("none")).unwrap_err().is_not_found());
        assert!(fx.fs.rename(ROOT, os("none"), ROOT, os("x"), 0).unwrap_err().is_not_found());
        assert!(fx.fs.link(directory, ROOT, os("x")).unwrap_err().is(Errno::PERM));
        let long = "n".repeat(256);
        let found = fx.fs.lookup(ROOT_CALLER, ROOT, os(&long));
        assert!(found.unwrap_err().is(Errno::NAMETOOLONG));
    }
}
