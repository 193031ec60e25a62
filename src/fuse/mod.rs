//! From the kernel's FUSE protocol to [`crate::fs::FileSystem`]: `classic` serves `/dev/fuse`,
//! `ring` serves FUSE over io_uring, `session` mounts, runs and unmounts. Holds no logic of a file
//! system and no cryptography.

mod aside;
mod asked;
mod attach;
mod classic;
mod convert;
mod error;
mod guard;
mod listing;
mod negotiate;
mod ring;
mod seeks;
mod session;
mod transport;
mod tune;

pub use attach::{Detached, FilesystemFlag, MAX_READ, MountPlan, mount_flags, unmount};
pub use error::MountError;
pub use session::{KernelCache, Session, Stopper};
pub use transport::{Choice as TransportChoice, Transport};
