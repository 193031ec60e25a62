//! A keystore in a scratch directory and the program that is run on it.

use std::ffi::OsStr;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

/// The program and a place for its keystore, `keystore`, which it makes itself.
pub struct Bench {
    scratch: TempDir,
}

impl Bench {
    pub fn new() -> Self {
        Self { scratch: tempfile::tempdir().unwrap() }
    }

    /// A path in the scratch directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    /// Writes a file in the scratch directory.
    pub fn file(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        let path = self.path(name);
        std::fs::write(&path, content).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(&path, mode).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// `ssefs key` with these arguments, in the scratch directory.
    pub fn command<T: AsRef<OsStr>>(&self, arguments: &[T]) -> Command {
        let mut command = Command::new(binary());
        command.arg("--keystore").arg(self.path("keystore")).arg("key").args(arguments);
        command.current_dir(self.scratch.path()).stdin(Stdio::null());
        command.env_remove("SSEFS_KEYSTORE").env_remove("RUST_LOG");
        command.env("RUST_LOG", "warn");
        command
    }

    /// Runs the words of `line`, which must succeed, and answers what it printed.
    #[track_caller]
    pub fn text(&self, line: &str) -> String {
        String::from_utf8(succeed(&mut self.command(&words(line)))).unwrap()
    }

    /// The same with `--json`.
    #[track_caller]
    pub fn json(&self, line: &str) -> Value {
        let mut command = self.command(&words(line));
        let printed = succeed(command.arg("--json"));
        let text = std::str::from_utf8(&printed).unwrap();
        assert_eq!(text.lines().count(), 1, "one line of JSON: {text}");
        serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    /// Runs the words of `line` with this input, and answers what it printed.
    #[track_caller]
    pub fn pipe(&self, line: &str, input: &[u8]) -> Vec<u8> {
        let output = fed(&mut self.command(&words(line)), input);
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    }

    /// Runs the words of `line`, which must be refused with this exit code and one line of
    /// message, which is answered; in JSON the same.
    #[track_caller]
    pub fn refused(&self, line: &str, code: i32) -> String {
        let message = refusal(&self.command(&words(line)).output().unwrap(), code, line);
        let mut command = self.command(&words(line));
        assert_eq!(refusal(&command.arg("--json").output().unwrap(), code, line), message);
        message
    }

    /// Makes a key with this alias; its id.
    #[track_caller]
    pub fn key(&self, alias: &str) -> String {
        let made = self.json(&format!("create --alias {alias}"));
        made["KeyMetadata"]["KeyId"].as_str().unwrap().to_owned()
    }

    /// What `describe` says of a key.
    #[track_caller]
    pub fn metadata(&self, key: &str) -> Value {
        self.json(&format!("describe {key}"))["KeyMetadata"].take()
    }
}

/// The program under test.
pub fn binary() -> PathBuf {
    let built = || PathBuf::from(env!("CARGO_BIN_EXE_ssefs"));
    std::env::var_os("SSEFS_TEST_BIN").map_or_else(built, PathBuf::from)
}

/// Runs a command that must succeed without a word on standard error.
#[track_caller]
pub fn succeed(command: &mut Command) -> Vec<u8> {
    let output = command.output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {errors}");
    assert_eq!(errors, "", "{command:?}");
    output.stdout
}

/// Runs a command with this on its standard input.
pub fn fed(command: &mut Command, input: &[u8]) -> Output {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // What refuses its arguments does not read, and the pipe is closed.
    let _ = child.stdin.take().expect("piped").write_all(input);
    child.wait_with_output().unwrap()
}

/// The one line that a refused command says.
#[track_caller]
pub fn refusal(output: &Output, code: i32, what: &str) -> String {
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{what}: {errors}");
    assert_eq!(output.stdout, b"", "{what}");
    assert_eq!(errors.lines().count(), 1, "{what}: {errors}");
    let message = errors.strip_prefix("ssefs: ").unwrap_or_else(|| panic!("{what}: {errors}"));
    assert!(!message.contains("panicked") && !message.contains("internal error"), "{message}");
    message.trim_end().to_owned()
}

/// The first column of each line of a table, without its heading.
pub fn first_column(table: &str) -> Vec<&str> {
    table.lines().skip(1).map(|line| line.split("  ").next().unwrap()).collect()
}

/// All files below a directory, with their content.
pub fn contents(directory: &Path) -> Vec<Vec<u8>> {
    let entries = std::fs::read_dir(directory).unwrap().map(Result::unwrap);
    let all = entries.map(|entry| match entry.file_type().unwrap().is_dir() {
        true => contents(&entry.path()),
        false => vec![std::fs::read(entry.path()).unwrap()],
    });
    all.flatten().collect()
}

/// The program's exit codes, as the manual documents them.
pub const USAGE: i32 = 2;
pub const BACKING: i32 = 3;
pub const KEY: i32 = 5;
pub const KEYSTORE: i32 = 6;

fn words(line: &str) -> Vec<&str> {
    line.split_whitespace().collect()
}
