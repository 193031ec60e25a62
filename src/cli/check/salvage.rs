//! Copies of damaged files, in plain, outside the volume: what opens is copied, and what is lost
//! is a hole.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::cli::exit::{Exit, Failure, Outcome};
use crate::keys::{Access, Operation};
use crate::store::BackingFile;
use crate::volume::{Salvaged, Volume, VolumeError};

/// The directory that they go to.
pub struct SalvageDirectory {
    path: PathBuf,
}

impl SalvageDirectory {
    /// Makes it, or takes an empty one; only its owner may look into it then.
    pub fn prepare(path: &Path, backing: &Path) -> Outcome<Self> {
        let refused = |problem: &str| {
            Failure::new(Exit::Usage, format!("--salvage {}: {problem}", path.display()))
        };
        match DirBuilder::new().mode(0o700).create(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let mut entries =
                    fs::read_dir(path).map_err(|error| refused(&error.to_string()))?;
                if entries.next().is_some() {
                    return Err(refused("is not empty"));
                }
                let closed = fs::set_permissions(path, Permissions::from_mode(0o700));
                closed.map_err(|error| refused(&error.to_string()))?;
            }
            made => made.map_err(|error| refused(&error.to_string()))?,
        }
        let path = fs::canonicalize(path).map_err(|error| refused(&error.to_string()))?;
        if path.starts_with(backing) {
            // Empty, and made by us or for us.
            let _ = fs::remove_dir(&path);
            return Err(refused("lies in the backing directory, which is for ciphertext"));
        }
        Ok(Self { path })
    }

    /// Copies what can be read of a file to the same path in this directory.
    pub fn save(
        &self,
        volume: &Volume,
        backing: &dyn BackingFile,
        path: &Path,
    ) -> Result<Salvaged, VolumeError> {
        let told = || path.to_owned();
        let access = Access { operation: Operation::Open, ..Access::own(&told) };
        let target = self.path.join(path);
        let mut file: Option<File> = None;
        let salvaged = volume.salvage_file(backing, &access, &mut |offset, plain| {
            if file.is_none() {
                file = Some(create(&target)?);
            }
            let file = file.as_ref().expect("made above");
            file.write_all_at(plain, offset)
        })?;
        if let Some(file) = file {
            file.set_len(salvaged.size)?;
            file.sync_all()?;
        }
        Ok(salvaged)
    }
}

fn create(target: &Path) -> io::Result<File> {
    if let Some(parent) = target.parent() {
        DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
    }
    File::options().write(true).create_new(true).mode(0o600).open(target)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_directory_is_private_empty_and_elsewhere() {
        let scratch = tempfile::tempdir().unwrap();
        let backing = scratch.path().canonicalize().unwrap().join("backing");
        fs::create_dir(&backing).unwrap();
        let made = scratch.path().join("made");
        SalvageDirectory::prepare(&made, &backing).unwrap();
        assert_eq!(fs::metadata(&made).unwrap().permissions().mode() & 0o7777, 0o700);
        fs::set_permissions(&made, Permissions::from_mode(0o755)).unwrap();
        SalvageDirectory::prepare(&made, &backing).unwrap();
        assert_eq!(fs::metadata(&made).unwrap().permissions().mode() & 0o7777, 0o700);
        fs::write(made.join("x"), b"").unwrap();
        for refused in [made, backing.join("inside"), scratch.path().join("no/parent")] {
            let failure = SalvageDirectory::prepare(&refused, &backing).err().unwrap();
            assert_eq!(failure.exit, Exit::Usage);
        }
        assert!(!backing.join("inside").exists());
    }
}
