//! Runs operations through the file system's own calls, in the place of a kernel: it walks
//! paths by look-ups, holds nodes, and forgets them.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::sync::Arc;
use std::time::Duration;

use ssefs::fs::{
    AttributeChange, Attributes, DirectoryEntry, DirectorySink, FileSystem, FsError, FsOptions,
    Handle, NodeId, SeekTarget, TimeChange, Timestamp,
};
use ssefs::keys::Caller;
use ssefs::volume::{Volume, VolumeUse};

use super::operation::{
    LINK_TARGETS, NAMES, Operation, Outcome, Path, RenameHow, SLOTS, Shown, Slot, Subject, XATTRS,
    pattern, user_keys,
};

/// A file system over a scratch directory.
pub struct Direct {
    scratch: tempfile::TempDir,
    mounted: Option<(FileSystem, Arc<Volume>)>,
    slots: [Option<Held>; SLOTS as usize],
    /// Nodes looked up, to be forgotten.
    looked_up: Vec<NodeId>,
    applied: usize,
}

struct Held {
    handle: Handle,
    node: NodeId,
    /// The file and the directories above it.
    nodes: Vec<NodeId>,
}

type Answer<T> = Result<T, i32>;

impl Direct {
    pub fn new() -> Self {
        rustix::process::umask(rustix::fs::Mode::empty());
        // In memory where there is such a place: each mount syncs, and the test mounts often.
        let memory = std::path::Path::new("/dev/shm");
        let parent = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
        let scratch = tempfile::tempdir_in(parent).unwrap();
        rustix::fs::chmod(scratch.path(), rustix::fs::Mode::from_raw_mode(0o755)).unwrap();
        let mounted = Some(mount(scratch.path()));
        Self { scratch, mounted, slots: Default::default(), looked_up: Vec::new(), applied: 0 }
    }

    fn fs(&self) -> &FileSystem {
        &self.mounted.as_ref().expect("mounted but for the time of a remount").0
    }

    fn answer(&mut self, operation: &Operation) -> Answer<Outcome> {
        match operation {
            Operation::Create { .. }
            | Operation::Open { .. }
            | Operation::Close { .. }
            | Operation::Remount => self.open_or_close(operation),
            Operation::Read { .. }
            | Operation::Write { .. }
            | Operation::SetSize { .. }
            | Operation::Allocate { .. }
            | Operation::Punch { .. }
            | Operation::Zero { .. }
            | Operation::Copy { .. }
            | Operation::Seek { .. }
            | Operation::Sync { .. }
            | Operation::StatOpen { .. } => self.on_open_file(operation),
            Operation::MakeDirectory { .. }
            | Operation::MakeSymlink { .. }
            | Operation::ReadLink { .. }
            | Operation::Link { .. }
            | Operation::Unlink { .. }
            | Operation::RemoveDirectory { .. }
            | Operation::Rename { .. }
            | Operation::List { .. } => self.on_names(operation),
            _ => self.on_attributes(operation),
        }
    }

    fn open_or_close(&mut self, operation: &Operation) -> Answer<Outcome> {
        match operation {
            Operation::Create { slot, path } => {
                let (parent, name) = self.parent(path)?;
                let flags = libc::O_RDWR | libc::O_CREAT | libc::O_EXCL;
                let created = self.fs().create(CALLER, parent, name, 0o644, 0, flags);
                let (entry, opened) = created.map_err(errno)?;
                self.looked_up.push(entry.node);
                self.hold(*slot, path, entry.node, opened.handle)?;
            }
            Operation::Open { slot, path, truncate } => {
                let (node, _) = self.find(path)?;
                let flags = libc::O_RDWR | if *truncate { libc::O_TRUNC } else { 0 };
                let opened = self.fs().open(CALLER, node, flags).map_err(errno)?;
                self.hold(*slot, path, node, opened.handle)?;
            }
            Operation::Close { slot } => {
                let held = self.slots[usize::from(*slot)].take().ok_or(libc::EBADF)?;
                self.close(held)?;
            }
            _ => self.remount()?,
        }
        Ok(Outcome::Done)
    }

    /// As a process that has it open does, keeps the file and what leads to it known.
    fn hold(&mut self, slot: Slot, path: &Path, node: NodeId, handle: Handle) -> Answer<()> {
        let known = self.looked_up.len();
        self.find(path)?;
        let nodes = self.looked_up.split_off(known);
        let held = Held { handle, node, nodes };
        match self.slots[usize::from(slot)].replace(held) {
            Some(former) => self.close(former),
            None => Ok(()),
        }
    }

    fn close(&self, held: Held) -> Answer<()> {
        self.fs().release(held.handle).map_err(errno)?;
        held.nodes.iter().for_each(|node| self.fs().forget(*node, 1));
        Ok(())
    }

