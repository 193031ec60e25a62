//! The files of a volume that is not mounted: page 0 of each is read, and written again where
//! the file moves. The volume is held as by a mount.

use std::collections::HashSet;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::process::geteuid;

use super::plan::{KeyName, Plan, Verdict};
use super::tally::{Fate, Left};
use super::work::{Task, Trouble};
use crate::cli::reason::Reason;
use crate::cli::walk::Found;
use crate::keys::Access;
use crate::store::disk::DiskFile;
use crate::store::tree::{DiskTree, Located, OpenFlags, Stat, TimeSet};
use crate::store::{BackingFile, SyncScope};
use crate::volume::{ClosedFile, Volume, VolumeError};

/// The work on an unmounted volume.
pub struct Offline<'a> {
    tree: &'a DiskTree,
    volume: &'a Volume,
    plan: &'a Plan,
    /// Where the backing directory lies; what lies elsewhere is synced file by file.
    device: u64,
    /// Files of several names, by device and inode.
    seen: Mutex<HashSet<(u64, u64)>>,
}

impl<'a> Offline<'a> {
    /// On the files of `volume` in `tree`.
    pub fn new(tree: &'a DiskTree, volume: &'a Volume, plan: &'a Plan) -> io::Result<Self> {
        let device = tree.root().located().stat()?.dev;
        Ok(Self { tree, volume, plan, device, seen: Mutex::default() })
    }

    fn rewrap_file(&self, found: &Found, key: &mut Option<KeyName>) -> Result<Fate, VolumeError> {
        let located = match self.tree.locate(&found.directory, &found.name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Fate::Skipped),
            located => located?,
        };
        let stat = located.stat()?;
        if stat.nlink > 1 && !self.is_new(&stat) {
            return Ok(Fate::Skipped);
        }
        if stat.size == 0 {
            return Ok(Fate::Empty);
        }
        let (disk, refused) = open(&located, &stat)?;
        let Some(file) = ClosedFile::read(self.volume.id(), &disk)? else {
            return Ok(Fate::Empty);
        };
        let name = KeyName::of(file.envelope()?);
        *key = Some(name.clone());
        match self.plan.judge(file.envelope()?) {
            Verdict::NotSelected => return Ok(Fate::NotSelected(name)),
            Verdict::AlreadyThere => return Ok(Fate::AlreadyThere(name)),
            Verdict::Move => {}
        }
        let path = || found.path.clone();
        let access = Access::own(&path);
        let file = file.unlock(self.volume, &access)?;
        let keyring = self.volume.keyring();
        let (dek, current, binding) = (file.dek(), file.envelope(), file.binding());
        let Some(envelope) = self.plan.wrap(keyring, dek, current, binding, &access)? else {
            return Ok(Fate::AlreadyThere(name));
        };
        if let Some(error) = refused {
            return Err(error.into());
        }
        let moved = KeyName::of(&envelope);
        file.install(&disk, envelope)?;
        keep_time(&disk, &stat, &found.path);
        if stat.dev != self.device {
            disk.sync(SyncScope::Data)?;
        }
        Ok(Fate::Rewrapped(moved))
    }

    fn is_new(&self, stat: &Stat) -> bool {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).insert(stat.identity())
    }
}

impl Task for Offline<'_> {
    fn rewrap(&self, found: &Found) -> Result<Fate, Trouble> {
        let mut key = None;
        self.rewrap_file(found, &mut key).map_err(|error| {
            Trouble::Left(Left {
                path: found.path.clone(),
                reason: Reason::of(&error),
                detail: error.to_string(),
                key,
            })
        })
    }
}

/// Opens a file for reading and writing, or for reading with the reason why it may not be
/// written: it may turn out that it need not.
fn open(located: &Located, stat: &Stat) -> io::Result<(DiskFile, Option<io::Error>)> {
    let both = |refused| Ok((DiskFile::from(located.reopen(OpenFlags::READ)?), Some(refused)));
    match located.reopen(OpenFlags::READ_WRITE) {
        Ok(fd) => Ok((DiskFile::from(fd), None)),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            match open_as_owner(located, stat) {
                Some(opened) => Ok((DiskFile::from(opened?), None)),
                None => both(error),
            }
        }
        Err(error) => match Reason::of_io(&error) {
            Reason::Denied | Reason::Busy => both(error),
            _ => Err(error),
        },
    }
}

/// The owner's own mode bits keep an ordinary user out of files that are theirs: lifted for
/// the moment of the open. `None` where that is not what refuses.
fn open_as_owner(located: &Located, stat: &Stat) -> Option<io::Result<OwnedFd>> {
    if stat.uid != geteuid().as_raw() || stat.mode & OWNER_BITS == OWNER_BITS {
        return None;
    }
    Some(located.chmod(stat.mode | OWNER_BITS).and_then(|()| {
        let opened = located.reopen(OpenFlags::READ_WRITE);
        located.chmod(stat.mode)?;
        opened
    }))
}

/// The content is what it was, and so is the time of its last change.
fn keep_time(disk: &DiskFile, before: &Stat, path: &Path) {
    let mtime = TimeSet::At { secs: before.mtime.secs, nanos: before.mtime.nanos };
    if let Err(error) = disk.set_times(TimeSet::Omit, mtime) {
        log::debug!("{}: its modification time is now: {error}", path.display());
    }
}

/// Ends the epoch of a volume whose files are all in place, and wipes its keys.
pub fn end(tree: &DiskTree, volume: &Arc<Volume>) -> Result<(), VolumeError> {
    // Without the sync nothing is known to be in place: the epoch then counts as unclean.
    let ended = tree.sync_file_system().map_err(VolumeError::from);
    let ended = ended.and_then(|()| volume.end_epoch());
    let ended = ended.and_then(|()| Ok(volume.keyring().flush()?));
    volume.keyring().wipe();
    ended
}

const OWNER_BITS: u32 = 0o600;
