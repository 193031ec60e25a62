//! What works while the power is cut.

pub mod appends;
pub mod creations;
pub mod directories;
pub mod overwrites;
pub mod postgres;
pub mod saves;
pub mod sqlite;
pub mod truncations;

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What a lane knows; one that has panicked fails the test elsewhere.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes a file with this content, durably; its name is the directory's to sync.
fn write_and_sync(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(content)?;
    file.sync_all()
}
