//! The bounds on what one input may take.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// The most time of a processor that one input may take, without optimisation. Reading takes
/// milliseconds; what is quadratic in a file of 1 MiB takes minutes.
pub const TIME: Duration = Duration::from_secs(2);

/// Runs `work` and bounds the memory that it takes at any one time.
pub fn bounded<T>(limit: u64, work: impl FnOnce() -> T) -> T {
    let mut result = None;
    // The count does not survive a panic that passes through it.
    let counted = || result = Some(catch_unwind(AssertUnwindSafe(work)));
    let taken = allocation_counter::measure(counted).bytes_max;
    let result = result.unwrap().unwrap_or_else(|panic| resume_unwind(panic));
    assert!(taken <= limit, "{taken} bytes taken at once, {limit} are enough");
    result
}

/// Runs `work` and bounds the processor's time that this thread spends on it.
pub fn in_time<T>(work: impl FnOnce() -> T) -> T {
    let begun = thread_time();
    let result = work();
    let taken = thread_time() - begun;
    assert!(taken <= TIME, "{taken:?} taken, {TIME:?} are enough");
    result
}

fn thread_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec as u32)
}

#[test]
#[should_panic(expected = "bytes taken at once")]
fn the_bound_on_memory_is_felt() {
    bounded(1 << 20, || drop(std::hint::black_box(vec![1_u8; (1 << 20) + 1])));
}

#[test]
#[should_panic(expected = "are enough")]
fn the_bound_on_time_is_felt() {
    in_time(|| {
        let begun = thread_time();
        while thread_time() - begun < 2 * TIME {}
    });
}
