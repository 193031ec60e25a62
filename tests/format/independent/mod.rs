//! A second implementation of the format, made from `FORMAT.md` alone: it uses nothing of
//! `ssefs`, has offsets, a CRC and an envelope parser of its own, and other cryptography. It
//! does not recover files; it reads and writes whole ones, slowly and plainly.

pub mod envelope;
pub mod file;
pub mod keys;
pub mod primitives;
pub mod volume;
