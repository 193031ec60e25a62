//! Encrypted files over backing files in memory, without a kernel: against a plain model,
//! through process deaths and backing faults, under tampering, and against another AES-GCM.

mod ahead;
mod crash;
mod every_fault;
mod faults;
mod gate;
mod harness;
mod journal;
mod journal_sync;
mod model;
mod oracle;
mod power;
mod rewrap;
mod seals;
mod tamper;
