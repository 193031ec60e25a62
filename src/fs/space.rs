//! The space of removed files. Each is held by a descriptor until the kernel has forgotten it, so
//! that who has it in mind without having it open still reaches it; the kernel says so a moment
//! after the removal has returned. Where the disk is full the space counts more: what nobody has
//! open is let go of at once.

use rustix::io::Errno;

use super::{FileSystem, FsError};

impl FileSystem {
    /// Does what takes space; where there is none left, once more without removed files.
    pub(super) fn with_space<T>(
        &self,
        attempt: impl Fn() -> Result<T, FsError>,
    ) -> Result<T, FsError> {
        match attempt() {
            Err(error) if lacks_space(&error) && self.let_removed_go() => attempt(),
            result => result,
        }
    }

    fn let_removed_go(&self) -> bool {
        let lingering = self.drop_unlinked_lingering();
        self.nodes.let_removed_go(|object| self.open.users(object) == 0) || lingering
    }
}

fn lacks_space(error: &FsError) -> bool {
    error.is(Errno::NOSPC) || error.is(Errno::DQUOT)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::super::tests::{Fixture, ROOT_CALLER, os};
    use super::super::{NodeId, error::refused};
    use super::*;

    #[test]
    fn who_lacks_space_gets_that_of_removed_files_that_nobody_has_open() {
        let fx = Fixture::new();
        let attempts = Cell::new(0);
        let fails = |times, errno| {
            attempts.set(0);
            fx.fs.with_space(|| {
                attempts.set(attempts.get() + 1);
                if attempts.get() > times { Ok(()) } else { refused(NodeId::ROOT, errno) }
            })
        };
        let (first, second) =
            (fx.create(NodeId::ROOT, "a", b"text"), fx.create(NodeId::ROOT, "b", b"text"));
        let handle = fx.fs.open(ROOT_CALLER, second, libc::O_RDONLY).unwrap().handle;
        let none_held = fx.open_descriptors();
        assert!(fails(1, Errno::NOSPC).unwrap_err().is(Errno::NOSPC), "nothing was removed");
        for name in ["a", "b"] {
            fx.fs.unlink(NodeId::ROOT, os(name)).unwrap();
        }
        assert_eq!(fx.open_descriptors(), none_held + 2);
        assert!(fails(1, Errno::IO).unwrap_err().is(Errno::IO));
        fails(1, Errno::DQUOT).unwrap();
        assert_eq!(fx.open_descriptors(), none_held + 1);
        assert!(fails(1, Errno::NOSPC).unwrap_err().is(Errno::NOSPC), "what is open stays");
        assert!(fx.fs.attributes(first, None).unwrap_err().is(Errno::STALE));
        assert_eq!(fx.fs.attributes(second, None).unwrap().nlink, 0);
        assert_eq!(fx.content(second), b"text");

        // Its inode number may be another file's by now.
        let third = fx.create(NodeId::ROOT, "a", b"other");
        assert_ne!(third, first);
        fx.fs.forget(first, 1);
        assert_eq!(fx.content(third), b"other");
        fx.fs.release(handle).unwrap();
        fails(1, Errno::NOSPC).unwrap();
        assert!(fx.fs.attributes(second, None).unwrap_err().is(Errno::STALE));
    }
}
