//! The backing directory as a power cut sees it: the names as they were one after the other, and
//! the changes of each file, recorded as they happen.
//!
//! Changes of names reach the disk in their order, as a journal brings them there; where the
//! journal has come to when the power fails is open, but not behind the last sync of a directory
//! or of everything. A sync of a file covers its data alone.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io::IoSlice;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use ssefs::store::memory::MemoryFile;
use ssefs::store::observer::{Event, FileEvent};
use ssefs::store::recorder::{Fate, Journal, Segment};
use ssefs::store::{BackingFile, SyncScope};

/// What a path leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Object {
    Directory,
    File { ino: u64, attributes: Vec<(OsString, Vec<u8>)> },
}

/// All paths of the backing directory; of those of the volume itself only its journals.
pub type Names = BTreeMap<String, Object>;

/// The directory of the volume itself.
pub const OWN: &str = ".ssefs";

/// What happened, in order.
pub struct Log {
    root: PathBuf,
    names: Vec<Names>,
    entries: Vec<Entry>,
    /// What each file held when the record began.
    bases: BTreeMap<u64, MemoryFile>,
    /// Keeps the numbers of removed files from being used again.
    held: BTreeMap<u64, std::fs::File>,
}

struct Entry {
    /// The names that were there before it.
    names: usize,
    what: What,
}

enum What {
    Written { ino: u64, bytes: Vec<u8>, offset: u64 },
    SizeSet { ino: u64, size: u64 },
    Allocated { ino: u64, offset: u64, len: u64, keep_size: bool },
    Punched { ino: u64, offset: u64, len: u64 },
    Synced { ino: u64, scope: SyncScope },
    NamesSynced,
    AllSynced,
}

impl Log {
    /// Begins with what is in `root`, all of it durable.
    pub fn new(root: &Path) -> Self {
        let names = names_in(root);
        let mut bases = BTreeMap::new();
        for (path, object) in &names {
            if let Object::File { ino, .. } = object {
                let file = MemoryFile::new();
                let bytes = std::fs::read(root.join(path)).unwrap();
                file.write_at(&[IoSlice::new(&bytes)], 0).unwrap();
                bases.insert(*ino, file);
            }
        }
        let root = root.to_owned();
        let mut log =
            Self { root, names: vec![names], entries: Vec::new(), bases, held: BTreeMap::new() };
        log.hold();
        log
    }

    /// Takes down what was done.
    pub fn record(&mut self, event: &Event<'_>) {
        let names = self.names_now();
        let what = match event {
            Event::DirectorySynced => What::NamesSynced,
            Event::FileSystemSynced => What::AllSynced,
            Event::File(fd, event) => {
                let ino = rustix::fs::fstat(fd).unwrap().st_ino;
                // The volume's other files are replaced whole, which has tests of its own.
                if !self.held.contains_key(&ino) {
                    return;
                }
                match *event {
                    FileEvent::Written { bufs, offset } => {
                        let bytes = bufs.iter().flat_map(|buf| buf.iter().copied()).collect();
                        What::Written { ino, bytes, offset }
                    }
                    FileEvent::SizeSet(size) => What::SizeSet { ino, size },
                    FileEvent::Allocated { offset, len, keep_size } => {
                        What::Allocated { ino, offset, len, keep_size }
                    }
                    FileEvent::Punched { offset, len } => What::Punched { ino, offset, len },
                    FileEvent::Synced(scope) => What::Synced { ino, scope },
                }
            }
        };
        self.entries.push(Entry { names, what });
    }

    /// How many entries there are.
    pub fn position(&self) -> usize {
        self.entries.len()
    }

    /// The number of the names that are there now.
    pub fn names_now(&mut self) -> usize {
        let now = names_in(&self.root);
        if self.names.last() != Some(&now) {
            self.names.push(now);
            self.hold();
        }
        self.names.len() - 1
    }

    pub fn names(&self, number: usize) -> &Names {
        &self.names[number]
    }

    /// The numbers of the names that a crash before the entry at `end` may leave.
    pub fn names_after_crash(&self, end: usize) -> std::ops::RangeInclusive<usize> {
        let synced = |entry: &&Entry| matches!(entry.what, What::NamesSynced | What::AllSynced);
        let durable = self.entries[..end].iter().rfind(synced).map_or(0, |entry| entry.names);
        let reached = self.entries.get(end).map_or(self.names.len() - 1, |entry| entry.names);
        durable..=reached
    }

    /// Whether something becomes durable by the entry at `position`, or there is none.
    pub fn is_sync(&self, position: usize) -> bool {
        let what = self.entries.get(position).map(|entry| &entry.what);
        !matches!(
            what,
            Some(
                What::Written { .. }
                    | What::SizeSet { .. }
                    | What::Allocated { .. }
                    | What::Punched { .. }
            )
        )
    }

