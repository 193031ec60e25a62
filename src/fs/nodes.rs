//! The node table: every object that the kernel knows, under the number that it knows it by.
//! Two sharded maps, node to object and object to node, so that hard links share a node and no
//! lock is global. It owns names and look-up counts; it makes no system call and holds no
//! descriptor but those of objects that have no name any more.
//!
//! Invariant: a node that is not detached is in both maps. A node's id is its object's inode
//! number, so that programs see the same number at every mount; where a node that is still
//! known has that id already, as one whose object is gone may, a number that no inode has is
//! given instead. So a detached node is never taken for the object that got its inode number.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock};

use super::locks::{lock, read, shard, write};
use super::pinned::Pinned;
use super::renames::{Renames, Seen};
use super::types::NodeId;
use crate::store::tree::{FileKind, Stat};

/// All objects that the kernel knows.
///
/// Lock order: a shard of `objects` before a shard of `nodes`; never two shards of one map.
pub struct NodeTable {
    nodes: Box<[RwLock<HashMap<NodeId, Node>>]>,
    objects: Box<[Mutex<HashMap<ObjectId, NodeId>>]>,
    /// The device of the root, whose inode numbers serve as ids.
    device: u64,
    next: AtomicU64,
    count: AtomicU64,
    renames: Renames,
}

/// Which object of the backing store: device and inode number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ObjectId {
    /// Device number.
    pub dev: u64,
    /// Inode number.
    pub ino: u64,
}

/// A directory and a name in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name {
    /// The directory.
    pub parent: NodeId,
    /// The name.
    pub name: OsString,
}

/// What is known of a node at one time.
pub struct Place {
    /// The object.
    pub object: ObjectId,
    /// What sort of object.
    pub kind: FileKind,
    /// Its known names, the latest first; empty when all were removed.
    pub names: Vec<Name>,
    /// The object itself, if it lost its last known name.
    pub pinned: Option<Arc<Pinned>>,
}

/// A name as it is before a call that removes or replaces it.
pub struct Target {
    /// What the name leads to.
    pub object: ObjectId,
    /// What sort of object.
    pub kind: FileKind,
    /// The object itself, where a descriptor could be had.
    pub pinned: Option<Pinned>,
}

/// A node whose last look-up was forgotten.
pub struct Forgotten {
    /// The object that it was.
    pub object: ObjectId,
    /// What sort of object it was.
    pub kind: FileKind,
}

impl NodeTable {
    /// A table that holds the root directory only, which is never forgotten.
    pub fn new(root: ObjectId) -> Self {
        let table = Self {
            nodes: (0..SHARDS).map(|_| RwLock::default()).collect(),
            objects: (0..SHARDS).map(|_| Mutex::default()).collect(),
            device: root.dev,
            next: AtomicU64::new(FIRST_OF_NO_OBJECT),
            count: AtomicU64::new(1),
            renames: Renames::default(),
        };
        let node = Node::new(root, FileKind::Directory, NO_PARENT, Box::default());
        lock(table.object_shard(root)).insert(root, NodeId::ROOT);
        write(table.node_shard(NodeId::ROOT)).insert(NodeId::ROOT, node);
        table
    }

