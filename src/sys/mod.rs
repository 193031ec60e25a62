//! Raw system calls and memory: the only module that holds `unsafe`, each use with its reason.
//! Knows nothing of what the files or bytes mean.

pub mod locked;
