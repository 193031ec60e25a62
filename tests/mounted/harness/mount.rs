//! One mount of the program under test: starts the daemon, waits until it answers, unmounts it
//! again in every way a test can end.
//!
//! A mount that a test [`finish`](Mount::finish)es must unmount cleanly; one dropped by a panic
//! is detached and its daemon killed.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use ssefs::sys::fail_point::VARIABLE;

use super::scratch::{Scratch, detach, is_mounted};
use super::{NOBODY, User, is_native, needs_root, skip, succeed, transport, wait_for};

/// How to mount: options, mode, who may look.
#[derive(Clone, Default)]
pub struct Setup {
    options: Vec<String>,
    environment: Vec<(String, String)>,
    others: bool,
    owner: Option<User>,
    mount_only: Option<&'static str>,
}

impl Setup {
    pub fn new() -> Self {
        Self::default()
    }

    /// One `-o` option.
    pub fn option(mut self, option: &str) -> Self {
        self.options.push(option.to_owned());
        self
    }

    /// A variable of the first daemon's environment; a later mount has it no more.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Other users may use the mount, and its root is writable for all. Needs root.
    pub fn for_all_users(mut self) -> Self {
        self.others = true;
        self
    }

    /// The daemon runs as this user, who owns the volume. Needs root.
    pub fn owned_by(mut self, user: User) -> Self {
        self.owner = Some(user);
        self
    }

    /// As an ordinary user mounts for nobody else. Needs root.
    pub fn of_nobody() -> Self {
        Self::new().owned_by(User::ordinary(NOBODY))
    }

    /// The test means nothing on a plain directory, for this reason.
    pub fn mount_only(mut self, reason: &'static str) -> Self {
        self.mount_only = Some(reason);
        self
    }

    /// Mounts; `None` with a printed reason where this cannot be tested.
    pub fn start(self) -> Option<Mount> {
        if let (true, Some(reason)) = (is_native(), self.mount_only) {
            skip(reason);
            return None;
        }
        if (self.others || self.owner.is_some()) && !needs_root() {
            return None;
        }
        let scratch = Scratch::new();
        let (backing, keystore) = (scratch.directory("backing"), scratch.directory("keystore"));
        let mount_point = scratch.directory("mnt");
        fs::set_permissions(&keystore, fs::Permissions::from_mode(0o700)).unwrap();
        let binary = match &self.owner {
            Some(user) => {
                for path in [&backing, &keystore, &mount_point] {
                    std::os::unix::fs::chown(path, Some(user.uid), Some(user.gid)).unwrap();
                }
                reachable_copy(&scratch)
            }
            None => binary(),
        };
        let others = self.others;
        let mut mount = Mount {
            scratch,
            backing,
            keystore,
            mount_point,
            binary,
            setup: self,
            daemon: None,
            fail_point: None,
            panics_forgiven: false,
        };
        mount.mount();
        if others {
            fs::set_permissions(mount.mnt(), fs::Permissions::from_mode(0o777)).unwrap();
        }
        Some(mount)
    }
}

/// A mounted volume, or a plain directory in its place.
pub struct Mount {
    scratch: Scratch,
    backing: PathBuf,
    keystore: PathBuf,
    mount_point: PathBuf,
    binary: PathBuf,
    setup: Setup,
    daemon: Option<Child>,
    fail_point: Option<String>,
    panics_forgiven: bool,
}

impl Mount {
    /// The directory under test.
    pub fn mnt(&self) -> &Path {
        &self.mount_point
    }

