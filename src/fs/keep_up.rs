//! What goes on beside the requests: gathered writes are committed when they have waited long
//! enough, and what nobody has synced is synced now and then, so that it is durable and further
//! changes of it are ordered.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::error::At;
use super::locks::{lock, shard};
use super::nodes::{ObjectId, Target};
use super::open::Purpose;
use super::open_table::OpenInode;
use super::{FileSystem, FsError, NodeId};
use crate::format::FileId;
use crate::store::tree::{FileKind, Stat};
use crate::store::{BackingFile, SyncScope};
use crate::volume::Durability;

/// Objects that were closed before everything written to them was synced.
#[derive(Default)]
pub(super) struct ClosedUnsynced {
    /// Each with the number of its note.
    objects: [Mutex<HashMap<ObjectId, Noted>>; SHARDS],
    /// Counts the notes, so that a sync takes out those that were made before it.
    notes: AtomicU64,
    /// Held across a sync of everything, of whose failure one caller alone is told. Outside of
    /// the others.
    syncing: Mutex<()>,
}

type Noted = (FileId, u64);

impl ClosedUnsynced {
    fn note(&self, object: ObjectId, file: FileId) {
        let mut objects = lock(self.shard_of(object));
        let number = self.notes.fetch_add(1, Ordering::AcqRel) + 1;
        objects.insert(object, (file, number));
    }

    fn find(&self, object: ObjectId) -> Option<Noted> {
        lock(self.shard_of(object)).get(&object).copied()
    }

    fn is_empty(&self) -> bool {
        self.objects.iter().all(|objects| lock(objects).is_empty())
    }

    /// A sync of everything begins: what to give to [`Self::end`] after it.
    fn begin(&self) -> u64 {
        self.notes.load(Ordering::Acquire)
    }

    fn end(&self, until: u64) {
        for objects in &self.objects {
            let mut objects = lock(objects);
            objects.retain(|_, (_, number)| *number > until);
            objects.shrink_to(LEFT_ALLOCATED);
        }
    }

    /// The object was synced as it was noted, if it was not noted again since.
    fn forget(&self, object: ObjectId, noted: Noted) {
        let mut objects = lock(self.shard_of(object));
        if objects.get(&object) == Some(&noted) {
            objects.remove(&object);
        }
    }

    fn shard_of(&self, object: ObjectId) -> &Mutex<HashMap<ObjectId, Noted>> {
        shard(&self.objects, object.ino)
    }
}

impl FileSystem {
    /// Closes idle files and listings, commits what has been gathered for some seconds, and with
    /// `sync_all` also syncs what has not been. To be called every second, and with `sync_all`
    /// every half a minute.
    pub fn keep_up(&self, sync_all: bool) {
        self.end_lingering(LONGEST_LINGERING);
        self.paused.close(LONGEST_PAUSE);
        if sync_all && self.volume.is_full_of_tag_pages() {
            // Those that are read still take theirs again.
            self.open.all().into_iter().for_each(|used| used.inode().file().forget_pages());
        }
        // What was promised of closed files and removed ones stays there until they are synced.
        let sync_all = sync_all || self.volume.journal_is_large();
        if sync_all {
            // One sync of everything is for all that are closed, and none for those that are open.
            self.close_unused();
        } else {
            self.open.close_idle();
        }
        if self.is_read_only() {
            return;
        }
        if !self.volume.has_gathered() {
            self.volume.empty_journal();
            if !sync_all {
                return;
            }
        }
        for used in self.open.all() {
            let inode = used.inode();
            if !inode.file().is_unsynced() {
                continue;
            }
            let node = inode.node();
            let kept = inode.keep_time(|file| {
                file.keep_up(LONGEST_GATHERED, sync_all)
                    .map_err(|source| self.volume_error(node, source))
            });
            kept.unwrap_or_else(|error| error.report());
        }
        let waits = || !self.closed_unsynced.is_empty() || self.volume.unsynced_now().is_some();
        if sync_all && waits() {
            self.sync_closed().unwrap_or_else(|error| error.report());
        }
    }

    fn sync_closed(&self) -> Result<(), FsError> {
        let begun = self.closed_unsynced.begin();
        let until = self.volume.unsynced_now();
        self.sync_file_system()?;
        self.closed_unsynced.end(begun);
        if let Some(until) = until {
            self.volume.note_all_synced(until);
        }
        Ok(())
    }

