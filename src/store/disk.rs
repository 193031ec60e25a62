//! A backing file on disk: positional I/O over one descriptor. Refuses nothing that the
//! kernel accepts; the descriptor must not be `O_APPEND`, for which Linux ignores offsets.

use std::io::{self, IoSlice, IoSliceMut};
use std::num::NonZeroU64;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{
    Advice, FallocateFlags, OFlags, SeekFrom, fadvise, fallocate, fcntl_setfl, fdatasync, fstat,
    fsync, ftruncate, seek,
};
use rustix::io::{Errno, ReadWriteFlags, pread, preadv2, pwrite, pwritev, retry_on_intr};

use super::observer::{Event, FileEvent, tell};
use super::stream::Stream;
use super::{BackingFile, SyncScope, flushes};

/// An open file of the backing directory.
#[derive(Debug)]
pub struct DiskFile {
    fd: OwnedFd,
    stream: Stream,
}

impl DiskFile {
    /// The descriptor, for what concerns the file as a whole.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// From now on reads set the access time as the file system below sees fit.
    pub fn count_reads(&self) -> io::Result<()> {
        Ok(fcntl_setfl(&self.fd, OFlags::empty())?)
    }

    fn tell(&self, event: FileEvent<'_>) {
        tell(&Event::File(self.fd(), event));
    }

    /// Has the kernel read a part of the file that will soon be wanted. A hint and no more: whoever
    /// reads there waits if need be, and is told what fails.
    fn fetch(&self, range: Range<u64>) {
        for start in range.step_by(HINT_BYTES.get() as usize) {
            let _ = fadvise(&self.fd, start, Some(HINT_BYTES), Advice::WillNeed);
        }
    }

    /// Whether the start of the file can be read without waiting for the disk; true as well where
    /// the file system below does not tell.
    pub fn is_at_hand(&self) -> bool {
        let mut byte = [0];
        let bufs = &mut [IoSliceMut::new(&mut byte)];
        preadv2(&self.fd, bufs, 0, ReadWriteFlags::NOWAIT) != Err(Errno::AGAIN)
    }

    /// Has the kernel read all of a small file, as this size makes it. Of a large one it reads
    /// ahead by itself, for who goes on.
    pub fn fetch_if_small(&self, size: u64) {
        if size <= HINT_BYTES.get() {
            self.fetch(0..size);
        }
    }

    /// Overwrites what lies within the file with zeros: a hole for file systems without.
    fn write_zeros(&self, offset: u64, len: u64) -> io::Result<()> {
        let end = offset.saturating_add(len).min(self.size()?);
        let mut at = offset;
        while at < end {
            let count = usize::try_from(end - at).unwrap_or(usize::MAX).min(ZEROS.len());
            self.write_at(&[IoSlice::new(&ZEROS[..count])], at)?;
            at += count as u64;
        }
        Ok(())
    }
}

impl From<OwnedFd> for DiskFile {
    fn from(fd: OwnedFd) -> Self {
        Self { fd, stream: Stream::default() }
    }
}

impl BackingFile for DiskFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        if let Some(ahead) = self.stream.note(offset, buf.len() as u64) {
            self.fetch(ahead);
        }
        let mut filled = 0;
        while filled < buf.len() {
            let at = offset + filled as u64;
            match retry_on_intr(|| pread(&self.fd, &mut buf[filled..], at))? {
                0 => break,
                read => filled += read,
            }
        }
        Ok(filled)
    }

    fn write_at(&self, bufs: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        let (mut at, mut first, mut done_of_first) = (offset, 0, 0);
        while let Some(buf) = bufs.get(first) {
            if done_of_first == buf.len() {
                (first, done_of_first) = (first + 1, 0);
                continue;
            }
            let written = retry_on_intr(|| {
                if done_of_first > 0 {
                    pwrite(&self.fd, &buf[done_of_first..], at)
                } else {
                    pwritev(&self.fd, &bufs[first..bufs.len().min(first + IOV_MAX)], at)
                }
            })?;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            at += written as u64;
            done_of_first += written;
            while first < bufs.len() && done_of_first >= bufs[first].len() {
                done_of_first -= bufs[first].len();
                first += 1;
            }
        }
        self.tell(FileEvent::Written { bufs, offset });
        Ok(())
    }

    fn size(&self) -> io::Result<u64> {
        Ok(u64::try_from(fstat(&self.fd)?.st_size).expect("sizes are not negative"))
    }

    fn set_size(&self, size: u64) -> io::Result<()> {
        retry_on_intr(|| ftruncate(&self.fd, size))?;
        self.tell(FileEvent::SizeSet(size));
        Ok(())
    }

    fn allocate(&self, offset: u64, len: u64, keep_size: bool) -> io::Result<()> {
        let flags = if keep_size { FallocateFlags::KEEP_SIZE } else { FallocateFlags::empty() };
        retry_on_intr(|| fallocate(&self.fd, flags, offset, len))?;
        self.tell(FileEvent::Allocated { offset, len, keep_size });
        Ok(())
    }

    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match retry_on_intr(|| fallocate(&self.fd, flags, offset, len)) {
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => self.write_zeros(offset, len),
            other => {
                other?;
                self.tell(FileEvent::Punched { offset, len });
                Ok(())
            }
        }
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<u64>> {
        // Moves the position of the descriptor, which nothing here reads.
        match seek(&self.fd, SeekFrom::Data(offset)) {
            Ok(data) => Ok(Some(data)),
            Err(Errno::NXIO) => Ok(None),
            Err(Errno::INVAL | Errno::OPNOTSUPP) => Ok((offset < self.size()?).then_some(offset)),
            Err(error) => Err(error.into()),
        }
    }

    fn sync(&self, scope: SyncScope) -> io::Result<()> {
        flushes::count();
        retry_on_intr(|| match scope {
            SyncScope::Data => fdatasync(&self.fd),
            SyncScope::All => fsync(&self.fd),
        })?;
        self.tell(FileEvent::Synced(scope));
        Ok(())
    }
}

/// What Linux reads ahead by itself from most disks; of longer hints it may drop the rest.
const HINT_BYTES: NonZeroU64 = NonZeroU64::new(128 << 10).expect("not zero");
/// The most buffers that one `pwritev` takes on Linux.
const IOV_MAX: usize = 1024;
static ZEROS: [u8; 128 << 10] = [0; 128 << 10];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::conformance_tests;

    fn scratch() -> DiskFile {
        OwnedFd::from(tempfile::tempfile().unwrap()).into()
    }

    #[test]
    fn conforms() {
        conformance_tests::check(scratch);
    }

    #[test]
    fn zeros_stand_in_for_a_hole_and_keep_the_size() {
        let file = scratch();
        file.write_at(&[IoSlice::new(&[7; 300_000])], 0).unwrap();
        file.write_zeros(10, 1 << 40).unwrap();
        let mut read = vec![1; 300_001];
        assert_eq!(file.read_at(&mut read, 0).unwrap(), 300_000);
        assert!(read[..10].iter().all(|&byte| byte == 7));
        assert!(read[10..300_000].iter().all(|&byte| byte == 0));
    }

    #[test]
    fn errors_of_the_system_pass_as_they_are() {
        let full: DiskFile =
            OwnedFd::from(std::fs::File::options().write(true).open("/dev/full").unwrap()).into();
        let error = full.write_at(&[IoSlice::new(b"x")], 0).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        let read_only: DiskFile = OwnedFd::from(std::fs::File::open("/dev/null").unwrap()).into();
        let error = read_only.write_at(&[IoSlice::new(b"x")], 0).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(Errno::BADF.raw_os_error()));
    }
}
