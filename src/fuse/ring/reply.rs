//! Answers as the kernel reads them, written straight into the memory of the request.

use std::time::Duration;

use super::super::convert::BLOCK_SIZE;
use super::abi::{Attr, AttrOut, Dirent, EntryOut, LseekOut, OpenOut, SizeOut, StatfsOut, Wire};
use crate::fs::{
    Attributes, DirectoryEntry, DirectorySink, Entry, FsOptions, FsStatistics, Handle, Timestamp,
};

/// What a request came to. What is read is in place already, and only counted.
#[derive(Debug)]
pub(super) enum Answer {
    Done,
    Refused(i32),
    Entry(Entry),
    /// The name does not exist, which the kernel may remember.
    Negative,
    Attributes(Attributes),
    Opened {
        handle: Handle,
        flags: u32,
    },
    Created {
        entry: Entry,
        handle: Handle,
        flags: u32,
    },
    Size(u32),
    Bytes(Vec<u8>),
    InPlace(usize),
    Statistics(FsStatistics),
    Offset(i64),
}

impl Answer {
    /// Writes it, and returns how long it is, or the errno to answer with instead.
    pub(super) fn write(self, options: &FsOptions, out: &mut [u8]) -> Result<usize, i32> {
        let ttl = options.ttl;
        let written = match self {
            Self::Done => Some(0),
            Self::Refused(errno) => return Err(errno),
            Self::InPlace(bytes) => Some(bytes),
            Self::Entry(entry) => entry_out(&entry, ttl).write(out),
            Self::Negative => negative_out(ttl).write(out),
            Self::Attributes(attributes) => attr_out(&attributes, ttl).write(out),
            Self::Opened { handle, flags } => open_out(handle, flags).write(out),
            Self::Created { entry, handle, flags } => {
                let rest = &mut &mut *out;
                entry_out(&entry, ttl)
                    .put(rest)
                    .and_then(|()| open_out(handle, flags).put(rest))
                    .map(|()| EntryOut::BYTES + OpenOut::BYTES)
            }
            Self::Size(bytes) => SizeOut { bytes, padding: 0 }.write(out),
            Self::Offset(offset) => LseekOut { offset }.write(out),
            Self::Statistics(found) => statfs_out(&found).write(out),
            Self::Bytes(bytes) => out.get_mut(..bytes.len()).map(|out| {
                out.copy_from_slice(&bytes);
                bytes.len()
            }),
        };
        written.ok_or(libc::EIO)
    }
}

/// Names of a directory, written one after the other while they fit.
pub(super) struct Listing<'a> {
    pub(super) out: &'a mut [u8],
    pub(super) used: usize,
    /// With attributes, which the kernel may trust for this long.
    pub(super) ttl: Option<Duration>,
}

impl DirectorySink for Listing<'_> {
    fn add(&mut self, entry: &DirectoryEntry<'_>) -> bool {
        let name = entry.name.as_encoded_bytes();
        let with_attributes = if self.ttl.is_some() { EntryOut::BYTES } else { 0 };
        let bytes = with_attributes + Dirent::BYTES + name.len();
        let Some(mut room) = self.out.get_mut(self.used..self.used + bytes.next_multiple_of(8))
        else {
            return false;
        };
        if let Some(ttl) = self.ttl {
            // Without a node the kernel takes the name and the type only.
            let out = entry.entry.map_or_else(EntryOut::default, |entry| entry_out(&entry, ttl));
            out.put(&mut room).expect("the room is long enough");
        }
        let dirent = Dirent {
            ino: entry.ino,
            next: entry.next.cast_unsigned(),
            name_bytes: u32::try_from(name.len()).expect("a name is at most 255 bytes"),
            kind: (entry.kind & libc::S_IFMT) >> 12,
        };
        dirent.put(&mut room).expect("the room is long enough");
        room[..name.len()].copy_from_slice(name);
        room[name.len()..].fill(0);
        self.used += bytes.next_multiple_of(8);
        true
    }
}

fn entry_out(entry: &Entry, ttl: Duration) -> EntryOut {
    let (secs, nanos) = (ttl.as_secs(), ttl.subsec_nanos());
    EntryOut {
        node: entry.node.0,
        generation: entry.generation,
        entry_secs: secs,
        attr_secs: secs,
        entry_nanos: nanos,
        attr_nanos: nanos,
        attr: attr(&entry.attributes),
    }
}

fn negative_out(ttl: Duration) -> EntryOut {
    EntryOut { entry_secs: ttl.as_secs(), entry_nanos: ttl.subsec_nanos(), ..EntryOut::default() }
}

fn attr_out(attributes: &Attributes, ttl: Duration) -> AttrOut {
    let (secs, nanos) = (ttl.as_secs(), ttl.subsec_nanos());
    AttrOut { secs, nanos, padding: 0, attr: attr(attributes) }
}

