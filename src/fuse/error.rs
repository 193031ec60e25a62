//! Why a mount did not come about, or did not go away.

use std::io;
use std::path::PathBuf;

/// A mount, or an unmount, that failed.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// There is no `/dev/fuse`: the kernel module is not loaded, or a container hides it.
    #[error(
        "/dev/fuse is missing; load it with 'modprobe fuse', or start the container with \
         '--device /dev/fuse --cap-add SYS_ADMIN'"
    )]
    DeviceMissing,
    /// `/dev/fuse` cannot be opened.
    #[error("/dev/fuse cannot be opened: {0}; a container needs '--device /dev/fuse'")]
    Device(#[source] io::Error),
    /// An ordinary user mounts through `fusermount3`, which is not installed.
    #[error("fusermount3 is missing, which mounts for ordinary users: 'apt install fuse3'")]
    HelperMissing,
    /// `fusermount3` could not be run or spoken to.
    #[error("fusermount3: {0}")]
    HelperFailed(#[source] io::Error),
    /// `fusermount3` refused `allow_other`.
    #[error(
        "option 'allow_other' is not permitted: have root add a line 'user_allow_other' to \
         /etc/fuse.conf"
    )]
    AllowOtherRefused,
    /// `fusermount3` refused; its own words.
    #[error("fusermount3: {0}")]
    HelperRefused(String),
    /// The system call failed.
    #[error("mounting on {path}: {source}")]
    Mount {
        /// The mount point.
        path: PathBuf,
        /// The error.
        source: io::Error,
    },
    /// The kernel and this program did not agree on how to talk.
    #[error("starting the session with the kernel: {0}")]
    Handshake(#[source] io::Error),
    /// FUSE over io_uring was asked for and is not to be had.
    #[error("option 'transport=uring': {0}")]
    NoRing(String),
    /// The mount is there, yet does not answer.
    #[error("{path} was mounted but does not answer: {source}")]
    NotAnswering {
        /// The mount point.
        path: PathBuf,
        /// The error of the first request.
        source: io::Error,
    },
    /// Unmounting failed.
    #[error("unmounting {path}: {source}")]
    Unmount {
        /// The mount point.
        path: PathBuf,
        /// The error.
        source: io::Error,
    },
}
