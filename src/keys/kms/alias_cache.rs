//! The aliases of a keystore in memory, kept while their record's file stays the same: one
//! system call tells, so that an alias which another process has moved is seen by the next look.

use std::sync::{Arc, PoisonError, RwLock};

use super::alias::Aliases;
use crate::keys::error::KeyError;
use crate::keys::keystore::{Keystore, RecordFile};
use crate::keys::private_dir::Stamp;

/// The aliases as they were last read.
pub(super) struct AliasCache {
    keystore: Arc<Keystore>,
    file: RecordFile,
    /// Never held while the keystore is read.
    held: RwLock<Option<(Stamp, Arc<Aliases>)>>,
}

impl AliasCache {
    /// An empty one.
    pub(super) fn new(keystore: Arc<Keystore>) -> Self {
        Self { keystore, file: Aliases::file(), held: RwLock::default() }
    }

    /// The aliases as they are now.
    pub(super) fn aliases(&self) -> Result<Arc<Aliases>, KeyError> {
        let held = self.held.read().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some((stamp, aliases)) = held
            && self.keystore.stamp(&self.file)? == Some(stamp)
        {
            return Ok(aliases);
        }
        let (aliases, stamp) = Aliases::read_stamped(&self.keystore)?;
        let aliases = Arc::new(aliases);
        // A stamp that is too young could also be that of a record which replaces this one.
        let held = stamp.filter(Stamp::is_settled).map(|stamp| (stamp, Arc::clone(&aliases)));
        *self.held.write().unwrap_or_else(PoisonError::into_inner) = held;
        Ok(aliases)
    }
}
