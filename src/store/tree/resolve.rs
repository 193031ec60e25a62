//! The walk from the root to a directory: many components per system call where the kernel has
//! `openat2`, one by one elsewhere. A path of any length works, because each step starts from
//! the directory that the last one opened.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;

use super::{DirFd, DiskTree, component};

pub(super) fn walk<N: AsRef<OsStr>>(tree: &DiskTree, components: &[N]) -> io::Result<DirFd> {
    let mut reached: Option<DirFd> = None;
    let mut left = components;
    let mut path = Vec::new();
    while !left.is_empty() {
        let from = reached.as_ref().unwrap_or(&tree.root);
        let taken = join(left, &mut path)?;
        let (stride, rest) = left.split_at(taken);
        let next = match open_beneath(from, &path) {
            Err(Errno::NOSYS | Errno::PERM | Errno::AGAIN | Errno::INVAL) => {
                step_by_step(tree, from, stride)?
            }
            // A link where a directory is expected: as stepping would say it.
            Err(Errno::LOOP) => return Err(Errno::NOTDIR.into()),
            other => other?,
        };
        reached = Some(next);
        left = rest;
    }
    reached.map_or_else(|| tree.root.try_clone(), Ok)
}

/// Puts as many components into `path` as one system call takes; returns how many.
fn join<N: AsRef<OsStr>>(components: &[N], path: &mut Vec<u8>) -> io::Result<usize> {
    path.clear();
    for (index, name) in components.iter().enumerate() {
        let name = component(name.as_ref())?.as_bytes();
        if index > 0 {
            if path.len() + 1 + name.len() > PATH_BYTES {
                return Ok(index);
            }
            path.push(b'/');
        }
        path.extend_from_slice(name);
    }
    Ok(components.len())
}

fn open_beneath(from: &DirFd, path: &[u8]) -> rustix::io::Result<DirFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    openat2(from, path, flags, Mode::empty(), resolve).map(DirFd::new)
}

pub(super) fn step_by_step<N: AsRef<OsStr>>(
    tree: &DiskTree,
    from: &DirFd,
    components: &[N],
) -> io::Result<DirFd> {
    let mut reached = from.try_clone()?;
    for name in components {
        reached = tree.open_dir(&reached, name.as_ref())?;
    }
    Ok(reached)
}

/// `PATH_MAX` without the ending zero byte.
const PATH_BYTES: usize = 4095;
