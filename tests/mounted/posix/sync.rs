//! fsync, fdatasync, syncfs: what they acknowledge is on the backing store, as shown by a
//! daemon that dies right after.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use crate::harness::{Mount, Setup, assert_same, open_or_create, pattern};

crate::matrix! { Setup::new() =>
    fsync_of_an_open_file,
    fdatasync_of_an_overwrite,
    fsync_through_a_read_only_descriptor,
    fsync_of_a_directory,
    syncfs_covers_all_files,
    fsync_with_a_writer_beside_it,
}

fn open(m: &Mount, name: &str) -> File {
    open_or_create(m.path(name))
}

fn crash(m: &mut Mount) {
    m.kill_daemon();
    m.mount();
}

fn fsync_of_an_open_file(m: &mut Mount) {
    let data = pattern(1, 90 * 4096 + 5);
    let file = open(m, "f");
    file.write_all_at(&data, 0).unwrap();
    file.sync_all().unwrap();
    // Nothing is closed before the daemon dies: only the sync counts.
    crash(m);
    assert_same(&fs::read(m.path("f")).unwrap(), &data, "synced");
    drop(file);
}

fn fdatasync_of_an_overwrite(m: &mut Mount) {
    let mut expected = pattern(1, 90 * 4096 + 5);
    fs::write(m.path("f"), &expected).unwrap();
    m.remount();
    let file = open(m, "f");
    for round in 0..10u64 {
        let offset = round * 37_003 % 360_000;
        let data = pattern(100 + round, 7000);
        file.write_all_at(&data, offset).unwrap();
        file.sync_data().unwrap();
        let at = offset as usize;
        expected[at..at + 7000].copy_from_slice(&data);
    }
    crash(m);
    assert_same(&fs::read(m.path("f")).unwrap(), &expected, "synced");
    drop(file);
}

fn fsync_through_a_read_only_descriptor(m: &mut Mount) {
    let data = pattern(1, 10_000);
    let file = open(m, "f");
    file.write_all_at(&data, 0).unwrap();
    File::open(m.path("f")).unwrap().sync_all().unwrap();
    crash(m);
    assert_same(&fs::read(m.path("f")).unwrap(), &data, "synced by another");
    drop(file);
}

fn fsync_of_a_directory(m: &mut Mount) {
    fs::create_dir(m.path("d")).unwrap();
    fs::write(m.path("d/f"), b"x").unwrap();
    fs::rename(m.path("d/f"), m.path("d/g")).unwrap();
    let directory = File::open(m.path("d")).unwrap();
    directory.sync_all().unwrap();
    directory.sync_data().unwrap();
    File::open(m.mnt()).unwrap().sync_all().unwrap();
    drop(directory);
    crash(m);
    assert_eq!(fs::read(m.path("d/g")).unwrap(), b"x");
    assert!(!m.path("d/f").exists());
}

fn syncfs_covers_all_files(m: &mut Mount) {
    let files: Vec<File> = (0..20).map(|index| open(m, &format!("f{index}"))).collect();
    for (index, file) in files.iter().enumerate() {
        file.write_all_at(&pattern(index as u64, 6000), 0).unwrap();
    }
    rustix::fs::syncfs(&files[0]).unwrap();
    for (index, file) in files.iter().enumerate() {
        let mut back = vec![0; 6000];
        file.read_exact_at(&mut back, 0).unwrap();
        assert_same(&back, &pattern(index as u64, 6000), "after syncfs");
    }
}

fn fsync_with_a_writer_beside_it(m: &mut Mount) {
    let file = open(m, "f");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for index in 0..200u64 {
                file.write_all_at(&pattern(index, 3000), index * 3000).unwrap();
            }
        });
        scope.spawn(|| {
            for _ in 0..10 {
                file.sync_all().unwrap();
            }
        });
    });
    let expected: Vec<u8> = (0..200).flat_map(|index| pattern(index, 3000)).collect();
    assert_same(&fs::read(m.path("f")).unwrap(), &expected, "written while syncing");
}
