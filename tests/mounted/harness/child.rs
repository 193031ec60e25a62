//! Second processes: runs this test program again in a named role, for what threads cannot
//! show (record locks, inherited descriptors, another working directory).
//!
//! The child says lines, the parent asks for them: each side waits for the other, so no test
//! sleeps and hopes.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use crate::ROLES;

/// A running child of this test program.
pub struct Peer {
    process: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Peer {
    /// Starts `role`, see `ROLES` of the test program, on `path`.
    pub fn start(role: &str, path: impl AsRef<OsStr>) -> Self {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "harness::child::entry", "--nocapture", "--test-threads=1"])
            .env(ROLE_VARIABLE, role)
            .env(PATH_VARIABLE, path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let input = process.stdin.take();
        let output = BufReader::new(process.stdout.take().expect("piped above"));
        Self { process, input, output }
    }

    /// Sends a line to the child.
    pub fn tell(&mut self, line: &str) {
        let input = self.input.as_mut().expect("open until dropped");
        writeln!(input, "{line}").unwrap();
        input.flush().unwrap();
    }

    /// Waits for the next line that the child says.
    pub fn hear(&mut self) -> String {
        loop {
            let mut line = String::new();
            let read = self.output.read_line(&mut line).unwrap();
            assert_ne!(read, 0, "the child process ended without an answer");
            // The test runner's own output may stand before the prefix on the same line.
            if let Some((_, said)) = line.split_once(SAYS) {
                return said.trim_end().to_owned();
            }
        }
    }

    /// Sends a line and waits for the answer.
    pub fn ask(&mut self, line: &str) -> String {
        self.tell(line);
        self.hear()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        drop(self.input.take());
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What a child may do: read lines, act on the path, say lines. Each test program has its own.
pub type Role = fn(PathBuf, &mut dyn Iterator<Item = String>);

const ROLE_VARIABLE: &str = "SSEFS_TEST_CHILD_ROLE";
const PATH_VARIABLE: &str = "SSEFS_TEST_CHILD_PATH";
const SAYS: &str = "child-says:";

/// Says a line to the parent.
pub fn say(line: impl std::fmt::Display) {
    println!("\n{SAYS}{line}");
}

/// Not a test of its own: where a child process begins.
#[test]
fn entry() {
    let Ok(name) = std::env::var(ROLE_VARIABLE) else { return };
    let path = PathBuf::from(std::env::var_os(PATH_VARIABLE).unwrap());
    let (_, role) = ROLES.iter().find(|(role, _)| *role == name).expect("a known role");
    role(path, &mut std::io::stdin().lines().map(Result::unwrap));
}