    fn remount(&mut self) -> Answer<()> {
        self.slots = Default::default();
        self.looked_up.clear();
        let (fs, volume) = self.mounted.take().expect("mounted");
        fs.shut_down();
        volume.end_epoch().unwrap();
        // The volume is locked for as long as it is there.
        drop((fs, volume));
        self.mounted = Some(mount(self.scratch.path()));
        Ok(())
    }

    fn on_open_file(&self, operation: &Operation) -> Answer<Outcome> {
        let fs = self.fs();
        match *operation {
            Operation::Read { slot, offset, len } => {
                let mut buf = vec![0xee; len];
                let read = fs.read(self.handle(slot)?, offset, &mut buf).map_err(errno)?;
                buf.truncate(read);
                return Ok(Outcome::Data(buf));
            }
            Operation::Write { slot, offset, len, seed } => {
                let data = pattern(seed, offset, len);
                let handle = self.handle(slot)?;
                // No request of the kernel is larger, and none is empty.
                for (index, chunk) in data.chunks(1 << 17).enumerate() {
                    let at = offset + (index << 17) as u64;
                    fs.write(handle, at, chunk, false).map_err(errno)?;
                }
            }
            Operation::SetSize { slot, size } => {
                let (handle, node) = (self.handle(slot)?, self.node(slot)?);
                let change = AttributeChange { size: Some(size), ..Default::default() };
                fs.set_attributes(CALLER, node, Some(handle), &change).map_err(errno)?;
            }
            Operation::Allocate { slot, offset, len, keep_size } => {
                let mode = if keep_size { libc::FALLOC_FL_KEEP_SIZE } else { 0 };
                fs.allocate(self.handle(slot)?, offset, len, mode).map_err(errno)?;
            }
            Operation::Punch { slot, offset, len } => {
                let mode = libc::FALLOC_FL_KEEP_SIZE | libc::FALLOC_FL_PUNCH_HOLE;
                fs.allocate(self.handle(slot)?, offset, len, mode).map_err(errno)?;
            }
            Operation::Zero { slot, offset, len, keep_size } => {
                let keep = if keep_size { libc::FALLOC_FL_KEEP_SIZE } else { 0 };
                let mode = libc::FALLOC_FL_ZERO_RANGE | keep;
                fs.allocate(self.handle(slot)?, offset, len, mode).map_err(errno)?;
            }
            Operation::Copy { from, from_offset, to, to_offset, len } => {
                return self.copy(from, from_offset, to, to_offset, len);
            }
            Operation::Seek { slot, offset, data } => {
                let target = if data { SeekTarget::Data } else { SeekTarget::Hole };
                let from = i64::try_from(offset).unwrap();
                let found = fs.seek(self.handle(slot)?, from, target).map_err(errno)?;
                return Ok(Outcome::Position(u64::try_from(found).unwrap()));
            }
            Operation::Sync { slot } => fs.sync(self.handle(slot)?, false).map_err(errno)?,
            Operation::StatOpen { slot } => {
                let (handle, node) = (self.handle(slot)?, self.node(slot)?);
                return fs.attributes(node, Some(handle)).map(shown).map_err(errno);
            }
            _ => unreachable!("not of open files: {operation:?}"),
        }
        Ok(Outcome::Done)
    }

    /// The kernel clamps the length and refuses an overlap before it asks.
    fn copy(
        &self,
        from: Slot,
        from_offset: u64,
        to: Slot,
        to_offset: u64,
        len: u64,
    ) -> Answer<Outcome> {
        let (source, target) = (self.handle(from)?, self.handle(to)?);
        let size = self.fs().attributes(self.node(from)?, Some(source)).map_err(errno)?.size;
        let len = len.min(size.saturating_sub(from_offset));
        let same = self.node(from)? == self.node(to)?;
        if same && to_offset + len > from_offset && to_offset < from_offset + len {
            return Err(libc::EINVAL);
        }
        let copied = self.fs().copy_range(source, from_offset, target, to_offset, len);
        copied.map(Outcome::Count).map_err(errno)
    }

