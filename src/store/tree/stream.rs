//! Reading a directory in the order and with the positions of the file system below, so that a
//! reader may come back to any entry's cookie while entries are made and removed.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{SeekFrom, seek};

use super::FileKind;
use crate::sys::directory::getdents;

/// A directory open for reading, at some position. `.` and `..` come as the file system gives
/// them.
#[derive(Debug)]
pub struct DirStream {
    fd: OwnedFd,
    /// Records of the kernel, empty at the start and after the end.
    buf: Vec<u8>,
    filled: usize,
    next: usize,
    /// The position of the record at `buf[0]`.
    first_cookie: u64,
    /// The position of the record at `buf[next]`.
    next_cookie: u64,
}

/// One name of a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DirEntry<'a> {
    pub ino: u64,
    pub kind: FileKind,
    pub name: &'a OsStr,
    /// Where to [`DirStream::seek`] to go on behind this entry.
    pub cookie: u64,
}

impl DirStream {
    pub(super) fn new(fd: OwnedFd) -> Self {
        Self { fd, buf: Vec::new(), filled: 0, next: 0, first_cookie: START, next_cookie: START }
    }

    /// The next entry, `None` at the end.
    pub fn next_entry(&mut self) -> io::Result<Option<DirEntry<'_>>> {
        if self.next == self.filled && !self.fill()? {
            return Ok(None);
        }
        let (entry, len) = parse(&self.buf[self.next..self.filled])?;
        self.next += len;
        self.next_cookie = entry.cookie;
        Ok(Some(entry))
    }

    /// Goes to behind the entry that had `cookie`, or with 0 to the start, where the directory
    /// is read anew.
    pub fn seek(&mut self, cookie: u64) -> io::Result<()> {
        if cookie == self.next_cookie && cookie != START {
            return Ok(());
        }
        if cookie == START || !self.seek_in_buffer(cookie) {
            seek(&self.fd, SeekFrom::Start(cookie))?;
            (self.filled, self.next) = (0, 0);
            (self.first_cookie, self.next_cookie) = (cookie, cookie);
        }
        Ok(())
    }

    fn fill(&mut self) -> io::Result<bool> {
        self.buf.resize(BUFFER_BYTES, 0);
        self.first_cookie = self.next_cookie;
        (self.filled, self.next) = (0, 0);
        self.filled = getdents(self.fd.as_fd(), &mut self.buf)?;
        if self.filled == 0 {
            self.buf = Vec::new();
        }
        Ok(self.filled > 0)
    }

    /// A reader whose reply was full comes back to an entry that is still here.
    fn seek_in_buffer(&mut self, cookie: u64) -> bool {
        let (mut at, mut position) = (0, self.first_cookie);
        while position != cookie {
            match parse(&self.buf[at..self.filled]) {
                Ok((entry, len)) => (at, position) = (at + len, entry.cookie),
                Err(_) => return false,
            }
        }
        (self.next, self.next_cookie) = (at, cookie);
        self.filled > 0
    }
}

/// The `linux_dirent64` at the start of `records`, and its length: inode 8 bytes, cookie 8,
/// length 2, type 1, then the name up to a zero byte.
fn parse(records: &[u8]) -> io::Result<(DirEntry<'_>, usize)> {
    let malformed = || io::Error::from(io::ErrorKind::InvalidData);
    let (header, _) = records.split_first_chunk::<HEADER_BYTES>().ok_or_else(malformed)?;
    let [i0, i1, i2, i3, i4, i5, i6, i7, c0, c1, c2, c3, c4, c5, c6, c7, l0, l1, kind] = *header;
    let len = usize::from(u16::from_ne_bytes([l0, l1]));
    let name = records.get(HEADER_BYTES..len).ok_or_else(malformed)?;
    let end = name.iter().position(|&byte| byte == 0).ok_or_else(malformed)?;
    let entry = DirEntry {
        ino: u64::from_ne_bytes([i0, i1, i2, i3, i4, i5, i6, i7]),
        kind: kind_of(kind),
        name: OsStr::from_bytes(&name[..end]),
        cookie: u64::from_ne_bytes([c0, c1, c2, c3, c4, c5, c6, c7]),
    };
    Ok((entry, len))
}

/// `DT_*` of readdir(3).
fn kind_of(kind: u8) -> FileKind {
    match kind {
        1 => FileKind::Fifo,
        2 => FileKind::CharDevice,
        4 => FileKind::Directory,
        6 => FileKind::BlockDevice,
        8 => FileKind::Regular,
        10 => FileKind::Symlink,
        12 => FileKind::Socket,
        _ => FileKind::Unknown,
    }
}

const START: u64 = 0;
const HEADER_BYTES: usize = 19;
const BUFFER_BYTES: usize = 32 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_parsed_and_a_cut_one_refused() {
        let mut record = Vec::new();
        record.extend_from_slice(&42_u64.to_ne_bytes());
        record.extend_from_slice(&77_u64.to_ne_bytes());
        record.extend_from_slice(&24_u16.to_ne_bytes());
        record.extend_from_slice(&[10, b'a', b'b', b'c', 0, 0]);
        let expected =
            DirEntry { ino: 42, kind: FileKind::Symlink, name: OsStr::new("abc"), cookie: 77 };
        assert_eq!(parse(&record).unwrap(), (expected, 24));
        for len in 0..24 {
            parse(&record[..len]).unwrap_err();
        }
        record[22..].fill(b'x');
        parse(&record).unwrap_err();
    }
}
