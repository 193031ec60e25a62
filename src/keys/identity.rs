//! Who asks, as policies and the audit log name it: the process behind a call with its user,
//! groups, login and program, read from the system while the process waits for its answer.

use std::cell::OnceCell;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::unistd::{Group, User};

use super::provider::Caller;

/// The process behind a request.
pub struct Identity {
    caller: Caller,
    user_name: Option<Arc<str>>,
    login_uid: Option<u32>,
    executable: Option<Arc<Path>>,
    groups: OnceCell<Vec<u32>>,
}

impl Identity {
    /// Of the process `caller`, as far as the system tells.
    pub fn of(caller: Caller) -> Self {
        let proc = PathBuf::from(format!("/proc/{}", caller.pid));
        let login_uid = fs::read_to_string(proc.join("loginuid")).ok();
        Self {
            caller,
            user_name: user_name(caller.uid).map(Arc::from),
            login_uid: login_uid
                .and_then(|text| text.trim().parse().ok())
                .filter(|uid| *uid != NO_LOGIN),
            executable: fs::read_link(proc.join("exe")).ok().map(Arc::from),
            groups: OnceCell::new(),
        }
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
        self.groups.get_or_init(|| {
            let mut groups = supplementary_groups(self.caller.pid);
            groups.push(self.caller.gid);
            groups
        })
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

fn supplementary_groups(pid: u32) -> Vec<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let groups = status.lines().find_map(|line| line.strip_prefix("Groups:"));
    groups.unwrap_or_default().split_whitespace().filter_map(|gid| gid.parse().ok()).collect()
}

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
    fn names_and_numbers() {
        assert_eq!((user_id("root"), group_id("root")), (Some(0), Some(0)));
        assert_eq!((user_id("4000000"), group_id("4000000")), (Some(4_000_000), Some(4_000_000)));
        assert_eq!((user_id("no such user"), group_id("no such group")), (None, None));
    }
}
