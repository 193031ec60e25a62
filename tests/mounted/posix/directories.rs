//! Directories: many entries, reading while they change, positions, link counts.

use std::collections::HashSet;
use std::fs::{self, File};
use std::os::unix::fs::{DirEntryExt, MetadataExt};
use std::process::Command;

use rustix::fs::Dir;
use rustix::io::Errno;

use crate::harness::{Mount, Setup, assert_errno, succeed};

crate::matrix! { Setup::new() =>
    ten_thousand_entries,
    listing_while_unlinking,
    listing_while_creating,
    seek_back_to_every_position,
    rewind_sees_new_entries,
    dot_and_dotdot,
    entry_types_and_inodes_match_stat,
    link_counts,
    remove_refusals,
    make_refusals,
    recursive_removal,
    removed_while_open,
    looked_up_while_missing,
    parallel_creation_in_one_directory,
}

fn ten_thousand_entries(m: &mut Mount) {
    const COUNT: usize = 10_000;
    fs::create_dir(m.path("d")).unwrap();
    for index in 0..COUNT {
        File::create(m.path(format!("d/entry-{index:05}"))).unwrap();
    }
    for _ in 0..2 {
        let names: Vec<_> =
            fs::read_dir(m.path("d")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names.len(), COUNT, "an entry was missed or came twice");
        assert_eq!(names.iter().collect::<HashSet<_>>().len(), COUNT);
        m.remount();
    }
    assert_eq!(fs::metadata(m.path("d/entry-09999")).unwrap().len(), 0);
}

fn listing_while_unlinking(m: &mut Mount) {
    fs::create_dir(m.path("d")).unwrap();
    for index in 0..3000 {
        File::create(m.path(format!("d/{index}"))).unwrap();
    }
    // What rm -r does: each name is removed as soon as it is read.
    let mut removed = 0;
    for entry in fs::read_dir(m.path("d")).unwrap() {
        fs::remove_file(entry.unwrap().path()).unwrap();
        removed += 1;
    }
    assert_eq!(removed, 3000, "entries that were there all along were skipped");
    fs::remove_dir(m.path("d")).unwrap();
}

fn listing_while_creating(m: &mut Mount) {
    fs::create_dir(m.path("d")).unwrap();
    for index in 0..2000 {
        File::create(m.path(format!("d/old-{index}"))).unwrap();
    }
    let mut seen = HashSet::new();
    for (index, entry) in fs::read_dir(m.path("d")).unwrap().enumerate() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if index % 10 == 0 && index < 5000 {
            File::create(m.path(format!("d/new-{index}"))).unwrap();
        }
        assert!(seen.insert(name.clone()), "{name} came twice");
    }
    let old = seen.iter().filter(|name| name.starts_with("old-")).count();
    assert_eq!(old, 2000, "old entries were skipped");
}

fn seek_back_to_every_position(m: &mut Mount) {
    fs::create_dir(m.path("d")).unwrap();
    for index in 0..300 {
        File::create(m.path(format!("d/{index}"))).unwrap();
    }
    let mut directory = Dir::new(
        rustix::fs::open(m.path("d"), rustix::fs::OFlags::DIRECTORY, rustix::fs::Mode::empty())
            .unwrap(),
    )
    .unwrap();
    let mut order = Vec::new();
    while let Some(entry) = directory.read() {
        let entry = entry.unwrap();
        order.push((entry.offset(), entry.file_name().to_owned()));
    }
    assert_eq!(order.len(), 302);
    for (index, window) in order.windows(2).enumerate().step_by(17).rev() {
        directory.seek(window[0].0).unwrap();
        let next = directory.read().unwrap().unwrap();
        assert_eq!(next.file_name(), window[1].1.as_c_str(), "position {index}");
    }
    directory.seek(order[301].0).unwrap();
    assert!(directory.read().is_none(), "something follows the last entry");
}

fn rewind_sees_new_entries(m: &mut Mount) {
    fs::create_dir(m.path("d")).unwrap();
    File::create(m.path("d/a")).unwrap();
    let mut directory = Dir::read_from(File::open(m.path("d")).unwrap()).unwrap();
    let count = |directory: &mut Dir| {
        let mut names = 0;
        while let Some(entry) = directory.read() {
            entry.unwrap();
            names += 1;
        }
        names
    };
    assert_eq!(count(&mut directory), 3);
    File::create(m.path("d/b")).unwrap();
    directory.rewind();
    assert_eq!(count(&mut directory), 4);
    fs::remove_file(m.path("d/a")).unwrap();
    directory.rewind();
    assert_eq!(count(&mut directory), 3);
}

fn dot_and_dotdot(m: &mut Mount) {
    fs::create_dir_all(m.path("d/e")).unwrap();
    let listed: Vec<(String, u64)> = Dir::read_from(File::open(m.path("d/e")).unwrap())
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            (entry.file_name().to_str().unwrap().to_owned(), entry.ino())
        })
        .collect();
    let names: HashSet<&str> = listed.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, HashSet::from([".", ".."]));
    let inode = |path| fs::metadata(m.path(path)).unwrap().ino();
    assert_eq!(inode("d/e/."), inode("d/e"));
    assert_eq!(inode("d/e/.."), inode("d"));
    assert_errno(fs::remove_dir(m.path("d/e/.")), Errno::INVAL);
}

