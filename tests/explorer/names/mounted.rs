//! A file system over a backing directory, without a kernel, by paths.

use std::ffi::OsStr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ssefs::fs::{FileSystem, FsError, FsOptions, Handle, NodeId};
use ssefs::keys::Caller;
use ssefs::volume::{Durability, Volume, VolumeUse};

use super::super::model::Found;
use crate::mount::mount;

/// A mounted volume, but for the mount.
pub struct Mounted {
    pub fs: FileSystem,
    volume: Arc<Volume>,
}

impl Mounted {
    /// Mounts the volume in `root`, which is made if there is none.
    pub fn new(root: &Path, durability: Durability) -> Self {
        let use_as = VolumeUse { read_only: false, durability };
        // So that files linger and idle after their close.
        let idle_age = Duration::from_secs(60);
        let options = FsOptions { idle_files: 256, idle_age, ..FsOptions::default() };
        let (fs, volume) = mount(root, use_as, 64, options);
        Self { fs, volume }
    }

    /// Unmounts cleanly.
    pub fn unmount(self) {
        self.fs.shut_down();
        self.volume.end_epoch().unwrap();
    }

    /// The object at `path` below the root.
    pub fn node(&self, path: &str) -> Result<NodeId, FsError> {
        let names = path.split('/').filter(|name| !name.is_empty());
        let mut node = NodeId::ROOT;
        for name in names {
            node = self.fs.lookup(CALLER, node, OsStr::new(name))?.node;
        }
        Ok(node)
    }

    /// The directory that `path` lies in, and its name there.
    pub fn parent<'p>(&self, path: &'p str) -> Result<(NodeId, &'p OsStr), FsError> {
        let (directory, name) = path.rsplit_once('/').unwrap_or(("", path));
        Ok((self.node(directory)?, OsStr::new(name)))
    }

    /// A handle for reading and writing.
    pub fn open(&self, path: &str) -> Result<Handle, FsError> {
        Ok(self.fs.open(CALLER, self.node(path)?, libc::O_RDWR)?.handle)
    }

    pub fn close(&self, handle: Handle) {
        self.fs.release(handle).unwrap();
    }

    /// The attribute that is set by [`super::player::Act::SetAttribute`].
    pub fn attribute(&self, path: &str) -> Option<Vec<u8>> {
        let node = self.node(path).ok()?;
        self.fs.xattr(CALLER, node, OsStr::new(ATTRIBUTE)).ok()
    }

    /// Everything that can be read of a file.
    pub fn look(&self, path: &str) -> Result<Found, String> {
        let text = |error: FsError| format!("does not open: {error}");
        let open = || {
            let node = self.node(path)?;
            Ok((node, self.fs.open(CALLER, node, libc::O_RDONLY)?.handle))
        };
        // Where recovery has changed the size the kernel looks the file up anew, once.
        let is_stale = |error: &FsError| error.errno() == libc::ESTALE;
        let opened = open().or_else(|error| if is_stale(&error) { open() } else { Err(error) });
        let (node, handle) = opened.map_err(text)?;
        let size = self.fs.attributes(node, Some(handle)).map_err(text)?.size;
        let block = |at: u64| {
            let mut bytes = vec![0xee; (size - at).min(4096) as usize];
            let read = self.fs.read(handle, at, &mut bytes).map_err(|error| error.to_string())?;
            if read < bytes.len() { Err(format!("{read} bytes read")) } else { Ok(bytes) }
        };
        let blocks = (0..size).step_by(4096).map(block).collect();
        self.fs.release(handle).map_err(text)?;
        Ok(Found { size, blocks, envelope: None })
    }
}

pub const ATTRIBUTE: &str = "user.explorer";
pub const CALLER: Caller = Caller { uid: 0, gid: 0, pid: 0 };
