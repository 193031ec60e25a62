//! Repair of one file: recovery for good, and what the header's MAC proves. It takes nothing
//! away that opens, and leaves alone what may be tampering.

use std::sync::Arc;

use super::{FileReport, Problem, header};
use crate::format::PageIndex;
use crate::keys::Access;
use crate::store::{BackingFile, SyncScope};
use crate::volume::commit;
use crate::volume::error::VolumeError;
use crate::volume::file::read_first_page;
use crate::volume::mounted::Volume;
use crate::volume::rewrap::ClosedFile;

impl Volume {
    /// Repairs what `report` tells of the file as far as it can be. To be checked again after.
    pub fn repair_file(
        self: &Arc<Self>,
        backing: &Arc<dyn BackingFile>,
        report: &FileReport,
        access: &Access<'_>,
    ) -> Result<(), VolumeError> {
        let findings = &report.findings;
        if findings.tell_of(Problem::SpareSlot) {
            let page = read_first_page(&**backing, backing.size()?)?;
            if let Some(page) = header::mended(self, &page, access) {
                commit::write_page(&**backing, PageIndex(0), &page)?;
            }
        }
        if findings.tell_of(Problem::SpareEnvelope)
            && let Some(file) = ClosedFile::read(self.id(), &**backing)?
        {
            file.unlock(self, access)?.install_spare(&**backing)?;
        }
        if findings.tell_of(Problem::Unclean) {
            let file = self.open_file(Arc::clone(backing), true, access)?;
            file.settle()?;
        }
        backing.sync(SyncScope::All)?;
        Ok(())
    }
}

impl FileReport {
    /// Whether [`Volume::repair_file`] can do something for the file.
    pub fn is_repairable(&self) -> bool {
        [Problem::SpareSlot, Problem::SpareEnvelope, Problem::Unclean]
            .into_iter()
            .any(|problem| self.findings.tell_of(problem))
    }
}