    fn on_names(&mut self, operation: &Operation) -> Answer<Outcome> {
        match operation {
            Operation::MakeDirectory { path } => {
                let (parent, name) = self.parent(path)?;
                let made = self.fs().make_directory(CALLER, parent, name, 0o755, 0);
                self.looked_up.push(made.map_err(errno)?.node);
            }
            Operation::MakeSymlink { path, target } => {
                let (parent, name) = self.parent(path)?;
                let target = OsStr::new(LINK_TARGETS[usize::from(*target)]);
                let made = self.fs().make_symlink(CALLER, parent, name, target);
                self.looked_up.push(made.map_err(errno)?.node);
            }
            Operation::ReadLink { path } => {
                let (node, _) = self.find(path)?;
                return self.fs().read_link(node).map(Outcome::Text).map_err(errno);
            }
            Operation::Link { from, to } => {
                let (node, _) = self.find(from)?;
                let (parent, name) = self.parent(to)?;
                // The kernel looks at the new name first.
                if self.find(to).is_ok() {
                    return Err(libc::EEXIST);
                }
                let linked = self.fs().link(node, parent, name).map_err(errno)?;
                assert_eq!(linked.node, node, "hard links share a node");
                self.looked_up.push(node);
            }
            Operation::Unlink { path } => {
                let (parent, name) = self.parent(path)?;
                self.fs().unlink(parent, name).map_err(errno)?;
            }
            Operation::RemoveDirectory { path } => {
                let (parent, name) = self.parent(path)?;
                self.fs().remove_directory(parent, name).map_err(errno)?;
            }
            Operation::Rename { from, to, how } => {
                let flags = match how {
                    RenameHow::Replace => 0,
                    RenameHow::NoReplace => libc::RENAME_NOREPLACE,
                    RenameHow::Exchange => libc::RENAME_EXCHANGE,
                };
                let ((old, old_name), (new, new_name)) = (self.parent(from)?, self.parent(to)?);
                self.fs().rename(old, old_name, new, new_name, flags).map_err(errno)?;
            }
            Operation::List { path } => return self.list(path),
            _ => unreachable!("not of names: {operation:?}"),
        }
        Ok(Outcome::Done)
    }

    /// Page by page, with and without attributes, which must agree.
    fn list(&mut self, path: &Path) -> Answer<Outcome> {
        let node = self.directory(path)?;
        self.fs().open_directory(CALLER, node).map_err(errno)?;
        let mut listings = Vec::new();
        for with_attributes in [false, true] {
            let (mut names, mut next) = (BTreeMap::new(), 0);
            loop {
                let mut page = Page { room: 3, next, ..Page::default() };
                let read = self.fs().read_directory(CALLER, node, next, with_attributes, &mut page);
                read.map_err(errno)?;
                self.looked_up.extend(page.nodes);
                if page.room == 3 {
                    break;
                }
                next = page.next;
                names.extend(page.names);
            }
            listings.push(names);
        }
        assert_eq!(listings[0], listings[1], "with and without attributes");
        Ok(Outcome::Names(listings.remove(0)))
    }

    fn on_attributes(&mut self, operation: &Operation) -> Answer<Outcome> {
        let change = match operation {
            Operation::Stat { path } => {
                let (node, looked_up) = self.find(path)?;
                let asked = self.fs().attributes(node, None).map_err(errno)?;
                if let Some(looked_up) = looked_up {
                    assert_eq!(asked, looked_up, "look-up and attributes agree");
                }
                return Ok(shown(asked));
            }
            Operation::Truncate { size, .. } => {
                AttributeChange { size: Some(*size), ..Default::default() }
            }
            Operation::Chmod { mode, .. } => {
                AttributeChange { mode: Some(*mode), ..Default::default() }
            }
            Operation::SetTime { secs, nanos, .. } => {
                let time = TimeChange::At(Timestamp { secs: *secs, nanos: *nanos });
                AttributeChange { mtime: Some(time), ..Default::default() }
            }
            _ => return self.on_xattrs(operation),
        };
        let (Operation::Truncate { path, .. }
        | Operation::Chmod { path, .. }
        | Operation::SetTime { path, .. }) = operation
        else {
            unreachable!("not a change of attributes: {operation:?}");
        };
        let (node, mode) = self.follow(path)?;
        if change.size.is_some() && mode & libc::S_IFMT == libc::S_IFDIR {
            return Err(libc::EISDIR);
        }
        self.fs().set_attributes(CALLER, node, None, &change).map_err(errno)?;
        Ok(Outcome::Done)
    }

    fn on_xattrs(&mut self, operation: &Operation) -> Answer<Outcome> {
        match operation {
            Operation::SetXattr { path, name, value } => {
                let (node, _) = self.follow(path)?;
                self.fs().set_xattr(CALLER, node, xattr(*name), value, 0).map_err(errno)?;
                Ok(Outcome::Done)
            }
            Operation::Xattr { path, name } => {
                let (node, _) = self.follow(path)?;
                self.fs().xattr(CALLER, node, xattr(*name)).map(Outcome::Text).map_err(errno)
            }
            Operation::RemoveXattr { path, name } => {
                let (node, _) = self.follow(path)?;
                self.fs().remove_xattr(CALLER, node, xattr(*name)).map_err(errno)?;
                Ok(Outcome::Done)
            }
            Operation::ListXattrs { path } => {
                let (node, _) = self.follow(path)?;
                let names = self.fs().xattr_names(node).map_err(errno)?;
                Ok(Outcome::Keys(user_keys(&names)))
            }
            _ => unreachable!("not of extended attributes: {operation:?}"),
        }
    }

