//! What `stat` shows: the backing object's attributes, with the plaintext size in place of the
//! ciphertext's. Finding and forgetting names is here too, as both end in attributes.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStringExt;
use std::sync::Arc;

use rustix::fs::{major, makedev, minor};
use rustix::io::Errno;

use super::error::{At, refused};
use super::nodes::ObjectId;
use super::renames::Seen;
use super::{Attributes, Entry, FileSystem, FsError, Handle, NodeId, Timestamp, check_old_name};
use crate::format::{CipherOffset, plain_size};
use crate::keys::Caller;
use crate::store::disk::DiskFile;
use crate::store::tree::{DirFd, FileKind, OpenFlags, Stat};

impl FileSystem {
    /// The object of a name; `ENOENT` if there is none.
    pub fn lookup(&self, _: Caller, parent: NodeId, name: &OsStr) -> Result<Entry, FsError> {
        self.counters.count(|counts| &counts.lookups);
        check_old_name(parent, name)?;
        let directory = self.directory(parent)?;
        let seen = self.nodes.renames().seen();
        let stat = self.tree.stat(&directory, name).at(parent)?;
        let entry = self.enter(parent, &directory, name, stat, seen)?;
        let generation = match self.nodes.object(entry.node) {
            Some((object, _)) if entry.generation > 0 => self.resized.tell(object),
            _ => entry.generation,
        };
        Ok(Entry { generation, ..entry })
    }

    /// Takes back `count` look-ups.
    pub fn forget(&self, node: NodeId, count: u64) {
        self.counters.count(|counts| &counts.forgets);
        let forgotten = self.nodes.forget(node, count);
        if let Some(forgotten) = &forgotten {
            self.resized.forget(forgotten.object);
            if !self.drop_lingering(forgotten.object) {
                self.lingering.hurry(forgotten.object);
            }
            self.open.let_go(forgotten.object);
        }
        if forgotten.is_some_and(|forgotten| forgotten.kind == FileKind::Directory) {
            self.directories.remove(node);
        }
    }

    /// The attributes of an object.
    pub fn attributes(&self, node: NodeId, handle: Option<Handle>) -> Result<Attributes, FsError> {
        self.counters.count(|counts| &counts.attributes);
        let stat = match handle.and_then(|handle| self.files.find(handle)) {
            Some(file) => file.inode().disk().stat().at(node)?,
            None => self.stat(node)?,
        };
        Ok(self.shown(&stat))
    }

    /// What a symbolic link holds.
    pub fn read_link(&self, node: NodeId) -> Result<Vec<u8>, FsError> {
        self.counters.count(|counts| &counts.links_read);
        let (_, kind) = self.nodes.object(node).ok_or(FsError::Stale { node })?;
        if kind != FileKind::Symlink {
            return refused(node, Errno::INVAL);
        }
        match self.locate(node)?.read_link() {
            Some(target) => Ok(target.at(node)?.into_vec()),
            None => refused(node, Errno::INVAL),
        }
    }

    /// Counts a look-up of what `name` was found to be, and shows it. Looks again for as long
    /// as renames come between.
    pub(super) fn enter(
        &self,
        parent: NodeId,
        directory: &Arc<DirFd>,
        name: &OsStr,
        mut stat: Stat,
        mut seen: Seen,
    ) -> Result<Entry, FsError> {
        loop {
            self.foresee(directory, name, &stat);
            if let Some(node) = self.nodes.enter(&stat, parent, name, seen) {
                let generation = self.resized.generation(ObjectId::of(&stat));
                return Ok(Entry { node, generation, attributes: self.shown(&stat) });
            }
            seen = self.nodes.renames().seen();
            stat = self.tree.stat(directory, name).at(parent)?;
        }
    }

    /// To come before the kernel is told the size of what `name` was found to be: whether that is
    /// another one than the backing file says.
    pub(super) fn foresee(&self, directory: &DirFd, name: &OsStr, stat: &Stat) {
        let object = ObjectId::of(stat);
        let is_asked = stat.kind() == FileKind::Regular && self.volume.may_be_longer(stat.size);
        // A node that the kernel knows has a size: if that is wrong the opening will tell.
        if !is_asked || self.nodes.node_of(object).is_some() || self.open.users(object) > 0 {
            return;
        }
        let open = || self.tree.open_file_with_stat(directory, name, OpenFlags::READ);
        let Ok((fd, found)) = self.with_room(open) else { return };
        if (ObjectId::of(&found), found.size) != (object, stat.size) {
            return;
        }
        // A file that is damaged tells so when it is opened.
        if let Ok(Some(size)) = self.volume.foreseen_size(&DiskFile::from(fd)) {
            self.resized.foresee(object, stat.size, size);
        }
    }

