//! Who asks, as policies and the audit log name it: the process behind a call with its user,
//! groups, login and program, read from the system while the process waits for its answer.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs;
use std::num::NonZeroUsize;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use lru::LruCache;
use nix::unistd::{Group, User};
use rustix::fd::OwnedFd;
use rustix::fs::{CWD, Mode, OFlags, openat, readlinkat};

use super::provider::Caller;
use crate::sys::process::Status;

/// The process behind a request.
pub struct Identity {
    caller: Caller,
    user_name: Option<Arc<str>>,
    login_uid: Option<u32>,
    executable: Option<PathBuf>,
    groups: Vec<u32>,
    /// How the audit log writes it, once it did: each record of the process has the same.
    recorded: OnceLock<Box<[u8]>>,
}

/// Identities of processes that ask again and again. What is remembered of a process is looked
/// up anew after a second, and when it runs another program; the ids are always those of the
/// request. Whether it does is not asked within [`NO_EXECVE_WITHIN`] of its last request.
pub struct Identities {
    seen: Mutex<LruCache<Caller, Seen>>,
    /// The lookup of a name may ask a directory server.
    names: Mutex<HashMap<u32, Named>>,
}

struct Named {
    at: Instant,
    name: Option<Arc<str>>,
}

struct Seen {
    at: Instant,
    /// When it last asked.
    asked: Instant,
    identity: Arc<Identity>,
    /// Its directory under `/proc`: answers no more once the process is gone, whoever has its
    /// number then.
    process: Option<Arc<OwnedFd>>,
}

impl Identity {
    /// Of the process or thread `caller`, as far as the system tells.
    pub fn of(caller: Caller) -> Self {
        Self::named(caller, user_name(caller.uid).map(Arc::from))
    }

    /// Of this process.
    pub fn own() -> Self {
        Self::of(Caller::own())
    }

    /// User, group and process id.
    pub fn caller(&self) -> Caller {
        self.caller
    }

    /// The user's name, if the system knows one.
    pub fn user_name(&self) -> Option<&str> {
        self.user_name.as_deref()
    }

    /// The user that logged in, whatever the process became since; `None` for services.
    pub fn login_uid(&self) -> Option<u32> {
        self.login_uid
    }

    /// The program.
    pub fn executable(&self) -> Option<&Path> {
        self.executable.as_deref()
    }

    /// The process's groups: the one of the call and the supplementary ones.
    pub fn groups(&self) -> &[u32] {
        &self.groups
    }

    /// How the audit log writes it, by `write` if it never did.
    pub(super) fn recorded(&self, write: impl FnOnce() -> Box<[u8]>) -> &[u8] {
        self.recorded.get_or_init(write)
    }

    fn named(caller: Caller, user_name: Option<Arc<str>>) -> Self {
        let proc = PathBuf::from(format!("/proc/{}", caller.pid));
        let login_uid = fs::read_to_string(proc.join("loginuid")).ok();
        let status = Status::of(caller.pid);
        let process = status.field("Tgid").next().and_then(|id| id.parse().ok());
        let groups = status.field("Groups").filter_map(|gid| gid.parse().ok());
        let mut groups: Vec<u32> = groups.collect();
        groups.push(caller.gid);
        Self {
            // The kernel names the thread; people look for the process.
            caller: Caller { pid: process.unwrap_or(caller.pid), ..caller },
            user_name,
            login_uid: login_uid
                .and_then(|text| text.trim().parse().ok())
                .filter(|uid| *uid != NO_LOGIN),
            executable: fs::read_link(proc.join("exe")).ok(),
            groups,
            recorded: OnceLock::new(),
        }
    }
}

impl Identities {
    /// With none known yet.
    pub fn new() -> Self {
        Self { seen: Mutex::new(LruCache::new(MAX_SEEN)), names: Mutex::default() }
    }

    /// That of the process or thread `caller`.
    pub fn of(&self, caller: Caller) -> Arc<Identity> {
        let now = Instant::now();
        let seen = {
            let mut all = lock(&self.seen);
            let fresh = all.get_mut(&caller).filter(|seen| now - seen.at < SEEN_FOR);
            fresh.map(|seen| {
                let since = now - std::mem::replace(&mut seen.asked, now);
                (Arc::clone(&seen.identity), seen.process.clone(), since)
            })
        };
        if let Some((identity, Some(process), since)) = seen
            && identity.executable.is_some()
            && (since < NO_EXECVE_WITHIN || identity.executable == program(&process))
        {
            return identity;
        }
        // Opened first: what is read after it is of the process that it stays with.
        let path = format!("/proc/{}", caller.pid);
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let process = openat(CWD, path, flags, Mode::empty()).ok().map(Arc::new);
        let identity = Arc::new(Identity::named(caller, self.name(caller.uid)));
        let seen = Seen { at: now, asked: now, identity: Arc::clone(&identity), process };
        lock(&self.seen).put(caller, seen);
        identity
    }

