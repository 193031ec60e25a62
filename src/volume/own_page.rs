//! Memory for pages and blocks that a thread has done with and that its next request takes: in
//! the steady state none is allocated. What is in it was on the backing store, or was to be.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use super::pages::Page;
use super::read::SPAN_BLOCKS;
use crate::format::{BlockIndex, ENTRIES_PER_TAG_PAGE, PAGE_LEN, PageIndex, entry_place};

/// A page that nobody else holds.
pub(super) struct OwnPage(Option<Arc<Page>>);

impl OwnPage {
    pub(super) fn copy_of(page: &Page) -> Self {
        let mut own = Self::take();
        own.copy_from_slice(page);
        own
    }

    pub(super) fn zeroed() -> Self {
        let mut own = Self::take();
        own.fill(0);
        own
    }

    /// With whatever was in it.
    pub(super) fn take() -> Self {
        let kept = SHELF.with_borrow_mut(Vec::pop);
        Self(Some(kept.unwrap_or_else(|| Arc::new([0; PAGE_LEN as usize]))))
    }

    /// From now on others may hold it too.
    pub(super) fn share(mut self) -> Arc<Page> {
        self.0.take().expect("it is there until then")
    }
}

impl Deref for OwnPage {
    type Target = Page;

    fn deref(&self) -> &Page {
        self.0.as_ref().expect("it is there until it is shared")
    }
}

impl DerefMut for OwnPage {
    fn deref_mut(&mut self) -> &mut Page {
        let page = self.0.as_mut().expect("it is there until it is shared");
        Arc::get_mut(page).expect("nobody else holds it")
    }
}

impl Drop for OwnPage {
    fn drop(&mut self) {
        self.0.take().into_iter().for_each(done_with);
    }
}

/// Takes back a page that was shared, unless others hold it still.
pub(super) fn done_with(mut page: Arc<Page>) {
    if Arc::get_mut(&mut page).is_none() {
        return;
    }
    // While a thread ends there is no shelf any more.
    let _ = SHELF.try_with(|shelf| {
        let mut shelf = shelf.borrow_mut();
        if shelf.len() < SHELF_PAGES {
            shelf.push(page);
        }
    });
}

/// The pages with the entries of the blocks of one span, to be changed.
#[derive(Default)]
pub(super) struct SpanPages([Option<(PageIndex, OwnPage)>; SPAN_PAGES]);

impl SpanPages {
    /// Takes one more; they come in file order.
    pub(super) fn push(&mut self, index: PageIndex, page: OwnPage) {
        let free = self.0.iter_mut().find(|place| place.is_none());
        *free.expect("a span has no more") = Some((index, page));
    }

    pub(super) fn get(&self, index: PageIndex) -> Option<&Page> {
        self.iter().find_map(|(at, page)| (at == index).then_some(page))
    }

    /// The page with the entry of `block`, which is one of the span.
    pub(super) fn of_mut(&mut self, block: BlockIndex) -> &mut Page {
        let (index, _) = entry_place(block);
        let mut pages = self.0.iter_mut().flatten();
        pages.find(|(at, _)| *at == index).map(|(_, page)| &mut **page).expect("it was prepared")
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (PageIndex, &Page)> {
        self.0.iter().flatten().map(|(index, page)| (*index, &**page))
    }

    /// Lets go of those that are not `wanted`.
    pub(super) fn retain(&mut self, wanted: impl Fn(PageIndex) -> bool) {
        let is_wanted = |place: &(PageIndex, OwnPage)| wanted(place.0);
        self.0.iter_mut().for_each(|place| _ = place.take_if(|place| !is_wanted(place)));
    }

    pub(super) fn into_pages(self) -> impl Iterator<Item = (PageIndex, OwnPage)> {
        self.0.into_iter().flatten()
    }
}

thread_local! {
    static SHELF: RefCell<Vec<Arc<Page>>> = const { RefCell::new(Vec::new()) };
}

/// 1 MiB for each thread: the blocks of the largest write.
const SHELF_PAGES: usize = 256;
/// A span that begins and ends within a group has entries in the most.
const SPAN_PAGES: usize = SPAN_BLOCKS / ENTRIES_PER_TAG_PAGE as usize + 2;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_done_with_is_taken_again_unless_it_is_held() {
        SHELF.with_borrow_mut(Vec::clear);
        let page = OwnPage::copy_of(&[1; PAGE_LEN as usize]).share();
        let at = Arc::as_ptr(&page);
        let held = Arc::clone(&page);
        done_with(page);
        assert_ne!(std::ptr::from_ref::<Page>(&OwnPage::zeroed()), at);
        assert_eq!(held[0], 1);
        SHELF.with_borrow_mut(Vec::clear);
        done_with(held);
        let again = OwnPage::zeroed();
        assert_eq!((std::ptr::from_ref::<Page>(&again), again[0]), (at, 0));
    }

    #[test]
    fn a_thread_keeps_so_many_and_no_more() {
        let pages: Vec<OwnPage> = (0..=SHELF_PAGES).map(|_| OwnPage::take()).collect();
        drop(pages);
        assert_eq!(SHELF.with_borrow(Vec::len), SHELF_PAGES);
    }
}
