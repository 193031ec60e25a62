//! Who may do what, in a mount where the kernel does not decide it (`checked_by_kernel` off).
//! There all calls come from the user who mounted, since the kernel keeps the others out, and
//! this process has the same rights below. So whatever is done to the backing directory is
//! allowed or refused there. What remains is decided here: opening and cutting, for which a file
//! that its owner may not read or write is opened all the same, and `access(2)`.
//!
//! With its own checks the kernel asks for the attributes of a directory after each change in it.

use std::sync::Once;

use rustix::io::Errno;
use rustix::process::{Gid, getegid, geteuid, getgroups};
use rustix::thread::{CapabilitySet, capabilities};

use super::error::refused;
use super::{FileSystem, FsError, NodeId};
use crate::keys::Caller;
use crate::store::tree::{FileKind, Stat};

/// What is wanted of an object, as the bits of `access(2)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Wanted(u32);

impl Wanted {
    pub(super) const READ: Self = Self(libc::R_OK.cast_unsigned());
    pub(super) const WRITE: Self = Self(libc::W_OK.cast_unsigned());
    pub(super) const EXECUTE: Self = Self(libc::X_OK.cast_unsigned());

    /// From the mask of `access(2)`; bits that are none of it are left out.
    pub fn from_mask(mask: u32) -> Self {
        Self(mask & (Self::READ.0 | Self::WRITE.0 | Self::EXECUTE.0))
    }

    /// The other one as well, if that holds.
    pub(super) fn and_if(self, holds: bool, other: Self) -> Self {
        if holds { Self(self.0 | other.0) } else { self }
    }

    fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// Who this process is on the backing directory.
pub(super) struct Daemon {
    pub uid: u32,
    pub gid: u32,
    groups: Vec<u32>,
    /// It may read and write whatever the mode bits say.
    privileged: bool,
    /// It has been told that somebody else was refused.
    told: Once,
}

impl Daemon {
    pub(super) fn of_this_process() -> Self {
        let groups = getgroups().unwrap_or_default();
        let overrides = capabilities(None)
            .is_ok_and(|sets| sets.effective.contains(CapabilitySet::DAC_OVERRIDE));
        let uid = geteuid().as_raw();
        Self {
            uid,
            gid: getegid().as_raw(),
            groups: groups.into_iter().map(Gid::as_raw).collect(),
            privileged: uid == 0 && overrides,
            told: Once::new(),
        }
    }

    /// Whether the mode bits of an object let this process do that with it.
    fn may(&self, stat: &Stat, wanted: Wanted) -> bool {
        if self.privileged {
            let executable = stat.kind() == FileKind::Directory || stat.mode & 0o111 != 0;
            return executable || !wanted.contains(Wanted::EXECUTE);
        }
        let class = if stat.uid == self.uid {
            6
        } else if stat.gid == self.gid || self.groups.contains(&stat.gid) {
            3
        } else {
            0
        };
        Wanted(stat.mode >> class).contains(wanted)
    }
}

impl FileSystem {
    /// Refuses who is not the user of a mount whose calls the kernel does not check. The kernel
    /// keeps out who is another one altogether; this is one of root's processes that acts as
    /// somebody else on file systems alone (`setfsuid(2)`), as file servers do.
    pub fn admit(&self, caller: Caller, node: NodeId) -> Result<(), FsError> {
        if self.options.checked_by_kernel || caller.uid == self.daemon.uid {
            return Ok(());
        }
        let Caller { uid, pid, .. } = caller;
        self.daemon.told.call_once(|| {
            log::warn!(
                "process {pid} acts as user {uid} and is refused, as all that do are from now on: \
                 a server that does so for its clients needs '-o default_permissions'"
            );
        });
        refused(node, Errno::ACCESS)
    }

    /// Answers `access(2)` and `chdir(2)`.
    pub fn access(&self, node: NodeId, wanted: Wanted) -> Result<(), FsError> {
        self.counters.count(|counts| &counts.access_checks);
        let (_, kind) = self.nodes.object(node).ok_or(FsError::Stale { node })?;
        let changes = [FileKind::Regular, FileKind::Directory, FileKind::Symlink].contains(&kind);
        if changes && wanted.contains(Wanted::WRITE) {
            self.check_writable()?;
        }
        let by_its_bits = wanted.contains(Wanted::EXECUTE) && kind != FileKind::Directory;
        if self.daemon.privileged && !by_its_bits {
            return Ok(());
        }
        self.permit(&self.stat(node)?, node, wanted)
    }

    /// Refuses to open or cut a file of which more is wanted than its mode allows, where the
    /// kernel has not done so.
    pub(super) fn check_permitted(&self, node: NodeId, wanted: Wanted) -> Result<(), FsError> {
        if self.options.checked_by_kernel || self.daemon.privileged {
            return Ok(());
        }
        self.permit(&self.stat(node)?, node, wanted)
    }

    fn permit(&self, stat: &Stat, node: NodeId, wanted: Wanted) -> Result<(), FsError> {
        if self.daemon.may(stat, wanted) { Ok(()) } else { refused(node, Errno::ACCESS) }
    }
}

#[cfg(test)]
mod tests {
    use super::super::AttributeChange;
    use super::super::open::TO_EXECUTE;
    use super::super::tests::{Fixture, ROOT_CALLER, USER, os};
    use super::*;

    type Call<'a> = dyn Fn() -> Result<(), FsError> + 'a;

    fn ordinary() -> Daemon {
        Daemon { uid: 10, gid: 20, groups: vec![21, 22], privileged: false, told: Once::new() }
    }

