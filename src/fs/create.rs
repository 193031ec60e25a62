//! Making objects on behalf of a caller: the owner that the caller's own call would have given,
//! the mode bits to the letter, and nothing left behind by a call that fails.

use std::ffi::OsStr;
use std::io;
use std::sync::Arc;

use rustix::io::Errno;

use super::attributes::decode_device;
use super::change::permission_bits;
use super::error::At;
use super::nodes::{ObjectId, Target};
use super::open::{OpenMode, Purpose};
use super::pinned::Reached;
use super::xattrs::ACL_DEFAULT;
use super::{Entry, FileSystem, FsError, NodeId, Opened, Wanted, check_new_name};
use crate::keys::Caller;
use crate::store::disk::DiskFile;
use crate::store::tree::{DirFd, FileKind, OpenFlags, Stat};

/// Where something is made, and for whom.
struct Site<'a> {
    caller: Caller,
    parent: NodeId,
    directory: Arc<DirFd>,
    name: &'a OsStr,
    /// How many capabilities had been given before.
    capabilities: u64,
}

impl FileSystem {
    /// Makes a regular file, FIFO, socket or device node.
    pub fn make_node(
        &self,
        caller: Caller,
        parent: NodeId,
        name: &OsStr,
        mode: u32,
        umask: u32,
        rdev: u32,
    ) -> Result<Entry, FsError> {
        self.counters.count(|counts| &counts.creations);
        let site = self.site(caller, parent, name)?;
        let mode = self.mode_in(&site, mode, umask);
        let kind = if mode & libc::S_IFMT == 0 { libc::S_IFREG } else { 0 };
        let (mode_and_kind, device) = (mode | kind, decode_device(rdev));
        let make = || self.tree.mknod(&site.directory, name, mode_and_kind, device).at(parent);
        self.with_space(make)?;
        self.finish(&site, mode, |site| self.tree.unlink(&site.directory, site.name))
    }

    /// Makes a directory.
    pub fn make_directory(
        &self,
        caller: Caller,
        parent: NodeId,
        name: &OsStr,
        mode: u32,
        umask: u32,
    ) -> Result<Entry, FsError> {
        self.counters.count(|counts| &counts.creations);
        let site = self.site(caller, parent, name)?;
        let mode = self.mode_in(&site, mode, umask);
        self.with_space(|| self.tree.mkdir(&site.directory, name, mode).at(parent))?;
        self.finish(&site, 0, |site| self.tree.rmdir(&site.directory, site.name))
    }

    /// Makes a symbolic link.
    pub fn make_symlink(
        &self,
        caller: Caller,
        parent: NodeId,
        name: &OsStr,
        target: &OsStr,
    ) -> Result<Entry, FsError> {
        self.counters.count(|counts| &counts.creations);
        let site = self.site(caller, parent, name)?;
        self.with_space(|| self.tree.symlink(&site.directory, name, target).at(parent))?;
        self.finish(&site, 0, |site| self.tree.unlink(&site.directory, site.name))
    }

    /// Makes a regular file and opens it. Without `O_EXCL` a file that is there already, which
    /// the kernel did not know of, is opened.
    pub fn create(
        &self,
        caller: Caller,
        parent: NodeId,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
    ) -> Result<(Entry, Opened), FsError> {
        self.counters.count(|counts| &counts.creations);
        let site = self.site(caller, parent, name)?;
        let mode = self.mode_in(&site, mode, umask);
        let seen = self.nodes.renames().seen();
        let open = || self.tree.create_file(&site.directory, name, OpenFlags::READ_WRITE, mode);
        let opened = self.with_space(|| self.with_room(open).at(parent));
        let disk: Arc<DiskFile> = match opened {
            Ok(fd) => Arc::new(fd.into()),
            Err(error) if error.is(Errno::EXIST) && flags & libc::O_EXCL == 0 => {
                let entry = self.lookup(caller, parent, name)?;
                let opened = self.open(caller, entry.node, flags);
                return opened
                    .map(|opened| (entry, opened))
                    .inspect_err(|_| self.forget(entry.node, 1));
            }
            Err(error) => return Err(error),
        };
        let undo = |site: &Site<'_>| self.tree.unlink(&site.directory, site.name);
        let owned = self.give(&site, &Reached::Open(Arc::clone(&disk)), mode);
        let stat = self.or_undo(&site, owned, &undo)?;
        let entry = self.enter(parent, &site.directory, name, stat, seen)?;
        let opened = self.open_new(&site, entry.node, disk, &stat, OpenMode::from_flags(flags));
        match opened {
            Ok(opened) => Ok((entry, opened)),
            Err(error) => {
                let _ = undo(&site);
                let (object, kind) = (ObjectId::of(&stat), stat.kind());
                self.open.let_go(object);
                let target = Target { object, kind, pinned: None };
                self.nodes.removed(parent, name, target);
                self.nodes.forget(entry.node, 1);
                Err(error)
            }
        }
    }

