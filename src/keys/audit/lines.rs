//! Reading a log's files, also a copy of them elsewhere: a picture of which segments there are
//! and how long they are, taken between two records, and the lines in it, forwards or backwards.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use super::pending::{self, Expansion, PendingHead, PendingRecord};
use super::place::{
    Announcement, HEAD_NAME, LOCK_NAME, PENDING_NAME, SMALL_FILE_LEN, segment_name, segment_number,
};
use crate::keys::error::KeyError;

/// A log's files at one moment.
pub(super) struct Picture {
    dir: PathBuf,
    /// Number and length of each segment, in order.
    pub(super) segments: Vec<(u32, u64)>,
    /// The head's bytes, if there is a head.
    pub(super) head: Option<Vec<u8>>,
    /// The file of what a process that died has left to become records, if it left any.
    pending: Vec<u8>,
}

/// Records that are written, but not in the chain.
#[derive(Default)]
pub(super) struct LeftBehind<'a> {
    pub(super) head: Option<PendingHead>,
    /// All that was put.
    pub(super) put: Vec<PendingRecord<'a>>,
    /// How many records of that are in the chain all the same.
    pub(super) in_log: usize,
}

impl LeftBehind<'_> {
    /// The numbers and bodies of the records that are not in the chain, of those that are among
    /// the first `put`.
    pub(super) fn records(&self, put: usize) -> Vec<(u64, Vec<u8>)> {
        Expansion::of(&self.put[..put]).into_iter().skip(self.in_log).collect()
    }
}

/// A line and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) segment: u32,
    /// Its number in the segment, from 1; 0 where lines are read backwards.
    pub(super) number: u64,
    /// With its newline, unless it is torn.
    pub(super) bytes: Vec<u8>,
}

/// The lines in order.
pub(super) struct Lines<'a> {
    picture: &'a Picture,
    next: usize,
    open: Option<(u32, u64, BufReader<io::Take<File>>)>,
}

/// The lines from the last to the first.
pub(super) struct LinesBackwards<'a> {
    picture: &'a Picture,
    /// How many segments are left, the open one not counted.
    left: usize,
    open: Option<(u32, File)>,
    /// Bytes of the open segment before what was read.
    before: u64,
    /// What was read and not yet given out.
    held: Vec<u8>,
}

