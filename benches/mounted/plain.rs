//! A FUSE daemon that passes everything through and encrypts nothing: what the transport alone
//! costs. It agrees on the same with the kernel as ssefs does, but for the listing of directories,
//! over the same crate. Knows just what the workloads on single files and their directories ask
//! for; on the others it is left out.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{self, DirEntry, File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{DirEntryExt, FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{
    BsdFileFlags, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags,
    Generation, INodeNo, InitFlags, KernelConfig, LockOwner, MountOption, OpenFlags, RenameFlags,
    ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen,
    ReplyWrite, Request, Session, SessionACL, TimeOrNow, WriteFlags,
};
use ssefs::fs::READ_AHEAD_KIB;
use ssefs::fuse::MAX_READ;

/// The hidden argument that makes the benchmark this daemon; the backing directory and the mount
/// point follow.
pub const ARGUMENT: &str = "--serve-plain";

/// Mounts and serves until it is unmounted.
pub fn serve(backing: &Path, mount_point: &Path) -> io::Result<()> {
    let nodes = HashMap::from([(INodeNo::ROOT.0, backing.to_owned())]);
    let plain = Plain {
        nodes: RwLock::new(nodes),
        files: Handles::default(),
        listings: Handles::default(),
    };
    let mut config = Config::default();
    config.acl = SessionACL::All;
    let cpus = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    config.n_threads = Some((2 * cpus).clamp(4, 16));
    config.clone_fd = true;
    config.mount_options.push(MountOption::CUSTOM(MAX_READ.to_owned()));
    let session = Session::new(plain, mount_point, &config)?;
    let served = std::thread::spawn(move || session.run());
    let device = fs::metadata(mount_point)?.dev();
    let settings =
        format!("/sys/class/bdi/{}:{}", rustix::fs::major(device), rustix::fs::minor(device));
    let read_ahead = READ_AHEAD_KIB.to_string();
    let limits = [("read_ahead_kb", &*read_ahead), ("strict_limit", "0"), ("max_ratio", "100")];
    for (name, value) in limits {
        // Only for root, as with ssefs.
        let _ = fs::write(Path::new(&settings).join(name), value);
    }
    served.join().expect("the session does not panic")
}

struct Plain {
    nodes: RwLock<HashMap<u64, PathBuf>>,
    files: Handles<File>,
    listings: Handles<Vec<DirEntry>>,
}

/// What is open, by its handle.
struct Handles<T>(RwLock<HashMap<u64, Arc<T>>>, AtomicU64);

impl<T> Default for Handles<T> {
    fn default() -> Self {
        Self(RwLock::default(), AtomicU64::default())
    }
}

impl<T> Handles<T> {
    fn hold(&self, it: T) -> FileHandle {
        let handle = self.1.fetch_add(1, Ordering::Relaxed);
        self.0.write().expect("nobody panics").insert(handle, Arc::new(it));
        FileHandle(handle)
    }

    fn get(&self, handle: FileHandle) -> Result<Arc<T>, Errno> {
        self.0.read().expect("nobody panics").get(&handle.0).cloned().ok_or(Errno::EBADF)
    }

    fn release(&self, handle: FileHandle) {
        self.0.write().expect("nobody panics").remove(&handle.0);
    }
}

impl Plain {
    fn path(&self, node: INodeNo) -> Result<PathBuf, Errno> {
        let nodes = self.nodes.read().expect("nobody panics");
        nodes.get(&node.0).cloned().ok_or(Errno::ENOENT)
    }

    fn enter(&self, path: PathBuf) -> Result<FileAttr, Errno> {
        let attributes = attributes(&fs::symlink_metadata(&path)?);
        self.nodes.write().expect("nobody panics").insert(attributes.ino.0, path);
        Ok(attributes)
    }

    fn change(
        &self,
        node: INodeNo,
        mode: Option<u32>,
        size: Option<u64>,
        mtime: Option<TimeOrNow>,
    ) -> Result<FileAttr, Errno> {
        let path = self.path(node)?;
        if let Some(mode) = mode {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
        }
        if size.is_some() || mtime.is_some() {
            let file = OpenOptions::new().write(true).open(&path)?;
            size.map_or(Ok(()), |size| file.set_len(size))?;
            let time = mtime.map(|time| match time {
                TimeOrNow::SpecificTime(time) => time,
                TimeOrNow::Now => SystemTime::now(),
            });
            time.map_or(Ok(()), |time| file.set_modified(time))?;
        }
        Ok(attributes(&fs::symlink_metadata(&path)?))
    }
}

