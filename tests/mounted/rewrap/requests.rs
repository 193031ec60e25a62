//! The attribute by which a mount is asked to rewrap: who may, what is refused, and that it is
//! nowhere to be seen.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;

use rustix::fs::{XattrFlags, getxattr, listxattr, removexattr, setxattr};
use rustix::io::Errno;

use super::{rewrap_command, two_keys};
use crate::harness::bench::one_line;
use crate::harness::{ALICE, Bench, Setup, User, assert_errno, is_root};

const ENVELOPE: &str = "system.ssefs.envelope";

fn get(path: &Path) -> rustix::io::Result<Vec<u8>> {
    let mut buffer = vec![0; 4096];
    let len = getxattr(path, ENVELOPE, &mut buffer)?;
    buffer.truncate(len);
    Ok(buffer)
}

fn set(path: &Path, value: &[u8]) -> rustix::io::Result<()> {
    setxattr(path, ENVELOPE, value, XattrFlags::empty())
}

#[test]
fn forged_requests_are_refused_and_change_nothing() {
    let Some(bench) = Bench::new() else { return };
    bench.mount(&[]);
    fs::write(bench.file("one"), b"content of one").unwrap();
    fs::write(bench.file("two"), b"content of two").unwrap();
    fs::write(bench.file("empty"), b"").unwrap();
    let (one, two) = (bench.file("one"), bench.file("two"));
    let backing = |name: &str| fs::read(bench.backing().join(name)).unwrap();
    let before = (backing("one"), backing("two"));
    let (of_one, of_two) = (get(&one).unwrap(), get(&two).unwrap());
    assert_eq!(of_one.len(), of_two.len());
    assert_ne!(of_one[..16], of_two[..16], "file ids");
    let request = |envelope: &[u8], mac: [u8; 32]| [&[1, 0], envelope, &mac].concat();
    let open = fs::File::open(&two).unwrap();
    for path in [&one, &two] {
        for envelope in [&of_one[16..], &of_two[16..]] {
            for mac in [[0; 32], [0xff; 32]] {
                assert_errno(set(path, &request(envelope, mac)), Errno::BADMSG);
            }
        }
        for malformed in [&b""[..], b"x", &[1; 34], &of_one, &[0; 2000], &[2; 200]] {
            assert_errno(set(path, malformed), Errno::INVAL);
        }
    }
    drop(open);
    let any = request(&of_one[16..], [0; 32]);
    assert_errno(set(&bench.mnt(), &any), Errno::INVAL);
    assert_errno(get(&bench.mnt()), Errno::NODATA);
    assert_errno(get(&bench.file("empty")), Errno::NODATA);
    assert_errno(set(&bench.file("empty"), &any), Errno::BADMSG);
    assert_errno(removexattr(&one, ENVELOPE), Errno::PERM);
    let mut names = [0; 256];
    assert_eq!(listxattr(&one, &mut names).unwrap(), 0, "it is listed");
    assert_eq!(fs::metadata(bench.backing().join("empty")).unwrap().len(), 0);
    assert!(before == (backing("one"), backing("two")), "a refused request changed a file");
    assert_eq!(fs::read(&one).unwrap(), b"content of one");
    let message = bench.refused(bench.ssefs(&["rewrap"]).arg(bench.mnt()), 3);
    assert!(message.contains("give the backing directory"), "{message}");
    bench.unmount();
}

#[test]
fn only_the_user_of_the_mount_or_root_may_ask() {
    let setup = Setup::new().for_all_users().mount_only("a plain directory has no envelopes");
    let Some(m) = setup.start() else { return };
    let path = m.path("f");
    User::ordinary(ALICE).run(|| fs::write(&path, b"of Alice").unwrap());
    User::ordinary(ALICE).run(|| {
        assert_errno(get(&path), Errno::PERM);
        assert_errno(set(&path, &[1; 200]), Errno::PERM);
    });
    assert!(get(&path).unwrap().len() > 100);
    let mut command = m.command();
    command.args(["rewrap", "--quiet", "--keystore"]).arg(m.keystore()).arg(m.backing());
    assert!(is_root());
    let output = command.uid(ALICE).gid(ALICE).output();
    assert!(output.is_err() || !output.unwrap().status.success(), "Alice has no business here");
    m.finish();
}

#[test]
fn a_read_only_mount_is_not_changed() {
    let Some(bench) = Bench::new() else { return };
    let (one, _) = two_keys(&bench);
    bench.mount(&[]);
    fs::write(bench.file("f"), b"content").unwrap();
    bench.unmount();
    bench.mount(&["-o", "ro"]);
    let before = fs::read(bench.backing().join("f")).unwrap();
    let output = rewrap_command(&bench, &["--to-key-file", &one]).output().unwrap();
    assert!(!output.status.success());
    assert!(one_line(&output).contains("read-only"), "{output:?}");
    assert!(before == fs::read(bench.backing().join("f")).unwrap());
    bench.unmount();
}
