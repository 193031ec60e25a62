//! `ssefs rekey`: a file gets a new data key and keeps everything else; what is refused, or
//! killed on the way, is as it was.

use std::fs::{self, File, OpenOptions, Permissions};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use rustix::fs::{XattrFlags, getxattr, setxattr};
use rustix::process::{Pid, Signal, kill_process};

use crate::harness::bench::one_line;
use crate::harness::{
    ALICE, Mount, Random, Setup, User, assert_same, needs_program, pattern, shell, succeed,
    wait_for,
};

crate::matrix! { Setup::new().mount_only("a plain directory has no data keys") =>
    everything_but_the_key_stays,
    what_cannot_be_rekeyed_is_refused,
    a_file_that_is_written_is_left_alone,
    a_kill_leaves_the_file_whole,
}

const USAGE: i32 = 2;
const BUSY: i32 = 10;
const NOT_MOUNTED: i32 = 11;

fn rekey(m: &Mount, paths: &[&Path]) -> Command {
    let mut command = m.command();
    command.arg("rekey").args(paths);
    command
}

fn file_id(path: &Path) -> String {
    let mut buffer = [0; 64];
    let len = getxattr(path, "user.ssefs.file_id", &mut buffer).unwrap();
    String::from_utf8(buffer[..len].to_vec()).unwrap()
}

#[track_caller]
fn refused(mut command: Command, code: i32) -> String {
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    one_line(&output)
}

fn names(directory: &Path) -> Vec<String> {
    let names = fs::read_dir(directory).unwrap().map(Result::unwrap);
    let mut names: Vec<_> = names.map(|entry| entry.file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn everything_but_the_key_stays(m: &mut Mount) {
    let path = m.path("f");
    let len = 40 << 20;
    let file = File::create(&path).unwrap();
    let parts = [(0, pattern(1, 5000)), (20 << 20, pattern(2, 3 << 20))];
    for (at, data) in &parts {
        file.write_all_at(data, *at).unwrap();
    }
    file.set_len(len).unwrap();
    drop(file);
    setxattr(&path, "user.kept", b"value", XattrFlags::empty()).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o6754)).unwrap();
    let long_ago = SystemTime::UNIX_EPOCH + Duration::new(1_000_000_000, 123_456_789);
    let times = fs::FileTimes::new().set_modified(long_ago).set_accessed(long_ago);
    File::open(&path).unwrap().set_times(times).unwrap();
    let content = fs::read(&path).unwrap();
    let (before, id) = (fs::metadata(&path).unwrap(), file_id(&path));
    let ciphertext = fs::read(m.backing().join("f")).unwrap();
    let output = succeed(&mut rekey(m, &[&path]));
    assert!(String::from_utf8_lossy(&output.stdout).contains(&file_id(&path)), "{output:?}");
    for remounted in [false, true] {
        let after = fs::metadata(&path).unwrap();
        assert_ne!(file_id(&path), id);
        assert_eq!((after.mode(), after.uid()), (before.mode(), before.uid()));
        assert_eq!((after.gid(), after.len()), (before.gid(), before.len()));
        assert_eq!(after.modified().unwrap(), long_ago);
        assert!(after.blocks() <= before.blocks() + 64, "holes were filled: {}", after.blocks());
        let mut value = [0; 16];
        let len = getxattr(&path, "user.kept", &mut value).unwrap();
        assert_eq!(&value[..len], b"value");
        assert_same(&fs::read(&path).unwrap(), &content, "the content");
        if !remounted {
            m.remount();
        }
    }
    let now = fs::read(m.backing().join("f")).unwrap();
    assert!(ciphertext[4096..8192] != now[4096..8192], "the data was not encrypted anew");
    assert_eq!(names(m.mnt()), ["f"]);
}

fn what_cannot_be_rekeyed_is_refused(m: &mut Mount) {
    let file = m.path("f");
    fs::write(&file, b"content").unwrap();
    fs::hard_link(&file, m.path("second")).unwrap();
    fs::create_dir(m.path("d")).unwrap();
    std::os::unix::fs::symlink("f", m.path("link")).unwrap();
    fs::write(m.path("empty"), b"").unwrap();
    let id = file_id(&file);
    let message = refused(rekey(m, &[&file]), USAGE);
    assert!(message.contains("2 names") && message.contains("--break-links"), "{message}");
    let message = refused(rekey(m, &[&m.path("link")]), USAGE);
    assert!(message.contains("symbolic link"), "{message}");
    let message = refused(rekey(m, &[&m.path("d")]), USAGE);
    assert!(message.contains("regular file"), "{message}");
    let message = refused(rekey(m, &[&m.backing().join("f")]), NOT_MOUNTED);
    assert!(message.contains("its path in the mount"), "{message}");
    refused(rekey(m, &[&m.path("none")]), 3);
    let output = succeed(&mut rekey(m, &[&m.path("empty")]));
    assert!(String::from_utf8_lossy(&output.stdout).contains("empty"), "{output:?}");
    assert_eq!(file_id(&file), id, "a refused file was rekeyed");
    let mut command = rekey(m, &[&file]);
    succeed(command.arg("--break-links"));
    assert_ne!(file_id(&file), id);
    assert_eq!(file_id(&m.path("second")), id);
    for name in ["f", "second"] {
        assert_eq!(fs::read(m.path(name)).unwrap(), b"content");
        assert_eq!(fs::metadata(m.path(name)).unwrap().nlink(), 1);
    }
    assert_eq!(names(m.mnt()), ["d", "empty", "f", "link", "second"]);
}

