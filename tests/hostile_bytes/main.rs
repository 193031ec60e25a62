//! Hostile bytes: whatever they are, reading them neither panics nor takes much memory or time.
//! The targets are those of the fuzzer in `fuzz/`; here each runs over its corpus and over small
//! changes to it, within its bounds. Further tests make the bytes from random values.

mod arbitrary;
mod bounds;
mod corpora;
mod keystore_files;
mod random_values;
mod targets;
