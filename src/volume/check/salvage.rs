//! What can still be read of a damaged file. The header need not be in order: an envelope that
//! opens gives the DEK, and each block proves itself.

use std::io;

use super::header;
use crate::format::{
    BLOCK_LEN, BlockIndex, CipherOffset, Entry, Marked, PAGE_LEN, PlainSize, Sealed, blocks_in,
    entry_place, plain_size,
};
use crate::keys::Access;
use crate::store::BackingFile;
use crate::volume::content::{FileKeys, block_aad};
use crate::volume::error::VolumeError;
use crate::volume::file::read_first_page;
use crate::volume::mounted::Volume;
use crate::volume::pages::{Page, entry_in};

/// What was salvaged of a file.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Salvaged {
    /// The plaintext size, as far as it is known.
    pub size: u64,
    /// Bytes that were read.
    pub bytes: u64,
    /// Blocks of which only the generation before was there.
    pub older_blocks: u64,
    /// Blocks that are lost.
    pub lost_blocks: u64,
}

impl Volume {
    /// Hands all that opens of a file to `put`, with its offset; what is not handed out is a
    /// hole or is lost. The backing file is only read.
    ///
    /// # Errors
    /// Where no envelope gives the DEK, and those of `put`.
    pub fn salvage_file(
        &self,
        backing: &dyn BackingFile,
        access: &Access<'_>,
        put: &mut dyn FnMut(u64, &[u8]) -> io::Result<()>,
    ) -> Result<Salvaged, VolumeError> {
        let backing_size = backing.size()?;
        if backing_size == 0 {
            return Ok(Salvaged::default());
        }
        let first = read_first_page(backing, backing_size)?;
        let (keys, state) = header::open_leniently(self, &first, access)?;
        let size = match &state {
            // What was cut off is lost, and the size tells so.
            Some(state) if !state.flags.resizing => {
                PlainSize(state.size.max(plain_size(CipherOffset(backing_size)).0))
            }
            _ => plain_size(CipherOffset(backing_size)),
        };
        let holes = state.is_none_or(|state| state.flags.may_have_holes);
        let mut salvaged = Salvaged { size: size.0, ..Salvaged::default() };
        let mut page = first;
        let mut block = BlockIndex(0);
        while block.0 < blocks_in(size) {
            if block.0 > 0 && block == block.group_start() {
                page.fill(0);
                // What cannot be read is not salvaged; the rest may be.
                let _ = backing.read_at(&mut *page, entry_place(block).0.start().0);
            }
            let found = read_block(backing, &keys, block, &page);
            match found {
                Found::Current(plain, len) | Found::Older(plain, len) => {
                    put(block.plain_start().0, &plain[..len])?;
                    salvaged.bytes += len as u64;
                    salvaged.older_blocks += u64::from(matches!(found, Found::Older(..)));
                }
                Found::Hole if holes => {
                    if let Some(next) = next_group_with_data(backing, block, &page)? {
                        block = next;
                        continue;
                    }
                }
                Found::Hole | Found::Nothing => salvaged.lost_blocks += 1,
            }
            block.0 += 1;
        }
        Ok(salvaged)
    }
}

enum Found {
    Current(Plain, usize),
    Older(Plain, usize),
    Hole,
    Nothing,
}

type Plain = [u8; BLOCK_LEN as usize];

fn read_block(backing: &dyn BackingFile, keys: &FileKeys, block: BlockIndex, page: &Page) -> Found {
    let marked = match entry_in(page, block) {
        Ok(Entry::Stored(marked)) => marked,
        Ok(Entry::Hole) => return Found::Hole,
        Err(_) => return Found::Nothing,
    };
    let (mut cipher, mut plain): (Plain, Plain) =
        ([0; BLOCK_LEN as usize], [0; BLOCK_LEN as usize]);
    let Ok(read) = backing.read_at(&mut cipher, block.cipher_start().0) else {
        return Found::Nothing;
    };
    let mut opens = |sealed: &Sealed| {
        let len = usize::from(sealed.len);
        let aad = block_aad(block);
        len <= read
            && keys
                .data
                .open(&sealed.nonce, &aad, &cipher[..len], &sealed.tag, &mut plain[..len])
                .is_ok()
    };
    let Marked { current, previous, .. } = marked;
    if opens(&current) {
        return Found::Current(plain, usize::from(current.len));
    }
    match previous {
        Some(previous) if opens(&previous) => Found::Older(plain, usize::from(previous.len)),
        _ => Found::Nothing,
    }
}

/// Where the backing file goes on behind a group that is nothing but a hole; `None` where the
/// group is not.
fn next_group_with_data(
    backing: &dyn BackingFile,
    block: BlockIndex,
    page: &Page,
) -> io::Result<Option<BlockIndex>> {
    if block.0 == 0 || block != block.group_start() || page.iter().any(|byte| *byte != 0) {
        return Ok(None);
    }
    let data = backing.next_data(block.group_end().cipher_start().0 - PAGE_LEN)?;
    let Some(data) = data else { return Ok(Some(BlockIndex(u64::MAX))) };
    let before = blocks_in(plain_size(CipherOffset(data / PAGE_LEN * PAGE_LEN)));
    Ok(Some(BlockIndex(before).group_start().max(block.group_end())))
}
