//! Files whose last writer has gone while blocks of them wait for a commit. They stay open for a
//! second. A program that opens such a file again, as one does that opens its database for each
//! transaction, finds it as it was; one that removes it, as SQLite does with its journal, spares
//! the disk two writes and a flush. What waits outlives the process in the volume's journal.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::FileSystem;
use super::locks::lock;
use super::nodes::ObjectId;
use super::open_table::{InodeUse, OpenInode};

/// These files, by object.
#[derive(Default)]
pub(super) struct Lingering {
    files: Mutex<HashMap<ObjectId, Lingerer>>,
}

struct Lingerer {
    used: InodeUse,
    since: Instant,
    is_due: bool,
}

impl Lingering {
    /// Takes a file, if there is room.
    fn add(&self, used: InodeUse) -> bool {
        let object = used.inode().object();
        let mut files = lock(&self.files);
        if files.contains_key(&object) {
            return true;
        }
        let has_room = files.len() < MOST_FILES;
        if has_room {
            files.insert(object, Lingerer { used, since: Instant::now(), is_due: false });
        }
        has_room
    }

    /// The kernel does not know the object any more: it does not come back to it.
    pub(super) fn hurry(&self, object: ObjectId) {
        if let Some(lingerer) = lock(&self.files).get_mut(&object) {
            lingerer.is_due = true;
        }
    }

    fn take(&self, object: ObjectId) -> Option<InodeUse> {
        self.take_if(object, |_| true)
    }

    fn take_if(
        &self,
        object: ObjectId,
        wanted: impl FnOnce(&OpenInode) -> bool,
    ) -> Option<InodeUse> {
        let mut files = lock(&self.files);
        let is_wanted = wanted(files.get(&object)?.used.inode());
        is_wanted.then(|| files.remove(&object)).flatten().map(|lingerer| lingerer.used)
    }

    /// One of those that were there at `now`, and had been for `age` or are due anyway.
    fn take_due(&self, now: Instant, age: Duration) -> Option<InodeUse> {
        let is_due = |it: &Lingerer| {
            let lingered = now.checked_duration_since(it.since);
            lingered.is_some_and(|lingered| it.is_due || lingered >= age)
        };
        let mut files = lock(&self.files);
        let object = *files.iter().find(|(_, lingerer)| is_due(lingerer))?.0;
        files.remove(&object).map(|lingerer| lingerer.used)
    }

    fn objects(&self) -> Vec<ObjectId> {
        lock(&self.files).keys().copied().collect()
    }

    fn has_room(&self) -> bool {
        lock(&self.files).len() < MOST_FILES
    }
}

impl FileSystem {
    /// The last writer of a file has gone. Whether it stays open, to be settled in a moment.
    pub(super) fn lingers(&self, inode: &OpenInode) -> bool {
        let object = inode.object();
        let stays = self.may_linger(inode)
            && self.open.find(object).is_some_and(|used| self.lingering.add(used));
        // Whoever has made the mount read-only may have come by already.
        stays && (!self.is_read_only() || self.lingering.take(object).is_none())
    }

    /// Whether it may: where keys are not to be remembered for a moment longer, no file is open for
    /// one either.
    pub(super) fn may_linger(&self, inode: &OpenInode) -> bool {
        self.options.idle_files > 0
            && inode.file().may_linger()
            && self.volume.gathered_bytes() <= MOST_BYTES
            && !self.is_read_only()
            && self.lingering.has_room()
    }

    /// Closes all files that nobody uses.
    pub(super) fn close_unused(&self) {
        self.end_lingering(Duration::ZERO);
        self.open.close_all_idle();
    }

    /// Settles and lets go of those that linger now and have for `age`.
    pub(super) fn end_lingering(&self, age: Duration) {
        // Not those that come while others are settled, which takes a sync each: others wait.
        let now = Instant::now();
        while let Some(used) = self.lingering.take_due(now, age) {
            self.settle_lingering(&used);
        }
    }

    /// Settles and lets go of this one.
    pub(super) fn end_lingering_of(&self, object: ObjectId) {
        if let Some(used) = self.lingering.take(object) {
            self.settle_lingering(&used);
        }
    }

    /// An object has lost a name, or the kernel has forgotten it. If it has none left, and nobody
    /// has it open, nothing of it is worth a write, and nobody is to open it any more, as it would
    /// be found without what waits: then true, and no node leads to it.
    pub(super) fn drop_lingering(&self, object: ObjectId) -> bool {
        let ends = |inode: &OpenInode| is_unlinked(inode) && self.open.end_unlinked(object);
        let Some(used) = self.lingering.take_if(object, ends) else { return false };
        self.nodes.vanished(object);
        drop(used);
        true
    }

