//! A volume made through the library, without a kernel, and `ssefs check` run on it.

use std::fs::{self, File, Permissions};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use serde_json::Value;
use ssefs::crypto::Secret;
use ssefs::format::{Descriptor, FORMAT_VERSION, Mode, VolumeId};
use ssefs::keys::{
    Access, DekCache, KeyProvider, Keyring, Keystore, ManagedProvider, SuppliedProvider,
    SuppliedSource,
};
use ssefs::store::BackingFile;
use ssefs::store::disk::DiskFile;
use ssefs::store::tree::DiskTree;
use ssefs::volume::{
    CheckScope, EncryptedFile, FileReport, SpareThreads, Volume, VolumeDirectory, VolumeError,
    VolumeUse, Watcher,
};

pub const DAMAGED: i32 = 14;
pub const REPAIRED: i32 = 15;
pub const NOT_CHECKED: i32 = 16;

/// A scratch directory with a volume in it, of mode supplied or managed.
pub struct Bench {
    scratch: tempfile::TempDir,
    mode: Mode,
}

/// The volume, in use by this process.
pub struct Session {
    pub volume: Arc<Volume>,
    root: PathBuf,
}

/// How a run of `ssefs check` ended.
#[derive(Debug)]
pub struct Checked {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Bench {
    /// With an empty volume of mode supplied.
    pub fn new() -> Self {
        Self::of(Mode::Supplied)
    }

    pub fn of(mode: Mode) -> Self {
        let bench = Self { scratch: tempfile::tempdir().unwrap(), mode };
        fs::create_dir(bench.root()).unwrap();
        fs::write(bench.key_file(), [7; 32]).unwrap();
        fs::set_permissions(bench.key_file(), Permissions::from_mode(0o600)).unwrap();
        let directory = bench.claim();
        let volume_id = VolumeId::random();
        let (provider, verifier): (Box<dyn KeyProvider>, _) = match mode {
            Mode::Managed => {
                let keystore = Arc::new(Keystore::open_or_create(&bench.keystore()).unwrap());
                (Box::new(ManagedProvider::open(keystore, volume_id, 0, 0).unwrap()), None)
            }
            _ => {
                let (key, verifier) = bench.source().new_key().unwrap();
                (Box::new(SuppliedProvider::new(key, volume_id)), Some(verifier))
            }
        };
        let keyring = keyring(provider);
        let (volume_key, slot) = keyring.make_volume_key(volume_id, verifier).unwrap();
        let key_slots = vec![slot];
        let descriptor =
            Descriptor { format_version: FORMAT_VERSION, volume_id, created: 0, key_slots };
        directory.create(&descriptor, &volume_key).unwrap();
        bench
    }

    pub fn root(&self) -> PathBuf {
        self.path("backing")
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    pub fn key_file(&self) -> PathBuf {
        self.path("key")
    }

    pub fn keystore(&self) -> PathBuf {
        self.path("keystore")
    }

    /// A backing file's path.
    pub fn backing(&self, name: &str) -> PathBuf {
        self.root().join(name)
    }

    /// Takes the volume into use: a new epoch, unless it is only read.
    pub fn session(&self, read_only: bool) -> Session {
        let directory = self.claim();
        let descriptor = directory.descriptor().unwrap().unwrap();
        let provider: Box<dyn KeyProvider> = match self.mode {
            Mode::Managed => {
                let keystore = Arc::new(Keystore::open(&self.keystore()).unwrap());
                let volume = descriptor.volume_id;
                Box::new(ManagedProvider::open_existing(keystore, volume, 0, 0).unwrap())
            }
            _ => {
                let key = self.source().known_key(&descriptor).unwrap();
                Box::new(SuppliedProvider::new(key, descriptor.volume_id))
            }
        };
        let keyring = keyring(provider);
        let volume_key = keyring.open_volume_key(&descriptor).unwrap();
        let use_as = VolumeUse { read_only, ..VolumeUse::default() };
        let volume = directory.start(&descriptor, &volume_key, keyring, use_as).unwrap();
        Session { volume, root: self.root() }
    }

    /// Writes files in one epoch that ends cleanly.
    pub fn write(&self, files: &[(&str, &[u8])]) {
        let session = self.session(false);
        for (name, plain) in files {
            session.write(name, plain);
        }
        session.end();
    }

    /// `ssefs check` of the volume, with further options, and only of these paths if any.
    pub fn check(&self, options: &[&str], paths: &[&str]) -> Checked {
        let mut command = self.command();
        command.arg("check").arg("--quiet").args(self.key()).args(options);
        run(command.arg(self.root()).args(paths))
    }

    /// The same of all of it, which must end with this code, with the report as JSON.
    #[track_caller]
    pub fn report(&self, options: &[&str], code: i32) -> Value {
        let checked = self.check(&[&["--json"], options].concat(), &[]);
        assert_eq!(checked.code, code, "{checked:?}");
        serde_json::from_str(&checked.out).unwrap_or_else(|error| panic!("{error}: {checked:?}"))
    }

    /// The program, with what opens the volume in its environment and arguments.
    pub fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ssefs"));
        command.env_remove("RUST_LOG").env("SSEFS_KEYSTORE", self.keystore());
        command.env("XDG_DATA_HOME", self.path("data-home"));
        command
    }

