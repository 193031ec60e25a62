//! Black-box tests on a real mount: POSIX behaviour, real programs, what lies underneath,
//! crashes. All of them know only the command line, never the crate's inside.

mod bad_input;
mod command;
mod crash;
mod encryption;
mod harness;
mod keys;
mod mount8;
mod posix;
mod programs;
