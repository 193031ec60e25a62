//! What every mounted test stands on: a scratch directory of its own, a mount of the built
//! program (or a plain directory of the native file system), second processes, other users.
//!
//! `SSEFS_TEST_TARGET=native` hands out plain directories: a test of POSIX behaviour that
//! fails there is wrong. `SSEFS_TEST_TRANSPORT=classic|uring` has every mount use that transport
//! unless the test chooses one itself, and fail where it is not to be had. `SSEFS_TEST_BIN` names
//! another binary, `SSEFS_TEST_DIR` another place than `/tmp`, `SSEFS_TEST_SKIPS` a file that
//! collects what was skipped and why.

pub mod bench;
pub mod change;
pub mod child;
pub mod dialogue;
pub mod mount;
pub mod pty;
pub mod scratch;
pub mod strace;
pub mod sys;
pub mod user;

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

pub use bench::Bench;
pub use change::Changing;
pub use child::Peer;
pub use dialogue::Dialogue;
pub use mount::{Mount, Setup};
pub use user::{ALICE, BOB, NOBODY, User, is_root};

/// The directory with what the kernel has set for the file system at `mnt` (`src/fuse/tune.rs`).
pub fn kernel_settings(mnt: &Path) -> PathBuf {
    let device = std::fs::metadata(mnt).unwrap().dev();
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    PathBuf::from(format!("/sys/class/bdi/{major}:{minor}"))
}

/// Runs a test of the matrix: once with the kernel's writeback cache and once without.
pub fn run_with_writeback(setup: Setup, writeback: bool, body: fn(&mut Mount)) {
    if is_native() && !writeback {
        return skip("the native file system has one cache only: ran as writeback_on");
    }
    let value = if writeback { "writeback=on" } else { "writeback=off" };
    if let Some(mut mount) = setup.option(value).start() {
        body(&mut mount);
        mount.finish();
    }
}

/// Turns functions over a [`Mount`] into tests, each run with and without writeback cache.
#[macro_export]
macro_rules! matrix {
    ($setup:expr => $($name:ident),+ $(,)?) => {$(
        mod $name {
            #[test]
            fn writeback_on() {
                use super::Setup;
                $crate::harness::run_with_writeback($setup, true, super::$name);
            }
            #[test]
            fn writeback_off() {
                use super::Setup;
                $crate::harness::run_with_writeback($setup, false, super::$name);
            }
        }
    )+};
}

/// Whether the tests run on a plain directory instead of a mount.
pub fn is_native() -> bool {
    match std::env::var("SSEFS_TEST_TARGET").as_deref() {
        Ok("native") => true,
        Ok("ssefs") | Err(_) => false,
        Ok(other) => panic!("SSEFS_TEST_TARGET is {other:?}: neither native nor ssefs"),
    }
}

/// The option that makes a mount use the transport that the tests are to run over.
pub fn transport() -> Option<String> {
    let name = std::env::var("SSEFS_TEST_TRANSPORT").ok()?;
    Some(format!("transport={name}"))
}

/// Says why this test proves nothing here; the caller returns.
pub fn skip(reason: &str) {
    let line = format!("SKIPPED {}: {reason}", test_name());
    eprintln!("{line}");
    if let Some(path) = std::env::var_os("SSEFS_TEST_SKIPS") {
        let mut file = OpenOptions::new().append(true).create(true).open(path).unwrap();
        writeln!(file, "{line}").unwrap();
    }
}

/// The name of the running test, which the test runner gives to its thread.
pub fn test_name() -> String {
    std::thread::current().name().unwrap_or("unnamed").to_owned()
}

/// Skips, and answers false, unless the tests run as root.
pub fn needs_root() -> bool {
    if !is_root() {
        skip("needs root");
    }
    is_root()
}

/// Skips, and answers false, unless `program` is on the `PATH`.
pub fn needs_program(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).any(|dir| dir.join(program).is_file());
    if !found {
        skip(&format!("the program {program} is missing"));
    }
    found
}

/// Whether the program under test is a debug build of this crate.
pub fn has_fail_points() -> bool {
    cfg!(debug_assertions) && std::env::var_os("SSEFS_TEST_BIN").is_none()
}

/// Runs a command to its end and fails the test with its output unless it succeeds.
#[track_caller]
pub fn succeed(command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(
        output.status.success(),
        "{command:?}: {}\n--- stdout\n{}\n--- stderr\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

/// Runs a shell script in `directory`, stopping at its first failing command.
#[track_caller]
pub fn shell(directory: &Path, script: &str) -> String {
    let mut command = Command::new("bash");
    command.args(["-euo", "pipefail", "-c", script]).current_dir(directory);
    let output = succeed(command.env("LC_ALL", "C").env("HOME", directory));
    String::from_utf8(output.stdout).unwrap()
}

/// Opens for reading and writing what may or may not exist.
#[track_caller]
pub fn open_or_create(path: impl AsRef<Path>) -> File {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).open(path).unwrap()
}

/// Waits until `condition` holds, at most `limit`.
pub fn wait_for(limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    loop {
        if condition() {
            return true;
        }
        if start.elapsed() > limit {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The counters of the mount at `mnt`.
#[track_caller]
pub fn counters(mnt: &Path) -> serde_json::Value {
    let mut buffer = [0; 8192];
    let len = rustix::fs::getxattr(mnt, "user.ssefs.stats", &mut buffer).unwrap();
    serde_json::from_slice(&buffer[..len]).unwrap()
}

/// Asserts that a call failed with this errno, whichever error type it has.
#[track_caller]
pub fn assert_errno<T: std::fmt::Debug, E: Into<std::io::Error>>(
    result: Result<T, E>,
    errno: rustix::io::Errno,
) {
    match result.map_err(Into::into) {
        Ok(value) => panic!("succeeded with {value:?}, expected {errno:?}"),
        Err(error) => assert_eq!(error.raw_os_error(), Some(errno.raw_os_error()), "{error}"),
    }
}

/// A small generator of numbers that look random and are the same for the same seed.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// The next number, by xorshift64*.
    pub fn number(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        (self.number() >> 11) % bound
    }
}

/// Bytes that look random and are the same for the same seed: no two blocks alike.
pub fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut random = Random::new(seed);
    let mut out = Vec::with_capacity(len + 8);
    while out.len() < len {
        out.extend_from_slice(&random.number().to_le_bytes());
    }
    out.truncate(len);
    out
}

/// Asserts equal bytes; says where they differ first instead of printing both.
#[track_caller]
pub fn assert_same(actual: &[u8], expected: &[u8], what: &str) {
    assert_eq!(actual.len(), expected.len(), "{what}: length");
    if let Some(at) = (0..actual.len()).find(|&at| actual[at] != expected[at]) {
        let wrong = (at..actual.len()).filter(|&i| actual[i] != expected[i]).count();
        panic!(
            "{what}: differs first at {at} (block {}), in {wrong} bytes: {:02x?} for {:02x?}",
            at / 4096,
            &actual[at..actual.len().min(at + 16)],
            &expected[at..actual.len().min(at + 16)]
        );
    }
}
