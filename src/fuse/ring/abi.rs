//! The structures of `linux/fuse.h`, read from and written to bytes. All of them are made of
//! whole numbers without gaps, so each is the sequence of its fields; the sizes are asserted.

/// A whole number, or a structure of them, as the kernel lays it out.
pub(super) trait Wire: Sized {
    /// Bytes that it takes.
    const BYTES: usize;

    /// Takes it from the front; `None` when there are too few bytes.
    fn take(from: &mut &[u8]) -> Option<Self>;

    /// Puts it at the front of what is left to fill; `None` when there is too little room.
    fn put(&self, into: &mut &mut [u8]) -> Option<()>;

    /// Reads one that stands at the start.
    fn read(mut bytes: &[u8]) -> Option<Self> {
        Self::take(&mut bytes)
    }

    /// Writes it to the start, and returns its length.
    fn write(&self, mut bytes: &mut [u8]) -> Option<usize> {
        self.put(&mut bytes).map(|()| Self::BYTES)
    }
}

macro_rules! numbers {
    ($($number:ty),*) => {$(
        impl Wire for $number {
            const BYTES: usize = size_of::<$number>();

            #[inline]
            fn take(from: &mut &[u8]) -> Option<Self> {
                let (bytes, rest) = from.split_first_chunk()?;
                *from = rest;
                Some(Self::from_ne_bytes(*bytes))
            }

            #[inline]
            fn put(&self, into: &mut &mut [u8]) -> Option<()> {
                let (bytes, rest) = std::mem::take(into).split_first_chunk_mut()?;
                *bytes = self.to_ne_bytes();
                *into = rest;
                Some(())
            }
        }
    )*};
}

numbers!(u16, u32, i32, u64, i64);

macro_rules! structures {
    ($($(#[$doc:meta])* $name:ident, $bytes:literal { $($field:ident: $kind:ty),* $(,)? })*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        pub(super) struct $name {
            $(pub(super) $field: $kind,)*
        }

        impl Wire for $name {
            const BYTES: usize = 0 $(+ <$kind as Wire>::BYTES)*;

            #[inline]
            fn take(from: &mut &[u8]) -> Option<Self> {
                Some(Self { $($field: <$kind as Wire>::take(from)?,)* })
            }

            #[inline]
            fn put(&self, into: &mut &mut [u8]) -> Option<()> {
                $(self.$field.put(into)?;)*
                Some(())
            }
        }

        const _: () = assert!($name::BYTES == $bytes);
    )*};
}

