//! Each request turned into one call of [`FileSystem`], its result into the answer. No logic, no
//! state; the same answers as `classic` gives.

use std::sync::Arc;

use super::super::convert::{COPY_MAX, DIRECTORY, directory_flags, file_flags, seek_target};
use super::super::guard::guarded;
use super::abi::{
    CreateIn, FSYNC_DATA_ONLY, InHeader, LseekIn, ReleaseIn, SetattrIn, WRITE_KILL_SET_IDS, Wire,
    opcode, valid,
};
use super::device::Device;
use super::reply::{Answer, Listing};
use super::request::{Operation, moved_bytes};
use crate::fs::{
    AttributeChange, Entry, FileSystem, FsError, Handle, NodeId, Opened, TimeChange, Timestamp,
    Wanted,
};
use crate::keys::Caller;

/// The file system behind a connection.
pub(super) struct Service {
    pub(super) fs: Arc<FileSystem>,
    pub(super) device: Arc<Device>,
}

/// Which threads serve a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lane {
    /// The thread that received it, on the caller's CPU.
    Here,
    /// It moves much data: better on another CPU, while the caller goes on. Where so many `others`
    /// wait behind it for the same thread, an idle one is to help.
    Bulk { others: u32 },
    /// It may wait for the disk, as long as that takes to make something durable.
    Disk,
    /// It may wait longer, for a disk or a key service.
    Slow,
    /// It may wait for the kernel, which may wait for another answer first.
    Apart,
}

impl Service {
    /// Who is to serve a request, of which the structure of the opcode is given.
    pub(super) fn lane(&self, node: NodeId, opcode: u32, structure: &[u8]) -> Lane {
        let may_wait = match opcode {
            opcode::READ | opcode::WRITE if moved_bytes(opcode, structure) >= BULK_BYTES => {
                let others = if opcode == opcode::READ { OTHER_READS } else { OTHER_WRITES };
                return Lane::Bulk { others };
            }
            opcode::FSYNC | opcode::FSYNCDIR => return Lane::Disk,
            opcode::RENAME | opcode::RENAME2 if self.fs.change_may_wait() => return Lane::Disk,
            opcode::FALLOCATE | opcode::COPY_FILE_RANGE | opcode::SETXATTR => true,
            opcode::LSEEK => return Lane::Apart,
            opcode::OPEN | opcode::CREATE => self.fs.open_may_wait(),
            opcode::SETATTR => {
                let asked = SetattrIn::read(structure);
                let cuts = asked.is_some_and(|asked| asked.valid & valid::SIZE != 0);
                (cuts && self.fs.change_may_wait()) || self.fs.is_being_changed(node)
            }
            opcode::WRITE => self.fs.is_being_changed(node),
            opcode::RELEASE => {
                let asked = ReleaseIn::read(structure);
                self.fs.is_being_changed(node)
                    || asked.is_some_and(|asked| self.fs.release_may_wait(Handle(asked.handle)))
            }
            _ => false,
        };
        if may_wait { Lane::Slow } else { Lane::Here }
    }

    /// Serves a request whose names and data stand in the first `filled` bytes of `payload`, and
    /// writes the answer there: its length, or the errno. Panics are answered with `EIO`.
    pub(super) fn serve(
        &self,
        header: &InHeader,
        structure: &[u8],
        payload: &mut [u8],
        filled: usize,
    ) -> Result<usize, i32> {
        let reads = matches!(header.opcode, opcode::READ | opcode::READDIR | opcode::READDIRPLUS);
        let filled = if reads { 0 } else { filled.min(payload.len()) };
        let (request, room) = payload.split_at_mut(filled);
        let Some(operation) = Operation::parse(header.opcode, structure, request) else {
            log::error!("opcode {}: the request is cut short", header.opcode);
            return Err(libc::EIO);
        };
        let answer: Result<Answer, i32> =
            guarded(operation.name(), || self.answer(header, &operation, room));
        let answer = answer?;
        answer.write(self.fs.options(), payload)
    }

