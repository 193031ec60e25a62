//! Where blocks and their entries lie in a backing file, and how its size tells the plaintext
//! size. Plain and cipher offsets are types of their own and cannot be mixed. All arithmetic is
//! total for sizes up to [`MAX_PLAIN_SIZE`].
//!
//! Page 0 holds the header and 16 entries; blocks 0 to 15 follow. After them come groups: one
//! tag page of 64 entries, then its 64 blocks.

/// Length of a full block, in bytes of plaintext and of ciphertext alike.
pub const BLOCK_LEN: u64 = 4096;
/// Length of a page, the unit in which the backing file is laid out.
pub const PAGE_LEN: u64 = 4096;
/// Entries in page 0.
pub const FIRST_ENTRIES: u64 = 16;
/// Entries in each tag page.
pub const ENTRIES_PER_TAG_PAGE: u64 = 64;
/// The largest plaintext size, 4 EiB: its ciphertext size still fits a signed 64-bit offset.
pub const MAX_PLAIN_SIZE: PlainSize = PlainSize(1 << 62);

/// Pages in a group.
const GROUP_PAGES: u64 = 1 + ENTRIES_PER_TAG_PAGE;
/// The first group's tag page.
const GROUPS_START: u64 = 1 + FIRST_ENTRIES;

const _: () = assert!(GROUP_PAGES == 65 && GROUPS_START == 17);
const _: () = assert!(cipher_size(MAX_PLAIN_SIZE).0 < i64::MAX as u64);

/// An offset into the plaintext, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PlainOffset(pub u64);

/// A size of plaintext, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PlainSize(pub u64);

/// An offset into, or a size of, a backing file, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct CipherOffset(pub u64);

/// A block's number, from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockIndex(pub u64);

/// A page's number in the backing file; page 0 and the tag pages hold entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PageIndex(pub u64);

impl PlainOffset {
    /// The block that holds this byte.
    pub const fn block(self) -> BlockIndex {
        BlockIndex(self.0 / BLOCK_LEN)
    }

    /// The byte's place in its block.
    pub const fn within_block(self) -> usize {
        (self.0 % BLOCK_LEN) as usize
    }
}

impl BlockIndex {
    /// Where its plaintext starts.
    pub const fn plain_start(self) -> PlainOffset {
        PlainOffset(self.0 * BLOCK_LEN)
    }

    /// Where its ciphertext starts.
    pub const fn cipher_start(self) -> CipherOffset {
        let page = if self.0 < FIRST_ENTRIES {
            1 + self.0
        } else {
            let past = self.0 - FIRST_ENTRIES;
            GROUPS_START
                + 1
                + GROUP_PAGES * (past / ENTRIES_PER_TAG_PAGE)
                + past % ENTRIES_PER_TAG_PAGE
        };
        PageIndex(page).start()
    }

    /// The first block after those whose entries lie in the same page.
    pub const fn group_end(self) -> BlockIndex {
        if self.0 < FIRST_ENTRIES {
            BlockIndex(FIRST_ENTRIES)
        } else {
            let past = self.0 - FIRST_ENTRIES;
            BlockIndex(FIRST_ENTRIES + (past / ENTRIES_PER_TAG_PAGE + 1) * ENTRIES_PER_TAG_PAGE)
        }
    }

    /// The first block whose entry lies in the same page.
    pub const fn group_start(self) -> BlockIndex {
        if self.0 < FIRST_ENTRIES {
            BlockIndex(0)
        } else {
            let past = self.0 - FIRST_ENTRIES;
            BlockIndex(FIRST_ENTRIES + past / ENTRIES_PER_TAG_PAGE * ENTRIES_PER_TAG_PAGE)
        }
    }
}

impl PageIndex {
    /// Where the page starts in the backing file.
    pub const fn start(self) -> CipherOffset {
        CipherOffset(self.0 * PAGE_LEN)
    }
}

/// The page that holds a block's entry, and the entry's place among those of the page.
pub const fn entry_place(block: BlockIndex) -> (PageIndex, usize) {
    if block.0 < FIRST_ENTRIES {
        (PageIndex(0), block.0 as usize)
    } else {
        let past = block.0 - FIRST_ENTRIES;
        let page = GROUPS_START + GROUP_PAGES * (past / ENTRIES_PER_TAG_PAGE);
        (PageIndex(page), (past % ENTRIES_PER_TAG_PAGE) as usize)
    }
}

