//! Requests of the kernel, taken apart. They come through a ring, where the structure of the
//! opcode stands apart from what follows it, or through `/dev/fuse`, where both are one.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use super::abi::{
    AccessIn, CopyFileRangeIn, CreateIn, FallocateIn, FsyncIn, GETATTR_HANDLE, GetattrIn,
    GetxattrIn, InHeader, LinkIn, LseekIn, MkdirIn, MknodIn, OpenIn, ReadIn, ReleaseIn, Rename2In,
    RenameIn, SetattrIn, SetxattrIn, Wire, WriteIn, opcode,
};
use crate::fs::{Handle, NodeId};
use crate::keys::Caller;

/// What is asked, with names and data as they stand in the request.
#[derive(Debug)]
pub(super) enum Operation<'a> {
    Lookup { name: &'a OsStr },
    Getattr { handle: Option<Handle> },
    Access { mask: u32 },
    Setattr(SetattrIn),
    Readlink,
    Symlink { name: &'a OsStr, target: &'a OsStr },
    Mknod { made: MknodIn, name: &'a OsStr },
    Mkdir { made: MkdirIn, name: &'a OsStr },
    Unlink { name: &'a OsStr },
    Rmdir { name: &'a OsStr },
    Rename { name: &'a OsStr, parent: NodeId, new_name: &'a OsStr, flags: u32 },
    Link { node: NodeId, name: &'a OsStr },
    Open(OpenIn),
    Create { made: CreateIn, name: &'a OsStr },
    Read(ReadIn),
    Write { place: WriteIn, data: &'a [u8] },
    Statfs,
    Release { handle: Handle },
    Flush,
    Fsync(FsyncIn),
    Opendir,
    Readdir { place: ReadIn, with_attributes: bool },
    Releasedir,
    Fsyncdir(FsyncIn),
    Setxattr { name: &'a OsStr, value: &'a [u8], flags: u32 },
    Getxattr { name: &'a OsStr, size: u32 },
    Listxattr { size: u32 },
    Removexattr { name: &'a OsStr },
    Fallocate(FallocateIn),
    Lseek(LseekIn),
    CopyFileRange(CopyFileRangeIn),
    Ioctl,
    Unknown,
}

impl<'a> Operation<'a> {
    /// Reads the structure of the opcode from `structure`, and names and data from `rest`. `None`
    /// for a request that is cut short.
    pub(super) fn parse(opcode: u32, structure: &[u8], rest: &'a [u8]) -> Option<Self> {
        let names = &mut Names(rest);
        Some(match opcode {
            opcode::LOOKUP => Self::Lookup { name: names.next()? },
            opcode::GETATTR => {
                let asked = GetattrIn::read(structure)?;
                let by_handle = asked.flags & GETATTR_HANDLE != 0;
                Self::Getattr { handle: by_handle.then_some(Handle(asked.handle)) }
            }
            opcode::ACCESS => Self::Access { mask: AccessIn::read(structure)?.mask },
            opcode::SETATTR => Self::Setattr(SetattrIn::read(structure)?),
            opcode::READLINK => Self::Readlink,
            opcode::SYMLINK => Self::Symlink { name: names.next()?, target: names.next()? },
            opcode::MKNOD => Self::Mknod { made: Wire::read(structure)?, name: names.next()? },
            opcode::MKDIR => Self::Mkdir { made: Wire::read(structure)?, name: names.next()? },
            opcode::UNLINK => Self::Unlink { name: names.next()? },
            opcode::RMDIR => Self::Rmdir { name: names.next()? },
            opcode::RENAME => {
                let parent = NodeId(RenameIn::read(structure)?.parent);
                Self::Rename { name: names.next()?, parent, new_name: names.next()?, flags: 0 }
            }
            opcode::RENAME2 => {
                let Rename2In { parent, flags, .. } = Wire::read(structure)?;
                let parent = NodeId(parent);
                Self::Rename { name: names.next()?, parent, new_name: names.next()?, flags }
            }
            opcode::LINK => {
                Self::Link { node: NodeId(LinkIn::read(structure)?.node), name: names.next()? }
            }
            opcode::OPEN => Self::Open(Wire::read(structure)?),
            opcode::CREATE => Self::Create { made: Wire::read(structure)?, name: names.next()? },
            opcode::READ => Self::Read(Wire::read(structure)?),
            opcode::WRITE => {
                let place = WriteIn::read(structure)?;
                Self::Write { place, data: rest.get(..place.size as usize)? }
            }
            opcode::STATFS => Self::Statfs,
            opcode::RELEASE => Self::Release { handle: Handle(ReleaseIn::read(structure)?.handle) },
            opcode::FLUSH => Self::Flush,
            opcode::FSYNC => Self::Fsync(Wire::read(structure)?),
            opcode::OPENDIR => Self::Opendir,
            opcode::READDIR => {
                Self::Readdir { place: Wire::read(structure)?, with_attributes: false }
            }
            opcode::READDIRPLUS => {
                Self::Readdir { place: Wire::read(structure)?, with_attributes: true }
            }
            opcode::RELEASEDIR => Self::Releasedir,
            opcode::FSYNCDIR => Self::Fsyncdir(Wire::read(structure)?),
            opcode::SETXATTR => {
                let SetxattrIn { size, flags } = Wire::read(structure)?;
                let name = names.next()?;
                Self::Setxattr { name, value: names.0.get(..size as usize)?, flags }
            }
            opcode::GETXATTR => {
                Self::Getxattr { name: names.next()?, size: GetxattrIn::read(structure)?.size }
            }
            opcode::LISTXATTR => Self::Listxattr { size: GetxattrIn::read(structure)?.size },
            opcode::REMOVEXATTR => Self::Removexattr { name: names.next()? },
            opcode::FALLOCATE => Self::Fallocate(Wire::read(structure)?),
            opcode::LSEEK => Self::Lseek(Wire::read(structure)?),
            opcode::COPY_FILE_RANGE => Self::CopyFileRange(Wire::read(structure)?),
            opcode::IOCTL => Self::Ioctl,
            _ => Self::Unknown,
        })
    }

    /// Whether a process asks for it of its own will. The others are about what is open, or the
    /// kernel asks for them in passing, in the name of whoever is about.
    pub(super) fn is_of_ones_own_will(&self) -> bool {
        matches!(
            self,
            Self::Access { .. }
                | Self::Readlink
                | Self::Symlink { .. }
                | Self::Mknod { .. }
                | Self::Mkdir { .. }
                | Self::Unlink { .. }
                | Self::Rmdir { .. }
                | Self::Rename { .. }
                | Self::Link { .. }
                | Self::Open(_)
                | Self::Create { .. }
                | Self::Setxattr { .. }
                | Self::Listxattr { .. }
                | Self::Removexattr { .. }
        )
    }

    /// What a log calls it.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Lookup { .. } => "lookup",
            Self::Getattr { .. } => "getattr",
            Self::Access { .. } => "access",
            Self::Setattr(_) => "setattr",
            Self::Readlink => "readlink",
            Self::Symlink { .. } => "symlink",
            Self::Mknod { .. } => "mknod",
            Self::Mkdir { .. } => "mkdir",
            Self::Unlink { .. } => "unlink",
            Self::Rmdir { .. } => "rmdir",
            Self::Rename { .. } => "rename",
            Self::Link { .. } => "link",
            Self::Open(_) => "open",
            Self::Create { .. } => "create",
            Self::Read(_) => "read",
            Self::Write { .. } => "write",
            Self::Statfs => "statfs",
            Self::Release { .. } => "release",
            Self::Flush => "flush",
            Self::Fsync(_) => "fsync",
            Self::Opendir => "opendir",
            Self::Readdir { .. } => "readdir",
            Self::Releasedir => "releasedir",
            Self::Fsyncdir(_) => "fsyncdir",
            Self::Setxattr { .. } => "setxattr",
            Self::Getxattr { .. } => "getxattr",
            Self::Listxattr { .. } => "listxattr",
            Self::Removexattr { .. } => "removexattr",
            Self::Fallocate(_) => "fallocate",
            Self::Lseek(_) => "lseek",
            Self::CopyFileRange(_) => "copy_file_range",
            Self::Ioctl => "ioctl",
            Self::Unknown => "unknown",
        }
    }
}

impl InHeader {
    /// What the request is about.
    pub(super) fn node(&self) -> NodeId {
        NodeId(self.node)
    }

    /// Who sent it.
    pub(super) fn caller(&self) -> Caller {
        Caller { uid: self.uid, gid: self.gid, pid: self.pid }
    }
}

/// How long the structure of an opcode is, where it stands before names and data; 0 for those
/// that have none.
pub(super) fn structure_bytes(opcode: u32) -> usize {
    match opcode {
        opcode::GETATTR => GetattrIn::BYTES,
        opcode::SETATTR => SetattrIn::BYTES,
        opcode::MKNOD => MknodIn::BYTES,
        opcode::MKDIR => MkdirIn::BYTES,
        opcode::RENAME => RenameIn::BYTES,
        opcode::RENAME2 => Rename2In::BYTES,
        opcode::LINK => LinkIn::BYTES,
        opcode::OPEN | opcode::OPENDIR => OpenIn::BYTES,
        opcode::CREATE => CreateIn::BYTES,
        opcode::READ | opcode::READDIR | opcode::READDIRPLUS => ReadIn::BYTES,
        opcode::WRITE => WriteIn::BYTES,
        opcode::RELEASE | opcode::RELEASEDIR => ReleaseIn::BYTES,
        opcode::FSYNC | opcode::FSYNCDIR => FsyncIn::BYTES,
        opcode::SETXATTR => SetxattrIn::BYTES,
        opcode::GETXATTR | opcode::LISTXATTR => GetxattrIn::BYTES,
        opcode::FALLOCATE => FallocateIn::BYTES,
        opcode::LSEEK => LseekIn::BYTES,
        opcode::COPY_FILE_RANGE => CopyFileRangeIn::BYTES,
        _ => 0,
    }
}

/// How many bytes a read or write moves; 0 for all else.
pub(super) fn moved_bytes(opcode: u32, structure: &[u8]) -> usize {
    let size = match opcode {
        opcode::READ => ReadIn::read(structure).map(|place| place.size),
        opcode::WRITE => WriteIn::read(structure).map(|place| place.size),
        _ => None,
    };
    size.unwrap_or(0) as usize
}

/// Names that end with a zero byte each, and what follows them.
struct Names<'a>(&'a [u8]);

impl<'a> Names<'a> {
    fn next(&mut self) -> Option<&'a OsStr> {
        let end = self.0.iter().position(|&byte| byte == 0)?;
        let name = &self.0[..end];
        self.0 = &self.0[end + 1..];
        Some(OsStr::from_bytes(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_values_are_found_behind_each_other() {
        let mut structure = [0; SetxattrIn::BYTES];
        SetxattrIn { size: 3, flags: 1 }.write(&mut structure).unwrap();
        let rest = b"user.a\0abcd";
        match Operation::parse(opcode::SETXATTR, &structure, rest).unwrap() {
            Operation::Setxattr { name, value, flags } => {
                assert_eq!((name.as_bytes(), value, flags), (&b"user.a"[..], &b"abc"[..], 1));
            }
            other => panic!("{other:?}"),
        }
        match Operation::parse(opcode::SYMLINK, &[], b"name\0../target\0").unwrap() {
            Operation::Symlink { name, target } => {
                assert_eq!((name, target), (OsStr::new("name"), OsStr::new("../target")));
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_cut_short_is_no_request() {
        let mut structure = [0; WriteIn::BYTES];
        WriteIn { size: 5, ..WriteIn::default() }.write(&mut structure).unwrap();
        assert!(Operation::parse(opcode::WRITE, &structure, b"12345").is_some());
        assert!(Operation::parse(opcode::WRITE, &structure, b"1234").is_none());
        assert!(Operation::parse(opcode::WRITE, &structure[1..], b"12345").is_none());
        assert!(Operation::parse(opcode::LOOKUP, &[], b"no end").is_none());
        assert!(Operation::parse(opcode::SYMLINK, &[], b"name\0no end").is_none());
    }

    #[test]
    fn what_is_not_known_is_told_apart() {
        for opcode in [0, 51, 52, 4096] {
            let parsed = Operation::parse(opcode, &[0; 128], &[]);
            assert!(matches!(parsed, Some(Operation::Unknown)), "{opcode}");
        }
    }

    #[test]
    fn reads_and_writes_tell_how_much_they_move() {
        let mut structure = [0; ReadIn::BYTES];
        ReadIn { size: 1 << 20, ..ReadIn::default() }.write(&mut structure).unwrap();
        assert_eq!(moved_bytes(opcode::READ, &structure), 1 << 20);
        assert_eq!(moved_bytes(opcode::WRITE, &structure), 1 << 20);
        assert_eq!(moved_bytes(opcode::READDIR, &structure), 0);
        assert_eq!(moved_bytes(opcode::READ, &structure[..8]), 0);
    }
}
