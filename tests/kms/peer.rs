//! Second processes: runs this test program again in a named role on a keystore.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use ssefs::keys::Keystore;
use ssefs::keys::audit::{AuditLog, AuditOptions, Surroundings};
use ssefs::keys::identity::Identity;
use ssefs::keys::kms::{CreateKey, LocalKms};

/// A keystore with a KMS on it.
pub struct Opened {
    pub kms: LocalKms,
    pub own: Identity,
}

impl Opened {
    pub fn at(path: &Path) -> Self {
        let keystore = Arc::new(Keystore::open_or_create(path).unwrap());
        let mut surroundings = Surroundings::of_this_machine().unwrap();
        surroundings.syslog = path.join("no-syslog");
        let options = AuditOptions { lease: true, ..AuditOptions::default() };
        let audit = AuditLog::open_in(Arc::clone(&keystore), options, surroundings).unwrap();
        Self { kms: LocalKms::new(keystore, Arc::new(audit)), own: Identity::own() }
    }

    pub fn create_key(&self) -> String {
        self.kms.create_key(&self.own, CreateKey::default()).unwrap().key_id.0
    }

    pub fn newest_version(&self, key: &str) -> u32 {
        let described = self.kms.describe_key(&self.own, key).unwrap();
        described.current_key_version.unwrap()
    }

    pub fn encrypt(&self, key: &str) -> Vec<u8> {
        self.kms.encrypt(&self.own, key, b"secret", &BTreeMap::new()).unwrap().blob
    }

    pub fn decrypts(&self, blob: &[u8]) -> bool {
        let decrypted = self.kms.decrypt(&self.own, None, blob, &BTreeMap::new());
        decrypted.is_ok_and(|decrypted| decrypted.plaintext.as_slice() == b"secret")
    }
}

/// A process that ends with whoever started it.
pub struct Peer(pub Child);

impl Peer {
    /// Starts `role`, see [`ROLES`], on the keystore at `path`.
    pub fn start(role: &str, path: &Path, argument: &str) -> Self {
        let process = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "peer::entry", "--nocapture", "--test-threads=1"])
            .env(ROLE_VARIABLE, role)
            .env(PATH_VARIABLE, path)
            .env(ARGUMENT_VARIABLE, argument)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn();
        Self(process.unwrap())
    }

    /// Waits for its end, which must be a good one.
    pub fn finish(mut self) {
        assert!(self.0.wait().unwrap().success());
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Says why a test is not run, also to who counts it.
pub fn skip(reason: &str) {
    let name = std::thread::current().name().unwrap_or("unnamed").to_owned();
    let line = format!("SKIPPED {name}: {reason}");
    eprintln!("{line}");
    if let Some(path) = std::env::var_os("SSEFS_TEST_SKIPS") {
        let mut file = OpenOptions::new().append(true).create(true).open(path).unwrap();
        writeln!(file, "{line}").unwrap();
    }
}

/// What a process may do with a keystore and an argument.
type Role = fn(&Opened, &str);

const ROLES: &[(&str, Role)] =
    &[("alias", crate::together::alias_role), ("rotate", crate::killed::rotate_role)];
const ROLE_VARIABLE: &str = "SSEFS_TEST_KMS_ROLE";
const PATH_VARIABLE: &str = "SSEFS_TEST_KMS_PATH";
const ARGUMENT_VARIABLE: &str = "SSEFS_TEST_KMS_ARGUMENT";

/// Not a test of its own: where a second process begins.
#[test]
fn entry() {
    let Ok(name) = std::env::var(ROLE_VARIABLE) else { return };
    let path = PathBuf::from(std::env::var_os(PATH_VARIABLE).unwrap());
    let (_, role) = ROLES.iter().find(|(role, _)| *role == name).expect("a known role");
    role(&Opened::at(&path), &std::env::var(ARGUMENT_VARIABLE).unwrap());
}
