//! A file system as a tree in memory: what every subject must answer. It knows no encryption,
//! no kernel and no inode numbers.

use std::collections::BTreeMap;

use super::operation::{
    LINK_TARGETS, NAMES, Operation, Outcome, Path, RenameHow, SLOTS, Shown, Slot, Subject, XATTRS,
    pattern,
};

/// The reference.
pub struct Reference {
    nodes: Vec<Node>,
    slots: [Option<Id>; SLOTS as usize],
}

type Id = usize;
type Answer<T> = Result<T, i32>;

#[derive(Clone)]
struct Node {
    kind: Kind,
    permissions: u32,
    nlink: u32,
    xattrs: BTreeMap<String, Vec<u8>>,
    /// Known only from when it was set until the content changes.
    mtime: Option<(i64, u32)>,
}

#[derive(Clone)]
enum Kind {
    File(Vec<u8>),
    Directory(BTreeMap<String, Id>),
    Symlink(&'static str),
}

impl Default for Reference {
    fn default() -> Self {
        let root = Node::new(Kind::Directory(BTreeMap::new()), 0o755);
        Self { nodes: vec![root], slots: [None; SLOTS as usize] }
    }
}

impl Subject for Reference {
    fn apply(&mut self, operation: &Operation) -> Outcome {
        self.answer(operation).unwrap_or_else(Outcome::Error)
    }
}

impl Reference {
    /// The content of an open file, to judge what was found in it.
    pub fn open_content(&self, slot: Slot) -> Option<&[u8]> {
        self.slots[usize::from(slot)].map(|id| self.content(id))
    }

    /// Every path there is, the root first.
    pub fn paths(&self) -> Vec<Path> {
        let mut paths = vec![Vec::new()];
        let mut next = 0;
        while let Some(path) = paths.get(next).cloned() {
            next += 1;
            let Ok(Kind::Directory(entries)) = self.find(&path).map(|id| &self.nodes[id].kind)
            else {
                continue;
            };
            for name in entries.keys() {
                let place = NAMES.iter().position(|known| known == name).unwrap();
                paths.push([&path[..], &[place as u8]].concat());
            }
        }
        paths
    }

    fn answer(&mut self, operation: &Operation) -> Answer<Outcome> {
        match operation {
            Operation::Create { .. }
            | Operation::Open { .. }
            | Operation::Close { .. }
            | Operation::Remount => self.open_or_close(operation),
            Operation::MakeDirectory { .. }
            | Operation::MakeSymlink { .. }
            | Operation::ReadLink { .. }
            | Operation::Link { .. }
            | Operation::Unlink { .. }
            | Operation::RemoveDirectory { .. }
            | Operation::Rename { .. }
            | Operation::List { .. } => self.on_names(operation),
            Operation::Stat { .. }
            | Operation::StatOpen { .. }
            | Operation::Truncate { .. }
            | Operation::Chmod { .. }
            | Operation::SetTime { .. }
            | Operation::SetXattr { .. }
            | Operation::Xattr { .. }
            | Operation::RemoveXattr { .. }
            | Operation::ListXattrs { .. } => self.on_attributes(operation),
            _ => self.on_content(operation),
        }
    }

    fn open_or_close(&mut self, operation: &Operation) -> Answer<Outcome> {
        match operation {
            Operation::Create { slot, path } => {
                let id = self.make(path, Kind::File(Vec::new()), 0o644)?;
                self.slots[usize::from(*slot)] = Some(id);
            }
            Operation::Open { slot, path, truncate } => {
                let id = self.find(path)?;
                match &self.nodes[id].kind {
                    Kind::Directory(_) => return Err(libc::EISDIR),
                    Kind::Symlink(_) => return Err(libc::ELOOP),
                    Kind::File(_) => {}
                }
                if *truncate {
                    self.change(id, Vec::clear);
                }
                self.slots[usize::from(*slot)] = Some(id);
            }
            Operation::Close { slot } => {
                self.opened(*slot)?;
                self.slots[usize::from(*slot)] = None;
            }
            _ => self.slots = [None; SLOTS as usize],
        }
        Ok(Outcome::Done)
    }

