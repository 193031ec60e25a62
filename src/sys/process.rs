//! Limits of this process and what others may see of its memory. Everything here concerns the
//! whole process, so it is called once, at the start.

use std::io;
use std::str::SplitAsciiWhitespace;

use rustix::fs::{Mode, OFlags};
use rustix::io::fcntl_dupfd_cloexec;
use rustix::mm::{MlockAllFlags, mlockall};
use rustix::process::{
    DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit,
};
use rustix::thread::CapabilitySet;

/// Lets neither a core dump nor a debugger of the same user read the memory.
pub fn forbid_dumps() -> io::Result<()> {
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    Ok(())
}

/// Raises the soft limit of open files to the hard one; returns the limit now in force.
pub fn raise_open_files_limit() -> io::Result<u64> {
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?;
    Ok(maximum.unwrap_or(u64::MAX))
}

/// Makes room for so many descriptors, before there are threads. The table of a process that has
/// some grows only when every CPU has let go of the old one (`synchronize_rcu` in the kernel), and
/// for that an open waits more than ten milliseconds.
pub fn reserve_descriptors(count: u32) -> io::Result<()> {
    let highest = i32::try_from(count.saturating_sub(1)).unwrap_or(i32::MAX);
    let any = rustix::fs::open("/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    fcntl_dupfd_cloexec(&any, highest)?;
    Ok(())
}

/// Keeps all memory, present and future, out of swap; false where the process may not.
///
/// Nothing is locked under a finite `RLIMIT_MEMLOCK`, because later allocations past the limit
/// would fail then.
pub fn lock_all_memory() -> io::Result<bool> {
    if setrlimit(Resource::Memlock, Rlimit { current: None, maximum: None }).is_err() {
        return Ok(false);
    }
    mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT)?;
    Ok(true)
}

/// Whether this process has other rights to files than its user: root without
/// `CAP_DAC_OVERRIDE`, or another user with capabilities.
pub fn has_unusual_rights() -> io::Result<bool> {
    let held = rustix::thread::capabilities(None)?.effective;
    Ok(match rustix::process::geteuid().is_root() {
        true => !held.contains(CapabilitySet::DAC_OVERRIDE),
        false => !held.is_empty(),
    })
}

/// What `/proc/PID/status` says of a process or thread; nothing once it is gone.
pub struct Status(String);

impl Status {
    /// Read now.
    pub fn of(pid: u32) -> Self {
        Self(std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default())
    }

    /// The words of a field; none where there is no such field.
    pub fn field(&self, name: &str) -> SplitAsciiWhitespace<'_> {
        let mut lines =
            self.0.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        lines.next().unwrap_or_default().split_ascii_whitespace()
    }
}

/// Makes files get the very mode bits that they are created with.
pub fn clear_umask() {
    rustix::process::umask(rustix::fs::Mode::empty());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status_field(name: &str) -> String {
        Status::of(std::process::id()).field(name).next().unwrap().to_owned()
    }

    #[test]
    fn a_process_that_is_gone_says_nothing() {
        assert_eq!(status_field("Tgid"), std::process::id().to_string());
        assert_eq!(Status::of(std::process::id()).field("Tgi").next(), None);
        assert_eq!(Status::of(u32::MAX).field("Tgid").next(), None);
    }

    #[test]
    fn dumps_are_forbidden_and_own_descriptors_still_open() {
        forbid_dumps().unwrap();
        assert_eq!(rustix::process::dumpable_behavior().unwrap(), DumpableBehavior::NotDumpable);
        assert_eq!(getrlimit(Resource::Core).maximum, Some(0));
        let file = tempfile::NamedTempFile::new().unwrap();
        let number = std::os::fd::AsRawFd::as_raw_fd(file.as_file());
        std::fs::File::open(format!("/proc/self/fd/{number}")).unwrap();
    }

    #[test]
    fn the_open_files_limit_reaches_its_maximum() {
        let limit = raise_open_files_limit().unwrap();
        assert_eq!(getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX), limit);
    }

    #[test]
    fn reserved_descriptors_take_no_growing() {
        let most = raise_open_files_limit().unwrap();
        let size = || status_field("FDSize").parse::<u64>().unwrap();
        let wanted = (2 * size()).min(most);
        reserve_descriptors(u32::try_from(wanted).unwrap()).unwrap();
        assert!(size() >= wanted, "{} of {wanted}", size());
        reserve_descriptors(u32::MAX).unwrap_err();
    }

    #[test]
    fn memory_is_locked_where_the_process_may_and_still_grows() {
        let locked = lock_all_memory().unwrap();
        assert_eq!(getrlimit(Resource::Memlock).current.is_none(), locked);
        assert!(!locked || status_field("VmLck") != "0");
        let more = vec![1_u8; 64 << 20];
        assert_eq!(more.iter().map(|&byte| usize::from(byte)).sum::<usize>(), more.len());
    }
}
