//! What is done to a file, and what the model says of it.

use std::path::PathBuf;

use ssefs::keys::Access;
use ssefs::volume::{EncryptedFile, RewrapRequest, Volume, VolumeError};

use super::harness::pattern;

/// One change. Where it strikes follows from the size that the file has: near its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Bytes within the last block, behind the end.
    AppendPart,
    /// Two blocks' worth behind the end.
    AppendBlocks,
    /// Behind a gap of two blocks.
    AppendFar,
    /// A few bytes within a block.
    OverwriteInside,
    /// A few bytes within the last block.
    OverwriteTail,
    /// A block whole.
    OverwriteBlock,
    /// The end of a block, the next, and the start of the one after.
    OverwriteAcross,
    /// To within a block.
    CutInside,
    /// To the edge of a block.
    CutAligned,
    CutToNothing,
    /// By zeros within the last block.
    GrowInside,
    /// By zeros over several blocks.
    GrowFar,
    /// Space reserved over several blocks, the size with it.
    Allocate,
    PunchBlock,
    /// A block whole, and parts of its neighbours.
    PunchAcross,
    Rewrap,
}

/// All of them, with the names that they are printed by.
pub const OPERATIONS: [(Operation, &str); 16] = [
    (Operation::AppendPart, "append-part"),
    (Operation::AppendBlocks, "append-blocks"),
    (Operation::AppendFar, "append-far"),
    (Operation::OverwriteInside, "overwrite-inside"),
    (Operation::OverwriteTail, "overwrite-tail"),
    (Operation::OverwriteBlock, "overwrite-block"),
    (Operation::OverwriteAcross, "overwrite-across"),
    (Operation::CutInside, "cut-inside"),
    (Operation::CutAligned, "cut-aligned"),
    (Operation::CutToNothing, "cut-to-nothing"),
    (Operation::GrowInside, "grow-inside"),
    (Operation::GrowFar, "grow-far"),
    (Operation::Allocate, "allocate"),
    (Operation::PunchBlock, "punch-block"),
    (Operation::PunchAcross, "punch-across"),
    (Operation::Rewrap, "rewrap"),
];

/// A change with its places.
enum Edit {
    Write { at: u64, len: usize },
    SetSize(u64),
    Allocate { at: u64, len: u64 },
    Punch { at: u64, len: u64 },
    Rewrap,
}

impl Operation {
    /// Whether it may be there in parts, block by block.
    pub fn is_write(self) -> bool {
        matches!(self.edit(0), Edit::Write { .. })
    }

    /// Does it to a file of `size` bytes; `seed` makes its bytes.
    pub fn apply(
        self,
        volume: &Volume,
        file: &EncryptedFile,
        size: u64,
        seed: u64,
    ) -> Result<(), VolumeError> {
        match self.edit(size) {
            Edit::Write { at, len } => file.write(at, &pattern(seed, len)),
            Edit::SetSize(size) => file.set_size(size),
            Edit::Allocate { at, len } => file.allocate(at, len, false),
            Edit::Punch { at, len } => file.punch_hole(at, len),
            Edit::Rewrap => rewrap(volume, file),
        }
    }

    /// Does it to the model.
    pub fn apply_to(self, content: &mut Vec<u8>, seed: u64) {
        match self.edit(content.len() as u64) {
            Edit::Write { at, len } => {
                let at = at as usize;
                content.resize(content.len().max(at + len), 0);
                content[at..at + len].copy_from_slice(&pattern(seed, len));
            }
            Edit::SetSize(size) => content.resize(size as usize, 0),
            Edit::Allocate { at, len } => {
                content.resize(content.len().max((at + len) as usize), 0);
            }
            Edit::Punch { at, len } => {
                let end = content.len().min((at + len) as usize);
                let at = end.min(at as usize);
                content[at..end].fill(0);
            }
            Edit::Rewrap => {}
        }
    }

    fn edit(self, size: u64) -> Edit {
        // The third block before the end: in files of some length the entries of what follows
        // it may lie in another page.
        let base = size.div_ceil(BLOCK).saturating_sub(3) * BLOCK;
        match self {
            Self::AppendPart => Edit::Write { at: size, len: 700 },
            Self::AppendBlocks => Edit::Write { at: size, len: 8192 },
            Self::AppendFar => Edit::Write { at: size + 2 * BLOCK + 100, len: 3000 },
            Self::OverwriteInside => Edit::Write { at: base + 20, len: 60 },
            Self::OverwriteTail => Edit::Write { at: size.saturating_sub(60), len: 50 },
            Self::OverwriteBlock => Edit::Write { at: base, len: 4096 },
            Self::OverwriteAcross => Edit::Write { at: base + 4000, len: 4300 },
            Self::CutInside => Edit::SetSize(size - size.div_ceil(5)),
            Self::CutAligned => Edit::SetSize(size.saturating_sub(1) / BLOCK * BLOCK),
            Self::CutToNothing => Edit::SetSize(0),
            Self::GrowInside => Edit::SetSize(size + 200),
            Self::GrowFar => Edit::SetSize(size + 2 * BLOCK + 77),
            Self::Allocate => Edit::Allocate { at: size / 2, len: size / 2 + 2 * BLOCK },
            Self::PunchBlock => Edit::Punch { at: base, len: BLOCK },
            Self::PunchAcross => Edit::Punch { at: base + 2000, len: BLOCK + 5000 },
            Self::Rewrap => Edit::Rewrap,
        }
    }
}

/// Another envelope for the DEK of an open file, as a mount is asked for it; an empty file has
/// none to be replaced.
fn rewrap(volume: &Volume, file: &EncryptedFile) -> Result<(), VolumeError> {
    let Some((binding, current)) = file.envelope() else { return Ok(()) };
    let access = Access::own(&PathBuf::new);
    let keyring = volume.keyring();
    let dek = keyring.dek(&current, binding, &access)?;
    let new = keyring.wrap_again(&dek, &current, binding, &access)?;
    let request = RewrapRequest::encode(&dek, binding, &current, &new, false)?;
    file.rewrap(RewrapRequest::decode(&request)?, &access)
}

const BLOCK: u64 = 4096;
