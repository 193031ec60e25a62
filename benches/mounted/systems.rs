//! What is compared: the backing store itself, other encrypted file systems where they are
//! installed, and ssefs in its modes, promises and transports. All passwords are of no worth,
//! and key derivation is as cheap as each of them allows: mounting is not what is measured.

use std::cell::Cell;
use std::ffi::OsStr;
use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::{measure, plain};

/// A directory to work in, mounted or not.
pub struct System {
    name: &'static str,
    scope: Scope,
    family: Family,
    directory: PathBuf,
    daemon: Cell<Option<u32>>,
    peak_kib: Cell<u64>,
}

/// When a system takes part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Always.
    Always,
    /// On the workloads that compare modes.
    Modes,
    /// When it is named.
    OnRequest,
}

/// How a system is made and mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    Native,
    Plain,
    Gocryptfs,
    Securefs,
    Cryfs,
    Encfs,
    /// With these arguments to `ssefs mount`.
    Ssefs(&'static [&'static str]),
}

const SYSTEMS: [(&str, Scope, Family); 17] = [
    ("native", Scope::Always, Family::Native),
    ("plain", Scope::OnRequest, Family::Plain),
    ("gocryptfs", Scope::Always, Family::Gocryptfs),
    ("securefs", Scope::Always, Family::Securefs),
    ("cryfs", Scope::OnRequest, Family::Cryfs),
    ("encfs", Scope::OnRequest, Family::Encfs),
    ("ssefs", Scope::Always, Family::Ssefs(&[])),
    ("ssefs-process", Scope::Always, Family::Ssefs(&["-o", "durability=process"])),
    ("ssefs-classic", Scope::Always, Family::Ssefs(&["-o", "transport=classic"])),
    ("ssefs-uring", Scope::OnRequest, Family::Ssefs(&["-o", "transport=uring"])),
    ("ssefs-one-dek", Scope::Modes, Family::Ssefs(&["-o", "cache_entries=1"])),
    ("ssefs-supplied", Scope::Modes, Family::Ssefs(&["--mode", "supplied", "--key-file", "-"])),
    ("ssefs-kms", Scope::Modes, Family::Ssefs(KMS)),
    ("ssefs-kms-always", Scope::Modes, Family::Ssefs(KMS_SYNCED)),
    ("ssefs-bucket-key", Scope::Modes, Family::Ssefs(BUCKET_KEY)),
    ("ssefs-kms-uses", Scope::OnRequest, Family::Ssefs(KMS_USES)),
    ("ssefs-no-writeback", Scope::OnRequest, Family::Ssefs(&["-o", "writeback=off"])),
];
const KMS: &[&str] = &["--mode", "kms", "--key-id", ALIAS, "--audit-sync", "interval"];
const KMS_SYNCED: &[&str] = &["--mode", "kms", "--key-id", ALIAS, "--audit-sync", "always"];
const KMS_USES: &[&str] = &["--mode", "kms", "--key-id", ALIAS, "--audit-level", "uses"];
const BUCKET_KEY: &[&str] = &["--mode", "kms", "--key-id", ALIAS, "--bucket-key"];
const ALIAS: &str = "alias/bench";
const PASSWORD: &[u8] = b"password\n";

/// The systems that there are.
pub fn names() -> impl Iterator<Item = (&'static str, Scope)> {
    SYSTEMS.into_iter().map(|(name, scope, _)| (name, scope))
}

impl System {
    /// Starts those that are wanted, each in a directory of its own below `scratch`; what is
    /// not installed, or not possible here, is left out with a word.
    pub fn start_all(scratch: &Path, wanted: impl Fn(&str, Scope) -> bool) -> Vec<Self> {
        let create = ["key", "create", "--alias", ALIAS];
        let made = run(ssefs(&scratch.join("keystore")).args(create).stderr(Stdio::null()), b"");
        made.expect("a key can be made");
        let chosen = SYSTEMS.into_iter().filter(|(name, scope, _)| wanted(name, *scope));
        chosen
            .filter_map(|(name, scope, family)| Self::start(scratch, name, scope, family))
            .collect()
    }

