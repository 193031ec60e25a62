//! Who owns what is made, and who may do what: umask, set-group-id directories, permission
//! checks, sticky directories, the calling user under `allow_other`.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, chown, symlink};
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::io::Errno;

use crate::harness::user::on_own_thread;
use crate::harness::{ALICE, BOB, Mount, Setup, User, assert_errno, open_or_create};

crate::matrix! { Setup::new() =>
    umask_applies,
    mode_bits_are_stored,
}

crate::matrix! { Setup::new().for_all_users() =>
    created_files_belong_to_the_caller,
    set_gid_directory_passes_its_group_on,
    permissions_are_checked,
    supplementary_groups_count,
    sticky_directory,
    only_the_owner_changes_attributes,
    chown_by_an_ordinary_user,
    open_descriptor_outlives_permission,
    create_unwritable_and_write,
    search_permission_on_the_way,
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

fn owner(path: &Path) -> (u32, u32) {
    let meta = fs::symlink_metadata(path).unwrap();
    (meta.uid(), meta.gid())
}

pub(super) fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn umask_applies(m: &mut Mount) {
    on_own_thread(|| {
        for (mask, file, directory) in [(0o000, 0o666, 0o777), (0o027, 0o640, 0o750), (0o777, 0, 0)]
        {
            rustix::process::umask(Mode::from_raw_mode(mask));
            let name = |kind: &str| m.path(format!("{kind}{mask:o}"));
            File::create(name("f")).unwrap();
            fs::create_dir(name("d")).unwrap();
            let all = Mode::from_raw_mode(0o666);
            mknodat(CWD, name("p"), FileType::Fifo, all, 0).unwrap();
            assert_eq!(mode(&name("f")), file, "file, umask {mask:o}");
            assert_eq!(mode(&name("d")), directory, "directory, umask {mask:o}");
            assert_eq!(mode(&name("p")), file, "fifo, umask {mask:o}");
        }
    });
}

fn mode_bits_are_stored(m: &mut Mount) {
    fs::write(m.path("f"), b"x").unwrap();
    fs::create_dir(m.path("d")).unwrap();
    for bits in [0o1777, 0o2750, 0o4711, 0o7777, 0o000, 0o644] {
        set_mode(&m.path("f"), bits);
        set_mode(&m.path("d"), bits | 0o700);
        assert_eq!((mode(&m.path("f")), mode(&m.path("d"))), (bits, bits | 0o700));
    }
    m.remount();
    assert_eq!(mode(&m.path("f")), 0o644);
    assert_eq!(mode(&m.path("f")), mode(&m.backing().join("f")));
}

fn created_files_belong_to_the_caller(m: &mut Mount) {
    let alice = User { uid: ALICE, gid: 4001, groups: vec![4002] };
    alice.run(|| {
        fs::write(m.path("f"), b"x").unwrap();
        fs::create_dir(m.path("d")).unwrap();
        symlink("f", m.path("l")).unwrap();
        mknodat(CWD, m.path("p"), FileType::Fifo, Mode::RUSR, 0).unwrap();
        std::os::unix::net::UnixListener::bind(m.path("s")).unwrap();
    });
    for name in ["f", "d", "l", "p", "s"] {
        assert_eq!(owner(&m.path(name)), (ALICE, 4001), "{name}");
        assert_eq!(owner(&m.backing().join(name)), (ALICE, 4001), "{name} below");
    }
    fs::write(m.path("of-root"), b"x").unwrap();
    assert_eq!(owner(&m.path("of-root")), (0, 0));
}

fn set_gid_directory_passes_its_group_on(m: &mut Mount) {
    fs::create_dir(m.path("d")).unwrap();
    chown(m.path("d"), None, Some(4005)).unwrap();
    set_mode(&m.path("d"), 0o2777);
    User::ordinary(ALICE).run(|| {
        fs::write(m.path("d/f"), b"x").unwrap();
        fs::create_dir(m.path("d/e")).unwrap();
        fs::create_dir(m.path("d/e/deeper")).unwrap();
    });
    assert_eq!(owner(&m.path("d/f")), (ALICE, 4005));
    assert_eq!(owner(&m.path("d/e/deeper")), (ALICE, 4005));
    assert_eq!(mode(&m.path("d/e")), 0o2755, "the bit is inherited by directories");
    assert_eq!(mode(&m.path("d/f")), 0o644);
    // A file made with the bit by one outside the group does not get it.
    User::ordinary(ALICE).run(|| {
        let mut options = OpenOptions::new();
        options.write(true).create(true).mode(0o2775).open(m.path("d/x")).unwrap();
    });
    assert_eq!(mode(&m.path("d/x")) & 0o2000, 0);
}

fn permissions_are_checked(m: &mut Mount) {
    fs::write(m.path("secret"), b"x").unwrap();
    set_mode(&m.path("secret"), 0o600);
    fs::write(m.path("public"), b"x").unwrap();
    set_mode(&m.path("public"), 0o644);
    fs::create_dir(m.path("closed")).unwrap();
    set_mode(&m.path("closed"), 0o700);
    fs::create_dir(m.path("listed")).unwrap();
    set_mode(&m.path("listed"), 0o755);
    fs::write(m.path("listed/f"), b"x").unwrap();
    User::ordinary(ALICE).run(|| {
        assert_errno(File::open(m.path("secret")), Errno::ACCESS);
        assert_errno(OpenOptions::new().write(true).open(m.path("public")), Errno::ACCESS);
        fs::read(m.path("public")).unwrap();
        assert_errno(fs::read_dir(m.path("closed")), Errno::ACCESS);
        assert_errno(File::create(m.path("listed/g")), Errno::ACCESS);
        assert_errno(fs::remove_file(m.path("listed/f")), Errno::ACCESS);
        assert_errno(fs::rename(m.path("listed/f"), m.path("g")), Errno::ACCESS);
        assert_eq!(fs::read(m.path("listed/f")).unwrap(), b"x");
        let access = rustix::fs::Access::WRITE_OK;
        assert_errno(rustix::fs::access(m.path("public"), access), Errno::ACCESS);
    });
}

fn supplementary_groups_count(m: &mut Mount) {
    fs::write(m.path("f"), b"x").unwrap();
    chown(m.path("f"), Some(0), Some(4003)).unwrap();
    set_mode(&m.path("f"), 0o660);
    User::ordinary(ALICE).run(|| assert_errno(File::open(m.path("f")), Errno::ACCESS));
    User::ordinary(ALICE).in_groups(&[4003]).run(|| fs::write(m.path("f"), b"y").unwrap());
    fs::create_dir(m.path("d")).unwrap();
    chown(m.path("d"), Some(0), Some(4003)).unwrap();
    set_mode(&m.path("d"), 0o770);
    User::ordinary(ALICE).in_groups(&[4003]).run(|| fs::write(m.path("d/f"), b"y").unwrap());
    assert_eq!(owner(&m.path("d/f")), (ALICE, ALICE));
}

fn sticky_directory(m: &mut Mount) {
    fs::create_dir(m.path("tmp")).unwrap();
    set_mode(&m.path("tmp"), 0o1777);
    User::ordinary(ALICE).run(|| fs::write(m.path("tmp/f"), b"x").unwrap());
    User::ordinary(BOB).run(|| {
        fs::write(m.path("tmp/g"), b"x").unwrap();
        let unlinked = fs::remove_file(m.path("tmp/f")).unwrap_err().raw_os_error();
        let allowed = [Errno::PERM, Errno::ACCESS].map(|errno| Some(errno.raw_os_error()));
        assert!(allowed.contains(&unlinked));
        assert!(fs::rename(m.path("tmp/f"), m.path("tmp/h")).is_err());
        assert!(fs::rename(m.path("tmp/g"), m.path("tmp/f")).is_err());
        fs::remove_file(m.path("tmp/g")).unwrap();
    });
    User::ordinary(ALICE).run(|| fs::remove_file(m.path("tmp/f")).unwrap());
}

fn only_the_owner_changes_attributes(m: &mut Mount) {
    User::ordinary(ALICE).run(|| fs::write(m.path("f"), b"x").unwrap());
    set_mode(&m.path("f"), 0o666);
    User::ordinary(BOB).run(|| {
        let mode = fs::Permissions::from_mode(0o600);
        assert_errno(fs::set_permissions(m.path("f"), mode), Errno::PERM);
        let file = OpenOptions::new().write(true).open(m.path("f")).unwrap();
        let past = std::time::SystemTime::UNIX_EPOCH;
        assert_errno(file.set_modified(past), Errno::PERM);
        let now = rustix::fs::Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_NOW };
        let times = rustix::fs::Timestamps { last_access: now, last_modification: now };
        // Writers may set both times to now, which is what touch does.
        rustix::fs::futimens(&file, &times).unwrap();
    });
    User::ordinary(ALICE)
        .run(|| {
            set_mode(&m.path("f"), 0o640);
            File::options()
                .write(true)
                .open(m.path("f"))
                .unwrap()
                .set_modified(std::time::SystemTime::UNIX_EPOCH)
        })
        .unwrap();
    assert_eq!(fs::metadata(m.path("f")).unwrap().mtime(), 0);
}

