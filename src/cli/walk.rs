//! The walk over all files of a directory tree, a backing directory or a mount. Symbolic links
//! are not followed and the volume's own directory is left out. It starts from descriptors, so
//! renames on the way lead nowhere else; one descriptor is open for each level, whatever the
//! width.

use std::ffi::{OsStr, OsString};
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::format::METADATA_DIR;
use crate::store::tree::{DirFd, DiskTree, FileKind};

/// A regular file that the walk has come to.
pub struct Found {
    /// Its directory.
    pub directory: Arc<DirFd>,
    /// Its name in it.
    pub name: OsString,
    /// Its path below the root of the walk.
    pub path: PathBuf,
}

/// What the walk has come to.
pub enum Step {
    /// A regular file.
    File(Found),
    /// A directory or name that cannot be read.
    Failed(PathBuf, io::Error),
}

/// Goes through all files below the root of `tree` until `visit` breaks off.
pub fn walk(tree: &DiskTree, visit: &mut dyn FnMut(Step) -> ControlFlow<()>) {
    let _ = walk_at(tree, Path::new(""), visit);
}

/// The same from `start` on, a path below the root: a directory with all that is below it, or
/// one file. One that is not there is a failure; an empty one is the root.
pub fn walk_at(
    tree: &DiskTree,
    start: &Path,
    visit: &mut dyn FnMut(Step) -> ControlFlow<()>,
) -> ControlFlow<()> {
    let (directory, path) = match enter(tree, start) {
        Ok(Start::Directory(directory)) => (Arc::new(directory), start.to_owned()),
        Ok(Start::File(found)) => return visit(Step::File(found)),
        Err(error) => return visit(Step::Failed(start.to_owned(), error)),
    };
    let mut waiting = Vec::new();
    list(tree, &directory, &path, &mut waiting, visit)?;
    while let Some(Waiting { parent, name, path }) = waiting.pop() {
        match tree.open_dir(&parent, &name) {
            Ok(directory) => list(tree, &Arc::new(directory), &path, &mut waiting, visit),
            Err(error) => failed(path, error, visit),
        }?;
    }
    ControlFlow::Continue(())
}

enum Start {
    Directory(DirFd),
    File(Found),
}

fn enter(tree: &DiskTree, start: &Path) -> io::Result<Start> {
    let components: Vec<&OsStr> = start.iter().collect();
    let Some((name, above)) = components.split_last() else {
        return Ok(Start::Directory(tree.root().try_clone()?));
    };
    let directory = tree.resolve(above)?;
    match tree.stat(&directory, name)?.kind() {
        FileKind::Directory => Ok(Start::Directory(tree.open_dir(&directory, name)?)),
        FileKind::Regular => {
            let (directory, name) = (Arc::new(directory), (*name).to_owned());
            Ok(Start::File(Found { directory, name, path: start.to_owned() }))
        }
        _ => {
            let problem = "is neither a regular file nor a directory";
            Err(io::Error::new(io::ErrorKind::InvalidInput, problem))
        }
    }
}

/// A directory that is still to be gone through.
struct Waiting {
    parent: Arc<DirFd>,
    name: OsString,
    path: PathBuf,
}

fn list(
    tree: &DiskTree,
    directory: &Arc<DirFd>,
    path: &Path,
    waiting: &mut Vec<Waiting>,
    visit: &mut dyn FnMut(Step) -> ControlFlow<()>,
) -> ControlFlow<()> {
    let mut entries = match tree.read_dir(directory) {
        Ok(entries) => entries,
        Err(error) => return failed(path.to_owned(), error, visit),
    };
    loop {
        let (name, mut kind) = match entries.next_entry() {
            Ok(Some(entry)) => (entry.name.to_owned(), entry.kind),
            Ok(None) => return ControlFlow::Continue(()),
            Err(error) => return failed(path.to_owned(), error, visit),
        };
        if is_left_out(path, &name) {
            continue;
        }
        let at = path.join(&name);
        if kind == FileKind::Unknown {
            match tree.stat(directory, &name) {
                Ok(stat) => kind = stat.kind(),
                Err(error) => {
                    failed(at, error, visit)?;
                    continue;
                }
            }
        }
        match kind {
            FileKind::Directory => {
                waiting.push(Waiting { parent: Arc::clone(directory), name, path: at });
            }
            FileKind::Regular => {
                visit(Step::File(Found { directory: Arc::clone(directory), name, path: at }))?;
            }
            _ => {}
        }
    }
}

fn is_left_out(directory: &Path, name: &OsStr) -> bool {
    let metadata = directory.as_os_str().is_empty() && name == METADATA_DIR;
    metadata || name == "." || name == ".."
}

/// What is gone meanwhile is no failure.
fn failed(
    path: PathBuf,
    error: io::Error,
    visit: &mut dyn FnMut(Step) -> ControlFlow<()>,
) -> ControlFlow<()> {
    match error.kind() {
        io::ErrorKind::NotFound => ControlFlow::Continue(()),
        _ => visit(Step::Failed(path, error)),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn found(tree: &DiskTree, most: usize) -> Vec<String> {
        let mut paths = Vec::new();
        walk(tree, &mut |step| {
            match step {
                Step::File(file) => paths.push(file.path.display().to_string()),
                Step::Failed(path, error) => panic!("{}: {error}", path.display()),
            }
            match paths.len() < most {
                true => ControlFlow::Continue(()),
                false => ControlFlow::Break(()),
            }
        });
        paths.sort();
        paths
    }

    #[test]
    fn a_walk_can_start_at_a_directory_or_a_file() {
        let scratch = tempfile::tempdir().unwrap();
        fs::create_dir_all(scratch.path().join("a/b")).unwrap();
        for file in ["top", "a/one", "a/b/two"] {
            fs::write(scratch.path().join(file), b"x").unwrap();
        }
        std::os::unix::fs::symlink("a", scratch.path().join("link")).unwrap();
        let tree = DiskTree::open(scratch.path()).unwrap();
        let from = |start: &str| {
            let (mut paths, mut failures) = (Vec::new(), 0);
            let _ = walk_at(&tree, Path::new(start), &mut |step| {
                match step {
                    Step::File(file) => paths.push(file.path.display().to_string()),
                    Step::Failed(..) => failures += 1,
                }
                ControlFlow::Continue(())
            });
            paths.sort();
            (paths, failures)
        };
        assert_eq!(from("a"), (vec!["a/b/two".into(), "a/one".into()], 0));
        assert_eq!(from("a/b/two"), (vec!["a/b/two".into()], 0));
        assert_eq!(from("").0.len(), 3);
        for refused in ["none", "a/none/x", "link", "link/one", "top/x"] {
            assert_eq!(from(refused), (Vec::new(), 1), "{refused}");
        }
    }

    #[test]
    fn regular_files_only_and_not_those_of_the_volume() {
        let scratch = tempfile::tempdir().unwrap();
        let at = |path: &str| scratch.path().join(path);
        for directory in [".ssefs", "a/.ssefs", "a/b", "empty"] {
            fs::create_dir_all(at(directory)).unwrap();
        }
        for file in [".ssefs/volume.json", "top", "a/.ssefs/mine", "a/b/deep"] {
            fs::write(at(file), b"x").unwrap();
        }
        std::os::unix::fs::symlink("top", at("link")).unwrap();
        std::os::unix::fs::symlink("..", at("a/up")).unwrap();
        let tree = DiskTree::open(scratch.path()).unwrap();
        assert_eq!(found(&tree, 99), ["a/.ssefs/mine", "a/b/deep", "top"]);
        assert_eq!(found(&tree, 1).len(), 1);
    }
}