    /// Makes everything durable. After one failure the kernel takes the next for complete.
    pub(super) fn sync_file_system(&self) -> Result<(), FsError> {
        let _alone = lock(&self.closed_unsynced.syncing);
        let synced = self.tree.sync_file_system().at(NodeId::ROOT);
        synced.inspect_err(|_| {
            // So that the volume knows of them: an idle file is as a closed one.
            self.open.close_all_idle();
            self.volume.note_sync_failed();
        })
    }

    /// A use of a file has ended, perhaps the last one.
    pub(super) fn note_closed(&self, inode: &OpenInode) {
        if inode.file().is_writable() && inode.file().is_unsynced() {
            self.closed_unsynced.note(inode.object(), inode.file().file_id());
        }
    }

    /// Makes an object durable that is about to take the name of another one: a power cut must
    /// leave the old content under that name or the new, not half of the new.
    ///
    /// An object that is exchanged with it takes its name.
    pub(super) fn sync_before_rename(
        &self,
        moved: &Stat,
        exchanged: Option<&Target>,
    ) -> Result<(), FsError> {
        // Only files have content; a number among the closed ones may have gone to another object.
        let sync = |object, kind| match kind {
            FileKind::Regular => self.sync_object(object),
            _ => Ok(()),
        };
        if self.volume.durability() == Durability::Process {
            return Ok(());
        }
        sync(ObjectId::of(moved), moved.kind())?;
        exchanged.map_or(Ok(()), |target| sync(target.object, target.kind))
    }

    fn sync_object(&self, object: ObjectId) -> Result<(), FsError> {
        match self.open.find_or_wake(object) {
            Some(used) if used.inode().file().is_writable() => {
                if used.inode().file().is_unsynced() {
                    self.sync_inode(used.inode(), SyncScope::Data)?;
                }
                return Ok(());
            }
            // What was written before it was opened for reading is among the closed ones, and how
            // that fares is for who opens it anew.
            Some(used) => used.inode().give_up(),
            None => {}
        }
        let Some(node) = self.nodes.node_of(object) else { return Ok(()) };
        if let Some(noted) = self.closed_unsynced.find(object) {
            let (file, _) = noted;
            let until = self.volume.unsynced_now();
            let (disk, ..) = self.open_backing(node, object, Purpose::Describe)?;
            let synced = disk.sync(SyncScope::Data).inspect_err(|error| {
                self.volume.note_file_sync_failed(file);
                if let Some(used) = self.open.find(object) {
                    used.inode().file().note_sync_failed(error);
                }
            });
            synced.at(node)?;
            self.closed_unsynced.forget(object, noted);
            // From now on changes of the file must be ordered.
            if let Some(until) = until {
                self.volume.note_file_synced(file, until);
            }
        }
        Ok(())
    }
}

/// Blocks wait for a commit no longer than this.
const LONGEST_GATHERED: Duration = Duration::from_secs(5);
/// A file stays open no longer than until the next time after this.
const LONGEST_LINGERING: Duration = Duration::from_secs(1);
/// Whoever lists a directory may work on what it finds before it comes back. Opened anew, the
/// directory may have lost its rights, or count its positions differently.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
const SHARDS: usize = 16;
const LEFT_ALLOCATED: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    /// The number of a file that is gone may be that of a directory now.
    #[test]
    fn a_directory_with_the_number_of_a_closed_file_is_renamed_as_any_other() {
        use rustix::io::Errno;

        use super::super::tests::{Fixture, ROOT_CALLER, os};
        let fx = Fixture::new();
        let root = NodeId::ROOT;
        let made = |name| fx.fs.make_directory(ROOT_CALLER, root, os(name), 0o755, 0).unwrap().node;
        let (from, to) = (made("from"), made("to"));
        fx.create(to, "file", b"text");
        let (object, _) = fx.fs.nodes.object(from).unwrap();
        fx.fs.closed_unsynced.note(object, FileId([7; 16]));
        let refused = fx.fs.rename(root, os("from"), root, os("to"), 0).unwrap_err();
        assert!(refused.is(Errno::NOTEMPTY), "{refused}");
    }

    #[test]
    fn an_object_waits_for_a_sync_that_began_after_its_close() {
        let closed = ClosedUnsynced::default();
        let [one, two] = [1, 2].map(|ino| ObjectId { dev: 0, ino });
        let file = FileId([7; 16]);
        closed.note(one, file);
        let sync = closed.begin();
        closed.note(two, file);
        closed.end(sync);
        assert_eq!((closed.find(one), closed.find(two).map(|(file, _)| file)), (None, Some(file)));
        closed.end(closed.begin());
        assert!(closed.is_empty());
    }
}
