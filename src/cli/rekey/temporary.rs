//! The copy of a file before it takes the file's name. Its own name says which process makes
//! it, so that what a killed one has left is told from what another one is at.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{AtFlags, Dir, FlockOperation, Mode, OFlags, flock, openat, unlinkat};
use rustix::io::Errno;

/// A file that is removed when it is dropped, unless it is kept.
pub struct Temporary<'a> {
    directory: &'a OwnedFd,
    name: OsString,
    file: File,
    kept: bool,
}

impl<'a> Temporary<'a> {
    /// Makes one that nobody else may read, and locks it.
    pub fn create(directory: &'a OwnedFd) -> io::Result<Self> {
        let own = std::process::id();
        let started = start_of(own).ok_or_else(|| io::Error::other("/proc is not mounted"))?;
        for number in 0_u32.. {
            let name = OsString::from(format!("{PREFIX}{own}-{started}-{number}"));
            let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            match openat(directory, &name, flags, Mode::RUSR | Mode::WUSR) {
                Ok(fd) => {
                    let temporary = Self { directory, name, file: fd.into(), kept: false };
                    flock(&temporary.file, FlockOperation::NonBlockingLockExclusive)?;
                    return Ok(temporary);
                }
                Err(Errno::EXIST) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Err(Errno::EXIST.into())
    }

    /// The open file.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Its name in its directory.
    pub fn name(&self) -> &std::ffi::OsStr {
        &self.name
    }

    /// It has another name now.
    pub fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for Temporary<'_> {
    fn drop(&mut self) {
        if !self.kept
            && let Err(errno) = unlinkat(self.directory, &self.name, AtFlags::empty())
        {
            log::warn!("{} is left over: {errno}", self.name.display());
        }
    }
}

/// Removes what processes have left in the directory that are gone.
pub fn clean(directory: &OwnedFd) -> io::Result<()> {
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        if !is_left_over(name.to_bytes()) {
            continue;
        }
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        // Where its process runs in another namespace of processes, the lock tells.
        let Ok(file) = openat(directory, name, flags, Mode::empty()) else { continue };
        if flock(file.as_fd(), FlockOperation::NonBlockingLockExclusive).is_ok() {
            match unlinkat(directory, name, AtFlags::empty()) {
                Ok(()) => log::info!(
                    "removed {}, left by a rekey that was killed",
                    name.to_string_lossy()
                ),
                Err(Errno::NOENT) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
    Ok(())
}

/// Whether it is the name of a copy whose process is gone.
fn is_left_over(name: &[u8]) -> bool {
    let Some(rest) = std::str::from_utf8(name).ok().and_then(|name| name.strip_prefix(PREFIX))
    else {
        return false;
    };
    let mut numbers = rest.split('-').map(str::parse::<u64>);
    match (numbers.next(), numbers.next(), numbers.next(), numbers.next()) {
        (Some(Ok(pid)), Some(Ok(started)), Some(Ok(_)), None) => {
            u32::try_from(pid).is_ok_and(|pid| start_of(pid) != Some(started))
        }
        _ => false,
    }
}

/// When a process was started, in ticks since the system was (proc_pid_stat(5), field 22).
fn start_of(pid: u32) -> Option<u64> {
    let stat = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    // The second field is a name in parentheses that may hold anything.
    let end = stat.iter().rposition(|byte| *byte == b')')?;
    let rest = std::ffi::OsStr::from_bytes(&stat[end + 1..]).to_str()?;
    rest.split_ascii_whitespace().nth(19)?.parse().ok()
}

const PREFIX: &str = ".ssefs-rekey-";

#[cfg(test)]
mod tests {
    use super::*;

    fn directory() -> (tempfile::TempDir, OwnedFd) {
        let scratch = tempfile::tempdir().unwrap();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let fd = rustix::fs::open(scratch.path(), flags, Mode::empty()).unwrap();
        (scratch, fd)
    }

    #[test]
    fn only_what_dead_processes_left_is_removed() {
        let (scratch, directory) = directory();
        let own = std::process::id();
        let started = start_of(own).unwrap();
        let held = Temporary::create(&directory).unwrap();
        let dead = [format!("{PREFIX}4194305-1-0"), format!("{PREFIX}{own}-{}-0", started + 1)];
        let others = [format!("{PREFIX}notes"), format!("{PREFIX}1-2"), "file".to_owned()];
        for name in dead.iter().chain(&others) {
            std::fs::write(scratch.path().join(name), b"").unwrap();
        }
        clean(&directory).unwrap();
        assert!(dead.iter().all(|name| !scratch.path().join(name).exists()));
        assert!(others.iter().all(|name| scratch.path().join(name).exists()));
        assert!(scratch.path().join(held.name()).exists());
        let name = held.name().to_owned();
        drop(held);
        assert!(!scratch.path().join(name).exists(), "dropped and not kept");
    }

    #[test]
    fn one_that_is_locked_is_not_removed() {
        let (scratch, directory) = directory();
        let path = scratch.path().join(format!("{PREFIX}4194305-1-0"));
        let file = File::create(&path).unwrap();
        flock(&file, FlockOperation::NonBlockingLockExclusive).unwrap();
        clean(&directory).unwrap();
        assert!(path.exists());
        drop(file);
        clean(&directory).unwrap();
        assert!(!path.exists());
    }
}