    /// How many nodes there are.
    pub fn len(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// The renames of the tree, which readers of names check against.
    pub fn renames(&self) -> &Renames {
        &self.renames
    }

    /// Counts one look-up of the object that `name` in `parent` was found to be, and remembers
    /// the name. `None` if a rename was made since `seen`: what was found may be elsewhere now.
    pub fn enter(&self, stat: &Stat, parent: NodeId, name: &OsStr, seen: Seen) -> Option<NodeId> {
        let object = ObjectId::of(stat);
        let kind = stat.kind();
        let only_name = kind == FileKind::Directory || stat.nlink <= 1;
        let mut objects = lock(self.object_shard(object));
        if let Some(&id) = objects.get(&object) {
            let mut nodes = write(self.node_shard(id));
            if self.renames.applied_since(seen) {
                return None;
            }
            if let Some(node) = nodes.get_mut(&id).filter(|node| node.kind() == kind) {
                node.lookups += 1;
                node.learn(parent, name, only_name);
                return Some(id);
            }
        } else if self.renames.applied_since(seen) {
            return None;
        }
        // A new object, or one that got the number of an object that vanished underneath.
        let id = self.insert(Node::new(object, kind, parent, name.as_bytes().into()));
        objects.insert(object, id);
        self.count.fetch_add(1, Ordering::Relaxed);
        Some(id)
    }

    /// Puts a new node under the number of its object, or under one of no object.
    fn insert(&self, node: Node) -> NodeId {
        let own = NodeId(node.object.ino);
        let usable = own != NodeId::ROOT && own.0 < FIRST_OF_NO_OBJECT;
        if node.object.dev == self.device
            && usable
            && let Entry::Vacant(place) = write(self.node_shard(own)).entry(own)
        {
            place.insert(node);
            return own;
        }
        let id = NodeId(self.next.fetch_add(1, Ordering::Relaxed));
        write(self.node_shard(id)).insert(id, node);
        id
    }

    /// Takes back `count` look-ups; the node goes with the last one.
    pub fn forget(&self, id: NodeId, count: u64) -> Option<Forgotten> {
        if id == NodeId::ROOT {
            return None;
        }
        let object = {
            let mut nodes = write(self.node_shard(id));
            let node = nodes.get_mut(&id)?;
            node.lookups = node.lookups.saturating_sub(count);
            if node.lookups > 0 {
                return None;
            }
            node.object
        };
        // Again under both locks: it may have been looked up in between.
        let mut objects = lock(self.object_shard(object));
        let mut nodes = write(self.node_shard(id));
        if nodes.get(&id)?.lookups > 0 {
            return None;
        }
        let node = nodes.remove(&id)?;
        if objects.get(&object) == Some(&id) {
            objects.remove(&object);
        }
        self.count.fetch_sub(1, Ordering::Relaxed);
        Some(Forgotten { object, kind: node.kind() })
    }

    /// What is known of a node.
    pub fn place(&self, id: NodeId) -> Option<Place> {
        let nodes = read(self.node_shard(id));
        let node = nodes.get(&id)?;
        Some(Place {
            object: node.object,
            kind: node.kind(),
            names: node.names(),
            pinned: node.extra.as_ref().and_then(|extra| extra.pinned.clone()),
        })
    }

    /// The object of a node.
    pub fn object(&self, id: NodeId) -> Option<(ObjectId, FileKind)> {
        let nodes = read(self.node_shard(id));
        nodes.get(&id).map(|node| (node.object, node.kind()))
    }

    /// The node of an object, if the kernel knows it.
    pub fn node_of(&self, object: ObjectId) -> Option<NodeId> {
        lock(self.object_shard(object)).get(&object).copied()
    }

    /// The path from the root, as far as it is known; for messages and the audit log only.
    pub fn path(&self, id: NodeId) -> PathBuf {
        // From its end, as the names are found.
        let mut reversed = Vec::with_capacity(USUAL_PATH_LEN);
        let mut push = |name: &[u8]| {
            if !reversed.is_empty() {
                reversed.push(b'/');
            }
            reversed.extend(name.iter().rev());
        };
        let mut at = id;
        for _ in 0..MAX_SHOWN_DEPTH {
            if at == NodeId::ROOT {
                break;
            }
            let nodes = read(self.node_shard(at));
            let Some((parent, name)) = nodes.get(&at).and_then(Node::first_name) else {
                push(b"(removed)");
                break;
            };
            push(name);
            at = parent;
        }
        reversed.reverse();
        PathBuf::from(OsString::from_vec(reversed))
    }

    /// Takes note that `name` in `parent` does not lead to the target any more. With its last
    /// known name gone the object is kept reachable by what was pinned; without that it is
    /// detached, because its inode number may now be given to another object.
    pub fn removed(&self, parent: NodeId, name: &OsStr, target: Target) {
        let mut objects = lock(self.object_shard(target.object));
        let Some(&id) = objects.get(&target.object) else { return };
        let mut nodes = write(self.node_shard(id));
        let Some(node) = nodes.get_mut(&id) else { return };
        node.drop_name(parent, name);
        if node.first_name().is_some() {
            return;
        }
        match target.pinned {
            Some(pinned) => node.extra().pinned = Some(Arc::new(pinned)),
            None => {
                objects.remove(&target.object);
            }
        }
    }

    /// Lets go of removed files of which `may_go` says that they may: whoever has such a node in
    /// mind does not reach it any more. Whether there was any. Goes through all nodes.
    pub fn let_removed_go(&self, may_go: impl Fn(ObjectId) -> bool) -> bool {
        let is_removed = |node: &Node| node.kind() == FileKind::Regular && node.is_pinned();
        let mut removed = Vec::new();
        for shard in &self.nodes {
            let nodes = read(shard);
            let found = nodes.iter().filter(|(_, node)| is_removed(node));
            removed.extend(found.map(|(id, node)| (*id, node.object)));
        }
        removed.retain(|(_, object)| may_go(*object));
        let gone =
            removed.into_iter().filter_map(|(id, object)| self.detach(id, object, is_removed));
        gone.count() > 0
    }

    /// Takes note that an object has no name any more, and that nobody is to reach it.
    pub fn vanished(&self, object: ObjectId) {
        if let Some(id) = self.node_of(object) {
            self.detach(id, object, |_| true);
        }
    }

    /// Takes its object from a node that `may` lose it, with all names. What it was pinned by is
    /// given back, to be dropped without a lock.
    fn detach(
        &self,
        id: NodeId,
        object: ObjectId,
        may: impl FnOnce(&Node) -> bool,
    ) -> Option<Option<Box<Extra>>> {
        let mut objects = lock(self.object_shard(object));
        let mut nodes = write(self.node_shard(id));
        let node = nodes.get_mut(&id).filter(|node| node.object == object && may(node))?;
        (node.object, node.parent, node.name) = (NO_OBJECT, NO_PARENT, Box::default());
        if objects.get(&object) == Some(&id) {
            objects.remove(&object);
        }
        Some(node.extra.take())
    }

    /// Takes note that `object` is now called `to` instead of `from`.
    pub fn moved(&self, object: ObjectId, from: (NodeId, &OsStr), to: (NodeId, &OsStr)) {
        let objects = lock(self.object_shard(object));
        let Some(&id) = objects.get(&object) else { return };
        let mut nodes = write(self.node_shard(id));
        if let Some(node) = nodes.get_mut(&id) {
            node.learn(to.0, to.1, false);
            node.drop_name(from.0, from.1);
        }
    }

    /// What the backing file looked like when it was last closed; 0 when it never was.
    pub fn stamp(&self, id: NodeId) -> u64 {
        read(self.node_shard(id)).get(&id).map_or(0, |node| node.stamp)
    }

    /// Remembers what the backing file looks like.
    pub fn set_stamp(&self, id: NodeId, stamp: u64) {
        if let Some(node) = write(self.node_shard(id)).get_mut(&id) {
            node.stamp = stamp;
        }
    }

    fn node_shard(&self, id: NodeId) -> &RwLock<HashMap<NodeId, Node>> {
        shard(&self.nodes, id.0)
    }

    fn object_shard(&self, object: ObjectId) -> &Mutex<HashMap<ObjectId, NodeId>> {
        shard(&self.objects, object.ino)
    }
}

impl ObjectId {
    /// The object that these are the attributes of.
    pub fn of(stat: &Stat) -> Self {
        Self { dev: stat.dev, ino: stat.ino }
    }
}

/// One object. An empty name says that there is none.
struct Node {
    object: ObjectId,
    lookups: u64,
    parent: NodeId,
    name: Box<[u8]>,
    stamp: u64,
    extra: Option<Box<Extra>>,
    kind: u8,
}

/// What few nodes have.
#[derive(Default)]
struct Extra {
    more: Vec<(NodeId, Box<[u8]>)>,
    pinned: Option<Arc<Pinned>>,
}

impl Node {
    fn new(object: ObjectId, kind: FileKind, parent: NodeId, name: Box<[u8]>) -> Self {
        Self { object, lookups: 1, parent, name, stamp: 0, extra: None, kind: kind_number(kind) }
    }

