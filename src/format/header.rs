//! Page 0 without its entries: prologue, two state records, two envelope slots.
//!
//! Reading has two steps, so that nothing is trusted before it is authenticated:
//! [`Header::parse`] gives the claims (prologue and envelopes), enough to ask for the DEK;
//! [`Header::verify`] then checks the state MAC with a key derived from it. The MAC covers the
//! prologue, the record and both slots, and doubles as commitment to the DEK.

use super::entry::ENTRY_LEN;
use super::envelope::{ENVELOPE_SLOT_LEN, Envelope};
use super::error::FormatError;
use super::geometry::{FIRST_ENTRIES, PAGE_LEN};
use super::prologue::{PROLOGUE_LEN, Prologue};
use super::state::{STATE_BODY_LEN, STATE_LEN, StateRecord};
use crate::crypto::{MAC_LEN, MacKey, sha256};

/// The label of the key that seals blocks, derived from the DEK.
pub const DATA_KEY_LABEL: &[u8] = b"ssefs/v1/data";
/// The label of the key of the state MAC, derived from the DEK.
pub const STATE_MAC_LABEL: &[u8] = b"ssefs/v1/state";

/// A page of the backing file.
type Page = [u8; PAGE_LEN as usize];

/// A parsed header. What it holds are claims until [`Self::verify`] has passed.
#[derive(Debug, Clone)]
pub struct Header {
    /// The prologue.
    pub prologue: Prologue,
    /// The envelope slots; `None` where a slot is empty.
    pub envelopes: [Option<Envelope>; 2],
    slots_digest: [u8; MAC_LEN],
}

impl Header {
    /// A header for a new file, with its envelope in slot 0.
    pub fn new(prologue: Prologue, envelope: Envelope) -> Result<Self, FormatError> {
        let mut header =
            Self { prologue, envelopes: [Some(envelope), None], slots_digest: [0; MAC_LEN] };
        let mut page = [0; PAGE_LEN as usize];
        header.encode_into(&mut page)?;
        header.slots_digest = digest_of_slots(&page);
        Ok(header)
    }

    /// The header with `envelope` for the same DEK in the slot that is not `in_force`, which
    /// is emptied, and the slot that is in force now. Both state records must be written with
    /// it, as their MACs cover the slots.
    pub fn rewrapped(&self, in_force: u8, envelope: Envelope) -> Result<(Self, u8), FormatError> {
        let slot = 1 - in_force;
        let mut envelopes = [None, None];
        envelopes[usize::from(slot)] = Some(envelope);
        let mut header = Self { prologue: self.prologue, envelopes, slots_digest: [0; MAC_LEN] };
        let mut page = [0; PAGE_LEN as usize];
        header.encode_into(&mut page)?;
        header.slots_digest = digest_of_slots(&page);
        Ok((header, slot))
    }

    /// Reads the claims of page 0.
    pub fn parse(page: &Page) -> Result<Self, FormatError> {
        let prologue = Prologue::decode(array_at(page, 0))?;
        let slot = |index| Envelope::decode_slot(array_at(page, slot_at(index)));
        let envelopes = [slot(0)?, slot(1)?];
        Ok(Self { prologue, envelopes, slots_digest: digest_of_slots(page) })
    }

    /// What the newest state record claims, for who has no key.
    pub fn claimed_state(&self, page: &Page) -> Option<StateRecord> {
        [0, 1]
            .into_iter()
            .filter_map(|place| StateRecord::decode_body(array_at(page, record_at(place))).ok())
            .max_by_key(|state| state.sequence)
    }

    /// The slots in the order in which to try them: that of the newest record first.
    pub fn slots_by_claim(&self, page: &Page) -> impl Iterator<Item = (u8, &Envelope)> {
        let first = self.claimed_state(page).map_or(0, |state| state.envelope_slot);
        [first, 1 - first]
            .into_iter()
            .filter_map(|slot| Some((slot, self.envelopes[usize::from(slot)].as_ref()?)))
    }

    /// The state record in force.
    ///
    /// Both records must be valid and follow one another, unless `torn_allowed`, which is for
    /// recovering a file whose epoch did not end cleanly: then one valid record is enough.
    pub fn verify(
        &self,
        page: &Page,
        key: &MacKey,
        torn_allowed: bool,
    ) -> Result<StateRecord, FormatError> {
        let [even, odd] = [0, 1].map(|place| self.verify_record(page, key, place));
        let state = match (even, odd) {
            (Ok(even), Ok(odd)) if even.sequence.abs_diff(odd.sequence) == 1 => {
                if even.sequence > odd.sequence { even } else { odd }
            }
            (Ok(one), Err(_)) | (Err(_), Ok(one)) if torn_allowed => one,
            (Err(error), Err(_)) => return Err(error),
            _ => return Err(FormatError::Malformed { what: "state record" }),
        };
        if self.envelopes[usize::from(state.envelope_slot)].is_none() {
            return Err(FormatError::Malformed { what: "envelope slot (empty but in force)" });
        }
        Ok(state)
    }

