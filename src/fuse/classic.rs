//! Serves `/dev/fuse` through `fuser`: each request is turned into one call of
//! [`FileSystem`], its result into the reply. No logic, no state.
//!
//! A panic behind a request is answered with `EIO` and logged, because a loop of `fuser` that
//! unwinds would end unseen and leave the caller without an answer for ever.

use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, Filesystem, Generation,
    INodeNo, InitFlags, IoctlFlags, KernelConfig, LockOwner, Notifier, OpenFlags, PollEvents,
    PollFlags, PollNotifier, RenameFlags, ReplyAttr, ReplyBmap, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen,
    ReplyPoll, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};

use super::aside::Callers;
use super::asked::{finish, finish_xattr};
use super::convert::{
    COPY_MAX, DIRECTORY, caller, directory_flags, file_attr, file_flags, handle, length,
    negative_attr, node, seek_target, time_change, timestamp,
};
use super::guard::guarded;
use super::listing::{Names, NamesPlus};
use super::negotiate::{negotiate, not_offered};
use super::seeks::{Question, SeekQueue};
use crate::fs::{AttributeChange, FileSystem, Wanted};
use crate::sys::buffer::with_scratch;

/// A file system behind `/dev/fuse`.
pub(super) struct Classic {
    pub(super) fs: Arc<FileSystem>,
    pub(super) callers: Arc<Callers>,
    seeks: SeekQueue,
    /// The kernel asks before it lists a directory.
    opens_directories: bool,
}

impl Classic {
    /// `notifier` is to be set as soon as the session exists.
    pub(super) fn new(
        fs: Arc<FileSystem>,
        callers: Arc<Callers>,
        notifier: Arc<OnceLock<Notifier>>,
    ) -> io::Result<Self> {
        let answering = Arc::clone(&fs);
        let seeks = SeekQueue::start(notifier, move |handle, offset, target| {
            guarded("lseek", || answering.seek(handle, offset, target))
        })?;
        let opens_directories = fs.is_asked_for_directories();
        Ok(Self { fs, callers, seeks, opens_directories })
    }
}