    /// The changes of each file whose fate is open in a crash before the entry at `end`.
    pub fn open_changes(&self, end: usize) -> BTreeMap<u64, Segment> {
        let empty = MemoryFile::new();
        let base = |ino: &u64| self.bases.get(ino).unwrap_or(&empty);
        let mut journals: BTreeMap<u64, Journal> =
            self.held.keys().map(|ino| (*ino, Journal::over(base(ino)))).collect();
        for entry in &self.entries[..end] {
            apply(&entry.what, &mut journals);
        }
        let last = |journal: &Journal| journal.segments().pop().expect("there is always one");
        journals.iter().map(|(ino, journal)| (*ino, last(journal))).collect()
    }

    fn hold(&mut self) {
        let newest = self.names.last().expect("there is always one");
        for (path, object) in newest {
            if let Object::File { ino, .. } = object {
                let open = || std::fs::File::open(self.root.join(path)).unwrap();
                self.held.entry(*ino).or_insert_with(open);
            }
        }
    }
}

fn apply(what: &What, journals: &mut BTreeMap<u64, Journal>) {
    match what {
        What::Written { ino, bytes, offset } => {
            of(journals, ino).write_at(&[IoSlice::new(bytes)], *offset).unwrap();
        }
        What::SizeSet { ino, size } => of(journals, ino).set_size(*size).unwrap(),
        What::Allocated { ino, offset, len, keep_size } => {
            of(journals, ino).allocate(*offset, *len, *keep_size).unwrap();
        }
        What::Punched { ino, offset, len } => of(journals, ino).punch(*offset, *len).unwrap(),
        What::Synced { ino, scope } => of(journals, ino).sync(*scope),
        What::NamesSynced => {}
        What::AllSynced => journals.values_mut().for_each(|journal| journal.sync(SyncScope::All)),
    }
}

fn of<'j>(journals: &'j mut BTreeMap<u64, Journal>, ino: &u64) -> &'j mut Journal {
    journals.get_mut(ino).expect("each file is held")
}

/// Makes in `target`, which is empty, what a crash leaves: these names, and of each file what
/// its changes' fates say.
pub fn make(
    target: &Path,
    volume: &Path,
    names: &Names,
    changes: &BTreeMap<u64, Segment>,
    fates: &BTreeMap<u64, Vec<Fate>>,
) {
    std::fs::create_dir(target.join(OWN)).unwrap();
    for name in ["volume.json", "epochs.json"] {
        let name = Path::new(OWN).join(name);
        std::fs::copy(volume.join(&name), target.join(&name)).unwrap();
    }
    let mut made: BTreeMap<u64, PathBuf> = BTreeMap::new();
    for (path, object) in names {
        let path = target.join(path);
        match object {
            Object::Directory => std::fs::create_dir(&path).unwrap(),
            Object::File { ino, attributes } => {
                if let Some(other) = made.get(ino) {
                    std::fs::hard_link(other, &path).unwrap();
                    continue;
                }
                let content = changes[ino].content(&fates[ino]);
                let mut bytes = vec![0; content.size().unwrap() as usize];
                content.read_at(&mut bytes, 0).unwrap();
                std::fs::write(&path, bytes).unwrap();
                for (name, value) in attributes {
                    let flags = rustix::fs::XattrFlags::empty();
                    rustix::fs::setxattr(&path, name, value, flags).unwrap();
                }
                made.insert(*ino, path);
            }
        }
    }
}

fn names_in(root: &Path) -> Names {
    let mut names = Names::new();
    let mut directories = vec![String::new()];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(root.join(&directory)).unwrap().map(Result::unwrap) {
            let name = entry.file_name().into_string().unwrap();
            let path = if directory.is_empty() { name } else { format!("{directory}/{name}") };
            let metadata = entry.metadata().unwrap();
            let is_own = path.starts_with(OWN);
            if is_own && metadata.is_file() && !path.contains("journal-") {
                continue;
            }
            if metadata.is_dir() {
                directories.push(path.clone());
                if !is_own {
                    names.insert(path, Object::Directory);
                }
            } else {
                let attributes = attributes_of(&entry.path());
                names.insert(path, Object::File { ino: metadata.ino(), attributes });
            }
        }
    }
    names
}

fn attributes_of(path: &Path) -> Vec<(OsString, Vec<u8>)> {
    use std::os::unix::ffi::OsStrExt;
    let mut list = vec![0; 4096];
    let len = rustix::fs::listxattr(path, &mut list).unwrap();
    let names = list[..len].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    let value = |name: &[u8]| {
        let mut value = vec![0; 4096];
        let len = rustix::fs::getxattr(path, OsStr::from_bytes(name), &mut value).unwrap();
        value.truncate(len);
        value
    };
    names.map(|name| (OsStr::from_bytes(name).to_owned(), value(name))).collect()
}
