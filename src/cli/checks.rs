//! What is looked at before anything is changed: the backing directory, the mount point, their
//! relation, and whether FUSE can be used at all.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};

use super::exit::{Exit, Failure, Outcome};
use super::mountinfo::mounted_at;

/// The backing directory, absolute and without symlinks.
pub fn backing(given: &Path) -> Outcome<PathBuf> {
    let refused =
        |what: String| Failure::new(Exit::Backing, format!("{}: {what}", given.display()));
    let path = fs::canonicalize(given).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => {
            refused("there is no such backing directory; make it with 'mkdir -p'".to_owned())
        }
        _ => refused(error.to_string()),
    })?;
    let metadata = fs::metadata(&path).map_err(|error| refused(error.to_string()))?;
    if !metadata.is_dir() {
        return Err(refused("the backing directory is not a directory".to_owned()));
    }
    if access(&path, Access::READ_OK | Access::EXEC_OK).is_err() {
        return Err(refused("the backing directory cannot be read by this user".to_owned()));
    }
    Ok(path)
}

/// The mount point, absolute and without symlinks.
pub fn mount_point(given: &Path) -> Outcome<PathBuf> {
    let refused =
        |what: &str| Failure::new(Exit::MountPoint, format!("{}: {what}", given.display()));
    let path = fs::canonicalize(given).map_err(|error| refused(mount_point_problem(&error)))?;
    let metadata = fs::metadata(&path).map_err(|error| refused(mount_point_problem(&error)))?;
    if !metadata.is_dir() {
        return Err(refused("the mount point is not a directory"));
    }
    Ok(path)
}

/// That the mount point is empty and nothing is mounted on it.
pub fn unoccupied(mount_point: &Path) -> Outcome {
    let refused =
        |what: &str| Failure::new(Exit::MountPoint, format!("{}: {what}", mount_point.display()));
    let mounted = mounted_at(mount_point).map_err(|error| refused(&error.to_string()))?;
    if let Some(mount) = mounted {
        let source = mount.source.to_string_lossy();
        return Err(refused(&format!(
            "{source} ({}) is mounted there already; unmount it first, or mount over it with \
             '-o nonempty'",
            mount.kind
        )));
    }
    match fs::read_dir(mount_point).map(|mut entries| entries.next().is_some()) {
        Ok(false) => Ok(()),
        Ok(true) => Err(refused(
            "the mount point is not empty; choose an empty directory, or hide its files with \
             '-o nonempty'",
        )),
        Err(error) => Err(refused(&error.to_string())),
    }
}

/// That neither directory is the other or lies in it: the plain files would be seen through,
/// or hide, the encrypted ones.
pub fn apart(backing: &Path, mount_point: &Path) -> Outcome {
    let problem = if backing == mount_point {
        "are the same directory; give two"
    } else if mount_point.starts_with(backing) {
        "cannot be used together: the mount point lies in the backing directory"
    } else if backing.starts_with(mount_point) {
        "cannot be used together: the mount would hide the backing directory in it"
    } else {
        return Ok(());
    };
    let (backing, mount_point) = (backing.display(), mount_point.display());
    Err(Failure::new(Exit::MountPoint, format!("{backing} and {mount_point} {problem}")))
}

/// That FUSE is there for this user.
pub fn fuse(allow_other: bool) -> Outcome {
    let refused = |what: &str| Err(Failure::new(Exit::Fuse, what));
    let device = File::options().read(true).write(true).open(DEVICE);
    if matches!(&device, Err(error) if error.kind() == io::ErrorKind::NotFound) {
        return refused(
            "/dev/fuse is missing; load it with 'modprobe fuse', or start the container with \
             '--device /dev/fuse --cap-add SYS_ADMIN'",
        );
    }
    if rustix::process::geteuid().is_root() {
        return match device {
            Ok(_) => Ok(()),
            Err(error) => refused(&format!(
                "/dev/fuse cannot be opened: {error}; a container needs '--device /dev/fuse'"
            )),
        };
    }
    if !has_program("fusermount3") {
        return refused(
            "fusermount3 is missing, which mounts for ordinary users; install it with \
             'apt install fuse3'",
        );
    }
    let allowed = |text: String| text.lines().any(|line| line.trim() == "user_allow_other");
    if allow_other && !fs::read_to_string(FUSE_CONF).is_ok_and(allowed) {
        return refused(
            "option 'allow_other' is not permitted: have root add a line 'user_allow_other' to \
             /etc/fuse.conf",
        );
    }
    Ok(())
}