    fn handle(&self, slot: Slot) -> Answer<Handle> {
        self.slots[usize::from(slot)].as_ref().map(|held| held.handle).ok_or(libc::EBADF)
    }

    fn node(&self, slot: Slot) -> Answer<NodeId> {
        self.slots[usize::from(slot)].as_ref().map(|held| held.node).ok_or(libc::EBADF)
    }

    /// Looks every name of a path up.
    fn find(&mut self, path: &Path) -> Answer<(NodeId, Option<Attributes>)> {
        let mut found = (NodeId::ROOT, None::<Attributes>);
        for place in path {
            if found.1.is_some_and(|attributes| is_link(attributes.mode)) {
                return Err(libc::ENOENT);
            }
            let name = OsStr::new(NAMES[usize::from(*place)]);
            let entry = self.fs().lookup(CALLER, found.0, name).map_err(errno)?;
            self.looked_up.push(entry.node);
            found = (entry.node, Some(entry.attributes));
        }
        Ok(found)
    }

    /// As [`Self::find`], but a link at the end is followed, to nowhere.
    fn follow(&mut self, path: &Path) -> Answer<(NodeId, u32)> {
        let (node, attributes) = self.find(path)?;
        let mode = attributes.map_or(libc::S_IFDIR, |attributes| attributes.mode);
        if is_link(mode) { Err(libc::ENOENT) } else { Ok((node, mode)) }
    }

    fn directory(&mut self, path: &Path) -> Answer<NodeId> {
        let (node, mode) = self.follow(path)?;
        if mode & libc::S_IFMT == libc::S_IFDIR { Ok(node) } else { Err(libc::ENOTDIR) }
    }

    fn parent(&mut self, path: &Path) -> Answer<(NodeId, &'static OsStr)> {
        let (last, above) = path.split_last().expect("only the root has no parent");
        let parent = self.directory(&above.to_vec())?;
        Ok((parent, OsStr::new(NAMES[usize::from(*last)])))
    }
}

impl Subject for Direct {
    fn apply(&mut self, operation: &Operation) -> Outcome {
        let outcome = self.answer(operation).unwrap_or_else(Outcome::Error);
        self.applied += 1;
        if self.applied.is_multiple_of(5) {
            let looked_up = std::mem::take(&mut self.looked_up);
            looked_up.iter().for_each(|node| self.fs().forget(*node, 1));
            let held: BTreeSet<_> =
                self.slots.iter().flatten().flat_map(|held| &held.nodes).collect();
            let known = self.fs().statistics_report().nodes;
            assert_eq!(known, 1 + held.len() as u64, "nodes that nobody knows are gone");
        }
        outcome
    }
}

/// Takes a few names of a listing.
#[derive(Default)]
struct Page {
    room: usize,
    next: i64,
    names: BTreeMap<String, u32>,
    nodes: Vec<NodeId>,
}

impl DirectorySink for Page {
    fn add(&mut self, entry: &DirectoryEntry<'_>) -> bool {
        if self.room == 0 {
            return false;
        }
        self.room -= 1;
        self.next = entry.next;
        self.nodes.extend(entry.entry.map(|entry| entry.node));
        if entry.name != "." && entry.name != ".." {
            self.names.insert(entry.name.to_str().unwrap().to_owned(), entry.kind);
        }
        true
    }
}

fn shown(attributes: Attributes) -> Outcome {
    let is_directory = attributes.mode & libc::S_IFMT == libc::S_IFDIR;
    Outcome::Shown(Shown {
        mode: attributes.mode,
        nlink: Some(attributes.nlink),
        size: Some(attributes.size).filter(|_| !is_directory),
        mtime: Some((attributes.mtime.secs, attributes.mtime.nanos)),
    })
}

fn is_link(mode: u32) -> bool {
    mode & libc::S_IFMT == libc::S_IFLNK
}

fn xattr(name: u8) -> &'static OsStr {
    OsStr::new(XATTRS[usize::from(name)])
}

fn errno(error: FsError) -> i32 {
    error.errno()
}

const CALLER: Caller = Caller { uid: 0, gid: 0, pid: 0 };

fn mount(directory: &std::path::Path) -> (FileSystem, Arc<Volume>) {
    // One for each shard of the table of open files.
    let (idle_files, idle_age) = (64, Duration::from_secs(60));
    let options =
        FsOptions { ttl: Duration::from_secs(1), idle_files, idle_age, ..Default::default() };
    super::mount::mount(directory, VolumeUse::default(), 4, options)
}
