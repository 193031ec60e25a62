//! Runs operations by system calls below a directory: a mounted one, or one of the system, by
//! which the reference itself is held to what Linux does.

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;

use rustix::fs::{
    AtFlags, CWD, Dir, FallocateFlags, Mode, OFlags, RenameFlags, SeekFrom, Timespec, Timestamps,
    UTIME_OMIT, XattrFlags,
};
use rustix::io::Errno;

use super::operation::{
    LINK_TARGETS, NAMES, Operation, Outcome, Path, RenameHow, SLOTS, Shown, Slot, Subject, XATTRS,
    pattern, user_keys,
};

/// A directory, and what to do for [`Operation::Remount`].
pub struct AtPath<'a> {
    root: PathBuf,
    remount: &'a mut dyn FnMut(),
    slots: [Option<File>; SLOTS as usize],
}

type Answer<T> = Result<T, Errno>;

impl<'a> AtPath<'a> {
    /// `root` must be empty.
    pub fn new(root: PathBuf, remount: &'a mut dyn FnMut()) -> Self {
        Self { root, remount, slots: Default::default() }
    }

    fn answer(&mut self, operation: &Operation) -> Answer<Outcome> {
        match operation {
            Operation::Create { slot, path } => {
                let flags = OFlags::CREATE | OFlags::EXCL;
                self.open(*slot, path, flags)?;
                Ok(Outcome::Done)
            }
            Operation::Open { slot, path, truncate } => {
                let flags = if *truncate { OFlags::TRUNC } else { OFlags::empty() };
                self.open(*slot, path, flags)?;
                Ok(Outcome::Done)
            }
            Operation::Close { slot } => {
                let closed = self.slots[usize::from(*slot)].take();
                closed.map(|_| Outcome::Done).ok_or(Errno::BADF)
            }
            Operation::Remount => {
                self.slots = Default::default();
                (self.remount)();
                Ok(Outcome::Done)
            }
            Operation::MakeDirectory { .. }
            | Operation::MakeSymlink { .. }
            | Operation::ReadLink { .. }
            | Operation::Link { .. }
            | Operation::Unlink { .. }
            | Operation::RemoveDirectory { .. }
            | Operation::Rename { .. }
            | Operation::List { .. } => self.on_names(operation),
            Operation::Stat { .. }
            | Operation::Truncate { .. }
            | Operation::Chmod { .. }
            | Operation::SetTime { .. }
            | Operation::SetXattr { .. }
            | Operation::Xattr { .. }
            | Operation::RemoveXattr { .. }
            | Operation::ListXattrs { .. } => self.on_attributes(operation),
            _ => self.on_open_file(operation),
        }
    }

    fn open(&mut self, slot: Slot, path: &Path, extra: OFlags) -> Answer<()> {
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC | extra;
        let fd = rustix::fs::open(self.path(path), flags, Mode::from_raw_mode(0o644))?;
        self.slots[usize::from(slot)] = Some(fd.into());
        Ok(())
    }

    fn on_open_file(&self, operation: &Operation) -> Answer<Outcome> {
        match *operation {
            Operation::Read { slot, offset, len } => {
                let (file, mut buf, mut filled) = (self.file(slot)?, vec![0xee; len], 0);
                while filled < len {
                    match file.read_at(&mut buf[filled..], offset + filled as u64) {
                        Ok(0) => break,
                        Ok(read) => filled += read,
                        Err(error) => return Err(Errno::from_io_error(&error).unwrap()),
                    }
                }
                buf.truncate(filled);
                return Ok(Outcome::Data(buf));
            }
            Operation::Write { slot, offset, len, seed } => {
                let written = self.file(slot)?.write_all_at(&pattern(seed, offset, len), offset);
                written.map_err(|error| Errno::from_io_error(&error).unwrap())?;
            }
            Operation::SetSize { slot, size } => rustix::fs::ftruncate(self.file(slot)?, size)?,
            Operation::Allocate { slot, offset, len, keep_size } => {
                self.fallocate(slot, FallocateFlags::empty(), offset, len, keep_size)?;
            }
            Operation::Punch { slot, offset, len } => {
                self.fallocate(slot, FallocateFlags::PUNCH_HOLE, offset, len, true)?;
            }
            Operation::Zero { slot, offset, len, keep_size } => {
                self.fallocate(slot, FallocateFlags::ZERO_RANGE, offset, len, keep_size)?;
            }
            Operation::Copy { from, from_offset, to, to_offset, len } => {
                let (source, target) = (self.file(from)?, self.file(to)?);
                return copy(source, from_offset, target, to_offset, len).map(Outcome::Count);
            }
            Operation::Seek { slot, offset, data } => {
                let whence = if data { SeekFrom::Data(offset) } else { SeekFrom::Hole(offset) };
                return rustix::fs::seek(self.file(slot)?, whence).map(Outcome::Position);
            }
            Operation::Sync { slot } => rustix::fs::fsync(self.file(slot)?)?,
            Operation::StatOpen { slot } => {
                return Ok(shown(&self.file(slot)?.metadata().unwrap()));
            }
            _ => unreachable!("not of open files: {operation:?}"),
        }
        Ok(Outcome::Done)
    }

    fn fallocate(
        &self,
        slot: Slot,
        flags: FallocateFlags,
        offset: u64,
        len: u64,
        keep_size: bool,
    ) -> Answer<()> {
        let keep = if keep_size { FallocateFlags::KEEP_SIZE } else { FallocateFlags::empty() };
        rustix::fs::fallocate(self.file(slot)?, flags | keep, offset, len)
    }

