//! A real tree: the sources of the crates that building this program brought, or the system's
//! headers where there are none, several times over if they are too few; unpacked, listed, read and
//! removed by the usual programs.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Row, Unit, Workload, execute};
use crate::place::{Amount, Place};

pub const WORKLOADS: &[Workload] = &[Workload {
    name: "tree",
    rows: &[
        row("untar", "untar of a source tree of {files} files, files"),
        row("ls-cold", "ls -lR of it, cold, files"),
        row("ls-warm", "the same, warm, files"),
        row("read-tree-cold", "read all of it, cold, files"),
        Row {
            on_disk_only: true,
            ..row("read-tree-disk", "the same, from a disk that has to be read, files")
        },
        row("rm", "rm -rf of it, files"),
    ],
    pieces: 1,
    compares_modes: false,
    prepare: |place| {
        pack(place, TAR, place.scale().tree_files);
    },
    run: |place, _| {
        let (archive, directory) = (pack(place, TAR, place.scale().tree_files), place.path("tree"));
        let files = Amount::operations(archive.files);
        fs::create_dir(&directory).expect("the mount can be written");
        place.timed("untar", || {
            unpack(&archive, &directory);
            files
        });
        place.forget_all();
        for name in ["ls-cold", "ls-warm"] {
            place.timed(name, || {
                execute(Command::new("ls").arg("-lR"), &directory, "");
                files
            });
        }
        let read_all = || {
            let bytes = files_below(&directory, usize::MAX).iter().map(|path| read(path)).sum();
            Amount { bytes, ..files }
        };
        place.forget_all();
        place.timed("read-tree-cold", read_all);
        if place.forget_disk() {
            place.timed("read-tree-disk", read_all);
        }
        place.timed("rm", || {
            execute(Command::new("rm").arg("-rf").arg(&directory), Path::new("/"), "");
            files
        });
    },
    clean: super::nothing,
}];

/// An archive of a tree.
pub struct Archive {
    pub path: PathBuf,
    pub files: u64,
}

/// Makes an archive of so many files, unless it is there; `name` is its file's.
pub fn pack(place: &Place, name: &str, wanted: usize) -> Archive {
    let (path, list) = (place.kit(name), place.kit(&format!("{name}.list")));
    if !path.exists() {
        // Under its name once it is whole: where tar fails the next system tries again.
        let part = place.kit(&format!("{name}.part"));
        let _ = fs::remove_file(&part);
        let root = source();
        let files = files_below(&root, wanted);
        assert!(!files.is_empty(), "{}: no tree to take", root.display());
        for copy in 0..wanted.div_ceil(files.len()) {
            let missing = wanted - copy * files.len();
            let names = files.iter().take(missing).map(|file| {
                let relative = file.strip_prefix(&root).expect("it lies below");
                format!("{}\n", relative.to_str().expect("names were chosen so"))
            });
            fs::write(&list, names.collect::<String>()).expect("the scratch directory is there");
            let mut tar = Command::new("tar");
            tar.arg("-rf").arg(&part).arg("-C").arg(&root).arg("-T").arg(&list);
            if copy > 0 {
                tar.arg(format!("--transform=s,^,copy-{copy}/,"));
            }
            execute(&mut tar, Path::new("/"), "");
        }
        fs::rename(part, &path).expect("it was written");
    }
    Archive { path, files: wanted as u64 }
}

/// Unpacks an archive.
pub fn unpack(archive: &Archive, directory: &Path) {
    execute(Command::new("tar").arg("-xf").arg(&archive.path), directory, "");
}

/// The first files below `root` in the order of their names; without very large ones, of which
/// a tree of few files would be mostly made.
fn files_below(root: &Path, wanted: usize) -> Vec<PathBuf> {
    let (mut files, mut to_visit) = (Vec::new(), vec![root.to_owned()]);
    while let Some(directory) = to_visit.pop() {
        let entries = fs::read_dir(&directory).expect("it can be listed").flatten();
        let mut entries: Vec<_> = entries.filter(|entry| entry.path().to_str().is_some()).collect();
        entries.sort_by_key(|entry| std::cmp::Reverse(entry.file_name()));
        for entry in entries {
            let kind = entry.file_type().expect("it is there");
            if kind.is_dir() {
                to_visit.push(entry.path());
            } else if kind.is_file() && entry.metadata().is_ok_and(|meta| meta.len() < MIB) {
                files.push(entry.path());
                if files.len() == wanted {
                    return files;
                }
            }
        }
    }
    files
}

fn source() -> PathBuf {
    let home = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
    let cargo = std::env::var_os("CARGO_HOME").map_or(home.join(".cargo"), PathBuf::from);
    let registries = fs::read_dir(cargo.join("registry/src"));
    let registry = registries.ok().and_then(|mut registries| Some(registries.next()?.ok()?.path()));
    registry.unwrap_or_else(|| PathBuf::from("/usr/include"))
}

fn read(path: &Path) -> u64 {
    let mut content = Vec::new();
    let read = File::open(path).and_then(|mut file| file.read_to_end(&mut content));
    read.expect("the file can be read") as u64
}

const fn row(name: &'static str, description: &'static str) -> Row {
    Row::new(name, description, Unit::PerSecond)
}

const TAR: &str = "tree.tar";
const MIB: u64 = 1 << 20;
