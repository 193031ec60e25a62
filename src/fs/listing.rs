//! Reading directories, in the order and with the positions of the backing directory, so that a
//! reader may stop anywhere and come back while names are made and removed.

use std::io;
use std::sync::{Arc, Mutex};

use rustix::io::Errno;

use super::error::{At, is_errno};
use super::handles::DirectoryHandle;
use super::locks::lock;
use super::nodes::ObjectId;
use super::{
    DirectoryEntry, DirectorySink, Entry, FileSystem, FsError, Handle, NodeId, Opened, is_metadata,
};
use crate::keys::Caller;
use crate::store::tree::{DirEntry, FileKind};

impl FileSystem {
    /// Opens a directory for reading.
    pub fn open_directory(&self, _: Caller, node: NodeId) -> Result<Opened, FsError> {
        self.counters.count(|counts| &counts.directories_opened);
        let directory = self.directory(node)?;
        let stream = Mutex::new(self.with_room(|| self.tree.read_dir(&directory)).at(node)?);
        let handle = self.listings.insert(DirectoryHandle { node, directory, stream });
        Ok(Opened { handle, keep_cache: true })
    }

    /// Gives names from the position `offset` on, 0 being the start, until the sink is full or
    /// the directory ends. With attributes, each name that the sink takes counts as looked up.
    pub fn read_directory(
        &self,
        handle: Handle,
        offset: i64,
        with_attributes: bool,
        sink: &mut dyn DirectorySink,
    ) -> Result<(), FsError> {
        self.counters.count(|counts| &counts.directories_read);
        let listing = self.listing(handle)?;
        let node = listing.node;
        let mut stream = lock(&listing.stream);
        stream.seek(offset.cast_unsigned()).at(node)?;
        while let Some(found) = stream.next_entry().at(node)? {
            let Some(entry) = self.listed(&listing, &found, with_attributes)? else { continue };
            if !sink.add(&entry) {
                if let Some(entry) = entry.entry {
                    self.nodes.forget(entry.node, 1);
                }
                break;
            }
        }
        Ok(())
    }

    /// Closes a directory.
    pub fn release_directory(&self, handle: Handle) -> Result<(), FsError> {
        self.listings.remove(handle).map(|_| ()).ok_or(FsError::BadHandle { handle })
    }

    /// Makes the names in a directory durable. There is no less than all of it to sync.
    pub fn sync_directory(&self, handle: Handle, _data_only: bool) -> Result<(), FsError> {
        self.counters.count(|counts| &counts.syncs);
        let listing = self.listing(handle)?;
        self.with_room(|| self.tree.sync_dir(&listing.directory)).at(listing.node)
    }

    fn listing(&self, handle: Handle) -> Result<Arc<DirectoryHandle>, FsError> {
        self.listings.find(handle).ok_or(FsError::BadHandle { handle })
    }

    /// One name as programs see it; `None` for one that they do not see, or that is gone.
    fn listed<'a>(
        &self,
        listing: &DirectoryHandle,
        found: &DirEntry<'a>,
        with_attributes: bool,
    ) -> Result<Option<DirectoryEntry<'a>>, FsError> {
        let DirEntry { ino, kind, name, cookie } = *found;
        if is_metadata(listing.node, name) {
            return Ok(None);
        }
        let mut entry = DirectoryEntry {
            ino,
            kind: kind_bits(kind),
            name,
            next: cookie.cast_signed(),
            entry: None,
        };
        if name == "." || name == ".." {
            // What lies above the root is not for programs to know.
            if listing.node == NodeId::ROOT {
                entry.ino = listing.directory.located().stat().at(listing.node)?.ino;
            }
        } else if with_attributes {
            let seen = self.nodes.renames().seen();
            let stat = match self.tree.stat(&listing.directory, name) {
                Ok(stat) => stat,
                Err(error) if has_vanished(&error) => return Ok(None),
                Err(source) => return Err(FsError::Backing { node: listing.node, source }),
            };
            self.foresee(&listing.directory, name, &stat);
            let Some(node) = self.nodes.enter(&stat, listing.node, name, seen) else {
                return self.listed(listing, found, with_attributes);
            };
            entry.ino = stat.ino;
            entry.kind = stat.mode & libc::S_IFMT;
            let generation = self.resized.generation(ObjectId::of(&stat));
            entry.entry = Some(Entry { node, generation, attributes: self.shown(&stat) });
        }
        Ok(Some(entry))
    }
}

fn has_vanished(error: &io::Error) -> bool {
    is_errno(error, Errno::NOENT)
}