impl Filesystem for Plain {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let wanted = InitFlags::FUSE_ASYNC_READ
            | InitFlags::FUSE_BIG_WRITES
            | InitFlags::FUSE_ATOMIC_O_TRUNC
            | InitFlags::FUSE_PARALLEL_DIROPS
            | InitFlags::FUSE_HANDLE_KILLPRIV_V2
            | InitFlags::FUSE_MAX_PAGES
            | InitFlags::FUSE_WRITEBACK_CACHE;
        let offered = config.capabilities();
        config.add_capabilities(wanted & offered).expect("only what is offered");
        config.set_max_write(1 << 20).expect("fuser takes it");
        config.set_max_background(128).expect("it is not zero");
        let _ = config.set_max_readahead(1 << 20).map_err(|most| config.set_max_readahead(most));
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.path(parent).and_then(|parent| self.enter(parent.join(name))) {
            Ok(attributes) => reply.entry(&TTL, &attributes, Generation(0)),
            Err(errno) => reply.error(errno),
        }
    }

    fn getattr(&self, _: &Request, node: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.path(node).and_then(|path| Ok(fs::symlink_metadata(path)?)) {
            Ok(found) => reply.attr(&TTL, &FileAttr { ino: node, ..attributes(&found) }),
            Err(errno) => reply.error(errno),
        }
    }

    fn setattr(
        &self,
        _: &Request,
        node: INodeNo,
        mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        match self.change(node, mode, size, mtime) {
            Ok(attributes) => reply.attr(&TTL, &attributes),
            Err(errno) => reply.error(errno),
        }
    }

    fn mkdir(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        _mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        let made = self.path(parent).and_then(|parent| {
            fs::create_dir(parent.join(name))?;
            self.enter(parent.join(name))
        });
        match made {
            Ok(attributes) => reply.entry(&TTL, &attributes, Generation(0)),
            Err(errno) => reply.error(errno),
        }
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        finish(self.path(parent).and_then(|it| Ok(fs::remove_file(it.join(name))?)), reply);
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        finish(self.path(parent).and_then(|it| Ok(fs::remove_dir(it.join(name))?)), reply);
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let renamed = || {
            if !flags.is_empty() {
                return Err(Errno::EINVAL);
            }
            let (from, to) = (self.path(parent)?.join(name), self.path(new_parent)?.join(new_name));
            fs::rename(&from, &to)?;
            let node = fs::symlink_metadata(&to)?.ino();
            self.nodes.write().expect("nobody panics").insert(node, to);
            Ok(())
        };
        finish(renamed(), reply);
    }

    /// The listing is taken here, so that names removed while it is read move none out of sight.
    fn opendir(&self, _: &Request, node: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let listing = || -> Result<Vec<DirEntry>, Errno> {
            Ok(fs::read_dir(self.path(node)?)?.collect::<io::Result<_>>()?)
        };
        match listing() {
            Ok(listing) => reply.opened(self.listings.hold(listing), FopenFlags::empty()),
            Err(errno) => reply.error(errno),
        }
    }

    fn readdir(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let listing = match self.listings.get(handle) {
            Ok(listing) => listing,
            Err(errno) => return reply.error(errno),
        };
        for (entry, next) in listing.iter().zip(1..).skip(offset as usize) {
            let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
            let kind = if is_dir { FileType::Directory } else { FileType::RegularFile };
            if reply.add(INodeNo(entry.ino()), next, kind, entry.file_name()) {
                break;
            }
        }
        reply.ok();
    }

    fn releasedir(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.listings.release(handle);
        reply.ok();
    }

    fn open(&self, _: &Request, node: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let truncate = flags.0 & libc::O_TRUNC != 0;
        let opened = self.path(node).and_then(|path| {
            Ok(OpenOptions::new().read(true).write(true).truncate(truncate).open(path)?)
        });
        match opened {
            Ok(file) => reply.opened(self.files.hold(file), FopenFlags::FOPEN_KEEP_CACHE),
            Err(errno) => reply.error(errno),
        }
    }

    fn create(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        let created = self.path(parent).and_then(|parent| {
            let path = parent.join(name);
            let mut options = OpenOptions::new();
            let file = options.read(true).write(true).create_new(true).mode(mode).open(&path)?;
            Ok((file, self.enter(path)?))
        });
        match created {
            Ok((file, attributes)) => {
                let (generation, handle) = (Generation(0), self.files.hold(file));
                let flags = FopenFlags::FOPEN_KEEP_CACHE;
                reply.created(&TTL, &attributes, generation, handle, flags);
            }
            Err(errno) => reply.error(errno),
        }
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        BUFFER.with_borrow_mut(|buffer| {
            let size = size as usize;
            if buffer.len() < size {
                buffer.resize(size, 0);
            }
            let read = self
                .files
                .get(handle)
                .and_then(|file| Ok(file.read_at(&mut buffer[..size], offset)?));
            match read {
                Ok(read) => reply.data(&buffer[..read]),
                Err(errno) => reply.error(errno),
            }
        });
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _flags: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match self.files.get(handle).and_then(|file| Ok(file.write_all_at(data, offset)?)) {
            Ok(()) => reply.written(u32::try_from(data.len()).expect("a request is small")),
            Err(errno) => reply.error(errno),
        }
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn release(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        _: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.files.release(handle);
        reply.ok();
    }

    fn fsync(&self, _: &Request, _: INodeNo, fh: FileHandle, data_only: bool, reply: ReplyEmpty) {
        let sync = |file: Arc<File>| match data_only {
            true => Ok(file.sync_data()?),
            false => Ok(file.sync_all()?),
        };
        finish(self.files.get(fh).and_then(sync), reply);
    }
}

fn finish(result: Result<(), Errno>, reply: ReplyEmpty) {
    match result {
        Ok(()) => reply.ok(),
        Err(errno) => reply.error(errno),
    }
}

fn attributes(found: &Metadata) -> FileAttr {
    let kind = if found.is_dir() { FileType::Directory } else { FileType::RegularFile };
    let time = |seconds: i64, nanos: i64| {
        let part = |part: i64| u64::try_from(part).unwrap_or(0);
        UNIX_EPOCH + Duration::from_secs(part(seconds)) + Duration::from_nanos(part(nanos))
    };
    FileAttr {
        ino: INodeNo(found.ino()),
        size: found.size(),
        blocks: found.blocks(),
        atime: time(found.atime(), found.atime_nsec()),
        mtime: time(found.mtime(), found.mtime_nsec()),
        ctime: time(found.ctime(), found.ctime_nsec()),
        crtime: UNIX_EPOCH,
        kind,
        perm: (found.mode() & 0o7777) as u16,
        nlink: found.nlink() as u32,
        uid: found.uid(),
        gid: found.gid(),
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

thread_local! {
    static BUFFER: std::cell::RefCell<Vec<u8>> = const { std::cell::RefCell::new(Vec::new()) };
}

const TTL: Duration = Duration::from_secs(60);