fn entry_types_and_inodes_match_stat(m: &mut Mount) {
    File::create(m.path("file")).unwrap();
    fs::create_dir(m.path("directory")).unwrap();
    std::os::unix::fs::symlink("x", m.path("link")).unwrap();
    let mode = rustix::fs::Mode::RUSR;
    rustix::fs::mknodat(rustix::fs::CWD, m.path("pipe"), rustix::fs::FileType::Fifo, mode, 0)
        .unwrap();
    for round in 0..2 {
        for entry in fs::read_dir(m.mnt()).unwrap().map(Result::unwrap) {
            let meta = fs::symlink_metadata(entry.path()).unwrap();
            let name = entry.file_name();
            assert_eq!(entry.ino(), meta.ino(), "{name:?}, round {round}");
            assert_eq!(entry.file_type().unwrap(), meta.file_type(), "{name:?}, round {round}");
        }
        m.remount();
    }
}

fn link_counts(m: &mut Mount) {
    fs::create_dir(m.path("d")).unwrap();
    let links = || fs::metadata(m.path("d")).unwrap().nlink();
    assert_eq!(links(), 2);
    fs::create_dir(m.path("d/a")).unwrap();
    fs::create_dir(m.path("d/b")).unwrap();
    File::create(m.path("d/f")).unwrap();
    assert_eq!(links(), 4);
    fs::remove_dir(m.path("d/a")).unwrap();
    assert_eq!(links(), 3);
}

fn remove_refusals(m: &mut Mount) {
    fs::create_dir_all(m.path("d/e")).unwrap();
    File::create(m.path("f")).unwrap();
    assert_errno(fs::remove_dir(m.path("d")), Errno::NOTEMPTY);
    assert_errno(fs::remove_dir(m.path("f")), Errno::NOTDIR);
    assert_errno(fs::remove_dir(m.path("none")), Errno::NOENT);
    assert_errno(rustix::fs::unlink(m.path("d")), Errno::ISDIR);
    assert_errno(fs::remove_file(m.path("none")), Errno::NOENT);
}

fn make_refusals(m: &mut Mount) {
    fs::create_dir(m.path("d")).unwrap();
    File::create(m.path("f")).unwrap();
    assert_errno(fs::create_dir(m.path("d")), Errno::EXIST);
    assert_errno(fs::create_dir(m.path("f")), Errno::EXIST);
    assert_errno(fs::create_dir(m.path("f/d")), Errno::NOTDIR);
    assert_errno(fs::create_dir(m.path("none/d")), Errno::NOENT);
}

fn recursive_removal(m: &mut Mount) {
    for outer in 0..10 {
        for inner in 0..10 {
            let directory = m.path(format!("d/{outer}/{inner}"));
            fs::create_dir_all(&directory).unwrap();
            for name in 0..10 {
                fs::write(directory.join(name.to_string()), b"content").unwrap();
            }
        }
    }
    succeed(Command::new("rm").arg("-r").arg(m.path("d")));
    assert!(!m.path("d").exists());
    m.remount();
    assert_eq!(fs::read_dir(m.mnt()).unwrap().count(), 0);
}

fn removed_while_open(m: &mut Mount) {
    fs::create_dir(m.path("d")).unwrap();
    let open = File::open(m.path("d")).unwrap();
    fs::remove_dir(m.path("d")).unwrap();
    fs::create_dir(m.path("d")).unwrap();
    File::create(m.path("d/new")).unwrap();
    open.sync_all().unwrap();
    assert!(Dir::new(open).unwrap().next().is_none_or(|name| name.is_err()));
    assert_eq!(fs::read_dir(m.path("d")).unwrap().count(), 1);
}

fn looked_up_while_missing(m: &mut Mount) {
    for round in 0..20 {
        let path = m.path(format!("late-{round}"));
        assert!(!path.exists());
        if round % 2 == 0 {
            fs::write(&path, b"x").unwrap();
        } else {
            fs::create_dir(&path).unwrap();
        }
        assert!(path.exists(), "a remembered absence hides a new name");
        let moved = m.path(format!("moved-{round}"));
        assert!(!moved.exists());
        fs::rename(&path, &moved).unwrap();
        assert!(moved.exists() && !path.exists());
    }
}

fn parallel_creation_in_one_directory(m: &mut Mount) {
    std::thread::scope(|scope| {
        for worker in 0..8 {
            let m = &*m;
            scope.spawn(move || {
                for index in 0..100 {
                    let path = m.path(format!("{worker}-{index}"));
                    fs::write(&path, format!("{worker} {index}")).unwrap();
                    if index % 3 == 0 {
                        fs::rename(&path, m.path(format!("{worker}-{index}-moved"))).unwrap();
                    } else if index % 3 == 1 {
                        fs::remove_file(&path).unwrap();
                    }
                }
            });
        }
    });
    assert_eq!(fs::read_dir(m.mnt()).unwrap().count(), 8 * 67);
    // One name, many creators: exactly one wins.
    let winners: usize = std::thread::scope(|scope| {
        let create = || {
            let mut options = fs::OpenOptions::new();
            usize::from(options.write(true).create_new(true).open(m.path("one")).is_ok())
        };
        let workers: Vec<_> = (0..8).map(|_| scope.spawn(create)).collect();
        workers.into_iter().map(|worker| worker.join().unwrap()).sum()
    });
    assert_eq!(winners, 1);
}
