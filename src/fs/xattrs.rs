//! Extended attributes. The backing file's pass through as they are; beside them each file
//! answers what its header says, under names that are never listed, so that programs which copy
//! attributes do not try to copy those.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use rustix::io::Errno;

use super::capabilities::CAPABILITY;
use super::description::{is_described, value_of};
use super::directory_keys::KEY_ID;
use super::error::{At, refused};
use super::rewrap::ENVELOPE;
use super::{FileSystem, FsError, NodeId, Wanted};
use crate::keys::Caller;
use crate::store::tree::{FileKind, XattrMode};
use crate::sys::process::Status;
use crate::volume::describe;

/// The ACL that a directory hands down.
pub(super) const ACL_DEFAULT: &str = "system.posix_acl_default";
const ACL_ACCESS: &str = "system.posix_acl_access";
/// Where SELinux is at work the kernel answers for this one by itself.
const SELINUX: &str = "security.selinux";
const STATS: &str = "user.ssefs.stats";
const OWN_PREFIX: &str = "user.ssefs.";

/// Who answers for an attribute.
enum Owner {
    /// The backing file.
    Backing,
    /// Nobody: ACLs are off.
    Off,
    /// The header of a file; the name without its prefix.
    Header(String),
    /// The counters of the mount.
    Stats,
    /// The volume, at the root.
    Volume(String),
    /// The envelope of a file, for a rewrap.
    Envelope,
    /// Nothing has this name, and nothing may.
    Reserved,
}

impl FileSystem {
    /// The value of an extended attribute; `ENODATA` if there is none. A file without a label of
    /// SELinux answers `EOPNOTSUPP`: `ls -l` then asks once, where it would ask for each file.
    pub fn xattr(&self, caller: Caller, node: NodeId, name: &OsStr) -> Result<Vec<u8>, FsError> {
        self.counters.count(|counts| &counts.extended_attributes);
        if name != CAPABILITY {
            self.admit(caller, node)?;
        }
        match self.owner(node, name)? {
            Owner::Backing if self.is_without(node, name) => refused(node, Errno::NODATA),
            Owner::Backing if name == SELINUX => match self.reach(node)?.xattr(name).at(node) {
                Err(error) if error.is(Errno::NODATA) => refused(node, Errno::OPNOTSUPP),
                label => label,
            },
            Owner::Backing => self.reach(node)?.xattr(name).at(node),
            Owner::Off => refused(node, Errno::OPNOTSUPP),
            Owner::Header(field) => self.header_field(caller, node, &field),
            Owner::Stats => {
                let text = serde_json::to_vec(&self.statistics_report());
                text.map_err(|_| FsError::Refused { node, errno: Errno::IO })
            }
            Owner::Volume(value) => Ok(value.into_bytes()),
            Owner::Envelope => self.envelope(caller, node),
            Owner::Reserved => refused(node, Errno::NODATA),
        }
    }

    /// The names of the extended attributes, each ended by a zero byte.
    pub fn xattr_names(&self, node: NodeId) -> Result<Vec<u8>, FsError> {
        self.counters.count(|counts| &counts.extended_attributes);
        let names = self.reach(node)?.xattr_names().at(node)?;
        let mut shown = Vec::with_capacity(names.len());
        for name in names.split_inclusive(|byte| *byte == 0) {
            let bare = OsStr::from_bytes(name.strip_suffix(b"\0").unwrap_or(name));
            if matches!(self.owner(node, bare)?, Owner::Backing) {
                shown.extend_from_slice(name);
            }
        }
        Ok(shown)
    }

    /// Sets an extended attribute, with the flags of `setxattr(2)`.
    pub fn set_xattr(
        &self,
        caller: Caller,
        node: NodeId,
        name: &OsStr,
        value: &[u8],
        flags: i32,
    ) -> Result<(), FsError> {
        self.counters.count(|counts| &counts.extended_attributes);
        if name == ENVELOPE {
            return self.rewrap(caller, node, value);
        }
        self.check_changeable(node, name)?;
        let mode = XattrMode::from_raw(flags.cast_unsigned()).at(node)?;
        let reached = self.reach(node)?;
        if name == KEY_ID {
            let key_id = self.directory_key(caller, node, value)?;
            return reached.set_xattr(name, key_id.0.as_bytes(), mode).at(node);
        }
        self.will_set(node, name);
        reached.set_xattr(name, value, mode).at(node)?;
        if name == ACL_ACCESS && caller.uid != 0 {
            // As chmod(2) does for one who is not of the file's group.
            let stat = reached.stat().at(node)?;
            if stat.mode & libc::S_ISGID != 0 && !is_in_group(caller, stat.gid) {
                reached.chmod(stat.mode & 0o7777 & !libc::S_ISGID).at(node)?;
            }
        }
        Ok(())
    }

    /// Removes an extended attribute; `ENODATA` if there is none.
    pub fn remove_xattr(&self, _: Caller, node: NodeId, name: &OsStr) -> Result<(), FsError> {
        self.counters.count(|counts| &counts.extended_attributes);
        self.check_changeable(node, name)?;
        self.reach(node)?.remove_xattr(name).at(node)
    }

