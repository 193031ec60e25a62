//! Page-aligned memory for I/O. Owns its allocation; every byte within reach is initialised.
//! Not for key material: the memory is neither locked nor wiped.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::cell::Cell;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

/// Bytes that start at a page boundary, as `O_DIRECT` needs it.
pub struct AlignedBuf {
    start: NonNull<u8>,
    len: usize,
    capacity: usize,
}

// SAFETY: the allocation belongs to this value alone.
unsafe impl Send for AlignedBuf {}
// SAFETY: `&AlignedBuf` only gives shared reads.
unsafe impl Sync for AlignedBuf {}

impl AlignedBuf {
    /// `len` bytes of zeros.
    pub fn zeroed(len: usize) -> Self {
        let capacity = len.next_multiple_of(PAGE_BYTES);
        Self { start: allocate(capacity), len, capacity }
    }

    /// Sets the length. Contents are kept when the buffer shrinks or grows within what it
    /// holds already, and lost otherwise; bytes that come within reach hold old contents or
    /// zeros.
    pub fn set_len(&mut self, len: usize) {
        if len > self.capacity {
            *self = Self::zeroed(len);
        }
        self.len = len;
    }

    /// The bytes that fit without another allocation.
    pub fn capacity(&self) -> usize {
        self.capacity
    }
}

impl Deref for AlignedBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `len <= capacity` bytes from `start` are ours and were zeroed at allocation;
        // when nothing is allocated, `start` is dangling, aligned, and `len` is 0.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl DerefMut for AlignedBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and `&mut self` makes the access exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl Drop for AlignedBuf {
    fn drop(&mut self) {
        if self.capacity != 0 {
            // SAFETY: allocated by `allocate` with this very layout.
            unsafe { dealloc(self.start.as_ptr(), layout(self.capacity)) };
        }
    }
}

/// Runs `work` on `len` bytes of this thread's scratch memory, whose contents are left over from
/// earlier uses. A nested call has a buffer of its own, and gets the same one each time.
pub fn with_scratch<T>(len: usize, work: impl FnOnce(&mut [u8]) -> T) -> T {
    let depth = DEPTH.get();
    DEPTH.set(depth + 1);
    let _back = Depth(depth);
    let own = |scratch: &Scratch| scratch.get(depth).map(Cell::take);
    let mut buf = SCRATCH.with(own).flatten().unwrap_or_else(|| AlignedBuf::zeroed(0));
    buf.set_len(len);
    let done = work(&mut buf);
    if buf.capacity() <= SCRATCH_KEPT_BYTES {
        SCRATCH.with(|scratch| scratch.get(depth).map(|place| place.set(Some(buf))));
    }
    done
}

/// Puts the depth back, also when the work panics.
struct Depth(usize);

impl Drop for Depth {
    fn drop(&mut self) {
        DEPTH.set(self.0);
    }
}

fn allocate(capacity: usize) -> NonNull<u8> {
    let layout = layout(capacity);
    if capacity == 0 {
        return NonNull::<AlignedPage>::dangling().cast();
    }
    // SAFETY: the size is not zero.
    let start = unsafe { alloc_zeroed(layout) };
    NonNull::new(start).unwrap_or_else(|| handle_alloc_error(layout))
}

fn layout(capacity: usize) -> Layout {
    Layout::from_size_align(capacity, PAGE_BYTES).expect("a buffer is smaller than the memory")
}

#[repr(align(4096))]
struct AlignedPage;

const PAGE_BYTES: usize = align_of::<AlignedPage>();
/// What a thread holds on to between two requests; larger ones give their memory back.
const SCRATCH_KEPT_BYTES: usize = 4 << 20;

/// How deep calls are nested that find a buffer kept for them: a request's, and one for the
/// ciphertext behind it.
const SCRATCH_DEPTH: usize = 2;

type Scratch = [Cell<Option<AlignedBuf>>; SCRATCH_DEPTH];

thread_local! {
    static SCRATCH: Scratch = const { [const { Cell::new(None) }; SCRATCH_DEPTH] };
    static DEPTH: Cell<usize> = const { Cell::new(0) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned_zeroed_and_grow() {
        for len in [0, 1, 4095, 4096, 4097, 1 << 20] {
            let mut buf = AlignedBuf::zeroed(len);
            assert_eq!(buf.as_ptr() as usize % PAGE_BYTES, 0);
            assert_eq!(buf.len(), len);
            assert!(buf.iter().all(|&byte| byte == 0));
            buf.fill(7);
            buf.set_len(len / 2);
            assert!(buf.iter().all(|&byte| byte == 7));
            buf.set_len(len);
            assert!(buf.iter().all(|&byte| byte == 7));
            buf.set_len(2 * len + PAGE_BYTES);
            assert_eq!(buf.as_ptr() as usize % PAGE_BYTES, 0);
            assert_eq!(buf.len(), 2 * len + PAGE_BYTES);
            assert!(buf.iter().all(|&byte| byte == 0));
        }
    }

    #[test]
    fn scratch_is_reused_at_each_depth() {
        let places = || {
            with_scratch(100, |outer| {
                outer.fill(1);
                let inner = with_scratch(100, |inner| {
                    inner.fill(2);
                    with_scratch(100, |innermost| innermost.fill(3));
                    assert!(inner.iter().all(|&byte| byte == 2));
                    inner.as_ptr() as usize
                });
                assert!(outer.iter().all(|&byte| byte == 1));
                (outer.as_ptr() as usize, inner)
            })
        };
        let first = places();
        assert_ne!(first.0, first.1);
        assert_eq!(places(), first);
        assert_eq!(with_scratch(4096, |buf| buf.as_ptr() as usize), first.0);
    }

    #[test]
    fn a_panic_leaves_the_depth_as_it_was() {
        let place = || with_scratch(100, |buf| buf.as_ptr() as usize);
        let before = place();
        let inner = || with_scratch(100, |_| -> () { panic!("as a test wants it") });
        with_scratch(100, |_| std::panic::catch_unwind(inner).unwrap_err());
        assert_eq!(place(), before);
    }

    #[test]
    fn a_large_scratch_is_given_back() {
        with_scratch(SCRATCH_KEPT_BYTES + 1, |buf| assert_eq!(buf.len(), SCRATCH_KEPT_BYTES + 1));
        assert!(SCRATCH.with(|scratch| scratch[0].take()).is_none());
    }
}
