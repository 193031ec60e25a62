//! What the header of a backing file says, read without a key: claims, not proofs.

use super::error::VolumeError;
use super::file::read_first_page;
use crate::format::{
    CipherOffset, Envelope, FORMAT_VERSION, FileId, FormatError, Header, PlainSize, Prologue,
    StateRecord, Suite, VolumeId, plain_size,
};
use crate::store::BackingFile;

/// What is known of a file without its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    /// The format version.
    pub format_version: u16,
    /// The suite of its blocks.
    pub suite: Suite,
    /// The file's id.
    pub file_id: FileId,
    /// The volume that it belongs to.
    pub volume_id: VolumeId,
    /// The envelope in force.
    pub envelope: Envelope,
    /// The plaintext size that the backing file's size tells.
    pub size: u64,
    /// The plaintext size that the state record claims.
    pub recorded_size: u64,
    /// The epoch in which it was last written.
    pub epoch: u64,
    /// An upper bound on the seals under its DEK.
    pub seal_count: u64,
    /// Whether it may have holes.
    pub may_have_holes: bool,
}

impl Description {
    pub(super) fn new(
        prologue: &Prologue,
        envelope: Envelope,
        state: &StateRecord,
        size: PlainSize,
    ) -> Self {
        Self {
            format_version: FORMAT_VERSION,
            suite: prologue.suite,
            file_id: prologue.file_id,
            volume_id: prologue.volume_id,
            envelope,
            size: size.0,
            recorded_size: state.size,
            epoch: state.epoch,
            seal_count: state.seal_count,
            may_have_holes: state.flags.may_have_holes,
        }
    }
}

/// Reads the header of `backing`; `None` for an empty file, which has none.
pub fn describe(backing: &dyn BackingFile) -> Result<Option<Description>, VolumeError> {
    let backing_size = backing.size()?;
    if backing_size == 0 {
        return Ok(None);
    }
    let page = read_first_page(backing, backing_size)?;
    let header = Header::parse(&page)?;
    let (_, envelope) = header
        .slots_by_claim(&page)
        .next()
        .ok_or(FormatError::Malformed { what: "envelope (none)" })?;
    let state =
        header.claimed_state(&page).ok_or(FormatError::Malformed { what: "state record" })?;
    let size = plain_size(CipherOffset(backing_size));
    Ok(Some(Description::new(&header.prologue, envelope.clone(), &state, size)))
}
