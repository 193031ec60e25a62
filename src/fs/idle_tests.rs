//! Files that nobody uses and that are open underneath for a moment yet.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::open::Purpose;
use super::open_table::OpenInode;
use super::tests::{Fixture, ROOT_CALLER, os};
use super::{AttributeChange, FileSystem, Handle, NodeId, TimeChange, Timestamp};
use crate::keys::Access;
use crate::store::flushes;

const ROOT: NodeId = NodeId::ROOT;
/// The times of a file need not move in less.
const TICK: Duration = Duration::from_millis(20);

fn pattern(seed: usize, len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 7 + at / 4096 + seed) as u8).collect()
}

/// Makes a file and uses it again, so that it is idle.
fn make(fx: &Fixture, name: &str, content: &[u8]) -> NodeId {
    let file = fx.create(ROOT, name, content);
    visit(&fx.fs, file);
    file
}

/// Makes a thousand files, each used once.
fn thousand(fx: &Fixture) -> Vec<NodeId> {
    (0..1000).map(|number| fx.create(ROOT, &number.to_string(), b"text")).collect()
}

/// Opens and closes a file; which open file that was.
fn visit(fs: &FileSystem, node: NodeId) -> Arc<OpenInode> {
    let handle = fs.open(ROOT_CALLER, node, libc::O_RDONLY).unwrap().handle;
    let inode = Arc::clone(fs.file(handle).unwrap().inode());
    fs.release(handle).unwrap();
    inode
}

#[test]
fn a_file_that_is_opened_again_is_the_same_open_file() {
    let fx = Fixture::new();
    let file = make(&fx, "file", b"text");
    let first = visit(&fx.fs, file);
    assert_eq!((fx.fs.open.len(), fx.fs.files.len(), fx.open_descriptors()), (1, 0, 1));
    assert!(Arc::ptr_eq(&first, &visit(&fx.fs, file)));
    assert_eq!(fx.content(file), b"text");
    let handle = fx.fs.open(ROOT_CALLER, file, libc::O_RDWR).unwrap().handle;
    fx.fs.write(handle, 4, b" and more", false).unwrap();
    fx.fs.release(handle).unwrap();
    assert!(Arc::ptr_eq(&first, &visit(&fx.fs, file)), "a writer leaves it as it was left");
    assert_eq!(fx.content(file), b"text and more");
}

#[test]
fn it_is_closed_when_nobody_has_opened_it_for_two_rounds() {
    let fx = Fixture::new();
    let file = make(&fx, "file", b"text");
    for _ in 0..3 {
        fx.fs.keep_up(false);
        assert_eq!(fx.fs.open.len(), 1);
        visit(&fx.fs, file);
    }
    fx.fs.keep_up(false);
    fx.fs.attributes(file, None).unwrap();
    fx.fs.sync_all().unwrap();
    fx.fs.keep_up(false);
    assert_eq!(fx.fs.open.len(), 0, "who looks at it does not keep it open");
    assert_eq!(fx.open_descriptors(), 0);
    make(&fx, "other", b"text");
    fx.fs.keep_up(true);
    assert_eq!(fx.fs.open.len(), 0, "before a sync of everything");
}

#[test]
fn what_changed_underneath_is_opened_anew() {
    let fx = Fixture::new();
    let file = make(&fx, "file", b"one");
    make(&fx, "other", b"three");
    let first = visit(&fx.fs, file);
    fs::copy(fx.backing("other"), fx.backing("file")).unwrap();
    assert_eq!(fx.content(file), b"three");
    assert!(!Arc::ptr_eq(&first, &visit(&fx.fs, file)));
    fs::write(fx.backing("file"), b"foreign bytes").unwrap();
    assert!(fx.fs.open(ROOT_CALLER, file, libc::O_RDONLY).unwrap_err().is(Errno::IO));
}

