//! Who may do what, in a mount where the kernel does not decide it (`checked_by_kernel` off).
//! There all calls come from the user who mounted, since the kernel keeps the others out, and
//! this process has that user's rights below. So what is done to names, attributes and directories
//! is allowed or refused there. What remains is decided here: opening, cutting and describing a
//! file, which is opened below even if its owner may not, and `access(2)`. FIFOs, sockets and
//! device nodes are opened by the kernel alone, which asks nobody.
//!
//! With its own checks the kernel asks for the attributes of a directory after each change in it.

use std::sync::Once;

use rustix::io::Errno;
use rustix::process::{Gid, getegid, geteuid, getgroups};
use rustix::thread::CapabilitySet;

use super::error::refused;
use super::{FileSystem, FsError, NodeId};
use crate::keys::Caller;
use crate::store::tree::{FileKind, Stat};
use crate::sys::process::Status;

/// What is wanted of an object, as the bits of `access(2)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted(u32);

impl Wanted {
    pub(super) const NOTHING: Self = Self(0);
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
    /// It has been told that somebody else was refused.
    told: Once,
}

impl Daemon {
    pub(super) fn of_this_process() -> Self {
        let groups = getgroups().unwrap_or_default();
        Self {
            uid: geteuid().as_raw(),
            gid: getegid().as_raw(),
            groups: groups.into_iter().map(Gid::as_raw).collect(),
            told: Once::new(),
        }
    }