    fn on_content(&mut self, operation: &Operation) -> Answer<Outcome> {
        match *operation {
            Operation::Read { slot, offset, len } => {
                let content = self.content(self.opened(slot)?);
                let start = (offset as usize).min(content.len());
                let end = (start + len).min(content.len());
                return Ok(Outcome::Data(content[start..end].to_vec()));
            }
            Operation::Write { slot, offset, len, seed } => {
                let id = self.opened(slot)?;
                let data = pattern(seed, offset, len);
                self.write(id, offset, &data);
            }
            Operation::SetSize { slot, size } => {
                let id = self.opened(slot)?;
                self.change(id, |content| content.resize(size as usize, 0));
            }
            Operation::Allocate { slot, offset, len, keep_size } => {
                let id = self.opened(slot)?;
                self.zero(id, offset..offset, Some(offset + len).filter(|_| !keep_size));
            }
            Operation::Punch { slot, offset, len } => {
                let id = self.opened(slot)?;
                self.zero(id, offset..offset + len, None);
            }
            Operation::Zero { slot, offset, len, keep_size } => {
                let id = self.opened(slot)?;
                let end = offset + len;
                self.zero(id, offset..end, Some(end).filter(|_| !keep_size));
            }
            Operation::Copy { from, from_offset, to, to_offset, len } => {
                return self.copy(from, from_offset, to, to_offset, len);
            }
            // Judged against the content, as the reference has no holes.
            Operation::Seek { slot, offset, .. } => {
                self.opened(slot)?;
                return Ok(Outcome::Position(offset));
            }
            Operation::Sync { slot } => {
                self.opened(slot)?;
            }
            _ => unreachable!("not of the content: {operation:?}"),
        }
        Ok(Outcome::Done)
    }

    fn copy(
        &mut self,
        from: Slot,
        from_offset: u64,
        to: Slot,
        to_offset: u64,
        len: u64,
    ) -> Answer<Outcome> {
        let (source, target) = (self.opened(from)?, self.opened(to)?);
        let left = (self.content(source).len() as u64).saturating_sub(from_offset);
        let len = len.min(left);
        if source == target && to_offset + len > from_offset && to_offset < from_offset + len {
            return Err(libc::EINVAL);
        }
        let start = from_offset as usize;
        if len > 0 {
            let data = self.content(source)[start..start + len as usize].to_vec();
            self.write(target, to_offset, &data);
        }
        Ok(Outcome::Count(len))
    }

    fn on_names(&mut self, operation: &Operation) -> Answer<Outcome> {
        match operation {
            Operation::MakeDirectory { path } => {
                self.make(path, Kind::Directory(BTreeMap::new()), 0o755)?;
            }
            Operation::MakeSymlink { path, target } => {
                let target = LINK_TARGETS[usize::from(*target)];
                self.make(path, Kind::Symlink(target), 0o777)?;
            }
            Operation::ReadLink { path } => {
                return match self.nodes[self.find(path)?].kind {
                    Kind::Symlink(target) => Ok(Outcome::Text(target.into())),
                    _ => Err(libc::EINVAL),
                };
            }
            Operation::Link { from, to } => {
                let id = self.find(from)?;
                let (parent, name) = self.parent(to)?;
                if self.entries(parent)?.contains_key(name) {
                    return Err(libc::EEXIST);
                }
                if self.is_directory(id) {
                    return Err(libc::EPERM);
                }
                self.nodes[id].nlink += 1;
                self.entries_mut(parent).insert(name.to_owned(), id);
            }
            Operation::Unlink { path } => {
                let id = self.find(path)?;
                if self.is_directory(id) {
                    return Err(libc::EISDIR);
                }
                self.take(path)?;
            }
            Operation::RemoveDirectory { path } => {
                let id = self.find(path)?;
                match &self.nodes[id].kind {
                    Kind::Directory(entries) if entries.is_empty() => {}
                    Kind::Directory(_) => return Err(libc::ENOTEMPTY),
                    _ => return Err(libc::ENOTDIR),
                }
                self.take(path)?;
            }
            Operation::Rename { from, to, how } => self.rename(from, to, *how)?,
            Operation::List { path } => {
                let entries = self.entries(self.find(path)?)?;
                let shown =
                    |(name, id): (&String, &Id)| (name.clone(), self.nodes[*id].type_bits());
                return Ok(Outcome::Names(entries.iter().map(shown).collect()));
            }
            _ => unreachable!("not of names: {operation:?}"),
        }
        Ok(Outcome::Done)
    }