    /// The option that gives the key.
    pub fn key(&self) -> Vec<String> {
        match self.mode {
            Mode::Supplied => vec!["--key-file".into(), self.key_file().display().to_string()],
            _ => Vec::new(),
        }
    }

    /// Changes bytes of a backing file.
    pub fn alter(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let path = self.backing(name);
        let mut bytes = fs::read(&path).unwrap();
        change(&mut bytes);
        fs::write(&path, bytes).unwrap();
    }

    fn claim(&self) -> VolumeDirectory {
        let tree = Arc::new(DiskTree::open(&self.root()).unwrap());
        VolumeDirectory::claim(tree, "a test").unwrap()
    }

    fn source(&self) -> SuppliedSource {
        SuppliedSource::Key(Secret::copy_from(&[7; 32]))
    }
}

impl Session {
    /// Opens a file to write it, making it if there is none.
    pub fn file(&self, name: &str) -> EncryptedFile {
        let path = self.root.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let mut options = File::options();
        let file = options.read(true).write(true).create(true).truncate(false).open(path).unwrap();
        self.open(disk(file))
    }

    /// Opens a backing file to write it.
    pub fn open(&self, backing: Arc<dyn BackingFile>) -> EncryptedFile {
        let access = Access::own(&PathBuf::new);
        let file = self.volume.open_file(backing, true, &access).unwrap();
        file.prepare_write(&access).unwrap();
        file
    }

    pub fn write(&self, name: &str, plain: &[u8]) {
        let file = self.file(name);
        if plain.is_empty() {
            return;
        }
        for (index, part) in plain.chunks(1 << 20).enumerate() {
            file.write((index << 20) as u64, part).unwrap();
        }
        self.close(&file);
    }

    /// As a mount closes a file: everything of it is on the backing store then.
    pub fn close(&self, file: &EncryptedFile) {
        file.sync(ssefs::store::SyncScope::All).unwrap();
    }

    pub fn read(&self, name: &str) -> Vec<u8> {
        let backing = File::open(self.root.join(name)).unwrap();
        let access = Access::own(&PathBuf::new);
        let file = self.volume.open_file(disk(backing), false, &access).unwrap();
        let mut plain = vec![0; file.size() as usize];
        assert_eq!(file.read(0, &mut plain).unwrap(), plain.len());
        plain
    }

    /// Unmounts cleanly.
    pub fn end(self) {
        self.volume.end_epoch().unwrap();
    }

    /// Ends as a crash does: the epoch stays unclean.
    pub fn crash(self) {}

    /// Checks a backing file as it is.
    pub fn check(
        &self,
        backing: impl BackingFile + 'static,
        headers_only: bool,
    ) -> Result<FileReport, VolumeError> {
        let spare_threads = SpareThreads::new(0);
        let scope = CheckScope { headers_only, spare_threads: &spare_threads, watcher: &Unwatched };
        let access = Access::check(&PathBuf::new);
        self.volume.check_file(Arc::new(backing), &scope, &access)
    }
}

/// Nobody looks on.
pub struct Unwatched;

impl Watcher for Unwatched {
    fn advance(&self, _bytes: u64) {}

    fn is_stopped(&self) -> bool {
        false
    }
}

pub fn run(command: &mut Command) -> Checked {
    let output = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    let code = output.status.code().unwrap_or(-1);
    Checked { code, out: text(output.stdout), err: text(output.stderr) }
}

pub fn disk(file: File) -> Arc<dyn BackingFile> {
    Arc::new(DiskFile::from(OwnedFd::from(file)))
}

/// Bytes that differ from place to place and from `seed` to `seed`.
pub fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 24) as u8
    };
    std::iter::repeat_with(next).take(len).collect()
}

/// Where a block lies in a backing file, as FORMAT.md says.
pub fn block_at(block: usize) -> usize {
    match block {
        0..16 => 4096 * (1 + block),
        _ => 4096 * (18 + 65 * ((block - 16) / 64) + (block - 16) % 64),
    }
}

/// Where its entry lies.
pub fn entry_at(block: usize) -> usize {
    match block {
        0..16 => 3072 + 64 * block,
        _ => 4096 * (17 + 65 * ((block - 16) / 64)) + 64 * ((block - 16) % 64),
    }
}

/// All that is below a directory, but for the note in the volume's lock.
pub fn contents(directory: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(contents(&path));
        } else if !path.ends_with(".ssefs/lock") {
            found.push((path.clone(), fs::read(&path).unwrap()));
        }
    }
    found.sort();
    found
}

fn keyring(provider: Box<dyn KeyProvider>) -> Keyring {
    let mode = provider.mode();
    Keyring::new(vec![provider], mode, DekCache::new(16, DekCache::DEFAULT_TTL))
}
