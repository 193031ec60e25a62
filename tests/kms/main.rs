//! The local KMS with its audit log: what each operation records, and what happens without a
//! record. By several processes at once: changes that exclude each other, `kill -9` at any moment.

mod audited;
mod killed;
mod peer;
mod together;