fn mount_point_problem(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::ENOENT) => "there is no such mount point; make it with 'mkdir -p'",
        Some(libc::ENOTCONN) => {
            "a mount whose daemon has died is still there; take it away with 'ssefs unmount'"
        }
        Some(libc::EACCES) => "the mount point cannot be reached by this user",
        Some(libc::ENOTDIR) => "the mount point is not a directory",
        Some(libc::ELOOP) => "too many symlinks on the way to the mount point",
        _ => "the mount point cannot be examined",
    }
}

fn has_program(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/bin:/usr/bin".into());
    std::env::split_paths(&path).any(|dir| access(dir.join(name), Access::EXEC_OK).is_ok())
}

const DEVICE: &str = "/dev/fuse";
const FUSE_CONF: &str = "/etc/fuse.conf";

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal<T: std::fmt::Debug>(outcome: Outcome<T>) -> (Exit, String) {
        let failure = outcome.unwrap_err();
        (failure.exit, failure.message)
    }

    #[test]
    fn a_backing_directory_must_be_one() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(backing(dir.path()).unwrap(), dir.path().canonicalize().unwrap());
        let (exit, message) = refusal(backing(&dir.path().join("none")));
        assert_eq!(exit, Exit::Backing);
        assert!(message.contains("none: there is no such backing directory"), "{message}");
        fs::write(dir.path().join("file"), "").unwrap();
        let (_, message) = refusal(backing(&dir.path().join("file")));
        assert!(message.contains("is not a directory"), "{message}");
    }

    #[test]
    fn a_mount_point_is_a_directory() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(mount_point(dir.path()).unwrap(), dir.path().canonicalize().unwrap());
        fs::write(dir.path().join("file"), "").unwrap();
        let (exit, message) = refusal(mount_point(&dir.path().join("file")));
        assert_eq!(exit, Exit::MountPoint);
        assert!(message.contains("is not a directory"), "{message}");
        let (_, message) = refusal(mount_point(&dir.path().join("none")));
        assert!(message.contains("no such mount point"), "{message}");
    }

    #[test]
    fn files_on_the_mount_point_and_other_mounts_are_seen() {
        let dir = tempfile::tempdir().unwrap();
        unoccupied(dir.path()).unwrap();
        fs::write(dir.path().join("file"), "").unwrap();
        let (exit, message) = refusal(unoccupied(dir.path()));
        assert_eq!(exit, Exit::MountPoint);
        assert!(message.contains("is not empty"), "{message}");
        let (exit, message) = refusal(unoccupied(Path::new("/proc")));
        assert_eq!(exit, Exit::MountPoint);
        assert!(message.contains("(proc) is mounted there already"), "{message}");
    }

    #[test]
    fn the_two_directories_are_apart() {
        let (a, b) = (Path::new("/a"), Path::new("/ab"));
        apart(a, b).unwrap();
        apart(b, a).unwrap();
        for (backing, mount_point) in [("/a", "/a"), ("/a", "/a/b"), ("/a/b", "/a")] {
            let (exit, message) = refusal(apart(Path::new(backing), Path::new(mount_point)));
            assert_eq!(exit, Exit::MountPoint);
            assert!(message.starts_with(&format!("{backing} and {mount_point} ")), "{message}");
        }
    }

    #[test]
    fn a_path_through_a_file_or_a_loop_is_told() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("file"), "").unwrap();
        let (_, message) = refusal(mount_point(&dir.path().join("file/x")));
        assert!(message.contains("is not a directory"), "{message}");
        std::os::unix::fs::symlink("loop", dir.path().join("loop")).unwrap();
        let (_, message) = refusal(mount_point(&dir.path().join("loop")));
        assert!(message.contains("too many symlinks"), "{message}");
    }
}
