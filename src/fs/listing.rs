//! Reading directories, in the order and with the positions of the backing directory, so that a
//! reader may stop anywhere and come back while names are made and removed.

use std::io;
use std::sync::Arc;

use rustix::io::Errno;

use super::error::{At, is_errno};
use super::nodes::ObjectId;
use super::paused::Listing;
use super::{DirectoryEntry, DirectorySink, Entry, FileSystem, FsError, NodeId, is_metadata};
use crate::keys::Caller;
use crate::store::tree::{DirEntry, DirFd, FileKind};

impl FileSystem {
    /// Whether the kernel has to ask before it lists a directory that it has in its cache: where
    /// it does not check permissions itself, and not all may be read.
    pub fn is_asked_for_directories(&self) -> bool {
        !self.options.checked_by_kernel && self.daemon.uid != 0
    }

    /// Opens a directory for reading. It has no handle: it is read by its node.
    pub fn open_directory(&self, caller: Caller, node: NodeId) -> Result<(), FsError> {
        self.counters.count(|counts| &counts.directories_opened);
        let directory = self.directory(node)?;
        let listing = self.begin_listing(node, directory)?;
        self.paused.pause(node, caller, listing);
        Ok(())
    }

    /// Gives names from the position `offset` on, 0 being the start, until the sink is full or
    /// the directory ends. With attributes, each name that the sink takes counts as looked up.
    pub fn read_directory(
        &self,
        caller: Caller,
        node: NodeId,
        offset: i64,
        with_attributes: bool,
        sink: &mut dyn DirectorySink,
    ) -> Result<(), FsError> {
        self.counters.count(|counts| &counts.directories_read);
        self.admit_to_list(caller, node)?;
        let directory = self.directory(node)?;
        let mut listing = match self.paused.resume(node, caller, &directory) {
            Some(listing) => listing,
            None => self.begin_listing(node, directory)?,
        };
        let Listing { directory, stream } = &mut listing;
        stream.seek(offset.cast_unsigned()).at(node)?;
        let mut next = offset;
        loop {
            let found = match stream.next_entry() {
                Ok(Some(found)) => found,
                Ok(None) => break,
                // What was given is looked up already; the next piece begins with the error.
                Err(_) if next != offset => break,
                Err(source) => return Err(FsError::Backing { node, source }),
            };
            let Some(entry) = self.listed(node, directory, &found, with_attributes)? else {
                continue;
            };
            if !sink.add(&entry) {
                if let Some(entry) = entry.entry {
                    self.nodes.forget(entry.node, 1);
                }
                break;
            }
            next = entry.next;
        }
        // Who has been given the last name comes back to be told so, and then not any more.
        if next != offset {
            self.paused.pause(node, caller, listing);
        }
        Ok(())
    }

    /// Makes the names in a directory durable. There is no less than all of it to sync.
    pub fn sync_directory(&self, node: NodeId, _data_only: bool) -> Result<(), FsError> {
        self.counters.count(|counts| &counts.syncs);
        let directory = self.directory(node)?;
        self.with_room(|| self.tree.sync_dir(&directory)).at(node)
    }

    fn begin_listing(&self, node: NodeId, directory: Arc<DirFd>) -> Result<Listing, FsError> {
        let stream = self.with_room(|| self.tree.read_dir(&directory)).at(node)?;
        Ok(Listing { directory, stream })
    }

