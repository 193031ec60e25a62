//! What stands around every request: errors are reported and become their errno, panics are
//! logged and become `EIO`.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use fuser::Errno;

use crate::fs::FsError;

/// Runs one operation. An error is reported and becomes its errno; a panic is logged and
/// becomes `EIO`.
pub(super) fn guarded<T>(
    operation: &'static str,
    work: impl FnOnce() -> Result<T, FsError>,
) -> Result<T, Errno> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => {
            error.report();
            Err(Errno::from_i32(error.errno()))
        }
        Err(panic) => {
            log::error!("{operation}: internal error: {}", panic_message(&*panic));
            Err(Errno::EIO)
        }
    }
}

fn panic_message(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("no message")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_eio() {
        let result: Result<(), Errno> = guarded("test", || panic!("no {}", "way"));
        assert_eq!(result, Err(Errno::EIO));
    }

    #[test]
    fn panic_messages_of_both_kinds_are_read() {
        let formatted = catch_unwind(|| panic!("block {}", 7)).unwrap_err();
        assert_eq!(panic_message(&*formatted), "block 7");
        let plain = catch_unwind(|| panic!("plain")).unwrap_err();
        assert_eq!(panic_message(&*plain), "plain");
        let other = catch_unwind(|| std::panic::panic_any(7_u8)).unwrap_err();
        assert_eq!(panic_message(&*other), "no message");
    }
}
