//! What stands around the calls of [`Classic`]: who asks is noted, results become answers.

use fuser::{Errno, Generation, INodeNo, ReplyAttr, ReplyEmpty, ReplyEntry, ReplyXattr, Request};

use super::aside;
use super::classic::Classic;
use super::convert::{caller, file_attr, length, node};
use super::guard::guarded;
use crate::fs::{Attributes, DirectorySink, Entry, FsError};

impl Classic {
    /// Runs what a process asks for by name or node, of its own will.
    pub(super) fn asked<T>(
        &self,
        operation: &'static str,
        request: &Request,
        about: INodeNo,
        work: impl FnOnce() -> Result<T, FsError>,
    ) -> Result<T, Errno> {
        self.serve(operation, request, || {
            self.fs.admit(caller(request), node(about))?;
            work()
        })
    }

    /// Runs what the kernel asks for on its own behalf, or what is about something open.
    pub(super) fn serve<T>(
        &self,
        operation: &'static str,
        request: &Request,
        work: impl FnOnce() -> Result<T, FsError>,
    ) -> Result<T, Errno> {
        self.note(request, 0, false);
        guarded(operation, work)
    }

    /// Gives a piece of a directory's listing.
    pub(super) fn list(
        &self,
        request: &Request,
        directory: INodeNo,
        offset: u64,
        with_attributes: bool,
        names: &mut dyn DirectorySink,
    ) -> Result<(), Errno> {
        let operation = if with_attributes { "readdirplus" } else { "readdir" };
        let (caller, node, offset) = (caller(request), node(directory), offset.cast_signed());
        self.serve(operation, request, || {
            self.fs.read_directory(caller, node, offset, with_attributes, names)
        })
    }

    /// Notes who asks, that so many bytes are moved for it, and whether the kernel sends it by
    /// itself.
    pub(super) fn note(&self, request: &Request, bytes: u64, is_written_back: bool) {
        let (caller, is_bulky) = (request.pid(), bytes >= BULKY);
        self.callers.note(aside::Request { caller, is_bulky, is_written_back });
    }

    /// Answers with what a name leads to.
    pub(super) fn entry(&self, result: Result<Entry, Errno>, reply: ReplyEntry) {
        let ttl = self.fs.options().ttl;
        match result {
            Ok(entry) => {
                let attributes = file_attr(entry.node, &entry.attributes);
                reply.entry(&ttl, &attributes, Generation(entry.generation));
            }
            Err(errno) => reply.error(errno),
        }
    }

    /// Answers with the attributes of an object.
    pub(super) fn attributes(
        &self,
        ino: INodeNo,
        found: Result<Attributes, Errno>,
        reply: ReplyAttr,
    ) {
        match found {
            Ok(found) => reply.attr(&self.fs.options().ttl, &file_attr(node(ino), &found)),
            Err(errno) => reply.error(errno),
        }
    }
}

/// Answers what gives nothing back.
pub(super) fn finish(result: Result<(), Errno>, reply: ReplyEmpty) {
    match result {
        Ok(()) => reply.ok(),
        Err(errno) => reply.error(errno),
    }
}

/// Answers with the value of an extended attribute, or with all names. A `size` of 0 asks how long
/// that is.
pub(super) fn finish_xattr(result: Result<Vec<u8>, Errno>, size: u32, reply: ReplyXattr) {
    match result {
        Ok(value) if size == 0 => reply.size(length(value.len())),
        Ok(value) if value.len() > size as usize => reply.error(Errno::ERANGE),
        Ok(value) => reply.data(&value),
        Err(errno) => reply.error(errno),
    }
}

/// From so many bytes on the caller had better go on while they are moved.
const BULKY: u64 = 32 << 10;
