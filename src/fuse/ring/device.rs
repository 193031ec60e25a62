//! `/dev/fuse` beside the rings: the handshake, what never comes through a ring (forgets,
//! interrupts), notifications, and the end of the connection.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::mount::UnmountFlags;

use super::super::attach::{Attached, device_at};
use super::super::guard::guarded;
use super::super::negotiate::MAX_WRITE;
use super::abi::{
    BatchForgetIn, ForgetIn, ForgetOne, InHeader, InvalInodeOut, NOTIFY_INVAL_INODE, OutHeader,
    Wire, opcode,
};
use super::request::structure_bytes;
use super::serve::Service;
use crate::fs::NodeId;
use crate::sys::buffer::AlignedBuf;
use crate::sys::fail_point;

/// An open `/dev/fuse` and the mount that it belongs to.
#[derive(Debug)]
pub(in super::super) struct Device {
    file: File,
    attached: Attached,
}

impl Device {
    pub(super) fn new(device: OwnedFd, attached: Attached) -> Self {
        Self { file: device.into(), attached }
    }

    /// Makes the kernel send what was written to a file and forget what it has read of it. Waits
    /// for write requests.
    pub(in super::super) fn invalidate(&self, node: NodeId) -> io::Result<()> {
        let body = InvalInodeOut { node: node.0, offset: 0, len: 0 };
        self.send(0, NOTIFY_INVAL_INODE, |out| body.write(out).expect("a message has room"))
    }

    /// Answers a request that came through the device.
    pub(super) fn answer(&self, unique: u64, answer: Result<&[u8], i32>) -> io::Result<()> {
        let (errno, body) = match answer {
            Ok(body) => (0, body),
            Err(errno) => (-errno, &[][..]),
        };
        let len = OutHeader::BYTES + body.len();
        let mut header = [0; OutHeader::BYTES];
        out_header(len, errno, unique).write(&mut header).expect("the header fits");
        let parts = [io::IoSlice::new(&header), io::IoSlice::new(body)];
        (&self.file).write_vectored(&parts).map(|_| ())
    }

    /// The next request that comes through the device; `None` when the connection has ended.
    pub(super) fn next_request<'a>(&self, buf: &'a mut [u8]) -> io::Result<Option<&'a mut [u8]>> {
        loop {
            match (&self.file).read(buf) {
                Ok(len) => return Ok(Some(&mut buf[..len])),
                Err(error) => match error.raw_os_error() {
                    // Interrupted, or a request that was taken back while it was read.
                    Some(libc::EINTR | libc::EAGAIN | libc::ENOENT) => {}
                    Some(libc::ENODEV) => return Ok(None),
                    _ => return Err(error),
                },
            }
        }
    }

    /// Ends the connection, so that nobody waits for an answer that does not come. Where even that
    /// fails the process ends, which the kernel takes for the same.
    pub(super) fn abort(&self) {
        let number = self.attached.device.minor;
        let control = PathBuf::from(format!("/sys/fs/fuse/connections/{number}/abort"));
        if std::fs::write(control, b"1").is_ok() {
            return;
        }
        let flags = UnmountFlags::FORCE | UnmountFlags::DETACH | UnmountFlags::NOFOLLOW;
        // What others have mounted at this place is not to be hit.
        let unmounted = match device_at(&self.attached.mount_point) {
            Ok(found) if found == self.attached.device => {
                rustix::mount::unmount(&self.attached.mount_point, flags)
            }
            _ => Err(rustix::io::Errno::INVAL),
        };
        if let Err(errno) = unmounted
            && !self.has_ended()
        {
            log::error!("the connection could not be ended ({errno}), so the process is");
            std::process::abort();
        }
    }

    /// Whether the kernel has ended the connection.
    fn has_ended(&self) -> bool {
        let mut asked = [PollFd::new(&self.file, PollFlags::empty())];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut asked, Some(&now)).is_ok_and(|_| asked[0].revents().contains(PollFlags::ERR))
    }

    fn send(
        &self,
        unique: u64,
        code: i32,
        body: impl FnOnce(&mut [u8]) -> usize,
    ) -> io::Result<()> {
        let mut message = [0; 64];
        let len = OutHeader::BYTES + body(&mut message[OutHeader::BYTES..]);
        out_header(len, code, unique).write(&mut message).expect("the header fits");
        (&self.file).write_all(&message[..len])
    }
}

impl AsFd for Device {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Serves what comes through the device until the connection ends.
pub(super) fn serve_device(service: &Service) -> io::Result<()> {
    let mut buf = request_buffer();
    let mut answer = AlignedBuf::zeroed(0);
    while let Some(request) = service.device.next_request(&mut buf)? {
        fail_point::hit("fuse.ring.read");
        let Some(header) = InHeader::read(request) else {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a request without a header"));
        };
        let body = &mut request[InHeader::BYTES..];
        match header.opcode {
            opcode::FORGET => {
                if let Some(ForgetIn { count }) = Wire::read(body) {
                    forget(service, header.node(), count);
                }
            }
            opcode::BATCH_FORGET => forget_all(service, body),
            // What is under way is quickly done; the request itself is answered as usual.
            opcode::INTERRUPT => {
                ignore_vanished(service.device.answer(header.unique, Err(libc::ENOSYS)))
            }
            opcode::DESTROY => {
                ignore_vanished(service.device.answer(header.unique, Ok(&[])));
                return Ok(());
            }
            code => {
                let structure = structure_bytes(code).min(body.len());
                let (structure, rest) = body.split_at_mut(structure);
                answer.set_len(rest.len().max(ANSWER_BYTES));
                answer[..rest.len()].copy_from_slice(rest);
                let served = service.serve(&header, structure, &mut answer, rest.len());
                let served = served.map(|len| &answer[..len]);
                ignore_vanished(service.device.answer(header.unique, served));
            }
        }
    }
    Ok(())
}

/// Room for any request.
pub(super) fn request_buffer() -> AlignedBuf {
    AlignedBuf::zeroed(MAX_WRITE as usize + 4096)
}

fn forget_all(service: &Service, mut body: &[u8]) {
    let Some(BatchForgetIn { count, .. }) = Wire::take(&mut body) else { return };
    for _ in 0..count {
        let Some(ForgetOne { node, count }) = Wire::take(&mut body) else { return };
        forget(service, NodeId(node), count);
    }
}

fn forget(service: &Service, node: NodeId, count: u64) {
    // There is nobody to answer; a panic has been logged.
    let _: Result<(), i32> = guarded("forget", || {
        service.fs.forget(node, count);
        Ok(())
    });
}

/// A request may be gone by the time that it is answered.
fn ignore_vanished(answered: io::Result<()>) {
    if let Err(error) = answered
        && !matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV))
    {
        log::error!("an answer did not reach the kernel: {error}");
    }
}

fn out_header(len: usize, error: i32, unique: u64) -> OutHeader {
    OutHeader { len: u32::try_from(len).expect("far below 4 GiB"), error, unique }
}

/// Room for any answer.
const ANSWER_BYTES: usize = MAX_WRITE as usize;
