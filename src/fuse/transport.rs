//! How requests of the kernel reach the file system.

/// What was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Choice {
    /// Rings where the kernel offers them, else the classic way.
    #[default]
    Auto,
    /// By reading and writing `/dev/fuse`.
    Classic,
    /// Rings or nothing.
    Uring,
}

/// What came about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// By reading and writing `/dev/fuse`.
    Classic,
    /// FUSE over io_uring.
    Uring,
}

impl Transport {
    /// Its name, as the option has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Classic => "classic",
            Self::Uring => "uring",
        }
    }
}
