//! What is compared: the backing store itself, ssefs in its modes, and gocryptfs where it is
//! installed.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A directory to work in, mounted or not.
pub struct System {
    name: &'static str,
    directory: PathBuf,
    mounted: bool,
}

/// The ssefs mounts: name and arguments.
const SSEFS: [(&str, &[&str]); 6] = [
    ("managed", &[]),
    ("kms", KMS),
    ("kms-sync-always", &["--mode", "kms", "--key-id", ALIAS, "--audit-sync", "always"]),
    ("kms-uses", &["--mode", "kms", "--key-id", ALIAS, "--audit-level", "uses"]),
    ("kms-bucket-key", &["--mode", "kms", "--key-id", ALIAS, "--bucket-key"]),
    ("supplied", &["--mode", "supplied", "--key-file", "-"]),
];
const KMS: &[&str] = &["--mode", "kms", "--key-id", ALIAS, "--audit-sync", "interval"];
const ALIAS: &str = "alias/bench";

impl System {
    /// Starts those whose names are in `wanted`, or all, each in a directory of its own below
    /// `scratch`.
    pub fn start_all(scratch: &Path, wanted: Option<&str>) -> Vec<Self> {
        let is_wanted =
            |name: &str| wanted.is_none_or(|wanted| wanted.split(',').any(|one| one == name));
        let keystore = scratch.join("keystore");
        let ssefs = || {
            let mut command = Command::new(env!("CARGO_BIN_EXE_ssefs"));
            command.arg("--keystore").arg(&keystore);
            command
        };
        run(ssefs().args(["key", "create", "--alias", ALIAS]).stderr(Stdio::null()), b"");
        let mut systems = Vec::new();
        if is_wanted("native") {
            systems.push(Self::new("native", scratch, false));
        }
        for (name, arguments) in SSEFS.into_iter().filter(|(name, _)| is_wanted(name)) {
            let system = Self::new(name, scratch, true);
            let mut command = ssefs();
            command.arg("mount").args(arguments).arg(system.backing()).arg(&system.directory);
            run(&mut command, &[7; 32]);
            systems.push(system);
        }
        if !is_wanted("gocryptfs") {
            return systems;
        }
        if Command::new("gocryptfs").arg("-version").output().is_ok() {
            let system = Self::new("gocryptfs", scratch, true);
            let init = ["-q", "-init", "-scryptn", "10", "-passfile", "/dev/stdin"];
            run(Command::new("gocryptfs").args(init).arg(system.backing()), b"password\n");
            let mount = ["-q", "-passfile", "/dev/stdin"];
            let mut command = Command::new("gocryptfs");
            command.args(mount).arg(system.backing()).arg(&system.directory);
            run(&mut command, b"password\n");
            systems.push(system);
        } else {
            eprintln!("gocryptfs is not installed and is left out");
        }
        systems
    }

    /// Its name in the report.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Where to work.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    fn new(name: &'static str, scratch: &Path, mounted: bool) -> Self {
        let system = Self { name, directory: scratch.join(format!("{name}-mount")), mounted };
        for directory in [system.directory.clone(), system.backing()] {
            std::fs::create_dir(&directory).expect("the scratch directory can be written");
        }
        system
    }

    fn backing(&self) -> PathBuf {
        self.directory.with_file_name(format!("{}-backing", self.name))
    }
}

impl Drop for System {
    fn drop(&mut self) {
        if self.mounted {
            run(Command::new("umount").arg(&self.directory), b"");
        }
    }
}

fn run(command: &mut Command, input: &[u8]) {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    // One that has no use for its input may be gone already.
    let _ = child.stdin.take().expect("it is piped").write_all(input);
    let status = child.wait().expect("it was started");
    assert!(status.success(), "{command:?}: {status}");
}
