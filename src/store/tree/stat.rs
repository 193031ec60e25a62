//! Attributes as plain numbers.

use std::ffi::OsStr;
use std::io;
use std::os::fd::BorrowedFd;

use rustix::fs::{AtFlags, FileType, Statx, StatxFlags, StatxTimestamp, fstatfs, makedev, statx};

/// The attributes of one object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    pub dev: u64,
    pub ino: u64,
    /// `S_IFMT` and permission bits.
    pub mode: u32,
    pub nlink: u32,
    pub uid: u32,
    pub gid: u32,
    /// Which device it stands for; 0 for what is none.
    pub rdev: u64,
    /// In bytes.
    pub size: u64,
    /// Units of 512 bytes that are allocated.
    pub blocks: u64,
    pub atime: Timestamp,
    pub mtime: Timestamp,
    pub ctime: Timestamp,
    /// When it was created, where the file system knows.
    pub btime: Option<Timestamp>,
}

impl Stat {
    /// What sort of object it is.
    pub fn kind(&self) -> FileKind {
        FileKind::from(FileType::from_raw_mode(self.mode))
    }

    /// Device and inode: the same for all names of one object, different for two objects.
    pub fn identity(&self) -> (u64, u64) {
        (self.dev, self.ino)
    }
}

/// Seconds since 1970, negative before, plus nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp {
    pub secs: i64,
    pub nanos: u32,
}

/// The sorts of objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    Regular,
    Directory,
    Symlink,
    Fifo,
    Socket,
    CharDevice,
    BlockDevice,
    /// The file system did not say; ask for the attributes.
    Unknown,
}

impl From<FileType> for FileKind {
    fn from(kind: FileType) -> Self {
        match kind {
            FileType::RegularFile => Self::Regular,
            FileType::Directory => Self::Directory,
            FileType::Symlink => Self::Symlink,
            FileType::Fifo => Self::Fifo,
            FileType::Socket => Self::Socket,
            FileType::CharacterDevice => Self::CharDevice,
            FileType::BlockDevice => Self::BlockDevice,
            FileType::Unknown => Self::Unknown,
        }
    }
}

/// Space and inodes of a file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileSystemStat {
    /// Bytes per unit of the counts of blocks.
    pub fragment_bytes: u64,
    /// The transfer size that it prefers, in bytes.
    pub block_bytes: u64,
    pub blocks: u64,
    pub blocks_free: u64,
    /// Free for users without privilege.
    pub blocks_available: u64,
    pub files: u64,
    pub files_free: u64,
    /// The longest name, in bytes.
    pub name_bytes: u64,
}

pub(super) fn at(dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<Stat> {
    Ok(statx(dir, name, AtFlags::SYMLINK_NOFOLLOW, WANTED)?.into())
}

pub(super) fn of(object: BorrowedFd<'_>) -> io::Result<Stat> {
    Ok(statx(object, c"", AtFlags::EMPTY_PATH, WANTED)?.into())
}

pub(super) fn file_system(object: BorrowedFd<'_>) -> io::Result<FileSystemStat> {
    let stat = fstatfs(object)?;
    let bytes = |value| u64::try_from(value).unwrap_or(0);
    let block_bytes = bytes(stat.f_bsize);
    Ok(FileSystemStat {
        fragment_bytes: Some(bytes(stat.f_frsize))
            .filter(|&bytes| bytes > 0)
            .unwrap_or(block_bytes),
        block_bytes,
        blocks: stat.f_blocks,
        blocks_free: stat.f_bfree,
        blocks_available: stat.f_bavail,
        files: stat.f_files,
        files_free: stat.f_ffree,
        name_bytes: bytes(stat.f_namelen),
    })
}

impl From<Statx> for Stat {
    fn from(stat: Statx) -> Self {
        let has_btime = stat.stx_mask & StatxFlags::BTIME.bits() != 0;
        Self {
            dev: makedev(stat.stx_dev_major, stat.stx_dev_minor),
            ino: stat.stx_ino,
            mode: u32::from(stat.stx_mode),
            nlink: stat.stx_nlink,
            uid: stat.stx_uid,
            gid: stat.stx_gid,
            rdev: makedev(stat.stx_rdev_major, stat.stx_rdev_minor),
            size: stat.stx_size,
            blocks: stat.stx_blocks,
            atime: stat.stx_atime.into(),
            mtime: stat.stx_mtime.into(),
            ctime: stat.stx_ctime.into(),
            btime: has_btime.then(|| stat.stx_btime.into()),
        }
    }
}

impl From<StatxTimestamp> for Timestamp {
    fn from(time: StatxTimestamp) -> Self {
        Self { secs: time.tv_sec, nanos: time.tv_nsec }
    }
}

const WANTED: StatxFlags = StatxFlags::BASIC_STATS.union(StatxFlags::BTIME);
