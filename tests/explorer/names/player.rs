//! Runs changes of names and contents through the file system while its backing operations are
//! recorded, and keeps the model beside.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::rc::Rc;

use ssefs::fs::{FsError, Handle};
use ssefs::store::observer::observe;
use ssefs::volume::Durability;

use super::super::harness::pattern;
use super::super::model::{History, Promise, Version};
use super::disk::Log;
use super::mounted::{ATTRIBUTE, CALLER, Mounted};

/// One change, or what a program does as one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// Writes a new file and renames it over `a`.
    Save,
    /// The same, with a sync before the rename.
    SaveSynced,
    /// The same, without, and closes the file after the rename.
    SaveOpen,
    /// Renames `b`, as it is, over `a`.
    RenameOver,
    Exchange,
    RenameAside,
    Overwrite,
    Append,
    /// Opens `a`, cutting it to nothing, and writes it anew.
    Rewrite,
    Link,
    Unlink,
    /// Makes a directory and a file in it.
    MakeDirectory,
    SetAttribute,
    SyncA,
    SyncB,
    SyncDirectory,
    SyncAll,
}

pub const ACTS: [(Act, &str); 17] = [
    (Act::Save, "save"),
    (Act::SaveSynced, "save-synced"),
    (Act::SaveOpen, "save-open"),
    (Act::RenameOver, "rename-over"),
    (Act::Exchange, "exchange"),
    (Act::RenameAside, "rename-aside"),
    (Act::Overwrite, "overwrite"),
    (Act::Append, "append"),
    (Act::Rewrite, "rewrite"),
    (Act::Link, "link"),
    (Act::Unlink, "unlink"),
    (Act::MakeDirectory, "make-directory"),
    (Act::SetAttribute, "set-attribute"),
    (Act::SyncA, "sync-a"),
    (Act::SyncB, "sync-b"),
    (Act::SyncDirectory, "sync-directory"),
    (Act::SyncAll, "sync-all"),
];

/// What was recorded, and the model.
pub struct Played {
    pub log: Log,
    pub histories: BTreeMap<u64, History>,
    /// Files that were renamed over others: from these names on, so much of them is promised.
    pub renamed_over: Vec<RenamedOver>,
}

pub struct RenamedOver {
    pub ino: u64,
    pub version: usize,
    pub names: usize,
}

/// Runs `acts` on the volume in `root`, which holds `a`, `b` and `d`, up to where the machine goes
/// down.
pub fn play(root: &Path, acts: &[Act], durability: Durability) -> Played {
    prepare(root);
    let mounted = Mounted::new(root, durability);
    let log = Rc::new(RefCell::new(Log::new(root)));
    let histories = [("a", 1, 5000), ("b", 2, 9000)]
        .map(|(name, seed, len)| (ino(root, name), History::new(pattern(seed, len), None)));
    let mut player = Player {
        root,
        mounted,
        log: Rc::clone(&log),
        histories: histories.into(),
        renamed_over: Vec::new(),
        seed: 10,
    };
    observe(Some(Box::new({
        let log = Rc::clone(&log);
        move |event| log.borrow_mut().record(event)
    })));
    for act in acts {
        player.seed += 1;
        match player.act(*act) {
            Ok(()) => {}
            // What an earlier one has moved away.
            Err(error) if error.is_not_found() => {}
            Err(error) => panic!("{act:?}: {error}"),
        }
    }
    observe(None);
    let Player { mounted, histories, renamed_over, log: other, .. } = player;
    drop((mounted, other));
    let mut log = Rc::into_inner(log).expect("nobody else has it any more").into_inner();
    log.names_now();
    Played { log, histories, renamed_over }
}

fn prepare(root: &Path) {
    let mounted = Mounted::new(root, Durability::Power);
    for (name, seed, len) in [("a", 1, 5000), ("b", 2, 9000)] {
        let handle = create(&mounted, name).unwrap();
        mounted.fs.write(handle, 0, &pattern(seed, len), false).unwrap();
        mounted.close(handle);
    }
    let (parent, name) = mounted.parent("d").unwrap();
    mounted.fs.make_directory(CALLER, parent, name, 0o755, 0).unwrap();
    mounted.fs.sync_all().unwrap();
    mounted.unmount();
}

fn create(mounted: &Mounted, path: &str) -> Result<Handle, FsError> {
    let (parent, name) = mounted.parent(path)?;
    let flags = libc::O_RDWR | libc::O_CREAT | libc::O_EXCL;
    Ok(mounted.fs.create(CALLER, parent, name, 0o644, 0, flags)?.1.handle)
}

fn ino(root: &Path, path: &str) -> u64 {
    std::fs::symlink_metadata(root.join(path)).unwrap().ino()
}

struct Player<'a> {
    root: &'a Path,
    mounted: Mounted,
    log: Rc<RefCell<Log>>,
    histories: BTreeMap<u64, History>,
    renamed_over: Vec<RenamedOver>,
    seed: u64,
}

