//! Why bytes on disk were refused.

/// A refusal. Each says what was found where; whoever knows the file adds its name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// The first bytes are not the magic: something else put the file there.
    #[error("not an ssefs file (no magic at its start)")]
    Foreign,
    /// Shorter than page 0, which every file with content has.
    #[error("truncated header: {found} bytes where page 0 takes 4096")]
    TruncatedHeader {
        /// The size found.
        found: u64,
    },
    /// A version that this program does not know.
    #[error("format version {found}; this program reads version 1, use a newer ssefs")]
    UnknownVersion {
        /// The version found.
        found: u16,
    },
    /// A suite that this program does not know.
    #[error("cipher suite {found}; this program knows suite 1, use a newer ssefs")]
    UnknownSuite {
        /// The suite found.
        found: u16,
    },
    /// State flags that this program does not know.
    #[error("unknown state flags {found:#010x}; use a newer ssefs")]
    UnknownFlags {
        /// All the flags found.
        found: u32,
    },
    /// Bytes that must be zero are not, or a field is out of its range.
    #[error("malformed {what}")]
    Malformed {
        /// The part that is malformed.
        what: &'static str,
    },
    /// An envelope does not fit its slot.
    #[error("envelope of {found} bytes, a slot holds {limit}; shorten the encryption context")]
    EnvelopeTooLong {
        /// Its encoded length in bytes.
        found: usize,
        /// The most that fits.
        limit: usize,
    },
    /// The volume descriptor is not what it should be.
    #[error("volume descriptor: {0}")]
    Descriptor(String),
}
