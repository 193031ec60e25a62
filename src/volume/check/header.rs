//! Page 0 of a file under check: told apart by what is wrong with it, and put in order in memory
//! where the MAC proves what it was.

use std::sync::Arc;

use super::{FileReport, Problem, Subject};
use crate::crypto::Secret;
use crate::format::{
    ENVELOPE_SLOT_LEN, Envelope, FileId, FormatError, Header, PROLOGUE_LEN, Prologue, STATE_LEN,
    StateRecord, Suite,
};
use crate::keys::{Access, Binding, KeyError};
use crate::store::BackingFile;
use crate::volume::content::FileKeys;
use crate::volume::error::VolumeError;
use crate::volume::file::{EPOCH_TO_COME, Unlocked, read_first_page, unlock};
use crate::volume::mounted::Volume;
use crate::volume::pages::Page;

/// What the header has come to.
pub(super) enum Opened {
    /// The file is empty, and has none.
    Empty,
    /// It is refused; the report says why.
    Refused,
    /// It authenticates, and the epoch ended cleanly.
    InOrder(Subject),
    /// It authenticates, but recovery comes first.
    ToRecover { subject: Subject, dek: Secret },
}

/// Reads and authenticates the header.
pub(super) fn open(
    volume: &Volume,
    backing: &Arc<dyn BackingFile>,
    access: &Access<'_>,
    report: &mut FileReport,
) -> Result<Opened, VolumeError> {
    let backing_size = backing.size()?;
    if backing_size == 0 {
        return Ok(Opened::Empty);
    }
    let mut page = match read_first_page(&**backing, backing_size) {
        Ok(page) => page,
        Err(VolumeError::Header(error)) => return Ok(refuse(error, report)),
        Err(error) => return Err(error),
    };
    if volume.has_crashed() && page.iter().all(|byte| *byte == 0) {
        let detail = "its first write did not reach the backing store: it will be empty";
        report.findings.add(Problem::Unclean, detail);
        return Ok(Opened::Refused);
    }
    let unlocked = match unlock_page(volume, &page, access) {
        Ok(unlocked) => unlocked,
        Err(refused) => match mend(volume, &page, access) {
            Some((mended, unlocked)) => {
                report.findings.add(
                    Problem::SpareSlot,
                    "the envelope slot that is not in force is damaged; what it held is proved \
                     by the header's MAC",
                );
                page = mended;
                unlocked
            }
            None => return refuse_or_fail(refused, report),
        },
    };
    let state = unlocked.state;
    (report.epoch, report.sequence) = (Some(state.epoch), Some(state.sequence));
    note_spare_envelope(volume, &page, &unlocked, access, report);
    let keys = FileKeys::derive(&unlocked.dek);
    let backing = Arc::clone(backing);
    let subject = Subject { backing, keys, state, first: page, backing_size };
    let header = Header::parse(&subject.first)?;
    if volume.ended_cleanly(state.epoch, header.prologue.file_id) {
        return Ok(Opened::InOrder(subject));
    }
    let whole = header.verify(&subject.first, &subject.keys.state, false).is_ok();
    let records = if whole { "" } else { "; one of its two state records was not written whole" };
    report.findings.add(
        Problem::Unclean,
        format!("last written in epoch {}, which did not end cleanly{records}", state.epoch),
    );
    Ok(Opened::ToRecover { subject, dek: unlocked.dek })
}

/// The keys for whoever wants what can be had: by any envelope that opens, whatever else of
/// page 0 is damaged. With the state where it authenticates.
pub(super) fn open_leniently(
    volume: &Volume,
    page: &Page,
    access: &Access<'_>,
) -> Result<(FileKeys, Option<StateRecord>), VolumeError> {
    let refused = match unlock_page(volume, page, access) {
        Ok(unlocked) => return Ok((unlocked.keys, Some(unlocked.state))),
        Err(refused) => refused,
    };
    let mut page = *page;
    let id = |at: usize| std::array::from_fn(|index| page[at + index]);
    let (file_id, volume_id) = (FileId(id(16)), volume.id());
    let prologue = Prologue { suite: Suite::Aes256Gcm, file_id, volume_id };
    page[..PROLOGUE_LEN].copy_from_slice(&prologue.encode());
    for slot in 0..2 {
        let bytes = page[slot_range(slot)].first_chunk().expect("a slot has its length");
        let Ok(Some(envelope)) = Envelope::decode_slot(bytes) else { continue };
        let binding = Binding { volume: volume_id, file: file_id };
        // The wrap binds file and volume: a DEK that comes out is the file's own.
        let Ok(dek) = volume.keyring().dek(&envelope, binding, access) else { continue };
        let keys = FileKeys::derive(&dek);
        let header = Header::parse(&page).or_else(|_| Header::parse(&without(&page, 1 - slot)));
        let state = header.and_then(|header| header.verify(&page, &keys.state, true));
        return Ok((keys, state.ok()));
    }
    Err(refused)
}

