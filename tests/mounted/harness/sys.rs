//! The system calls that the tests need and that safe crates do not offer: memory maps,
//! record locks over byte ranges, file-system context of one thread, terminals.
//!
//! The only `unsafe` of the tests. Every wrapper is safe to call with any arguments.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::ptr;

use rustix::io::FdFlags;
use rustix::mm::{MapFlags, MsyncFlags, ProtFlags};
use rustix::thread::UnshareFlags;

/// A mapping of the start of a file.
pub struct Map {
    base: *mut std::ffi::c_void,
    len: usize,
}

impl Map {
    pub fn shared(file: &File, len: usize) -> io::Result<Self> {
        Self::new(file, len, MapFlags::SHARED, ProtFlags::READ | ProtFlags::WRITE)
    }

    pub fn shared_read_only(file: &File, len: usize) -> io::Result<Self> {
        Self::new(file, len, MapFlags::SHARED, ProtFlags::READ)
    }

    pub fn private(file: &File, len: usize) -> io::Result<Self> {
        Self::new(file, len, MapFlags::PRIVATE, ProtFlags::READ | ProtFlags::WRITE)
    }

    fn new(file: &File, len: usize, flags: MapFlags, prot: ProtFlags) -> io::Result<Self> {
        // SAFETY: the kernel chooses the address, so no existing mapping is replaced.
        let base = unsafe { rustix::mm::mmap(ptr::null_mut(), len, prot, flags, file, 0)? };
        Ok(Self { base, len })
    }

    pub fn read(&self, offset: usize, len: usize) -> Vec<u8> {
        assert!(offset + len <= self.len, "read past the mapping");
        let mut out = vec![0; len];
        // SAFETY: the range lies in the mapping, asserted above; `out` holds `len` bytes.
        unsafe {
            ptr::copy_nonoverlapping(self.base.cast::<u8>().add(offset), out.as_mut_ptr(), len)
        };
        out
    }

    pub fn write(&mut self, offset: usize, data: &[u8]) {
        assert!(offset + data.len() <= self.len, "write past the mapping");
        // SAFETY: the range lies in the mapping, asserted above, and callers write only
        // through mappings made with `PROT_WRITE`.
        unsafe {
            ptr::copy_nonoverlapping(data.as_ptr(), self.base.cast::<u8>().add(offset), data.len());
        }
    }

