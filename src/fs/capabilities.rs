//! `security.capability`, which the kernel asks for before the first write to a file. One that was
//! made here has none until somebody gives it one: while it is open that is known from memory.

use std::ffi::OsStr;
use std::sync::atomic::{AtomicU64, Ordering};

use super::open_table::OpenInode;
use super::{FileSystem, NodeId};

/// How often a file was given a capability, or was about to be.
#[derive(Default)]
pub(super) struct Capabilities {
    given: AtomicU64,
}

impl Capabilities {
    /// To be asked before a file is made.
    pub fn given(&self) -> u64 {
        self.given.load(Ordering::SeqCst)
    }
}

impl FileSystem {
    /// Notes that a file was made, when so many had been given a capability: one that was given
    /// since may be this one.
    pub(super) fn made_without_capability(&self, inode: &OpenInode, given: u64) {
        inode.set_bare(true);
        if self.capabilities.given() != given {
            inode.set_bare(false);
        }
    }

    /// To be called before an attribute is set.
    pub(super) fn will_set(&self, node: NodeId, name: &OsStr) {
        if name == CAPABILITY {
            self.capabilities.given.fetch_add(1, Ordering::SeqCst);
            if let Some(used) = self.open_now(node) {
                used.inode().set_bare(false);
            }
        }
    }

    /// Whether the file is known not to have the attribute.
    pub(super) fn is_without(&self, node: NodeId, name: &OsStr) -> bool {
        name == CAPABILITY && self.open_now(node).is_some_and(|used| used.inode().is_bare())
    }
}

pub(super) const CAPABILITY: &str = "security.capability";

#[cfg(test)]
mod tests {
    use rustix::io::Errno;

    use super::super::tests::{Fixture, ROOT_CALLER, capability, os};
    use super::*;

    #[test]
    fn a_new_file_has_none_until_it_is_given_one() {
        let Some(capability) = capability() else { return };
        let fx = Fixture::new();
        let (name, flags) = (os(CAPABILITY), libc::O_RDWR | libc::O_CREAT);
        let made = fx.fs.create(ROOT_CALLER, NodeId::ROOT, os("made"), 0o644, 0, flags);
        let (entry, opened) = made.unwrap();
        let found = || fx.fs.xattr(ROOT_CALLER, entry.node, name);
        assert!(fx.fs.is_without(entry.node, name));
        assert!(found().unwrap_err().is(Errno::NODATA));
        fx.fs.set_xattr(ROOT_CALLER, entry.node, name, &capability, 0).unwrap();
        assert_eq!(found().unwrap(), capability);
        fx.fs.remove_xattr(ROOT_CALLER, entry.node, name).unwrap();
        assert!(found().unwrap_err().is(Errno::NODATA));
        fx.fs.release(opened.handle).unwrap();
    }

    /// Whoever finds the name before its maker has noted that the file is bare.
    #[test]
    fn a_capability_that_is_given_while_the_file_is_made_counts() {
        let fx = Fixture::new();
        let node = fx.create(NodeId::ROOT, "file", b"text");
        let given = fx.fs.capabilities.given();
        fx.fs.will_set(node, os(CAPABILITY));
        let handle = fx.fs.open(ROOT_CALLER, node, libc::O_RDWR).unwrap().handle;
        let file = fx.fs.file(handle).unwrap();
        fx.fs.made_without_capability(file.inode(), given);
        assert!(!fx.fs.is_without(node, os(CAPABILITY)));
        fx.fs.made_without_capability(file.inode(), fx.fs.capabilities.given());
        assert!(fx.fs.is_without(node, os(CAPABILITY)));
        assert!(!fx.fs.is_without(node, os("security.ima")));
        fx.fs.will_set(node, os(CAPABILITY));
        assert!(!fx.fs.is_without(node, os(CAPABILITY)));
    }
}
