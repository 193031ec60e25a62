//! A scratch directory with a backing directory, a keystore and a mount point, on which a test
//! runs commands of its own and looks at how they end.
//!
//! Mounts here are in the background, as people have them; whatever a failed test leaves is
//! taken away with the scratch directory.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use super::mount::binary;
use super::scratch::{Scratch, is_mounted, processes_naming};
use super::{is_native, skip, succeed, transport, wait_for};

/// The directories of one test.
pub struct Bench {
    scratch: Scratch,
    binary: PathBuf,
}

impl Bench {
    /// Makes `backing` and `mnt`; a keystore is for ssefs to make. `None` when native.
    pub fn new() -> Option<Self> {
        if is_native() {
            skip("it is about the command, and the native file system has none");
            return None;
        }
        let scratch = Scratch::new();
        scratch.directory("backing");
        scratch.directory("mnt");
        Some(Self { scratch, binary: binary() })
    }

    /// A path in the scratch directory.
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.scratch.path().join(name)
    }

    pub fn backing(&self) -> PathBuf {
        self.path("backing")
    }

    pub fn keystore(&self) -> PathBuf {
        self.path("keystore")
    }

    pub fn mnt(&self) -> PathBuf {
        self.path("mnt")
    }

    /// A path in the mount.
    pub fn file(&self, name: impl AsRef<Path>) -> PathBuf {
        self.mnt().join(name)
    }

    /// Makes a directory in the scratch directory.
    pub fn directory(&self, name: &str) -> PathBuf {
        self.scratch.directory(name)
    }

    /// Writes a file in the scratch directory, of mode 0600.
    pub fn private_file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path
    }

    /// The program with these arguments, in the scratch directory, with no keystore of the
    /// user's own within reach.
    pub fn ssefs<T: AsRef<OsStr>>(&self, arguments: &[T]) -> Command {
        let mut command = Command::new(&self.binary);
        command.args(arguments).current_dir(self.scratch.path());
        command.stdin(Stdio::null()).env_remove("SSEFS_KEYSTORE").env_remove("RUST_LOG");
        command.env("XDG_DATA_HOME", self.path("data-home"));
        command
    }

    /// `ssefs mount` of the usual directories, with further arguments.
    pub fn mount_command(&self, arguments: &[&str]) -> Command {
        let mut command = self.ssefs(&["mount"]);
        if let Some(transport) = transport() {
            command.arg("-o").arg(transport);
        }
        command.arg("--keystore").arg(self.keystore()).args(arguments);
        command.arg(self.backing()).arg(self.mnt());
        command
    }

    /// Mounts in the background.
    #[track_caller]
    pub fn mount(&self, arguments: &[&str]) {
        succeed(&mut self.mount_command(arguments));
        assert!(is_mounted(&self.mnt()), "the command returned before the mount stood");
    }

    /// `ssefs unmount`, after which nobody serves the mount any more.
    #[track_caller]
    pub fn unmount(&self) {
        self.until_unused(self.ssefs(&["unmount"]).arg(self.mnt()));
        assert!(!is_mounted(&self.mnt()), "still mounted after ssefs unmount");
        self.wait_for_daemons();
    }

    /// Runs a command until it succeeds: a child that another test's thread is just starting
    /// has the files of this one until it executes, and the mount is in use for that long.
    #[track_caller]
    pub fn until_unused(&self, command: &mut Command) {
        let done = wait_for(BUSY_LIMIT, || command.output().unwrap().status.success());
        if !done {
            succeed(command);
        }
    }

    /// Waits until no process serves a directory of this test.
    #[track_caller]
    pub fn wait_for_daemons(&self) {
        assert!(wait_for(LIMIT, || self.daemons().is_empty()), "{:?} run on", self.daemons());
    }

    /// The daemons of this test: their arguments name its directories.
    pub fn daemons(&self) -> Vec<u32> {
        processes_naming(self.scratch.path())
    }

    /// The one daemon that serves the mount.
    #[track_caller]
    pub fn daemon(&self) -> u32 {
        let [pid] = self.daemons()[..] else { panic!("daemons: {:?}", self.daemons()) };
        pid
    }

    /// Runs a command that must fail with this exit code and one line, which it answers;
    /// nothing may be mounted or left running by it.
    #[track_caller]
    pub fn refused(&self, command: &mut Command, code: i32) -> String {
        let before = self.daemons();
        let output = command.output().unwrap();
        let message = one_line(&output);
        assert_eq!(output.status.code(), Some(code), "{command:?}: {message}");
        // One of an earlier mount may have been about to end.
        let none_more = || self.daemons().iter().all(|daemon| before.contains(daemon));
        assert!(wait_for(LIMIT, none_more), "a refused command left a process");
        message
    }
}

/// The only line on standard error, without the program's name; nothing on standard output.
#[track_caller]
pub fn one_line(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(text.lines().count(), 1, "{text:?}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "");
    let line = text.trim_end();
    let line = line.strip_prefix("ssefs: ").unwrap_or_else(|| panic!("nameless: {line:?}"));
    assert!(!line.is_empty() && !line.contains("panicked"), "{line:?}");
    line.to_owned()
}

/// All that is below a directory: for each path its metadata and content.
pub fn tree(directory: &Path) -> BTreeMap<PathBuf, Trace> {
    let mut found = BTreeMap::new();
    collect(directory, &mut found);
    found
}

/// What a change of a file, or of a directory, cannot hide from.
#[derive(Debug, PartialEq, Eq)]
pub struct Trace {
    mode: u32,
    owner: (u32, u32),
    modified: (i64, i64),
    changed: (i64, i64),
    content: Vec<u8>,
}

impl Trace {
    /// Whether the content holds these bytes somewhere.
    pub fn holds(&self, bytes: &[u8]) -> bool {
        self.content.windows(bytes.len()).any(|window| window == bytes)
    }
}

fn collect(path: &Path, found: &mut BTreeMap<PathBuf, Trace>) {
    let Ok(metadata) = fs::symlink_metadata(path) else { return };
    let content = if metadata.is_file() { fs::read(path).unwrap() } else { Vec::new() };
    let trace = Trace {
        mode: metadata.mode(),
        owner: (metadata.uid(), metadata.gid()),
        modified: (metadata.mtime(), metadata.mtime_nsec()),
        changed: (metadata.ctime(), metadata.ctime_nsec()),
        content,
    };
    found.insert(path.to_owned(), trace);
    if metadata.is_dir() {
        for entry in fs::read_dir(path).unwrap().map(Result::unwrap) {
            collect(&entry.path(), found);
        }
    }
}

const LIMIT: Duration = Duration::from_secs(30);
const BUSY_LIMIT: Duration = Duration::from_secs(5);
