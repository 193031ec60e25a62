//! The ways to mount and unmount that people use: in the background, as an ordinary user, with
//! umount and fusermount3, by mount(8).

use std::fs;
use std::process::Command;
use std::time::Duration;

use crate::harness::scratch::is_mounted;
use crate::harness::{
    Mount, NOBODY, Setup, User, assert_same, is_root, needs_program, needs_root, pattern, shell,
    skip, succeed, wait_for,
};

/// A volume whose foreground daemon has been ended, for tests that mount by themselves.
fn idle(setup: Setup) -> Option<Mount> {
    let mut mount = setup.mount_only("nothing is mounted").start()?;
    fs::write(mount.path("f"), pattern(1, 50_000)).unwrap();
    mount.unmount();
    Some(mount)
}

/// Daemons that serve this mount point, from their arguments.
fn daemons(m: &Mount) -> Vec<u32> {
    let needle = m.mnt().as_os_str().as_encoded_bytes().to_vec();
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| {
        let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        *pid != std::process::id() && arguments.split(|&byte| byte == 0).any(|word| word == needle)
    })
    .collect()
}

fn reads_back(m: &Mount) {
    assert_same(&fs::read(m.path("f")).unwrap(), &pattern(1, 50_000), "in the background");
}

#[test]
fn background_mount_answers_when_the_command_returns() {
    let Some(m) = idle(Setup::new()) else { return };
    let output = succeed(&mut m.mount_command());
    assert!(is_mounted(m.mnt()), "the command returned before the mount stood");
    reads_back(&m);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "", "a mount says nothing");
    assert_eq!(daemons(&m).len(), 1);
    succeed(m.command().arg("unmount").arg(m.mnt()));
    assert!(!is_mounted(m.mnt()));
    assert_eq!(daemons(&m), Vec::<u32>::new(), "ssefs unmount returned before the daemon was gone");
}

#[test]
fn background_daemon_holds_none_of_its_caller() {
    let Some(m) = idle(Setup::new()) else { return };
    // `output` waits for the end of the pipes: a daemon that keeps them hangs its caller.
    succeed(&mut m.mount_command());
    let [pid] = daemons(&m)[..] else { panic!("{:?}", daemons(&m)) };
    let cwd = fs::read_link(format!("/proc/{pid}/cwd")).unwrap();
    assert_eq!(cwd.to_str(), Some("/"), "the daemon keeps a directory busy");
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    assert_eq!(fields[3], pid.to_string(), "the daemon stays in its caller's session");
    succeed(m.command().arg("unmount").arg(m.mnt()));
}

#[test]
fn umount_and_fusermount_end_the_daemon() {
    let Some(m) = idle(Setup::new()) else { return };
    let programs: &[&[&str]] =
        if is_root() { &[&["umount"], &["fusermount3", "-u"]] } else { &[&["fusermount3", "-u"]] };
    for words in programs {
        if !needs_program(words[0]) {
            continue;
        }
        succeed(&mut m.mount_command());
        fs::write(m.path("g"), words[0]).unwrap();
        succeed(Command::new(words[0]).args(&words[1..]).arg(m.mnt()));
        assert!(!is_mounted(m.mnt()));
        let ended = wait_for(Duration::from_secs(10), || daemons(&m).is_empty());
        assert!(ended, "{} left the daemon running", words[0]);
        succeed(&mut m.mount_command());
        assert_eq!(fs::read_to_string(m.path("g")).unwrap(), words[0]);
        succeed(m.command().arg("unmount").arg(m.mnt()));
    }
}

#[test]
fn terminated_daemon_unmounts() {
    let Some(mut m) = idle(Setup::new()) else { return };
    for signal in ["TERM", "INT"] {
        m.mount();
        fs::write(m.path("g"), signal).unwrap();
        let pid = m.daemon_pid().expect("mounted").to_string();
        succeed(Command::new("kill").args(["-s", signal, &pid]));
        let gone = wait_for(Duration::from_secs(10), || !is_mounted(m.mnt()));
        assert!(gone, "SIG{signal} left the mount in place");
        m.kill_daemon();
        m.mount();
        assert_eq!(fs::read_to_string(m.path("g")).unwrap(), signal);
        m.unmount();
    }
}

