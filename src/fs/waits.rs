//! Which calls may wait, for a disk or a key service, so that a transport can keep them apart from
//! those that are short.

use super::{FileSystem, Handle, NodeId};
use crate::format::Mode;
use crate::volume::Durability;

impl FileSystem {
    /// Whether [`Self::open`] and [`Self::create`] may wait: a key service is asked, and each use
    /// of a key may have to be on disk in the audit log.
    pub fn open_may_wait(&self) -> bool {
        self.volume.keyring().default_mode() == Mode::Kms
    }

    /// Whether a [`Self::rename`] or a change of a file's size may wait for a sync.
    pub fn change_may_wait(&self) -> bool {
        self.volume.durability() == Durability::Power
    }

    /// Whether a change of the file's content or times, or its close, may wait for a change that
    /// somebody else is making.
    pub fn is_being_changed(&self, node: NodeId) -> bool {
        self.open_now(node).is_some_and(|used| used.inode().is_being_changed())
    }

    /// Whether a [`Self::release`] has something to commit, which waits for a sync.
    pub fn release_may_wait(&self, handle: Handle) -> bool {
        self.file(handle).is_ok_and(|file| {
            let encrypted = file.inode().file();
            file.writable && encrypted.has_gathered() && !self.may_linger(file.inode())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Fixture, ROOT_CALLER};
    use super::NodeId;

    #[test]
    fn a_close_waits_when_durable_data_was_written_over() {
        let fx = Fixture::with(|options| options.idle_files = 0);
        let file = fx.create(NodeId::ROOT, "file", b"first");
        let handle = fx.fs.open(ROOT_CALLER, file, libc::O_RDWR).unwrap().handle;
        fx.fs.sync(handle, false).unwrap();
        assert!(!fx.fs.release_may_wait(handle));
        fx.fs.write(handle, 0, b"other", false).unwrap();
        assert!(fx.fs.release_may_wait(handle));
        fx.fs.sync(handle, false).unwrap();
        assert!(!fx.fs.release_may_wait(handle));
        let reader = fx.fs.open(ROOT_CALLER, file, libc::O_RDONLY).unwrap().handle;
        fx.fs.write(handle, 0, b"third", false).unwrap();
        assert!(!fx.fs.release_may_wait(reader), "a reader has nothing to commit");
    }

    #[test]
    fn a_close_that_leaves_the_commit_for_later_does_not_wait() {
        let fx = Fixture::new();
        let file = fx.create(NodeId::ROOT, "file", b"first");
        let handle = fx.fs.open(ROOT_CALLER, file, libc::O_RDWR).unwrap().handle;
        fx.fs.sync(handle, false).unwrap();
        fx.fs.write(handle, 0, b"other", false).unwrap();
        assert!(!fx.fs.release_may_wait(handle));
    }

    #[test]
    fn a_change_waits_for_another_of_the_same_file() {
        let fx = Fixture::new();
        let [file, other] = ["file", "other"].map(|name| fx.create(NodeId::ROOT, name, b"text"));
        let handle = fx.fs.open(ROOT_CALLER, file, libc::O_RDWR).unwrap().handle;
        let open = fx.fs.file(handle).unwrap();
        open.inode().change(|_| {
            assert!(fx.fs.is_being_changed(file));
            assert!(!fx.fs.is_being_changed(other));
        });
        assert!(!fx.fs.is_being_changed(file));
    }
}
