//! Black-box tests on a real mount: POSIX behaviour, real programs, what lies underneath,
//! crashes, keys in memory. They know only the command line; of the crate's inside only `residue`,
//! which must know the keys that it looks for, and `kills`, which must know the fail points.

mod aside;
mod bad_input;
mod calls;
mod check;
mod command;
mod crash;
mod encryption;
mod faults;
mod harness;
mod key_command;
mod keys;
mod kills;
mod kms;
mod model;
mod mount8;
mod posix;
mod programs;
mod rekey;
mod residue;
mod resources;
mod rewrap;
mod transport;

/// What child processes of these tests do.
const ROLES: &[(&str, harness::child::Role)] = &[
    ("record-lock", posix::locks::record_lock_role),
    ("flock", posix::locks::flock_role),
    ("reader", posix::io::reader_role),
];