/// The upkeep of another file must not take what was changed underneath for what was left.
#[test]
fn a_change_underneath_is_seen_after_the_upkeep() {
    let fx = Fixture::new();
    let [file, _, busy] = ["file", "other", "busy"].map(|name| {
        let content = pattern(name.len(), 100_000);
        make(&fx, name, &content)
    });
    let handle = fx.fs.open(ROOT_CALLER, busy, libc::O_RDWR).unwrap().handle;
    fx.fs.sync(handle, false).unwrap();
    fx.fs.write(handle, 0, b"gathered", false).unwrap();
    assert!(fx.fs.volume.has_gathered());
    visit(&fx.fs, file);
    thread::sleep(TICK);
    fs::copy(fx.backing("other"), fx.backing("file")).unwrap();
    fx.fs.keep_up(false);
    assert!(fx.content(file) == pattern("other".len(), 100_000));
    fx.fs.release(handle).unwrap();
}

#[test]
fn what_was_removed_or_replaced_underneath_is_not_used_again() {
    let fx = Fixture::new();
    for replaced in [false, true] {
        let file = make(&fx, "file", b"old");
        visit(&fx.fs, file);
        if replaced {
            fs::copy(fx.backing("file"), fx.backing("new")).unwrap();
            fs::rename(fx.backing("new"), fx.backing("file")).unwrap();
        } else {
            fs::remove_file(fx.backing("file")).unwrap();
        }
        let refused = fx.fs.open(ROOT_CALLER, file, libc::O_RDWR).unwrap_err();
        assert!(refused.is(Errno::STALE), "{refused}");
        assert_eq!((fx.fs.open.len(), fx.open_descriptors()), (0, 0));
        assert!(fx.fs.attributes(file, None).unwrap_err().is(Errno::STALE));
    }
    assert_eq!(fx.content(fx.lookup(ROOT, "file")), b"old");
}

#[test]
fn a_change_of_permissions_underneath_is_looked_at() {
    let fx = Fixture::new();
    let file = make(&fx, "file", b"text");
    let first = visit(&fx.fs, file);
    thread::sleep(TICK);
    fs::set_permissions(fx.backing("file"), fs::Permissions::from_mode(0o400)).unwrap();
    assert!(!Arc::ptr_eq(&first, &visit(&fx.fs, file)), "whether it opens is asked again");
}

#[test]
fn a_key_is_asked_for_anew_when_it_has_grown_old() {
    let fx = Fixture::with(|options| options.idle_age = Duration::from_millis(50));
    let file = make(&fx, "file", b"text");
    let first = visit(&fx.fs, file);
    let (begun, hits) = (Instant::now(), fx.fs.statistics_report().dek_cache.hits);
    loop {
        let same = Arc::ptr_eq(&first, &visit(&fx.fs, file));
        if begun.elapsed() > Duration::from_millis(100) {
            assert!(!same, "however often it is used");
            break;
        }
    }
    assert!(fx.fs.statistics_report().dek_cache.hits > hits);
}

/// The file was opened for reading only after it had been written and closed.
#[test]
fn a_file_that_cannot_be_written_is_synced_before_it_takes_a_name() {
    let fx = Fixture::new();
    make(&fx, "old", b"old");
    let new = make(&fx, "new", b"new");
    fx.fs.open.close_all_idle();
    // As an open does that may not write.
    let (object, _) = fx.fs.nodes.object(new).unwrap();
    let used = fx.fs.open.claim(new, object).unwrap();
    let (disk, stat, _) = fx.fs.open_backing(new, object, Purpose::Describe).unwrap();
    let disk = Arc::new(disk);
    let path = std::path::PathBuf::new;
    let file = fx.fs.volume.open_file_of_size(
        disk.clone() as Arc<_>,
        stat.size,
        false,
        &Access::own(&path),
    );
    used.inode().set_ready(file.unwrap(), disk, &stat);
    assert!(!used.inode().file().is_writable() && used.inode().file().is_unsynced());
    drop(used);
    assert_eq!(fx.fs.open.len(), 1, "it is idle");
    let before = flushes::asked_for();
    fx.fs.rename(ROOT, os("new"), ROOT, os("old"), 0).unwrap();
    assert_eq!(flushes::asked_for(), before + 1);
    assert_eq!(fx.content(new), b"new");
}

