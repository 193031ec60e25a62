//! set-user-id and set-group-id bits: cleared when someone else changes the file, and when its
//! owner changes; kept otherwise.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use crate::harness::{ALICE, BOB, Mount, Setup, User};

crate::matrix! { Setup::new().for_all_users().option("suid") =>
    cleared_by_an_ordinary_writer,
    cleared_by_the_owner_writing,
    cleared_by_truncation,
    cleared_by_truncating_open,
    cleared_by_allocation_and_copy,
    cleared_by_chown,
    kept_on_what_root_writes,
    set_gid_without_group_execute_is_kept,
    chmod_by_a_foreign_group_drops_set_gid,
    capability_is_dropped_by_a_write,
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o7777
}

/// A file of ALICE's with this mode, writable for all by its mode.
fn set_id_file(m: &Mount, bits: u32) -> PathBuf {
    let path = m.path("f");
    let _ = fs::remove_file(&path);
    fs::write(&path, vec![7; 10_000]).unwrap();
    chown(&path, Some(ALICE), Some(ALICE)).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(bits)).unwrap();
    assert_eq!(mode(&path), bits);
    path
}

fn writable(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).open(path).unwrap()
}

fn cleared_by_an_ordinary_writer(m: &mut Mount) {
    let path = set_id_file(m, 0o6777);
    User::ordinary(BOB).run(|| writable(&path).write_all_at(b"x", 0).unwrap());
    assert_eq!(mode(&path), 0o777);
}

fn cleared_by_the_owner_writing(m: &mut Mount) {
    let path = set_id_file(m, 0o6755);
    User::ordinary(ALICE).run(|| writable(&path).write_all_at(b"x", 9000).unwrap());
    assert_eq!(mode(&path), 0o755);
    m.remount();
    assert_eq!(mode(&path), 0o755);
}

fn cleared_by_truncation(m: &mut Mount) {
    for len in [5000, 20_000] {
        let path = set_id_file(m, 0o6777);
        User::ordinary(BOB).run(|| writable(&path).set_len(len).unwrap());
        assert_eq!(mode(&path), 0o777, "set_len {len}");
    }
}

fn cleared_by_truncating_open(m: &mut Mount) {
    let path = set_id_file(m, 0o6777);
    User::ordinary(BOB).run(|| drop(File::create(&path).unwrap()));
    assert_eq!(mode(&path), 0o777);
}

fn cleared_by_allocation_and_copy(m: &mut Mount) {
    let path = set_id_file(m, 0o6777);
    User::ordinary(BOB).run(|| {
        let flags = rustix::fs::FallocateFlags::empty();
        rustix::fs::fallocate(writable(&path), flags, 0, 50_000).unwrap();
    });
    assert_eq!(mode(&path), 0o777, "fallocate");
    let path = set_id_file(m, 0o6777);
    User::ordinary(BOB).run(|| {
        let file = writable(&path);
        let copied = rustix::fs::copy_file_range(&file, Some(&mut 0), &file, Some(&mut 5000), 1000);
        assert_eq!(copied.unwrap(), 1000);
    });
    assert_eq!(mode(&path), 0o777, "copy_file_range");
}

fn cleared_by_chown(m: &mut Mount) {
    let path = set_id_file(m, 0o6755);
    // Even root's chown clears them on Linux.
    chown(&path, Some(BOB), None).unwrap();
    assert_eq!(mode(&path), 0o755);
    let path = set_id_file(m, 0o6755);
    let alice = User::ordinary(ALICE).in_groups(&[4000]);
    alice.run(|| chown(&path, None, Some(4000)).unwrap());
    assert_eq!(mode(&path), 0o755);
    assert_eq!(fs::metadata(&path).unwrap().gid(), 4000);
}

fn kept_on_what_root_writes(m: &mut Mount) {
    let path = set_id_file(m, 0o6755);
    writable(&path).write_all_at(b"x", 0).unwrap();
    assert_eq!(mode(&path), 0o6755);
}

fn set_gid_without_group_execute_is_kept(m: &mut Mount) {
    // Without group execution the bit means mandatory locking, not privilege.
    let path = set_id_file(m, 0o2666);
    User::ordinary(ALICE).run(|| writable(&path).write_all_at(b"x", 0).unwrap());
    assert_eq!(mode(&path), 0o2666);
}

fn chmod_by_a_foreign_group_drops_set_gid(m: &mut Mount) {
    let path = set_id_file(m, 0o644);
    chown(&path, Some(ALICE), Some(4000)).unwrap();
    let chmod = |bits| fs::set_permissions(&path, fs::Permissions::from_mode(bits)).unwrap();
    User::ordinary(ALICE).run(|| chmod(0o2755));
    assert_eq!(mode(&path), 0o755);
    User::ordinary(ALICE).in_groups(&[4000]).run(|| chmod(0o2755));
    assert_eq!(mode(&path), 0o2755);
}

fn capability_is_dropped_by_a_write(m: &mut Mount) {
    // The bytes of `setcap cap_net_raw+ep`, version 2.
    let capability = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let path = set_id_file(m, 0o777);
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(&path, "security.capability", &capability, flags).unwrap();
    let mut back = [0; 64];
    assert_eq!(rustix::fs::getxattr(&path, "security.capability", &mut back).unwrap(), 20);
    User::ordinary(BOB).run(|| writable(&path).write_all_at(b"x", 0).unwrap());
    let after = rustix::fs::getxattr(&path, "security.capability", &mut back);
    assert_eq!(after, Err(rustix::io::Errno::NODATA));
}