    fn site<'a>(
        &self,
        caller: Caller,
        parent: NodeId,
        name: &'a OsStr,
    ) -> Result<Site<'a>, FsError> {
        self.check_writable()?;
        check_new_name(parent, name)?;
        let capabilities = self.capabilities.given();
        Ok(Site { caller, parent, directory: self.directory(parent)?, name, capabilities })
    }

    /// The mode under the umask, which a default ACL of the directory takes the place of.
    fn mode_in(&self, site: &Site<'_>, mode: u32, umask: u32) -> u32 {
        let inherits =
            self.options.acl && site.directory.located().xattr(OsStr::new(ACL_DEFAULT)).is_ok();
        if inherits { mode } else { mode & !(umask & 0o777) }
    }

    /// Opens what was just made through the descriptor that made it.
    fn open_new(
        &self,
        site: &Site<'_>,
        node: NodeId,
        disk: Arc<DiskFile>,
        stat: &Stat,
        mode: OpenMode,
    ) -> Result<Opened, FsError> {
        self.resized.made(ObjectId::of(stat));
        let used = self.claim(node, ObjectId::of(stat))?;
        let caller = site.caller;
        {
            let _alone = used.inode().open_alone();
            if !used.inode().is_ready() {
                let path = || self.nodes.path(node);
                let access =
                    super::open::access(caller, crate::keys::Operation::Create, &path, None);
                let file = self
                    .volume
                    .open_file_of_size(Arc::clone(&disk) as Arc<_>, stat.size, true, &access)
                    .map_err(|source| self.volume_error(node, source))?;
                used.inode().set_ready(file, disk, stat);
            }
        }
        let purpose = if mode.writable { Purpose::Write } else { Purpose::Read };
        let key_id = if mode.writable { self.key_within(site.parent)? } else { None };
        let joined = self.open_inode(caller, node, purpose, Wanted::NOTHING, key_id.as_ref())?;
        self.made_without_capability(joined.inode(), site.capabilities);
        Ok(Opened { handle: self.hold(caller, joined, mode), keep_cache: true })
    }

    /// Gives what was made its owner and shows it, or takes it away again.
    fn finish(
        &self,
        site: &Site<'_>,
        mode: u32,
        undo: impl Fn(&Site<'_>) -> io::Result<()>,
    ) -> Result<Entry, FsError> {
        let seen = self.nodes.renames().seen();
        let locate = || self.tree.locate(&site.directory, site.name);
        let made = self.with_room(locate).map(Reached::Named);
        let owned = made.and_then(|made| self.give(site, &made, mode));
        let stat = self.or_undo(site, owned, &undo)?;
        self.enter(site.parent, &site.directory, site.name, stat, seen)
    }

    /// Makes the caller the owner, as far as this process may. `mode` is what the object was
    /// made with, for bits that a change of owner takes away.
    fn give(&self, site: &Site<'_>, made: &Reached, mode: u32) -> io::Result<Stat> {
        let stat = made.stat()?;
        if self.daemon.uid != 0 {
            return Ok(stat);
        }
        let uid = Some(site.caller.uid).filter(|uid| *uid != stat.uid);
        let gid = Some(site.caller.gid).filter(|gid| *gid != stat.gid);
        let gid = match gid {
            Some(gid) if !self.inherits_group(site, &stat)? => Some(gid),
            _ => None,
        };
        if uid.is_none() && gid.is_none() {
            return Ok(stat);
        }
        made.chown(uid, gid)?;
        let lost = mode & (libc::S_ISUID | libc::S_ISGID);
        if lost != 0 && stat.kind() != FileKind::Symlink {
            made.chmod(permission_bits(&stat) | lost)?;
        }
        made.stat()
    }

    /// Whether the group came from the directory, by its set-group-id bit or a mount option of
    /// the file system below.
    fn inherits_group(&self, site: &Site<'_>, made: &Stat) -> io::Result<bool> {
        if made.gid != self.daemon.gid {
            return Ok(true);
        }
        Ok(site.directory.located().stat()?.mode & libc::S_ISGID != 0)
    }

    fn or_undo<T>(
        &self,
        site: &Site<'_>,
        result: io::Result<T>,
        undo: &impl Fn(&Site<'_>) -> io::Result<()>,
    ) -> Result<T, FsError> {
        result
            .inspect_err(|_| {
                // The first error is the one to tell.
                let _ = undo(site);
            })
            .at(site.parent)
    }
}

#[cfg(test)]
mod tests {
    use super::super::AttributeChange;
    use super::super::tests::{Fixture, ROOT_CALLER, USER, os};
    use super::*;

    #[test]
    fn every_kind_is_made_with_its_bits_and_owner() {
        let fx = Fixture::new();
        if fx.fs.daemon.uid != 0 {
            println!("skipped: only root makes devices and files of others");
            return;
        }
        for (name, mode, rdev) in [
            ("file", libc::S_IFREG | 0o6755, 0),
            ("plain", 0o640, 0),
            ("fifo", libc::S_IFIFO | 0o4666, 0),
            ("socket", libc::S_IFSOCK | 0o600, 0),
            ("char", libc::S_IFCHR | 0o620, 0x103),
            ("block", libc::S_IFBLK | 0o660, 0x12_3456),
        ] {
            let made = fx.fs.make_node(USER, NodeId::ROOT, os(name), mode, 0o022, rdev).unwrap();
            let shown = made.attributes;
            let kind = if mode & libc::S_IFMT == 0 { libc::S_IFREG } else { 0 };
            assert_eq!(shown.mode, (mode | kind) & !0o022, "{name}");
            assert_eq!((shown.uid, shown.gid, shown.rdev), (USER.uid, USER.gid, rdev), "{name}");
        }
        let link = fx.fs.make_symlink(USER, NodeId::ROOT, os("link"), os("x")).unwrap();
        assert_eq!((link.attributes.uid, link.attributes.gid), (USER.uid, USER.gid));
        let flags = libc::O_RDWR | libc::O_CREAT | libc::O_EXCL;
        let (entry, _) = fx.fs.create(USER, NodeId::ROOT, os("new"), 0o4444, 0, flags).unwrap();
        assert_eq!((entry.attributes.uid, entry.attributes.mode & 0o7777), (USER.uid, 0o4444));
        assert!(
            fx.fs
                .create(USER, NodeId::ROOT, os("new"), 0o600, 0, flags)
                .unwrap_err()
                .is(Errno::EXIST)
        );
        let flags = libc::O_RDWR | libc::O_CREAT;
        let (again, _) = fx.fs.create(USER, NodeId::ROOT, os("new"), 0o600, 0, flags).unwrap();
        assert_eq!(again.node, entry.node);
    }

    #[test]
    fn a_set_group_id_directory_hands_its_group_down() {
        let fx = Fixture::new();
        if fx.fs.daemon.uid != 0 {
            println!("skipped: only root gives files to others");
            return;
        }
        for group in [0, 777] {
            let name = format!("dir{group}");
            let made = fx.fs.make_directory(ROOT_CALLER, NodeId::ROOT, os(&name), 0o755, 0);
            let directory = made.unwrap().node;
            let change =
                AttributeChange { gid: Some(group), mode: Some(0o2777), ..Default::default() };
            fx.fs.set_attributes(ROOT_CALLER, directory, None, &change).unwrap();
            let file = fx.fs.make_node(USER, directory, os("file"), 0o644, 0, 0).unwrap();
            assert_eq!((file.attributes.uid, file.attributes.gid), (USER.uid, group));
            let below = fx.fs.make_directory(USER, directory, os("below"), 0o755, 0).unwrap();
            assert_eq!((below.attributes.uid, below.attributes.gid), (USER.uid, group));
            assert_eq!(below.attributes.mode & 0o7777, 0o2755);
        }
    }

    #[test]
    fn a_default_acl_takes_the_place_of_the_umask() {
        let fx = Fixture::with(|options| options.acl = true);
        let made = |parent, name| {
            let made = fx.fs.make_node(ROOT_CALLER, parent, os(name), 0o666, 0o077, 0);
            made.unwrap().attributes.mode & 0o7777
        };
        assert_eq!(made(NodeId::ROOT, "masked"), 0o600);
        // Version 2; user rwx, group r-x, others r--.
        let acl = b"\x02\0\0\0\x01\0\x07\0\xff\xff\xff\xff\x04\0\x05\0\xff\xff\xff\xff\
            \x20\0\x04\0\xff\xff\xff\xff";
        let set = fx.fs.set_xattr(ROOT_CALLER, NodeId::ROOT, os(ACL_DEFAULT), acl, 0);
        if set.is_err_and(|error| error.is(Errno::OPNOTSUPP)) {
            println!("skipped: no ACLs on the scratch file system");
            return;
        }
        assert_eq!(made(NodeId::ROOT, "inherited"), 0o644);
    }

    #[test]
    fn read_only_file_systems_make_nothing() {
        let fx = Fixture::new();
        fx.fs.set_read_only(true);
        let name = os("x");
        let made = fx.fs.make_directory(ROOT_CALLER, NodeId::ROOT, name, 0o755, 0);
        assert!(made.unwrap_err().is(Errno::ROFS));
        let made = fx.fs.create(ROOT_CALLER, NodeId::ROOT, name, 0o644, 0, libc::O_RDWR);
        assert!(made.unwrap_err().is(Errno::ROFS));
        assert!(fx.fs.unlink(NodeId::ROOT, name).unwrap_err().is(Errno::ROFS));
    }
}
