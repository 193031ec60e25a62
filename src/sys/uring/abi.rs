//! Numbers and layouts of `linux/io_uring.h`, and of the commands in `linux/fuse.h`.

use std::os::fd::RawFd;

/// `struct io_uring_params`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Params {
    pub(super) sq_entries: u32,
    pub(super) cq_entries: u32,
    flags: u32,
    sq_thread_cpu: u32,
    sq_thread_idle: u32,
    pub(super) features: u32,
    wq_fd: u32,
    reserved: [u32; 3],
    pub(super) sq_off: SubmissionOffsets,
    pub(super) cq_off: CompletionOffsets,
}

/// `struct io_sqring_offsets`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct SubmissionOffsets {
    pub(super) head: u32,
    pub(super) tail: u32,
    ring_mask: u32,
    ring_entries: u32,
    flags: u32,
    dropped: u32,
    array: u32,
    reserved: u32,
    user_addr: u64,
}

/// `struct io_cqring_offsets`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct CompletionOffsets {
    pub(super) head: u32,
    pub(super) tail: u32,
    ring_mask: u32,
    ring_entries: u32,
    overflow: u32,
    pub(super) cqes: u32,
    flags: u32,
    reserved: u32,
    user_addr: u64,
}

impl Params {
    pub(super) fn asking_for(flags: u32) -> Self {
        Self { flags, ..Self::default() }
    }

    /// Length of the mapping that holds both queues.
    pub(super) fn queues_bytes(&self) -> usize {
        self.cq_off.cqes as usize + self.cq_entries as usize * CQE_BYTES
    }
}

/// A submission, `struct io_uring_sqe` with `IORING_SETUP_SQE128`.
pub(super) type SqeBytes = [u8; SQE_BYTES];

/// `IORING_OP_URING_CMD`: a command to a file, with the bytes that it wants to see.
pub(super) fn command(
    fd: RawFd,
    operation: u32,
    addr: u64,
    len: u32,
    command: &[u8; FUSE_COMMAND_BYTES],
    user_data: u64,
) -> SqeBytes {
    let mut sqe = submission(OP_URING_CMD, fd, u64::from(operation), addr, len, user_data);
    sqe[48..48 + FUSE_COMMAND_BYTES].copy_from_slice(command);
    sqe
}

/// `IORING_OP_MSG_RING`: a completion for another ring.
pub(super) fn message(target: RawFd, user_data: u64) -> SqeBytes {
    submission(OP_MSG_RING, target, user_data, MSG_DATA, 0, 0)
}

/// `struct fuse_uring_cmd_req`.
pub(super) fn fuse_command(queue: u16, commit_id: u64) -> [u8; FUSE_COMMAND_BYTES] {
    let mut bytes = [0; FUSE_COMMAND_BYTES];
    bytes[8..16].copy_from_slice(&commit_id.to_ne_bytes());
    bytes[16..18].copy_from_slice(&queue.to_ne_bytes());
    bytes
}

fn submission(opcode: u8, fd: RawFd, off: u64, addr: u64, len: u32, user_data: u64) -> SqeBytes {
    let mut sqe = [0; SQE_BYTES];
    sqe[0] = opcode;
    sqe[4..8].copy_from_slice(&fd.to_ne_bytes());
    sqe[8..16].copy_from_slice(&off.to_ne_bytes());
    sqe[16..24].copy_from_slice(&addr.to_ne_bytes());
    sqe[24..28].copy_from_slice(&len.to_ne_bytes());
    sqe[32..40].copy_from_slice(&user_data.to_ne_bytes());
    sqe
}

pub(super) const SQE_BYTES: usize = 128;
pub(super) const CQE_BYTES: usize = 16;
pub(super) const FUSE_COMMAND_BYTES: usize = 24;

const OP_MSG_RING: u8 = 40;
const OP_URING_CMD: u8 = 46;
const MSG_DATA: u64 = 0;

/// `FUSE_IO_URING_CMD_REGISTER` and `FUSE_IO_URING_CMD_COMMIT_AND_FETCH`.
pub(super) const REGISTER: u32 = 1;
pub(super) const COMMIT_AND_FETCH: u32 = 2;

pub(super) const ENTER_GETEVENTS: u32 = 1 << 0;
pub(super) const REGISTER_SEND_MSG_RING: u32 = 31;
pub(super) const FEAT_SINGLE_MMAP: u32 = 1 << 0;
pub(super) const OFF_SQES: u64 = 0x1000_0000;

const SETUP_SQE128: u32 = 1 << 10;
const SETUP_SINGLE_ISSUER: u32 = 1 << 12;
const SETUP_DEFER_TASKRUN: u32 = 1 << 13;
const SETUP_NO_SQARRAY: u32 = 1 << 16;
/// A thread of its own, which is interrupted by nothing and takes completions when it waits.
pub(super) const SETUP: u32 =
    SETUP_SQE128 | SETUP_SINGLE_ISSUER | SETUP_DEFER_TASKRUN | SETUP_NO_SQARRAY;

const _: () = assert!(size_of::<Params>() == 120);
const _: () = assert!(size_of::<SubmissionOffsets>() == 40);
const _: () = assert!(size_of::<CompletionOffsets>() == 40);
const _: () = assert!(48 + FUSE_COMMAND_BYTES <= SQE_BYTES);
