//! `mount -o remount`: the kernel switches the mount's flags, `ro` and `rw` above all. What the
//! daemon was started with stays.

use std::ffi::OsStr;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::removexattr;
use rustix::io::Errno;
use rustix::mount::mount_remount;

use super::exit::{Exit, Failure, Outcome};
use super::mountinfo::{Mount, mounted_at};
use super::options::MountOptions;
use crate::fuse::mount_flags;

/// Applies the flags in `lists` to what is mounted at `target`; what they do not name stays.
pub fn remount<T: AsRef<OsStr>>(target: &Path, lists: &[T], fake: bool) -> Outcome {
    let refused = |problem: &dyn std::fmt::Display| {
        Failure::new(Exit::MountPoint, format!("{}: {problem}", target.display()))
    };
    let target = std::fs::canonicalize(target).map_err(|error| refused(&error))?;
    let mount: Mount = mounted_at(&target)
        .map_err(|error| refused(&error))?
        .filter(Mount::is_ssefs)
        .ok_or_else(|| {
            let shown = target.display();
            Failure::new(Exit::NotMounted, format!("{shown}: there is no ssefs mount to change"))
        })?;
    let mut options = MountOptions::of_mount(&mount.options).and_parse(lists)?;
    if fake {
        return Ok(());
    }
    let apply = |options: &MountOptions| {
        switch(&target, options).map_err(|errno| match errno {
            Errno::BUSY => Failure::new(
                Exit::Busy,
                format!("{}: files are open for writing", target.display()),
            ),
            errno => refused(&errno),
        })
    };
    apply(&options)?;
    if !options.read_only && is_read_only_below(&target) {
        options.read_only = true;
        apply(&options)?;
        return Err(refused(
            &"was mounted read-only by its daemon; unmount it and mount it again to write",
        ));
    }
    Ok(())
}

/// Switches the flags. A file that was removed and closed counts as in use until the kernel has
/// heard of its release, which is a matter of moments: busy is believed only after a while.
fn switch(target: &Path, options: &MountOptions) -> rustix::io::Result<()> {
    let given_up = Instant::now() + BUSY_FOR;
    loop {
        match mount_remount(target, mount_flags(&options.flags()), "") {
            Err(Errno::BUSY) if Instant::now() < given_up => std::thread::sleep(BUSY_AGAIN_AFTER),
            switched => return switched,
        }
    }
}

/// Whether the daemon itself refuses changes: asked for by one that changes nothing.
fn is_read_only_below(target: &Path) -> bool {
    removexattr(target, "user.ssefs.remount-probe") == Err(Errno::ROFS)
}

const BUSY_FOR: Duration = Duration::from_secs(2);
const BUSY_AGAIN_AFTER: Duration = Duration::from_millis(20);
