//! Between the types of `fuser` and those of [`crate::fs`]: attributes, times, callers, flags.
//! What both transports tell the kernel alike stands here too.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{FileAttr, FileHandle, FileType, FopenFlags, INodeNo, Request, TimeOrNow};

use crate::fs::{Attributes, Handle, NodeId, Opened, SeekTarget, TimeChange, Timestamp};
use crate::keys::Caller;

/// Who sent the request.
pub(super) fn caller(request: &Request) -> Caller {
    Caller { uid: request.uid(), gid: request.gid(), pid: request.pid() }
}

/// Which object a request is about.
pub(super) fn node(ino: INodeNo) -> NodeId {
    NodeId(ino.0)
}

/// What `lseek(2)` looks for; `None` for what the kernel does by itself.
pub(super) fn seek_target(whence: i32) -> Option<SeekTarget> {
    match whence {
        libc::SEEK_DATA => Some(SeekTarget::Data),
        libc::SEEK_HOLE => Some(SeekTarget::Hole),
        _ => None,
    }
}

/// Which open file a request is about.
pub(super) fn handle(fh: FileHandle) -> Handle {
    Handle(fh.0)
}

/// How much an answer carries.
pub(super) fn length(len: usize) -> u32 {
    u32::try_from(len).expect("a request or an attribute is far below 4 GiB")
}

/// The attributes as `fuser` sends them.
///
/// `fuser` sends one number as node id and as inode number in every reply that names a new
/// node. So the inode number that programs see is the node id always, but for the root, whose
/// node id is fixed and which is never named in such a reply.
pub(super) fn file_attr(node: NodeId, attributes: &Attributes) -> FileAttr {
    let ino = if node == NodeId::ROOT { attributes.ino } else { node.0 };
    FileAttr {
        ino: INodeNo(ino),
        size: attributes.size,
        blocks: attributes.blocks,
        atime: system_time(attributes.atime),
        mtime: system_time(attributes.mtime),
        ctime: system_time(attributes.ctime),
        crtime: UNIX_EPOCH,
        kind: file_type(attributes.mode),
        perm: permissions(attributes.mode),
        nlink: attributes.nlink,
        uid: attributes.uid,
        gid: attributes.gid,
        rdev: attributes.rdev,
        blksize: BLOCK_SIZE,
        flags: 0,
    }
}

/// An entry that says a name does not exist, for the kernel to remember: node 0.
pub(super) fn negative_attr() -> FileAttr {
    FileAttr {
        ino: INodeNo(0),
        size: 0,
        blocks: 0,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: FileType::RegularFile,
        perm: 0,
        nlink: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 0,
        flags: 0,
    }
}

/// The attributes of `.` and `..` in a listing, of which the kernel takes only the number and
/// the type.
pub(super) fn listing_attr(ino: u64, kind: u32) -> FileAttr {
    FileAttr { ino: INodeNo(ino), kind: file_type(kind), ..negative_attr() }
}

/// The type bits of `st_mode`.
pub(super) fn file_type(mode: u32) -> FileType {
    match mode & libc::S_IFMT {
        libc::S_IFDIR => FileType::Directory,
        libc::S_IFLNK => FileType::Symlink,
        libc::S_IFIFO => FileType::NamedPipe,
        libc::S_IFSOCK => FileType::Socket,
        libc::S_IFCHR => FileType::CharDevice,
        libc::S_IFBLK => FileType::BlockDevice,
        _ => FileType::RegularFile,
    }
}

/// What the kernel may do with a file that was opened.
pub(super) fn file_flags(opened: Opened) -> FopenFlags {
    let mut flags = FopenFlags::empty();
    flags.set(FopenFlags::FOPEN_KEEP_CACHE, opened.keep_cache);
    flags
}

/// What the kernel may do with any directory that was opened. It takes the same where no opening is
/// asked for (FUSE_NO_OPENDIR_SUPPORT).
pub(super) fn directory_flags() -> FopenFlags {
    FopenFlags::FOPEN_CACHE_DIR | FopenFlags::FOPEN_KEEP_CACHE
}

/// The handle of all directories: they go by their nodes.
pub(super) const DIRECTORY: Handle = Handle(0);

