//! The bytes on disk, version 1: geometry, prologue, state records, envelopes, entries and the
//! volume descriptor. Pure: no I/O, and no knowledge of where keys come from.
//!
//! `FORMAT.md` beside this file is the law; the constants here follow it and are held to it by
//! compile-time assertions and golden vectors.

mod descriptor;
mod digest;
mod entry;
mod envelope;
mod error;
mod geometry;
mod header;
mod ids;
mod journal;
mod prologue;
mod state;

pub use descriptor::{
    Argon2idParameters, DESCRIPTOR_NAME, Descriptor, EPOCHS_NAME, EpochRecord, KeySlot,
    METADATA_DIR, SuppliedVerifier,
};
pub use digest::{ContentSum, DIGEST_KEY_LABEL, DIGEST_LEN, DigestKey};
pub use entry::{ENTRY_LEN, Entry, Generation, Marked, Sealed};
pub use envelope::{ENVELOPE_SLOT_LEN, Envelope, Mode, WRAPPED_DEK_LEN, WrapAlgorithm};
pub use error::FormatError;
pub use geometry::{
    BLOCK_LEN, BlockIndex, CipherOffset, ENTRIES_PER_TAG_PAGE, FIRST_ENTRIES, MAX_PLAIN_SIZE,
    PAGE_LEN, PageIndex, PlainOffset, PlainSize, blocks_in, cipher_size, entry_place, plain_size,
    stored_len,
};
pub use header::{
    DATA_KEY_LABEL, Header, STATE_MAC_LABEL, first_entries, first_entries_mut, is_foreign,
};
pub use ids::{FileId, KeyId, VolumeId};
pub use journal::{
    JOURNAL_HEAD_LEN, JOURNAL_RECORD_LEN, JOURNAL_SLOT_LEN, JournalHead, JournalRecord,
    epoch_of_journal, journal_name, slot_start,
};
pub use prologue::{FORMAT_VERSION, PROLOGUE_LEN, Prologue, Suite};
pub use state::{SEALS_LIMIT, STATE_LEN, StateFlags, StateRecord};
