//! Files whose recovery at their first open has changed their size. The kernel was told the size
//! before that, reads zeros up to it and appends there, and believes no other one while it knows
//! the node: it has to look the file up anew, as another generation of the node. Until it has,
//! the file is not opened.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use super::locks::lock;
use super::nodes::ObjectId;
use crate::format::{CipherOffset, plain_size};

/// These files, by object.
#[derive(Default)]
pub struct Resized {
    /// Whether there is any: most mounts have none.
    any: AtomicBool,
    files: Mutex<HashMap<ObjectId, Resize>>,
}

struct Resize {
    generation: u64,
    stage: Stage,
    /// Until the file is recovered in writing.
    shown: Option<Shown>,
}

/// The size of a file, and that of its backing file for which it is so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Shown {
    backing_size: u64,
    size: u64,
}

/// How far the kernel has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// It has the size wrong.
    Untold,
    /// It has looked the file up since. It may forget the node that it knew, and look the file
    /// up once more, before it opens the file.
    Told,
    Opened,
}

impl Resized {
    /// The file was opened, and has this size. Its backing file had the other one before, and
    /// keeps it where the file is not `writable`.
    pub fn opened(&self, object: ObjectId, backing_size: u64, size: u64, writable: bool) {
        let usual = plain_size(CipherOffset(backing_size)).0;
        let told = self.size(object, backing_size).unwrap_or(usual);
        if told == size && !(writable && self.any.load(Ordering::Acquire)) {
            return;
        }
        let mut files = lock(&self.files);
        let shown = (!writable).then_some(Shown { backing_size, size });
        if told != size {
            let generation = files.get(&object).map_or(0, |before| before.generation) + 1;
            files.insert(object, Resize { generation, stage: Stage::Untold, shown });
            self.any.store(true, Ordering::Release);
        } else if let Some(resize) = files.get_mut(&object) {
            resize.shown = shown;
        }
    }

    /// The file will have this size when it is opened, it seems. To come before the kernel has
    /// been told any.
    pub fn foresee(&self, object: ObjectId, backing_size: u64, size: u64) {
        let (generation, stage) = (0, Stage::Opened);
        let resize = Resize { generation, stage, shown: Some(Shown { backing_size, size }) };
        lock(&self.files).entry(object).or_insert(resize);
        self.any.store(true, Ordering::Release);
    }

    /// The generation of the file's node, for the answer to a look-up.
    pub fn tell(&self, object: ObjectId) -> u64 {
        self.with(object, |resize| {
            if resize.stage == Stage::Untold {
                resize.stage = Stage::Told;
            }
            resize.generation
        })
        .unwrap_or(0)
    }

    /// The same for an answer that the kernel may not take the size from.
    pub fn generation(&self, object: ObjectId) -> u64 {
        self.with(object, |resize| resize.generation).unwrap_or(0)
    }

    /// The size of a file that nobody has open, where it is not what its backing file says.
    pub fn size(&self, object: ObjectId, backing_size: u64) -> Option<u64> {
        let shown = self.with(object, |resize| resize.shown).flatten();
        shown.filter(|shown| shown.backing_size == backing_size).map(|shown| shown.size)
    }

    /// The kernel wants to open the file. False while it has the size wrong.
    pub fn may_open(&self, object: ObjectId) -> bool {
        let open = |resize: &mut Resize| {
            if resize.stage == Stage::Told {
                resize.stage = Stage::Opened;
            }
            resize.stage == Stage::Opened
        };
        self.with(object, open).unwrap_or(true)
    }

    /// The kernel does not know the node any more.
    pub fn forget(&self, object: ObjectId) {
        if self.any.load(Ordering::Acquire) {
            let mut files = lock(&self.files);
            if files.get(&object).is_some_and(|resize| resize.stage == Stage::Opened) {
                files.remove(&object);
            }
        }
    }

    /// The file is a new one, whatever had its number before.
    pub fn made(&self, object: ObjectId) {
        if self.any.load(Ordering::Acquire) {
            lock(&self.files).remove(&object);
        }
    }

