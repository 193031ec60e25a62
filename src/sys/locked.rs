//! Memory for secrets of 32 bytes: locked against swapping, left out of core dumps, between
//! guard pages, wiped when given back. Slots come from chunks that are never unmapped, so a
//! secret costs 32 bytes of locked memory and not the pages that an allocation each would.

use std::ptr::NonNull;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use zeroize::Zeroize;

/// 32 bytes of locked memory, zero at first, wiped on drop.
pub struct Locked32 {
    slot: NonNull<[u8; 32]>,
}

// SAFETY: the slot belongs to this value alone until it is dropped, so it may move between
// threads, and `&Locked32` only gives shared reads.
unsafe impl Send for Locked32 {}
// SAFETY: as above; there is no interior mutability.
unsafe impl Sync for Locked32 {}

impl Locked32 {
    /// A slot of zeros.
    ///
    /// # Panics
    /// When the process has no memory left, as any allocation does.
    pub fn zeroed() -> Self {
        let mut pool = POOL.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if pool.free.is_empty() {
            pool.grow();
        }
        let Slot(slot) = pool.free.pop().expect("the pool has just grown");
        Self { slot }
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8; 32] {
        // SAFETY: the slot is valid for the process's life, initialised, and ours alone.
        unsafe { self.slot.as_ref() }
    }

    /// The bytes, to fill.
    pub fn bytes_mut(&mut self) -> &mut [u8; 32] {
        // SAFETY: as in `bytes`, and `&mut self` makes the access exclusive.
        unsafe { self.slot.as_mut() }
    }
}

impl Drop for Locked32 {
    fn drop(&mut self) {
        self.bytes_mut().zeroize();
        let mut pool = POOL.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        pool.free.push(Slot(self.slot));
    }
}

/// Whether every chunk so far could be locked; false when `RLIMIT_MEMLOCK` was too low, and
/// secrets may then reach swap.
pub fn all_locked() -> bool {
    !LOCK_FAILED.load(Ordering::Relaxed)
}

struct Slot(NonNull<[u8; 32]>);

// SAFETY: a free slot is owned by the pool; the pointer is only used by its next owner.
unsafe impl Send for Slot {}

struct Pool {
    free: Vec<Slot>,
}

impl Pool {
    fn grow(&mut self) {
        // SAFETY: the size is constant and far below the limits of `malloc_sized`.
        let chunk = unsafe { memsec::malloc_sized(CHUNK_BYTES) }.expect("memory for secrets");
        let base = chunk.cast::<u8>();
        // `malloc_sized` locks but does not say whether it could: lock again to learn it.
        // SAFETY: the chunk is CHUNK_BYTES long and mapped.
        if !unsafe { memsec::mlock(base.as_ptr(), CHUNK_BYTES) } {
            LOCK_FAILED.store(true, Ordering::Relaxed);
        }
        // SAFETY: as above; zeroed so that every slot starts as zeros.
        unsafe { base.as_ptr().write_bytes(0, CHUNK_BYTES) };
        for index in 0..SLOTS_PER_CHUNK {
            // SAFETY: index * 32 + 32 <= CHUNK_BYTES; bytes have no alignment to keep.
            let slot = unsafe { base.add(index * 32) }.cast::<[u8; 32]>();
            self.free.push(Slot(slot));
        }
    }
}

static POOL: Mutex<Pool> = Mutex::new(Pool { free: Vec::new() });
static LOCK_FAILED: AtomicBool = AtomicBool::new(false);

const SLOTS_PER_CHUNK: usize = 2047;
/// 16 pages less the canary of 16 bytes that `memsec` puts before them, rounded to slots.
const CHUNK_BYTES: usize = SLOTS_PER_CHUNK * 32;
const _: () = assert!(CHUNK_BYTES + 16 <= 16 * 4096);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_slot_is_wiped_and_given_out_again() {
        let mut first = Locked32::zeroed();
        first.bytes_mut().fill(0xa5);
        let address = first.slot;
        drop(first);
        let mut others = Vec::new();
        loop {
            let next = Locked32::zeroed();
            assert_eq!(next.bytes(), &[0; 32]);
            let found = next.slot == address;
            others.push(next);
            if found {
                break;
            }
            assert!(others.len() < 100_000, "the slot never came back");
        }
    }

    #[test]
    fn slots_do_not_overlap() {
        let mut slots: Vec<_> = (0..3 * SLOTS_PER_CHUNK).map(|_| Locked32::zeroed()).collect();
        for (index, slot) in slots.iter_mut().enumerate() {
            slot.bytes_mut()[..8].copy_from_slice(&(index as u64).to_le_bytes());
        }
        for (index, slot) in slots.iter().enumerate() {
            assert_eq!(slot.bytes()[..8], (index as u64).to_le_bytes());
        }
    }
}
