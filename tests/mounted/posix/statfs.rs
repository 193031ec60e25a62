//! statfs and statvfs.

use std::process::Command;

use rustix::fs::{StatVfsMountFlags, statvfs};

use crate::harness::{Mount, Setup, succeed};

crate::matrix! { Setup::new() =>
    numbers_follow_the_backing_file_system,
    df_shows_it,
}

fn numbers_follow_the_backing_file_system(m: &mut Mount) {
    let (here, below) = (statvfs(m.mnt()).unwrap(), statvfs(m.backing()).unwrap());
    assert_eq!(here.f_blocks * here.f_frsize, below.f_blocks * below.f_frsize);
    assert_eq!(here.f_files, below.f_files);
    assert_eq!(here.f_namemax, 255);
    assert!(here.f_bsize >= 512 && here.f_frsize > 0);
    // Other tests write meanwhile: near is enough, zero or nonsense is not.
    let (free_here, free_below) = (here.f_bavail * here.f_frsize, below.f_bavail * below.f_frsize);
    assert!(free_here.abs_diff(free_below) < 8 << 30, "{free_here} free, {free_below} below");
    assert!(!here.f_flag.contains(StatVfsMountFlags::RDONLY));
}

fn df_shows_it(m: &mut Mount) {
    let output = succeed(Command::new("df").arg("--output=size,avail,target").arg(m.mnt()));
    let text = String::from_utf8(output.stdout).unwrap();
    let size = text.lines().nth(1).unwrap().split_whitespace().next().unwrap();
    assert!(size.parse::<u64>().unwrap() > 0, "{text}");
}
