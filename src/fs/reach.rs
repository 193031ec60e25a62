//! From a node to the object on the backing directory. Every way that leads by a name checks
//! device and inode number of what it came to; where that is another object, and a rename or
//! removal was going on meanwhile, it tries again, else the node is stale. Nothing is locked.

use std::ffi::OsStr;
use std::io;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use rustix::io::Errno;

use super::error::{At, is_errno, refused};
use super::nodes::{ObjectId, Place};
use super::open_table::InodeUse;
use super::pinned::{Pinned, Reached};
use super::{FileSystem, FsError, NodeId};
use crate::store::tree::{DirFd, FileKind, Stat};

impl FileSystem {
    /// The descriptor of a directory.
    pub(super) fn directory(&self, node: NodeId) -> Result<Arc<DirFd>, FsError> {
        if let Some(directory) = self.directories.find(node) {
            return Ok(directory);
        }
        self.retrying(node, |place| {
            if place.kind != FileKind::Directory {
                return refused(node, Errno::NOTDIR);
            }
            if let Some(Pinned::Directory(directory)) = place.pinned.as_deref() {
                return Ok(Some(Arc::clone(directory)));
            }
            let directory = match self.with_room(|| self.walk(node)) {
                Ok(Some(directory)) => Arc::new(directory),
                Ok(None) => return Ok(None),
                Err(error) if is_elsewhere(&error) => return Ok(None),
                Err(source) => return Err(FsError::Backing { node, source }),
            };
            if ObjectId::of(&directory.located().stat().at(node)?) != place.object {
                return Ok(None);
            }
            self.directories.insert(node, Arc::clone(&directory));
            Ok(Some(directory))
        })
    }

    /// The object itself, to act on.
    pub(super) fn reach(&self, node: NodeId) -> Result<Reached, FsError> {
        let (object, kind) = self.nodes.object(node).ok_or(FsError::Stale { node })?;
        if kind == FileKind::Directory {
            return self.directory(node).map(Reached::Directory);
        }
        if let Some(open) = self.open.find(object) {
            return Ok(Reached::Open(open.inode().disk()));
        }
        self.locate(node)
    }

    /// The open file of a node, if it is open.
    pub(super) fn open_now(&self, node: NodeId) -> Option<InodeUse> {
        self.nodes.object(node).and_then(|(object, _)| self.open.find(object))
    }

    /// The object itself, but never by the descriptor of an open file.
    pub(super) fn locate(&self, node: NodeId) -> Result<Reached, FsError> {
        self.by_name(
            node,
            |pinned| Ok(Reached::Pinned(pinned)),
            |directory, name| {
                let located = self.with_room(|| self.tree.locate(directory, name))?;
                let stat = located.stat()?;
                Ok((Reached::Named(located), stat))
            },
        )
    }

    /// The attributes of the object, in one system call where that can be.
    pub(super) fn stat(&self, node: NodeId) -> Result<Stat, FsError> {
        let (object, kind) = self.nodes.object(node).ok_or(FsError::Stale { node })?;
        if kind == FileKind::Directory {
            return self.directory(node)?.located().stat().at(node);
        }
        if let Some(open) = self.open.find(object) {
            return open.inode().disk().stat().at(node);
        }
        self.stat_by_name(node)
    }

    /// The same of an object other than a directory, but never by the descriptor of an open file.
    pub(super) fn stat_by_name(&self, node: NodeId) -> Result<Stat, FsError> {
        self.by_name(
            node,
            |pinned| pinned.located().stat(),
            |directory, name| {
                let stat = self.tree.stat(directory, name)?;
                Ok((stat, stat))
            },
        )
    }

    /// Comes to an object other than a directory by what pins it, or by any of its names.
    pub(super) fn by_name<T>(
        &self,
        node: NodeId,
        by_pin: impl Fn(Arc<Pinned>) -> io::Result<T>,
        attempt: impl Fn(&DirFd, &OsStr) -> io::Result<(T, Stat)>,
    ) -> Result<T, FsError> {
        self.retrying(node, |place| {
            if let Some(pinned) = &place.pinned {
                return by_pin(Arc::clone(pinned)).at(node).map(Some);
            }
            for name in &place.names {
                let directory = match self.directory(name.parent) {
                    Ok(directory) => directory,
                    Err(FsError::Stale { .. }) => continue,
                    Err(error) => return Err(error),
                };
                match attempt(&directory, &name.name) {
                    Ok((found, stat)) if ObjectId::of(&stat) == place.object => {
                        return Ok(Some(found));
                    }
                    Ok(_) => {}
                    Err(error) if is_elsewhere(&error) => {}
                    Err(source) => return Err(FsError::Backing { node, source }),
                }
            }
            Ok(None)
        })
    }

    /// Tries to come to a node by what is known of it, for as long as names are on the move.
    fn retrying<T>(
        &self,
        node: NodeId,
        attempt: impl Fn(&Place) -> Result<Option<T>, FsError>,
    ) -> Result<T, FsError> {
        for round in 0..MOST_ROUNDS {
            let seen = self.nodes.renames().seen();
            let place = self.nodes.place(node).ok_or(FsError::Stale { node })?;
            if let Some(reached) = attempt(&place)? {
                return Ok(reached);
            }
            if !self.nodes.renames().any_since(seen) {
                break;
            }
            pause(round);
        }
        Err(FsError::Stale { node })
    }

