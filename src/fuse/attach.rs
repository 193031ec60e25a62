//! Attaches a `/dev/fuse` descriptor to a mount point and detaches it: by mount(2) as root, by
//! `fusermount3` for ordinary users.
//!
//! `fuser` could do both, but it unmounts once more when its session ends, which after an
//! unmount from outside hits whatever lies beneath; and it puts the source's name unescaped
//! among the options.

use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io::{self, IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::fs::{AtFlags, CWD, StatxFlags, statx};
use rustix::mount::{MountFlags, UnmountFlags};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use super::error::MountError;
use super::transport::Choice;

/// What to mount where, and how.
#[derive(Debug, Clone)]
pub struct MountPlan {
    /// The mount point, absolute and without symlinks.
    pub mount_point: PathBuf,
    /// What stands as the source in the table of mounts.
    pub source: OsString,
    /// What stands after `fuse.` as the type.
    pub subtype: String,
    /// Users other than the one who mounts may use it.
    pub allow_other: bool,
    /// The kernel checks permissions.
    pub checked_by_kernel: bool,
    /// Flags that the kernel's own layer keeps.
    pub flags: Vec<FilesystemFlag>,
    /// Threads that serve requests.
    pub threads: usize,
    /// How requests are to reach them.
    pub transport: Choice,
    /// Whether they may stand aside for those whom they serve.
    pub stand_aside: bool,
}

/// A flag of the kernel's own layer, as mount(8) names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FilesystemFlag {
    /// `ro`
    ReadOnly,
    /// `nosuid`
    NoSuid,
    /// `nodev`
    NoDev,
    /// `noexec`
    NoExec,
    /// `sync`
    Sync,
    /// `dirsync`
    DirSync,
    /// `noatime`
    NoAtime,
    /// `nodiratime`
    NoDirAtime,
    /// `strictatime`
    StrictAtime,
}

impl FilesystemFlag {
    /// Its name as an option of mount(8).
    pub fn name(self) -> &'static str {
        match self {
            Self::ReadOnly => "ro",
            Self::NoSuid => "nosuid",
            Self::NoDev => "nodev",
            Self::NoExec => "noexec",
            Self::Sync => "sync",
            Self::DirSync => "dirsync",
            Self::NoAtime => "noatime",
            Self::NoDirAtime => "nodiratime",
            Self::StrictAtime => "strictatime",
        }
    }

    fn bit(self) -> MountFlags {
        match self {
            Self::ReadOnly => MountFlags::RDONLY,
            Self::NoSuid => MountFlags::NOSUID,
            Self::NoDev => MountFlags::NODEV,
            Self::NoExec => MountFlags::NOEXEC,
            Self::Sync => MountFlags::SYNCHRONOUS,
            Self::DirSync => MountFlags::DIRSYNC,
            Self::NoAtime => MountFlags::NOATIME,
            Self::NoDirAtime => MountFlags::NODIRATIME,
            Self::StrictAtime => MountFlags::STRICTATIME,
        }
    }

    /// `fusermount3` hands what it does not know to the kernel, which refuses it there.
    fn known_to_fusermount(self) -> bool {
        !matches!(self, Self::NoDirAtime | Self::StrictAtime)
    }
}

/// A mount that this process made.
#[derive(Debug, Clone)]
pub(super) struct Attached {
    pub(super) mount_point: PathBuf,
    /// Device number of the mounted file system, which no other one has while it lives.
    pub(super) device: Device,
}

/// Major and minor number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Device {
    pub(super) major: u32,
    pub(super) minor: u32,
}

/// What an unmount came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detached {
    /// It was unmounted.
    Now,
    /// It was in use: it is out of the tree and ends when its last user does.
    WhenUnused,
    /// It was not mounted there any more.
    Already,
}

/// Mounts, and returns the descriptor on which the kernel's requests arrive.
pub(super) fn attach(plan: &MountPlan) -> Result<(OwnedFd, Attached), MountError> {
    let direct = match rustix::process::geteuid().is_root() {
        true => mount_directly(plan)?,
        false => None,
    };
    let device = match direct {
        Some(device) => device,
        None => mount_by_fusermount(plan)?,
    };
    let number = device_at(&plan.mount_point)
        .map_err(|source| MountError::Mount { path: plan.mount_point.clone(), source })?;
    let mount_point = plan.mount_point.clone();
    Ok((device, Attached { mount_point, device: number }))
}

