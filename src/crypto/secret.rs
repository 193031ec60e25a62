//! A 256-bit secret in locked memory. It cannot be printed, cloned or compared in variable
//! time; it is wiped when dropped.

use aws_lc_rs::constant_time::verify_slices_are_equal;

use super::random::fill_random;
use crate::sys::locked::Locked32;

/// Length of every symmetric secret here, in bytes.
pub const SECRET_LEN: usize = 32;

/// A DEK, key material or another symmetric key of 256 bits.
pub struct Secret {
    slot: Locked32,
}

impl Secret {
    /// Fresh random bytes.
    pub fn random() -> Self {
        let mut slot = Locked32::zeroed();
        fill_random(slot.bytes_mut());
        Self { slot }
    }

    /// Filled by `fill`, which writes straight into locked memory.
    pub fn try_from_fn<E>(fill: impl FnOnce(&mut [u8; 32]) -> Result<(), E>) -> Result<Self, E> {
        let mut slot = Locked32::zeroed();
        fill(slot.bytes_mut())?;
        Ok(Self { slot })
    }

    /// A copy of `bytes`; the caller wipes its own.
    pub fn copy_from(bytes: &[u8; SECRET_LEN]) -> Self {
        let mut slot = Locked32::zeroed();
        slot.bytes_mut().copy_from_slice(bytes);
        Self { slot }
    }

    /// A second copy in locked memory, named so that it is seen in review.
    pub fn duplicate(&self) -> Self {
        Self::copy_from(self.expose())
    }

    /// The bytes, for the primitive that uses them.
    pub fn expose(&self) -> &[u8; SECRET_LEN] {
        self.slot.bytes()
    }

    /// Compares in constant time.
    pub fn equals(&self, other: &Self) -> bool {
        verify_slices_are_equal(self.expose(), other.expose()).is_ok()
    }
}
