//! The one place that orders writes to a backing file.
//!
//! The promise kept here is that of process death: entries are written before the data that
//! they describe, in file order within one call where the two are contiguous, so a block reads
//! as it was before or after the write in flight. A page is written whole.

use std::io::{self, IoSlice};

use super::pages::Page;
use crate::format::{CipherOffset, PageIndex};
use crate::store::BackingFile;
use crate::sys::fail_point;

/// Sealed blocks with the pages of their entries, ready to be written.
pub(super) struct SealedRun<'a> {
    /// The page with the entries of the first blocks, if it does not lie at the start of
    /// `region`.
    pub(super) leading: Option<(PageIndex, &'a Page)>,
    /// Where `region` lies.
    pub(super) start: CipherOffset,
    /// Pages of entries and blocks as they lie in the file, contiguous.
    pub(super) region: &'a [u8],
}

/// Writes a run. On an error some of it may have been written, entries always first.
pub(super) fn write_run(backing: &dyn BackingFile, run: &SealedRun<'_>) -> io::Result<()> {
    if let Some((index, page)) = run.leading {
        write_page(backing, index, page)?;
        fail_point::hit("volume.commit.after_entries");
    }
    backing.write_at(&[IoSlice::new(run.region)], run.start.0)
}

/// Writes one page of entries, or page 0.
pub(super) fn write_page(
    backing: &dyn BackingFile,
    index: PageIndex,
    page: &Page,
) -> io::Result<()> {
    backing.write_at(&[IoSlice::new(page)], index.start().0)
}
