//! The random sequences by which `tests/fs_model` holds the file system to a reference, here
//! with the kernel, its caches and the transport in between.

use std::cell::RefCell;
use std::fs;
use std::os::unix::fs::PermissionsExt;

use proptest::test_runner::{Config, TestRunner};

use self::at_path::AtPath;
use self::operation::sequences;
use crate::harness::{Mount, Setup};

#[path = "../fs_model/at_path.rs"]
mod at_path;
#[path = "../fs_model/compare.rs"]
mod compare;
#[path = "../fs_model/operation.rs"]
mod operation;
#[path = "../fs_model/reference.rs"]
mod reference;

crate::matrix! { Setup::new() => a_mount_answers_as_the_reference }

fn a_mount_answers_as_the_reference(m: &mut Mount) {
    let config = Config {
        cases: cases(),
        failure_persistence: None,
        max_shrink_iters: 300,
        ..Config::default()
    };
    let (mount, number) = (RefCell::new(m), RefCell::new(0));
    let result = TestRunner::new(config).run(&sequences(100), |sequence| {
        let mut mount = mount.borrow_mut();
        *number.borrow_mut() += 1;
        let root = mount.path(format!("sequence {}", number.borrow()));
        fs::create_dir(&root).unwrap();
        fs::set_permissions(&root, fs::Permissions::from_mode(0o755)).unwrap();
        let mut remount = || mount.remount();
        compare::run(&mut AtPath::new(root, &mut remount), &sequence);
        Ok(())
    });
    if let Err(failure) = result {
        panic!("{failure}");
    }
}

/// How many sequences to run: more by `SSEFS_MODEL_CASES`.
fn cases() -> u32 {
    std::env::var("SSEFS_MODEL_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(12)
}
