//! `ssefs unmount`: unmounts, and returns when the daemon has let go of the volume, which it
//! does after everything is on the backing store.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::args::UnmountArgs;
use super::exit::{Exit, Failure, Outcome};
use super::mountinfo::{Mount, mounted_at};
use super::stats::daemon_pid;
use crate::format::METADATA_DIR;
use crate::fuse::unmount;

/// The command.
pub fn run(args: &UnmountArgs) -> Outcome {
    let (mount_point, mount) = find(&args.mount_point)?;
    // Opened before: afterwards another mount may have the volume.
    let lock = File::open(Path::new(&mount.source).join(METADATA_DIR).join("lock")).ok();
    // The source is not the backing directory where it was given another name.
    let daemon = if lock.is_none() { daemon(&mount_point) } else { None };
    if args.lazy {
        flush(&mount_point);
    }
    unmount(&mount_point, args.lazy).map_err(|error| failure(&mount_point, &error))?;
    let waited = match (lock, daemon) {
        _ if args.lazy => Ok(()),
        (Some(lock), _) => wait(&lock),
        (None, Some(daemon)) => wait_for_end(&daemon),
        (None, None) => {
            let shown = mount_point.display();
            log::warn!("{shown}: neither its volume nor its daemon can be seen; not waiting");
            Ok(())
        }
    };
    waited.map_err(|error| {
        Failure::new(Exit::Other, format!("unmounted, but not known to be done: {error}"))
    })
}

/// A descriptor of the daemon's process, which stays that of this process.
fn daemon(mount_point: &Path) -> Option<OwnedFd> {
    let pid = daemon_pid(mount_point).ok()?;
    let pid = Pid::from_raw(i32::try_from(pid).ok()?)?;
    pidfd_open(pid, PidfdFlags::empty()).ok()
}

/// The ssefs mount at a path. A dead one can still be found: only its parent is walked.
fn find(given: &Path) -> Outcome<(PathBuf, Mount)> {
    let refused = |problem: &dyn std::fmt::Display| {
        Failure::new(Exit::NotMounted, format!("{}: {problem}", given.display()))
    };
    let by_parent = given.file_name().and_then(|name| {
        let parent = given.parent().filter(|parent| !parent.as_os_str().is_empty());
        Some(std::fs::canonicalize(parent.unwrap_or(Path::new("."))).ok()?.join(name))
    });
    let candidates = by_parent.into_iter().chain(std::fs::canonicalize(given).ok());
    for path in candidates {
        if let Some(mount) = mounted_at(&path).map_err(|error| refused(&error))? {
            if mount.is_ssefs() {
                return Ok((path, mount));
            }
            return Err(refused(&format!("is a mount of type {}, not of ssefs", mount.kind)));
        }
    }
    Err(refused(&"there is no ssefs mount"))
}

fn failure(mount_point: &Path, error: &io::Error) -> Failure {
    let shown = mount_point.display();
    match error.raw_os_error() {
        Some(libc::EBUSY) => Failure::new(
            Exit::Busy,
            format!(
                "{shown}: in use; 'fuser -vm {shown}' or 'lsof {shown}' shows by whom, and \
                 'ssefs unmount --lazy' detaches it all the same"
            ),
        ),
        Some(libc::EPERM) => {
            Failure::new(Exit::MountPoint, format!("{shown}: only who mounted it may unmount it"))
        }
        _ => Failure::new(Exit::Other, format!("{shown}: {error}")),
    }
}

/// A lazy unmount writes nothing back by itself. A mount that is dead has nothing to write.
fn flush(mount_point: &Path) {
    let flushed =
        File::open(mount_point).and_then(|root| rustix::fs::syncfs(root).map_err(io::Error::from));
    if let Err(error) = flushed {
        log::debug!("{}: {error}", mount_point.display());
    }
}

/// Until nobody holds the volume.
fn wait(lock: &File) -> io::Result<()> {
    loop {
        match flock(lock, FlockOperation::NonBlockingLockShared) {
            Ok(()) => return Ok(flock(lock, FlockOperation::Unlock)?),
            Err(Errno::WOULDBLOCK | Errno::INTR) => std::thread::sleep(POLL_EVERY),
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Until the process has ended.
fn wait_for_end(daemon: &OwnedFd) -> io::Result<()> {
    let mut ended = [PollFd::new(daemon, PollFlags::IN)];
    rustix::io::retry_on_intr(|| poll(&mut ended, None))?;
    Ok(())
}

const POLL_EVERY: Duration = Duration::from_millis(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ssefs_mounts_are_unmounted() {
        let failure = find(Path::new("/proc")).unwrap_err();
        assert_eq!(failure.exit, Exit::NotMounted);
        assert!(failure.message.contains("is a mount of type proc"), "{}", failure.message);
        let dir = tempfile::tempdir().unwrap();
        let failure = find(dir.path()).unwrap_err();
        assert!(failure.message.contains("there is no ssefs mount"), "{}", failure.message);
        assert_eq!(find(Path::new("no/such/dir")).unwrap_err().exit, Exit::NotMounted);
    }

    #[test]
    fn busy_names_the_tools() {
        let busy = io::Error::from_raw_os_error(libc::EBUSY);
        let failure = failure(Path::new("/m"), &busy);
        assert_eq!(failure.exit, Exit::Busy);
        assert!(failure.message.contains("fuser -vm /m"), "{}", failure.message);
    }

    #[test]
    fn the_wait_ends_when_the_lock_is_free() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let holder = file.reopen().unwrap();
        flock(&holder, FlockOperation::LockExclusive).unwrap();
        let waiter = File::open(file.path()).unwrap();
        let thread = std::thread::spawn(move || wait(&waiter));
        std::thread::sleep(3 * POLL_EVERY);
        assert!(!thread.is_finished());
        drop(holder);
        thread.join().unwrap().unwrap();
    }
}