    /// Writes prologue and envelope slots into page 0; the state records are left alone.
    pub fn encode_into(&self, page: &mut Page) -> Result<(), FormatError> {
        *array_at_mut(page, 0) = self.prologue.encode();
        for (index, envelope) in self.envelopes.iter().enumerate() {
            let slot: &mut [u8; ENVELOPE_SLOT_LEN] = array_at_mut(page, slot_at(index));
            match envelope {
                Some(envelope) => envelope.encode_slot(slot)?,
                None => slot.fill(0),
            }
        }
        Ok(())
    }

    /// Writes `state` into its place in page 0, authenticated.
    pub fn encode_state(&self, state: &StateRecord, key: &MacKey, page: &mut Page) {
        let body = state.encode_body();
        let mac = key.sign(&[&self.prologue.encode(), &body, &self.slots_digest]);
        let at = record_at((state.sequence % 2) as usize);
        *array_at_mut(page, at) = body;
        *array_at_mut(page, at + STATE_BODY_LEN) = mac;
    }

    /// Writes `state` and, in the other place, the same record with the sequence before, as a
    /// new file and a changed envelope slot need both.
    ///
    /// # Panics
    /// When the sequence is 0, which has none before it.
    pub fn encode_both_states(&self, state: &StateRecord, key: &MacKey, page: &mut Page) {
        let before = state.sequence.checked_sub(1).expect("a record in force follows another");
        self.encode_state(&StateRecord { sequence: before, ..*state }, key, page);
        self.encode_state(state, key, page);
    }

    fn verify_record(
        &self,
        page: &Page,
        key: &MacKey,
        place: usize,
    ) -> Result<StateRecord, FormatError> {
        let at = record_at(place);
        let body: &[u8; STATE_BODY_LEN] = array_at(page, at);
        let mac: &[u8; MAC_LEN] = array_at(page, at + STATE_BODY_LEN);
        key.verify(&[array_at::<PROLOGUE_LEN>(page, 0), body, &self.slots_digest], mac).map_err(
            |_| FormatError::Malformed { what: "state record (its MAC does not match)" },
        )?;
        let state = StateRecord::decode_body(body)?;
        if state.sequence % 2 != place as u64 {
            return Err(FormatError::Malformed { what: "state record (moved)" });
        }
        Ok(state)
    }
}

/// Whether a backing file of `size` bytes cannot be one of ours, by its size alone.
pub const fn is_foreign(size: u64) -> bool {
    size > 0 && size < PAGE_LEN
}

/// The entries of page 0.
pub fn first_entries(page: &Page) -> &[u8; FIRST_ENTRIES as usize * ENTRY_LEN] {
    array_at(page, ENTRIES_AT)
}

/// The entries of page 0, to write.
pub fn first_entries_mut(page: &mut Page) -> &mut [u8; FIRST_ENTRIES as usize * ENTRY_LEN] {
    array_at_mut(page, ENTRIES_AT)
}

const fn record_at(place: usize) -> usize {
    PROLOGUE_LEN + place * STATE_LEN
}

const fn slot_at(index: usize) -> usize {
    SLOTS_AT + index * ENVELOPE_SLOT_LEN
}

fn digest_of_slots(page: &Page) -> [u8; MAC_LEN] {
    sha256(array_at::<{ 2 * ENVELOPE_SLOT_LEN }>(page, SLOTS_AT))
}

fn array_at<const N: usize>(page: &Page, at: usize) -> &[u8; N] {
    page[at..].first_chunk().expect("the places of page 0 lie within it")
}

fn array_at_mut<const N: usize>(page: &mut Page, at: usize) -> &mut [u8; N] {
    page[at..].first_chunk_mut().expect("the places of page 0 lie within it")
}