/// The type bits of `st_mode`; 0 where the file system below does not say.
fn kind_bits(kind: FileKind) -> u32 {
    match kind {
        FileKind::Regular => libc::S_IFREG,
        FileKind::Directory => libc::S_IFDIR,
        FileKind::Symlink => libc::S_IFLNK,
        FileKind::Fifo => libc::S_IFIFO,
        FileKind::Socket => libc::S_IFSOCK,
        FileKind::CharDevice => libc::S_IFCHR,
        FileKind::BlockDevice => libc::S_IFBLK,
        FileKind::Unknown => 0,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::ffi::OsString;

    use super::super::tests::{Fixture, ROOT_CALLER, os};
    use super::*;

    /// Takes a number of names, then is full.
    struct Page {
        room: usize,
        taken: Vec<(OsString, DirectoryEntryKind, i64)>,
    }

    type DirectoryEntryKind = (u64, u32, Option<NodeId>);

    impl DirectorySink for Page {
        fn add(&mut self, entry: &DirectoryEntry<'_>) -> bool {
            if self.room == 0 {
                return false;
            }
            self.room -= 1;
            let kind = (entry.ino, entry.kind, entry.entry.map(|entry| entry.node));
            self.taken.push((entry.name.to_owned(), kind, entry.next));
            true
        }
    }

    fn page(fx: &Fixture, handle: Handle, from: i64, room: usize, plus: bool) -> Page {
        let mut page = Page { room, taken: Vec::new() };
        fx.fs.read_directory(handle, from, plus, &mut page).unwrap();
        page
    }

    #[test]
    fn pages_of_any_length_give_each_name_once_and_count_look_ups() {
        let fx = Fixture::new();
        for index in 0..500 {
            fx.fs
                .make_node(ROOT_CALLER, NodeId::ROOT, os(&format!("{index}")), 0o644, 0, 0)
                .map(|entry| fx.fs.forget(entry.node, 1))
                .unwrap();
        }
        assert_eq!(fx.fs.nodes.len(), 1);
        let handle = fx.fs.open_directory(ROOT_CALLER, NodeId::ROOT).unwrap().handle;
        for plus in [false, true] {
            let (mut next, mut names, mut nodes) = (0, BTreeSet::new(), Vec::new());
            loop {
                let page = page(&fx, handle, next, 7, plus);
                let Some(last) = page.taken.last() else { break };
                next = last.2;
                for (name, (_, kind, node), _) in page.taken {
                    let dots = name == "." || name == "..";
                    assert_eq!(kind, if dots { libc::S_IFDIR } else { libc::S_IFREG });
                    assert_eq!(node.is_some(), plus && !dots);
                    nodes.extend(node);
                    assert!(names.insert(name));
                }
            }
            assert_eq!(names.len(), 502, "the volume's own directory is not listed");
            assert_eq!(nodes.len(), if plus { 500 } else { 0 });
            assert_eq!(
                fx.fs.nodes.len() as usize,
                1 + nodes.len(),
                "what did not fit is forgotten"
            );
            nodes.iter().for_each(|node| fx.fs.forget(*node, 1));
            assert_eq!(fx.fs.nodes.len(), 1);
        }
        fx.fs.release_directory(handle).unwrap();
        assert!(fx.fs.release_directory(handle).unwrap_err().is(Errno::BADF));
    }

    #[test]
    fn what_vanished_is_left_out_and_the_dots_have_their_numbers() {
        let fx = Fixture::new();
        let directory =
            fx.fs.make_directory(ROOT_CALLER, NodeId::ROOT, os("dir"), 0o755, 0).unwrap();
        fx.create(directory.node, "stays", b"12345");
        fx.create(directory.node, "goes", b"");
        let handle = fx.fs.open_directory(ROOT_CALLER, directory.node).unwrap().handle;
        page(&fx, handle, 0, 1, true);
        std::fs::remove_file(fx.backing("dir/goes")).unwrap();
        let all = page(&fx, handle, 0, 99, true).taken;
        let root = fx.fs.attributes(NodeId::ROOT, None).unwrap().ino;
        let ino = |wanted: &str| {
            all.iter().find(|(name, ..)| name == wanted).map(|(_, (ino, ..), _)| *ino)
        };
        assert_eq!((ino("."), ino("..")), (Some(directory.attributes.ino), Some(root)));
        assert!(ino("stays").is_some() && ino("goes").is_none());
        fx.fs.sync_directory(handle, true).unwrap();

        let handle = fx.fs.open_directory(ROOT_CALLER, NodeId::ROOT).unwrap().handle;
        for (name, (ino, ..), _) in page(&fx, handle, 0, 99, false).taken {
            assert!(ino == root || name == "dir", "{name:?}");
        }
    }
}
