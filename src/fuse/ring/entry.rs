//! One entry of a queue: the memory of a request and its answer, and whose it is.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::abi::{EntryInOut, InHeader, OutHeader, Wire, head};
use super::serve::{Lane, Service};
use crate::sys::fail_point;
use crate::sys::uring::Slot;

/// An entry that the kernel has filled, or is to fill.
pub(super) type Entry = Slot<Ticket>;

/// What is remembered of an entry.
#[derive(Debug)]
pub(super) struct Ticket {
    /// The thread on the CPU of its queue, which it returns to.
    pub(super) home: usize,
    /// Its request has been answered in place, and waits to be given to the kernel.
    pub(super) is_answered: bool,
    /// It is counted as one that its queue has to do without.
    pub(super) is_away: bool,
}

impl Ticket {
    pub(super) fn of(home: usize) -> Self {
        Self { home, is_answered: false, is_away: false }
    }
}

/// Who is to serve the request in the entry.
pub(super) fn lane(entry: &Entry, service: &Service) -> Lane {
    let (header, structure) = (header(entry), structure(entry.head()));
    let lane =
        catch_unwind(AssertUnwindSafe(|| service.lane(header.node(), header.opcode, structure)));
    // What panics here does so again where it is served, and is answered there.
    lane.unwrap_or(Lane::Here)
}

/// The thread that the request in the entry comes from; 0 for one that is not to be seen from here.
pub(super) fn caller(entry: &Entry) -> u32 {
    header(entry).pid
}

/// By which number the kernel knows the request in the entry.
pub(super) fn commit_id(entry: &Entry) -> u64 {
    in_out(entry.head()).commit_id
}

/// Serves the request in the entry and puts the answer in its place.
pub(super) fn serve(entry: &mut Entry, service: &Service) {
    let header = header(entry);
    let described = in_out(entry.head());
    let (head, payload) = entry.parts_mut();
    let filled = described.payload_bytes as usize;
    let served = catch_unwind(AssertUnwindSafe(|| {
        fail_point::hit("fuse.ring.answer");
        service.serve(&header, structure(head), payload, filled)
    }));
    // What a file system's call panics with has been logged; this is what lies around it.
    let served = served.unwrap_or_else(|_| {
        log::error!("opcode {}: internal error around the request", header.opcode);
        Err(libc::EIO)
    });
    let (bytes, error) = match served {
        Ok(bytes) => (bytes, 0),
        Err(errno) => (0, -errno),
    };
    let payload_bytes = u32::try_from(bytes).expect("a payload is at most MAX_WRITE");
    let out = OutHeader {
        len: payload_bytes + u32::try_from(OutHeader::BYTES).expect("16"),
        error,
        unique: header.unique,
    };
    out.write(&mut head[head::IN_OUT..]).expect("the head has room");
    let described = EntryInOut { payload_bytes, ..described };
    described.write(&mut head[head::ENTRY..]).expect("the head has room");
    entry.extra_mut().is_answered = true;
}

fn header(entry: &Entry) -> InHeader {
    InHeader::read(&entry.head()[head::IN_OUT..]).expect("the head has room")
}

fn structure(head: &[u8]) -> &[u8] {
    &head[head::OPERATION..head::ENTRY]
}

fn in_out(head: &[u8]) -> EntryInOut {
    EntryInOut::read(&head[head::ENTRY..]).expect("the head has room")
}