/// Page 0 put in order, where it is only the spare slot that is not.
pub(super) fn mended(volume: &Volume, page: &Page, access: &Access<'_>) -> Option<Box<Page>> {
    unlock_page(volume, page, access).err()?;
    mend(volume, page, access).map(|(mended, _)| mended)
}

fn unlock_page(volume: &Volume, page: &Page, access: &Access<'_>) -> Result<Unlocked, VolumeError> {
    let header = Header::parse(page)?;
    let Prologue { file_id, volume_id, .. } = header.prologue;
    if volume_id != volume.id() {
        return Err(VolumeError::OtherVolume { file: file_id, found: volume_id });
    }
    unlock(volume, &header, page, access)
}

/// The page with one envelope slot emptied, where it then authenticates: that slot was empty
/// when the header was written, as the MAC covers both.
fn mend(volume: &Volume, page: &Page, access: &Access<'_>) -> Option<(Box<Page>, Unlocked)> {
    [0, 1].into_iter().find_map(|slot| {
        if page[slot_range(slot)].iter().all(|byte| *byte == 0) {
            return None;
        }
        let mended = without(page, slot);
        let unlocked = unlock_page(volume, &mended, access).ok()?;
        Some((mended, unlocked))
    })
}

fn without(page: &Page, slot: usize) -> Box<Page> {
    let mut page = Box::new(*page);
    page[slot_range(slot)].fill(0);
    page
}

fn note_spare_envelope(
    volume: &Volume,
    page: &Page,
    unlocked: &Unlocked,
    access: &Access<'_>,
    report: &mut FileReport,
) {
    let Ok(header) = Header::parse(page) else { return };
    let slot = usize::from(unlocked.state.envelope_slot);
    let (Some(envelope), Some(_)) = (&header.envelopes[slot], &header.envelopes[1 - slot]) else {
        return;
    };
    let Prologue { file_id, volume_id, .. } = header.prologue;
    let binding = Binding { volume: volume_id, file: file_id };
    let opened = volume.keyring().dek(envelope, binding, access);
    if let Err(KeyError::UnwrapFailed { key_id, .. }) = opened {
        let detail = format!("the envelope in force does not open under key {key_id}");
        report.findings.add(Problem::SpareEnvelope, detail);
    }
}

fn refuse_or_fail(error: VolumeError, report: &mut FileReport) -> Result<Opened, VolumeError> {
    match error {
        VolumeError::Header(error) => Ok(refuse(error, report)),
        VolumeError::Key(KeyError::UnwrapFailed { .. } | KeyError::Format(_)) => {
            report.findings.add(Problem::Envelope, error.to_string());
            Ok(Opened::Refused)
        }
        VolumeError::OtherVolume { .. } => {
            report.findings.add(Problem::OtherVolume, error.to_string());
            Ok(Opened::Refused)
        }
        error => Err(error),
    }
}

fn refuse(error: FormatError, report: &mut FileReport) -> Opened {
    let problem = match &error {
        FormatError::Foreign => Problem::Foreign,
        FormatError::Malformed { what: EPOCH_TO_COME } => Problem::LaterEpoch,
        FormatError::Malformed { what } if what.starts_with("state record") => Problem::StateRecord,
        _ => Problem::Header,
    };
    report.findings.add(problem, error.to_string());
    Opened::Refused
}

const fn slot_range(slot: usize) -> std::ops::Range<usize> {
    let start = PROLOGUE_LEN + 2 * STATE_LEN + slot * ENVELOPE_SLOT_LEN;
    start..start + ENVELOPE_SLOT_LEN
}

const _: () = assert!(slot_range(1).end == 3072);