    fn kind(&self) -> FileKind {
        KINDS[usize::from(self.kind)]
    }

    fn extra(&mut self) -> &mut Extra {
        self.extra.get_or_insert_default()
    }

    fn is_pinned(&self) -> bool {
        self.extra.as_ref().is_some_and(|extra| extra.pinned.is_some())
    }

    fn first_name(&self) -> Option<(NodeId, &[u8])> {
        (!self.name.is_empty()).then_some((self.parent, &self.name))
    }

    fn names(&self) -> Vec<Name> {
        let more = self.extra.iter().flat_map(|extra| extra.more.iter().rev());
        let more = more.map(|(parent, name)| (*parent, &**name));
        self.first_name()
            .into_iter()
            .chain(more)
            .map(|(parent, name)| Name { parent, name: OsString::from_vec(name.to_vec()) })
            .collect()
    }

    /// Puts the name first. `only` says that the object can have no other one.
    fn learn(&mut self, parent: NodeId, name: &OsStr, only: bool) {
        let name = name.as_bytes();
        if self.parent == parent && *self.name == *name {
            return;
        }
        let former = (self.parent, std::mem::replace(&mut self.name, name.into()));
        self.parent = parent;
        if let Some(extra) = &mut self.extra {
            extra.pinned = None;
            extra.more.retain(|(other, more)| (*other, &**more) != (parent, name));
        }
        if only {
            self.extra = None;
        } else if !former.1.is_empty() {
            let more = &mut self.extra().more;
            if more.len() == MAX_FURTHER_NAMES {
                more.remove(0);
            }
            more.push(former);
        }
    }

