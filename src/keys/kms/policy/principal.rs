//! Users and groups as policies and grants name them. A number is always an id and never a
//! name; a name is looked up when it is needed and trusted for a minute. A name that the system
//! does not know stands for nobody.

use std::ffi::CString;
use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use nix::unistd::{Gid, Uid, User, getgrouplist};
use serde::{Deserialize, Serialize};

use crate::keys::identity::{group_id, user_id};

/// One user or one group.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub struct Principal {
    kind: Kind,
    /// As it was written: a number in decimal digits, or a name.
    text: String,
    id: Id,
}

/// Which of the system's two name spaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    User,
    Group,
}

#[derive(Debug)]
enum Id {
    Number(u32),
    /// What the name was last found to be, and when: seconds of [`uptime_s`] plus one above, the
    /// id or [`NOBODY`] below; 0 is never.
    Named(AtomicU64),
}

/// As grants keep it.
#[derive(Serialize, Deserialize)]
enum Written {
    User(String),
    Group(String),
}

impl Principal {
    /// A user by name or number; the error says what is wrong with it.
    pub fn user(text: &str) -> Result<Self, String> {
        Self::new(Kind::User, text)
    }

    /// A group by name or number.
    pub fn group(text: &str) -> Result<Self, String> {
        Self::new(Kind::Group, text)
    }

    /// Whether it is a group.
    pub fn is_group(&self) -> bool {
        self.kind == Kind::Group
    }

    /// The name or number as written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The user or group id; `None` when the name is unknown now.
    pub fn id(&self) -> Option<u32> {
        match &self.id {
            Id::Number(id) => Some(*id),
            Id::Named(known) => {
                let lookup = match self.kind {
                    Kind::User => user_id,
                    Kind::Group => group_id,
                };
                resolve(known, uptime_s(), || lookup(&self.text))
            }
        }
    }

    fn new(kind: Kind, text: &str) -> Result<Self, String> {
        let what = match kind {
            Kind::User => "user",
            Kind::Group => "group",
        };
        let refuse = |problem: &str| Err(format!("'{}' {problem}", text.escape_debug()));
        if text.is_empty() {
            return Err(format!("the name of a {what} is empty"));
        }
        if text.len() > MAX_NAME_LEN {
            return Err(format!("the name of a {what} is longer than {MAX_NAME_LEN} bytes"));
        }
        if text.contains(['*', '?']) {
            return refuse(&format!("has a wildcard: name each {what}, or write \"*\" for all"));
        }
        if text.chars().any(|c| c.is_control() || c == ':' || c == ',') {
            return refuse(&format!("is no name of a {what}"));
        }
        let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
        if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return match text.parse() {
                Ok(id) if id != NOBODY && text == format!("{id}") => {
                    Ok(Self { kind, text: text.to_owned(), id: Id::Number(id) })
                }
                _ => refuse(&format!("is no {what} id: 0 to {}", NOBODY - 1)),
            };
        }
        Ok(Self { kind, text: text.to_owned(), id: Id::Named(AtomicU64::new(0)) })
    }
}

/// The groups that the system gives a user at login; empty for a user without a name.
pub fn groups_of_user(uid: u32) -> Vec<u32> {
    let Ok(Some(user)) = User::from_uid(Uid::from_raw(uid)) else { return Vec::new() };
    let Ok(name) = CString::new(user.name) else { return Vec::new() };
    let groups = getgrouplist(&name, user.gid).unwrap_or_else(|_| vec![user.gid]);
    groups.into_iter().map(Gid::as_raw).collect()
}

/// The id from `known` if it is fresh at `now_s`, else from `lookup`. Two threads may look up at
/// once; each stores what it found.
fn resolve(known: &AtomicU64, now_s: u32, lookup: impl FnOnce() -> Option<u32>) -> Option<u32> {
    let value = known.load(Ordering::Relaxed);
    let (since, id) = ((value >> 32) as u32, value as u32);
    let fresh = since != 0 && now_s.saturating_add(1).saturating_sub(since) < TRUSTED_FOR_S;
    let id = match fresh {
        true => id,
        false => {
            let found = lookup().unwrap_or(NOBODY);
            let since = u64::from(now_s.saturating_add(1));
            known.store(since << 32 | u64::from(found), Ordering::Relaxed);
            found
        }
    };
    (id != NOBODY).then_some(id)
}

