//! Ranges of files: reserving, freeing, finding holes, copying.

use std::sync::Arc;

use rustix::io::Errno;

use super::error::refused;
use super::file_io::check_range;
use super::handles::FileHandle;
use super::{FileSystem, FsError, Handle, SeekTarget};

impl FileSystem {
    /// `fallocate(2)`: plain, keeping the size, punching a hole, or writing zeros.
    pub fn allocate(
        &self,
        handle: Handle,
        offset: u64,
        len: u64,
        mode: i32,
    ) -> Result<(), FsError> {
        self.counters.count(|counts| &counts.allocations);
        let file = self.file_to_write(handle)?;
        let inode = file.inode();
        if len == 0 || i64::try_from(offset).is_err() || i64::try_from(len).is_err() {
            return refused(inode.node(), Errno::INVAL);
        }
        check_range(inode, offset, len)?;
        let keep_size = mode & libc::FALLOC_FL_KEEP_SIZE != 0;
        let what = match mode & !libc::FALLOC_FL_KEEP_SIZE {
            0 => Allocation::Reserve,
            libc::FALLOC_FL_PUNCH_HOLE if keep_size => Allocation::Punch,
            libc::FALLOC_FL_ZERO_RANGE => Allocation::Zero,
            _ => return refused(inode.node(), Errno::OPNOTSUPP),
        };
        self.prepare_change(&file)?;
        self.with_space(|| {
            let changed = inode.change(|file| match what {
                Allocation::Reserve => file.allocate(offset, len, keep_size),
                Allocation::Punch => file.punch_hole(offset, len),
                Allocation::Zero => file.zero_range(offset, len, keep_size),
            });
            changed.map_err(|source| self.volume_error(inode.node(), source))
        })
    }

    /// The next data or hole from `offset` on; `ENXIO` if there is none.
    pub fn seek(&self, handle: Handle, offset: i64, target: SeekTarget) -> Result<i64, FsError> {
        self.counters.count(|counts| &counts.seeks);
        let file = self.file(handle)?;
        let node = file.node();
        let Ok(from) = u64::try_from(offset) else { return refused(node, Errno::NXIO) };
        let encrypted = file.inode().file();
        let found = match target {
            SeekTarget::Data => encrypted.next_data(from),
            SeekTarget::Hole => encrypted.next_hole(from),
        };
        match found.map_err(|source| self.volume_error(node, source))? {
            Some(at) => {
                i64::try_from(at).map_err(|_| FsError::Refused { node, errno: Errno::OVERFLOW })
            }
            None => refused(node, Errno::NXIO),
        }
    }

    /// Whether the kernel may hold data of the file that it has not sent yet, and of which
    /// [`Self::seek`] therefore cannot know.
    pub fn may_be_behind(&self, handle: Handle) -> Result<bool, FsError> {
        let file = self.file(handle)?;
        Ok(self.options.writeback && file.inode().has_writers())
    }