    fn drop_name(&mut self, parent: NodeId, name: &OsStr) {
        let name = name.as_bytes();
        if self.parent == parent && *self.name == *name {
            let next = self.extra.as_mut().and_then(|extra| extra.more.pop());
            (self.parent, self.name) = next.unwrap_or((NO_PARENT, Box::default()));
        } else if let Some(extra) = &mut self.extra {
            extra.more.retain(|(other, more)| (*other, &**more) != (parent, name));
        }
        if self.extra.as_ref().is_some_and(|e| e.more.is_empty() && e.pinned.is_none()) {
            self.extra = None;
        }
    }
}

fn kind_number(kind: FileKind) -> u8 {
    let place = KINDS.iter().position(|known| *known == kind);
    u8::try_from(place.expect("all kinds are listed")).expect("there are eight")
}

/// The parent of a node without a name.
const NO_PARENT: NodeId = NodeId(0);
/// What a detached node is: no number of an inode is that large.
const NO_OBJECT: ObjectId = ObjectId { dev: u64::MAX, ino: u64::MAX };
const SHARDS: usize = 128;
/// Inode numbers of this size are not in use anywhere; ids from here on belong to no object.
const FIRST_OF_NO_OBJECT: u64 = 1 << 63;
/// Names beyond these are forgotten, the oldest first; the object stays reachable, because
/// whoever removes the last known name pins it.
const MAX_FURTHER_NAMES: usize = 64;
const MAX_SHOWN_DEPTH: usize = 4096;
const USUAL_PATH_LEN: usize = 128;
const KINDS: [FileKind; 8] = [
    FileKind::Regular,
    FileKind::Directory,
    FileKind::Symlink,
    FileKind::Fifo,
    FileKind::Socket,
    FileKind::CharDevice,
    FileKind::BlockDevice,
    FileKind::Unknown,
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::tree::Timestamp;

    const FILE: u32 = libc::S_IFREG | 0o600;
    const DIRECTORY: u32 = libc::S_IFDIR | 0o700;

    fn stat(ino: u64, mode: u32, nlink: u32) -> Stat {
        let time = Timestamp { secs: 0, nanos: 0 };
        Stat {
            dev: 7,
            ino,
            mode,
            nlink,
            uid: 0,
            gid: 0,
            rdev: 0,
            size: 0,
            blocks: 0,
            atime: time,
            mtime: time,
            ctime: time,
            btime: None,
        }
    }

    fn table() -> NodeTable {
        NodeTable::new(ObjectId { dev: 7, ino: 1 })
    }

    fn enter(table: &NodeTable, stat: &Stat, parent: NodeId, name: &str) -> NodeId {
        table.enter(stat, parent, OsStr::new(name), table.renames().seen()).unwrap()
    }

    fn names(table: &NodeTable, id: NodeId) -> Vec<(u64, String)> {
        let names = table.place(id).unwrap().names;
        names.into_iter().map(|n| (n.parent.0, n.name.into_string().unwrap())).collect()
    }

    fn target(ino: u64) -> Target {
        Target { object: ObjectId { dev: 7, ino }, kind: FileKind::Regular, pinned: None }
    }

    #[test]
    fn ids_are_inode_numbers_unless_a_live_node_has_them() {
        let table = table();
        let first = enter(&table, &stat(5, FILE, 1), NodeId::ROOT, "a");
        assert_eq!(first, NodeId(5));
        table.removed(NodeId::ROOT, OsStr::new("a"), target(5));
        let second = enter(&table, &stat(5, FILE, 1), NodeId::ROOT, "b");
        assert!(second.0 >= FIRST_OF_NO_OBJECT, "{second:?} while the first still lives");
        assert_eq!(table.node_of(ObjectId { dev: 7, ino: 5 }), Some(second));
        table.forget(first, 1).unwrap();
        assert_eq!(table.node_of(ObjectId { dev: 7, ino: 5 }), Some(second));
        assert_ne!(enter(&table, &stat(1, FILE, 1), NodeId::ROOT, "c"), NodeId::ROOT);
        let elsewhere = Stat { dev: 8, ..stat(9, FILE, 1) };
        assert!(enter(&table, &elsewhere, NodeId::ROOT, "d").0 >= FIRST_OF_NO_OBJECT);
    }

    #[test]
    fn a_node_lives_until_its_last_look_up_is_forgotten() {
        let table = table();
        let file = enter(&table, &stat(2, FILE, 1), NodeId::ROOT, "a");
        assert_eq!(enter(&table, &stat(2, FILE, 1), NodeId::ROOT, "a"), file);
        assert!(table.forget(file, 1).is_none());
        assert_eq!(table.len(), 2);
        assert_eq!(table.forget(file, 1).unwrap().kind, FileKind::Regular);
        assert!(table.place(file).is_none() && table.len() == 1);
        assert_eq!(enter(&table, &stat(2, FILE, 1), NodeId::ROOT, "a"), file);
        assert!(table.forget(NodeId::ROOT, u64::MAX).is_none());
        assert!(table.forget(NodeId(99), 1).is_none());
    }

    #[test]
    fn hard_links_share_a_node_and_its_names() {
        let table = table();
        let file = enter(&table, &stat(2, FILE, 2), NodeId::ROOT, "a");
        assert_eq!(enter(&table, &stat(2, FILE, 2), NodeId::ROOT, "b"), file);
        assert_eq!(names(&table, file), [(1, "b".into()), (1, "a".into())]);
        table.removed(NodeId::ROOT, OsStr::new("b"), target(2));
        assert_eq!(names(&table, file), [(1, "a".into())]);
        table.moved(
            ObjectId { dev: 7, ino: 2 },
            (NodeId::ROOT, OsStr::new("a")),
            (NodeId(5), OsStr::new("c")),
        );
        assert_eq!(names(&table, file), [(5, "c".into())]);
        assert_eq!(enter(&table, &stat(2, FILE, 1), NodeId::ROOT, "d"), file);
        assert_eq!(names(&table, file), [(1, "d".into())], "with one link there is one name");
    }

    #[test]
    fn the_oldest_of_too_many_names_goes_first() {
        let table = table();
        for index in 0..100 {
            enter(&table, &stat(2, FILE, 100), NodeId::ROOT, &format!("{index}"));
        }
        let known = names(&table, NodeId(2));
        assert_eq!(known.len(), MAX_FURTHER_NAMES + 1);
        assert_eq!((&*known[0].1, &*known[64].1), ("99", "35"));
    }

    #[test]
    fn without_a_pin_the_number_of_a_removed_object_may_come_again() {
        let table = table();
        let file = enter(&table, &stat(2, FILE, 1), NodeId::ROOT, "a");
        table.removed(NodeId::ROOT, OsStr::new("a"), target(2));
        assert!(names(&table, file).is_empty());
        let next = enter(&table, &stat(2, FILE, 1), NodeId::ROOT, "a");
        assert_ne!(next, file);
        table.forget(file, 1).unwrap();
        assert_eq!(table.node_of(ObjectId { dev: 7, ino: 2 }), Some(next));

        let directory = enter(&table, &stat(2, DIRECTORY, 2), NodeId::ROOT, "b");
        assert_ne!(directory, next, "another kind is another object");
    }

    #[test]
    fn a_name_found_before_a_rename_is_not_learnt_after_it() {
        let table = table();
        let seen = table.renames().seen();
        let rename = table.renames().begin();
        rename.applied();
        assert!(table.enter(&stat(2, FILE, 1), NodeId::ROOT, OsStr::new("a"), seen).is_none());
        drop(rename);
        enter(&table, &stat(2, FILE, 1), NodeId::ROOT, "a");
    }

    #[test]
    fn paths_are_shown_from_the_root() {
        let table = table();
        let directory = enter(&table, &stat(2, DIRECTORY, 2), NodeId::ROOT, "dir");
        let file = enter(&table, &stat(3, FILE, 1), directory, "file");
        assert_eq!(table.path(file), PathBuf::from("dir/file"));
        assert_eq!(table.path(NodeId::ROOT), PathBuf::new());
        table.removed(directory, OsStr::new("file"), target(3));
        assert_eq!(table.path(file), PathBuf::from("(removed)"));
    }

    #[test]
    fn threads_agree_on_nodes_and_counts() {
        let table = table();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for round in 0..20_000 {
                        let ino = 2 + round % 50;
                        let node = enter(&table, &stat(ino, FILE, 1), NodeId::ROOT, "name");
                        table.forget(node, 1);
                    }
                });
            }
        });
        assert_eq!(table.len(), 1);
        assert!(table.nodes.iter().map(|shard| read(shard).len()).sum::<usize>() == 1);
        assert!(table.objects.iter().map(|shard| lock(shard).len()).sum::<usize>() == 1);
    }
}