    /// Lets go of those that have no name any more and that nobody has open: their space is wanted.
    pub(super) fn drop_unlinked_lingering(&self) -> bool {
        let dropped = |object: &ObjectId| self.drop_lingering(*object);
        self.lingering.objects().iter().filter(|object| dropped(object)).count() > 0
    }

    fn settle_lingering(&self, used: &InodeUse) {
        let inode = used.inode();
        // Removed before its last writer had gone, and forgotten by the kernel since.
        let object = inode.object();
        let is_gone = self.nodes.node_of(object).is_none() && is_unlinked(inode);
        if inode.has_writers() || is_gone && self.open.end_unlinked(object) {
            return;
        }
        self.settle(inode, false).unwrap_or_else(|error| error.report());
        self.note_left(inode);
    }
}

fn is_unlinked(inode: &OpenInode) -> bool {
    inode.disk().stat().is_ok_and(|stat| stat.nlink == 0)
}

const MOST_FILES: usize = 64;
/// Of all that has been gathered, so that who goes on writing has room.
const MOST_BYTES: u64 = 4 << 20;

#[cfg(test)]
mod tests {
    use rustix::io::Errno;

    use super::super::tests::{Fixture, ROOT_CALLER, os};
    use super::super::{Handle, NodeId};
    use super::*;
    use crate::store::flushes;

    const ROOT: NodeId = NodeId::ROOT;

    /// A file of 9000 bytes, synced and then written over, of which a writer has a handle.
    fn written_over(fx: &Fixture, name: &str) -> (NodeId, Handle) {
        let file = fx.create(ROOT, name, &[1; 9000]);
        let handle = fx.fs.open(ROOT_CALLER, file, libc::O_RDWR).unwrap().handle;
        fx.fs.write(handle, 0, &[2; 9000], false).unwrap();
        fx.fs.sync(handle, false).unwrap();
        fx.fs.write(handle, 0, &[3; 4096], false).unwrap();
        (file, handle)
    }

    /// The same, closed.
    fn lingering(fx: &Fixture, name: &str) -> NodeId {
        let (file, handle) = written_over(fx, name);
        fx.fs.release(handle).unwrap();
        file
    }

    /// The same with the names `one` and `two`.
    fn lingering_with_two_names(fx: &Fixture) -> NodeId {
        let file = lingering(fx, "one");
        fx.fs.link(file, ROOT, os("two")).unwrap();
        file
    }

    fn content() -> Vec<u8> {
        [vec![3; 4096], vec![2; 9000 - 4096]].concat()
    }

    fn open_files(fx: &Fixture) -> usize {
        fx.fs.open.close_all_idle();
        fx.fs.open.len()
    }

    #[test]
    fn what_waits_for_a_commit_stays_open_for_a_moment() {
        let mut fx = Fixture::new();
        let (file, handle) = written_over(&fx, "file");
        let before = flushes::asked_for();
        fx.fs.release(handle).unwrap();
        assert_eq!((open_files(&fx), flushes::asked_for()), (1, before));
        assert_eq!(fx.content(file), content());
        // Written again, it goes on as it was.
        let handle = fx.fs.open(ROOT_CALLER, file, libc::O_RDWR).unwrap().handle;
        fx.fs.write(handle, 0, &[3; 4096], false).unwrap();
        fx.fs.sync(handle, true).unwrap();
        assert_eq!(flushes::asked_for(), before + 2, "the journal and, once, its directory");
        std::thread::sleep(Duration::from_millis(1100));
        fx.fs.keep_up(false);
        assert_eq!((open_files(&fx), flushes::asked_for()), (1, before + 2), "a writer has it");
        fx.fs.release(handle).unwrap();
        std::thread::sleep(Duration::from_millis(1100));
        fx.fs.keep_up(false);
        assert_eq!((open_files(&fx), flushes::asked_for()), (0, before + 3));
        fx.remount();
        let found = fx.lookup(ROOT, "file");
        assert_eq!(fx.content(found), content());
    }