impl Picture {
    /// Of the log in `dir`; empty if there is none.
    pub(super) fn take(dir: &Path) -> Result<Self, KeyError> {
        let failed = |path: PathBuf| move |source| KeyError::Io { path, source };
        // A copy has no lock, or one that may not be opened.
        let lock = File::open(dir.join(LOCK_NAME)).ok();
        if let Some(lock) = &lock {
            let head = File::open(dir.join(HEAD_NAME)).ok();
            let _announced = head.as_ref().and_then(Announcement::make);
            let locked = flock(lock, FlockOperation::LockShared);
            locked.map_err(|error| failed(dir.join(LOCK_NAME))(error.into()))?;
        }
        let mut numbers = Vec::new();
        match std::fs::read_dir(dir) {
            Ok(entries) => {
                for entry in entries {
                    let name = entry.map_err(failed(dir.to_owned()))?.file_name();
                    numbers.extend(name.to_str().and_then(segment_number));
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(dir.to_owned())(error)),
        }
        numbers.sort_unstable();
        let mut segments = Vec::with_capacity(numbers.len());
        for number in numbers {
            let path = dir.join(segment_name(number));
            let len = std::fs::metadata(&path).map_err(failed(path))?.len();
            segments.push((number, len));
        }
        let read = |name: &str, len| match read_beginning(&dir.join(name), len) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed(dir.join(name))(error)),
        };
        let head = read(HEAD_NAME, SMALL_FILE_LEN)?.filter(|bytes| !bytes.is_empty());
        let pending = read(PENDING_NAME, pending::FILE_LEN)?;
        let pending = pending.filter(|bytes| pending::holds_any(bytes)).unwrap_or_default();
        Ok(Self { dir: dir.to_owned(), segments, head, pending })
    }

    /// What a process that died has left to become records; the next use of the log puts it
    /// there. `None` if there is something, but no record.
    pub(super) fn left_behind(&self) -> Result<Option<LeftBehind<'_>>, KeyError> {
        if self.pending.is_empty() {
            return Ok(Some(LeftBehind::default()));
        }
        let Some((head, put)) = pending::records(&self.pending) else { return Ok(None) };
        let mut in_log = 0;
        if let Some(&(segment, len)) = self.segments.last() {
            let mut recent = Vec::new();
            let start = len.saturating_sub(pending::LONGEST_IN_LOG);
            let mut file = self.open(segment)?;
            let read = file
                .seek(SeekFrom::Start(start))
                .and_then(|_| file.take(len - start).read_to_end(&mut recent));
            read.map_err(|error| self.failed(segment, error))?;
            in_log = pending::in_log(&Expansion::of(&put), &recent);
        }
        Ok(Some(LeftBehind { head: Some(head), put, in_log }))
    }

    /// The lines in order.
    pub(super) fn lines(&self) -> Lines<'_> {
        Lines { picture: self, next: 0, open: None }
    }

    /// The lines from the last to the first; a torn last line is left out.
    pub(super) fn lines_backwards(&self) -> LinesBackwards<'_> {
        let left = self.segments.len();
        LinesBackwards { picture: self, left, open: None, before: 0, held: Vec::new() }
    }

    /// The path of a segment, for messages.
    pub(super) fn path_of(&self, segment: u32) -> PathBuf {
        // Of none: it waits to become a record.
        self.dir.join(if segment == 0 { PENDING_NAME.to_owned() } else { segment_name(segment) })
    }

    fn open(&self, segment: u32) -> Result<File, KeyError> {
        let path = self.path_of(segment);
        File::open(&path).map_err(|source| KeyError::Io { path, source })
    }

    fn failed(&self, segment: u32, source: io::Error) -> KeyError {
        KeyError::Io { path: self.path_of(segment), source }
    }
}

impl Iterator for Lines<'_> {
    type Item = Result<Line, KeyError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some((segment, number, reader)) = &mut self.open {
                let mut bytes = Vec::new();
                match reader.take(LONGEST_LINE as u64).read_until(b'\n', &mut bytes) {
                    Ok(0) => self.open = None,
                    Ok(_) => {
                        *number += 1;
                        return Some(Ok(Line { segment: *segment, number: *number, bytes }));
                    }
                    Err(error) => return Some(Err(self.picture.failed(*segment, error))),
                }
            }
            let &(segment, len) = self.picture.segments.get(self.next)?;
            self.next += 1;
            match self.picture.open(segment) {
                Ok(file) => {
                    let reader = BufReader::with_capacity(BUFFER_LEN, file.take(len));
                    self.open = Some((segment, 0, reader));
                }
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

impl Iterator for LinesBackwards<'_> {
    type Item = Result<Line, KeyError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            // The newline before the last line's own.
            let inner = &self.held[..self.held.len().saturating_sub(1)];
            let start = inner.iter().rposition(|&byte| byte == b'\n').map(|at| at + 1);
            if let Some((segment, file)) = &self.open {
                if let Some(start) = start.or((self.before == 0).then_some(0)) {
                    let line =
                        Line { segment: *segment, number: 0, bytes: self.held.split_off(start) };
                    if self.held.is_empty() && self.before == 0 {
                        self.open = None;
                    }
                    if line.bytes.ends_with(b"\n") {
                        return Some(Ok(line));
                    }
                    continue;
                }
                if self.held.len() >= LONGEST_LINE {
                    let bytes = std::mem::take(&mut self.held);
                    if bytes.ends_with(b"\n") {
                        return Some(Ok(Line { segment: *segment, number: 0, bytes }));
                    }
                    continue;
                }
                let len = self.before.min(BUFFER_LEN as u64);
                let mut bytes = vec![0; usize::try_from(len).expect("no longer than the buffer")];
                if let Err(error) = file.read_exact_at(&mut bytes, self.before - len) {
                    return Some(Err(self.picture.failed(*segment, error)));
                }
                self.before -= len;
                bytes.append(&mut self.held);
                self.held = bytes;
                continue;
            }
            self.left = self.left.checked_sub(1)?;
            let (segment, len) = self.picture.segments[self.left];
            if len == 0 {
                continue;
            }
            match self.picture.open(segment) {
                Ok(file) => self.open = Some((segment, file)),
                Err(error) => return Some(Err(error)),
            }
            self.before = len;
        }
    }
}

