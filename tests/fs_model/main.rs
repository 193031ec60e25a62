//! The file system against a reference in memory, by random sequences of operations. The
//! reference itself is held to what Linux does, by the same sequences on a directory of the
//! system.

mod at_path;
mod compare;
mod direct;
mod mount;
mod operation;
mod reference;
mod regressions;

use proptest::prelude::ProptestConfig;
use proptest::proptest;

use crate::at_path::AtPath;
use crate::compare::run;
use crate::direct::Direct;
use crate::operation::sequences;

proptest! {
    #![proptest_config(ProptestConfig {
        cases: cases(200),
        failure_persistence: None,
        max_shrink_iters: 20_000,
        ..ProptestConfig::default()
    })]

    #[test]
    fn the_file_system_answers_as_the_reference(sequence in sequences(120)) {
        run(&mut Direct::new(), &sequence);
    }

    #[test]
    fn the_reference_answers_as_linux(sequence in sequences(120)) {
        let scratch = tempfile::tempdir().unwrap();
        rustix::process::umask(rustix::fs::Mode::empty());
        rustix::fs::chmod(scratch.path(), rustix::fs::Mode::from_raw_mode(0o755)).unwrap();
        let mut nothing = || {};
        run(&mut AtPath::new(scratch.path().to_owned(), &mut nothing), &sequence);
    }
}

/// How many sequences to run: more by `SSEFS_MODEL_CASES`.
fn cases(default: u32) -> u32 {
    std::env::var("SSEFS_MODEL_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}
