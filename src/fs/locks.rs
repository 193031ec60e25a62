//! Locks that go on after a panic: each critical section here leaves its data whole at every
//! step, so what a panicking thread held is as good as before.

use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Takes the lock.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes the lock for reading.
pub fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

/// Takes the lock for writing.
pub fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

/// The part of a table that is for this number: consecutive ones have different parts, of which
/// there are 2, 4, 8 and so on.
pub fn shard<T>(shards: &[T], number: u64) -> &T {
    debug_assert!(shards.len().is_power_of_two());
    let place = number & (shards.len() as u64 - 1);
    &shards[usize::try_from(place).expect("less than the number of shards")]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn consecutive_numbers_have_different_parts() {
        let parts: Vec<u64> = (0..8).collect();
        let places: Vec<_> = (6..14).map(|number| *shard(&parts, number)).collect();
        assert_eq!(places, [6, 7, 0, 1, 2, 3, 4, 5]);
    }

    #[test]
    fn a_panic_under_the_lock_does_not_end_its_use() {
        let (mutex, shared) = (Mutex::new(1), RwLock::new(2));
        std::thread::scope(|scope| {
            let panicking = scope.spawn(|| {
                let _held = (lock(&mutex), write(&shared));
                panic!("expected by the test");
            });
            assert!(panicking.join().is_err());
        });
        assert_eq!(*lock(&mutex), 1);
        assert_eq!(*read(&shared), 2);
        assert_eq!(*write(&shared), 2);
    }
}
