//! The pages of entries that an open file holds: page 0 always, tag pages in a bounded cache.
//! A page here is what the backing file holds, or is about to hold while a write is under way
//! or until the next commit: then it is ahead, and is not dropped.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lru::LruCache;

use super::own_page::{OwnPage, done_with};
use crate::format::{
    BlockIndex, ENTRY_LEN, Entry, FormatError, PAGE_LEN, PageIndex, entry_place, first_entries,
    first_entries_mut,
};

/// A page of the backing file.
pub(super) type Page = [u8; PAGE_LEN as usize];

/// The cache of one open file.
pub(super) struct EntryPages {
    /// Page 0, header and first entries.
    pub(super) first: Arc<Page>,
    /// Tag pages that the backing file does not hold yet.
    ahead: BTreeMap<PageIndex, Arc<Page>>,
    /// Readers share the file, so the tag pages have a lock of their own; innermost.
    tags: Mutex<LruCache<PageIndex, Arc<Page>>>,
    /// How many pages are in `tags`, of all files of the mount.
    total: Arc<AtomicUsize>,
}

impl EntryPages {
    /// With `first` as page 0 and no tag pages; `total` counts those of all files of a mount.
    pub(super) fn new(first: Box<Page>, total: Arc<AtomicUsize>) -> Self {
        // Made with the bound it would take memory for that many.
        let mut tags = LruCache::unbounded();
        tags.resize(TAG_PAGES_PER_FILE);
        Self { first: Arc::from(first), ahead: BTreeMap::new(), tags: Mutex::new(tags), total }
    }

    /// Page 0, to be changed.
    pub(super) fn first_mut(&mut self) -> &mut Page {
        Arc::make_mut(&mut self.first)
    }

    /// A tag page that is at hand.
    pub(super) fn tag_page(&self, index: PageIndex) -> Option<Arc<Page>> {
        if !self.ahead.is_empty()
            && let Some(page) = self.ahead.get(&index)
        {
            return Some(Arc::clone(page));
        }
        self.tags().get(&index).cloned()
    }

    /// Takes a page whose entries are to be in the backing file with the next commit.
    pub(super) fn put_ahead(&mut self, index: PageIndex, page: OwnPage) {
        match index {
            PageIndex(0) => self.put_first(page),
            _ => _ = self.ahead.insert(index, page.share()).map(done_with),
        }
    }

    fn put_first(&mut self, page: OwnPage) {
        done_with(std::mem::replace(&mut self.first, page.share()));
    }

    /// The tag pages that are ahead, in file order. Page 0 goes with each state record.
    pub(super) fn ahead(&self) -> Vec<(PageIndex, Arc<Page>)> {
        self.ahead.iter().map(|(index, page)| (*index, Arc::clone(page))).collect()
    }

    /// Takes over a page that is in the backing file now.
    pub(super) fn put(&mut self, index: PageIndex, page: OwnPage) {
        match index {
            PageIndex(0) => self.put_first(page),
            _ => self.put_shared(index, page.share()),
        }
    }

    /// The same with a tag page.
    pub(super) fn put_shared(&mut self, index: PageIndex, page: Arc<Page>) {
        let ahead = self.ahead.remove(&index);
        self.keep(index, page);
        ahead.into_iter().for_each(done_with);
    }

    /// Forgets tag pages, also those that are ahead: what the backing file holds counts.
    pub(super) fn forget_all_tags(&mut self) {
        self.ahead.clear();
        self.forget_tags();
    }

    /// Keeps a tag page; the one not used for the longest time makes room.
    pub(super) fn keep(&self, index: PageIndex, page: Arc<Page>) {
        let mut tags = self.tags();
        let before = tags.len();
        let is_much = self.total.load(Ordering::Relaxed) >= TAG_PAGES && before >= LEAST_TAG_PAGES;
        let room = if is_much && !tags.contains(&index) { tags.pop_lru() } else { None };
        let dropped = tags.push(index, page);
        if tags.len() > before {
            self.total.fetch_add(1, Ordering::Relaxed);
        }
        room.into_iter().chain(dropped).for_each(|(_, page)| done_with(page));
    }

    /// Forgets the tag pages that can be read again.
    pub(super) fn forget_tags(&self) {
        let mut tags = self.tags();
        self.total.fetch_sub(tags.len(), Ordering::Relaxed);
        tags.clear();
    }