    /// A path in the directory under test.
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.mount_point.join(name)
    }

    /// The directory that holds the ciphertext; the same as [`mnt`](Self::mnt) when native.
    pub fn backing(&self) -> &Path {
        if is_native() { &self.mount_point } else { &self.backing }
    }

    /// A directory of the native file system for other things of this test.
    pub fn scratch(&self) -> &Path {
        self.scratch.path()
    }

    pub fn keystore(&self) -> &Path {
        &self.keystore
    }

    /// The program under test, as this mount's daemon runs it.
    pub fn binary(&self) -> &Path {
        &self.binary
    }

    /// Everything that the daemons of this mount have logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.scratch.path().join("daemon.log")).unwrap_or_default()
    }

    /// The test has made the daemon panic: unmounting does not fail for it.
    pub fn forgive_panics(&mut self) {
        self.panics_forgiven = true;
    }

    /// The daemon's process id; `None` when native.
    pub fn daemon_pid(&self) -> Option<u32> {
        self.daemon.as_ref().map(Child::id)
    }

    /// Unmounts and mounts again: caches are gone, only what is on the backing store counts.
    pub fn remount(&mut self) {
        self.unmount();
        self.mount();
    }

    /// The same with other `-o` options in place of the ones it started with.
    pub fn remount_with(&mut self, options: &[&str]) {
        self.unmount();
        self.mount_with(options);
    }

    /// As [`mount`](Self::mount), with other `-o` options in place of the ones it started with.
    pub fn mount_with(&mut self, options: &[&str]) {
        self.setup.options = options.iter().map(|&option| option.to_owned()).collect();
        self.mount();
    }

    /// Ends the daemon with SIGKILL, as a crash would, and takes the dead mount away.
    pub fn kill_daemon(&mut self) {
        self.kill_and_leave();
        self.take_away();
    }

    /// Ends the daemon with SIGKILL and leaves the dead mount, whose calls then fail, in place.
    pub fn kill_and_leave(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            daemon.kill().unwrap();
            daemon.wait().unwrap();
        }
    }

    /// Whether it was mounted with this `-o` option.
    pub fn has_option(&self, option: &str) -> bool {
        self.setup.options.iter().any(|given| given == option)
    }

    /// Lets the daemons that are started from now on die at a fail point.
    pub fn arm(&mut self, fail_point: Option<&str>) {
        self.fail_point = fail_point.map(str::to_owned);
    }

    /// Waits for the daemon to die by itself; whether it has.
    pub fn wait_for_death(&mut self, limit: Duration) -> bool {
        let Some(daemon) = &mut self.daemon else { return false };
        wait_for(limit, || daemon.try_wait().unwrap().is_some())
    }

    /// Detaches a dead mount.
    pub fn take_away(&self) {
        if !is_native() {
            detach(&self.mount_point);
            assert!(!is_mounted(&self.mount_point), "the dead mount is still there");
        }
    }

    /// Mounts after [`kill_daemon`](Self::kill_daemon) or [`unmount`](Self::unmount).
    pub fn mount(&mut self) {
        if is_native() {
            return;
        }
        assert!(self.daemon.is_none(), "already mounted");
        let log = File::options()
            .append(true)
            .create(true)
            .open(self.scratch.path().join("daemon.log"))
            .unwrap();
        let mut command = self.mount_command();
        command.arg("-f").stderr(log.try_clone().unwrap()).stdout(log);
        command.envs(std::mem::take(&mut self.setup.environment));
        self.daemon = Some(command.spawn().unwrap());
        let daemon = self.daemon.as_mut().expect("started above");
        let mount_point = &self.mount_point;
        let mut ended = None;
        let stands = wait_for(START_LIMIT, || {
            ended = daemon.try_wait().unwrap();
            ended.is_some() || is_mounted(mount_point) && answers(mount_point)
        });
        assert!(stands && ended.is_none(), "mount: {ended:?}\n{command:?}\n{}", self.log());
    }

    /// `ssefs mount` with everything but `-f`, standard streams untouched.
    pub fn mount_command(&self) -> Command {
        // A test's own choice of transport comes later and counts.
        let mut options: Vec<_> = transport().into_iter().collect();
        options.extend_from_slice(&self.setup.options);
        if self.setup.others {
            options.push("allow_other".to_owned());
        }
        let mut command = self.command();
        command.arg("mount");
        command.envs(self.fail_point.iter().map(|name| (VARIABLE, name)));
        command.arg("--keystore").arg(&self.keystore);
        if !options.is_empty() {
            command.arg("-o").arg(options.join(","));
        }
        command.arg(&self.backing).arg(&self.mount_point);
        command
    }

    /// The program under test, run by the one who mounts, with no arguments yet.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.binary);
        command.stdin(std::process::Stdio::null());
        command.env("XDG_DATA_HOME", self.scratch.path());
        if let Some(user) = &self.setup.owner {
            command.uid(user.uid).gid(user.gid);
        }
        command
    }

    /// `ssefs unmount`; the daemon must be gone afterwards.
    pub fn unmount(&mut self) {
        let Some(mut daemon) = self.daemon.take() else { return };
        let mut unmount = self.command();
        unmount.arg("unmount").arg(&self.mount_point);
        // A child that another test's thread is just starting has our files until it executes.
        wait_for(BUSY_LIMIT, || unmount.output().unwrap().status.code() != Some(IN_USE));
        if is_mounted(&self.mount_point) {
            succeed(&mut unmount);
        }
        assert!(!is_mounted(&self.mount_point), "still mounted after ssefs unmount");
        let ended = wait_for(STOP_LIMIT, || daemon.try_wait().unwrap().is_some());
        if !ended {
            let _ = daemon.kill();
        }
        let status = daemon.wait().unwrap();
        assert!(ended, "the daemon outlived its mount\n{}", self.log());
        assert!(status.success(), "the daemon ended with {status}\n{}", self.log());
        let panicked = !self.panics_forgiven && self.log().contains("panicked at");
        assert!(!panicked, "the daemon panicked\n{}", self.log());
    }

    /// Ends a test: what a drop forgives fails here.
    pub fn finish(mut self) {
        self.unmount();
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            detach(&self.mount_point);
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
        if std::thread::panicking() {
            let log = self.log();
            let tail: Vec<&str> = log.lines().rev().take(40).collect();
            eprintln!("--- the daemon's log, newest line first\n{}", tail.join("\n"));
        }
    }
}

/// The program under test.
pub fn binary() -> PathBuf {
    let built = || PathBuf::from(env!("CARGO_BIN_EXE_ssefs"));
    std::env::var_os("SSEFS_TEST_BIN").map_or_else(built, PathBuf::from)
}

/// Whether the daemon answers, if only to say that the mount is another user's.
fn answers(mount_point: &Path) -> bool {
    match fs::metadata(mount_point) {
        Ok(_) => true,
        Err(error) => error.kind() == std::io::ErrorKind::PermissionDenied,
    }
}

/// A link or copy of the program where any user can reach it.
fn reachable_copy(scratch: &Scratch) -> PathBuf {
    let copy = scratch.path().join("ssefs");
    if fs::hard_link(binary(), &copy).is_err() {
        fs::copy(binary(), &copy).unwrap();
    }
    copy
}

const START_LIMIT: Duration = Duration::from_secs(30);
/// The exit code of `ssefs unmount` for a mount that is in use.
const IN_USE: i32 = 10;
const BUSY_LIMIT: Duration = Duration::from_secs(2);
const STOP_LIMIT: Duration = Duration::from_secs(30);
