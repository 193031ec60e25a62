//! Answers of several kinds of requests through `fuser`.

use fuser::{Errno, ReplyEmpty, ReplyXattr};

use super::convert::length;

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
