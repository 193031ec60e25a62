//! Rewrap: another envelope for the DEK that a file has; its data is not touched.
//!
//! The new envelope goes into the spare slot, the old slot is emptied and both state records
//! name the new one: all of it in page 0, which is written whole, so a crash leaves the file
//! under its old key or its new one. The epoch of the state stays: what recovery has to see to
//! in the blocks, it still finds.
//!
//! Whoever holds a file open has its page 0 in memory, so only they may install an envelope: a
//! mount takes it as a [`RewrapRequest`], which proves that its sender knows the DEK and has
//! seen the envelope that it replaces.

use std::sync::Arc;

use super::commit;
use super::content::{Content, FileKeys};
use super::error::VolumeError;
use super::file::{EncryptedFile, Unlocked, read_first_page, unlock};
use super::mounted::Volume;
use super::own_page::OwnPage;
use super::pages::Page;
use crate::crypto::{MAC_LEN, MacKey, Secret, derive};
use crate::format::{
    ContentSum, Envelope, FileId, FormatError, Header, PageIndex, PlainSize, StateFlags,
    StateRecord, VolumeId, blocks_in,
};
use crate::keys::{Access, Binding, KeyError};
use crate::store::BackingFile;
use crate::sys::fail_point;

/// The header of a file that nobody has open; what it says are claims.
pub struct ClosedFile {
    page: Box<Page>,
    header: Header,
}

/// The header of a file that nobody has open, authenticated, with the DEK.
pub struct UnlockedFile {
    page: Box<Page>,
    header: Header,
    unlocked: Unlocked,
}

/// What asks a mount to install another envelope. No secret is in it, and only who knows the
/// DEK can make it.
pub struct RewrapRequest {
    envelope: Envelope,
    may_lock_out: bool,
    mac: [u8; MAC_LEN],
}

impl ClosedFile {
    /// Reads page 0; `None` for an empty file, which has none.
    pub fn read(volume: VolumeId, backing: &dyn BackingFile) -> Result<Option<Self>, VolumeError> {
        let size = backing.size()?;
        if size == 0 {
            return Ok(None);
        }
        let page = read_first_page(backing, size)?;
        let header = Header::parse(&page)?;
        let (file, found) = (header.prologue.file_id, header.prologue.volume_id);
        if found != volume {
            return Err(VolumeError::OtherVolume { file, found });
        }
        Ok(Some(Self { page, header }))
    }

    /// The file's id, as it claims.
    pub fn file_id(&self) -> FileId {
        self.header.prologue.file_id
    }

    /// The envelope that is claimed to be in force.
    pub fn envelope(&self) -> Result<&Envelope, VolumeError> {
        let mut slots = self.header.slots_by_claim(&self.page);
        let (_, envelope) =
            slots.next().ok_or(FormatError::Malformed { what: "envelope (none)" })?;
        Ok(envelope)
    }

    /// Unwraps the DEK and authenticates the header.
    pub fn unlock(self, volume: &Volume, access: &Access<'_>) -> Result<UnlockedFile, VolumeError> {
        let unlocked = unlock(volume, &self.header, &self.page, access)?;
        Ok(UnlockedFile { page: self.page, header: self.header, unlocked })
    }
}

impl UnlockedFile {
    /// The envelope in force.
    pub fn envelope(&self) -> &Envelope {
        let slot = usize::from(self.unlocked.state.envelope_slot);
        self.header.envelopes[slot].as_ref().expect("a verified state names a slot that is filled")
    }

    /// The DEK, to be wrapped anew.
    pub fn dek(&self) -> &Secret {
        &self.unlocked.dek
    }

    /// What its wraps are bound to.
    pub fn binding(&self) -> Binding {
        binding(&self.header)
    }

    /// Puts `envelope`, which wraps the same DEK, in place of the one in force. `backing` is
    /// the file that the header was read from.
    pub fn install(
        mut self,
        backing: &dyn BackingFile,
        envelope: Envelope,
    ) -> Result<(), VolumeError> {
        let Unlocked { keys, state, .. } = &self.unlocked;
        let sum = match state.flags.digest_kept {
            true => keys.digest.unmask(&state.digest, state.sequence, state.epoch)?,
            false => ContentSum::default(),
        };
        rewrap(&self.header, state, sum, keys, &mut self.page, envelope)?;
        fail_point::hit("volume.rewrap.before_write");
        Ok(commit::write_page(backing, PageIndex(0), &self.page)?)
    }