const SLOTS_AT: usize = PROLOGUE_LEN + 2 * STATE_LEN;
const ENTRIES_AT: usize = SLOTS_AT + 2 * ENVELOPE_SLOT_LEN;
const _: () = assert!(SLOTS_AT == 384 && ENTRIES_AT == 3072);
const _: () = assert!(ENTRIES_AT + FIRST_ENTRIES as usize * ENTRY_LEN == PAGE_LEN as usize);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::Secret;
    use crate::format::{
        FileId, KeyId, Mode, StateFlags, Suite, VolumeId, WRAPPED_DEK_LEN, WrapAlgorithm,
    };

    fn header() -> Header {
        let prologue = Prologue {
            suite: Suite::Aes256Gcm,
            file_id: FileId([1; 16]),
            volume_id: VolumeId([2; 16]),
        };
        let envelope = Envelope {
            mode: Mode::Managed,
            provider: "keystore".into(),
            key_id: KeyId("k".into()),
            key_version: 1,
            wrap_algorithm: WrapAlgorithm::Aes256Gcm,
            created: 0,
            context: Default::default(),
            wrapped_dek: vec![5; WRAPPED_DEK_LEN],
        };
        Header::new(prologue, envelope).unwrap()
    }

    fn state(sequence: u64) -> StateRecord {
        StateRecord {
            sequence,
            size: 77,
            durable_size: 0,
            epoch: 1,
            seal_count: 1,
            flags: StateFlags::default(),
            envelope_slot: 0,
            digest: [0; 32],
        }
    }

    fn written(key: &MacKey) -> Page {
        let mut page = [0; PAGE_LEN as usize];
        let header = header();
        header.encode_into(&mut page).unwrap();
        header.encode_both_states(&state(1), key, &mut page);
        page
    }

    #[test]
    fn reads_back_and_moves_on() {
        let key = MacKey::new(&Secret::copy_from(&[3; 32]));
        let mut page = written(&key);
        let parsed = Header::parse(&page).unwrap();
        assert_eq!(parsed.verify(&page, &key, false).unwrap(), state(1));
        parsed.encode_state(&state(2), &key, &mut page);
        assert_eq!(parsed.verify(&page, &key, false).unwrap(), state(2));
    }

    #[test]
    fn a_rewrapped_header_reads_back_and_refuses_the_slot_before() {
        let key = MacKey::new(&Secret::copy_from(&[3; 32]));
        let old = written(&key);
        let first = header().envelopes[0].clone().unwrap();
        let mut page = old;
        let (header, slot) =
            header().rewrapped(0, Envelope { key_version: 2, ..first.clone() }).unwrap();
        header.encode_into(&mut page).unwrap();
        let moved = StateRecord { envelope_slot: slot, ..state(3) };
        header.encode_both_states(&moved, &key, &mut page);
        let parsed = Header::parse(&page).unwrap();
        assert_eq!(parsed.verify(&page, &key, false).unwrap(), moved);
        assert_eq!(parsed.slots_by_claim(&page).count(), 1);
        // The slot as it was, and the record with it, do not fit the other one any more.
        for kept in [slot_at(0)..slot_at(1), record_at(0)..SLOTS_AT, slot_at(1)..ENTRIES_AT] {
            let mut page = page;
            page[kept.clone()].copy_from_slice(&old[kept]);
            let read = Header::parse(&page).and_then(|header| header.verify(&page, &key, true));
            assert!(read.is_err());
        }
        let (again, slot) = parsed.rewrapped(slot, first).unwrap();
        assert_eq!((slot, again.envelopes[1].is_none()), (0, true));
    }

    #[test]
    fn every_flipped_bit_before_the_entries_is_refused() {
        let key = MacKey::new(&Secret::copy_from(&[3; 32]));
        let page = written(&key);
        for bit in 0..ENTRIES_AT * 8 {
            let mut page = page;
            page[bit / 8] ^= 1 << (bit % 8);
            let read = Header::parse(&page).and_then(|header| header.verify(&page, &key, false));
            assert!(read.is_err(), "bit {bit}");
        }
    }

    #[test]
    fn one_torn_record_is_survived_in_recovery_only() {
        let key = MacKey::new(&Secret::copy_from(&[3; 32]));
        let mut page = written(&key);
        page[record_at(1)] ^= 1;
        let parsed = Header::parse(&page).unwrap();
        assert!(parsed.verify(&page, &key, false).is_err());
        assert_eq!(parsed.verify(&page, &key, true).unwrap(), state(0));
        page[record_at(0)] ^= 1;
        assert!(parsed.verify(&page, &key, true).is_err());
    }

    #[test]
    fn another_dek_fails_at_the_mac() {
        let page = written(&MacKey::new(&Secret::copy_from(&[3; 32])));
        let other = MacKey::new(&Secret::copy_from(&[4; 32]));
        assert!(Header::parse(&page).unwrap().verify(&page, &other, true).is_err());
    }
}
