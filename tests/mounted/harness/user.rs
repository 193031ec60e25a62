//! Other users: runs a closure on a thread of its own with another uid, gid and groups.
//!
//! Credentials are per thread in Linux, so other tests of the same process keep theirs.
//! The thread also has its own umask and working directory.

use std::thread;

use rustix::fs::{Gid, Mode, Uid};

use super::sys;

/// Who a piece of a test runs as.
#[derive(Clone, Debug)]
pub struct User {
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
}

/// An ordinary user with an account everywhere, for programs that look their user up.
pub const NOBODY: u32 = 65_534;
/// An ordinary user with nothing of its own.
pub const ALICE: u32 = 54_321;
/// A second ordinary user, of no common group with the first.
pub const BOB: u32 = 54_322;

impl User {
    /// An ordinary user whose only group has the same number.
    pub fn ordinary(id: u32) -> Self {
        Self { uid: id, gid: id, groups: Vec::new() }
    }

    pub fn in_groups(mut self, groups: &[u32]) -> Self {
        self.groups = groups.to_vec();
        self
    }

    /// Runs `body` as this user. A panic in it is a panic of the caller.
    pub fn run<T: Send>(&self, body: impl FnOnce() -> T + Send) -> T {
        on_own_thread(|| {
            let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.gid));
            let groups: Vec<Gid> = self.groups.iter().map(|&group| Gid::from_raw(group)).collect();
            rustix::thread::set_thread_groups(&groups).unwrap();
            rustix::thread::set_thread_res_gid(gid, gid, gid).unwrap();
            rustix::thread::set_thread_res_uid(uid, uid, uid).unwrap();
            rustix::process::umask(Mode::from_raw_mode(0o022));
            body()
        })
    }
}

/// Runs `body` on a thread with its own umask and working directory.
pub fn on_own_thread<T: Send>(body: impl FnOnce() -> T + Send) -> T {
    let name = thread::current().name().unwrap_or("test").to_owned();
    thread::scope(|scope| {
        let run = || {
            sys::own_directory_and_umask().unwrap();
            body()
        };
        let joined = thread::Builder::new().name(name).spawn_scoped(scope, run).unwrap().join();
        joined.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}