impl Attached {
    /// Unmounts, lazily when it is in use. What is mounted at this place by others, above or
    /// beneath, is left alone.
    pub(super) fn detach(&self) -> Result<Detached, MountError> {
        match device_at(&self.mount_point) {
            Ok(found) if found == self.device => {}
            // Another file system, or none: ours was unmounted or is hidden beneath.
            _ => return Ok(Detached::Already),
        }
        let outcome = match unmount(&self.mount_point, false) {
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
                unmount(&self.mount_point, true).map(|()| Detached::WhenUnused)
            }
            other => other.map(|()| Detached::Now),
        };
        outcome.map_err(|source| MountError::Unmount { path: self.mount_point.clone(), source })
    }
}

/// Unmounts what is mounted at a path: by umount2(2) as root, by `fusermount3` for others.
pub fn unmount(mount_point: &Path, lazy: bool) -> io::Result<()> {
    let lazily = if lazy { UnmountFlags::DETACH } else { UnmountFlags::empty() };
    match rustix::mount::unmount(mount_point, UnmountFlags::NOFOLLOW | lazily) {
        Err(rustix::io::Errno::PERM) => unmount_by_fusermount(mount_point, lazy),
        other => Ok(other?),
    }
}

/// The flags as mount(2) takes them.
pub fn mount_flags(flags: &[FilesystemFlag]) -> MountFlags {
    flags.iter().fold(MountFlags::empty(), |bits, flag| bits | flag.bit())
}

fn unmount_by_fusermount(mount_point: &Path, lazy: bool) -> io::Result<()> {
    let mut helper = Command::new(HELPER);
    helper.arg("-u").args(lazy.then_some("-z")).arg("--").arg(mount_point);
    let output = helper.stdin(Stdio::null()).env("LC_ALL", "C").output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    if said.contains("Device or resource busy") {
        return Err(rustix::io::Errno::BUSY.into());
    }
    Err(io::Error::other(said))
}

/// The device number of what is mounted at a path, without asking the file system itself.
pub(super) fn device_at(path: &Path) -> io::Result<Device> {
    let flags = AtFlags::STATX_DONT_SYNC | AtFlags::SYMLINK_NOFOLLOW;
    let found = statx(CWD, path, flags, StatxFlags::empty())?;
    Ok(Device { major: found.stx_dev_major, minor: found.stx_dev_minor })
}

/// `None` where this process may not mount although it is root, as in most containers.
fn mount_directly(plan: &MountPlan) -> Result<Option<OwnedFd>, MountError> {
    let device: OwnedFd = match File::options().read(true).write(true).open(DEVICE) {
        Ok(file) => file.into(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(MountError::DeviceMissing);
        }
        Err(error) => return Err(MountError::Device(error)),
    };
    let mut data = format!(
        "fd={},rootmode=40000,user_id={},group_id={}",
        device.as_raw_fd(),
        rustix::process::getuid().as_raw(),
        rustix::process::getgid().as_raw(),
    );
    for option in kernel_options(plan) {
        data.push(',');
        data.push_str(option);
    }
    let data = CString::new(data).expect("numbers and names hold no NUL");
    let (flags, data) = (mount_flags(&plan.flags), data.as_c_str());
    let kind = format!("fuse.{}", plan.subtype);
    match rustix::mount::mount(&plan.source, &plan.mount_point, kind, flags, data) {
        Ok(()) => Ok(Some(device)),
        Err(rustix::io::Errno::PERM) => Ok(None),
        Err(rustix::io::Errno::NODEV) => Err(MountError::DeviceMissing),
        Err(errno) => {
            Err(MountError::Mount { path: plan.mount_point.clone(), source: errno.into() })
        }
    }
}

/// `fusermount3` sends the descriptor over the socket that it finds as its standard input.
fn mount_by_fusermount(plan: &MountPlan) -> Result<OwnedFd, MountError> {
    let (socket, theirs) = UnixStream::pair().map_err(MountError::HelperFailed)?;
    let helper = Command::new(HELPER)
        .arg("-o")
        .arg(fusermount_options(plan))
        .arg("--")
        .arg(&plan.mount_point)
        .env("_FUSE_COMMFD", "0")
        .env("LC_ALL", "C")
        .stdin(OwnedFd::from(theirs))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn();
    let mut helper = match helper {
        Ok(helper) => helper,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(MountError::HelperMissing);
        }
        Err(error) => return Err(MountError::HelperFailed(error)),
    };
    let received = receive_descriptor(&socket);
    let mut said = Vec::new();
    if let Some(errors) = helper.stderr.as_mut() {
        // Only for the message: what cannot be read is not shown.
        let _ = errors.read_to_end(&mut said);
    }
    helper.wait().map_err(MountError::HelperFailed)?;
    match received.map_err(MountError::HelperFailed)? {
        Some(device) => Ok(device),
        None => Err(refusal(&String::from_utf8_lossy(&said))),
    }
}