fn a_file_that_is_written_is_left_alone(m: &mut Mount) {
    let path = m.path("f");
    fs::write(&path, pattern(1, 3_000_000)).unwrap();
    let id = file_id(&path);
    let open = OpenOptions::new().append(true).open(&path).unwrap();
    let message = refused(rekey(m, &[&path]), BUSY);
    assert!(message.contains("open for writing"), "{message}");
    assert_eq!(file_id(&path), id);
    drop(open);
    // Readers do not hold it up, and keep what they have open.
    let reader = File::open(&path).unwrap();
    succeed(&mut rekey(m, &[&path]));
    let mut start = [0; 100];
    reader.read_exact_at(&mut start, 0).unwrap();
    assert_same(&start, &pattern(1, 100), "an open reader");
    drop(reader);

    // Appended to again and again while it is rekeyed: no append is lost.
    let (stop, appended) = (AtomicBool::new(false), &m.path("log"));
    fs::write(appended, pattern(2, 2_000_000)).unwrap();
    let done = std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut count = 0u64;
            while !stop.load(Ordering::Relaxed) {
                let mut file = OpenOptions::new().append(true).open(appended).unwrap();
                std::io::Write::write_all(&mut file, &count.to_le_bytes()).unwrap();
                drop(file);
                count += 1;
                std::thread::sleep(Duration::from_millis(count % 40));
            }
            count
        });
        let mut done = 0;
        for _ in 0..25 {
            let output = rekey(m, &[appended]).output().unwrap();
            match output.status.code() {
                Some(0) => done += 1,
                Some(BUSY) => {}
                code => panic!("{code:?}: {output:?}"),
            }
        }
        stop.store(true, Ordering::Relaxed);
        (done, writer.join().unwrap())
    });
    let (rekeyed, count) = done;
    let mut expected = pattern(2, 2_000_000);
    expected.extend((0..count).flat_map(u64::to_le_bytes));
    assert_same(&fs::read(appended).unwrap(), &expected, &format!("rekeyed {rekeyed} times"));
    assert_eq!(names(m.mnt()), ["f", "log"]);
}

fn a_kill_leaves_the_file_whole(m: &mut Mount) {
    let path = m.path("f");
    let data = pattern(3, 8 << 20);
    fs::write(&path, &data).unwrap();
    let mut random = Random::new(5);
    let mut left_over = 0;
    for round in 0..15 {
        let mut command = rekey(m, &[&path]);
        let mut child = command.stdout(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(1 + random.below(80)));
        kill_process(Pid::from_raw(child.id().cast_signed()).unwrap(), Signal::KILL).unwrap();
        child.wait().unwrap();
        assert_same(&fs::read(&path).unwrap(), &data, &format!("round {round}"));
        left_over += usize::from(names(m.mnt()).len() > 1);
    }
    assert!(left_over > 0, "no kill struck while a copy was made");
    let id = file_id(&path);
    let rekeyed =
        wait_for(Duration::from_secs(10), || rekey(m, &[&path]).output().unwrap().status.success());
    assert!(rekeyed, "it is not rekeyed after all");
    assert_ne!(file_id(&path), id);
    assert_eq!(names(m.mnt()), ["f"], "copies of killed processes are left");
    assert_same(&fs::read(&path).unwrap(), &data, "in the end");
    // An interrupt takes its copy away itself.
    let mut command = rekey(m, &[&path]);
    let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait_for(Duration::from_secs(2), || names(m.mnt()).len() > 1);
    let _ = kill_process(Pid::from_raw(child.id().cast_signed()).unwrap(), Signal::INT);
    child.wait_with_output().unwrap();
    assert_eq!(names(m.mnt()), ["f"]);
}

#[test]
fn acls_and_owners_stay() {
    if !needs_program("setfacl") {
        return;
    }
    let setup = Setup::new().option("acl").for_all_users();
    let Some(m) = setup.mount_only("a plain directory has no data keys").start() else { return };
    shell(
        m.mnt(),
        "mkdir d && setfacl -d -m u:4321:rwx d && echo text > d/with && echo text > plain",
    );
    shell(m.mnt(), "mv plain d/ && setfacl -m u:1234:r d/with && chown 54321:54322 d/with d/plain");
    let shown =
        |name: &str| shell(m.mnt(), &format!("getfacl -cn d/{name}; stat -c '%a %u %g' d/{name}"));
    let before = ["with", "plain"].map(shown);
    succeed(&mut rekey(&m, &[&m.path("d/with"), &m.path("d/plain")]));
    assert_eq!(["with", "plain"].map(shown), before);
    assert!(!before[1].contains("4321:"), "{}", before[1]);
    m.finish();
}

#[test]
fn other_users_files_are_refused() {
    let setup = Setup::new().for_all_users().mount_only("a plain directory has no data keys");
    let Some(m) = setup.start() else { return };
    fs::write(m.path("of-root"), b"content").unwrap();
    let copy = m.scratch().join("program");
    fs::copy(m.binary(), &copy).unwrap();
    fs::set_permissions(&copy, Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(m.scratch(), Permissions::from_mode(0o755)).unwrap();
    User::ordinary(ALICE).run(|| fs::write(m.path("of-alice"), b"content").unwrap());
    let id = file_id(&m.path("of-root"));
    let run = |name: &str| {
        use std::os::unix::process::CommandExt;
        let mut command = Command::new(&copy);
        command.arg("rekey").arg(m.path(name)).uid(ALICE).gid(ALICE);
        command.output().unwrap()
    };
    let output = run("of-root");
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    assert!(one_line(&output).contains("another user's"), "{output:?}");
    assert_eq!(file_id(&m.path("of-root")), id);
    let id = file_id(&m.path("of-alice"));
    let output = run("of-alice");
    assert!(output.status.success(), "{output:?}");
    assert_ne!(file_id(&m.path("of-alice")), id);
    assert_eq!(fs::metadata(m.path("of-alice")).unwrap().uid(), ALICE);
    m.finish();
}
