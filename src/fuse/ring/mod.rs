//! FUSE over io_uring: requests come through rings, one queue for each CPU, so that a request is
//! served on the CPU of its caller and no wake-up crosses CPUs.
//!
//! An entry is the memory of one request and its answer. It is with the kernel until a request
//! fills it, then with the thread that serves it. `worker` has the threads with rings, `lanes` the
//! ways between them: what is short is served at home, on the caller's CPU; what moves much data
//! goes to a bulk thread, which gives the answer to the kernel itself, or passes on to an idle one
//! what it has more of than it should; what may wait is served at home by one of the two threads
//! there, and if that one waits already goes to a slow thread and comes home to be answered.
//! `device` reads what never comes through a ring.
//!
//! A thread that ends would leave its callers waiting in the kernel for ever. So panics become
//! `EIO`, and when a thread is lost all the same the connection is ended.

mod abi;
mod cpus;
mod device;
mod entry;
mod handshake;
mod lanes;
mod reply;
mod request;
mod serve;
mod session;
mod worker;

pub(super) use device::Device;
pub(super) use session::{RingSession, Start, unavailable};