    /// Whether the mode bits of an object let this process do that with it. Root may read and
    /// write whatever they say.
    fn may(&self, stat: &Stat, wanted: Wanted) -> bool {
        if self.uid == 0 {
            return overridden(stat, wanted);
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
    /// Refuses, in root's mount whose calls the kernel does not check, a process of root that acts
    /// as another user on files alone (`setfsuid(2)`), as file servers do. Not for what the kernel
    /// asks for in passing, in the name of whoever is about: look-ups of names that it knows, the
    /// capability of a file that is written, times.
    pub fn admit(&self, caller: Caller, node: NodeId) -> Result<(), FsError> {
        if self.is_admitted(caller) { Ok(()) } else { self.refuse_to_act(caller, node) }
    }

    /// The same for listing a directory, which may have been opened by somebody else and passed on:
    /// for a process that is not root's by its other identities either.
    pub(super) fn admit_to_list(&self, caller: Caller, node: NodeId) -> Result<(), FsError> {
        if self.is_admitted(caller) {
            return Ok(());
        }
        let status = Status::of(caller.pid);
        // Real, effective and saved.
        let is_of_root = status.field("Uid").take(3).all(|id| id == "0");
        if is_of_root { self.refuse_to_act(caller, node) } else { Ok(()) }
    }

    fn is_admitted(&self, caller: Caller) -> bool {
        self.options.checked_by_kernel || self.daemon.uid != 0 || caller.uid == 0
    }

    fn refuse_to_act(&self, caller: Caller, node: NodeId) -> Result<(), FsError> {
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
    pub fn access(&self, caller: Caller, node: NodeId, wanted: Wanted) -> Result<(), FsError> {
        self.counters.count(|counts| &counts.access_checks);
        let (_, kind) = self.nodes.object(node).ok_or(FsError::Stale { node })?;
        let changes = [FileKind::Regular, FileKind::Directory, FileKind::Symlink].contains(&kind);
        if changes && wanted.contains(Wanted::WRITE) {
            self.check_writable()?;
        }
        let by_its_bits = wanted.contains(Wanted::EXECUTE) && kind != FileKind::Directory;
        if self.daemon.uid == 0 && !by_its_bits {
            return Ok(());
        }
        self.permit(caller, node, wanted)
    }

    /// Refuses to open or cut a file of which more is wanted than its mode allows, where the
    /// kernel has not done so.
    pub(super) fn check_permitted(
        &self,
        caller: Caller,
        node: NodeId,
        wanted: Wanted,
    ) -> Result<(), FsError> {
        if self.options.checked_by_kernel || self.daemon.uid == 0 {
            return Ok(());
        }
        self.permit(caller, node, wanted)
    }

    fn permit(&self, caller: Caller, node: NodeId, wanted: Wanted) -> Result<(), FsError> {
        if wanted == Wanted::NOTHING {
            return Ok(());
        }
        let stat = self.stat(node)?;
        let is_own = stat.uid == self.daemon.uid;
        if self.daemon.may(&stat, wanted) || (is_own && overrides(caller, &stat, wanted)) {
            Ok(())
        } else {
            refused(node, Errno::ACCESS)
        }
    }
}

/// Whether a process with `CAP_DAC_OVERRIDE` may do that.
fn overridden(stat: &Stat, wanted: Wanted) -> bool {
    let executable = stat.kind() == FileKind::Directory || stat.mode & 0o111 != 0;
    executable || !wanted.contains(Wanted::EXECUTE)
}

/// Whether the caller's capabilities let it do that, as they do for root of a user namespace,
/// with files of the user whose namespace it is.
fn overrides(caller: Caller, stat: &Stat, wanted: Wanted) -> bool {
    let status = Status::of(caller.pid);
    let effective =
        status.field("CapEff").next().and_then(|text| u64::from_str_radix(text, 16).ok());
    let effective = CapabilitySet::from_bits_retain(effective.unwrap_or_default());
    (effective.contains(CapabilitySet::DAC_OVERRIDE) && overridden(stat, wanted))
        || (effective.contains(CapabilitySet::DAC_READ_SEARCH) && Wanted::READ.contains(wanted))
}

#[cfg(test)]
mod tests {
    use super::super::memory_tests::synthetic;
    use super::super::open::TO_EXECUTE;
    use super::super::tests::{Fixture, ROOT_CALLER, USER, os};
    use super::super::{AttributeChange, TimeChange, Timestamp};
    use super::*;

    type Call<'a> = dyn Fn() -> Result<(), FsError> + 'a;

    fn ordinary() -> Daemon {
        Daemon { uid: 10, gid: 20, groups: vec![21, 22], told: Once::new() }
    }

    fn stat(kind: u32, mode: u32, uid: u32, gid: u32) -> Stat {
        Stat { mode: kind | mode, uid, gid, ..synthetic(1, false) }
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
    fn root_reads_and_writes_all_but_runs_only_programs() {
        let daemon = Daemon { uid: 0, ..ordinary() };
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
        if fx.fs.daemon.uid != 0 {
            println!("skipped: only root gives files to others");
            return;
        }
        let file = fx.create(NodeId::ROOT, "file", b"text");
        std::os::unix::fs::chown(fx.backing("file"), Some(USER.uid), None).unwrap();
        fx.fs.daemon = Daemon { uid: USER.uid, ..ordinary() };
        // Process 0 is none, and has no capabilities.
        let me = Caller { pid: 0, ..USER };
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
                ("access", 5, &|| fx.fs.access(me, file, Wanted::from_mask(5))),
                ("exist", 0, &|| fx.fs.access(me, file, Wanted::from_mask(0))),
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

    /// Root of a user namespace may open the files of its user whatever their mode.
    #[test]
    fn the_callers_capabilities_count_for_own_files() {
        let held = rustix::thread::capabilities(None).unwrap().effective;
        if !held.contains(CapabilitySet::DAC_OVERRIDE) {
            println!("skipped: this process has no capabilities");
            return;
        }
        let me = Caller { pid: std::process::id(), ..USER };
        let stat = |mode| stat(libc::S_IFREG, mode, USER.uid, USER.gid);
        assert!(overrides(me, &stat(0), Wanted::from_mask(6)));
        assert!(!overrides(me, &stat(0), Wanted::EXECUTE));
        assert!(overrides(me, &stat(0o010), Wanted::from_mask(7)));
        assert!(!overrides(Caller { pid: 0, ..me }, &stat(0o777), Wanted::READ));
    }

    #[test]
    fn nobody_acts_as_another_user_where_the_kernel_does_not_check() {
        let mut fx = Fixture::with(|options| options.checked_by_kernel = false);
        let file = fx.create(NodeId::ROOT, "file", b"text");
        fx.fs.daemon = Daemon { uid: 0, ..ordinary() };
        fx.fs.admit(ROOT_CALLER, file).unwrap();
        assert!(fx.fs.admit(USER, file).unwrap_err().is(Errno::ACCESS));
        let at = |secs| TimeChange::At(Timestamp { secs, nanos: 0 });
        let nothing = AttributeChange::default;
        for refused in [
            AttributeChange { size: Some(0), ..nothing() },
            AttributeChange { mode: Some(0), ..nothing() },
            AttributeChange { uid: Some(1), ..nothing() },
            AttributeChange { atime: Some(at(5)), ..nothing() },
            AttributeChange { mtime: Some(TimeChange::Now), ..nothing() },
            AttributeChange { mtime: Some(at(5)), ..nothing() },
        ] {
            let set = fx.fs.set_attributes(USER, file, None, &refused);
            assert!(set.unwrap_err().is(Errno::ACCESS), "{refused:?}");
        }
        // What the kernel flushes, and asks for before a write, in the name of whoever is about.
        let ctime = Some(Timestamp { secs: 6, nanos: 0 });
        let flush = AttributeChange { mtime: Some(at(5)), ctime, ..nothing() };
        assert_eq!(fx.fs.set_attributes(USER, file, None, &flush).unwrap().mtime.secs, 5);
        let capability = fx.fs.xattr(USER, file, os("security.capability"));
        assert!(capability.unwrap_err().is(Errno::NODATA));
        assert!(fx.fs.xattr(USER, file, os("user.x")).unwrap_err().is(Errno::ACCESS));
        assert_eq!(fx.content(file), b"text");
        fx.fs.options.checked_by_kernel = true;
        fx.fs.admit(USER, file).unwrap();
        // To another user's mount nobody comes as somebody else; who does all the same is root
        // with 'fuse.allow_sys_admin_access', or somebody for whom the kernel asks.
        fx.fs.options.checked_by_kernel = false;
        fx.fs.daemon = ordinary();
        fx.fs.admit(ROOT_CALLER, file).unwrap();
    }
}
