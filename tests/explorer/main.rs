//! The crash explorer: what a crash may leave of a file, state by state, opened by the real
//! recovery and compared with a model. `tests/README.md` tells how to let it run longer and how
//! to run one sequence again.

mod checker;
mod contents;
mod explore;
#[path = "../volume/harness.rs"]
mod harness;
mod journal;
mod model;
#[cfg(debug_assertions)]
#[path = "../fs_model/mount.rs"]
mod mount;
mod mutation;
mod names;
mod operations;
mod play;
mod report;
mod sequences;
mod settings;
mod states;
