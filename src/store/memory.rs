//! A backing file in memory, sparse, so that sizes of TiB cost nothing. Same behaviour as
//! `disk`, held by the one conformance suite; syncs do nothing.

use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;

use super::{BackingFile, SyncScope};

/// A file that lives as long as this value.
#[derive(Debug, Default)]
pub struct MemoryFile {
    content: Mutex<Content>,
}

impl MemoryFile {
    /// An empty file.
    pub fn new() -> Self {
        Self::default()
    }

    /// A file of its own with the same contents.
    pub fn snapshot(&self) -> Self {
        Self { content: Mutex::new(self.lock().clone()) }
    }

    /// The number of pages that hold data.
    pub fn data_pages(&self) -> usize {
        self.lock().pages.len()
    }

    fn lock(&self) -> MutexGuard<'_, Content> {
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl BackingFile for MemoryFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let content = self.lock();
        let within = content.size.saturating_sub(offset);
        let len = usize::try_from(within).unwrap_or(usize::MAX).min(buf.len());
        for span in spans(offset, len) {
            let target = &mut buf[span.at..span.at + span.len];
            match content.pages.get(&span.page) {
                Some(page) => target.copy_from_slice(&page[span.from..span.from + span.len]),
                None => target.fill(0),
            }
        }
        Ok(len)
    }

    fn write_at(&self, bufs: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        let total: usize = bufs.iter().map(|buf| buf.len()).sum();
        let end = end_of(offset, total as u64)?;
        let mut content = self.lock();
        let mut at = offset;
        for buf in bufs {
            for span in spans(at, buf.len()) {
                let page = content.pages.entry(span.page).or_insert_with(zero_page);
                page[span.from..span.from + span.len]
                    .copy_from_slice(&buf[span.at..span.at + span.len]);
            }
            at += buf.len() as u64;
        }
        if total > 0 {
            content.size = content.size.max(end);
        }
        Ok(())
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.lock().size)
    }

    fn set_size(&self, size: u64) -> io::Result<()> {
        end_of(size, 0)?;
        let mut content = self.lock();
        if size < content.size {
            let len = content.size - size;
            content.clear(size, len);
        }
        content.size = size;
        Ok(())
    }

    fn allocate(&self, offset: u64, len: u64, keep_size: bool) -> io::Result<()> {
        let end = range_end(offset, len)?;
        let mut content = self.lock();
        if !keep_size {
            content.size = content.size.max(end);
        }
        Ok(())
    }

    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        range_end(offset, len)?;
        self.lock().clear(offset, len);
        Ok(())
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<u64>> {
        let content = self.lock();
        let next = content.pages.range(offset / PAGE..).next();
        Ok(next.map(|(page, _)| offset.max(page * PAGE)).filter(|&data| data < content.size))
    }

    fn sync(&self, _scope: SyncScope) -> io::Result<()> {
        Ok(())
    }
}

/// Pages by number; a missing one reads as zeros. Nothing lies past `size`.
#[derive(Debug, Default, Clone)]
struct Content {
    pages: BTreeMap<u64, Box<Page>>,
    size: u64,
}

impl Content {
    /// Zeros the range: whole pages vanish.
    fn clear(&mut self, offset: u64, len: u64) {
        let end = offset.saturating_add(len).min(self.size);
        if offset >= end {
            return;
        }
        // The page that holds the end of the file goes too: past the end there are only zeros.
        let last = if end == self.size { end.div_ceil(PAGE) } else { end / PAGE };
        let whole = offset.div_ceil(PAGE)..last;
        for edge in [offset / PAGE, end / PAGE] {
            if whole.contains(&edge) {
                continue;
            }
            if let Some(page) = self.pages.get_mut(&edge) {
                let from = offset.saturating_sub(edge * PAGE);
                let to = (end - edge * PAGE).min(PAGE);
                page[from as usize..to as usize].fill(0);
            }
        }
        if whole.is_empty() {
            return;
        }
        let mut after = self.pages.split_off(&whole.start);
        self.pages.append(&mut after.split_off(&whole.end));
    }
}

/// The part of a transfer that falls into one page.
struct Span {
    /// The page's number.
    page: u64,
    /// Offset within the page.
    from: usize,
    /// Offset within the transfer.
    at: usize,
    len: usize,
}

fn spans(offset: u64, len: usize) -> impl Iterator<Item = Span> {
    let mut at = 0;
    std::iter::from_fn(move || {
        if at == len {
            return None;
        }
        let position = offset + at as u64;
        let from = (position % PAGE) as usize;
        let span =
            Span { page: position / PAGE, from, at, len: (PAGE as usize - from).min(len - at) };
        at += span.len;
        Some(span)
    })
}

fn zero_page() -> Box<Page> {
    Box::new([0; PAGE as usize])
}

fn end_of(offset: u64, len: u64) -> io::Result<u64> {
    offset.checked_add(len).filter(|&end| end <= MAX_SIZE).ok_or_else(|| Errno::FBIG.into())
}

/// As `fallocate` does, refuses an empty range.
fn range_end(offset: u64, len: u64) -> io::Result<u64> {
    if len == 0 {
        return Err(Errno::INVAL.into());
    }
    end_of(offset, len)
}

type Page = [u8; PAGE as usize];

const PAGE: u64 = 4096;
const MAX_SIZE: u64 = i64::MAX as u64;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::conformance_tests;

    #[test]
    fn conforms() {
        conformance_tests::check(MemoryFile::new);
    }

    #[test]
    fn holes_cost_nothing_and_are_found_exactly() {
        let file = MemoryFile::new();
        file.write_at(&[IoSlice::new(&[1; 3 * 4096])], 4 << 40).unwrap();
        assert_eq!(file.data_pages(), 3);
        assert_eq!(file.next_data(5).unwrap(), Some(4 << 40));
        assert_eq!(file.next_data((4 << 40) + 5).unwrap(), Some((4 << 40) + 5));
        file.punch((4 << 40) + 1, 2 * 4096).unwrap();
        assert_eq!(file.data_pages(), 2);
        assert_eq!(file.next_data((4 << 40) + 4096).unwrap(), Some((4 << 40) + 8192));
        file.set_size((4 << 40) + 8192).unwrap();
        assert_eq!(file.data_pages(), 1);
        assert_eq!(file.next_data((4 << 40) + 4096).unwrap(), None);
    }

    #[test]
    fn a_snapshot_stands_still() {
        let file = MemoryFile::new();
        file.write_at(&[IoSlice::new(b"before")], 0).unwrap();
        let snapshot = file.snapshot();
        file.write_at(&[IoSlice::new(b"after ")], 0).unwrap();
        let mut read = [0; 6];
        snapshot.read_at(&mut read, 0).unwrap();
        assert_eq!(&read, b"before");
    }
}