    fn tags(&self) -> MutexGuard<'_, LruCache<PageIndex, Arc<Page>>> {
        self.tags.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for EntryPages {
    fn drop(&mut self) {
        self.forget_tags();
    }
}

/// The entry of `block` in the page that holds it.
pub(super) fn entry_in(page: &Page, block: BlockIndex) -> Result<Entry, FormatError> {
    Entry::decode(&entry_slots(page, block)[entry_place(block).1])
}

/// Sets the entry of `block` in the page that holds it.
pub(super) fn set_entry_in(page: &mut Page, block: BlockIndex, entry: &Entry) {
    let slots = match entry_place(block).0 {
        PageIndex(0) => first_entries_mut(page).as_chunks_mut::<ENTRY_LEN>().0,
        _ => page.as_chunks_mut::<ENTRY_LEN>().0,
    };
    slots[entry_place(block).1] = entry.encode();
}

fn entry_slots(page: &Page, block: BlockIndex) -> &[[u8; ENTRY_LEN]] {
    match entry_place(block).0 {
        PageIndex(0) => first_entries(page).as_chunks::<ENTRY_LEN>().0,
        _ => page.as_chunks::<ENTRY_LEN>().0,
    }
}

/// Bounds the memory of all open files to 64 MiB of tag pages, the entries of 4 GiB, but for
/// those that no file goes without.
pub(super) const TAG_PAGES: usize = 16384;
const LEAST_TAG_PAGES: usize = 4;
/// Bounds that of one to 1 MiB, the entries of 64 MiB.
const TAG_PAGES_PER_FILE: NonZeroUsize = NonZeroUsize::new(256).expect("not zero");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_that_are_ahead_stay_until_they_are_written() {
        let mut pages = EntryPages::new(Box::new([0; PAGE_LEN as usize]), Arc::default());
        let page = |byte| OwnPage::copy_of(&[byte; PAGE_LEN as usize]);
        pages.put_ahead(PageIndex(0), page(1));
        pages.put_ahead(PageIndex(17), page(2));
        pages.forget_tags();
        assert_eq!((pages.first[0], pages.tag_page(PageIndex(17)).unwrap()[0]), (1, 2));
        assert_eq!(pages.ahead().len(), 1);
        pages.put(PageIndex(17), page(3));
        assert!(pages.ahead().is_empty());
        assert_eq!(pages.tag_page(PageIndex(17)).unwrap()[0], 3);
        pages.put_ahead(PageIndex(17), page(4));
        pages.forget_all_tags();
        assert!(pages.tag_page(PageIndex(17)).is_none() && pages.ahead().is_empty());
    }

    #[test]
    fn the_cache_is_bounded() {
        let pages = EntryPages::new(Box::new([0; PAGE_LEN as usize]), Arc::default());
        for index in 0..TAG_PAGES_PER_FILE.get() as u64 + 5 {
            pages.keep(PageIndex(index), Arc::new([0; PAGE_LEN as usize]));
        }
        assert!(pages.tag_page(PageIndex(4)).is_none());
        assert!(pages.tag_page(PageIndex(5)).is_some());
        pages.forget_tags();
        assert!(pages.tag_page(PageIndex(5)).is_none());
    }

    #[test]
    fn the_caches_of_all_files_are_bounded_together() {
        let total = Arc::new(AtomicUsize::new(TAG_PAGES - 6));
        let new = || EntryPages::new(Box::new([0; PAGE_LEN as usize]), Arc::clone(&total));
        let fill = |pages: &EntryPages| {
            (1..100).for_each(|at| pages.keep(PageIndex(at), Arc::new([0; PAGE_LEN as usize])));
            pages.tags().len()
        };
        let (one, two) = (new(), new());
        assert_eq!((fill(&one), fill(&two)), (6, LEAST_TAG_PAGES));
        assert!(one.tag_page(PageIndex(99)).is_some() && one.tag_page(PageIndex(93)).is_none());
        // What is there already makes no room, and is not counted again.
        assert_eq!((fill(&one), total.load(Ordering::Relaxed)), (6, TAG_PAGES + LEAST_TAG_PAGES));
        two.forget_tags();
        drop((one, two));
        assert_eq!(total.load(Ordering::Relaxed), TAG_PAGES - 6);
    }
}
