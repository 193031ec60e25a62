//! How a command ends: an exit code, and for a failure one line that says what happened, to
//! what, and what to do. A code, once given, is never used for anything else.

use std::fmt::Display;
use std::process::ExitCode;

use crate::fuse::MountError;
use crate::keys::KeyError;
use crate::volume::VolumeError;

/// What an exit code stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Done.
    Ok,
    /// None of the others.
    Other,
    /// The command line or an option is wrong.
    Usage,
    /// The backing directory, or a backing file, is missing, foreign or fails.
    Backing,
    /// The mount point cannot be used.
    MountPoint,
    /// The key is missing, wrong or not permitted.
    Key,
    /// The keystore is missing, unsafe or unreadable.
    Keystore,
    /// FUSE is not available, or refused the mount.
    Fuse,
    /// The volume is mounted already.
    InUse,
    /// A volume or file is of a format that is not known, or is damaged.
    Format,
    /// The mount is in use.
    Busy,
    /// There is no ssefs mount at the path.
    NotMounted,
    /// The work was done in part: some files were left as they were.
    Incomplete,
    /// The audit log was altered, or a part of it is missing.
    AuditFinding,
    /// A check has found damage.
    Damaged,
    /// A check has found damage, or work for recovery, and has repaired all of it.
    Repaired,
    /// A check could not look at everything.
    NotChecked,
}

/// A command that failed.
#[derive(Debug)]
pub struct Failure {
    /// What the process exits with.
    pub exit: Exit,
    /// One line, without the program's name.
    pub message: String,
}

/// What a command comes to.
pub type Outcome<T = ()> = Result<T, Failure>;

impl Exit {
    /// All of them, in the order of their codes.
    pub const ALL: [Self; 17] = [
        Self::Ok,
        Self::Other,
        Self::Usage,
        Self::Backing,
        Self::MountPoint,
        Self::Key,
        Self::Keystore,
        Self::Fuse,
        Self::InUse,
        Self::Format,
        Self::Busy,
        Self::NotMounted,
        Self::Incomplete,
        Self::AuditFinding,
        Self::Damaged,
        Self::Repaired,
        Self::NotChecked,
    ];

    /// The number. Documented in the README and the manual page.
    pub fn code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Other => 1,
            Self::Usage => 2,
            Self::Backing => 3,
            Self::MountPoint => 4,
            Self::Key => 5,
            Self::Keystore => 6,
            Self::Fuse => 7,
            Self::InUse => 8,
            Self::Format => 9,
            Self::Busy => 10,
            Self::NotMounted => 11,
            Self::Incomplete => 12,
            Self::AuditFinding => 13,
            Self::Damaged => 14,
            Self::Repaired => 15,
            Self::NotChecked => 16,
        }
    }

    /// The meaning of a number.
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|exit| exit.code() == code)
    }

    /// The number that mount(8) expects of a mount helper.
    pub fn helper_code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Usage => 1,
            _ => 32,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        exit.code().into()
    }
}

impl Failure {
    /// A failure with its line.
    pub fn new(exit: Exit, message: impl Display) -> Self {
        // One line, also where a tool that was called said more.
        let message = message.to_string().trim().replace('\n', "; ");
        Self { exit, message }
    }
}

impl From<MountError> for Failure {
    fn from(error: MountError) -> Self {
        let exit = match &error {
            MountError::Unmount { source, .. } if source.raw_os_error() == Some(libc::EBUSY) => {
                Exit::Busy
            }
            _ => Exit::Fuse,
        };
        Self::new(exit, error)
    }
}

impl From<KeyError> for Failure {
    fn from(error: KeyError) -> Self {
        Self::new(key_exit(&error), error)
    }
}

impl From<VolumeError> for Failure {
    fn from(error: VolumeError) -> Self {
        let exit = match &error {
            VolumeError::Backing(_) => Exit::Backing,
            VolumeError::Key(error) => key_exit(error),
            VolumeError::InUse { .. } => Exit::InUse,
            _ => Exit::Format,
        };
        Self::new(exit, error)
    }
}

fn key_exit(error: &KeyError) -> Exit {
    match error {
        KeyError::Unsafe { .. }
        | KeyError::Damaged { .. }
        | KeyError::Audit { .. }
        | KeyError::Io { .. } => Exit::Keystore,
        KeyError::Format(_) => Exit::Format,
        _ => Exit::Key,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_distinct_and_found_again() {
        for (index, exit) in Exit::ALL.into_iter().enumerate() {
            assert_eq!(usize::from(exit.code()), index);
            assert_eq!(Exit::from_code(exit.code()), Some(exit));
        }
        assert_eq!(Exit::from_code(200), None);
    }

    #[test]
    fn every_code_is_documented() {
        for (name, text) in [
            ("README.md", include_str!("../../README.md")),
            ("doc/ssefs.1", include_str!("../../doc/ssefs.1")),
        ] {
            for exit in Exit::ALL {
                let row = match name {
                    "README.md" => format!("| {} | ", exit.code()),
                    _ => format!(".B {}\n", exit.code()),
                };
                assert!(text.contains(&row), "{name} says nothing of exit code {}", exit.code());
            }
        }
    }

    #[test]
    fn a_failure_is_one_line() {
        let failure = Failure::new(Exit::Fuse, "first\nsecond\n");
        assert_eq!(failure.message, "first; second");
    }

    #[test]
    fn helper_codes_are_those_of_mount_8() {
        assert_eq!(Exit::Ok.helper_code(), 0);
        assert_eq!(Exit::Usage.helper_code(), 1);
        assert_eq!(Exit::InUse.helper_code(), 32);
    }
}
