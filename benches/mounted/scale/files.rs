//! Many small files, in a tree or in one directory.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::systems::System;

/// Makes so many files, in directories of `width` each if given, looks at them, reads and
/// removes them; `note` is told what each costs in microseconds.
pub fn measure(
    system: &System,
    count: u64,
    width: Option<u64>,
    mut note: impl FnMut(&'static str, f64),
) {
    let root = system.directory().join("scale");
    let mut timed = |work, action: &dyn Fn()| {
        let begin = Instant::now();
        action();
        note(work, begin.elapsed().as_secs_f64() * 1e6 / count as f64);
    };
    system.remount();
    system.forget_peak();
    timed("create", &|| {
        fs::create_dir(&root).expect("the mount can be written");
        for index in 0..count {
            let path = path(&root, index, width);
            if width.is_some_and(|width| index % width == 0) {
                fs::create_dir(path.parent().expect("it has one")).expect("it is new");
            }
            let mut file = File::create_new(path).expect("the mount can be written");
            file.write_all(&CONTENT).expect("the mount can be written");
        }
    });
    system.remount();
    timed("list, cold", &|| assert_eq!(list(&root), count));
    timed("list, warm", &|| assert_eq!(list(&root), count));
    system.remount();
    timed("read, cold", &|| {
        for index in 0..count {
            let mut content = Vec::with_capacity(CONTENT.len() + 1);
            let mut file = File::open(path(&root, index, width)).expect("it was made");
            file.read_to_end(&mut content).expect("it can be read");
            assert_eq!(content, CONTENT);
        }
    });
    timed("remove", &|| fs::remove_dir_all(&root).expect("it was made"));
}

/// Lists the tree with the attributes of each file; how many there are.
fn list(directory: &Path) -> u64 {
    let entries = fs::read_dir(directory).expect("it was made");
    entries
        .map(|entry| {
            let entry = entry.expect("it can be listed");
            let metadata = entry.metadata().expect("it is there");
            if metadata.is_dir() { list(&entry.path()) } else { 1 }
        })
        .sum()
}

fn path(root: &Path, index: u64, width: Option<u64>) -> PathBuf {
    match width {
        Some(width) => root.join(format!("{}/{}", index / width, index % width)),
        None => root.join(index.to_string()),
    }
}

const CONTENT: [u8; 100] = [7; 100];