    /// Attributes as programs see them.
    pub(super) fn shown(&self, stat: &Stat) -> Attributes {
        let size = match stat.kind() {
            FileKind::Regular => match self.open.find(ObjectId::of(stat)) {
                Some(open) => open.inode().file().size(),
                None => {
                    let recovered = self.resized.size(ObjectId::of(stat), stat.size);
                    recovered.unwrap_or(plain_size(CipherOffset(stat.size)).0)
                }
            },
            _ => stat.size,
        };
        let time =
            |time: crate::store::tree::Timestamp| Timestamp { secs: time.secs, nanos: time.nanos };
        Attributes {
            ino: stat.ino,
            mode: stat.mode,
            nlink: stat.nlink,
            uid: stat.uid,
            gid: stat.gid,
            rdev: encode_device(stat.rdev),
            size,
            blocks: stat.blocks,
            atime: time(stat.atime),
            mtime: time(stat.mtime),
            ctime: time(stat.ctime),
        }
    }
}

/// The kernel's 32-bit form of a device number: 12 bits of major, 20 of minor.
fn encode_device(device: u64) -> u32 {
    let (major, minor) = (major(device), minor(device));
    (minor & 0xff) | ((major & 0xfff) << 8) | ((minor & !0xff) << 12)
}

/// The device number that the kernel's 32-bit form stands for.
pub(super) fn decode_device(encoded: u32) -> u64 {
    makedev((encoded >> 8) & 0xfff, (encoded & 0xff) | ((encoded >> 12) & !0xff))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Fixture, ROOT_CALLER, os};
    use super::*;

    #[test]
    fn device_numbers_keep_all_their_bits() {
        for (major, minor) in [(0, 0), (1, 3), (8, 255), (259, 256), (4095, 0xf_ffff)] {
            let device = makedev(major, minor);
            assert_eq!(decode_device(encode_device(device)), device, "{major}:{minor}");
        }
        assert_eq!(encode_device(makedev(1, 3)), 0x103);
    }

    #[test]
    fn sizes_are_those_of_the_plaintext_whether_open_or_not() {
        let fx = Fixture::new();
        let file = fx.create(NodeId::ROOT, "file", &[7; 70_000]);
        let size = |node| fx.fs.attributes(node, None).unwrap().size;
        assert_eq!(size(file), 70_000);
        assert!(std::fs::metadata(fx.backing("file")).unwrap().len() > 70_000);
        let handle = fx.fs.open(ROOT_CALLER, file, libc::O_RDWR).unwrap().handle;
        fx.fs.write(handle, 80_000, b"x", false).unwrap();
        assert_eq!(size(file), 80_001);
        assert_eq!(fx.fs.attributes(file, Some(handle)).unwrap().size, 80_001);
        let found = fx.fs.lookup(ROOT_CALLER, NodeId::ROOT, os("file")).unwrap();
        assert_eq!((found.node, found.attributes.size), (file, 80_001));
        fx.fs.release(handle).unwrap();
        assert_eq!(size(file), 80_001);
    }

    #[test]
    fn the_metadata_directory_is_not_there() {
        let fx = Fixture::new();
        let hidden = os(crate::format::METADATA_DIR);
        assert!(fx.fs.lookup(ROOT_CALLER, NodeId::ROOT, hidden).unwrap_err().is_not_found());
        let made = fx.fs.make_directory(ROOT_CALLER, NodeId::ROOT, hidden, 0o700, 0);
        assert!(made.unwrap_err().is(Errno::PERM));
        fx.create(NodeId::ROOT, "file", b"");
        for flags in [0, libc::RENAME_EXCHANGE] {
            let moved = fx.fs.rename(NodeId::ROOT, os("file"), NodeId::ROOT, hidden, flags);
            assert!(moved.unwrap_err().is(Errno::PERM));
        }
        let moved = fx.fs.rename(NodeId::ROOT, hidden, NodeId::ROOT, os("other"), 0);
        assert!(moved.unwrap_err().is_not_found());
        assert!(fx.fs.remove_directory(NodeId::ROOT, hidden).unwrap_err().is_not_found());
        let below =
            fx.fs.make_directory(ROOT_CALLER, NodeId::ROOT, os("dir"), 0o700, 0).unwrap().node;
        fx.fs.make_directory(ROOT_CALLER, below, hidden, 0o700, 0).unwrap();
    }

    #[test]
    fn a_link_is_read_and_nothing_else_is() {
        let fx = Fixture::new();
        let link =
            fx.fs.make_symlink(ROOT_CALLER, NodeId::ROOT, os("link"), os("no/where")).unwrap();
        assert_eq!(link.attributes.size, 8);
        assert_eq!(fx.fs.read_link(link.node).unwrap(), b"no/where");
        let file = fx.create(NodeId::ROOT, "file", b"");
        for node in [file, NodeId::ROOT] {
            assert!(fx.fs.read_link(node).unwrap_err().is(Errno::INVAL));
        }
    }
}