    fn stat(kind: u32, mode: u32, uid: u32, gid: u32) -> Stat {
        let fx = Fixture::new();
        let stat = fx.fs.stat(NodeId::ROOT).unwrap();
        Stat { mode: kind | mode, uid, gid, ..stat }
    }

    #[test]
    fn the_first_class_that_fits_decides_alone() {
        let daemon = ordinary();
        for (uid, gid, shift) in [(10, 20, 6), (10, 99, 6), (11, 20, 3), (11, 22, 3), (11, 99, 0)] {
            for granted in 0..8 {
                // The other classes grant the opposite.
                let mode = (0o777 ^ (0o7 << shift)) & !(granted * 0o111) | (granted << shift);
                let stat = stat(libc::S_IFREG, mode, uid, gid);
                for asked in 0..8 {
                    let expected = granted & asked == asked;
                    let found = daemon.may(&stat, Wanted::from_mask(asked));
                    assert_eq!(found, expected, "{uid}:{gid} {mode:o} asks {asked}");
                }
            }
        }
    }

    #[test]
    fn privilege_reads_and_writes_all_but_runs_only_programs() {
        let daemon = Daemon { privileged: true, ..ordinary() };
        let all = Wanted::from_mask(7);
        assert!(daemon.may(&stat(libc::S_IFREG, 0, 0, 0), Wanted::from_mask(6)));
        assert!(!daemon.may(&stat(libc::S_IFREG, 0o666, 0, 0), Wanted::EXECUTE));
        assert!(daemon.may(&stat(libc::S_IFREG, 0o001, 0, 0), all));
        assert!(daemon.may(&stat(libc::S_IFDIR, 0, 0, 0), all));
    }

    /// As when the daemon is an ordinary user's, whose file of mode 0 could be opened by a change
    /// of its mode.
    #[test]
    fn what_the_kernel_does_not_check_is_checked_here() {
        let mut fx = Fixture::with(|options| options.checked_by_kernel = false);
        let file = fx.create(NodeId::ROOT, "file", b"text");
        let uid = fx.fs.stat(file).unwrap().uid;
        fx.fs.daemon = Daemon { uid, ..ordinary() };
        let me = Caller { uid, ..ROOT_CALLER };
        let chmod = |mode| {
            let change = AttributeChange { mode: Some(mode), ..Default::default() };
            fx.fs.set_attributes(me, file, None, &change).unwrap();
        };
        let open =
            |flags| fx.fs.open(me, file, flags).map(|opened| fx.fs.release(opened.handle).unwrap());
        let cut = || {
            let change = AttributeChange { size: Some(4), ..Default::default() };
            fx.fs.set_attributes(me, file, None, &change).map(|_| ())
        };
        let described = || fx.fs.xattr(me, file, os("user.ssefs.mode")).map(|_| ());
        for mode in [0, 0o077, 0o100, 0o200, 0o300, 0o400, 0o500, 0o600, 0o700] {
            chmod(mode);
            let calls: [(&str, u32, &Call); 9] = [
                ("open to read", 4, &|| open(libc::O_RDONLY)),
                ("open to write", 2, &|| open(libc::O_WRONLY)),
                ("open for both", 6, &|| open(libc::O_RDWR)),
                ("open to empty", 6, &|| open(libc::O_RDONLY | libc::O_TRUNC)),
                ("open to run", 1, &|| open(libc::O_RDONLY | TO_EXECUTE)),
                ("truncate", 2, &cut),
                ("read an attribute", 4, &described),
                ("access", 5, &|| fx.fs.access(file, Wanted::from_mask(5))),
                ("exist", 0, &|| fx.fs.access(file, Wanted::from_mask(0))),
            ];
            // Once while it is closed, once while another one has it open.
            for joined in [false, true] {
                chmod(0o600);
                let held = joined.then(|| fx.fs.open(me, file, libc::O_RDWR).unwrap().handle);
                chmod(mode);
                for (name, wanted, call) in &calls {
                    let allowed = (mode >> 6) & wanted == *wanted;
                    match call() {
                        Ok(()) => assert!(allowed, "{name}, mode {mode:o}"),
                        Err(error) => assert!(
                            !allowed && error.is(Errno::ACCESS),
                            "{name}, mode {mode:o}: {error}"
                        ),
                    }
                    assert_eq!(fx.fs.stat(file).unwrap().mode & 0o777, mode, "{name}");
                }
                if let Some(handle) = held {
                    fx.fs.release(handle).unwrap();
                }
            }
        }
    }

    #[test]
    fn nobody_acts_as_another_user_where_the_kernel_does_not_check() {
        let mut fx = Fixture::with(|options| options.checked_by_kernel = false);
        let file = fx.create(NodeId::ROOT, "file", b"text");
        fx.fs.admit(ROOT_CALLER, file).unwrap();
        assert!(fx.fs.admit(USER, file).unwrap_err().is(Errno::ACCESS));
        let size = AttributeChange { size: Some(0), ..Default::default() };
        assert!(fx.fs.set_attributes(USER, file, None, &size).unwrap_err().is(Errno::ACCESS));
        let mode = AttributeChange { mode: Some(0), ..Default::default() };
        assert!(fx.fs.set_attributes(USER, file, None, &mode).unwrap_err().is(Errno::ACCESS));
        assert_eq!(fx.content(file), b"text");
        fx.fs.options.checked_by_kernel = true;
        fx.fs.admit(USER, file).unwrap();
    }
}
