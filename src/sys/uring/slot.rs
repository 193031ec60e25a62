//! The memory of one request and its answer: a page of headers and a payload.

use std::io;

use crate::sys::mapping::Mapping;

/// Memory that the kernel fills with a request, and reads the answer from. Whoever has it may use
/// it; while the kernel does, nobody has it.
pub struct Slot<T: Send> {
    /// Boxed, so that one number stands for all of it while it is with the kernel.
    inner: Box<Inner<T>>,
}

struct Inner<T> {
    /// The page of headers, then the payload.
    memory: Mapping,
    queue: u16,
    extra: T,
}

impl<T: Send> Slot<T> {
    /// A slot for requests of this queue with a payload of up to `payload_bytes`, and what its
    /// users want to remember with it. Its memory is taken when it is touched.
    pub fn new(payload_bytes: usize, queue: u16, extra: T) -> io::Result<Self> {
        let mut memory = Mapping::anonymous(HEAD_BYTES + payload_bytes)?;
        let head = memory.address();
        let payload = head + HEAD_BYTES as u64;
        let iov = [head, IOV_OFFSET as u64, payload, payload_bytes as u64];
        for (index, word) in iov.iter().enumerate() {
            memory.write(IOV_OFFSET + 8 * index, &word.to_ne_bytes());
        }
        Ok(Self { inner: Box::new(Inner { memory, queue, extra }) })
    }

    /// The queue that it belongs to.
    pub fn queue(&self) -> u16 {
        self.inner.queue
    }

    /// What its users remember with it.
    pub fn extra(&self) -> &T {
        &self.inner.extra
    }

    /// What its users remember with it.
    pub fn extra_mut(&mut self) -> &mut T {
        &mut self.inner.extra
    }

    /// The headers of request and answer.
    pub fn head(&self) -> &[u8] {
        &self.inner.memory.bytes()[..IOV_OFFSET]
    }

    /// What follows the headers.
    pub fn payload(&self) -> &[u8] {
        &self.inner.memory.bytes()[HEAD_BYTES..]
    }

    /// Headers and payload.
    pub fn parts_mut(&mut self) -> (&mut [u8], &mut [u8]) {
        let (head, payload) = self.inner.memory.bytes_mut().split_at_mut(HEAD_BYTES);
        (&mut head[..IOV_OFFSET], payload)
    }

    /// Where the kernel finds the addresses of both parts, and how many they are.
    pub(super) fn iov(&self) -> (u64, u32) {
        (self.inner.memory.address() + IOV_OFFSET as u64, IOV_LEN)
    }

    /// The number that stands for the slot, which is even and not zero.
    pub(super) fn into_user_data(self) -> u64 {
        Box::into_raw(self.inner) as u64
    }

    /// The slot that a number stands for.
    ///
    /// # Safety
    /// The number comes from [`Self::into_user_data`] of a slot of the same `T`, and is taken back
    /// only once, when nobody else uses the memory any more.
    pub(super) unsafe fn from_user_data(number: u64) -> Self {
        // SAFETY: as the caller promises; the address was that of a box of this very type.
        Self { inner: unsafe { Box::from_raw(number as *mut Inner<T>) } }
    }
}

/// What the headers may take; the addresses of both parts follow in the same page, so that they
/// live as long as the memory that they name.
const IOV_OFFSET: usize = 2048;
const IOV_LEN: u32 = 2;
const HEAD_BYTES: usize = 4096;
