//! Taking the DEK from a file that is open, when its key may no longer be used, and giving it
//! back when it may again. What is on disk is settled first, so that nothing is left to be sealed.

use std::sync::Arc;

use super::content::{Content, FileKeys, Sealing};
use super::error::VolumeError;
use super::file::EncryptedFile;
use crate::format::FormatError;
use crate::keys::{Access, Binding, KeyError};

impl EncryptedFile {
    /// Whether the file has a DEK in memory whose key may not be used now.
    pub fn is_to_be_withdrawn(&self) -> bool {
        let content = self.reading();
        let Some(sealing) = content.sealing.as_ref().filter(|it| it.keys.is_some()) else {
            return false;
        };
        let checked = sealing.envelope().map(|it| content.volume.keyring().check(it));
        matches!(checked, Some(Err(KeyError::NotUsable { .. } | KeyError::NotFound { .. })))
    }

    /// Wipes the DEK. Reads and writes are refused from now on, until an opening that is allowed
    /// has [restored](Self::authorise) it.
    pub fn withdraw(&self) {
        let mut content = self.writing();
        content.end_allowance();
        if let Err(error) = content.commit_now().and_then(|()| content.settle(false)) {
            let file = content.file_id();
            log::error!("file {file}: its header could not be brought up to date ({error})");
            content.mark_unsettled();
        }
        if let Some(sealing) = &mut content.sealing {
            sealing.keys = None;
            log::warn!(
                "file {}: its DEK was taken from those who have it open, as its key may not be \
                 used",
                sealing.header.prologue.file_id
            );
        }
    }

    /// Unwraps a DEK that was withdrawn again, on behalf of one who opens the file.
    pub(super) fn restore(&self, access: &Access<'_>) -> Result<(), VolumeError> {
        let (volume, envelope, binding) = {
            let content = self.reading();
            let Some(sealing) = &content.sealing else { return Ok(()) };
            let Some(envelope) = sealing.envelope() else { return Ok(()) };
            (content.volume.clone(), envelope.clone(), content.binding(sealing))
        };
        let dek = volume.keyring().dek(&envelope, binding, access)?;
        let keys = FileKeys::derive(&dek);
        let mut content = self.writing();
        let Some(sealing) = content.sealing.as_mut().filter(|it| it.keys.is_none()) else {
            return Ok(());
        };
        if sealing.on_disk
            && sealing.header.verify(&sealing.pages.first, &keys.state, true).is_err()
        {
            return Err(FormatError::Malformed { what: "state record (after a withdrawal)" }.into());
        }
        sealing.keys = Some(Arc::new(keys));
        // What could not be settled when the DEK was withdrawn.
        if content.unsettled { content.settle(true) } else { Ok(()) }
    }
}

impl Content {
    /// What the wrap of this file's DEK is bound to.
    pub(super) fn binding(&self, sealing: &Sealing) -> Binding {
        Binding { volume: self.volume.id(), file: sealing.header.prologue.file_id }
    }
}
