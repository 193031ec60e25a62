//! `ssefs rekey`: gives files new data keys. A file is copied within its mount, where the copy
//! gets a key of its own, and the copy takes the file's name once it is complete, durable, and
//! the file has not changed meanwhile. Until then the file is as it was.
//!
//! While it is copied nobody can write to the file: a lease keeps writers waiting, and one that
//! waits makes the work break off.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::Args;
use rustix::fs::{
    AtFlags, Mode, OFlags, RenameFlags, SeekFrom, Stat, fchmod, fchown, fgetxattr, fstat, fsync,
    ftruncate, futimens, openat, renameat, renameat_with, seek, statat,
};
use rustix::io::{Errno, pread, pwrite, retry_on_intr};
use zeroize::Zeroizing;

use super::exit::{Exit, Failure, Outcome};
use super::inspect::is_in_mount;
use super::output;
use super::rewrap::watch_signals;
use crate::sys::lease;

mod attributes;
mod temporary;

use temporary::Temporary;

/// `ssefs rekey`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct RekeyArgs {
    /// Of a file with several names, give the new key to this one alone; the others keep the
    /// file as it is
    #[arg(long)]
    pub break_links: bool,

    /// Files in a mount
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
}

/// The command. Goes on after a file that is refused, and ends with that failure.
pub fn run(args: &RekeyArgs) -> Outcome {
    let stop = watch_signals()?;
    // A broken lease shows when it is asked for; the signal only must not end the process.
    signal_hook::flag::register(libc::SIGIO, Arc::new(AtomicBool::new(false)))
        .map_err(|error| Failure::new(Exit::Other, error))?;
    let mut failures = output::Failures::default();
    for path in &args.files {
        if stop.load(Ordering::Relaxed) {
            failures.add(Failure::new(Exit::Incomplete, "interrupted"));
            break;
        }
        match rekey(path, args.break_links, &stop) {
            Ok(Rekeyed::Empty) => {
                output::line(&format!("{}: empty, has no data key yet", path.display()))?;
            }
            Ok(Rekeyed::To(file_id)) => {
                output::line(&format!(
                    "{}: has a new data key, file id {file_id}",
                    path.display()
                ))?;
            }
            Err(failure) => failures.add(failure),
        }
    }
    failures.outcome()
}

enum Rekeyed {
    /// There was nothing to give a key to.
    Empty,
    /// It has another file id, and DEK.
    To(String),
}

/// A file that is to get another key.
struct Original {
    directory: OwnedFd,
    name: std::ffi::OsString,
    file: File,
    stat: Stat,
    file_id: String,
}

fn rekey(path: &Path, break_links: bool, stop: &AtomicBool) -> Outcome<Rekeyed> {
    let failed =
        |exit: Exit, problem: &str| Failure::new(exit, format!("{}: {problem}", path.display()));
    let io_failed = |error: io::Error| failed(Exit::Backing, &error.to_string());
    let Some(original) = open(path, break_links)? else { return Ok(Rekeyed::Empty) };
    take_lease(&original).map_err(|problem| failed(Exit::Busy, &problem))?;
    temporary::clean(&original.directory).map_err(io_failed)?;
    let copy = Temporary::create(&original.directory).map_err(|error| match error.kind() {
        io::ErrorKind::PermissionDenied => {
            failed(Exit::Backing, "its directory may not be written by this user")
        }
        _ => io_failed(error),
    })?;
    copy_content(&original, copy.file(), stop).map_err(|error| match error.kind() {
        io::ErrorKind::Interrupted => failed(Exit::Incomplete, "interrupted, left as it was"),
        _ => io_failed(error),
    })?;
    copy_attributes(&original, copy.file()).map_err(io_failed)?;
    let file_id = file_id(copy.file()).map_err(io_failed)?;
    if file_id.as_ref().is_none_or(|new| *new == original.file_id) {
        return Err(failed(Exit::Other, "its copy did not get a data key of its own"));
    }
    let changed = || failed(Exit::Busy, "it was changed meanwhile, and is left as it was");
    if !is_unchanged(&original).map_err(io_failed)? {
        return Err(changed());
    }
    match take_name(&original, copy).map_err(io_failed)? {
        true => Ok(file_id.map_or(Rekeyed::Empty, Rekeyed::To)),
        false => Err(changed()),
    }
}

/// Gives the copy the file's name, durably; false if somebody came to write at that very moment.
///
/// The two change names, so that a writer who found the file by its name before, and waits for
/// the lease, shows afterwards: then they change back.
fn take_name(original: &Original, copy: Temporary<'_>) -> io::Result<bool> {
    let Original { directory, name, file, .. } = original;
    let exchange = || renameat_with(directory, copy.name(), directory, name, RenameFlags::EXCHANGE);
    match exchange() {
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
            renameat(directory, copy.name(), directory, name)?;
            copy.keep();
            fsync(directory)?;
            return Ok(true);
        }
        exchanged => exchanged?,
    }
    let alone = lease::stands(file.as_fd())?;
    if !alone {
        exchange()?;
    }
    fsync(directory)?;
    Ok(alone)
}

