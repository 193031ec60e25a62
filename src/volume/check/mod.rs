//! Checking one file: header, entries, every block, and what ties them together. What it finds
//! is data, not an error; errors are a key that could not be had and a header that could not be
//! read. A file whose epoch did not end cleanly is judged by what recovery makes of it, which is
//! tried in memory; nothing is ever written here but by [`Volume::repair_file`].

mod blocks;
mod finding;
mod header;
mod overlay;
mod rehearsal;
mod repair;
mod salvage;
mod spare_threads;

use std::sync::Arc;

pub use finding::{Finding, Findings, Problem, Severity};
pub use salvage::Salvaged;
pub use spare_threads::SpareThreads;

use super::content::FileKeys;
use super::error::VolumeError;
use super::mounted::Volume;
use super::pages::Page;
use crate::format::{CipherOffset, ContentSum, PAGE_LEN, PlainSize, StateRecord, plain_size};
use crate::keys::Access;
use crate::store::BackingFile;
use header::Opened;

/// How a file is checked.
pub struct CheckScope<'a> {
    /// No data is read: headers and pages of entries only.
    pub headers_only: bool,
    /// Further threads for large files.
    pub spare_threads: &'a SpareThreads,
    /// Who looks on.
    pub watcher: &'a dyn Watcher,
}

/// Who looks on at a check, from many threads at once.
pub trait Watcher: Sync {
    /// So many more bytes of the backing file are dealt with.
    fn advance(&self, bytes: u64);

    /// Asked now and then: whether to break off.
    fn is_stopped(&self) -> bool;
}

/// What a check has come to.
#[derive(Debug, Default)]
pub struct FileReport {
    /// The plaintext size; after what recovery will do, where that is due.
    pub size: u64,
    /// Blocks that opened, or with headers alone whose entries are in order.
    pub blocks: u64,
    /// The epoch in which it was last written, as far as its header could be read.
    pub epoch: Option<u64>,
    /// The number of its state record, which tells whether it was written meanwhile.
    pub sequence: Option<u64>,
    /// What is wrong.
    pub findings: Findings,
    /// Whether it was broken off before all was seen.
    pub interrupted: bool,
}

/// A file whose header is in order, or was put in order in memory.
struct Subject {
    backing: Arc<dyn BackingFile>,
    keys: FileKeys,
    state: StateRecord,
    first: Box<Page>,
    backing_size: u64,
}

impl Volume {
    /// Checks a backing file, without changing it.
    ///
    /// # Errors
    /// A key that is not held or not allowed; a header that cannot be read.
    pub fn check_file(
        self: &Arc<Self>,
        backing: Arc<dyn BackingFile>,
        scope: &CheckScope<'_>,
        access: &Access<'_>,
    ) -> Result<FileReport, VolumeError> {
        let mut report = FileReport::default();
        let opened = header::open(self, &backing, access, &mut report)?;
        let subject = match opened {
            Opened::Empty | Opened::Refused => return Ok(report),
            Opened::InOrder(subject) => subject,
            Opened::ToRecover { subject, .. } if scope.headers_only => subject,
            Opened::ToRecover { subject, dek } => {
                match rehearsal::recovered(self, subject, dek, &mut report)? {
                    Some(subject) => subject,
                    None => return Ok(report),
                }
            }
        };
        scope.watcher.advance(PAGE_LEN);
        // Without its data nobody can tell what recovery will make of it.
        let ahead = report.findings.tell_of(Problem::Unclean) && scope.headers_only;
        report.size = match ahead {
            true => plain_size(CipherOffset(subject.backing_size)).0,
            false => subject.state.size,
        };
        if !ahead {
            subject.check_size(&mut report.findings);
        }
        let found = blocks::verify(&subject, PlainSize(report.size), ahead, scope);
        report.blocks = found.blocks;
        report.interrupted = found.interrupted;
        report.findings.merge(found.findings);
        let whole = !found.interrupted && !ahead;
        if whole && report.findings.worst() < Some(Severity::Unchecked) {
            subject.check_digest(found.sum, &mut report.findings)?;
        }
        report.findings.sort();
        Ok(report)
    }
}

impl Subject {
    /// Whether the entries are those of the last record. To be asked only where each is in order
    /// by itself: else the sum is another one in any case.
    fn check_digest(&self, sum: ContentSum, findings: &mut Findings) -> Result<(), VolumeError> {
        let StateRecord { digest, sequence, epoch, flags, .. } = self.state;
        if flags.digest_kept && self.keys.digest.unmask(&digest, sequence, epoch)? != sum {
            findings.add(Problem::Replayed, "the content digest does not match");
        }
        Ok(())
    }

    /// Whether the file ends where its state says.
    fn check_size(&self, findings: &mut Findings) {
        let expected = self.state.size;
        let found = plain_size(CipherOffset(self.backing_size)).0;
        if self.state.flags.resizing {
            findings.add(Problem::Size, "a change of size is announced in a file that is closed");
        }
        if crate::format::cipher_size(PlainSize(expected)).0 != self.backing_size {
            findings.add(
                Problem::Size,
                format!(
                    "its backing file of {} bytes tells {found} bytes of content where the header \
                     says {expected}",
                    self.backing_size
                ),
            );
        }
    }
}