    pub fn sync(&self) -> io::Result<()> {
        // SAFETY: the range is exactly the mapping.
        unsafe { rustix::mm::msync(self.base, self.len, MsyncFlags::SYNC)? };
        Ok(())
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: the range is exactly the mapping, and no reference into it was handed out.
        unsafe { rustix::mm::munmap(self.base, self.len) }.expect("the mapping exists");
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordLock {
    Read,
    Write,
    None,
}

impl RecordLock {
    fn to_raw(self) -> libc::c_short {
        let raw = match self {
            RecordLock::Read => libc::F_RDLCK,
            RecordLock::Write => libc::F_WRLCK,
            RecordLock::None => libc::F_UNLCK,
        };
        raw as libc::c_short
    }

    fn from_raw(raw: libc::c_short) -> Self {
        match libc::c_int::from(raw) {
            libc::F_RDLCK => RecordLock::Read,
            libc::F_WRLCK => RecordLock::Write,
            _ => RecordLock::None,
        }
    }
}

/// `fcntl(F_SETLK)`: takes or drops a lock of this process, without waiting.
pub fn set_record_lock(file: &File, lock: RecordLock, start: i64, len: i64) -> io::Result<()> {
    let mut raw = raw_lock(lock, start, len);
    record_lock_call(file, libc::F_SETLK, &mut raw)
}

/// `fcntl(F_SETLKW)`: takes a lock of this process, waiting for it.
pub fn wait_record_lock(file: &File, lock: RecordLock, start: i64, len: i64) -> io::Result<()> {
    let mut raw = raw_lock(lock, start, len);
    record_lock_call(file, libc::F_SETLKW, &mut raw)
}

/// `fcntl(F_OFD_SETLK)`: takes or drops a lock of this open file, without waiting.
pub fn set_open_file_lock(file: &File, lock: RecordLock, start: i64, len: i64) -> io::Result<()> {
    let mut raw = raw_lock(lock, start, len);
    record_lock_call(file, libc::F_OFD_SETLK, &mut raw)
}

/// `fcntl(F_GETLK)`: the kind, start and length of the lock that stands in the way.
pub fn blocking_record_lock(
    file: &File,
    lock: RecordLock,
    start: i64,
    len: i64,
) -> io::Result<(RecordLock, i64, i64)> {
    let mut raw = raw_lock(lock, start, len);
    record_lock_call(file, libc::F_GETLK, &mut raw)?;
    Ok((RecordLock::from_raw(raw.l_type), raw.l_start, raw.l_len))
}

fn raw_lock(lock: RecordLock, start: i64, len: i64) -> libc::flock {
    libc::flock {
        l_type: lock.to_raw(),
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: start,
        l_len: len,
        l_pid: 0,
    }
}

fn record_lock_call(file: &File, command: libc::c_int, lock: &mut libc::flock) -> io::Result<()> {
    // SAFETY: `lock` is a valid, exclusively borrowed `flock`, which these commands take.
    match unsafe { libc::fcntl(file.as_raw_fd(), command, lock) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Gives the calling thread its own working directory and umask.
pub fn own_directory_and_umask() -> io::Result<()> {
    // SAFETY: only `FS` is unshared; the descriptor table stays common.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::FS)? };
    Ok(())
}

/// `setfsuid(2)`: the calling thread counts as this user on file systems, and as nobody else
/// anywhere else.
pub fn act_on_files_as(uid: u32) {
    // SAFETY: takes no pointers, and glibc keeps no copy of this id.
    let ask = |uid: u32| unsafe { libc::syscall(libc::SYS_setfsuid, uid) };
    ask(uid);
    // It tells no errors: what it was before is what the first call came to.
    assert_eq!(ask(u32::MAX), libc::c_long::from(uid), "only root acts as others");
}

/// `truncate(2)`: by name, for what cannot be opened for writing.
pub fn truncate(path: &Path, len: u64) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: `path` is a terminated string that lives through the call.
    match unsafe { libc::truncate(path.as_ptr(), len.cast_signed()) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// A new pseudoterminal: the end that types and reads, and the end that a program sees.
pub fn open_pty() -> io::Result<(File, File)> {
    let (mut master, mut slave) = (-1, -1);
    // SAFETY: both numbers are ours to be written; name, modes and size are left to the system.
    let opened = unsafe {
        libc::openpty(&raw mut master, &raw mut slave, ptr::null_mut(), ptr::null(), ptr::null())
    };
    if opened == -1 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: both were opened just now and belong to nothing else.
    let (master, slave) = unsafe { (File::from_raw_fd(master), File::from_raw_fd(slave)) };
    for file in [&master, &slave] {
        rustix::io::fcntl_setfd(file, FdFlags::CLOEXEC)?;
    }
    Ok((master, slave))
}

/// Makes the command lead a session of its own, whose terminal is its standard input.
pub fn lead_session(command: &mut Command) {
    let take_terminal = || {
        rustix::process::setsid()?;
        Ok(rustix::process::ioctl_tiocsctty(rustix::stdio::stdin())?)
    };
    // SAFETY: only two system calls are made between fork and exec; nothing is allocated.
    unsafe { command.pre_exec(take_terminal) };
}

/// Hands the descriptor to the command, under the same number.
pub fn inherit(command: &mut Command, file: &File) {
    let number = file.as_raw_fd();
    let keep_open = move || {
        // SAFETY: the number is open in the child as it was in the parent, who keeps `file`.
        match unsafe { libc::fcntl(number, libc::F_SETFD, 0) } {
            -1 => Err(io::Error::last_os_error()),
            _ => Ok(()),
        }
    };
    // SAFETY: one system call is made between fork and exec; nothing is allocated.
    unsafe { command.pre_exec(keep_open) };
}

/// `close(2)` with the error that dropping a file hides.
pub fn close(file: File) -> io::Result<()> {
    // SAFETY: the descriptor was owned by `file` and is used by nothing else from here on.
    match unsafe { libc::close(file.into_raw_fd()) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}
