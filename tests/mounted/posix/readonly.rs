//! Mounts with `-o ro`: everything reads, nothing changes, above or below.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{PermissionsExt, symlink};

use rustix::fs::{StatVfsMountFlags, XattrFlags};
use rustix::io::Errno;

use crate::harness::{Mount, Setup, assert_errno, assert_same, pattern, shell};

crate::matrix! { Setup::new().mount_only("a plain directory cannot be mounted read-only") =>
    everything_reads_and_nothing_changes,
    backing_is_untouched,
}

fn read_only(m: &mut Mount) {
    fs::create_dir(m.path("d")).unwrap();
    fs::write(m.path("f"), pattern(1, 50_000)).unwrap();
    fs::write(m.path("empty"), b"").unwrap();
    symlink("f", m.path("l")).unwrap();
    m.remount_with(&["ro"]);
}

fn everything_reads_and_nothing_changes(m: &mut Mount) {
    read_only(m);
    assert_same(&fs::read(m.path("l")).unwrap(), &pattern(1, 50_000), "through the symlink");
    assert_eq!(fs::read(m.path("empty")).unwrap(), b"");
    assert_eq!(fs::read_dir(m.mnt()).unwrap().count(), 4);
    let flags = rustix::fs::statvfs(m.mnt()).unwrap().f_flag;
    assert!(flags.contains(StatVfsMountFlags::RDONLY));

    assert_errno(OpenOptions::new().write(true).open(m.path("f")), Errno::ROFS);
    assert_errno(File::create(m.path("new")), Errno::ROFS);
    assert_errno(fs::create_dir(m.path("new")), Errno::ROFS);
    assert_errno(fs::remove_file(m.path("f")), Errno::ROFS);
    assert_errno(fs::remove_dir(m.path("d")), Errno::ROFS);
    assert_errno(fs::rename(m.path("f"), m.path("g")), Errno::ROFS);
    assert_errno(fs::hard_link(m.path("f"), m.path("g")), Errno::ROFS);
    assert_errno(symlink("f", m.path("g")), Errno::ROFS);
    let mode = fs::Permissions::from_mode(0o600);
    assert_errno(fs::set_permissions(m.path("f"), mode), Errno::ROFS);
    let set = rustix::fs::setxattr(m.path("f"), "user.a", b"b", XattrFlags::empty());
    assert_errno(set, Errno::ROFS);
    let access = rustix::fs::Access::WRITE_OK;
    assert_errno(rustix::fs::access(m.path("f"), access), Errno::ROFS);
}

fn backing_is_untouched(m: &mut Mount) {
    read_only(m);
    let state = |m: &Mount| shell(m.backing(), "find . -printf '%p %s %T@ %C@\\n' | sort");
    let before = state(m);
    shell(m.mnt(), "cat f empty > /dev/null; ls -laR . > /dev/null; stat f > /dev/null");
    m.unmount();
    assert_eq!(state(m), before);
    m.mount();
}
