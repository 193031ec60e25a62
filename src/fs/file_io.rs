//! Reading and writing through handles.

use rustix::io::Errno;

use super::change::without_set_ids;
use super::error::{At, refused};
use super::open_table::OpenInode;
use super::{FileSystem, FsError, Handle};
use crate::store::tree::TimeSet;

impl FileSystem {
    /// Fills `buf` from `offset`; less only at the end of the file.
    pub fn read(&self, handle: Handle, offset: u64, buf: &mut [u8]) -> Result<usize, FsError> {
        self.counters.count(|counts| &counts.reads);
        let file = self.file(handle)?;
        // The kernel's cache completes pages that are written in part.
        if !file.readable && !self.options.writeback {
            return Err(FsError::BadHandle { handle });
        }
        let inode = file.inode();
        inode.read(offset, buf).map_err(|source| self.volume_error(inode.node(), source))
    }

    /// Writes all of `data` at `offset`, or fails. `kill_privileges` clears the set-user-id
    /// and set-group-id bits, as a write without privilege does. For `O_SYNC` and `O_DSYNC`
    /// the kernel sends a sync after each write by itself, also past its cache.
    pub fn write(
        &self,
        handle: Handle,
        offset: u64,
        data: &[u8],
        kill_privileges: bool,
    ) -> Result<(), FsError> {
        self.counters.count(|counts| &counts.writes);
        let file = self.file_to_write(handle)?;
        let inode = file.inode();
        check_range(inode, offset, data.len() as u64)?;
        if kill_privileges {
            self.clear_set_ids(inode)?;
        }
        if inode.writes_over(offset + data.len() as u64) {
            self.overwrites.note();
        }
        let wrap = |source| self.volume_error(inode.node(), source);
        self.with_space(|| inode.write(offset, data).map_err(wrap))?;
        self.write_out(inode, offset, data.len() as u64);
        // What is gathered has not touched the backing file. With the writeback cache the time
        // is the kernel's to tell.
        if !self.options.writeback && inode.file().has_gathered() {
            let disk = inode.disk();
            let touch = || disk.set_times(TimeSet::Omit, TimeSet::Now).at(inode.node());
            inode.set_times(touch)?;
        }
        Ok(())
    }

    /// Takes away the set-user-id bit, and the set-group-id bit of a program.
    pub(super) fn clear_set_ids(&self, inode: &OpenInode) -> Result<(), FsError> {
        let disk = inode.disk();
        let mode = disk.stat().at(inode.node())?.mode;
        match without_set_ids(mode) {
            cleared if cleared == mode => Ok(()),
            cleared => disk.chmod(cleared).at(inode.node()),
        }
    }
}

/// Refuses ranges beyond what an offset can tell.
pub(super) fn check_range(inode: &OpenInode, offset: u64, len: u64) -> Result<(), FsError> {
    match offset.checked_add(len) {
        Some(end) if i64::try_from(end).is_ok() => Ok(()),
        _ => refused(inode.node(), Errno::FBIG),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Fixture, ROOT_CALLER, capability, os};
    use super::super::{AttributeChange, NodeId};
    use super::*;

    #[test]
    fn handles_allow_what_they_were_opened_for() {
        let fx = Fixture::new();
        let file = fx.create(NodeId::ROOT, "file", b"text");
        let open = |flags| fx.fs.open(ROOT_CALLER, file, flags).unwrap().handle;
        let (reader, writer) = (open(libc::O_RDONLY), open(libc::O_WRONLY));
        assert!(fx.fs.write(reader, 0, b"x", false).unwrap_err().is(Errno::BADF));
        assert!(fx.fs.read(writer, 0, &mut [0; 4]).unwrap_err().is(Errno::BADF));
        fx.fs.write(writer, 4, b"more", false).unwrap();
        let mut buf = [0; 9];
        assert_eq!(fx.fs.read(reader, 0, &mut buf).unwrap(), 8);
        assert_eq!(&buf[..8], b"textmore");
        assert!(fx.fs.read(Handle(99), 0, &mut buf).unwrap_err().is(Errno::BADF));
        fx.fs.set_read_only(true);
        assert!(fx.fs.write(writer, 0, b"x", false).unwrap_err().is(Errno::ROFS));
        fx.fs.set_read_only(false);
        fx.fs.write(writer, 0, b"x", false).unwrap();
        let far = fx.fs.write(writer, i64::MAX as u64, b"x", false);
        assert!(far.unwrap_err().is(Errno::FBIG));
    }

    #[test]
    fn with_the_writeback_cache_a_writer_may_be_read_through() {
        let fx = Fixture::with(|options| options.writeback = true);
        let file = fx.create(NodeId::ROOT, "file", b"text");
        let writer = fx.fs.open(ROOT_CALLER, file, libc::O_WRONLY).unwrap().handle;
        assert_eq!(fx.fs.read(writer, 0, &mut [0; 9]).unwrap(), 4);
    }

    #[test]
    fn a_write_without_privilege_clears_set_ids() {
        let fx = Fixture::new();
        let file = fx.create(NodeId::ROOT, "file", b"text");
        let mode = || fx.fs.attributes(file, None).unwrap().mode & 0o7777;
        let chmod = |mode| {
            let change = AttributeChange { mode: Some(mode), ..Default::default() };
            fx.fs.set_attributes(ROOT_CALLER, file, None, &change).unwrap();
        };
        let handle = fx.fs.open(ROOT_CALLER, file, libc::O_RDWR).unwrap().handle;
        for (set, cleared) in [(0o6755, 0o755), (0o2644, 0o2644), (0o4700, 0o700)] {
            chmod(set);
            fx.fs.write(handle, 0, b"x", false).unwrap();
            assert_eq!(mode(), set);
            fx.fs.write(handle, 0, b"x", true).unwrap();
            assert_eq!(mode(), cleared);
        }
    }

    /// What the kernel underneath must do, as nothing here does it.
    #[test]
    fn the_backing_kernel_drops_capabilities_on_every_change() {
        let Some(capability) = capability() else { return };
        let fx = Fixture::new();
        let file = fx.create(NodeId::ROOT, "file", &[1; 5000]);
        let name = os("security.capability");
        let handle = fx.fs.open(ROOT_CALLER, file, libc::O_RDWR).unwrap().handle;
        let cut = AttributeChange { size: Some(10), ..Default::default() };
        let give = AttributeChange { uid: Some(1), ..Default::default() };
        let set = |change: &AttributeChange| {
            fx.fs.set_attributes(ROOT_CALLER, file, None, change).unwrap();
        };
        let changes: [&dyn Fn(); 3] =
            [&|| fx.fs.write(handle, 0, b"x", false).unwrap(), &|| set(&cut), &|| set(&give)];
        for (index, change) in changes.iter().enumerate() {
            fx.fs.set_xattr(ROOT_CALLER, file, name, &capability, 0).unwrap();
            assert_eq!(fx.fs.xattr(ROOT_CALLER, file, name).unwrap(), capability);
            change();
            let left = fx.fs.xattr(ROOT_CALLER, file, name);
            assert!(left.unwrap_err().is(Errno::NODATA), "change {index}");
        }
    }
}
