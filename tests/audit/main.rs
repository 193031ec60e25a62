//! The audit log as a whole: that no change to it goes unseen, and that no death, full disk or
//! power cut takes more from it than is promised.

mod appending;
mod burst;
mod command;
mod crash;
mod frozen;
mod full_disk;
mod harness;
mod lease;
mod lock;
mod page;
mod power_cut;
mod tamper;
