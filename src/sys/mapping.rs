//! Memory from mmap(2): what a ring shares with the kernel, what requests are copied into, and
//! what is shared with a file.

use std::io;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU32;

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, mmap_anonymous, munmap};

/// A mapping that belongs to this value, readable and writable. Pages are zero at first and take
/// memory when they are touched.
pub(super) struct Mapping {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping belongs to this value alone, wherever that is.
unsafe impl Send for Mapping {}

impl Mapping {
    /// Private memory.
    pub(super) fn anonymous(len: usize) -> io::Result<Self> {
        let (protection, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
        // SAFETY: a new mapping at a place of the kernel's choice touches no other memory.
        let start = unsafe { mmap_anonymous(std::ptr::null_mut(), len, protection, flags)? };
        Ok(Self::at(start, len))
    }

    /// A part of a ring that the kernel shares. Only the accessors below that say so may be used
    /// on what the kernel changes.
    pub(super) fn of_ring(ring: BorrowedFd<'_>, len: usize, offset: u64) -> io::Result<Self> {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        let flags = MapFlags::SHARED | MapFlags::POPULATE;
        // SAFETY: a new mapping at a place of the kernel's choice touches no other memory.
        let start = unsafe { mmap(std::ptr::null_mut(), len, protection, flags, ring, offset)? };
        Ok(Self::at(start, len))
    }

    /// The beginning of a file, which has to stay as long as that: a touch behind its end is
    /// `SIGBUS`. Only [`Self::write`] and [`Self::counter`] may be used, as others may map it too.
    pub(super) fn of_file(file: BorrowedFd<'_>, len: usize) -> io::Result<Self> {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at a place of the kernel's choice touches no other memory.
        let start =
            unsafe { mmap(std::ptr::null_mut(), len, protection, MapFlags::SHARED, file, 0)? };
        Ok(Self::at(start, len))
    }

    /// Has the kernel make all pages ready to be written, as far as it can: what would be
    /// `SIGBUS` at a touch is an error here.
    pub(super) fn make_writable(&self) -> io::Result<()> {
        // SAFETY: this reads and changes no byte of the pages, which are mapped by this value.
        unsafe { madvise(self.start.as_ptr().cast(), self.len, Advice::LinuxPopulateWrite)? };
        Ok(())
    }

    fn at(start: *mut std::ffi::c_void, len: usize) -> Self {
        Self { start: NonNull::new(start.cast()).expect("mmap does not map page 0"), len }
    }

    /// The address, for the kernel.
    pub(super) fn address(&self) -> u64 {
        self.start.as_ptr() as u64
    }

    /// The bytes of private memory.
    pub(super) fn bytes(&self) -> &[u8] {
        // SAFETY: `len` bytes from `start` are mapped, hold zeros or what was written, and change
        // only through `&mut self` or while the kernel owns the slot that owns them.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }

    /// The bytes of private memory.
    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`, and `&mut self` makes the access exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }

    /// A counter that the kernel also uses.
    pub(super) fn counter(&self, offset: usize) -> &AtomicU32 {
        // SAFETY: in bounds and aligned as checked; both sides use it only atomically.
        unsafe { AtomicU32::from_ptr(self.checked(offset, 4).cast()) }
    }

    /// Four bytes that the kernel has published and does not change until they are given back.
    pub(super) fn read_u32(&self, offset: usize) -> u32 {
        // SAFETY: in bounds and aligned as checked, and the kernel does not write there now.
        unsafe { self.checked(offset, 4).cast::<u32>().read_volatile() }
    }

    /// Eight bytes that the kernel has published and does not change until they are given back.
    pub(super) fn read_u64(&self, offset: usize) -> u64 {
        // SAFETY: in bounds and aligned as checked, and the kernel does not write there now.
        unsafe { self.checked(offset, 8).cast::<u64>().read_volatile() }
    }

    /// Writes bytes that the kernel does not read before it is told of them.
    pub(super) fn write(&mut self, offset: usize, bytes: &[u8]) {
        assert!(offset + bytes.len() <= self.len, "outside of the mapping");
        // SAFETY: in bounds as checked; `bytes` is not in the mapping, which nobody can borrow
        // while `self` is borrowed for writing.
        unsafe {
            let at = self.start.as_ptr().add(offset);
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), at, bytes.len());
        }
    }

    fn checked(&self, offset: usize, width: usize) -> *mut u8 {
        assert!(offset + width <= self.len && offset.is_multiple_of(width), "outside or askew");
        // SAFETY: in bounds as checked.
        unsafe { self.start.as_ptr().add(offset) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped by this value with this length, and no borrow outlives it.
        if let Err(errno) = unsafe { munmap(self.start.as_ptr().cast(), self.len) } {
            log::debug!("munmap: {errno}");
        }
    }
}