structures! {
    /// `fuse_in_header`
    InHeader, 40 {
        len: u32, opcode: u32, unique: u64, node: u64, uid: u32, gid: u32, pid: u32,
        extensions: u16, padding: u16,
    }
    /// `fuse_out_header`
    OutHeader, 16 { len: u32, error: i32, unique: u64 }
    /// `fuse_uring_ent_in_out`
    EntryInOut, 32 { flags: u64, commit_id: u64, payload_bytes: u32, padding: u32, reserved: u64 }
    /// `fuse_init_in`, as far as it is read.
    InitIn, 20 { major: u32, minor: u32, max_readahead: u32, flags: u32, flags2: u32 }
    /// `fuse_init_out`
    InitOut, 64 {
        major: u32, minor: u32, max_readahead: u32, flags: u32, max_background: u16,
        congestion_threshold: u16, max_write: u32, time_gran: u32, max_pages: u16,
        map_alignment: u16, flags2: u32, max_stack_depth: u32, unused0: u64, unused1: u64,
        unused2: u64,
    }
    /// `fuse_attr`
    Attr, 88 {
        ino: u64, size: u64, blocks: u64, atime: u64, mtime: u64, ctime: u64, atime_nanos: u32,
        mtime_nanos: u32, ctime_nanos: u32, mode: u32, nlink: u32, uid: u32, gid: u32, rdev: u32,
        block_bytes: u32, flags: u32,
    }
    /// `fuse_entry_out`
    EntryOut, 128 {
        node: u64, generation: u64, entry_secs: u64, attr_secs: u64, entry_nanos: u32,
        attr_nanos: u32, attr: Attr,
    }
    /// `fuse_attr_out`
    AttrOut, 104 { secs: u64, nanos: u32, padding: u32, attr: Attr }
    /// `fuse_open_out`
    OpenOut, 16 { handle: u64, flags: u32, backing: i32 }
    /// `fuse_write_out`, `fuse_getxattr_out`
    SizeOut, 8 { bytes: u32, padding: u32 }
    /// `fuse_kstatfs`
    StatfsOut, 80 {
        blocks: u64, blocks_free: u64, blocks_available: u64, files: u64, files_free: u64,
        block_bytes: u32, name_max: u32, fragment_bytes: u32, padding: u32, spare0: u64,
        spare1: u64, spare2: u64,
    }
    /// `fuse_lseek_out`
    LseekOut, 8 { offset: i64 }
    /// `fuse_dirent` without the name
    Dirent, 24 { ino: u64, next: u64, name_bytes: u32, kind: u32 }
    /// `fuse_notify_inval_inode_out`
    InvalInodeOut, 24 { node: u64, offset: i64, len: i64 }

    /// `fuse_forget_in`
    ForgetIn, 8 { count: u64 }
    /// `fuse_batch_forget_in`
    BatchForgetIn, 8 { count: u32, padding: u32 }
    /// `fuse_forget_one`
    ForgetOne, 16 { node: u64, count: u64 }
    /// `fuse_getattr_in`
    GetattrIn, 16 { flags: u32, padding: u32, handle: u64 }
    /// `fuse_setattr_in`
    SetattrIn, 88 {
        valid: u32, padding: u32, handle: u64, size: u64, lock_owner: u64, atime: i64, mtime: i64,
        ctime: i64, atime_nanos: u32, mtime_nanos: u32, ctime_nanos: u32, mode: u32, unused4: u32,
        uid: u32, gid: u32, unused5: u32,
    }
    /// `fuse_mknod_in`
    MknodIn, 16 { mode: u32, rdev: u32, umask: u32, padding: u32 }
    /// `fuse_mkdir_in`
    MkdirIn, 8 { mode: u32, umask: u32 }
    /// `fuse_rename_in`
    RenameIn, 8 { parent: u64 }
    /// `fuse_rename2_in`
    Rename2In, 16 { parent: u64, flags: u32, padding: u32 }
    /// `fuse_link_in`
    LinkIn, 8 { node: u64 }
    /// `fuse_open_in`
    OpenIn, 8 { flags: u32, open_flags: u32 }
    /// `fuse_access_in`
    AccessIn, 8 { mask: u32, padding: u32 }
    /// `fuse_create_in`
    CreateIn, 16 { flags: u32, mode: u32, umask: u32, open_flags: u32 }
    /// `fuse_read_in`
    ReadIn, 40 {
        handle: u64, offset: u64, size: u32, read_flags: u32, lock_owner: u64, flags: u32,
        padding: u32,
    }
    /// `fuse_write_in`
    WriteIn, 40 {
        handle: u64, offset: u64, size: u32, write_flags: u32, lock_owner: u64, flags: u32,
        padding: u32,
    }
    /// `fuse_release_in`
    ReleaseIn, 24 { handle: u64, flags: u32, release_flags: u32, lock_owner: u64 }
    /// `fuse_fsync_in`
    FsyncIn, 16 { handle: u64, flags: u32, padding: u32 }
    /// `fuse_setxattr_in`, in the short form that is sent when `SETXATTR_EXT` was not agreed on
    SetxattrIn, 8 { size: u32, flags: u32 }
    /// `fuse_getxattr_in`
    GetxattrIn, 8 { size: u32, padding: u32 }
    /// `fuse_fallocate_in`
    FallocateIn, 32 { handle: u64, offset: u64, len: u64, mode: u32, padding: u32 }
    /// `fuse_lseek_in`
    LseekIn, 24 { handle: u64, offset: i64, whence: u32, padding: u32 }
    /// `fuse_copy_file_range_in`
    CopyFileRangeIn, 56 {
        from: u64, from_offset: u64, to_node: u64, to: u64, to_offset: u64, len: u64, flags: u64,
    }
}