/// Unlike `fuser`, this sends the backing file's own inode number beside the node id.
fn attr(attributes: &Attributes) -> Attr {
    Attr {
        ino: attributes.ino,
        size: attributes.size,
        blocks: attributes.blocks,
        atime: seconds(attributes.atime),
        mtime: seconds(attributes.mtime),
        ctime: seconds(attributes.ctime),
        atime_nanos: attributes.atime.nanos,
        mtime_nanos: attributes.mtime.nanos,
        ctime_nanos: attributes.ctime.nanos,
        mode: attributes.mode,
        nlink: attributes.nlink,
        uid: attributes.uid,
        gid: attributes.gid,
        rdev: attributes.rdev,
        block_bytes: BLOCK_SIZE,
        flags: 0,
    }
}

/// The kernel takes the number for a signed one again.
fn seconds(time: Timestamp) -> u64 {
    time.secs.cast_unsigned()
}

fn open_out(handle: Handle, flags: u32) -> OpenOut {
    OpenOut { handle: handle.0, flags, backing: 0 }
}

fn statfs_out(found: &FsStatistics) -> StatfsOut {
    StatfsOut {
        blocks: found.blocks,
        blocks_free: found.blocks_free,
        blocks_available: found.blocks_available,
        files: found.files,
        files_free: found.files_free,
        block_bytes: found.block_size,
        name_max: found.name_max,
        fragment_bytes: found.fragment_size,
        ..StatfsOut::default()
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use super::*;
    use crate::fs::NodeId;

    fn options() -> FsOptions {
        let ttl = Duration::from_millis(2500);
        FsOptions { writeback: true, ttl, ..FsOptions::default() }
    }

    fn attributes() -> Attributes {
        let time = Timestamp { secs: -2, nanos: 800_000_000 };
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
    fn an_entry_has_its_own_inode_number_and_times_before_1970() {
        let entry = Entry { node: NodeId(9), generation: 3, attributes: attributes() };
        let mut out = [0; 200];
        let created = Answer::Created { entry, handle: Handle(6), flags: 2 };
        assert_eq!(created.write(&options(), &mut out), Ok(144));
        let read = EntryOut::read(&out).unwrap();
        assert_eq!((read.node, read.generation, read.attr.ino), (9, 3, 77));
        assert_eq!(read.attr.mode, libc::S_IFREG | 0o4755);
        assert_eq!((read.entry_secs, read.entry_nanos), (2, 500_000_000));
        assert_eq!((read.attr.mtime, read.attr.mtime_nanos), ((-2_i64) as u64, 800_000_000));
        assert_eq!(OpenOut::read(&out[128..]).unwrap(), open_out(Handle(6), 2));
    }

    #[test]
    fn what_does_not_fit_is_an_error_and_a_refusal_is_its_errno() {
        let long = Answer::Bytes(vec![1; 9]);
        assert_eq!(long.write(&options(), &mut [0; 8]), Err(libc::EIO));
        let refused = Answer::Refused(libc::ENOTTY);
        assert_eq!(refused.write(&options(), &mut [0; 8]), Err(libc::ENOTTY));
        assert_eq!(Answer::Bytes(vec![1; 8]).write(&options(), &mut [0; 8]), Ok(8));
    }

    #[test]
    fn a_listing_takes_what_fits_in_whole_records() {
        let mut out = [0xff; 100];
        let mut listing = Listing { out: &mut out, used: 0, ttl: None };
        let entry = |name| DirectoryEntry {
            ino: 7,
            kind: libc::S_IFDIR,
            name: OsStr::new(name),
            next: -5,
            entry: None,
        };
        assert!(listing.add(&entry("a")) && listing.add(&entry("123456789")));
        assert!(!listing.add(&entry("b")), "100 - 32 - 40 leave too little");
        assert_eq!(listing.used, 72);
        let first = Dirent::read(&out).unwrap();
        assert_eq!((first.ino, first.name_bytes, first.kind), (7, 1, 4));
        assert_eq!(first.next.cast_signed(), -5);
        assert_eq!(out[24..32], *b"a\0\0\0\0\0\0\0");
        assert_eq!(out[56..72], *b"123456789\0\0\0\0\0\0\0");
        assert_eq!(out[72], 0xff);
    }

    #[test]
    fn a_listing_with_attributes_gives_a_node_only_to_what_was_looked_up() {
        let mut out = [0xff; 400];
        let ttl = Some(Duration::from_secs(1));
        let mut listing = Listing { out: &mut out, used: 0, ttl };
        let found = Entry { node: NodeId(9), generation: 3, attributes: attributes() };
        for (name, entry) in [(".", None), ("file", Some(found))] {
            let kind = libc::S_IFREG;
            let name = OsStr::new(name);
            assert!(listing.add(&DirectoryEntry { ino: 1, kind, name, next: 1, entry }));
        }
        assert_eq!(listing.used, 2 * 160);
        assert_eq!(EntryOut::read(&out).unwrap(), EntryOut::default());
        assert_eq!(EntryOut::read(&out[160..]).unwrap().node, 9);
    }
}