    /// Puts the envelope that is not in force in its place, where there is one: for a file whose
    /// envelope in force does not open.
    pub(super) fn install_spare(self, backing: &dyn BackingFile) -> Result<(), VolumeError> {
        let spare = 1 - usize::from(self.unlocked.state.envelope_slot);
        match self.header.envelopes[spare].clone() {
            Some(envelope) => self.install(backing, envelope),
            None => Ok(()),
        }
    }

    /// The same as a mount does it, once the request has proved itself.
    pub fn install_requested(
        self,
        volume: &Volume,
        backing: &dyn BackingFile,
        request: RewrapRequest,
        access: &Access<'_>,
    ) -> Result<(), VolumeError> {
        let (binding, dek) = (self.binding(), &self.unlocked.dek);
        request.prove(volume, binding, self.envelope(), dek, access)?;
        self.install(backing, request.envelope)
    }
}

impl RewrapRequest {
    /// The bytes that ask to put `envelope` in place of `current`; both wrap `dek`. With
    /// `may_lock_out` also where the mount itself does not hold the new key.
    pub fn encode(
        dek: &Secret,
        binding: Binding,
        current: &Envelope,
        envelope: &Envelope,
        may_lock_out: bool,
    ) -> Result<Vec<u8>, FormatError> {
        let mut bytes = vec![VERSION, u8::from(may_lock_out) * MAY_LOCK_OUT];
        bytes.extend_from_slice(&envelope.encode()?);
        let mac = mac_key(dek).sign(&[&bound(binding, current)?, &bytes]);
        bytes.extend_from_slice(&mac);
        Ok(bytes)
    }

    /// Reads the bytes; who made them shows later.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        const MALFORMED: FormatError = FormatError::Malformed { what: "request to rewrap" };
        let (rest, mac) = bytes.split_last_chunk::<MAC_LEN>().ok_or(MALFORMED)?;
        let ([version, flags], envelope) = rest.split_first_chunk::<2>().ok_or(MALFORMED)?;
        if *version != VERSION || flags & !MAY_LOCK_OUT != 0 {
            return Err(MALFORMED);
        }
        let envelope = Envelope::decode(envelope)?;
        Ok(Self { envelope, may_lock_out: flags & MAY_LOCK_OUT != 0, mac: *mac })
    }

    /// Checks that the request comes from who knows the DEK and has seen `current`, and that
    /// the new envelope gives the same DEK, where this mount holds its key.
    fn prove(
        &self,
        volume: &Volume,
        binding: Binding,
        current: &Envelope,
        dek: &Secret,
        access: &Access<'_>,
    ) -> Result<(), VolumeError> {
        let file = binding.file;
        let flags = u8::from(self.may_lock_out) * MAY_LOCK_OUT;
        let message = [&bound(binding, current)?[..], &[VERSION, flags], &self.envelope.encode()?];
        mac_key(dek)
            .verify(&message, &self.mac)
            .map_err(|_| VolumeError::NotItsEnvelope { file })?;
        let proved = match volume.keyring().dek(&self.envelope, binding, access) {
            Ok(new) if new.equals(dek) => Ok(()),
            Ok(_) => Err(VolumeError::NotItsEnvelope { file }),
            Err(KeyError::ModeNotAvailable { .. } | KeyError::NotFound { .. }) => {
                match self.may_lock_out {
                    true => Ok(()),
                    false => {
                        let key_id = self.envelope.key_id.clone();
                        Err(VolumeError::KeyNotHeld { file, key_id })
                    }
                }
            }
            Err(error) => Err(error.into()),
        };
        // Neither the old envelope's DEK nor one that is not installed may stay in the cache.
        volume.keyring().forget(file);
        proved
    }
}

impl EncryptedFile {
    /// The envelope in force and what it is bound to; `None` while the file is empty.
    pub fn envelope(&self) -> Option<(Binding, Envelope)> {
        let content = self.reading();
        let sealing = content.sealing.as_ref().filter(|sealing| sealing.on_disk)?;
        Some((binding(&sealing.header), sealing.envelope()?.clone()))
    }

