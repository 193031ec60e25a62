//! What is agreed on with the kernel before anything else: the INIT request, which always comes
//! through `/dev/fuse`.

use std::io;

use fuser::InitFlags;

use super::super::negotiate::{MAX_BACKGROUND, MAX_WRITE, chosen, not_offered, read_ahead_bytes};
use super::abi::{InHeader, InitIn, InitOut, Wire, opcode};
use super::device::{Device, request_buffer};
use crate::fs::FsOptions;
use crate::sys::fail_point;

/// A request to start that was read and not yet answered.
pub(super) struct Handshake {
    unique: u64,
    reply: InitOut,
}

impl Handshake {
    /// Reads the request. `None` when the kernel does not offer rings for this connection; then
    /// nothing has been answered.
    pub(super) fn begin(device: &Device, options: &FsOptions) -> io::Result<Option<Self>> {
        let mut buf = request_buffer();
        let request = device.next_request(&mut buf)?;
        let request = request.ok_or_else(|| invalid("the connection ended before it began"))?;
        let header = InHeader::read(request).ok_or_else(|| invalid("no header"))?;
        let body = &request[InHeader::BYTES..];
        let asked = InitIn::read(body).ok_or_else(|| invalid("the first request is too short"))?;
        if header.opcode != opcode::INIT {
            return Err(invalid("the first request is not INIT"));
        }
        if fail_point::refuses("fuse.ring.offer") {
            return Ok(None);
        }
        Ok(reply(&asked, options)?.map(|reply| Self { unique: header.unique, reply }))
    }

    /// Answers it: from here on requests come, and wait for the rings to be registered.
    pub(super) fn finish(self, device: &Device) -> io::Result<()> {
        let mut body = [0; InitOut::BYTES];
        self.reply.write(&mut body).expect("it has this length");
        device.answer(self.unique, Ok(&body))
    }
}

fn reply(asked: &InitIn, options: &FsOptions) -> io::Result<Option<InitOut>> {
    let offered = u64::from(asked.flags) | u64::from(asked.flags2) << 32;
    if asked.major != MAJOR || offered & OFFER != OFFER {
        return Ok(None);
    }
    let offered_flags = InitFlags::from_bits_retain(offered);
    let flags = chosen(offered_flags, options).map_err(not_offered)?.bits() | OFFER;
    Ok(Some(InitOut {
        major: MAJOR,
        minor: MINOR,
        max_readahead: asked.max_readahead.min(read_ahead_bytes(options)),
        flags: low(flags),
        flags2: low(flags >> 32),
        max_background: MAX_BACKGROUND,
        congestion_threshold: MAX_BACKGROUND / 4 * 3,
        max_write: MAX_WRITE,
        time_gran: 1,
        max_pages: u16::try_from(MAX_WRITE / PAGE_BYTES).expect("256 pages"),
        ..InitOut::default()
    }))
}

fn low(bits: u64) -> u32 {
    u32::try_from(bits & u64::from(u32::MAX)).expect("32 bits")
}

fn invalid(problem: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, problem)
}

const MAJOR: u32 = 7;
/// The version that the structures here are of; the kernel takes an older one than its own.
const MINOR: u32 = 40;
const PAGE_BYTES: u32 = 4096;
/// `FUSE_INIT_EXT`, without which there are no `flags2`, and `FUSE_OVER_IO_URING`.
const OFFER: u64 = 1 << 30 | 1 << 41;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn options() -> FsOptions {
        let ttl = Duration::from_secs(1);
        FsOptions { writeback: true, ttl, ..FsOptions::default() }
    }

    fn asked(flags: u64) -> InitIn {
        let max_readahead = 131_072;
        InitIn { major: 7, minor: 45, max_readahead, flags: low(flags), flags2: low(flags >> 32) }
    }

    #[test]
    fn without_the_offer_nothing_is_answered() {
        let writeback = InitFlags::FUSE_WRITEBACK_CACHE.bits();
        for offered in [0, writeback, writeback | 1 << 30, writeback | 1 << 41] {
            assert!(reply(&asked(offered), &options()).unwrap().is_none(), "{offered:#x}");
        }
    }

    #[test]
    fn only_what_is_offered_is_taken_and_what_an_option_needs_must_be() {
        let offered = OFFER | InitFlags::FUSE_WRITEBACK_CACHE.bits() | 1 << 35;
        let reply_out = reply(&asked(offered), &options()).unwrap().unwrap();
        assert_eq!(reply_out.flags, low(OFFER | InitFlags::FUSE_WRITEBACK_CACHE.bits()));
        assert_eq!(reply_out.flags2, 1 << 9);
        assert_eq!((reply_out.max_readahead, reply_out.max_write), (131_072, 1 << 20));
        assert_eq!(reply_out.max_pages, 256);
        let acl = FsOptions { acl: true, ..options() };
        let refused = reply(&asked(offered), &acl).unwrap_err().to_string();
        assert!(refused.contains("'acl'"), "{refused}");
    }
}
