//! The lock between processes, held by one that does not let it go.

use std::fs::File;

use ssefs::keys::KeyError;

use super::harness::{TestLog, record};

/// A killed process keeps its locks while a thread of it waits for a mount, and the mount must
/// not wait for that lock for ever.
#[test]
fn a_lock_that_is_never_let_go_refuses_the_record_and_not_the_next() {
    let log = TestLog::new();
    let open = log.open();
    record(&open, 0).unwrap();
    let holder = File::open(log.dir().join("lock")).unwrap();
    holder.lock().unwrap();
    assert!(matches!(record(&open, 1), Err(KeyError::Audit { .. })));
    holder.unlock().unwrap();
    record(&open, 2).unwrap();
    drop(open);
    log.assert_clean();
    assert_eq!(log.numbers(), [0, 2]);
}