    fn check_changeable(&self, node: NodeId, name: &OsStr) -> Result<(), FsError> {
        self.check_writable()?;
        match self.owner(node, name)? {
            Owner::Backing => Ok(()),
            Owner::Off => refused(node, Errno::OPNOTSUPP),
            Owner::Header(_)
            | Owner::Stats
            | Owner::Volume(_)
            | Owner::Envelope
            | Owner::Reserved => refused(node, Errno::PERM),
        }
    }

    fn owner(&self, node: NodeId, name: &OsStr) -> Result<Owner, FsError> {
        if name == ACL_ACCESS || name == ACL_DEFAULT {
            return Ok(if self.options.acl { Owner::Backing } else { Owner::Off });
        }
        if name == ENVELOPE {
            return Ok(Owner::Envelope);
        }
        let Some(field) = name.as_bytes().strip_prefix(OWN_PREFIX.as_bytes()) else {
            return Ok(Owner::Backing);
        };
        let (_, kind) = self.nodes.object(node).ok_or(FsError::Stale { node })?;
        if node == NodeId::ROOT
            && let Some(value) = name.to_str().map(|name| self.volume_field(name)).transpose()?
            && let Some(value) = value
        {
            return Ok(Owner::Volume(value));
        }
        Ok(match str::from_utf8(field) {
            _ if name == KEY_ID && kind == FileKind::Directory => Owner::Backing,
            _ if name == STATS && node == NodeId::ROOT => Owner::Stats,
            Ok(field) if is_described(field) => Owner::Header(field.to_owned()),
            _ => Owner::Reserved,
        })
    }

    /// What the header of a file says, read without its key; `ENODATA` where there is none.
    fn header_field(&self, caller: Caller, node: NodeId, field: &str) -> Result<Vec<u8>, FsError> {
        let (object, kind) = self.nodes.object(node).ok_or(FsError::Stale { node })?;
        if kind != FileKind::Regular {
            return refused(node, Errno::NODATA);
        }
        self.check_permitted(caller, node, Wanted::READ)?;
        let described = match self.open.find(object) {
            Some(open) => open.inode().file().description(),
            None => {
                let disk = self.open_to_describe(node, object)?;
                describe(&disk).map_err(|source| self.volume_error(node, source))?
            }
        };
        match described.and_then(|description| value_of(&description, field)) {
            Some(value) => Ok(value.into_bytes()),
            None => refused(node, Errno::NODATA),
        }
    }
}

