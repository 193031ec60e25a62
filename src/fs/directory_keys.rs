//! The CMK that a directory names for what is made below it, in its attribute
//! `user.ssefs.key_id`. The nearest directory upwards that names one decides; without any it is
//! the CMK of the mount. What cannot be read is an error, never a reason to take another CMK.

use std::ffi::OsStr;

use rustix::io::Errno;

use super::error::{is_errno, refused};
use super::open::access;
use super::{FileSystem, FsError, NodeId};
use crate::format::{KeyId, Mode};
use crate::keys::{Caller, Operation};

/// The attribute; on a file it tells the key that wraps its DEK.
pub(super) const KEY_ID: &str = "user.ssefs.key_id";

impl FileSystem {
    /// The CMK for what is made in `directory`, if one is named. Only kms mode asks for it.
    pub(super) fn key_within(&self, directory: NodeId) -> Result<Option<KeyId>, FsError> {
        if self.volume.keyring().default_mode() != Mode::Kms {
            return Ok(None);
        }
        let mut node = directory;
        loop {
            match self.directory(node)?.located().xattr(OsStr::new(KEY_ID)) {
                Ok(value) => {
                    let named = String::from_utf8(value).ok().map(KeyId);
                    return named.map(Some).ok_or(FsError::Refused { node, errno: Errno::IO });
                }
                Err(error) if is_errno(&error, Errno::NODATA) => {}
                Err(error) if is_errno(&error, Errno::OPNOTSUPP) => return Ok(None),
                Err(source) => return Err(FsError::Backing { node, source }),
            }
            match self.parent_of(node) {
                Some(parent) => node = parent,
                None => return Ok(None),
            }
        }
    }

    /// The CMK for the content of a file that is still empty.
    pub(super) fn key_for(&self, file: NodeId) -> Result<Option<KeyId>, FsError> {
        match self.parent_of(file) {
            Some(parent) => self.key_within(parent),
            None => Ok(None),
        }
    }

    /// What to keep for the key that `value` names, an id or an alias. In kms mode it is the
    /// id, once it is known that the caller may make files with it; in other modes, where
    /// nothing asks for it, the name as it is.
    pub(super) fn directory_key(
        &self,
        caller: Caller,
        node: NodeId,
        value: &[u8],
    ) -> Result<KeyId, FsError> {
        let Some(name) = str::from_utf8(value).ok().filter(|name| is_key_name(name)) else {
            return refused(node, Errno::INVAL);
        };
        if self.volume.keyring().default_mode() != Mode::Kms {
            return Ok(KeyId(name.to_owned()));
        }
        let path = || self.nodes.path(node);
        let access = access(caller, Operation::Create, &path, None);
        let resolved = self.volume.keyring().resolve(name, &access);
        resolved.map_err(|source| self.volume_error(node, source.into()))
    }

    fn parent_of(&self, node: NodeId) -> Option<NodeId> {
        if node == NodeId::ROOT {
            return None;
        }
        self.nodes.place(node)?.names.first().map(|name| name.parent)
    }
}

/// A name that a CMK or its alias can have.
fn is_key_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_graphic();
    !name.is_empty() && name.len() <= MAX_KEY_NAME_BYTES && name.bytes().all(allowed)
}

const MAX_KEY_NAME_BYTES: usize = 256;
