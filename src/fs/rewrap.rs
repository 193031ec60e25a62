//! Rewrap of a mounted volume. The mount has the headers of open files in memory, so it alone
//! may change them: `ssefs rewrap` reads a file's envelope here and hands in the new one, both
//! through an attribute that is never listed. Asked by its own user or root only; and whoever
//! hands in an envelope must have proved that they know the file's DEK.
//!
//! The attribute is of the namespace `system`, whose permissions the kernel leaves to the file
//! system: the mode bits of a file say nothing of who may move it to another key.

use std::sync::Arc;

use rustix::io::Errno;

use super::error::{At, refused};
use super::open::Purpose;
use super::{FileSystem, FsError, NodeId};
use crate::format::{Envelope, FileId};
use crate::keys::{Access, Caller};
use crate::store::tree::{FileKind, TimeSet};
use crate::volume::{ClosedFile, RewrapRequest, VolumeError};

/// Of a file: its id and envelope; set, a request to rewrap it.
pub(super) const ENVELOPE: &str = "system.ssefs.envelope";
/// Of the root: the volume's id.
pub(super) const VOLUME_ID: &str = "user.ssefs.volume_id";
/// Of the root: device and inode of the backing directory.
pub(super) const BACKING: &str = "user.ssefs.backing";

impl FileSystem {
    /// The file's id, 16 bytes, and its envelope, encoded; `ENODATA` for what has none.
    pub(super) fn envelope(&self, caller: Caller, node: NodeId) -> Result<Vec<u8>, FsError> {
        self.check_rewrapper(caller, node)?;
        let (object, kind) = self.nodes.object(node).ok_or(FsError::Stale { node })?;
        if kind != FileKind::Regular {
            return refused(node, Errno::NODATA);
        }
        let wrap = |source| self.volume_error(node, source);
        let used = self.claim(node, object)?;
        let inode = Arc::clone(used.inode());
        // A file that somebody opens is not read at the side while they change it.
        let _alone = inode.open_alone();
        let found = match inode.is_ready() {
            true => {
                let envelope = inode.file().envelope();
                envelope.map(|(binding, envelope)| message(binding.file, &envelope)).transpose()
            }
            false => {
                let disk = self.open_to_describe(node, object)?;
                let file = ClosedFile::read(self.volume.id(), &disk).map_err(wrap)?;
                file.map(|file| message(file.file_id(), file.envelope()?)).transpose()
            }
        };
        found.map_err(wrap)?.map_or_else(|| refused(node, Errno::NODATA), Ok)
    }

    /// Puts another envelope for the same DEK in place of the one that the file has.
    pub(super) fn rewrap(
        &self,
        caller: Caller,
        node: NodeId,
        request: &[u8],
    ) -> Result<(), FsError> {
        self.check_writable()?;
        self.check_rewrapper(caller, node)?;
        let (object, kind) = self.nodes.object(node).ok_or(FsError::Stale { node })?;
        let Ok(request) = RewrapRequest::decode(request) else {
            return refused(node, Errno::INVAL);
        };
        if kind != FileKind::Regular {
            return refused(node, Errno::INVAL);
        }
        let used = self.claim(node, object)?;
        let inode = Arc::clone(used.inode());
        // Nobody opens the file, or rewraps it, while its header changes.
        let _alone = inode.open_alone();
        let path = || self.nodes.path(node);
        let access = Access::own(&path);
        let wrap = |source| self.volume_error(node, source);
        if inode.is_ready() {
            if !inode.file().is_writable() {
                let (disk, ..) = self.open_backing(node, object, Purpose::Write)?;
                inode.replace_disk(Arc::new(disk)).map_err(wrap)?;
            }
            return inode.keep_time(|file| file.rewrap(request, &access).map_err(wrap));
        }
        let (disk, stat, _) = self.open_backing(node, object, Purpose::Write)?;
        let installed = ClosedFile::read(self.volume.id(), &disk).and_then(|file| {
            let file = file.ok_or(VolumeError::NotItsEnvelope { file: FileId::VOLUME })?;
            let file = file.unlock(&self.volume, &access)?;
            file.install_requested(&self.volume, &disk, request, &access)
        });
        installed.map_err(wrap)?;
        let mtime = TimeSet::At { secs: stat.mtime.secs, nanos: stat.mtime.nanos };
        disk.set_times(TimeSet::Omit, mtime).at(node)
    }

    /// What the root tells of the volume.
    pub(super) fn volume_field(&self, name: &str) -> Result<Option<String>, FsError> {
        Ok(match name {
            VOLUME_ID => Some(self.volume.id().to_string()),
            BACKING => {
                let stat = self.tree.root().located().stat().at(NodeId::ROOT)?;
                Some(format!("{}:{}", stat.dev, stat.ino))
            }
            _ => None,
        })
    }

    fn check_rewrapper(&self, caller: Caller, node: NodeId) -> Result<(), FsError> {
        match caller.uid == 0 || caller.uid == self.daemon.uid {
            true => Ok(()),
            false => refused(node, Errno::PERM),
        }
    }
}

fn message(file: FileId, envelope: &Envelope) -> Result<Vec<u8>, VolumeError> {
    Ok([&file.0[..], &envelope.encode()?].concat())
}