/// Whether the caller's process is of a group, by its own group or a further one.
fn is_in_group(caller: Caller, gid: u32) -> bool {
    if caller.gid == gid {
        return true;
    }
    Status::of(caller.pid).field("Groups").any(|group| group.parse() == Ok(gid))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Fixture, ROOT_CALLER, os};
    use super::*;

    fn text(fx: &Fixture, node: NodeId, name: &str) -> String {
        String::from_utf8(fx.fs.xattr(ROOT_CALLER, node, os(name)).unwrap()).unwrap()
    }

    #[test]
    fn user_attributes_pass_to_the_backing_file() {
        let fx = Fixture::new();
        let file = fx.create(NodeId::ROOT, "file", b"text");
        let set = |value, flags| fx.fs.set_xattr(ROOT_CALLER, file, os("user.a"), value, flags);
        assert!(set(b"1", libc::XATTR_REPLACE).unwrap_err().is(Errno::NODATA));
        set(b"1", libc::XATTR_CREATE).unwrap();
        assert!(set(b"2", libc::XATTR_CREATE).unwrap_err().is(Errno::EXIST));
        assert!(set(b"2", 99).unwrap_err().is(Errno::INVAL));
        assert_eq!(text(&fx, file, "user.a"), "1");
        assert_eq!(fx.fs.xattr_names(file).unwrap(), b"user.a\0");
        let mut below = [0; 8];
        let len = rustix::fs::getxattr(fx.backing("file"), "user.a", &mut below).unwrap();
        assert_eq!(&below[..len], b"1");
        fx.fs.remove_xattr(ROOT_CALLER, file, os("user.a")).unwrap();
        let gone = fx.fs.remove_xattr(ROOT_CALLER, file, os("user.a"));
        assert!(gone.unwrap_err().is(Errno::NODATA));
    }

    #[test]
    fn files_tell_what_their_header_says_and_list_none_of_it() {
        let fx = Fixture::new();
        let file = fx.create(NodeId::ROOT, "file", b"text");
        for opened in [false, true] {
            let handle = fx.fs.open(ROOT_CALLER, file, libc::O_RDONLY).unwrap().handle;
            if !opened {
                fx.fs.release(handle).unwrap();
            }
            assert_eq!(text(&fx, file, "user.ssefs.algorithm"), "AES-256-GCM");
            assert_eq!(text(&fx, file, "user.ssefs.mode"), "supplied");
            assert_eq!(text(&fx, file, "user.ssefs.format_version"), "1");
            assert_eq!(text(&fx, file, "user.ssefs.key_version"), "1");
            assert_eq!(text(&fx, file, "user.ssefs.file_id").len(), 32);
            assert!(text(&fx, file, "user.ssefs.wrapped_dek").len() >= 96);
            assert!(text(&fx, file, "user.ssefs.created").starts_with("20"));
            assert!(!text(&fx, file, "user.ssefs.key_id").is_empty());
            assert!(!text(&fx, file, "user.ssefs.provider").is_empty());
        }
        assert_eq!(fx.fs.xattr_names(file).unwrap(), b"");
        let empty = fx.create(NodeId::ROOT, "empty", b"");
        for node in [empty, NodeId::ROOT] {
            let asked = fx.fs.xattr(ROOT_CALLER, node, os("user.ssefs.mode"));
            assert!(asked.unwrap_err().is(Errno::NODATA));
        }
        for name in ["user.ssefs.mode", "user.ssefs.key_id", "user.ssefs.other", "user.ssefs."] {
            let set = fx.fs.set_xattr(ROOT_CALLER, file, os(name), b"x", 0);
            assert!(set.unwrap_err().is(Errno::PERM), "{name}");
            let removed = fx.fs.remove_xattr(ROOT_CALLER, file, os(name));
            assert!(removed.unwrap_err().is(Errno::PERM), "{name}");
        }
        let other = fx.fs.xattr(ROOT_CALLER, file, os("user.ssefs.other"));
        assert!(other.unwrap_err().is(Errno::NODATA));
    }

    #[test]
    fn a_directory_keeps_the_key_it_names() {
        let fx = Fixture::new();
        let directory =
            fx.fs.make_directory(ROOT_CALLER, NodeId::ROOT, os("d"), 0o755, 0).unwrap().node;
        let set = |value: &[u8]| fx.fs.set_xattr(ROOT_CALLER, directory, os(KEY_ID), value, 0);
        set(b"alias/finance").unwrap();
        assert_eq!(text(&fx, directory, KEY_ID), "alias/finance");
        for refused in [&b""[..], b"a b", &[b'x'; 300], &[0xff]] {
            assert!(set(refused).unwrap_err().is(Errno::INVAL));
        }
        assert!(fx.fs.xattr_names(directory).unwrap().starts_with(KEY_ID.as_bytes()));
        fx.fs.remove_xattr(ROOT_CALLER, directory, os(KEY_ID)).unwrap();
        let gone = fx.fs.xattr(ROOT_CALLER, directory, os(KEY_ID));
        assert!(gone.unwrap_err().is(Errno::NODATA));
    }

    #[test]
    fn the_root_tells_its_counters() {
        let fx = Fixture::new();
        let file = fx.create(NodeId::ROOT, "file", b"text");
        let report: serde_json::Value =
            serde_json::from_str(&text(&fx, NodeId::ROOT, STATS)).unwrap();
        assert_eq!(report["operations"]["creations"], 1);
        assert_eq!((&report["nodes"], &report["open_files"]), (&2.into(), &0.into()));
        assert!(report["dek_cache"]["capacity"].as_u64().unwrap() > 0);
        assert!(fx.fs.xattr(ROOT_CALLER, file, os(STATS)).unwrap_err().is(Errno::NODATA));
    }

    #[test]
    fn labels_of_selinux_are_kept_and_only_their_absence_is_told_apart() {
        let fx = Fixture::new();
        let file = fx.create(NodeId::ROOT, "file", b"text");
        let label = || fx.fs.xattr(ROOT_CALLER, file, os(SELINUX));
        assert!(label().unwrap_err().is(Errno::OPNOTSUPP));
        if fx.fs.set_xattr(ROOT_CALLER, file, os(SELINUX), b"a:b:c:s0\0", 0).is_err() {
            println!("skipped: no labels on the scratch file system, or not for this user");
            return;
        }
        assert_eq!(label().unwrap(), b"a:b:c:s0\0");
        fx.fs.remove_xattr(ROOT_CALLER, file, os(SELINUX)).unwrap();
        assert!(label().unwrap_err().is(Errno::OPNOTSUPP));
    }

    #[test]
    fn acls_are_refused_unless_they_are_asked_for() {
        let fx = Fixture::new();
        for name in [ACL_ACCESS, ACL_DEFAULT] {
            let asked = fx.fs.xattr(ROOT_CALLER, NodeId::ROOT, os(name));
            assert!(asked.unwrap_err().is(Errno::OPNOTSUPP));
            let set = fx.fs.set_xattr(ROOT_CALLER, NodeId::ROOT, os(name), b"", 0);
            assert!(set.unwrap_err().is(Errno::OPNOTSUPP));
        }
    }

    #[test]
    fn groups_are_those_of_the_calling_process() {
        let own = Caller { uid: 0, gid: 4_000_000, pid: std::process::id() };
        assert!(is_in_group(own, 4_000_000));
        assert!(!is_in_group(own, 3_999_999));
        assert!(!is_in_group(Caller { pid: 0, ..own }, 0));
    }
}
