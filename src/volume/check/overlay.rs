//! A backing file whose changes stay in memory: recovery is tried on it, so that a check tells
//! what the next open will do without doing it. The memory that changes take is bounded.

use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::format::PAGE_LEN;
use crate::store::{BackingFile, SyncScope};
use crate::volume::pages::Page;

/// A backing file as it is, and the changes to it.
pub(super) struct Overlay {
    base: Arc<dyn BackingFile>,
    changes: Mutex<Changes>,
}

struct Changes {
    /// Changed pages by number, whole.
    pages: BTreeMap<u64, Box<Page>>,
    size: u64,
    /// From here on the base does not count any more: it was cut.
    base_end: u64,
}

impl Overlay {
    /// Over `base` of this size, unchanged.
    pub(super) fn new(base: Arc<dyn BackingFile>, size: u64) -> Self {
        let changes = Mutex::new(Changes { pages: BTreeMap::new(), size, base_end: size });
        Self { base, changes }
    }

    /// The numbers of the pages that were changed.
    pub(super) fn changed_pages(&self) -> Vec<u64> {
        self.lock().pages.keys().copied().collect()
    }

    fn lock(&self) -> MutexGuard<'_, Changes> {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, offset: u64, len: u64, bytes: impl Fn(u64, &mut [u8])) -> io::Result<()> {
        let mut at = offset;
        while at < offset + len {
            let (page, from) = (at / PAGE_LEN, (at % PAGE_LEN) as usize);
            let count = (PAGE_LEN - from as u64).min(offset + len - at) as usize;
            let mut changed: Box<Page> = Box::new([0; PAGE_LEN as usize]);
            self.read_at(&mut *changed, page * PAGE_LEN)?;
            bytes(at - offset, &mut changed[from..from + count]);
            let mut changes = self.lock();
            if changes.pages.len() >= MOST_PAGES && !changes.pages.contains_key(&page) {
                return Err(io::ErrorKind::OutOfMemory.into());
            }
            changes.pages.insert(page, changed);
            at += count as u64;
        }
        Ok(())
    }
}

impl BackingFile for Overlay {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let (size, base_end) = {
            let changes = self.lock();
            (changes.size, changes.base_end)
        };
        let len = size.saturating_sub(offset).min(buf.len() as u64) as usize;
        let buf = &mut buf[..len];
        let from_base = base_end.saturating_sub(offset).min(len as u64) as usize;
        let read = match from_base {
            0 => 0,
            count => self.base.read_at(&mut buf[..count], offset)?,
        };
        buf[read..].fill(0);
        let changes = self.lock();
        let end = offset + len as u64;
        for (page, bytes) in changes.pages.range(offset / PAGE_LEN..end.div_ceil(PAGE_LEN)) {
            let start = page * PAGE_LEN;
            let (from, to) = (start.max(offset), (start + PAGE_LEN).min(end));
            let source = &bytes[(from - start) as usize..(to - start) as usize];
            buf[(from - offset) as usize..(to - offset) as usize].copy_from_slice(source);
        }
        Ok(len)
    }

    fn write_at(&self, bufs: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        let mut at = offset;
        for buf in bufs {
            let end = at + buf.len() as u64;
            {
                let mut changes = self.lock();
                changes.size = changes.size.max(end);
            }
            self.change(at, buf.len() as u64, |from, target| {
                target.copy_from_slice(&buf[from as usize..from as usize + target.len()]);
            })?;
            at = end;
        }
        Ok(())
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.lock().size)
    }

    fn set_size(&self, size: u64) -> io::Result<()> {
        let mut changes = self.lock();
        if size < changes.size {
            changes.base_end = changes.base_end.min(size);
            let kept = size.div_ceil(PAGE_LEN);
            changes.pages.split_off(&kept);
            if let Some(page) = changes.pages.get_mut(&(size / PAGE_LEN)) {
                page[(size % PAGE_LEN) as usize..].fill(0);
            }
        }
        changes.size = size;
        Ok(())
    }

    fn allocate(&self, offset: u64, len: u64, keep_size: bool) -> io::Result<()> {
        let mut changes = self.lock();
        if !keep_size {
            changes.size = changes.size.max(offset.saturating_add(len));
        }
        Ok(())
    }

    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        let end = offset.saturating_add(len).min(self.size()?);
        let mut at = offset;
        // What holds nothing needs no page of zeros over it.
        while let Some(data) = self.next_data(at)?.filter(|data| *data < end) {
            let stop = ((data / PAGE_LEN + 1) * PAGE_LEN).min(end);
            self.change(data, stop - data, |_, target| target.fill(0))?;
            at = stop;
        }
        Ok(())
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<u64>> {
        let (size, base_end, changed) = {
            let changes = self.lock();
            let changed = changes.pages.range(offset / PAGE_LEN..).next();
            let changed = changed.map(|(page, _)| offset.max(page * PAGE_LEN));
            (changes.size, changes.base_end, changed)
        };
        let in_base = if offset < base_end { self.base.next_data(offset)? } else { None };
        let in_base = in_base.filter(|data| *data < base_end);
        let next = in_base.into_iter().chain(changed).min();
        Ok(next.filter(|data| *data < size))
    }

    fn sync(&self, _scope: SyncScope) -> io::Result<()> {
        Ok(())
    }
}

/// 64 MiB: the entries of 4 GiB, if every page of them is to be changed.
const MOST_PAGES: usize = 1 << 14;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::memory::MemoryFile;

    type Change = dyn Fn(&dyn BackingFile) -> io::Result<()>;

    /// Both files hold the same, whichever way one looks.
    fn assert_same(overlay: &Overlay, model: &MemoryFile) {
        let size = model.size().unwrap();
        assert_eq!(overlay.size().unwrap(), size);
        let (mut left, mut right) = (vec![1; size as usize + 9], vec![2; size as usize + 9]);
        assert_eq!(overlay.read_at(&mut left, 0).unwrap(), size as usize);
        model.read_at(&mut right, 0).unwrap();
        assert!(left[..size as usize] == right[..size as usize]);
        for from in (0..size).step_by(701) {
            let data = overlay.next_data(from).unwrap();
            let zeros = from as usize..data.unwrap_or(size) as usize;
            assert!(right[zeros].iter().all(|byte| *byte == 0), "data is skipped from {from} on");
        }
    }

    #[test]
    fn reads_as_a_file_with_the_changes_would_and_leaves_the_base_alone() {
        let base = MemoryFile::new();
        base.write_at(&[IoSlice::new(&[7; 30_000])], 0).unwrap();
        let model = base.snapshot();
        let before = base.snapshot();
        let base = Arc::new(base);
        let overlay = Overlay::new(Arc::clone(&base) as Arc<dyn BackingFile>, 30_000);
        let changes: [&Change; 9] = [
            &|file| file.write_at(&[IoSlice::new(&[1; 5000]), IoSlice::new(&[2; 3])], 4000),
            &|file| file.punch(10_000, 9000),
            &|file| file.set_size(12_345),
            &|file| file.set_size(40_000),
            &|file| file.write_at(&[IoSlice::new(&[3; 10])], 50_000),
            &|file| file.set_size(50_003),
            &|file| file.set_size(60_000),
            &|file| file.punch(0, 4097),
            &|file| file.allocate(60_000, 10, false),
        ];
        for change in changes {
            change(&overlay).unwrap();
            change(&model).unwrap();
            assert_same(&overlay, &model);
        }
        let unchanged = Overlay::new(base, 30_000);
        assert_same(&unchanged, &before);
        assert!(unchanged.changed_pages().is_empty() && overlay.changed_pages().contains(&0));
    }
}
