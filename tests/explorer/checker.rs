//! What `ssefs check` says of a state. Of one that recovery puts in order it must not say that
//! anything is damaged, and it must tell the size that comes of it; of one that was put in order
//! it has nothing to say.

use std::path::PathBuf;
use std::sync::Arc;

use ssefs::keys::Access;
use ssefs::store::BackingFile;
use ssefs::store::memory::MemoryFile;
use ssefs::volume::{CheckScope, FileReport, Severity, SpareThreads, Watcher};

use super::harness::TestVolume;

/// Asks the checker, which changes nothing.
pub fn ask(volume: &TestVolume, content: &MemoryFile) -> Result<FileReport, String> {
    let backing: Arc<dyn BackingFile> = Arc::new(content.snapshot());
    let spare_threads = SpareThreads::new(0);
    let scope = CheckScope { headers_only: false, spare_threads: &spare_threads, watcher: &Nobody };
    let access = Access::own(&PathBuf::new);
    volume.volume().check_file(backing, &scope, &access).map_err(|error| error.to_string())
}

/// Whether it agrees with what recovery has made of the file, `size` bytes of it; with nothing
/// graver than `worst`.
pub fn agrees(
    report: Result<FileReport, String>,
    size: u64,
    worst: Severity,
) -> Result<(), String> {
    let report = report?;
    if report.findings.worst() > Some(worst) {
        return Err(format!("{:?} of a file that is in order", report.findings.list()));
    }
    if report.size != size {
        return Err(format!("{} bytes where it has {size}", report.size));
    }
    Ok(())
}

struct Nobody;

impl Watcher for Nobody {
    fn advance(&self, _: u64) {}

    fn is_stopped(&self) -> bool {
        false
    }
}
