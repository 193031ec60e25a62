//! What stands around every request: errors are reported and become their errno, panics are
//! logged and become `EIO`.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use fuser::Errno;

use crate::fs::FsError;

/// The errno of a request that failed, positive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Failed(i32);

impl From<Failed> for Errno {
    fn from(Failed(errno): Failed) -> Self {
        Self::from_i32(errno)
    }
}

impl From<Failed> for i32 {
    fn from(Failed(errno): Failed) -> Self {
        errno
    }
}

/// Runs one operation. An error is reported and becomes its errno, as the transport has it; a
/// panic is logged and becomes `EIO`.
pub(super) fn guarded<T, E: From<Failed>>(
    operation: &'static str,
    work: impl FnOnce() -> Result<T, FsError>,
) -> Result<T, E> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => {
            error.report();
            Err(Failed(error.errno()).into())
        }
        Err(panic) => {
            log::error!("{operation}: internal error: {}", panic_message(&*panic));
            Err(Failed(libc::EIO).into())
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
        let result: Result<(), i32> = guarded("test", || panic!("no {}", "way"));
        assert_eq!(result, Err(libc::EIO));
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