    /// The order of the checks is the kernel's.
    fn rename(&mut self, from: &Path, to: &Path, how: RenameHow) -> Answer<()> {
        let (old_parent, old_name) = self.parent(from)?;
        let (new_parent, new_name) = self.parent(to)?;
        let moved = *self.entries(old_parent)?.get(old_name).ok_or(libc::ENOENT)?;
        let there = self.entries(new_parent)?.get(new_name).copied();
        match (how, there) {
            (RenameHow::NoReplace, Some(_)) => return Err(libc::EEXIST),
            (RenameHow::Exchange, None) => return Err(libc::ENOENT),
            _ => {}
        }
        if to.len() > from.len() && to.starts_with(from) {
            return Err(libc::EINVAL);
        }
        if from.len() > to.len() && from.starts_with(to) {
            let exchange = how == RenameHow::Exchange;
            return Err(if exchange { libc::EINVAL } else { libc::ENOTEMPTY });
        }
        if there == Some(moved) {
            return Ok(());
        }
        if let (RenameHow::Replace, Some(replaced)) = (how, there) {
            match (self.is_directory(moved), &self.nodes[replaced].kind) {
                (true, Kind::Directory(entries)) if !entries.is_empty() => {
                    return Err(libc::ENOTEMPTY);
                }
                (true, Kind::File(_) | Kind::Symlink(_)) => return Err(libc::ENOTDIR),
                (false, Kind::Directory(_)) => return Err(libc::EISDIR),
                _ => {}
            }
            self.nodes[replaced].nlink -= 1;
        }
        self.entries_mut(old_parent).remove(old_name);
        self.entries_mut(new_parent).insert(new_name.to_owned(), moved);
        if let (RenameHow::Exchange, Some(other)) = (how, there) {
            self.entries_mut(old_parent).insert(old_name.to_owned(), other);
        }
        Ok(())
    }

    fn on_attributes(&mut self, operation: &Operation) -> Answer<Outcome> {
        match operation {
            Operation::Stat { path } => return Ok(self.shown(self.find(path)?)),
            Operation::StatOpen { slot } => return Ok(self.shown(self.opened(*slot)?)),
            Operation::Truncate { path, size } => {
                let id = self.follow(path)?;
                if self.is_directory(id) {
                    return Err(libc::EISDIR);
                }
                self.change(id, |content| content.resize(*size as usize, 0));
            }
            Operation::Chmod { path, mode } => {
                let id = self.follow(path)?;
                self.nodes[id].permissions = *mode;
            }
            Operation::SetTime { path, secs, nanos } => {
                let id = self.follow(path)?;
                if !self.is_directory(id) {
                    self.nodes[id].mtime = Some((*secs, *nanos));
                }
            }
            Operation::SetXattr { path, name, value } => {
                let id = self.follow(path)?;
                let name = XATTRS[usize::from(*name)].to_owned();
                self.nodes[id].xattrs.insert(name, value.clone());
            }
            Operation::Xattr { path, name } => {
                let id = self.follow(path)?;
                let value = self.nodes[id].xattrs.get(XATTRS[usize::from(*name)]);
                return Ok(Outcome::Text(value.ok_or(libc::ENODATA)?.clone()));
            }
            Operation::RemoveXattr { path, name } => {
                let id = self.follow(path)?;
                let removed = self.nodes[id].xattrs.remove(XATTRS[usize::from(*name)]);
                removed.ok_or(libc::ENODATA)?;
            }
            Operation::ListXattrs { path } => {
                let id = self.follow(path)?;
                return Ok(Outcome::Keys(self.nodes[id].xattrs.keys().cloned().collect()));
            }
            _ => unreachable!("not of attributes: {operation:?}"),
        }
        Ok(Outcome::Done)
    }

    fn make(&mut self, path: &Path, kind: Kind, permissions: u32) -> Answer<Id> {
        let (parent, name) = self.parent(path)?;
        if self.entries(parent)?.contains_key(name) {
            return Err(libc::EEXIST);
        }
        let id = self.nodes.len();
        self.nodes.push(Node::new(kind, permissions));
        self.entries_mut(parent).insert(name.to_owned(), id);
        Ok(id)
    }