fn chown_by_an_ordinary_user(m: &mut Mount) {
    User::ordinary(ALICE).in_groups(&[4007]).run(|| {
        fs::write(m.path("f"), b"x").unwrap();
        assert_errno(chown(m.path("f"), Some(BOB), None), Errno::PERM);
        assert_errno(chown(m.path("f"), None, Some(4008)), Errno::PERM);
        chown(m.path("f"), Some(ALICE), Some(4007)).unwrap();
    });
    assert_eq!(owner(&m.path("f")), (ALICE, 4007));
    chown(m.path("f"), Some(BOB), Some(4009)).unwrap();
    assert_eq!(owner(&m.path("f")), (BOB, 4009));
    m.remount();
    assert_eq!(owner(&m.path("f")), (BOB, 4009));
}

fn open_descriptor_outlives_permission(m: &mut Mount) {
    use std::os::unix::fs::FileExt;
    User::ordinary(ALICE).run(|| {
        let file = open_or_create(m.path("f"));
        set_mode(&m.path("f"), 0);
        file.write_all_at(b"still open", 0).unwrap();
        file.sync_all().unwrap();
        let mut back = [0; 10];
        file.read_exact_at(&mut back, 0).unwrap();
        assert_eq!(&back, b"still open");
        file.set_len(5).unwrap();
        assert_errno(File::open(m.path("f")), Errno::ACCESS);
    });
}