    /// Until when this is the identity of its process, if that keeps asking within
    /// [`NO_EXECVE_WITHIN`].
    pub(super) fn stands_until(&self, caller: Caller, identity: &Arc<Identity>) -> Option<Instant> {
        let all = lock(&self.seen);
        let seen = all.peek(&caller)?;
        let known = seen.process.is_some() && identity.executable.is_some();
        (known && Arc::ptr_eq(&seen.identity, identity)).then(|| seen.at + SEEN_FOR)
    }

    fn name(&self, uid: u32) -> Option<Arc<str>> {
        if let Some(named) = lock(&self.names).get(&uid)
            && named.at.elapsed() < NAMED_FOR
        {
            return named.name.clone();
        }
        let name: Option<Arc<str>> = user_name(uid).map(Arc::from);
        let mut names = lock(&self.names);
        if names.len() >= MAX_SEEN.get() {
            names.clear();
        }
        names.insert(uid, Named { at: Instant::now(), name: name.clone() });
        name
    }
}

impl Default for Identities {
    fn default() -> Self {
        Self::new()
    }
}

/// The name of a user.
pub fn user_name(uid: u32) -> Option<String> {
    User::from_uid(uid.into()).ok().flatten().map(|user| user.name)
}

/// The id of a user, given by name or number.
pub fn user_id(name: &str) -> Option<u32> {
    match User::from_name(name) {
        Ok(Some(user)) => Some(user.uid.as_raw()),
        _ => name.parse().ok(),
    }
}

/// The id of a group, given by name or number.
pub fn group_id(name: &str) -> Option<u32> {
    match Group::from_name(name) {
        Ok(Some(group)) => Some(group.gid.as_raw()),
        _ => name.parse().ok(),
    }
}

fn program(process: &OwnedFd) -> Option<PathBuf> {
    let path = readlinkat(process, "exe", Vec::with_capacity(256)).ok()?;
    Some(PathBuf::from(OsString::from_vec(path.into_bytes())))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A process cannot ask, replace its program by `execve(2)` and ask again in less: loading even
/// a small static program takes twice as long before its first instruction.
pub(super) const NO_EXECVE_WITHIN: Duration = Duration::from_micros(150);
const SEEN_FOR: Duration = Duration::from_secs(1);
const NAMED_FOR: Duration = Duration::from_secs(60);
const MAX_SEEN: NonZeroUsize = NonZeroUsize::new(256).expect("is not zero");
/// What the kernel tells for a process without a login.
const NO_LOGIN: u32 = u32::MAX;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_known() {
        let own = Identity::own();
        assert_eq!(own.executable(), std::env::current_exe().ok().as_deref());
        assert!(own.groups().contains(&own.caller().gid));
        assert_eq!(own.user_name().and_then(user_id), Some(own.caller().uid));
    }

    #[test]
    fn a_process_that_is_gone_has_its_ids_left() {
        let gone = Identity::of(Caller { uid: 4_000_000, gid: 4_000_001, pid: u32::MAX });
        assert_eq!((gone.user_name(), gone.login_uid(), gone.executable()), (None, None, None));
        assert_eq!(gone.groups(), [4_000_001]);
    }

    #[test]
    fn a_process_is_looked_up_again_when_it_runs_another_program() {
        let identities = Identities::new();
        let own = Caller::own();
        let first = identities.of(own);
        assert!(Arc::ptr_eq(&first, &identities.of(own)));
        assert_eq!(first.caller(), own);
        let mut child = std::process::Command::new("sh")
            .args(["-c", "read _; exec sleep 60"])
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let caller = Caller { pid: child.id(), ..own };
        let is_running = |name: &str| {
            let identity = identities.of(caller);
            identity.executable().is_some_and(|path| path.ends_with(name))
        };
        let until = Instant::now() + Duration::from_secs(10);
        while is_running(std::env::current_exe().unwrap().to_str().unwrap()) {
            assert!(Instant::now() < until, "the shell starts");
        }
        drop(child.stdin.take());
        while !is_running("sleep") && !is_running("coreutils") {
            assert!(Instant::now() < until, "the other program is seen");
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn a_thread_is_known_by_its_process() {
        let thread = rustix::thread::gettid().as_raw_nonzero().get().unsigned_abs();
        let identity = Identity::of(Caller { pid: thread, ..Caller::own() });
        assert_eq!(identity.caller().pid, std::process::id());
    }

    #[test]
    fn names_and_numbers() {
        assert_eq!((user_id("root"), group_id("root")), (Some(0), Some(0)));
        assert_eq!((user_id("4000000"), group_id("4000000")), (Some(4_000_000), Some(4_000_000)));
        assert_eq!((user_id("no such user"), group_id("no such group")), (None, None));
    }
}