    fn on_names(&self, operation: &Operation) -> Answer<Outcome> {
        match operation {
            Operation::MakeDirectory { path } => {
                rustix::fs::mkdir(self.path(path), Mode::from_raw_mode(0o755))?;
            }
            Operation::MakeSymlink { path, target } => {
                rustix::fs::symlink(LINK_TARGETS[usize::from(*target)], self.path(path))?;
            }
            Operation::ReadLink { path } => {
                let target = rustix::fs::readlink(self.path(path), Vec::new())?;
                return Ok(Outcome::Text(target.into_bytes()));
            }
            Operation::Link { from, to } => rustix::fs::link(self.path(from), self.path(to))?,
            Operation::Unlink { path } => rustix::fs::unlink(self.path(path))?,
            Operation::RemoveDirectory { path } => rustix::fs::rmdir(self.path(path))?,
            Operation::Rename { from, to, how } => {
                let flags = match how {
                    RenameHow::Replace => RenameFlags::empty(),
                    RenameHow::NoReplace => RenameFlags::NOREPLACE,
                    RenameHow::Exchange => RenameFlags::EXCHANGE,
                };
                rustix::fs::renameat_with(CWD, self.path(from), CWD, self.path(to), flags)?;
            }
            Operation::List { path } => return self.list(path).map(Outcome::Names),
            _ => unreachable!("not of names: {operation:?}"),
        }
        Ok(Outcome::Done)
    }

    fn list(&self, path: &Path) -> Answer<BTreeMap<String, u32>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(self.path(path), flags, Mode::empty())?;
        let mut names = BTreeMap::new();
        for entry in Dir::new(directory)? {
            let entry = entry?;
            let name: &CStr = entry.file_name();
            if name != c"." && name != c".." {
                let kind = entry.file_type().as_raw_mode();
                names.insert(name.to_str().unwrap().to_owned(), kind);
            }
        }
        Ok(names)
    }

    fn on_attributes(&self, operation: &Operation) -> Answer<Outcome> {
        match operation {
            Operation::Stat { path } => {
                let found = std::fs::symlink_metadata(self.path(path));
                let found = found.map_err(|error| Errno::from_io_error(&error).unwrap())?;
                return Ok(shown(&found));
            }
            Operation::Truncate { path, size } => {
                let flags = OFlags::WRONLY | OFlags::CLOEXEC;
                let file = rustix::fs::open(self.path(path), flags, Mode::empty())?;
                rustix::fs::ftruncate(file, *size)?;
            }
            Operation::Chmod { path, mode } => {
                rustix::fs::chmod(self.path(path), Mode::from_raw_mode(*mode))?;
            }
            Operation::SetTime { path, secs, nanos } => {
                let times = Timestamps {
                    last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
                    last_modification: Timespec { tv_sec: *secs, tv_nsec: (*nanos).into() },
                };
                rustix::fs::utimensat(CWD, self.path(path), &times, AtFlags::empty())?;
            }
            Operation::SetXattr { path, name, value } => {
                let name = XATTRS[usize::from(*name)];
                rustix::fs::setxattr(self.path(path), name, value, XattrFlags::empty())?;
            }
            Operation::Xattr { path, name } => {
                let mut value = vec![0; 256];
                let name = XATTRS[usize::from(*name)];
                let len = rustix::fs::getxattr(self.path(path), name, &mut value[..])?;
                value.truncate(len);
                return Ok(Outcome::Text(value));
            }
            Operation::RemoveXattr { path, name } => {
                rustix::fs::removexattr(self.path(path), XATTRS[usize::from(*name)])?;
            }
            Operation::ListXattrs { path } => {
                let mut names = vec![0; 4096];
                let len = rustix::fs::listxattr(self.path(path), &mut names[..])?;
                return Ok(Outcome::Keys(user_keys(&names[..len])));
            }
            _ => unreachable!("not of attributes: {operation:?}"),
        }
        Ok(Outcome::Done)
    }

    fn file(&self, slot: Slot) -> Answer<&File> {
        self.slots[usize::from(slot)].as_ref().ok_or(Errno::BADF)
    }

    fn path(&self, path: &Path) -> PathBuf {
        let names = path.iter().map(|place| NAMES[usize::from(*place)]);
        std::iter::once(self.root.as_path()).chain(names.map(std::path::Path::new)).collect()
    }
}

impl Subject for AtPath<'_> {
    fn apply(&mut self, operation: &Operation) -> Outcome {
        self.answer(operation).unwrap_or_else(|errno| Outcome::Error(errno.raw_os_error()))
    }
}

/// All that there is before the first call, as one call may copy less.
fn copy(from: impl AsFd, from_offset: u64, to: impl AsFd, to_offset: u64, len: u64) -> Answer<u64> {
    let size = rustix::fs::fstat(&from)?.st_size.cast_unsigned();
    let len = len.min(size.saturating_sub(from_offset));
    let (mut input, mut output, mut copied) = (from_offset, to_offset, 0);
    loop {
        let left = usize::try_from(len - copied).unwrap();
        let once =
            rustix::fs::copy_file_range(&from, Some(&mut input), &to, Some(&mut output), left)?;
        copied += once as u64;
        if once == 0 || copied == len {
            return Ok(copied);
        }
    }
}

fn shown(metadata: &std::fs::Metadata) -> Outcome {
    Outcome::Shown(Shown {
        mode: metadata.mode(),
        nlink: Some(u32::try_from(metadata.nlink()).unwrap()),
        size: Some(metadata.size()).filter(|_| !metadata.is_dir()),
        mtime: Some((metadata.mtime(), u32::try_from(metadata.mtime_nsec()).unwrap())),
    })
}