    #[test]
    fn nothing_is_written_of_what_is_removed_or_replaced() {
        let fx = Fixture::new();
        for name in ["removed", "replaced"] {
            let (file, handle) = written_over(&fx, name);
            let other = fx.create(ROOT, &format!("for {name}"), b"text");
            fx.fs
                .sync(fx.fs.open(ROOT_CALLER, other, libc::O_RDWR).unwrap().handle, false)
                .unwrap();
            let opened = fx.open_descriptors();
            let before = flushes::asked_for();
            fx.fs.release(handle).unwrap();
            match name {
                "removed" => fx.fs.unlink(ROOT, os(name)).unwrap(),
                _ => fx.fs.rename(ROOT, os("for replaced"), ROOT, os(name), 0).unwrap(),
            }
            assert_eq!((fx.open_descriptors(), flushes::asked_for()), (opened - 1, before));
            assert!(fx.fs.attributes(file, None).unwrap_err().is(Errno::STALE));
            assert!(fx.fs.open(ROOT_CALLER, file, libc::O_RDONLY).unwrap_err().is(Errno::STALE));
            fx.fs.forget(file, 1);
        }
    }

    #[test]
    fn what_has_another_name_or_a_reader_stays_as_it_is() {
        let fx = Fixture::new();
        let file = lingering_with_two_names(&fx);
        fx.fs.unlink(ROOT, os("one")).unwrap();
        assert_eq!(open_files(&fx), 1);
        assert_eq!(fx.content(fx.lookup(ROOT, "two")), content());
        let reader = fx.fs.open(ROOT_CALLER, file, libc::O_RDONLY).unwrap().handle;
        fx.fs.unlink(ROOT, os("two")).unwrap();
        let mut buf = [0; 9000];
        assert_eq!(fx.fs.read(reader, 0, &mut buf).unwrap(), 9000);
        assert!(buf[..] == content());
        assert_eq!(fx.content(file), content(), "opened anew");
        fx.fs.release(reader).unwrap();
        assert_eq!(fx.in_use(), 0);
        assert_eq!(fx.content(file), content(), "opened anew when it was closed");
    }

    #[test]
    fn the_kernel_forgets_it_or_the_mount_ends() {
        type End = fn(&Fixture, NodeId);
        let ends: [(&str, End); 3] = [
            ("forgotten", |fx, file| {
                fx.fs.forget(file, 1);
                fx.fs.keep_up(false);
            }),
            ("read-only", |fx, _| fx.fs.set_read_only(true)),
            ("shut down", |fx, _| fx.fs.shut_down()),
        ];
        for (what, end) in ends {
            let mut fx = Fixture::new();
            let file = lingering(&fx, "file");
            end(&fx, file);
            assert_eq!(open_files(&fx), 0, "{what}");
            fx.fs.set_read_only(false);
            fx.remount();
            assert_eq!(fx.content(fx.lookup(ROOT, "file")), content(), "{what}");
        }
    }

    /// Found by review: after an `fsync` the records were held by nobody, and stayed for good.
    #[test]
    fn records_of_removed_files_go_with_the_next_sync_of_everything() {
        for data_only in [true, false] {
            let fx = Fixture::new();
            for _ in 0..70 {
                let (file, handle) = written_over(&fx, "file");
                fx.fs.sync(handle, data_only).unwrap();
                fx.fs.release(handle).unwrap();
                fx.fs.unlink(ROOT, os("file")).unwrap();
                fx.fs.forget(file, 1);
            }
            assert!(fx.fs.volume.journal_is_large());
            let before = flushes::asked_for();
            fx.fs.keep_up(false);
            assert_eq!(flushes::asked_for(), before + 1, "before its time");
            assert!(!fx.fs.volume.journal_is_large());
            fx.fs.keep_up(false);
            assert_eq!(flushes::asked_for(), before + 1);
            // Nothing is in it, so it was emptied: its first slot is free.
            let journal = fx.backing(".ssefs/journal-1");
            let bytes = std::fs::read(journal).unwrap();
            let start = crate::format::slot_start(0) as usize;
            assert!(bytes[start..].iter().all(|byte| *byte == 0));
        }
    }

    /// Found by review: of two names that go at one time the second one left it to be opened.
    #[test]
    fn an_object_that_vanishes_has_no_name_left() {
        let fx = Fixture::new();
        let file = lingering_with_two_names(&fx);
        // Underneath, as another removal has come that far.
        std::fs::remove_file(fx.backing("two")).unwrap();
        fx.fs.unlink(ROOT, os("one")).unwrap();
        assert_eq!((fx.fs.open.len(), fx.open_descriptors()), (0, 0));
        assert!(fx.fs.open(ROOT_CALLER, file, libc::O_RDONLY).unwrap_err().is(Errno::STALE));
        assert!(fx.fs.attributes(file, None).unwrap_err().is(Errno::STALE));
    }

