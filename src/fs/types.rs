//! The plain types that a transport and the file system exchange. None knows of a wire format.

use std::ffi::OsStr;
use std::time::Duration;

/// A file system object as the kernel knows it, from its first lookup until it is forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub u64);

impl NodeId {
    /// The root directory (FUSE_ROOT_ID).
    pub const ROOT: Self = Self(1);
}

/// An open file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Handle(pub u64);

/// A point in time: seconds since 1970-01-01 UTC, before it negative, and nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Timestamp {
    /// Seconds.
    pub secs: i64,
    /// Nanoseconds, 0 to 999,999,999.
    pub nanos: u32,
}

/// What a timestamp is set to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimeChange {
    /// The present time.
    Now,
    /// A given time.
    At(Timestamp),
}

/// The attributes of an object, as `stat` shows them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attributes {
    /// Inode number, that of the backing file.
    pub ino: u64,
    /// Type and permissions, as `st_mode`.
    pub mode: u32,
    /// Hard links.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number of a device node, in the kernel's 32-bit FUSE encoding.
    pub rdev: u32,
    /// Plaintext size in bytes; for a symlink the length of its target.
    pub size: u64,
    /// Space taken on the backing store, in units of 512 bytes.
    pub blocks: u64,
    /// Last access.
    pub atime: Timestamp,
    /// Last change of the content.
    pub mtime: Timestamp,
    /// Last change of the attributes.
    pub ctime: Timestamp,
}

/// What a lookup or creation gives: the node, counted once more by the kernel, and attributes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// The node.
    pub node: NodeId,
    /// Which generation of the node: with another one the kernel forgets what it was told.
    pub generation: u64,
    /// Its attributes.
    pub attributes: Attributes,
}

/// Changes to attributes; `None` leaves one as it is.
#[derive(Debug, Clone, Copy, Default)]
pub struct AttributeChange {
    /// Permissions, as `st_mode` without the type.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Plaintext size in bytes.
    pub size: Option<u64>,
    /// Last access.
    pub atime: Option<TimeChange>,
    /// Last change of the content.
    pub mtime: Option<TimeChange>,
    /// Last change of the attributes as the kernel has it. It is never set: whatever changes an
    /// object underneath sets it.
    pub ctime: Option<Timestamp>,
}

/// What an open gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opened {
    /// The handle.
    pub handle: Handle,
    /// Pages that the kernel has cached stay valid.
    pub keep_cache: bool,
}

/// One name in a directory.
#[derive(Debug, Clone, Copy)]
pub struct DirectoryEntry<'a> {
    /// Inode number.
    pub ino: u64,
    /// The type bits of `st_mode`.
    pub kind: u32,
    /// The name.
    pub name: &'a OsStr,
    /// Where a later read goes on after this name.
    pub next: i64,
    /// For a read with attributes: the node, counted by the kernel if the name was taken.
    /// `None` for `.` and `..`, and when only names were asked for.
    pub entry: Option<Entry>,
}

/// Takes the names of a directory into a transport's reply.
pub trait DirectorySink {
    /// Takes one name; false if it does not fit any more and was not taken.
    fn add(&mut self, entry: &DirectoryEntry<'_>) -> bool;
}

/// Space and inodes, as `statvfs` shows them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FsStatistics {
    /// Blocks in all, of `fragment_size` bytes.
    pub blocks: u64,
    /// Free blocks.
    pub blocks_free: u64,
    /// Free blocks for ordinary users.
    pub blocks_available: u64,
    /// Inodes in all.
    pub files: u64,
    /// Free inodes.
    pub files_free: u64,
    /// Preferred size of I/O in bytes.
    pub block_size: u32,
    /// Unit of the block counts in bytes.
    pub fragment_size: u32,
    /// Longest name in bytes.
    pub name_max: u32,
}

/// `SEEK_DATA` or `SEEK_HOLE`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SeekTarget {
    /// The next byte that may be data.
    Data,
    /// The next byte in a hole; the end of the file counts as one.
    Hole,
}

/// How the file system behaves; set once at mount.
#[derive(Debug, Clone)]
pub struct FsOptions {
    /// Refuse all changes.
    pub read_only: bool,
    /// The kernel gathers writes: it owns sizes and times of open files, and reads through
    /// handles that were opened for writing only.
    pub writeback: bool,
    /// The kernel checks permissions (`default_permissions`). Without it only the user who
    /// mounted comes in.
    pub checked_by_kernel: bool,
    /// POSIX ACLs are honoured; without it they are refused.
    pub acl: bool,
    /// How long the kernel may trust names and attributes.
    pub ttl: Duration,
    /// How much the kernel reads ahead, in KiB. Where the daemon may not set it the kernel takes
    /// no more than its own default.
    pub read_ahead_kib: u32,
    /// So many files that nobody uses any more stay open for a moment, with their DEKs.
    pub idle_files: usize,
    /// After this time since it was opened an idle file is not used again.
    pub idle_age: Duration,
}

impl Default for FsOptions {
    /// The kernel checks everything, keeps nothing back and remembers nothing; what is closed is
    /// closed.
    fn default() -> Self {
        Self {
            read_only: false,
            writeback: false,
            checked_by_kernel: true,
            acl: false,
            ttl: Duration::ZERO,
            read_ahead_kib: READ_AHEAD_KIB,
            idle_files: 0,
            idle_age: Duration::ZERO,
        }
    }
}

/// Six requests. Fewer leave a CPU idle now and then; with more, who looks into mapped memory
/// waits longer for what the kernel reads around that.
pub const READ_AHEAD_KIB: u32 = 768;
