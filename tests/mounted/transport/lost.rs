//! A thread that serves a ring dies with a request in its hands, by a panic where nothing catches
//! it: whoever waits is told, and the daemon ends instead of leaving the mount to hang.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::mpsc::channel;
use std::thread;

use rustix::fs::{Advice, AtFlags, SeekFrom, fadvise, seek, statat};
use rustix::io::Errno;

use super::{LIMIT, armed_ring, errno};
use crate::harness::{Mount, assert_same, pattern, wait_for};

#[test]
fn a_home_thread() {
    let Some(mount) = armed_ring("panic:fuse.ring.take:40") else { return };
    let (content, _) = written(&mount, 5000);
    let root = File::open(mount.mnt()).unwrap();
    assert_ended(mount, "fuse.ring.take", &content, move || first_other_than_missing(&root));
}

#[test]
fn a_bulk_thread_with_a_read() {
    let Some(mount) = armed_ring("panic:fuse.ring.bulk:1") else { return };
    // Each write is too small for a bulk thread, so the read is the first that comes to one.
    let (content, file) = written(&mount, 4 << 20);
    fadvise(&file, 0, None, Advice::DontNeed).unwrap();
    let mut found = vec![0; content.len()];
    assert_ended(mount, "fuse.ring.bulk", &content, move || {
        file.read_exact_at(&mut found, 0).err()
    });
}

#[test]
fn a_slow_thread() {
    let Some(mount) = armed_ring("panic:fuse.ring.slow:1") else { return };
    let (content, file) = written(&mount, 5000);
    assert_ended(mount, "fuse.ring.slow", &content, move || {
        seek(&file, SeekFrom::Data(0)).err().map(io::Error::from)
    });
}

/// The reader of `/dev/fuse`. Nobody waits for what comes to it; the others' requests find out.
#[test]
fn the_reader() {
    let Some(mount) = armed_ring("panic:fuse.ring.read:1") else { return };
    let (content, file) = written(&mount, 5000);
    drop(file);
    let (forgotten, root) = (mount.path("forgotten"), File::open(mount.mnt()).unwrap());
    File::create(&forgotten).unwrap();
    assert_ended(mount, "fuse.ring.read", &content, move || {
        fs::remove_file(&forgotten).err().or_else(|| first_other_than_missing(&root))
    });
}

/// A synced file, of writes of at most 64 KiB.
fn written(mount: &Mount, len: usize) -> (Vec<u8>, File) {
    let content = pattern(1, len);
    let file = File::options().read(true).write(true).create_new(true).open(mount.path("file"));
    let file = file.unwrap();
    for (number, piece) in (0..).zip(content.chunks(64 << 10)) {
        file.write_all_at(piece, number * (64 << 10)).unwrap();
    }
    file.sync_all().unwrap();
    (content, file)
}

/// Looks for one name after another that is not there, until something else is wrong. By the open
/// root: by its path the directory below is asked once the daemon has taken the mount away.
fn first_other_than_missing(root: &File) -> Option<io::Error> {
    let (mut numbers, mut found) = (0.., None);
    wait_for(LIMIT, || {
        let name = format!("missing-{}", numbers.next().expect("without end"));
        let error = statat(root, name, AtFlags::SYMLINK_NOFOLLOW).err();
        found = error.filter(|error| *error != Errno::NOENT).map(io::Error::from);
        found.is_some()
    });
    found
}

/// Asserts that `call` is answered with an error, that a thread died at this fail point, that the
/// daemon ends for it and that the next one finds the content.
#[track_caller]
fn assert_ended(
    mut mount: Mount,
    fail_point: &str,
    content: &[u8],
    call: impl FnOnce() -> Option<io::Error> + Send + 'static,
) {
    let (tell, told) = channel();
    // Not joined: who waits for ever is freed only when the mount is dropped.
    thread::spawn(move || tell.send(call()));
    let error = told.recv_timeout(2 * LIMIT);
    let error = error.unwrap_or_else(|error| panic!("the caller: {error}\n{}", mount.log()));
    let ends = [Errno::NOTCONN, Errno::CONNABORTED, Errno::IO];
    assert!(error.as_ref().is_some_and(|error| ends.contains(&errno(error))), "{error:?}");
    assert!(mount.wait_for_death(LIMIT), "the daemon lives on\n{}", mount.log());
    let log = mount.log();
    assert!(log.contains(&format!("at the fail point {fail_point}\n")), "{log}");
    assert!(log.contains("the connection is ended"), "{log}");
    mount.kill_and_leave();
    let gone =
        || fs::symlink_metadata(mount.path("file")).is_err_and(|e| errno(&e) == Errno::NOENT);
    assert!(wait_for(LIMIT, gone), "the dead mount is still there");
    mount.forgive_panics();
    mount.mount();
    assert_same(&fs::read(mount.path("file")).unwrap(), content, "after the next mount");
    mount.finish();
}
