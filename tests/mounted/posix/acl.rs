//! POSIX ACLs, with `-o acl`.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use rustix::io::Errno;

use crate::harness::{ALICE, BOB, Mount, Setup, User, assert_errno, needs_program, shell};

crate::matrix! { Setup::new().for_all_users().option("acl") =>
    named_user_gets_in,
    mask_limits_and_chmod_moves_it,
    default_acl_is_inherited,
    removal_and_copy,
}

fn named_user_gets_in(m: &mut Mount) {
    if !needs_program("setfacl") {
        return;
    }
    fs::write(m.path("f"), b"x").unwrap();
    fs::set_permissions(m.path("f"), fs::Permissions::from_mode(0o600)).unwrap();
    User::ordinary(ALICE).run(|| assert_errno(fs::read(m.path("f")), Errno::ACCESS));
    shell(m.mnt(), &format!("setfacl -m u:{ALICE}:r f"));
    User::ordinary(ALICE).run(|| {
        assert_eq!(fs::read(m.path("f")).unwrap(), b"x");
        assert_errno(fs::OpenOptions::new().write(true).open(m.path("f")), Errno::ACCESS);
    });
    User::ordinary(BOB).run(|| assert_errno(fs::read(m.path("f")), Errno::ACCESS));
    m.remount();
    User::ordinary(ALICE).run(|| assert_eq!(fs::read(m.path("f")).unwrap(), b"x"));
    let text = shell(m.mnt(), "getfacl -cn f");
    assert!(text.contains(&format!("user:{ALICE}:r--")), "{text}");
}

fn mask_limits_and_chmod_moves_it(m: &mut Mount) {
    if !needs_program("setfacl") {
        return;
    }
    fs::write(m.path("f"), b"x").unwrap();
    shell(m.mnt(), &format!("setfacl -m u:{ALICE}:rw f"));
    assert_eq!(fs::metadata(m.path("f")).unwrap().mode() & 0o777, 0o664, "the mask shows as group");
    User::ordinary(ALICE).run(|| fs::write(m.path("f"), b"y").unwrap());
    fs::set_permissions(m.path("f"), fs::Permissions::from_mode(0o614)).unwrap();
    User::ordinary(ALICE).run(|| assert_errno(fs::read(m.path("f")), Errno::ACCESS));
    assert!(shell(m.mnt(), "getfacl -cn f").contains("mask::--x"));
    fs::set_permissions(m.path("f"), fs::Permissions::from_mode(0o664)).unwrap();
    User::ordinary(ALICE).run(|| fs::write(m.path("f"), b"z").unwrap());
}

fn default_acl_is_inherited(m: &mut Mount) {
    if !needs_program("setfacl") {
        return;
    }
    fs::create_dir(m.path("d")).unwrap();
    shell(m.mnt(), &format!("setfacl -d -m u:{ALICE}:rwx,g::-,o::- d"));
    fs::write(m.path("d/f"), b"x").unwrap();
    fs::create_dir(m.path("d/e")).unwrap();
    let file = shell(m.mnt(), "getfacl -cn d/f");
    assert!(file.contains(&format!("user:{ALICE}:rwx")) && file.contains("other::---"), "{file}");
    // The umask does not apply where a default ACL does: rw for the mask, as open asked.
    assert_eq!(fs::metadata(m.path("d/f")).unwrap().mode() & 0o777, 0o660);
    let directory = shell(m.mnt(), "getfacl -cn d/e");
    assert!(directory.contains(&format!("default:user:{ALICE}:rwx")), "{directory}");
    shell(m.mnt(), "chmod 755 d");
    User::ordinary(ALICE).run(|| fs::write(m.path("d/f"), b"y").unwrap());
    User::ordinary(BOB).run(|| assert_errno(fs::read(m.path("d/f")), Errno::ACCESS));
}

fn removal_and_copy(m: &mut Mount) {
    if !needs_program("setfacl") {
        return;
    }
    shell(m.mnt(), &format!("echo x > f; chmod 640 f; setfacl -m u:{ALICE}:r f; cp -a f g"));
    let (one, two) = (shell(m.mnt(), "getfacl -cn f"), shell(m.mnt(), "getfacl -cn g"));
    assert_eq!(one, two, "cp -a lost the ACL");
    shell(m.mnt(), "setfacl -b f");
    let text = shell(m.mnt(), "getfacl -cn f");
    assert!(!text.contains("mask"), "{text}");
    User::ordinary(ALICE).run(|| assert_errno(fs::read(m.path("f")), Errno::ACCESS));
}
