//! What is done to hostile bytes: one target for each reader of bytes that somebody else may have
//! written. A target takes any bytes, and ends; that it neither panics nor takes more memory or
//! time than its bounds is for the runner to watch: the tests of this directory, and `fuzz/`.
//!
//! Where random bytes would only ever meet a checksum or a MAC, a target is told by its bytes
//! what to change in something valid, and may sign the result with the key that it knows.

#[path = "../../format/independent/mod.rs"]
#[allow(dead_code, reason = "each user of the second implementation needs a part of it")]
pub mod independent;

mod audit;
mod backing_file;
mod bytes;
mod format;
mod keystore;
mod kms;
mod scratch;
mod text;

pub use format::{check_entry, check_envelope, check_header};
pub use scratch::put_private;

/// A reader of bytes.
#[derive(Clone, Copy)]
pub struct Target {
    /// Its name, which is also that of its corpus.
    pub name: &'static str,
    /// Does to the bytes what is done to them in earnest.
    pub run: fn(&[u8]),
    /// Bytes that it accepts, or nearly.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// How many bytes of memory it may take at any one time.
    pub memory: u64,
    /// How many runs of a plain reader take as long as one of this target, roughly: less is tried.
    pub effort: u64,
}

/// All of them.
pub const TARGETS: [Target; 21] = [
    target("prologue", format::prologue, format::prologue_seeds, 0),
    target("entry", format::entry, format::entry_seeds, 0),
    // serde takes up to 1 MiB for a list on the word of its length.
    target("envelope", format::envelope, format::envelope_seeds, 5 * MIB / 4),
    target("state_record", format::state_record, format::state_record_seeds, 5 * MIB / 2),
    target("header", format::header, format::header_seeds, 5 * MIB / 2),
    // Texts of 64 key slots, each of them hexadecimal and decoded.
    target("descriptor", format::descriptor, format::descriptor_seeds, 3 * MIB),
    target("epoch_record", format::epoch_record, format::epoch_record_seeds, MIB),
    // The file itself lies in memory, too: a few hundred KiB, and what is written to it.
    target("backing_file", backing_file::run, backing_file::seeds, 8 * MIB).effort(4),
    target("rewrap_request", format::rewrap_request, format::rewrap_request_seeds, 5 * MIB / 4),
    target("root_json", keystore::root_json, keystore::root_json_seeds, 2 * MIB).effort(2),
    target("managed_record", keystore::managed, keystore::managed_seeds, 6 * MIB).effort(4),
    target("volumes_record", keystore::volumes, keystore::volumes_seeds, 6 * MIB).effort(4),
    target("cmk_record", kms::cmk_record, kms::cmk_record_seeds, 6 * MIB).effort(4),
    target("aliases_record", kms::aliases_record, kms::aliases_record_seeds, 6 * MIB).effort(8),
    target("ciphertext_blob", kms::blob, kms::blob_seeds, MIB).effort(8),
    target("policy", kms::policy, kms::policy_seeds, 2 * MIB),
    target("grant", kms::grant, kms::grant_seeds, MIB),
    // The longest line that is read is 1 MiB, and may be held, decoded and told of.
    target("audit_lines", audit::lines, audit::lines_seeds, 8 * MIB).effort(20),
    target("audit_head", audit::head, audit::head_seeds, 8 * MIB).effort(20),
    target("mount_options", text::mount_options, text::mount_options_seeds, MIB),
    target("text", text::others, text::others_seeds, MIB),
];

const fn target(
    name: &'static str,
    run: fn(&[u8]),
    seeds: fn() -> Vec<Vec<u8>>,
    memory: u64,
) -> Target {
    Target { name, run, seeds, memory, effort: 1 }
}

impl Target {
    const fn effort(self, effort: u64) -> Self {
        Self { effort, ..self }
    }
}

const MIB: u64 = 1 << 20;
