//! The files of a mounted volume: each envelope is asked of the mount, and the new one handed
//! in, signed with a key made of the file's DEK. The mount writes; no secret goes to it.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::io::Errno;

use super::plan::{KeyName, Plan, Verdict};
use super::tally::{Fate, Left};
use super::work::{Task, Trouble};
use crate::cli::exit::{Exit, Failure, Outcome};
use crate::cli::mountinfo::mounts;
use crate::cli::reason::Reason;
use crate::cli::walk::Found;
use crate::format::{Envelope, FileId, VolumeId};
use crate::keys::{Access, Binding, Keyring};
use crate::store::tree::{DiskTree, Located, XattrMode};
use crate::volume::{RewrapRequest, VolumeError};

/// The mount of a volume.
pub struct MountedVolume {
    /// Where it is.
    pub mount_point: PathBuf,
    /// Its files.
    pub tree: DiskTree,
}

/// The work on a mounted volume.
pub struct Online<'a> {
    mounted: &'a MountedVolume,
    volume: VolumeId,
    keyring: &'a Keyring,
    plan: &'a Plan,
    may_lock_out: bool,
    /// Files of several names, by device and inode.
    seen: Mutex<HashSet<(u64, u64)>>,
}

impl MountedVolume {
    /// The mount whose backing directory `tree` is; `None` if there is none to be seen from
    /// here.
    pub fn find(tree: &DiskTree) -> Outcome<Option<Self>> {
        let failed = |error: io::Error| Failure::new(Exit::Other, error);
        let stat = tree.root().located().stat().map_err(failed)?;
        let wanted = format!("{}:{}", stat.dev, stat.ino);
        let mut hidden = None;
        for mount in mounts().map_err(failed)?.into_iter().rev().filter(|m| m.is_ssefs()) {
            let opened = DiskTree::open(&mount.mount_point);
            let told = opened.and_then(|tree| {
                let told = tree.root().located().xattr(OsStr::new(BACKING))?;
                Ok((tree, told))
            });
            match told {
                Ok((tree, told)) if told == wanted.as_bytes() => {
                    return Ok(Some(Self { mount_point: mount.mount_point, tree }));
                }
                Ok(_) => {}
                // A mount of another user, or one without its daemon.
                Err(error) => hidden = Some((mount.mount_point, error)),
            }
        }
        if let Some((mount_point, error)) = hidden {
            log::info!("{}: cannot be looked into: {error}", mount_point.display());
        }
        Ok(None)
    }
}

impl<'a> Online<'a> {
    /// On the files of the volume with this id.
    pub fn new(
        mounted: &'a MountedVolume,
        volume: VolumeId,
        keyring: &'a Keyring,
        plan: &'a Plan,
        may_lock_out: bool,
    ) -> Self {
        Self { mounted, volume, keyring, plan, may_lock_out, seen: Mutex::default() }
    }

    fn rewrap_file(&self, found: &Found, key: &mut Option<KeyName>) -> Result<Fate, VolumeError> {
        let located = match self.mounted.tree.locate(&found.directory, &found.name) {
            Err(error) if is_gone(&error) => return Ok(Fate::Skipped),
            located => located?,
        };
        let stat = located.stat()?;
        if stat.nlink > 1 && !self.is_new(stat.identity()) {
            return Ok(Fate::Skipped);
        }
        for attempt in 0..ATTEMPTS {
            std::thread::sleep(PAUSE * attempt);
            match self.attempt(&located, &found.path, key) {
                // Rewrapped, emptied or replaced at this moment: it is looked at again.
                Err(VolumeError::Backing(error)) if Reason::of_io(&error) == Reason::Busy => {}
                Err(VolumeError::Backing(error)) if is_gone(&error) => return Ok(Fate::Skipped),
                done => return done,
            }
        }
        Err(io::Error::from(Errno::STALE).into())
    }

    fn attempt(
        &self,
        located: &Located,
        path: &Path,
        key: &mut Option<KeyName>,
    ) -> Result<Fate, VolumeError> {
        let (binding, current) = match located.xattr(OsStr::new(ENVELOPE)) {
            Ok(told) => self.parse(&told)?,
            Err(error) if error.raw_os_error() == Some(Errno::NODATA.raw_os_error()) => {
                return Ok(Fate::Empty);
            }
            Err(error) => return Err(error.into()),
        };
        let name = KeyName::of(&current);
        *key = Some(name.clone());
        match self.plan.judge(&current) {
            Verdict::NotSelected => return Ok(Fate::NotSelected(name)),
            Verdict::AlreadyThere => return Ok(Fate::AlreadyThere(name)),
            Verdict::Move => {}
        }
        let path = || path.to_owned();
        let access = Access::own(&path);
        let dek = self.keyring.dek(&current, binding, &access)?;
        let Some(envelope) = self.plan.wrap(self.keyring, &dek, &current, binding, &access)? else {
            return Ok(Fate::AlreadyThere(name));
        };
        let request = RewrapRequest::encode(&dek, binding, &current, &envelope, self.may_lock_out)?;
        located.set_xattr(OsStr::new(ENVELOPE), &request, XattrMode::Set)?;
        Ok(Fate::Rewrapped(KeyName::of(&envelope)))
    }

    fn parse(&self, told: &[u8]) -> Result<(Binding, Envelope), VolumeError> {
        let malformed = || VolumeError::Volume("the mount answers in another language".into());
        let (file, envelope) = told.split_first_chunk().ok_or_else(malformed)?;
        let envelope = Envelope::decode(envelope)?;
        Ok((Binding { volume: self.volume, file: FileId(*file) }, envelope))
    }

    fn is_new(&self, identity: (u64, u64)) -> bool {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).insert(identity)
    }

    /// What would be the same for every other file.
    fn fatal(&self, error: &VolumeError) -> Option<Failure> {
        let VolumeError::Backing(error) = error else { return None };
        let at = self.mounted.mount_point.display();
        let (exit, problem) = match Errno::from_raw_os_error(error.raw_os_error()?) {
            Errno::KEYREJECTED => (
                Exit::Key,
                "the mount does not hold the key that files are to be moved to, and could not \
                 open them again: unmount first, mount with that key too, or give \
                 --allow-lockout",
            ),
            Errno::PERM => (Exit::Key, "only the user who mounted it, or root, may do this"),
            Errno::ROFS => (Exit::Backing, "is mounted read-only"),
            Errno::OPNOTSUPP => (Exit::Other, "is served by an ssefs that cannot do this"),
            Errno::NOTCONN | Errno::CONNABORTED | Errno::NODEV => {
                (Exit::NotMounted, "the mount has ended; run this again")
            }
            _ => return None,
        };
        Some(Failure::new(exit, format!("{at}: {problem}")))
    }
}

impl Task for Online<'_> {
    fn rewrap(&self, found: &Found) -> Result<Fate, Trouble> {
        let mut key = None;
        self.rewrap_file(found, &mut key).map_err(|error| match self.fatal(&error) {
            Some(failure) => Trouble::Fatal(failure),
            None => Trouble::Left(Left {
                path: found.path.clone(),
                reason: Reason::of(&error),
                detail: error.to_string(),
                key,
            }),
        })
    }
}

fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
}

const ATTEMPTS: u32 = 8;
/// Grows with each attempt.
const PAUSE: Duration = Duration::from_millis(2);
const ENVELOPE: &str = "system.ssefs.envelope";
const BACKING: &str = "user.ssefs.backing";