impl Player<'_> {
    fn act(&mut self, act: Act) -> Result<(), FsError> {
        match act {
            Act::Save | Act::SaveSynced | Act::SaveOpen => self.save(act),
            Act::RenameOver => self.rename("b", "a", 0),
            Act::Exchange => self.rename("a", "b", libc::RENAME_EXCHANGE),
            Act::RenameAside => self.rename("a", &format!("d/{}", self.seed), 0),
            Act::Overwrite => {
                let handle = self.mounted.open("a")?;
                self.write("a", handle, 10, 4500)?;
                self.mounted.close(handle);
                Ok(())
            }
            Act::Append => {
                let handle = self.mounted.open("b")?;
                let size = self.history("b").newest().content.len();
                self.write("b", handle, size, 800)?;
                self.mounted.close(handle);
                Ok(())
            }
            Act::Rewrite => self.rewrite(),
            Act::Link => {
                let (node, name) = (self.mounted.node("a")?, format!("d/{}", self.seed));
                let (parent, name) = self.mounted.parent(&name)?;
                self.mounted.fs.link(node, parent, name).map(drop)
            }
            Act::Unlink => {
                let (parent, name) = self.mounted.parent("b")?;
                self.mounted.fs.unlink(parent, name)
            }
            Act::MakeDirectory => self.make_directory(),
            Act::SetAttribute => {
                let node = self.mounted.node("a")?;
                let value = self.seed.to_string();
                let name = OsStr::new(ATTRIBUTE);
                self.mounted.fs.set_xattr(CALLER, node, name, value.as_bytes(), 0)
            }
            Act::SyncA => self.sync("a"),
            Act::SyncB => self.sync("b"),
            Act::SyncDirectory => {
                let node = self.mounted.node("")?;
                self.mounted.fs.sync_directory(node, false)
            }
            Act::SyncAll => {
                self.mounted.fs.sync_all()?;
                let position = self.log.borrow().position();
                for history in self.histories.values_mut() {
                    history.promise(Promise::Synced, position);
                }
                Ok(())
            }
        }
    }

    fn save(&mut self, act: Act) -> Result<(), FsError> {
        let name = "new";
        let handle = create(&self.mounted, name)?;
        self.histories.insert(ino(self.root, name), History::new(Vec::new(), None));
        self.write(name, handle, 0, 6000)?;
        if act == Act::SaveSynced {
            self.mounted.fs.sync(handle, false)?;
            self.promise(name);
        }
        if act == Act::SaveOpen {
            self.rename(name, "a", 0)?;
        }
        self.mounted.close(handle);
        if act == Act::SaveOpen { Ok(()) } else { self.rename(name, "a", 0) }
    }

    fn rewrite(&mut self) -> Result<(), FsError> {
        let node = self.mounted.node("a")?;
        let begun = self.log.borrow().position();
        let opened = self.mounted.fs.open(CALLER, node, libc::O_RDWR | libc::O_TRUNC)?;
        let version = Version { content: Vec::new(), envelope: None, begun, by_write: false };
        self.history("a").add(version);
        self.write("a", opened.handle, 0, 3000)?;
        self.mounted.close(opened.handle);
        Ok(())
    }

    fn make_directory(&mut self) -> Result<(), FsError> {
        let name = format!("made{}", self.seed);
        let (parent, component) = self.mounted.parent(&name)?;
        self.mounted.fs.make_directory(CALLER, parent, component, 0o755, 0)?;
        let file = format!("{name}/file");
        let handle = create(&self.mounted, &file)?;
        self.histories.insert(ino(self.root, &file), History::new(Vec::new(), None));
        self.write(&file, handle, 0, 5000)?;
        self.mounted.close(handle);
        Ok(())
    }

    fn write(&mut self, path: &str, handle: Handle, at: usize, len: usize) -> Result<(), FsError> {
        let bytes = pattern(self.seed, len);
        let begun = self.log.borrow().position();
        self.mounted.fs.write(handle, at as u64, &bytes, false)?;
        let history = self.history(path);
        let mut content = history.newest().content.clone();
        content.resize(content.len().max(at + len), 0);
        content[at..at + len].copy_from_slice(&bytes);
        history.add(Version { content, envelope: None, begun, by_write: true });
        Ok(())
    }

    fn sync(&mut self, path: &str) -> Result<(), FsError> {
        let handle = self.mounted.open(path)?;
        self.mounted.fs.sync(handle, true)?;
        self.promise(path);
        self.mounted.close(handle);
        Ok(())
    }

    fn rename(&mut self, from: &str, to: &str, flags: u32) -> Result<(), FsError> {
        let (old, new) = (self.mounted.parent(from)?, self.mounted.parent(to)?);
        self.mounted.node(from)?;
        let replaces = flags == 0 && self.root.join(to).exists();
        let ino = ino(self.root, from);
        let same = replaces && ino == self::ino(self.root, to);
        self.mounted.fs.rename(old.0, old.1, new.0, new.1, flags)?;
        if replaces && !same {
            let names = self.log.borrow_mut().names_now();
            let version = self.histories[&ino].newest_number();
            self.renamed_over.push(RenamedOver { ino, version, names });
        }
        Ok(())
    }

    fn history(&mut self, path: &str) -> &mut History {
        self.histories.get_mut(&ino(self.root, path)).expect("each file has a history")
    }

    fn promise(&mut self, path: &str) {
        let position = self.log.borrow().position();
        self.history(path).promise(Promise::Synced, position);
    }
}