    /// The kernel tells of a close a little after it.
    #[test]
    fn what_is_closed_after_its_removal_is_not_written_either() {
        let fx = Fixture::new();
        let (file, handle) = written_over(&fx, "file");
        fx.fs.unlink(ROOT, os("file")).unwrap();
        let before = flushes::asked_for();
        fx.fs.release(handle).unwrap();
        assert_eq!(fx.content(file), content(), "the kernel knows it");
        fx.fs.forget(file, 1);
        assert_eq!((fx.fs.open.len(), fx.open_descriptors()), (0, 0));
        assert_eq!(flushes::asked_for(), before);

        // Or even after the kernel has forgotten it.
        let (file, handle) = written_over(&fx, "file");
        fx.fs.unlink(ROOT, os("file")).unwrap();
        fx.fs.forget(file, 1);
        let before = flushes::asked_for();
        fx.fs.release(handle).unwrap();
        fx.fs.end_lingering(Duration::ZERO);
        assert_eq!((fx.fs.open.len(), fx.open_descriptors()), (0, 0));
        assert_eq!(flushes::asked_for(), before);
    }

    /// Found by review: one that was settled in between was kept idle, with its space.
    #[test]
    fn what_is_removed_does_not_become_idle() {
        let fx = Fixture::new();
        let (file, handle) = written_over(&fx, "file");
        for _ in 0..3 {
            fx.content(file);
        }
        fx.fs.release(handle).unwrap();
        let handle = fx.fs.open(ROOT_CALLER, file, libc::O_RDWR).unwrap().handle;
        fx.fs.write(handle, 20_000, b"further", false).unwrap();
        fx.fs.sync(handle, false).unwrap();
        fx.fs.release(handle).unwrap();
        assert_eq!(fx.fs.open.len(), 1);
        fx.fs.unlink(ROOT, os("file")).unwrap();
        assert_eq!((fx.fs.open.len(), fx.open_descriptors()), (0, 0));
    }

    /// Found by review: where the disk is full the space of a removed file counts more.
    #[test]
    fn what_is_removed_gives_its_space_where_there_is_none() {
        let fx = Fixture::new();
        let (file, handle) = written_over(&fx, "file");
        fx.fs.unlink(ROOT, os("file")).unwrap();
        fx.fs.release(handle).unwrap();
        assert_eq!(open_files(&fx), 1);
        let failed = std::cell::Cell::new(false);
        fx.fs
            .with_space(|| match failed.replace(true) {
                true => Ok(()),
                false => super::super::error::refused(file, Errno::NOSPC),
            })
            .unwrap();
        assert_eq!((fx.fs.open.len(), fx.open_descriptors()), (0, 0));
    }

    #[test]
    fn nothing_lingers_where_keys_are_not_to_be_remembered() {
        let fx = Fixture::with(|options| options.idle_files = 0);
        lingering(&fx, "file");
        assert_eq!(open_files(&fx), 0);
    }

    #[test]
    fn no_more_than_some_stay() {
        let fx = Fixture::new();
        for number in 0..MOST_FILES + 3 {
            lingering(&fx, &number.to_string());
        }
        assert_eq!(open_files(&fx), MOST_FILES);
        fx.fs.end_lingering(Duration::ZERO);
        assert_eq!(open_files(&fx), 0);
    }

    /// The removal was not on the medium: what was synced of the file has to be there.
    #[test]
    fn a_power_cut_may_bring_a_removed_file_back() {
        let fx = Fixture::new();
        let (_, handle) = written_over(&fx, "file");
        fx.fs.sync(handle, true).unwrap();
        fx.fs.write(handle, 0, &[4; 100], false).unwrap();
        let there = std::fs::read(fx.backing("file")).unwrap();
        fx.fs.release(handle).unwrap();
        fx.fs.unlink(ROOT, os("file")).unwrap();
        for number in 0..20 {
            let (_, handle) = written_over(&fx, &number.to_string());
            fx.fs.sync(handle, true).unwrap();
            fx.fs.release(handle).unwrap();
        }
        let crashed = fx.crashed(|at| std::fs::write(at.join("file"), &there).unwrap());
        assert_eq!(crashed.content(crashed.lookup(ROOT, "file")), content());
    }
}