    /// Puts the envelope of a request in place of the one in force, for the same DEK. The mount
    /// must be able to unwrap the one in force itself.
    pub fn rewrap(&self, request: RewrapRequest, access: &Access<'_>) -> Result<(), VolumeError> {
        let volume = Arc::clone(&self.reading().volume);
        // A key server may be asked: not under the file's lock.
        let (binding, current) =
            self.envelope().ok_or(VolumeError::NotItsEnvelope { file: FileId::VOLUME })?;
        let dek = volume.keyring().dek(&current, binding, access)?;
        request.prove(&volume, binding, &current, &dek, access)?;
        let mut content = self.writing();
        let unchanged = content.sealing.as_ref().is_some_and(|sealing| {
            let same_file = sealing.header.prologue.file_id == binding.file;
            sealing.on_disk && same_file && sealing.envelope() == Some(&current)
        });
        if !unchanged {
            return Err(VolumeError::NotItsEnvelope { file: binding.file });
        }
        content.put_envelope(request.envelope)
    }
}

impl Content {
    /// Writes page 0 with another envelope for the DEK that the file has.
    fn put_envelope(&mut self, envelope: Envelope) -> Result<(), VolumeError> {
        if !self.writable {
            return Err(VolumeError::ReadOnly);
        }
        if self.unsettled {
            self.settle(true)?;
        }
        let backing = Arc::clone(&self.backing);
        let size = self.sealing()?.state.size;
        let gaps = self.gaps.begin_before(blocks_in(PlainSize(size)));
        let sealing = self.sealing_mut()?;
        let flags = sealing.state.flags;
        let may_have_holes = flags.may_have_holes || gaps;
        let state = StateRecord { flags: StateFlags { may_have_holes, ..flags }, ..sealing.state };
        let mut page = OwnPage::copy_of(&sealing.pages.first);
        let (keys, sum) = (sealing.keys()?, sealing.sum);
        let (header, state) = rewrap(&sealing.header, &state, sum, keys, &mut page, envelope)?;
        fail_point::hit("volume.rewrap.before_write");
        if let Err(error) = commit::write_page(&*backing, PageIndex(0), &page) {
            // Which envelope is on disk is not known; the next state record puts this one back.
            self.mark_unsettled();
            return Err(error.into());
        }
        sealing.pages.put(PageIndex(0), page);
        (sealing.header, sealing.state, sealing.told) = (header, state, sum);
        Ok(())
    }
}

/// Puts `envelope` into page 0 in place of the one that `state` names.
fn rewrap(
    header: &Header,
    state: &StateRecord,
    sum: ContentSum,
    keys: &FileKeys,
    page: &mut Page,
    envelope: Envelope,
) -> Result<(Header, StateRecord), FormatError> {
    let (header, envelope_slot) = header.rewrapped(state.envelope_slot, envelope)?;
    header.encode_into(page)?;
    // Both records are new.
    let sequence = state.sequence + 2;
    let digest = match state.flags.digest_kept {
        true => keys.digest.mask(sum, sequence, state.epoch),
        false => state.digest,
    };
    let state = StateRecord { sequence, envelope_slot, digest, ..*state };
    header.encode_both_states(&state, &keys.state, page);
    Ok((header, state))
}

fn binding(header: &Header) -> Binding {
    Binding { volume: header.prologue.volume_id, file: header.prologue.file_id }
}

/// The part of a request's MAC that is not sent: where it belongs and what it replaces.
fn bound(binding: Binding, current: &Envelope) -> Result<Vec<u8>, FormatError> {
    let current = current.encode()?;
    let len = (current.len() as u64).to_le_bytes();
    Ok([REQUEST_DOMAIN, &binding.volume.0, &binding.file.0, &len, &current].concat())
}

fn mac_key(dek: &Secret) -> MacKey {
    MacKey::new(&derive(dek, REQUEST_LABEL))
}

const REQUEST_LABEL: &[u8] = b"ssefs/v1/rewrap";
const REQUEST_DOMAIN: &[u8] = b"ssefs rewrap request\0";
const VERSION: u8 = 1;
const MAY_LOCK_OUT: u8 = 1;
