//! Black-box tests on a real mount: POSIX behaviour, real programs, what lies underneath,
//! crashes. All of them know only the command line, never the crate's inside.

mod crash;
mod encryption;
mod harness;
mod model;
mod posix;
mod programs;