    fn start(scratch: &Path, name: &'static str, scope: Scope, family: Family) -> Option<Self> {
        let directory = scratch.join(format!("{name}-mount"));
        let system = Self {
            name,
            scope,
            family,
            directory,
            daemon: Cell::default(),
            peak_kib: Cell::new(0),
        };
        for directory in [&system.directory, &system.backing()] {
            fs::create_dir(directory).expect("the scratch directory can be written");
        }
        if let Some(problem) = system.make().and_then(|()| system.mount()).err() {
            eprintln!("{name} is left out: {problem}");
            return None;
        }
        Some(system)
    }

    /// Its name in the report.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// When it takes part.
    pub fn scope(&self) -> Scope {
        self.scope
    }

    /// How it is made and mounted.
    pub fn family(&self) -> Family {
        self.family
    }

    /// Where to work.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The process that serves the mount.
    pub fn daemon(&self) -> Option<u32> {
        if self.daemon.get().is_none() {
            let own = self.statistics().and_then(|statistics| statistics["pid"].as_u64());
            let own = own.and_then(|pid| u32::try_from(pid).ok());
            self.daemon.set(own.or_else(|| process_with_argument(self.directory.as_os_str())));
        }
        self.daemon.get()
    }

    /// The counters of an ssefs mount.
    pub fn statistics(&self) -> Option<Value> {
        if !matches!(self.family, Family::Ssefs(_)) {
            return None;
        }
        let mut buf = vec![0; 64 << 10];
        let read = rustix::fs::getxattr(&self.directory, "user.ssefs.stats", &mut buf[..]);
        serde_json::from_slice(&buf[..read.ok()?]).ok()
    }

    /// The most memory that its daemons have had since [`Self::forget_peak`], in KiB.
    pub fn peak_kib(&self) -> u64 {
        let of_daemon = self.daemon().and_then(measure::peak_kib).unwrap_or(0);
        self.peak_kib.set(self.peak_kib.get().max(of_daemon));
        self.peak_kib.get()
    }

    /// Starts to look for the peak anew.
    pub fn forget_peak(&self) {
        self.peak_kib.set(0);
        if let Some(pid) = self.daemon() {
            measure::forget_peak(pid);
        }
    }

    /// Unmounts and mounts again.
    pub fn remount(&self) {
        self.remount_after(|_| {});
    }

    /// Does something in between with the directory that everything lies in.
    pub fn remount_after(&self, work: impl FnOnce(&Path)) {
        if self.family == Family::Native {
            return work(&self.directory);
        }
        self.peak_kib();
        self.unmount().expect("nothing uses the mount");
        work(&self.backing());
        self.mount().expect("it was mounted before");
    }

    fn make(&self) -> Result<(), String> {
        let backing = self.backing();
        match self.family {
            Family::Gocryptfs => {
                let init = ["-q", "-init", "-scryptn", "10", "-passfile", "/dev/stdin"];
                run(Command::new("gocryptfs").args(init).arg(backing), PASSWORD)
            }
            Family::Securefs => {
                let pbkdf = ["--pbkdf", "pkcs5-pbkdf2-hmac-sha256", "-r", "1"];
                let create = ["create", "--pass", "password"];
                run(Command::new("securefs").args(create).args(pbkdf).arg(backing), b"")
            }
            // These are made by the first mount.
            Family::Native | Family::Plain | Family::Cryfs | Family::Encfs | Family::Ssefs(_) => {
                Ok(())
            }
        }
    }

    fn mount(&self) -> Result<(), String> {
        let directory = &self.directory;
        let (mut command, input) = match self.family {
            Family::Native => return Ok(()),
            Family::Plain => return self.mount_plain(),
            Family::Gocryptfs => {
                let mut command = Command::new("gocryptfs");
                command.args(["-q", "-passfile", "/dev/stdin"]);
                (command, PASSWORD)
            }
            Family::Securefs => {
                let mut command = Command::new("securefs");
                command.args(["mount", "-b", "--pass", "password"]);
                (command, &b""[..])
            }
            Family::Cryfs => {
                let mut command = Command::new("cryfs");
                command.env("CRYFS_FRONTEND", "noninteractive");
                command.env("CRYFS_NO_UPDATE_CHECK", "true");
                command.env("CRYFS_LOCAL_STATE_DIR", directory.with_file_name("cryfs-state"));
                (command, PASSWORD)
            }
            Family::Encfs => {
                let mut command = Command::new("encfs");
                command.args(["--standard", "--stdinpass"]);
                (command, PASSWORD)
            }
            Family::Ssefs(arguments) => {
                let mut command = ssefs(&directory.with_file_name("keystore"));
                command.arg("mount").args(arguments);
                (command, &[7; 32][..])
            }
        };
        run(command.arg(self.backing()).arg(directory), input)?;
        // Some answer before they serve.
        wait_for(|| is_mount_point(directory).then_some(())).ok_or("it did not mount".to_owned())
    }