#[test]
fn ordinary_user_mounts_and_works() {
    let setup = Setup::of_nobody().mount_only("nothing is mounted");
    if !needs_root() || !needs_program("fusermount3") || !needs_program("setpriv") {
        return;
    }
    let device = fs::OpenOptions::new();
    let usable =
        User::ordinary(NOBODY).run(|| device.clone().read(true).write(true).open("/dev/fuse"));
    if let Err(error) = usable {
        return skip(&format!("ordinary users may not open /dev/fuse: {error}"));
    }
    let Some(mut m) = setup.start() else { return };
    m.unmount();
    succeed(&mut m.mount_command());
    let as_nobody = |script: &str| {
        let script = script.replace('\'', "'\\''");
        let become_nobody = format!("setpriv --reuid {NOBODY} --regid {NOBODY} --clear-groups");
        shell(m.scratch(), &format!("{become_nobody} bash -euc '{script}'"))
    };
    as_nobody(
        "cd mnt; cp -a /usr/include/linux copy; diff -r /usr/include/linux copy; id -u > who",
    );
    assert_eq!(as_nobody("stat -c %u mnt/copy").trim(), NOBODY.to_string());
    // Without allow_other even root stays out.
    assert!(fs::read_dir(m.mnt()).is_err(), "another user sees the mount");
    succeed(m.command().arg("unmount").arg(m.mnt()));
    succeed(&mut m.mount_command());
    as_nobody("diff -r /usr/include/linux mnt/copy; fusermount3 -u mnt");
    assert!(wait_for(Duration::from_secs(10), || daemons(&m).is_empty()));
}

#[test]
fn mount_by_its_helper_name() {
    if !needs_root() {
        return;
    }
    let Some(m) = idle(Setup::new()) else { return };
    // mount(8) finds helpers in /sbin only; what it runs there is this program by that name.
    for helper in ["mount.ssefs", "mount.fuse.ssefs"] {
        let link = m.scratch().join(helper);
        std::os::unix::fs::symlink(m.binary(), &link).unwrap();
        let options =
            format!("rw,_netdev,nofail,x-systemd.automount,keystore={}", m.keystore().display());
        let mut command = Command::new(&link);
        command.arg(m.backing()).arg(m.mnt()).arg("-o").arg(options);
        succeed(&mut command);
        assert!(is_mounted(m.mnt()), "{helper} mounted nothing");
        reads_back(&m);
        let table = fs::read_to_string("/proc/self/mounts").unwrap();
        let target = m.mnt().to_str().unwrap().to_owned();
        let line = table.lines().find(|line| line.contains(&target)).unwrap();
        assert_eq!(line.split(' ').nth(2), Some("fuse.ssefs"), "{line}");
        succeed(m.command().arg("unmount").arg(m.mnt()));
    }
}

#[test]
fn mount_point_in_use_or_missing_is_refused() {
    let Some(mut m) = idle(Setup::new()) else { return };
    m.mount();
    let second = m.mount_command().output().unwrap();
    assert!(!second.status.success(), "one mount point, two mounts");
    assert_one_line_says(&second, m.mnt().to_str().unwrap());
    reads_back(&m);
    m.unmount();
    fs::remove_dir(m.mnt()).unwrap();
    let missing = m.mount_command().output().unwrap();
    assert!(!missing.status.success());
    assert_one_line_says(&missing, m.mnt().to_str().unwrap());
}

#[test]
fn unmounting_a_busy_mount_is_refused_and_harmless() {
    let Some(mut m) = idle(Setup::new()) else { return };
    m.mount();
    let open = fs::File::open(m.path("f")).unwrap();
    let output = m.command().arg("unmount").arg(m.mnt()).output().unwrap();
    assert!(!output.status.success(), "unmounted under an open file");
    assert!(is_mounted(m.mnt()));
    reads_back(&m);
    drop(open);
    m.unmount();
}

/// The error is one line that names what it is about.
fn assert_one_line_says(output: &std::process::Output, what: &str) {
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(text.trim_end().lines().count(), 1, "{text}");
    assert!(text.contains(what), "{text}");
}