    /// Does what takes a descriptor; where there is none left, once more without idle files and
    /// listings that may go on.
    pub(super) fn with_room<T>(&self, attempt: impl Fn() -> io::Result<T>) -> io::Result<T> {
        match attempt() {
            Err(error) if lacks_descriptors(&error) => {
                self.open.close_all_idle();
                self.paused.close(Duration::ZERO);
                attempt()
            }
            result => result,
        }
    }

    /// Opens a directory by the names above it; `None` if one of them is not known.
    fn walk(&self, node: NodeId) -> io::Result<Option<DirFd>> {
        let mut names = Vec::new();
        let (mut at, mut earlier) = (node, node);
        while at != NodeId::ROOT {
            let Some(name) = self.nodes.place(at).and_then(|place| place.names.into_iter().next())
            else {
                return Ok(None);
            };
            at = name.parent;
            names.push(name.name);
            if names.len() == 1
                && let Some(parent) = self.directories.find(at)
            {
                return self.tree.open_dir(&parent, &names[0]).map(Some);
            }
            // Renames underneath can leave names that lead in a circle: compare with the
            // place at the last power of two (Brent).
            if at == earlier {
                return Ok(None);
            }
            if names.len().is_power_of_two() {
                earlier = at;
            }
        }
        names.reverse();
        self.tree.resolve(&names).map(Some)
    }
}

/// Lets others come to an end of what is waited for.
pub(super) fn pause(round: u32) {
    match round {
        0..SPINS => thread::yield_now(),
        _ => thread::sleep(Duration::from_micros(50)),
    }
}

pub(super) fn lacks_descriptors(error: &io::Error) -> bool {
    [Errno::MFILE, Errno::NFILE, Errno::NOMEM].iter().any(|errno| is_errno(error, *errno))
}

/// Errors that say that the name does not lead there any more.
fn is_elsewhere(error: &io::Error) -> bool {
    [Errno::NOENT, Errno::NOTDIR, Errno::LOOP].iter().any(|errno| is_errno(error, *errno))
}

/// Enough for a rename that waits for a slow disk; a bound all the same.
const MOST_ROUNDS: u32 = 100_000;
const SPINS: u32 = 16;

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::super::tests::{Fixture, ROOT_CALLER, os};
    use super::*;

    #[test]
    fn deeper_than_any_path_may_be_long() {
        let fx = Fixture::new();
        let mut at = NodeId::ROOT;
        let name = "d".repeat(200);
        for _ in 0..60 {
            at = fx.fs.make_directory(ROOT_CALLER, at, os(&name), 0o755, 0).unwrap().node;
        }
        for id in 2..=at.0 {
            fx.fs.directories.remove(NodeId(id));
        }
        let file = fx.create(at, "file", b"deep");
        assert_eq!(fx.content(file), b"deep");
        for id in 2..=at.0 {
            fx.fs.directories.remove(NodeId(id));
        }
        assert_eq!(fx.fs.attributes(file, None).unwrap().size, 4);
    }

    #[test]
    fn what_was_replaced_underneath_is_stale() {
        let fx = Fixture::new();
        let file = fx.create(NodeId::ROOT, "file", b"text");
        fs::rename(fx.backing("file"), fx.backing("other")).unwrap();
        assert!(fx.fs.attributes(file, None).unwrap_err().is(Errno::STALE));
        fs::write(fx.backing("file"), b"").unwrap();
        assert!(fx.fs.attributes(file, None).unwrap_err().is(Errno::STALE));
        let found = fx.fs.lookup(ROOT_CALLER, NodeId::ROOT, os("other")).unwrap();
        assert_eq!(found.node, file);
        assert_eq!(fx.content(file), b"text");
    }

    #[test]
    fn names_that_lead_in_a_circle_end() {
        let fx = Fixture::new();
        let make = |parent, name| {
            fx.fs.make_directory(ROOT_CALLER, parent, os(name), 0o755, 0).unwrap().node
        };
        let outer = make(NodeId::ROOT, "a");
        let inner = make(outer, "b");
        fx.fs.directory(inner).unwrap();
        fs::rename(fx.backing("a/b"), fx.backing("b")).unwrap();
        fs::rename(fx.backing("a"), fx.backing("b/a")).unwrap();
        fx.fs.lookup(ROOT_CALLER, inner, os("a")).unwrap();
        for node in [outer, inner] {
            fx.fs.directories.remove(node);
        }
        assert!(fx.fs.attributes(inner, None).unwrap_err().is(Errno::STALE));
        fx.fs.lookup(ROOT_CALLER, NodeId::ROOT, os("b")).unwrap();
        fx.fs.attributes(outer, None).unwrap();
    }

    #[test]
    fn readers_follow_files_and_directories_that_are_renamed_all_the_time() {
        let fx = Fixture::new();
        let directory =
            fx.fs.make_directory(ROOT_CALLER, NodeId::ROOT, os("x"), 0o755, 0).unwrap().node;
        let file = fx.create(directory, "x", b"here");
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                for round in 0..300 {
                    let (from, to) = if round % 2 == 0 { ("x", "y") } else { ("y", "x") };
                    fx.fs.rename(NodeId::ROOT, os(from), NodeId::ROOT, os(to), 0).unwrap();
                    fx.fs.rename(directory, os(from), directory, os(to), 0).unwrap();
                }
                done.store(true, Ordering::Relaxed);
            });
            while !done.load(Ordering::Relaxed) {
                fx.fs.directories.remove(directory);
                assert_eq!(fx.fs.attributes(file, None).unwrap().size, 4);
                assert_eq!(fx.content(file), b"here");
            }
        });
    }
}