    fn take(&mut self, path: &Path) -> Answer<()> {
        let (parent, name) = self.parent(path)?;
        let id = self.entries_mut(parent).remove(name).ok_or(libc::ENOENT)?;
        self.nodes[id].nlink -= 1;
        Ok(())
    }

    fn write(&mut self, id: Id, offset: u64, data: &[u8]) {
        if data.is_empty() {
            return;
        }
        let (start, end) = (offset as usize, offset as usize + data.len());
        self.change(id, |content| {
            content.resize(content.len().max(end), 0);
            content[start..end].copy_from_slice(data);
        });
    }

    fn zero(&mut self, id: Id, range: std::ops::Range<u64>, grow_to: Option<u64>) {
        self.change(id, |content| {
            content.resize(content.len().max(grow_to.unwrap_or(0) as usize), 0);
            let end = (range.end as usize).min(content.len());
            let start = (range.start as usize).min(end);
            content[start..end].fill(0);
        });
    }

    fn change(&mut self, id: Id, change: impl FnOnce(&mut Vec<u8>)) {
        self.nodes[id].mtime = None;
        if let Kind::File(content) = &mut self.nodes[id].kind {
            change(content);
        }
    }

    fn shown(&self, id: Id) -> Outcome {
        let node = &self.nodes[id];
        let size = match &node.kind {
            Kind::File(content) => Some(content.len() as u64),
            Kind::Symlink(target) => Some(target.len() as u64),
            Kind::Directory(_) => None,
        };
        Outcome::Shown(Shown {
            mode: node.type_bits() | node.permissions,
            nlink: Some(node.nlink).filter(|_| size.is_some()),
            size,
            mtime: node.mtime,
        })
    }

    fn content(&self, id: Id) -> &[u8] {
        match &self.nodes[id].kind {
            Kind::File(content) => content,
            _ => &[],
        }
    }

    fn opened(&self, slot: Slot) -> Answer<Id> {
        self.slots[usize::from(slot)].ok_or(libc::EBADF)
    }

    /// The object of a path, not following a link at its end.
    fn find(&self, path: &Path) -> Answer<Id> {
        let mut id = 0;
        for place in path {
            let entries = self.entries(id)?;
            id = *entries.get(NAMES[usize::from(*place)]).ok_or(libc::ENOENT)?;
        }
        Ok(id)
    }

    /// The object of a path, following a link at its end, which leads nowhere.
    fn follow(&self, path: &Path) -> Answer<Id> {
        let id = self.find(path)?;
        match self.nodes[id].kind {
            Kind::Symlink(_) => Err(libc::ENOENT),
            _ => Ok(id),
        }
    }

    fn parent(&self, path: &Path) -> Answer<(Id, &'static str)> {
        let (last, above) = path.split_last().expect("only the root has no parent");
        let parent = self.find(&above.to_vec())?;
        self.entries(parent)?;
        Ok((parent, NAMES[usize::from(*last)]))
    }

    fn is_directory(&self, id: Id) -> bool {
        matches!(self.nodes[id].kind, Kind::Directory(_))
    }

    fn entries(&self, id: Id) -> Answer<&BTreeMap<String, Id>> {
        match &self.nodes[id].kind {
            Kind::Directory(entries) => Ok(entries),
            Kind::File(_) => Err(libc::ENOTDIR),
            Kind::Symlink(_) => Err(libc::ENOENT),
        }
    }

    fn entries_mut(&mut self, id: Id) -> &mut BTreeMap<String, Id> {
        match &mut self.nodes[id].kind {
            Kind::Directory(entries) => entries,
            _ => unreachable!("looked at as a directory before"),
        }
    }
}

impl Node {
    fn new(kind: Kind, permissions: u32) -> Self {
        Self { kind, permissions, nlink: 1, xattrs: BTreeMap::new(), mtime: None }
    }

    fn type_bits(&self) -> u32 {
        match self.kind {
            Kind::File(_) => libc::S_IFREG,
            Kind::Directory(_) => libc::S_IFDIR,
            Kind::Symlink(_) => libc::S_IFLNK,
        }
    }
}