/// Where the parts of `fuse_uring_req_header` stand.
pub(super) mod head {
    /// Of the request's `fuse_in_header`, and of the answer's `fuse_out_header`.
    pub(in super::super) const IN_OUT: usize = 0;
    /// Of the structure that belongs to the opcode.
    pub(in super::super) const OPERATION: usize = 128;
    /// Of `fuse_uring_ent_in_out`.
    pub(in super::super) const ENTRY: usize = 256;
    /// Its length.
    pub(in super::super) const BYTES: usize = 288;
}

/// The opcodes that are served; others are answered with `ENOSYS`.
pub(super) mod opcode {
    macro_rules! opcodes {
        ($($name:ident = $value:literal),* $(,)?) => {
            $(pub(in super::super) const $name: u32 = $value;)*
        };
    }

    opcodes! {
        LOOKUP = 1, FORGET = 2, GETATTR = 3, SETATTR = 4, READLINK = 5, SYMLINK = 6, MKNOD = 8,
        MKDIR = 9, UNLINK = 10, RMDIR = 11, RENAME = 12, LINK = 13, OPEN = 14, READ = 15,
        WRITE = 16, STATFS = 17, RELEASE = 18, FSYNC = 20, SETXATTR = 21, GETXATTR = 22,
        LISTXATTR = 23, REMOVEXATTR = 24, FLUSH = 25, INIT = 26, OPENDIR = 27, READDIR = 28,
        RELEASEDIR = 29, FSYNCDIR = 30, ACCESS = 34, CREATE = 35, INTERRUPT = 36, DESTROY = 38,
        IOCTL = 39, BATCH_FORGET = 42, FALLOCATE = 43, READDIRPLUS = 44, RENAME2 = 45, LSEEK = 46,
        COPY_FILE_RANGE = 47,
    }
}

/// Bits of `fuse_setattr_in.valid`.
pub(super) mod valid {
    pub(in super::super) const MODE: u32 = 1 << 0;
    pub(in super::super) const UID: u32 = 1 << 1;
    pub(in super::super) const GID: u32 = 1 << 2;
    pub(in super::super) const SIZE: u32 = 1 << 3;
    pub(in super::super) const ATIME: u32 = 1 << 4;
    pub(in super::super) const MTIME: u32 = 1 << 5;
    pub(in super::super) const HANDLE: u32 = 1 << 6;
    pub(in super::super) const ATIME_NOW: u32 = 1 << 7;
    pub(in super::super) const MTIME_NOW: u32 = 1 << 8;
    pub(in super::super) const CTIME: u32 = 1 << 10;
}

/// `FUSE_GETATTR_FH`
pub(super) const GETATTR_HANDLE: u32 = 1 << 0;
/// `FUSE_WRITE_KILL_SUIDGID`
pub(super) const WRITE_KILL_SET_IDS: u32 = 1 << 2;
/// `FUSE_FSYNC_FDATASYNC`
pub(super) const FSYNC_DATA_ONLY: u32 = 1 << 0;
/// `FUSE_NOTIFY_INVAL_INODE`
pub(super) const NOTIFY_INVAL_INODE: i32 = 2;

const _: () = assert!(head::IN_OUT + InHeader::BYTES <= head::OPERATION);
const _: () = assert!(head::OPERATION + SetattrIn::BYTES <= head::ENTRY);
const _: () = assert!(head::ENTRY + EntryInOut::BYTES == head::BYTES);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_stand_one_after_the_other() {
        let entry = EntryOut { node: 1, attr_nanos: 2, ..EntryOut::default() };
        let mut bytes = [0; EntryOut::BYTES];
        assert_eq!(entry.write(&mut bytes), Some(128));
        assert_eq!(bytes[0..8], 1_u64.to_ne_bytes());
        assert_eq!(bytes[36..40], 2_u32.to_ne_bytes());
        assert_eq!(EntryOut::read(&bytes), Some(entry));
    }

    #[test]
    fn too_few_bytes_are_told() {
        assert_eq!(InHeader::read(&[0; 39]), None);
        assert!(InHeader::read(&[0; 40]).is_some());
        assert_eq!(OutHeader::default().write(&mut [0; 15]), None);
    }
}
