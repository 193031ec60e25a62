//! A backing directory named on the command line.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::exit::{Exit, Failure, Outcome};
use super::inspect::is_in_mount;
use super::unlock::name_directory;
use crate::store::tree::DiskTree;
use crate::volume::{DirectoryKind, VolumeDirectory};

/// Opens one that holds a volume; with it comes its path, absolute and without links.
pub fn open_backing(path: &Path) -> Outcome<(PathBuf, Arc<DiskTree>)> {
    let refused =
        |error: std::io::Error| Failure::new(Exit::Backing, format!("{}: {error}", path.display()));
    let backing = std::fs::canonicalize(path).map_err(refused)?;
    let tree = Arc::new(DiskTree::open(&backing).map_err(refused)?);
    let device = tree.root().located().stat().map_err(refused)?.dev;
    if is_in_mount(device) {
        let problem = "is in a mount; give the backing directory";
        return Err(Failure::new(Exit::Backing, format!("{}: {problem}", backing.display())));
    }
    let kind = VolumeDirectory::examine(&tree).map_err(|error| name_directory(error, &backing))?;
    match kind {
        DirectoryKind::Volume => Ok((backing, tree)),
        DirectoryKind::Empty | DirectoryKind::Foreign => Err(not_a_volume(&backing)),
    }
}

/// There is no volume at this path.
pub fn not_a_volume(backing: &Path) -> Failure {
    let problem = "is not a volume: there is no .ssefs/volume.json in it";
    Failure::new(Exit::Backing, format!("{}: {problem}", backing.display()))
}