fn create_unwritable_and_write(m: &mut Mount) {
    use std::io::Write;
    // What tar and git do: the mode forbids writing, the creating descriptor may.
    User::ordinary(ALICE).run(|| {
        let mut options = OpenOptions::new();
        let mut file = options.write(true).create_new(true).mode(0o444).open(m.path("f")).unwrap();
        file.write_all(&[1; 10_000]).unwrap();
        drop(file);
        assert_eq!(fs::read(m.path("f")).unwrap(), [1; 10_000]);
        assert_errno(OpenOptions::new().write(true).open(m.path("f")), Errno::ACCESS);
    });
    assert_eq!(mode(&m.path("f")), 0o444);
}

fn search_permission_on_the_way(m: &mut Mount) {
    fs::create_dir_all(m.path("outer/inner")).unwrap();
    fs::write(m.path("outer/inner/f"), b"x").unwrap();
    for bits in [0o755, 0o711] {
        set_mode(&m.path("outer"), bits);
        User::ordinary(ALICE).run(|| fs::read(m.path("outer/inner/f")).unwrap());
    }
    set_mode(&m.path("outer"), 0o700);
    User::ordinary(ALICE).run(|| {
        assert_errno(fs::read(m.path("outer/inner/f")), Errno::ACCESS);
        assert_errno(fs::metadata(m.path("outer/inner")), Errno::ACCESS);
    });
}