    fn answer(
        &self,
        header: &InHeader,
        operation: &Operation<'_>,
        room: &mut [u8],
    ) -> Result<Answer, FsError> {
        let (fs, node, caller) = (&self.fs, header.node(), header.caller());
        if operation.is_of_ones_own_will() {
            fs.admit(caller, node)?;
        }
        Ok(match *operation {
            Operation::Lookup { name } => match fs.lookup(caller, node, name) {
                Err(error) if error.errno() == libc::ENOENT => {
                    error.report();
                    Answer::Negative
                }
                found => Answer::Entry(found?),
            },
            Operation::Getattr { handle } => Answer::Attributes(fs.attributes(node, handle)?),
            Operation::Access { mask } => done(fs.access(caller, node, Wanted::from_mask(mask)))?,
            Operation::Setattr(ref asked) => {
                let handle = (asked.valid & valid::HANDLE != 0).then_some(Handle(asked.handle));
                Answer::Attributes(fs.set_attributes(caller, node, handle, &change(asked))?)
            }
            Operation::Readlink => Answer::Bytes(fs.read_link(node)?),
            Operation::Symlink { name, target } => {
                Answer::Entry(fs.make_symlink(caller, node, name, target)?)
            }
            Operation::Mknod { ref made, name } => {
                Answer::Entry(fs.make_node(caller, node, name, made.mode, made.umask, made.rdev)?)
            }
            Operation::Mkdir { ref made, name } => {
                Answer::Entry(fs.make_directory(caller, node, name, made.mode, made.umask)?)
            }
            Operation::Unlink { name } => done(fs.unlink(node, name))?,
            Operation::Rmdir { name } => done(fs.remove_directory(node, name))?,
            Operation::Rename { name, parent, new_name, flags } => {
                done(fs.rename(node, name, parent, new_name, flags))?
            }
            Operation::Link { node: linked, name } => Answer::Entry(fs.link(linked, node, name)?),
            Operation::Open(ref asked) => {
                let opened = fs.open(caller, node, asked.flags.cast_signed())?;
                Answer::Opened { handle: opened.handle, flags: file_flags(opened).bits() }
            }
            Operation::Create { ref made, name } => {
                let &CreateIn { flags, mode, umask, .. } = made;
                let (entry, opened): (Entry, Opened) =
                    fs.create(caller, node, name, mode, umask, flags.cast_signed())?;
                let flags = file_flags(opened).bits();
                Answer::Created { entry, handle: opened.handle, flags }
            }
            Operation::Statfs => Answer::Statistics(fs.statistics(node)?),
            Operation::Opendir => {
                if !fs.is_asked_for_directories() {
                    // The kernel does not ask again.
                    return Ok(Answer::Refused(libc::ENOSYS));
                }
                fs.open_directory(caller, node)?;
                Answer::Opened { handle: DIRECTORY, flags: directory_flags().bits() }
            }
            Operation::Setxattr { name, value, flags } => {
                done(fs.set_xattr(caller, node, name, value, flags.cast_signed()))?
            }
            Operation::Getxattr { name, size } => sized(fs.xattr(caller, node, name)?, size),
            Operation::Listxattr { size } => sized(fs.xattr_names(node)?, size),
            Operation::Removexattr { name } => done(fs.remove_xattr(caller, node, name))?,
            _ => return self.answer_open(caller, node, operation, room),
        })
    }