/// Seconds since the first call.
fn uptime_s() -> u32 {
    static START: OnceLock<Instant> = OnceLock::new();
    let elapsed = START.get_or_init(Instant::now).elapsed().as_secs();
    u32::try_from(elapsed).unwrap_or(u32::MAX)
}

impl PartialEq for Principal {
    fn eq(&self, other: &Self) -> bool {
        (self.kind, &self.text) == (other.kind, &other.text)
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            Kind::User => write!(f, "user {}", self.text),
            Kind::Group => write!(f, "group {}", self.text),
        }
    }
}

impl Clone for Id {
    fn clone(&self) -> Self {
        match self {
            Self::Number(id) => Self::Number(*id),
            Self::Named(known) => Self::Named(AtomicU64::new(known.load(Ordering::Relaxed))),
        }
    }
}

impl TryFrom<Written> for Principal {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        match written {
            Written::User(text) => Self::user(&text),
            Written::Group(text) => Self::group(&text),
        }
    }
}

impl From<Principal> for Written {
    fn from(principal: Principal) -> Self {
        match principal.kind {
            Kind::User => Self::User(principal.text),
            Kind::Group => Self::Group(principal.text),
        }
    }
}

/// What no user and no group has: -1 tells the kernel to leave an id as it is.
const NOBODY: u32 = u32::MAX;
const TRUSTED_FOR_S: u32 = 60;
const MAX_NAME_LEN: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_an_id_and_never_a_name() {
        let id = |text| Principal::user(text).unwrap().id();
        assert_eq!(id("0"), Some(0));
        assert_eq!(id("4294967294"), Some(4_294_967_294));
        assert_eq!(id("root"), Some(0));
        assert_eq!(id("no-such-user"), None);
        assert_eq!(Principal::group("root").unwrap().id(), Some(0));
        for text in ["4294967295", "99999999999999", "+5", "-1", "007", "00"] {
            let problem = Principal::user(text).unwrap_err();
            assert!(problem.contains("is no user id: 0 to 4294967294"), "{problem}");
        }
    }

    #[test]
    fn what_is_no_name_is_refused() {
        let long = "x".repeat(MAX_NAME_LEN + 1);
        for text in ["", "al*", "b?b", "a:b", "a,b", "a\nb", "a\0b", &long] {
            assert!(Principal::user(text).is_err(), "{text:?}");
            assert!(Principal::group(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_name_is_looked_up_again_after_a_minute() {
        let known = AtomicU64::new(0);
        assert_eq!(resolve(&known, 0, || Some(7)), Some(7));
        assert_eq!(resolve(&known, 59, || panic!("looked up too early")), Some(7));
        assert_eq!(resolve(&known, 60, || None), None);
        assert_eq!(resolve(&known, 119, || panic!("looked up too early")), None);
        assert_eq!(resolve(&known, 120, || Some(8)), Some(8));
        assert_eq!(resolve(&known, 120, || panic!("looked up too early")), Some(8));
    }

    #[test]
    fn it_is_kept_as_a_policy_writes_it() {
        let group = Principal::group("staff").unwrap();
        let kept = serde_json::to_string(&group).unwrap();
        assert_eq!(kept, r#"{"Group":"staff"}"#);
        assert_eq!(serde_json::from_str::<Principal>(&kept).unwrap(), group);
        assert!(serde_json::from_str::<Principal>(r#"{"User":"*"}"#).is_err());
    }

    #[test]
    fn the_groups_of_a_user() {
        assert!(groups_of_user(0).contains(&0));
        assert_eq!(groups_of_user(4_000_000), Vec::<u32>::new());
    }
}