/// The beginning of a file; more is not read of one that is longer than it should be.
pub(super) fn read_small(path: &Path) -> io::Result<Vec<u8>> {
    read_beginning(path, SMALL_FILE_LEN)
}

fn read_beginning(path: &Path, len: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(len as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}

const BUFFER_LEN: usize = 256 << 10;
/// Far longer than a record can be, whose texts are bounded. A longer line is no record: it is
/// given out in pieces, forwards, or its end alone, backwards.
const LONGEST_LINE: usize = 1 << 20;

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A log of one segment with this text.
    pub(in super::super) fn log_of(text: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(segment_name(1)), text).unwrap();
        dir
    }

    #[test]
    fn backwards_is_the_reverse_of_forwards() {
        let dir = tempfile::tempdir().unwrap();
        let long = "x".repeat(3 * BUFFER_LEN);
        for (number, text) in
            [(1, format!("a\nb\n{long}\nc\n")), (2, String::new()), (3, "d\n\ne\n".to_owned())]
        {
            std::fs::write(dir.path().join(segment_name(number)), text).unwrap();
        }
        let picture = Picture::take(dir.path()).unwrap();
        let forwards: Vec<_> = picture.lines().map(|line| line.unwrap().bytes).collect();
        let mut backwards: Vec<_> =
            picture.lines_backwards().map(|line| line.unwrap().bytes).collect();
        backwards.reverse();
        assert_eq!(forwards.len(), 7);
        assert!(forwards == backwards);
        // What is appended later is not in the picture; a torn line is only seen forwards.
        std::fs::write(dir.path().join(segment_name(3)), "d\n\ne\nf\ntorn").unwrap();
        assert_eq!(picture.lines().count(), 7);
        let picture = Picture::take(dir.path()).unwrap();
        assert_eq!((picture.lines().count(), picture.lines_backwards().count()), (9, 8));
    }

    /// It took as much memory as it was long, and backwards time by the square of that.
    #[test]
    fn a_line_without_end_is_read_in_pieces() {
        let endless = "x".repeat(3 * LONGEST_LINE + 5);
        let dir = log_of(&format!("a\n{endless}\nb\n"));
        let picture = Picture::take(dir.path()).unwrap();
        let lens: Vec<_> = picture.lines().map(|line| line.unwrap().bytes.len()).collect();
        assert_eq!(lens, [2, LONGEST_LINE, LONGEST_LINE, LONGEST_LINE, 6, 2]);
        let backwards: Vec<_> = picture.lines_backwards().map(|line| line.unwrap().bytes).collect();
        assert_eq!(
            (backwards.len(), &backwards[0][..], &backwards[2][..]),
            (3, &b"b\n"[..], &b"a\n"[..])
        );
        assert!(backwards[1].len() <= LONGEST_LINE + BUFFER_LEN);
    }

    #[test]
    fn a_log_that_is_not_there_is_empty() {
        let picture = Picture::take(Path::new("/no such")).unwrap();
        assert!(picture.segments.is_empty() && picture.head.is_none());
        assert!(picture.lines().next().is_none() && picture.lines_backwards().next().is_none());
    }
}