/// What was changed underneath while somebody had the file open is not what it was left as.
#[test]
fn no_close_and_no_upkeep_takes_a_change_underneath_for_its_own() {
    let upkeep: [fn(&Fixture, Handle); 3] =
        [|_, _| {}, |fx, handle| fx.fs.sync(handle, false).unwrap(), |fx, _| fx.fs.keep_up(true)];
    for (round, upkeep) in upkeep.into_iter().enumerate() {
        let fx = Fixture::new();
        let file = make(&fx, "file", &pattern(1, 100_000));
        make(&fx, "other", &pattern(2, 100_000));
        let handle = fx.fs.open(ROOT_CALLER, file, libc::O_RDWR).unwrap().handle;
        assert!(fx.fs.file(handle).unwrap().inode().file().is_unsynced());
        thread::sleep(TICK);
        fs::copy(fx.backing("other"), fx.backing("file")).unwrap();
        upkeep(&fx, handle);
        fx.fs.release(handle).unwrap();
        assert!(fx.content(file) == pattern(2, 100_000), "{round}");
    }
}

/// Openers that find it changed must not keep each other from having it closed.
#[test]
fn one_that_is_given_up_is_handed_out_to_nobody() {
    let fx = Fixture::new();
    let file = make(&fx, "file", b"text");
    let (object, _) = fx.fs.nodes.object(file).unwrap();
    let [one, two] = [(); 2].map(|()| fx.fs.open.claim(file, object).unwrap());
    one.inode().give_up();
    assert!(fx.fs.open.claim(file, object).is_none());
    drop(one);
    assert!(fx.fs.open.claim(file, object).is_none());
    let inode = Arc::clone(two.inode());
    thread::scope(|scope| {
        let opener = scope.spawn(|| visit(&fx.fs, file));
        thread::sleep(TICK);
        assert!(!opener.is_finished());
        drop(two);
        assert!(!Arc::ptr_eq(&inode, &opener.join().unwrap()));
    });
    for round in 0..50 {
        visit(&fx.fs, file);
        let mode = fs::Permissions::from_mode(0o600 | (round % 2));
        fs::set_permissions(fx.backing("file"), mode).unwrap();
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| assert_eq!(fx.content(file), b"text"));
            }
        });
    }
}

/// Else the kernel would keep what it has cached, of another time than the file's.
#[test]
fn a_time_that_was_set_is_seen_at_the_next_opening() {
    let fx = Fixture::new();
    let file = make(&fx, "file", b"text");
    visit(&fx.fs, file);
    let mtime = Some(TimeChange::At(Timestamp { secs: 5, nanos: 6 }));
    let change = AttributeChange { mtime, ..Default::default() };
    fx.fs.set_attributes(ROOT_CALLER, file, None, &change).unwrap();
    let opened = fx.fs.open(ROOT_CALLER, file, libc::O_RDONLY).unwrap();
    assert!(!opened.keep_cache);
    fx.fs.release(opened.handle).unwrap();
    let opened = fx.fs.open(ROOT_CALLER, file, libc::O_RDONLY).unwrap();
    assert!(opened.keep_cache);
    fx.fs.release(opened.handle).unwrap();
}

#[test]
fn what_is_removed_takes_no_space_any_more() {
    let fx = Fixture::new();
    for name in ["removed", "replaced", "new", "open"] {
        make(&fx, name, b"text");
    }
    let before = fx.open_descriptors();
    fx.fs.unlink(ROOT, os("removed")).unwrap();
    fx.fs.rename(ROOT, os("new"), ROOT, os("replaced"), 0).unwrap();
    assert_eq!(fx.fs.open.len(), 2);
    let open = fx.lookup(ROOT, "open");
    let handle = fx.fs.open(ROOT_CALLER, open, libc::O_RDWR).unwrap().handle;
    fx.fs.unlink(ROOT, os("open")).unwrap();
    fx.fs.write(handle, 0, b"T", false).unwrap();
    fx.fs.release(handle).unwrap();
    assert_eq!(fx.fs.open.len(), 1, "what lost its name is closed by its last user");
    // Each of the three has one for what the kernel may still ask of it.
    assert_eq!(fx.open_descriptors(), before);
}