    fn with<T>(&self, object: ObjectId, look: impl FnOnce(&mut Resize) -> T) -> Option<T> {
        if !self.any.load(Ordering::Acquire) {
            return None;
        }
        lock(&self.files).get_mut(&object).map(look)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use rustix::io::Errno;

    use super::super::tests::{Fixture, ROOT_CALLER, os};
    use super::super::{AttributeChange, DirectoryEntry, DirectorySink, Entry, NodeId};
    use super::*;
    use crate::format::{JOURNAL_RECORD_LEN, slot_start};

    struct Sizes(Vec<u64>);

    impl DirectorySink for Sizes {
        fn add(&mut self, found: &DirectoryEntry<'_>) -> bool {
            let is_file = |entry: &&Entry| entry.attributes.mode & libc::S_IFMT == libc::S_IFREG;
            let entry = found.entry.as_ref().filter(is_file);
            self.0.extend(entry.map(|entry| entry.attributes.size));
            true
        }
    }

    /// The sync was answered by the journal, and the power took the size of the backing file.
    #[test]
    fn a_size_that_only_the_journal_has_is_told_before_the_first_open() {
        let fx = Fixture::new();
        let file = fx.create(NodeId::ROOT, "file", &[7; 5000]);
        let handle = fx.fs.open(ROOT_CALLER, file, libc::O_RDWR).unwrap().handle;
        fx.fs.write(handle, 0, &[8; 10], false).unwrap();
        fx.fs.sync(handle, false).unwrap();
        let before = fx.backing("file").metadata().unwrap().len();
        for at in [5000, 5300] {
            fx.fs.write(handle, at, &[9; 300], false).unwrap();
            fx.fs.sync(handle, true).unwrap();
        }
        let cut = |there: &std::path::Path| {
            let file = File::options().write(true).open(there.join("file")).unwrap();
            file.set_len(before).unwrap();
        };
        let crashed = fx.crashed(cut);
        let found = crashed.fs.lookup(ROOT_CALLER, NodeId::ROOT, os("file")).unwrap();
        assert_eq!((found.attributes.size, found.generation), (5600, 0));
        assert_eq!(crashed.fs.attributes(found.node, None).unwrap().size, 5600);
        let expected = [vec![8; 10], vec![7; 4990], vec![9; 600]].concat();
        assert_eq!(crashed.content(found.node), expected);
        // Cut by its name to what the backing file had before.
        let cut_again = AttributeChange { size: Some(5000), ..Default::default() };
        let cut_to = crashed.fs.set_attributes(ROOT_CALLER, found.node, None, &cut_again).unwrap();
        assert_eq!(cut_to.size, 5000);
        assert_eq!(crashed.fs.attributes(found.node, None).unwrap().size, 5000);
        let expected_then = &expected[..5000];
        assert_eq!(crashed.content(found.node), expected_then);
        crashed.fs.forget(found.node, 1);
        assert_eq!(crashed.content(crashed.lookup(NodeId::ROOT, "file")), expected_then);

        let listed = fx.crashed(cut);
        let mut sizes = Sizes(Vec::new());
        listed.fs.read_directory(ROOT_CALLER, NodeId::ROOT, 0, true, &mut sizes).unwrap();
        assert_eq!(sizes.0, [5600]);
        // One that does not open, as its end did not reach the medium.
        let torn = fx.crashed(|there| {
            cut(there);
            let journal = std::fs::read_dir(there.join(".ssefs")).unwrap().find_map(|entry| {
                let path = entry.unwrap().path();
                path.file_name()?.to_str()?.starts_with("journal-").then_some(path)
            });
            let mut bytes = std::fs::read(journal.as_ref().unwrap()).unwrap();
            for slot in 0..8 {
                bytes[slot_start(slot) as usize + JOURNAL_RECORD_LEN] ^= 1;
            }
            std::fs::write(journal.unwrap(), bytes).unwrap();
        });
        let found = torn.fs.lookup(ROOT_CALLER, NodeId::ROOT, os("file")).unwrap();
        assert_eq!(found.attributes.size, 5600);
        let refused = torn.fs.open(ROOT_CALLER, found.node, libc::O_RDONLY);
        assert!(refused.unwrap_err().is(Errno::STALE), "the kernel has the size wrong");
        let again = torn.fs.lookup(ROOT_CALLER, NodeId::ROOT, os("file")).unwrap();
        assert_eq!((again.attributes.size, again.generation), (5000, 1));
        assert_eq!(torn.content(again.node), expected[..5000]);

        // What is not what the record was to replace stays as it is.
        let other = fx.crashed(|there| {
            cut(there);
            std::fs::copy(there.join("file"), there.join("copy")).unwrap();
            let mut bytes = std::fs::read(there.join("file")).unwrap();
            bytes[3072 + 64..3072 + 128].fill(0);
            std::fs::write(there.join("file"), bytes).unwrap();
        });
        let size = |name| other.fs.lookup(ROOT_CALLER, NodeId::ROOT, os(name)).unwrap();
        assert_eq!(size("file").attributes.size, 5000);
        assert_eq!(size("copy").attributes.size, 5600);
    }

    #[test]
    fn a_file_is_of_another_generation_after_each_change() {
        let (resized, file) = (Resized::default(), ObjectId { dev: 1, ino: 7 });
        assert_eq!((resized.tell(file), resized.may_open(file)), (0, true));
        resized.opened(file, 9000, 3000, false);
        assert_eq!((resized.generation(file), resized.may_open(file)), (1, false));
        assert_eq!((resized.tell(file), resized.may_open(file)), (1, true));
        resized.opened(file, 9000, 3000, false);
        assert_eq!((resized.generation(file), resized.may_open(file)), (1, true));
        resized.opened(file, 8000, 2000, false);
        assert_eq!((resized.generation(file), resized.may_open(file)), (2, false));
        assert_eq!(resized.size(file, 8000), Some(2000));
        assert_eq!(resized.size(file, 6096), None, "it has changed since");
        assert_eq!(resized.generation(ObjectId { dev: 1, ino: 8 }), 0);
        resized.opened(file, 8000, 2000, true);
        assert_eq!((resized.generation(file), resized.size(file, 8000)), (2, None), "recovered");
        resized.made(file);
        assert_eq!((resized.generation(file), resized.may_open(file)), (0, true));
    }

    #[test]
    fn what_was_foreseen_wrongly_is_told_anew() {
        let (resized, file) = (Resized::default(), ObjectId { dev: 1, ino: 7 });
        resized.foresee(file, 9000, 5600);
        assert_eq!((resized.size(file, 9000), resized.may_open(file)), (Some(5600), true));
        resized.opened(file, 9000, 5600, true);
        assert_eq!((resized.size(file, 9000), resized.may_open(file)), (None, true));
        resized.forget(file);
        resized.foresee(file, 9000, 5600);
        resized.opened(file, 9000, 4904, true);
        assert_eq!((resized.generation(file), resized.may_open(file)), (1, false));
        assert_eq!((resized.tell(file), resized.may_open(file)), (1, true));
    }

    /// The kernel drops the node that it has the wrong size of, perhaps before it has the new one.
    #[test]
    fn a_node_that_is_forgotten_before_the_file_is_opened_does_not_begin_anew() {
        let (resized, file) = (Resized::default(), ObjectId { dev: 1, ino: 7 });
        resized.opened(file, 9000, 3000, false);
        resized.forget(file);
        assert_eq!(resized.tell(file), 1);
        resized.forget(file);
        assert_eq!(resized.tell(file), 1);
        resized.opened(file, 9000, 3000, false);
        assert!(resized.may_open(file), "it has been refused once");
        resized.forget(file);
        assert_eq!(resized.generation(file), 0);
    }
}