    /// Answers what concerns a file or directory that is open, and what is not served.
    fn answer_open(
        &self,
        caller: Caller,
        node: NodeId,
        operation: &Operation<'_>,
        room: &mut [u8],
    ) -> Result<Answer, FsError> {
        let fs = &self.fs;
        Ok(match *operation {
            Operation::Read(ref place) => {
                let len = (place.size as usize).min(room.len());
                Answer::InPlace(fs.read(Handle(place.handle), place.offset, &mut room[..len])?)
            }
            Operation::Write { ref place, data } => {
                let kill = place.write_flags & WRITE_KILL_SET_IDS != 0;
                fs.write(Handle(place.handle), place.offset, data, kill)?;
                Answer::Size(place.size)
            }
            Operation::Release { handle } => done(fs.release(handle))?,
            Operation::Flush => {
                fs.count_flush();
                Answer::Refused(libc::ENOSYS)
            }
            Operation::Fsync(ref asked) => {
                done(fs.sync(Handle(asked.handle), asked.flags & FSYNC_DATA_ONLY != 0))?
            }
            Operation::Fsyncdir(ref asked) => {
                let data_only = asked.flags & FSYNC_DATA_ONLY != 0;
                done(fs.sync_directory(node, data_only))?
            }
            Operation::Readdir { ref place, with_attributes } => {
                let len = (place.size as usize).min(room.len());
                let ttl = with_attributes.then_some(fs.options().ttl);
                let mut listing = Listing { out: &mut room[..len], used: 0, ttl };
                let offset = place.offset.cast_signed();
                fs.read_directory(caller, node, offset, with_attributes, &mut listing)?;
                Answer::InPlace(listing.used)
            }
            Operation::Releasedir => Answer::Done,
            Operation::Fallocate(ref asked) => {
                let mode = asked.mode.cast_signed();
                done(fs.allocate(Handle(asked.handle), asked.offset, asked.len, mode))?
            }
            Operation::Lseek(ref asked) => self.seek(node, asked)?,
            Operation::CopyFileRange(ref asked) if asked.flags == 0 => {
                let (from, to) = (Handle(asked.from), Handle(asked.to));
                let len = asked.len.min(COPY_MAX);
                let copied = fs.copy_range(from, asked.from_offset, to, asked.to_offset, len)?;
                Answer::Size(u32::try_from(copied).expect("at most COPY_MAX"))
            }
            Operation::CopyFileRange(_) => Answer::Refused(libc::EINVAL),
            Operation::Ioctl => Answer::Refused(libc::ENOTTY),
            _ => Answer::Refused(libc::ENOSYS),
        })
    }

    /// See `seeks`: what the kernel has gathered is asked for first. That waits for write requests,
    /// so it is served in the slow lane only.
    fn seek(&self, node: NodeId, asked: &LseekIn) -> Result<Answer, FsError> {
        let Some(target) = seek_target(asked.whence.cast_signed()) else {
            return Ok(Answer::Refused(libc::EINVAL));
        };
        let handle = Handle(asked.handle);
        if self.fs.may_be_behind(handle)?
            && let Err(error) = self.device.invalidate(node)
        {
            log::error!("inode {}: the kernel's cached writes could not be had: {error}", node.0);
            return Ok(Answer::Refused(libc::EIO));
        }
        Ok(Answer::Offset(self.fs.seek(handle, asked.offset, target)?))
    }
}

fn done(result: Result<(), FsError>) -> Result<Answer, FsError> {
    result.map(|()| Answer::Done)
}

/// A `size` of 0 asks how long the value is.
fn sized(value: Vec<u8>, size: u32) -> Answer {
    match u32::try_from(value.len()) {
        Ok(len) if size == 0 => Answer::Size(len),
        Ok(len) if len <= size => Answer::Bytes(value),
        _ => Answer::Refused(libc::ERANGE),
    }
}

fn change(asked: &SetattrIn) -> AttributeChange {
    let has = |bit| asked.valid & bit != 0;
    let time = |given, now, secs, nanos| match (has(given), has(now)) {
        (true, true) => Some(TimeChange::Now),
        (true, false) => Some(TimeChange::At(Timestamp { secs, nanos })),
        (false, _) => None,
    };
    AttributeChange {
        mode: has(valid::MODE).then_some(asked.mode),
        uid: has(valid::UID).then_some(asked.uid),
        gid: has(valid::GID).then_some(asked.gid),
        size: has(valid::SIZE).then_some(asked.size),
        atime: time(valid::ATIME, valid::ATIME_NOW, asked.atime, asked.atime_nanos),
        mtime: time(valid::MTIME, valid::MTIME_NOW, asked.mtime, asked.mtime_nanos),
        ctime: has(valid::CTIME)
            .then_some(Timestamp { secs: asked.ctime, nanos: asked.ctime_nanos }),
    }
}

/// What streams comes in larger requests, unless `read_ahead` is less. Of less, such as a small
/// file read in one piece, the reader waits for all; to wake another CPU would only take longer.
const BULK_BYTES: usize = 96 << 10;
/// Who reads waits for the first of several requests, which others at the same time would delay.
const OTHER_READS: u32 = 2;
/// Of what is written back nobody waits for a single one.
const OTHER_WRITES: u32 = 1;
