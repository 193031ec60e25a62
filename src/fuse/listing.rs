//! Directory listings, written straight into the reply.

use std::time::Duration;

use fuser::{Generation, INodeNo, ReplyDirectory, ReplyDirectoryPlus};

use super::convert::{file_attr, file_type, listing_attr};
use crate::fs::{DirectoryEntry, DirectorySink};

pub(super) struct Names<'a> {
    pub(super) reply: &'a mut ReplyDirectory,
}

impl DirectorySink for Names<'_> {
    fn add(&mut self, entry: &DirectoryEntry<'_>) -> bool {
        let kind = file_type(entry.kind);
        !self.reply.add(INodeNo(entry.ino), entry.next.cast_unsigned(), kind, entry.name)
    }
}

pub(super) struct NamesPlus<'a> {
    pub(super) reply: &'a mut ReplyDirectoryPlus,
    pub(super) ttl: Duration,
}

impl DirectorySink for NamesPlus<'_> {
    fn add(&mut self, entry: &DirectoryEntry<'_>) -> bool {
        let (attr, generation) = match &entry.entry {
            Some(found) => (file_attr(found.node, &found.attributes), found.generation),
            None => (listing_attr(entry.ino, entry.kind), 0),
        };
        let generation = Generation(generation);
        let next = entry.next.cast_unsigned();
        !self.reply.add(attr.ino, next, entry.name, &self.ttl, &attr, generation)
    }
}