#[test]
fn a_node_that_is_forgotten_is_closed() {
    let fx = Fixture::new();
    let file = make(&fx, "file", b"text");
    assert_eq!(fx.fs.open.len(), 1);
    fx.fs.forget(file, 1);
    assert_eq!((fx.fs.open.len(), fx.open_descriptors()), (0, 0));
    assert_eq!(fx.content(fx.lookup(ROOT, "file")), b"text");
}

#[test]
fn files_that_are_used_once_are_closed_and_do_not_push_out_those_that_are_used_often() {
    let fx = Fixture::new();
    let often = make(&fx, "often", b"text");
    let first = visit(&fx.fs, often);
    let files = thousand(&fx);
    assert_eq!(fx.fs.open.len(), 1);
    assert!(Arc::ptr_eq(&first, &visit(&fx.fs, often)));
    // By now nobody remembers that they were made, where enough others of their shard were since:
    // which numbers a file system gives is its own affair.
    let shard = |file: NodeId| fx.fs.nodes.object(file).unwrap().0.ino % 64;
    let made_later = |index: usize| {
        files[index + 1..].iter().filter(|other| shard(**other) == shard(files[index])).count()
    };
    let forgotten: Vec<usize> = (0..500).filter(|index| made_later(*index) >= 4).collect();
    assert!(forgotten.len() > 100);
    for index in forgotten {
        visit(&fx.fs, files[index]);
    }
    assert_eq!(fx.fs.open.len(), 1);
    assert!(Arc::ptr_eq(&first, &visit(&fx.fs, often)));
}

#[test]
fn there_are_no_more_of_them_than_may_be() {
    let fx = Fixture::new();
    let files = thousand(&fx);
    for file in &files {
        visit(&fx.fs, *file);
        visit(&fx.fs, *file);
    }
    assert!((128..=256).contains(&fx.fs.open.len()), "{}", fx.fs.open.len());
    assert_eq!(fx.open_descriptors(), fx.fs.open.len());
    for (number, file) in files.iter().enumerate() {
        assert_eq!(fx.content(*file), b"text", "{number}");
    }
    fx.fs.set_read_only(true);
    assert_eq!(fx.fs.open.len(), 0, "none is open for writing in a file system that is not");
}

#[test]
fn an_empty_file_is_closed_as_its_key_is_the_next_writers_to_ask_for() {
    let fx = Fixture::new();
    let file = fx.create(ROOT, "file", b"");
    assert_eq!(fx.fs.open.len(), 0);
    visit(&fx.fs, file);
    assert_eq!(fx.fs.open.len(), 0);
}

#[test]
fn threads_that_open_close_and_change_the_same_files_agree() {
    let fx = Fixture::new();
    let files: Vec<_> = (0..300).map(|number| make(&fx, &number.to_string(), &[0; 8])).collect();
    thread::scope(|scope| {
        for thread in 0..4 {
            let (fx, files) = (&fx, &files);
            scope.spawn(move || {
                for round in 0..3000 {
                    let file = files[(round * 7 + thread) % files.len()];
                    let handle = fx.fs.open(ROOT_CALLER, file, libc::O_RDWR).unwrap().handle;
                    let mut found = [0; 8];
                    assert_eq!(fx.fs.read(handle, 0, &mut found).unwrap(), 8);
                    assert!(found.iter().all(|byte| *byte == found[0]), "{found:?}");
                    if round % 3 == 0 {
                        fx.fs.write(handle, 0, &[round as u8; 8], false).unwrap();
                    }
                    fx.fs.release(handle).unwrap();
                    if round % 300 == 0 {
                        fx.fs.keep_up(round % 600 == 0);
                    }
                }
            });
        }
    });
    assert_eq!(fx.fs.files.len(), 0);
    assert_eq!((fx.in_use(), fx.open_descriptors()), (0, 0));
}