impl Filesystem for Classic {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let may_go_unasked = config.capabilities().contains(InitFlags::FUSE_NO_OPENDIR_SUPPORT);
        self.opens_directories |= !may_go_unasked;
        negotiate(config, self.fs.options()).map_err(not_offered)
    }

    fn lookup(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.serve("lookup", request, || self.fs.lookup(caller(request), node(parent), name))
        {
            Err(Errno::ENOENT) => {
                reply.entry(&self.fs.options().ttl, &negative_attr(), Generation(0));
            }
            result => self.entry(result, reply),
        }
    }

    fn forget(&self, _: &Request, ino: INodeNo, count: u64) {
        // There is nobody to answer; a panic has been logged.
        let _: Result<(), Errno> = guarded("forget", || {
            self.fs.forget(node(ino), count);
            Ok(())
        });
    }

    fn getattr(&self, request: &Request, ino: INodeNo, fh: Option<FileHandle>, reply: ReplyAttr) {
        let found =
            self.serve("getattr", request, || self.fs.attributes(node(ino), fh.map(handle)));
        self.attributes(ino, found, reply);
    }

    fn access(&self, request: &Request, ino: INodeNo, mask: AccessFlags, reply: ReplyEmpty) {
        let wanted = Wanted::from_mask(mask.bits().cast_unsigned());
        finish(
            self.asked("access", request, ino, || {
                self.fs.access(caller(request), node(ino), wanted)
            }),
            reply,
        );
    }

    fn setattr(
        &self,
        request: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        ctime: Option<SystemTime>,
        fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let change = AttributeChange {
            mode,
            uid,
            gid,
            size,
            atime: atime.map(time_change),
            mtime: mtime.map(time_change),
            ctime: ctime.map(timestamp),
        };
        let result = self.serve("setattr", request, || {
            self.fs.set_attributes(caller(request), node(ino), fh.map(handle), &change)
        });
        self.attributes(ino, result, reply);
    }

    fn readlink(&self, request: &Request, ino: INodeNo, reply: ReplyData) {
        match self.asked("readlink", request, ino, || self.fs.read_link(node(ino))) {
            Ok(target) => reply.data(&target),
            Err(errno) => reply.error(errno),
        }
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let result = self.asked("mknod", request, parent, || {
            self.fs.make_node(caller(request), node(parent), name, mode, umask, rdev)
        });
        self.entry(result, reply);
    }

    fn mkdir(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        let result = self.asked("mkdir", request, parent, || {
            self.fs.make_directory(caller(request), node(parent), name, mode, umask)
        });
        self.entry(result, reply);
    }

    fn unlink(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        finish(self.asked("unlink", request, parent, || self.fs.unlink(node(parent), name)), reply);
    }

    fn rmdir(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        finish(
            self.asked("rmdir", request, parent, || self.fs.remove_directory(node(parent), name)),
            reply,
        );
    }

    fn symlink(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        let result = self.asked("symlink", request, parent, || {
            self.fs.make_symlink(caller(request), node(parent), name, target.as_os_str())
        });
        self.entry(result, reply);
    }

    fn rename(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let result = self.asked("rename", request, parent, || {
            self.fs.rename(node(parent), name, node(new_parent), new_name, flags.bits())
        });
        finish(result, reply);
    }

    fn link(
        &self,
        request: &Request,
        ino: INodeNo,
        new_parent: INodeNo,
        new_name: &OsStr,
        reply: ReplyEntry,
    ) {
        let result = self.asked("link", request, new_parent, || {
            self.fs.link(node(ino), node(new_parent), new_name)
        });
        self.entry(result, reply);
    }

    fn open(&self, request: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        match self.asked("open", request, ino, || self.fs.open(caller(request), node(ino), flags.0))
        {
            Ok(opened) => {
                let flags = file_flags(opened);
                reply.opened(FileHandle(opened.handle.0), flags);
            }
            Err(errno) => reply.error(errno),
        }
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let result = self.asked("create", request, parent, || {
            self.fs.create(caller(request), node(parent), name, mode, umask, flags)
        });
        match result {
            Ok((entry, opened)) => reply.created(
                &self.fs.options().ttl,
                &file_attr(entry.node, &entry.attributes),
                Generation(entry.generation),
                FileHandle(opened.handle.0),
                file_flags(opened),
            ),
            Err(errno) => reply.error(errno),
        }
    }

    fn read(
        &self,
        request: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        self.note(request, u64::from(size), false);
        with_scratch(size as usize, |buf| {
            match guarded("read", || self.fs.read(handle(fh), offset, buf)) {
                Ok(read) => reply.data(&buf[..read]),
                Err(errno) => reply.error(errno),
            }
        });
    }

    fn write(
        &self,
        request: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let is_written_back = write_flags.contains(WriteFlags::FUSE_WRITE_CACHE);
        self.note(request, data.len() as u64, is_written_back);
        let kill_privileges = write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID);
        match guarded("write", || self.fs.write(handle(fh), offset, data, kill_privileges)) {
            Ok(()) => reply.written(length(data.len())),
            Err(errno) => reply.error(errno),
        }
    }

    fn flush(
        &self,
        _: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        self.fs.count_flush();
        reply.error(Errno::ENOSYS);
    }

    fn release(
        &self,
        request: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.note(request, 0, true);
        finish(guarded("release", || self.fs.release(handle(fh))), reply);
    }

    fn fsync(
        &self,
        request: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        data_only: bool,
        reply: ReplyEmpty,
    ) {
        finish(self.serve("fsync", request, || self.fs.sync(handle(fh), data_only)), reply);
    }

    fn opendir(&self, request: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        if !self.opens_directories {
            // The kernel does not ask again.
            return reply.error(Errno::ENOSYS);
        }
        match self
            .asked("opendir", request, ino, || self.fs.open_directory(caller(request), node(ino)))
        {
            Ok(()) => reply.opened(FileHandle(DIRECTORY.0), directory_flags()),
            Err(errno) => reply.error(errno),
        }
    }

    fn readdir(
        &self,
        request: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let mut names = Names { reply: &mut reply };
        match self.list(request, ino, offset, false, &mut names) {
            Ok(()) => reply.ok(),
            Err(errno) => reply.error(errno),
        }
    }

    fn readdirplus(
        &self,
        request: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let mut names = NamesPlus { reply: &mut reply, ttl: self.fs.options().ttl };
        match self.list(request, ino, offset, true, &mut names) {
            Ok(()) => reply.ok(),
            Err(errno) => reply.error(errno),
        }
    }

    fn releasedir(
        &self,
        request: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.note(request, 0, true);
        reply.ok();
    }

    fn fsyncdir(
        &self,
        request: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        data_only: bool,
        reply: ReplyEmpty,
    ) {
        finish(
            self.serve("fsyncdir", request, || self.fs.sync_directory(node(ino), data_only)),
            reply,
        );
    }

    fn statfs(&self, request: &Request, ino: INodeNo, reply: ReplyStatfs) {
        match self.serve("statfs", request, || self.fs.statistics(node(ino))) {
            Ok(found) => reply.statfs(
                found.blocks,
                found.blocks_free,
                found.blocks_available,
                found.files,
                found.files_free,
                found.block_size,
                found.name_max,
                found.fragment_size,
            ),
            Err(errno) => reply.error(errno),
        }
    }

    fn setxattr(
        &self,
        request: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let result = self.asked("setxattr", request, ino, || {
            self.fs.set_xattr(caller(request), node(ino), name, value, flags)
        });
        finish(result, reply);
    }

    fn getxattr(
        &self,
        request: &Request,
        ino: INodeNo,
        name: &OsStr,
        size: u32,
        reply: ReplyXattr,
    ) {
        let result =
            self.serve("getxattr", request, || self.fs.xattr(caller(request), node(ino), name));
        finish_xattr(result, size, reply);
    }

    fn listxattr(&self, request: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        finish_xattr(
            self.asked("listxattr", request, ino, || self.fs.xattr_names(node(ino))),
            size,
            reply,
        );
    }

    fn removexattr(&self, request: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let result = self.asked("removexattr", request, ino, || {
            self.fs.remove_xattr(caller(request), node(ino), name)
        });
        finish(result, reply);
    }

    fn fallocate(
        &self,
        request: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        len: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        self.note(request, len, false);
        finish(guarded("fallocate", || self.fs.allocate(handle(fh), offset, len, mode)), reply);
    }

    fn lseek(
        &self,
        request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let Some(target) = seek_target(whence) else { return reply.error(Errno::EINVAL) };
        let handle = handle(fh);
        let found = self.serve("lseek", request, || {
            let behind = self.fs.may_be_behind(handle)?;
            if behind { Ok(None) } else { self.fs.seek(handle, offset, target).map(Some) }
        });
        match found {
            Ok(Some(offset)) => reply.offset(offset),
            Ok(None) => self.seeks.ask(Question { ino, handle, offset, target, reply }),
            Err(errno) => reply.error(errno),
        }
    }

    fn copy_file_range(
        &self,
        request: &Request,
        _from_ino: INodeNo,
        from: FileHandle,
        from_offset: u64,
        _to_ino: INodeNo,
        to: FileHandle,
        to_offset: u64,
        len: u64,
        flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        if !flags.is_empty() {
            return reply.error(Errno::EINVAL);
        }
        let len = len.min(COPY_MAX);
        self.note(request, len, false);
        let result = guarded("copy_file_range", || {
            self.fs.copy_range(handle(from), from_offset, handle(to), to_offset, len)
        });
        match result {
            Ok(copied) => reply.written(u32::try_from(copied).expect("at most COPY_MAX")),
            Err(errno) => reply.error(errno),
        }
    }

    fn ioctl(
        &self,
        _: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _flags: IoctlFlags,
        _cmd: u32,
        _in_data: &[u8],
        _out_size: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(Errno::ENOTTY);
    }

    fn bmap(&self, _: &Request, _ino: INodeNo, _blocksize: u32, _idx: u64, reply: ReplyBmap) {
        reply.error(Errno::ENOSYS);
    }

    fn poll(
        &self,
        _: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _notifier: PollNotifier,
        _events: PollEvents,
        _flags: PollFlags,
        reply: ReplyPoll,
    ) {
        // The kernel then treats files as always ready and asks no more.
        reply.error(Errno::ENOSYS);
    }
}