    /// One name as programs see it; `None` for one that they do not see, or that is gone.
    fn listed<'a>(
        &self,
        parent: NodeId,
        directory: &DirFd,
        found: &DirEntry<'a>,
        with_attributes: bool,
    ) -> Result<Option<DirectoryEntry<'a>>, FsError> {
        let DirEntry { ino, kind, name, cookie } = *found;
        if is_metadata(parent, name) {
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
            if parent == NodeId::ROOT {
                entry.ino = directory.located().stat().at(parent)?.ino;
            }
        } else if with_attributes {
            let seen = self.nodes.renames().seen();
            let stat = match self.tree.stat(directory, name) {
                Ok(stat) => stat,
                Err(error) if has_vanished(&error) => return Ok(None),
                // As with others, the name is there, and who looks it up is told what is wrong.
                Err(_) => return Ok(Some(entry)),
            };
            self.foresee(directory, name, &stat);
            let Some(node) = self.nodes.enter(&stat, parent, name, seen) else {
                return self.listed(parent, directory, found, with_attributes);
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
    use std::time::Duration;

    use super::super::tests::{Fixture, ROOT_CALLER, os};
    use super::*;

    const CALLER: Caller = Caller { pid: 77, ..ROOT_CALLER };

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

    fn page(fx: &Fixture, node: NodeId, from: i64, room: usize, plus: bool) -> Page {
        let mut page = Page { room, taken: Vec::new() };
        fx.fs.read_directory(CALLER, node, from, plus, &mut page).unwrap();
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
        for plus in [false, true] {
            let (mut next, mut names, mut nodes) = (0, BTreeSet::new(), Vec::new());
            loop {
                let page = page(&fx, NodeId::ROOT, next, 7, plus);
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
    }

    #[test]
    fn what_is_open_for_one_piece_serves_the_next_and_is_closed_at_the_end() {
        let fx = Fixture::new();
        fx.create(NodeId::ROOT, "file", b"");
        fx.fs.open_directory(CALLER, NodeId::ROOT).unwrap();
        assert_eq!(fx.fs.paused.len(), 1);
        let mut next = 0;
        loop {
            let page = page(&fx, NodeId::ROOT, next, 1, false);
            let Some(last) = page.taken.last() else { break };
            next = last.2;
            assert_eq!(fx.fs.paused.len(), 1);
        }
        assert_eq!(fx.fs.paused.len(), 0);
        let again = page(&fx, NodeId::ROOT, 0, 1, false).taken;
        assert_eq!(fx.fs.paused.len(), 1);
        fx.fs.paused.close(Duration::from_secs(3600));
        assert_eq!(fx.fs.paused.len(), 1);
        fx.fs.paused.close(Duration::ZERO);
        assert_eq!(fx.fs.paused.len(), 0);
        assert_eq!(page(&fx, NodeId::ROOT, again[0].2, 99, false).taken.len(), 2, "it goes on");
    }

    fn paused(fx: &Fixture, node: NodeId, directory: &Arc<DirFd>, caller: Caller) {
        let listing = fx.fs.begin_listing(node, Arc::clone(directory)).unwrap();
        fx.fs.paused.pause(node, caller, listing);
    }

    #[test]
    fn a_directory_is_not_read_for_a_removed_one_that_had_its_number() {
        let fx = Fixture::new();
        let [one, other] = ["one", "other"]
            .map(|name| fx.fs.make_directory(ROOT_CALLER, NodeId::ROOT, os(name), 0o755, 0))
            .map(|made| made.unwrap().node);
        let [of_one, of_other] = [one, other].map(|node| fx.fs.directory(node).unwrap());
        paused(&fx, one, &of_other, CALLER);
        assert!(fx.fs.paused.resume(one, CALLER, &of_one).is_none());
        paused(&fx, one, &of_one, CALLER);
        assert!(fx.fs.paused.resume(one, CALLER, &of_one).is_some());
        assert!(fx.fs.paused.resume(one, CALLER, &of_one).is_none());
    }

    #[test]
    fn what_one_has_open_is_not_what_another_one_reads() {
        let fx = Fixture::new();
        let root = fx.fs.directory(NodeId::ROOT).unwrap();
        let other = Caller { pid: CALLER.pid + 1, ..CALLER };
        paused(&fx, NodeId::ROOT, &root, CALLER);
        assert!(fx.fs.paused.resume(NodeId::ROOT, other, &root).is_none());
        assert!(fx.fs.paused.resume(NodeId::ROOT, CALLER, &root).is_some());
        let unknown = Caller { pid: 0, ..CALLER };
        paused(&fx, NodeId::ROOT, &root, unknown);
        assert_eq!(fx.fs.paused.len(), 0);

        // Made between the openings of two who read the same piece next: both have the first.
        for index in 0..50 {
            fx.create(NodeId::ROOT, &index.to_string(), b"");
        }
        let read = |caller, from| {
            let mut page = Page { room: 10, taken: Vec::new() };
            fx.fs.read_directory(caller, NodeId::ROOT, from, false, &mut page).unwrap();
            page.taken
        };
        let first = read(CALLER, 0);
        for index in 50..100 {
            fx.create(NodeId::ROOT, &index.to_string(), b"");
        }
        let mut names = BTreeSet::new();
        let mut from = 0;
        loop {
            let taken = read(other, from);
            let Some(last) = taken.last() else { break };
            from = last.2;
            names.extend(taken.into_iter().map(|(name, ..)| name));
            read(CALLER, first[9].2);
        }
        assert_eq!(names.len(), 102);
    }

    #[test]
    fn any_number_of_listings_that_do_not_go_on_stays_within_a_bound() {
        let fx = Fixture::new();
        let root = fx.fs.directory(NodeId::ROOT).unwrap();
        for pid in 1..1000 {
            paused(&fx, NodeId(u64::from(pid % 100)), &root, Caller { pid, ..CALLER });
        }
        assert!((1..=128).contains(&fx.fs.paused.len()), "{}", fx.fs.paused.len());
    }

    #[test]
    fn what_vanished_is_left_out_and_the_dots_have_their_numbers() {
        let fx = Fixture::new();
        let directory =
            fx.fs.make_directory(ROOT_CALLER, NodeId::ROOT, os("dir"), 0o755, 0).unwrap();
        fx.create(directory.node, "stays", b"12345");
        fx.create(directory.node, "goes", b"");
        let mut all = page(&fx, directory.node, 0, 1, true).taken;
        std::fs::remove_file(fx.backing("dir/goes")).unwrap();
        all.extend(page(&fx, directory.node, all[0].2, 99, true).taken);
        let root = fx.fs.attributes(NodeId::ROOT, None).unwrap().ino;
        let ino = |wanted: &str| {
            all.iter().find(|(name, ..)| name == wanted).map(|(_, (ino, ..), _)| *ino)
        };
        assert_eq!((ino("."), ino("..")), (Some(directory.attributes.ino), Some(root)));
        assert!(ino("stays").is_some() && ino("goes").is_none());
        fx.fs.sync_directory(directory.node, true).unwrap();

        for (name, (ino, ..), _) in page(&fx, NodeId::ROOT, 0, 99, false).taken {
            assert!(ino == root || name == "dir", "{name:?}");
        }
    }
}