/// Opens what can be rekeyed; `None` for an empty file.
fn open(path: &Path, break_links: bool) -> Outcome<Option<Original>> {
    let refused = |exit: Exit, problem: &dyn std::fmt::Display| {
        Failure::new(exit, format!("{}: {problem}", path.display()))
    };
    let io_refused = |errno: Errno| refused(Exit::Backing, &io::Error::from(errno));
    let name = path.file_name().ok_or_else(|| refused(Exit::Usage, &"names no file"))?;
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let directory = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::open(parent.unwrap_or(Path::new(".")), directory, Mode::empty())
        .map_err(io_refused)?;
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match openat(&directory, name, flags, Mode::empty()) {
        Err(Errno::LOOP) => {
            return Err(refused(Exit::Usage, &"is a symbolic link; give the file itself"));
        }
        opened => File::from(opened.map_err(io_refused)?),
    };
    let stat = fstat(&file).map_err(io_refused)?;
    if !file.metadata().is_ok_and(|metadata| metadata.is_file()) {
        return Err(refused(Exit::Usage, &"is not a regular file, and only those have data keys"));
    }
    if !is_in_mount(stat.st_dev) {
        return Err(refused(
            Exit::NotMounted,
            &"is not in an ssefs mount; a file of a backing directory is rekeyed by its path in \
              the mount",
        ));
    }
    if stat.st_nlink > 1 && !break_links {
        let names = stat.st_nlink;
        return Err(refused(
            Exit::Usage,
            &format!("has {names} names; with --break-links this one gets a file of its own"),
        ));
    }
    let own = rustix::process::geteuid();
    if !own.is_root() && own.as_raw() != stat.st_uid {
        return Err(refused(Exit::Backing, &"is another user's"));
    }
    let file_id = file_id(&file).map_err(|error| refused(Exit::Backing, &error))?;
    let name = name.to_owned();
    Ok(file_id.map(|file_id| Original { directory, name, file, stat, file_id }))
}

/// From here on nobody writes to the file, or it shows.
fn take_lease(original: &Original) -> Result<(), String> {
    lease::take(original.file.as_fd()).map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => "a program has it open for writing".to_owned(),
        _ => format!("cannot be kept from being written meanwhile: {error}"),
    })
}

/// Copies what holds data; holes stay holes.
fn copy_content(original: &Original, copy: &File, stop: &AtomicBool) -> io::Result<()> {
    let size = u64::try_from(original.stat.st_size).expect("sizes are not negative");
    let mut buf = Zeroizing::new(vec![0; CHUNK]);
    let mut at = 0;
    while at < size {
        at = match seek(&original.file, SeekFrom::Data(at)) {
            Err(Errno::NXIO) => break,
            found => found?,
        };
        let end = seek(&original.file, SeekFrom::Hole(at))?;
        while at < end {
            if stop.load(Ordering::Relaxed) {
                return Err(io::ErrorKind::Interrupted.into());
            }
            let wanted = usize::try_from(end - at).unwrap_or(CHUNK).min(CHUNK);
            let read = retry_on_intr(|| pread(&original.file, &mut buf[..wanted], at))?;
            if read == 0 {
                return Err(io::Error::other("it became shorter meanwhile"));
            }
            write_all(copy, &buf[..read], at)?;
            at += read as u64;
        }
    }
    Ok(retry_on_intr(|| ftruncate(copy, size))?)
}

fn write_all(file: &File, mut bytes: &[u8], mut at: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        let written = retry_on_intr(|| pwrite(file, bytes, at))?;
        bytes = &bytes[written..];
        at += written as u64;
    }
    Ok(())
}

/// Gives the copy the owner, attributes, mode and times of the file, in an order in which none
/// undoes another, and makes it durable.
fn copy_attributes(original: &Original, copy: &File) -> io::Result<()> {
    let Stat { st_uid, st_gid, st_mode, .. } = original.stat;
    let (uid, gid) = (rustix::fs::Uid::from_raw(st_uid), rustix::fs::Gid::from_raw(st_gid));
    fchown(copy, Some(uid), Some(gid))?;
    attributes::copy(&original.file, copy)?;
    fchmod(copy, Mode::from_raw_mode(st_mode & 0o7777))?;
    // Data that the kernel still holds would bring a new modification time.
    retry_on_intr(|| fsync(copy))?;
    futimens(copy, &attributes::times(&original.stat))?;
    Ok(retry_on_intr(|| fsync(copy))?)
}

/// Whether the name still leads to the file, and the file is what was copied.
fn is_unchanged(original: &Original) -> io::Result<bool> {
    let then = &original.stat;
    let here = statat(&original.directory, &original.name, AtFlags::SYMLINK_NOFOLLOW)?;
    let now = fstat(&original.file)?;
    let same_object = (here.st_dev, here.st_ino) == (then.st_dev, then.st_ino);
    let same_times = (now.st_mtime, now.st_mtime_nsec, now.st_ctime, now.st_ctime_nsec)
        == (then.st_mtime, then.st_mtime_nsec, then.st_ctime, then.st_ctime_nsec);
    let unchanged = now.st_size == then.st_size && now.st_nlink == then.st_nlink && same_times;
    Ok(same_object && unchanged && lease::stands(original.file.as_fd())?)
}

/// The file's id as the mount tells it; `None` while it has no content.
fn file_id(file: &File) -> io::Result<Option<String>> {
    let mut buf = [0; 64];
    match fgetxattr(file, FILE_ID, &mut buf) {
        Ok(len) => Ok(Some(String::from_utf8_lossy(&buf[..len]).into_owned())),
        Err(Errno::NODATA) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

/// Whether a name of an attribute is the mount's own.
fn is_own(name: &std::ffi::OsStr) -> bool {
    [&b"user.ssefs."[..], b"system.ssefs."].iter().any(|own| name.as_bytes().starts_with(own))
}

const FILE_ID: &str = "user.ssefs.file_id";
const CHUNK: usize = 1 << 20;

const EXAMPLES: &str = "\
The data is encrypted anew, so that each file takes as much space again while it is copied. The \
file's number (inode) changes; its owner, mode, times, extended attributes and ACLs stay.

Examples:
  ssefs rekey ~/private/ledger.db
  find ~/private -type f -exec ssefs rekey {} +";