pub(super) fn time_change(time: TimeOrNow) -> TimeChange {
    match time {
        TimeOrNow::Now => TimeChange::Now,
        TimeOrNow::SpecificTime(time) => TimeChange::At(timestamp(time)),
    }
}

fn permissions(mode: u32) -> u16 {
    u16::try_from(mode & 0o7777).expect("twelve bits fit in sixteen")
}

/// `fuser` reads the kernel's "-2 s and 0.8 s" as 2.8 s before 1970; both numbers are still
/// there to be taken apart again.
pub(super) fn timestamp(time: SystemTime) -> Timestamp {
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => Timestamp { secs: saturated(after.as_secs()), nanos: after.subsec_nanos() },
        Err(before) => {
            let before = before.duration();
            Timestamp { secs: -saturated(before.as_secs()), nanos: before.subsec_nanos() }
        }
    }
}

fn system_time(time: Timestamp) -> SystemTime {
    let whole = Duration::from_secs(time.secs.unsigned_abs());
    let seconds =
        if time.secs < 0 { UNIX_EPOCH.checked_sub(whole) } else { UNIX_EPOCH.checked_add(whole) };
    seconds
        .and_then(|seconds| seconds.checked_add(Duration::from_nanos(time.nanos.into())))
        .unwrap_or(UNIX_EPOCH)
}

fn saturated(secs: u64) -> i64 {
    i64::try_from(secs).unwrap_or(i64::MAX)
}

/// What `st_blksize` says, as ext4 does. Linux 6.17 and 6.18 take a larger one for the unit of
/// their page cache, which it must not be.
pub(super) const BLOCK_SIZE: u32 = 4096;
/// The most that one `copy_file_range` does before it answers; the caller asks for the rest.
pub(super) const COPY_MAX: u64 = 1 << 30;

#[cfg(test)]
mod tests {
    use super::*;

    fn attributes() -> Attributes {
        let time = Timestamp { secs: 1, nanos: 2 };
        Attributes {
            ino: 77,
            mode: libc::S_IFREG | 0o4755,
            nlink: 1,
            uid: 2,
            gid: 3,
            rdev: 4,
            size: 5,
            blocks: 8,
            atime: time,
            mtime: time,
            ctime: time,
        }
    }

    #[test]
    fn the_inode_number_is_the_node_id_but_for_the_root() {
        assert_eq!(file_attr(NodeId(9), &attributes()).ino, INodeNo(9));
        assert_eq!(file_attr(NodeId::ROOT, &attributes()).ino, INodeNo(77));
    }

    #[test]
    fn mode_is_split_into_type_and_permissions() {
        let attr = file_attr(NodeId(9), &attributes());
        assert_eq!((attr.kind, attr.perm), (FileType::RegularFile, 0o4755));
        for (mode, kind) in [
            (libc::S_IFDIR, FileType::Directory),
            (libc::S_IFLNK, FileType::Symlink),
            (libc::S_IFIFO, FileType::NamedPipe),
            (libc::S_IFSOCK, FileType::Socket),
            (libc::S_IFCHR, FileType::CharDevice),
            (libc::S_IFBLK, FileType::BlockDevice),
        ] {
            assert_eq!(file_type(mode | 0o7777), kind);
        }
    }

    #[test]
    fn times_before_1970_survive_what_fuser_makes_of_them() {
        // The kernel's (-2, 800_000_000) is 1.2 s before 1970; fuser hands over 2.8 s before.
        let mangled = UNIX_EPOCH - Duration::new(2, 800_000_000);
        assert_eq!(timestamp(mangled), Timestamp { secs: -2, nanos: 800_000_000 });
        // Towards the kernel fuser is right, so it gets the true time.
        let true_time = UNIX_EPOCH - Duration::from_millis(1200);
        assert_eq!(system_time(Timestamp { secs: -2, nanos: 800_000_000 }), true_time);
    }

    #[test]
    fn times_after_1970_are_kept_to_the_nanosecond() {
        let time = Timestamp { secs: 4_102_444_800, nanos: 999_999_999 };
        assert_eq!(timestamp(system_time(time)), time);
    }
}
