//! Files whose recovery at their first open has changed their size. The kernel was told the size
//! before that, reads zeros up to it and appends there, and believes no other one while it knows
//! the node: it has to look the file up anew, as another generation of the node. Until it has,
//! the file is not opened.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use super::locks::lock;
use super::nodes::ObjectId;

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
    /// The size of the backing file for which the file has `size`: where it may not be written
    /// it stays too long.
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
    /// The file has another size than its backing file said when it was opened.
    pub fn note(&self, object: ObjectId, backing_size: u64, size: u64) {
        let mut files = lock(&self.files);
        let before = files.get(&object);
        let known = before.is_some_and(|b| (b.backing_size, b.size) == (backing_size, size));
        if !known {
            let generation = before.map_or(0, |before| before.generation) + 1;
            files.insert(object, Resize { generation, stage: Stage::Untold, backing_size, size });
            self.any.store(true, Ordering::Release);
        }
    }

    /// The same is known before the kernel has been told a size.
    pub fn foresee(&self, object: ObjectId, backing_size: u64, size: u64) {
        let (generation, stage) = (0, Stage::Opened);
        let resize = Resize { generation, stage, backing_size, size };
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
        let size =
            |resize: &mut Resize| (resize.backing_size == backing_size).then_some(resize.size);
        self.with(object, size).flatten()
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

    use super::super::tests::{Fixture, ROOT_CALLER, os};
    use super::super::{DirectoryEntry, DirectorySink, Entry, NodeId};
    use super::*;

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
        crashed.fs.forget(found.node, 1);
        assert_eq!(crashed.content(crashed.lookup(NodeId::ROOT, "file")), expected);

        let listed = fx.crashed(cut);
        let opened = listed.fs.open_directory(ROOT_CALLER, NodeId::ROOT).unwrap();
        let mut sizes = Sizes(Vec::new());
        listed.fs.read_directory(opened.handle, 0, true, &mut sizes).unwrap();
        assert_eq!(sizes.0, [5600]);
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
        resized.note(file, 9000, 3000);
        assert_eq!((resized.generation(file), resized.may_open(file)), (1, false));
        assert_eq!((resized.tell(file), resized.may_open(file)), (1, true));
        resized.note(file, 9000, 3000);
        assert_eq!((resized.generation(file), resized.may_open(file)), (1, true));
        resized.note(file, 8000, 2000);
        assert_eq!((resized.generation(file), resized.may_open(file)), (2, false));
        assert_eq!(resized.size(file, 8000), Some(2000));
        assert_eq!(resized.size(file, 6096), None, "it has changed since");
        assert_eq!(resized.generation(ObjectId { dev: 1, ino: 8 }), 0);
        resized.made(file);
        assert_eq!((resized.generation(file), resized.may_open(file)), (0, true));
    }

    /// The kernel drops the node that it has the wrong size of, perhaps before it has the new one.
    #[test]
    fn a_node_that_is_forgotten_before_the_file_is_opened_does_not_begin_anew() {
        let (resized, file) = (Resized::default(), ObjectId { dev: 1, ino: 7 });
        resized.note(file, 9000, 3000);
        resized.forget(file);
        assert_eq!(resized.tell(file), 1);
        resized.forget(file);
        assert_eq!(resized.tell(file), 1);
        resized.note(file, 9000, 3000);
        assert!(resized.may_open(file), "it has been refused once");
        resized.forget(file);
        assert_eq!(resized.generation(file), 0);
    }
}
