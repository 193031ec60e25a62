//! Raw system calls and memory: the only module that holds `unsafe`, each use with its reason.
//! What `rustix` and the standard library offer safely is used from there and not repeated
//! here. Knows nothing of what the files or bytes mean.

pub mod buffer;
pub mod daemon;
pub mod directory;
pub mod fail_point;
pub mod fd;
pub mod lease;
pub mod locked;
mod mapping;
pub mod own_mount;
pub mod process;
pub mod scheduling;
pub mod shared_file;
pub mod shutdown;
pub mod uring;
pub mod write_out;