/// The number of blocks that a plaintext of `size` bytes has.
pub const fn blocks_in(size: PlainSize) -> u64 {
    size.0.div_ceil(BLOCK_LEN)
}

/// The stored length of `block` in a file of `size` bytes; 0 past its end.
pub const fn stored_len(block: BlockIndex, size: PlainSize) -> usize {
    let left = size.0.saturating_sub(block.plain_start().0);
    if left < BLOCK_LEN { left as usize } else { BLOCK_LEN as usize }
}

/// The size of the backing file of `size` bytes of plaintext, header included.
pub const fn cipher_size(size: PlainSize) -> CipherOffset {
    if size.0 == 0 {
        return CipherOffset(PAGE_LEN);
    }
    let last = BlockIndex(blocks_in(size) - 1);
    CipherOffset(last.cipher_start().0 + stored_len(last, size) as u64)
}

/// The plaintext size that a backing file of `size` bytes tells.
///
/// A size that ends inside page 0 or a tag page tells what lies before that page: the write of
/// the block behind it never came to be.
pub const fn plain_size(size: CipherOffset) -> PlainSize {
    if size.0 <= PAGE_LEN {
        return PlainSize(0);
    }
    let last_page = (size.0 - 1) / PAGE_LEN;
    let in_page = size.0 - last_page * PAGE_LEN;
    if last_page < GROUPS_START {
        return PlainSize((last_page - 1) * BLOCK_LEN + in_page);
    }
    let past = last_page - GROUPS_START;
    let full = FIRST_ENTRIES + past / GROUP_PAGES * ENTRIES_PER_TAG_PAGE;
    match past % GROUP_PAGES {
        0 => PlainSize(full * BLOCK_LEN),
        place => PlainSize((full + place - 1) * BLOCK_LEN + in_page),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn worked_sizes_of_the_format_page() {
        for (plain, cipher) in [
            (0, 4096),
            (1, 4097),
            (4096, 8192),
            (4097, 8193),
            (65536, 69632),
            (65537, 73729),
            (327_680, 335_872),
            (327_681, 339_969),
            (1 << 20, 1_069_056),
        ] {
            assert_eq!(cipher_size(PlainSize(plain)), CipherOffset(cipher), "plain {plain}");
            assert_eq!(plain_size(CipherOffset(cipher)), PlainSize(plain), "cipher {cipher}");
        }
    }

    #[test]
    fn every_size_reads_back() {
        let edges = [0, 1, 15, 16, 17, 79, 80, 81, 143, 144, 145, 1 << 20, (1 << 50) - 1];
        for blocks in edges {
            for delta in [0, 1, 2, 4094, 4095] {
                let plain = PlainSize(blocks * BLOCK_LEN + delta);
                assert_eq!(plain_size(cipher_size(plain)), plain);
            }
        }
        assert_eq!(plain_size(cipher_size(MAX_PLAIN_SIZE)), MAX_PLAIN_SIZE);
    }

    #[test]
    fn a_size_that_ends_in_a_tag_page_tells_what_lies_before() {
        for within in [1, 4096] {
            assert_eq!(plain_size(CipherOffset(17 * 4096 + within)), PlainSize(65536));
            let second = CipherOffset((17 + 65) * 4096 + within);
            assert_eq!(plain_size(second), PlainSize((16 + 64) * 4096));
        }
        assert_eq!(plain_size(CipherOffset(100)), PlainSize(0));
    }

    #[test]
    fn blocks_and_entries_tile_the_pages() {
        let mut next_page = 1;
        for index in 0..16 + 64 * 3 {
            let block = BlockIndex(index);
            let (page, place) = entry_place(block);
            if index >= 16 && (index - 16) % 64 == 0 {
                assert_eq!((page, place), (PageIndex(next_page), 0), "block {index}");
                assert_eq!(block.group_start(), block);
                next_page += 1;
            }
            assert_eq!(block.cipher_start().0, next_page * 4096, "block {index}");
            assert!(block < block.group_end() && block.group_start() <= block);
            assert_eq!(entry_place(block.group_start()).0, page);
            next_page += 1;
        }
    }
}