    /// Copies up to `len` bytes between two files, or within one; returns how many.
    pub fn copy_range(
        &self,
        from: Handle,
        from_offset: u64,
        to: Handle,
        to_offset: u64,
        len: u64,
    ) -> Result<u64, FsError> {
        self.counters.count(|counts| &counts.copies);
        let (source, target) = (self.file(from)?, self.file_to_write(to)?);
        if !source.readable && !self.options.writeback {
            return Err(FsError::BadHandle { handle: from });
        }
        check_range(source.inode(), from_offset, len)?;
        check_range(target.inode(), to_offset, len)?;
        self.prepare_change(&target)?;
        let mut buf = vec![0; usize::try_from(len.min(COPY_BYTES)).unwrap_or(0)];
        let mut copied = 0;
        while copied < len {
            let wanted = usize::try_from(len - copied).unwrap_or(usize::MAX).min(buf.len());
            let chunk = &mut buf[..wanted];
            match self.copy_chunk(&source, from_offset + copied, &target, to_offset + copied, chunk)
            {
                Ok(0) => break,
                Ok(done) => copied += done,
                // What was copied counts; the next call meets the error at once.
                Err(_) if copied > 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(copied)
    }

    fn copy_chunk(
        &self,
        source: &FileHandle,
        from: u64,
        target: &FileHandle,
        to: u64,
        chunk: &mut [u8],
    ) -> Result<u64, FsError> {
        let read = source.inode().read(from, chunk);
        let read = read.map_err(|error| self.volume_error(source.node(), error))?;
        let wrap = |error| self.volume_error(target.node(), error);
        self.with_space(|| target.inode().write(to, &chunk[..read]).map_err(wrap))?;
        Ok(read as u64)
    }

    /// The kernel leaves it to us to take set-user-id and set-group-id bits away here, and does
    /// not tell for whom: whoever opened the file stands for the caller.
    fn prepare_change(&self, file: &Arc<FileHandle>) -> Result<(), FsError> {
        if file.by_superuser { Ok(()) } else { self.clear_set_ids(file.inode()) }
    }
}

enum Allocation {
    Reserve,
    Punch,
    Zero,
}

/// How much is held in memory while copying.
const COPY_BYTES: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use super::super::NodeId;
    use super::super::tests::{Fixture, ROOT_CALLER, USER};
    use super::*;

    #[test]
    fn every_mode_of_fallocate() {
        let fx = Fixture::new();
        let file = fx.create(NodeId::ROOT, "file", &[7; 20_000]);
        let handle = fx.fs.open(ROOT_CALLER, file, libc::O_RDWR).unwrap().handle;
        let allocate = |offset, len, mode| fx.fs.allocate(handle, offset, len, mode);
        let size = || fx.fs.attributes(file, None).unwrap().size;
        let keep = libc::FALLOC_FL_KEEP_SIZE;
        allocate(0, 30_000, keep).unwrap();
        assert_eq!(size(), 20_000);
        allocate(0, 30_000, 0).unwrap();
        assert_eq!(size(), 30_000);
        allocate(4096, 8192, libc::FALLOC_FL_PUNCH_HOLE | keep).unwrap();
        allocate(14_000, 10, libc::FALLOC_FL_ZERO_RANGE).unwrap();
        let mut expected = vec![7; 20_000];
        expected.resize(30_000, 0);
        expected[4096..12_288].fill(0);
        expected[14_000..14_010].fill(0);
        assert_eq!(fx.content(file), expected);
        assert!(allocate(0, 0, 0).unwrap_err().is(Errno::INVAL));
        assert!(allocate(i64::MAX as u64, 2, 0).unwrap_err().is(Errno::FBIG));
        assert!(allocate(u64::MAX, 2, 0).unwrap_err().is(Errno::INVAL));
        for mode in [libc::FALLOC_FL_PUNCH_HOLE, libc::FALLOC_FL_COLLAPSE_RANGE, 0x80] {
            assert!(allocate(0, 1, mode).unwrap_err().is(Errno::OPNOTSUPP));
        }
        let reader = fx.fs.open(ROOT_CALLER, file, libc::O_RDONLY).unwrap().handle;
        assert!(fx.fs.allocate(reader, 0, 1, 0).unwrap_err().is(Errno::BADF));
    }

    #[test]
    fn holes_are_found_and_the_end_counts_as_one() {
        let fx = Fixture::new();
        let file = fx.create(NodeId::ROOT, "file", b"data");
        let handle = fx.fs.open(ROOT_CALLER, file, libc::O_RDWR).unwrap().handle;
        fx.fs.write(handle, 1 << 20, b"data", false).unwrap();
        let seek = |offset, target| fx.fs.seek(handle, offset, target);
        assert_eq!(seek(0, SeekTarget::Data).unwrap(), 0);
        let hole = seek(0, SeekTarget::Hole).unwrap();
        assert!((4..1 << 20).contains(&hole), "{hole}");
        assert_eq!(seek((1 << 20) + 1, SeekTarget::Hole).unwrap(), (1 << 20) + 4);
        for target in [SeekTarget::Data, SeekTarget::Hole] {
            assert!(seek((1 << 20) + 4, target).unwrap_err().is(Errno::NXIO));
            assert!(seek(-1, target).unwrap_err().is(Errno::NXIO));
        }
    }

    #[test]
    fn ranges_are_copied_up_to_the_end() {
        let fx = Fixture::new();
        let content: Vec<u8> = (0..3_000_000_u32).map(|index| (index % 251) as u8).collect();
        let from = fx.create(NodeId::ROOT, "from", &content);
        let to = fx.create(NodeId::ROOT, "to", b"");
        let reader = fx.fs.open(ROOT_CALLER, from, libc::O_RDONLY).unwrap().handle;
        let writer = fx.fs.open(USER, to, libc::O_RDWR).unwrap().handle;
        assert_eq!(fx.fs.copy_range(reader, 5, writer, 3, u64::from(u32::MAX)).unwrap(), 2_999_995);
        assert_eq!(fx.content(to)[3..], content[5..]);
        assert_eq!(fx.fs.copy_range(reader, 3_000_000, writer, 0, 10).unwrap(), 0);
        assert!(fx.fs.copy_range(writer, 0, reader, 0, 1).unwrap_err().is(Errno::BADF));
        let far = fx.fs.copy_range(reader, 0, writer, u64::MAX - 3, 10);
        assert!(far.unwrap_err().is(Errno::FBIG));
    }
}
