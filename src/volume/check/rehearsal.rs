//! What recovery will make of a file: recovery itself, on an overlay in memory, and what it has
//! changed there.

use std::sync::Arc;

use super::overlay::Overlay;
use super::{FileReport, Problem, Subject};
use crate::crypto::Secret;
use crate::format::{
    BlockIndex, CipherOffset, Entry, FormatError, Header, PAGE_LEN, PageIndex, PlainSize, Sealed,
    blocks_in, cipher_size, entry_place, plain_size,
};
use crate::store::BackingFile;
use crate::volume::content::{Content, FileKeys};
use crate::volume::error::VolumeError;
use crate::volume::file::{EncryptedFile, read_first_page};
use crate::volume::mounted::Volume;
use crate::volume::pages::{Page, entry_in};

/// The file as recovery will leave it, with findings on what it will do; `None` where it will
/// be empty, or where that is too much to be tried.
pub(super) fn recovered(
    volume: &Arc<Volume>,
    subject: Subject,
    dek: Secret,
    report: &mut FileReport,
) -> Result<Option<Subject>, VolumeError> {
    let overlay = Arc::new(Overlay::new(Arc::clone(&subject.backing), subject.backing_size));
    let backing = Arc::clone(&overlay) as Arc<dyn BackingFile>;
    let header = Header::parse(&subject.first)?;
    let content = Content::closed(volume, Arc::clone(&backing), true);
    let (page, state) = (subject.first.clone(), subject.state);
    let (size, keys) = (subject.backing_size, subject.keys);
    match EncryptedFile::open_unlocked(content, size, page, header, keys, state) {
        Ok(_) => {}
        Err(VolumeError::Backing(error)) if error.kind() == std::io::ErrorKind::OutOfMemory => {
            report.findings.add(Problem::TooMuch, "too much of it is to be recovered to try that");
            return Ok(None);
        }
        Err(error) => return Err(error),
    }
    let backing_size = overlay.size()?;
    if subject.state.flags.resizing {
        let target = subject.state.size;
        report.findings.add(Problem::Resizing, format!("a change to {target} bytes is unfinished"));
    }
    if backing_size == 0 {
        return Ok(None);
    }
    let first = read_first_page(&*overlay, backing_size)?;
    let keys = FileKeys::derive(&dek);
    let state = Header::parse(&first)?.verify(&first, &keys.state, false)?;
    let size = PlainSize(state.size);
    let before = plain_size(CipherOffset(subject.backing_size)).0;
    if size.0 < before && !subject.state.flags.resizing {
        let lost = blocks_in(size)..blocks_in(PlainSize(before)).max(blocks_in(size) + 1);
        let detail = format!("from byte {} on nothing was synced", size.0);
        report.findings.add_blocks_with(Problem::TornTail, lost, &detail);
    } else if cipher_size(PlainSize(before)).0 != subject.backing_size {
        report.findings.add(Problem::TornTail, "it ends within a page of entries");
    }
    for page in overlay.changed_pages() {
        tell_switched(&*subject.backing, &*backing, PageIndex(page), size, report)?;
    }
    Ok(Some(Subject { backing, keys, state, first, backing_size }))
}

/// Tells which blocks of a page of entries got another entry.
fn tell_switched(
    before: &dyn BackingFile,
    after: &dyn BackingFile,
    index: PageIndex,
    size: PlainSize,
    report: &mut FileReport,
) -> Result<(), VolumeError> {
    let Some(group) = group_of(index) else { return Ok(()) };
    let [mut old, mut new]: [Page; 2] = [[0; PAGE_LEN as usize]; 2];
    before.read_at(&mut old, index.start().0)?;
    after.read_at(&mut new, index.start().0)?;
    for block in (group.0..group.group_end().0.min(blocks_in(size))).map(BlockIndex) {
        let (was, is) = (entry_in(&old, block), entry_in(&new, block));
        if was == is {
            continue;
        }
        let detail = match is {
            Ok(Entry::Stored(now)) if !holds(was, &now.current) => {
                "its data is in the journal: it will be put in its place"
            }
            Ok(Entry::Hole) => "its data was not written: it will be a hole",
            _ => "its data was not written: the one before counts",
        };
        let blocks = block.0..block.0 + 1;
        report.findings.add_blocks_with(Problem::SpareGeneration, blocks, detail);
    }
    Ok(())
}

/// Whether an entry has this generation.
fn holds(entry: Result<Entry, FormatError>, sealed: &Sealed) -> bool {
    let Ok(Entry::Stored(marked)) = entry else { return false };
    marked.current == *sealed || marked.previous.as_ref() == Some(sealed)
}

/// The first block whose entry lies in the page; `None` for a page of data.
fn group_of(index: PageIndex) -> Option<BlockIndex> {
    let before = plain_size(CipherOffset(index.start().0 + 1));
    let group = match index {
        PageIndex(0) => BlockIndex(0),
        _ => BlockIndex(blocks_in(before)),
    };
    (entry_place(group).0 == index).then_some(group)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_of_entries_are_told_from_those_of_data() {
        let groups: Vec<_> = (0..150).filter_map(|page| group_of(PageIndex(page))).collect();
        assert_eq!(groups, [BlockIndex(0), BlockIndex(16), BlockIndex(80), BlockIndex(144)]);
    }
}