    /// It stays this process's child, as one that does not go into the background.
    fn mount_plain(&self) -> Result<(), String> {
        let this = std::env::current_exe().map_err(|error| error.to_string())?;
        let mut command = Command::new(this);
        command.arg(plain::ARGUMENT).arg(self.backing()).arg(&self.directory);
        let mut child = command.stdin(Stdio::null()).spawn().map_err(|error| error.to_string())?;
        std::thread::spawn(move || child.wait());
        let mounted = wait_for(|| is_mount_point(&self.directory).then_some(()));
        mounted.ok_or("it did not mount".to_owned())
    }

    fn unmount(&self) -> Result<(), String> {
        let daemon = self.daemon();
        let ssefs = env!("CARGO_BIN_EXE_ssefs");
        let is_root = rustix::process::geteuid().is_root();
        let unmount = || match self.family {
            Family::Ssefs(_) => run(Command::new(ssefs).arg("unmount").arg(&self.directory), b""),
            _ if is_root => run(Command::new("umount").arg(&self.directory), b""),
            _ => run(Command::new("fusermount3").arg("-u").arg(&self.directory), b""),
        };
        // A program that looks at all mounts keeps one busy for a moment.
        wait_for(|| unmount().ok()).ok_or_else(|| format!("{} stays mounted", self.name))?;
        self.daemon.set(None);
        let has_ended = |pid| !Path::new(&format!("/proc/{pid}")).exists();
        let ended = daemon.is_none_or(|pid| wait_for(|| has_ended(pid).then_some(())).is_some());
        if ended { Ok(()) } else { Err(format!("the daemon of {} does not end", self.name)) }
    }

    fn backing(&self) -> PathBuf {
        self.directory.with_file_name(format!("{}-backing", self.name))
    }
}

impl Drop for System {
    fn drop(&mut self) {
        if self.family != Family::Native
            && is_mount_point(&self.directory)
            && let Err(problem) = self.unmount()
        {
            eprintln!("{problem}");
        }
    }
}

fn ssefs(keystore: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ssefs"));
    command.arg("--keystore").arg(keystore);
    command
}

fn is_mount_point(directory: &Path) -> bool {
    let device = |path: &Path| rustix::fs::stat(path).ok().map(|stat| stat.st_dev);
    device(directory) != directory.parent().and_then(device)
}

/// The process that has this among its arguments: the daemon of a mount, once the command that
/// made it has ended.
fn process_with_argument(wanted: &OsStr) -> Option<u32> {
    let has = |pid: &u32| {
        let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        arguments.split(|byte| *byte == 0).any(|argument| argument == wanted.as_encoded_bytes())
    };
    let entries = fs::read_dir("/proc").ok()?.flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.into_iter().find(has)
}

fn wait_for<T>(mut attempt: impl FnMut() -> Option<T>) -> Option<T> {
    let begin = Instant::now();
    loop {
        let outcome = attempt();
        if outcome.is_some() || begin.elapsed() > Duration::from_secs(20) {
            return outcome;
        }
        sleep(Duration::from_millis(5));
    }
}

fn run(command: &mut Command, input: &[u8]) -> Result<(), String> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("{}: {error}", command.get_program().display()))?;
    // One that has no use for its input may be gone already.
    let _ = child.stdin.take().expect("it is piped").write_all(input);
    let status = child.wait().expect("it was started");
    if status.success() {
        return Ok(());
    }
    let mut message = String::new();
    // A daemon would hold the pipe open, but one that failed has no daemon.
    let _ = child.stderr.take().expect("it is piped").read_to_string(&mut message);
    let first = message.lines().next().and_then(|line| line.split(';').next());
    Err(first.unwrap_or("it says nothing").to_owned())
}