fn refusal(said: &str) -> MountError {
    let said = said.trim().trim_start_matches("fusermount3:").trim_start();
    if said.contains("user_allow_other") {
        MountError::AllowOtherRefused
    } else if said.contains("/dev/fuse: No such file") || said.contains("device not found") {
        MountError::DeviceMissing
    } else {
        MountError::HelperRefused(said.to_owned())
    }
}

/// How much is read in one request, who comes in, and who looks whether they may.
fn kernel_options(plan: &MountPlan) -> impl Iterator<Item = &'static str> {
    let chosen = [
        (true, MAX_READ),
        (plan.checked_by_kernel, "default_permissions"),
        (plan.allow_other, "allow_other"),
    ];
    chosen.into_iter().filter_map(|(is_set, name)| is_set.then_some(name))
}

fn fusermount_options(plan: &MountPlan) -> OsString {
    let mut options = b"fsname=".to_vec();
    options.extend(escaped(&plan.source));
    options.extend_from_slice(b",subtype=");
    options.extend(escaped(OsStr::new(&plan.subtype)));
    let flags = plan.flags.iter().filter(|flag| flag.known_to_fusermount());
    for option in kernel_options(plan).chain(flags.map(|flag| flag.name())) {
        options.push(b',');
        options.extend_from_slice(option.as_bytes());
    }
    OsString::from_vec(options)
}

/// `fusermount3` takes a comma for the end of an option unless a backslash stands before it.
fn escaped(text: &OsStr) -> Vec<u8> {
    let mut safe = Vec::with_capacity(text.len());
    for &byte in text.as_bytes() {
        if matches!(byte, b',' | b'\\') {
            safe.push(b'\\');
        }
        safe.push(byte);
    }
    safe
}

/// `None` when the other end closed without sending one.
fn receive_descriptor(socket: &UnixStream) -> io::Result<Option<OwnedFd>> {
    let mut byte = [0];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    loop {
        let mut iov = [IoSliceMut::new(&mut byte)];
        match recvmsg(socket, &mut iov, &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
            Ok(_) => break,
        }
    }
    let descriptor = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    Ok(descriptor)
}

/// The kernel lists it for each mount. Small enough that a reader goes on with the first part
/// while the next ones are opened, and that who looks into mapped memory does not wait for much.
pub const MAX_READ: &str = "max_read=131072";
pub(super) const DEVICE: &str = "/dev/fuse";
const HELPER: &str = "fusermount3";

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(source: &str, flags: &[FilesystemFlag]) -> MountPlan {
        MountPlan {
            mount_point: PathBuf::from("/mnt"),
            source: source.into(),
            subtype: "ssefs".to_owned(),
            allow_other: false,
            checked_by_kernel: false,
            flags: flags.to_vec(),
            threads: 1,
            transport: Choice::Auto,
            stand_aside: true,
        }
    }

    #[test]
    fn a_source_cannot_smuggle_options_to_fusermount() {
        let options = fusermount_options(&plan(r"/a,suid,\,dev", &[FilesystemFlag::ReadOnly]));
        assert_eq!(
            options.to_str().unwrap(),
            r"fsname=/a\,suid\,\\\,dev,subtype=ssefs,max_read=131072,ro"
        );
    }

    #[test]
    fn fusermount_gets_only_flags_that_it_knows() {
        let flags = [FilesystemFlag::StrictAtime, FilesystemFlag::NoExec];
        let mut plan = plan("/a", &flags);
        (plan.allow_other, plan.checked_by_kernel) = (true, true);
        assert_eq!(
            fusermount_options(&plan).to_str().unwrap(),
            "fsname=/a,subtype=ssefs,max_read=131072,default_permissions,allow_other,noexec"
        );
    }

    #[test]
    fn refusals_of_fusermount_are_told_apart() {
        let allow_other = "fusermount3: option allow_other only allowed if 'user_allow_other' is \
                           set in /etc/fuse.conf\n";
        assert!(matches!(refusal(allow_other), MountError::AllowOtherRefused));
        let missing = "fusermount3: fuse device not found, try 'modprobe fuse' first\n";
        assert!(matches!(refusal(missing), MountError::DeviceMissing));
        let other = "fusermount3: user has no write access to mountpoint /mnt\n";
        assert_eq!(
            refusal(other).to_string(),
            "fusermount3: user has no write access to mountpoint /mnt"
        );
    }

    #[test]
    fn a_descriptor_arrives_over_the_socket_and_silence_is_told() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        drop(theirs);
        assert!(receive_descriptor(&ours).unwrap().is_none());
    }

    #[test]
    fn device_numbers_differ_between_file_systems() {
        let proc = device_at(Path::new("/proc")).unwrap();
        assert_ne!(proc, device_at(Path::new("/")).unwrap());
    }
}
