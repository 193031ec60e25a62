//! The local KMS by several processes at once: changes that exclude each other, and `kill -9` at
//! any moment.

mod killed;
mod peer;
mod together;
