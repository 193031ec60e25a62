//! One program for all targets: `$SSEFS_FUZZ_TARGET` names the one to run. They are those of
//! `tests/hostile_bytes/targets`.

#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;

#[path = "../../tests/hostile_bytes/targets/mod.rs"]
#[allow(dead_code, unused_imports, reason = "the tests use more of it")]
mod targets;

static RUN: OnceLock<fn(&[u8])> = OnceLock::new();

fuzz_target!(
    init: {
        let name = std::env::var("SSEFS_FUZZ_TARGET").expect("SSEFS_FUZZ_TARGET names a target");
        let target = targets::TARGETS.into_iter().find(|target| target.name == name);
        let target = target.unwrap_or_else(|| panic!("there is no target {name}"));
        RUN.get_or_init(|| target.run);
    },
    |data: &[u8]| {
        RUN.get().expect("set before the first input")(data);
    }
);
