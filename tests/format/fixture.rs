//! Where the frozen volumes lie, their keys, and scratch copies of them: a mount writes into
//! `.ssefs`, and refuses keys that others may read, as every file of a checkout is.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use data_encoding::HEXLOWER;
use ssefs::keys::{Keystore, Passphrase, SuppliedSource, read_key_file};

use super::independent::primitives::sha256;
use super::mount::Keys;

/// 2023-11-14 22:13:20 UTC, the date of the frozen volumes.
pub const NOW: u64 = 1_700_000_000;
/// The passphrase of the volume `passphrase`.
pub const PASSPHRASE: &[u8] = b"correct horse battery staple";

/// A volume of `tests/frozen/v1`, or of a directory like it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Frozen {
    Supplied,
    Passphrase,
    Managed,
}

pub const ALL: [Frozen; 3] = [Frozen::Supplied, Frozen::Passphrase, Frozen::Managed];

impl Frozen {
    pub fn name(self) -> &'static str {
        match self {
            Self::Supplied => "supplied",
            Self::Passphrase => "passphrase",
            Self::Managed => "managed",
        }
    }

    pub fn volume(self, base: &Path) -> PathBuf {
        base.join(self.name()).join("volume")
    }

    pub fn manifest(self, base: &Path) -> PathBuf {
        base.join(self.name()).join("plaintext.sha256")
    }

    /// What opens it.
    pub fn keys(self, base: &Path) -> Keys {
        match self {
            Self::Supplied => {
                Keys::Supplied(SuppliedSource::Key(read_key_file(&key_file(base)).unwrap()))
            }
            Self::Passphrase => Keys::Supplied(SuppliedSource::Passphrase(passphrase())),
            Self::Managed => Keys::keystore(Keystore::open(&keystore_dir(base)).unwrap()),
        }
    }
}

/// The frozen volumes: those of the first writer of version 1, and of one that keeps a content
/// digest.
pub const VERSIONS: [&str; 2] = ["v1", "v1-digest"];

/// That of the first writer that keeps a journal: a volume in mode supplied with one, of a mount
/// that was killed.
pub const JOURNAL: &str = "v1-journal";

/// The same after a power cut, with a journal that alone tells how long a file is.
pub const SIZE_IN_JOURNAL: &str = "v1-journal-size";

/// Where the frozen volumes of a version lie.
pub fn frozen(version: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/frozen").join(version)
}

/// The frozen volumes of the first writer.
pub fn frozen_v1() -> PathBuf {
    frozen(VERSIONS[0])
}

/// A scratch copy of frozen volumes, private to its owner as keys must be.
pub fn copy_of(version: &str) -> tempfile::TempDir {
    let scratch = tempfile::tempdir().unwrap();
    copy_tree(&frozen(version), scratch.path());
    scratch
}

/// That of the first ones.
pub fn copy_of_frozen() -> tempfile::TempDir {
    copy_of(VERSIONS[0])
}

pub fn key_file(base: &Path) -> PathBuf {
    base.join("supplied/key")
}

pub fn keystore_dir(base: &Path) -> PathBuf {
    base.join("managed/keystore")
}

pub fn passphrase() -> Passphrase {
    Passphrase::new(PASSPHRASE.to_vec().into()).unwrap()
}

/// The regular files of a volume, relative to its root, those of `.ssefs` left out.
pub fn files_of(volume: &Path) -> Vec<String> {
    let mut found = Vec::new();
    walk(volume, &mut |path| {
        if path.is_file() && !path.is_symlink() {
            found.push(path.strip_prefix(volume).unwrap().to_str().unwrap().to_owned());
        }
    });
    found.retain(|path| !path.starts_with(".ssefs/"));
    found.sort();
    found
}

/// The digests of a manifest, by path; as `sha256sum` writes them.
pub fn read_manifest(path: &Path) -> BTreeMap<String, String> {
    let text = fs::read_to_string(path).unwrap();
    let lines = text.lines().map(|line| line.split_once("  ").unwrap());
    lines.map(|(digest, path)| (path.to_owned(), digest.to_owned())).collect()
}

pub fn digest(plain: &[u8]) -> String {
    HEXLOWER.encode(&sha256(plain))
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

/// Calls `visit` for everything below `root`.
pub fn walk(root: &Path, visit: &mut impl FnMut(&Path)) {
    for entry in fs::read_dir(root).unwrap() {
        let path = entry.unwrap().path();
        visit(&path);
        if path.is_dir() && !path.is_symlink() {
            walk(&path, visit);
        }
    }
}

/// Makes a directory that only its owner may enter.
pub fn make_private_dir(path: &Path) {
    fs::DirBuilder::new().mode(0o700).create(path).unwrap();
}

/// Writes a file that only its owner may read.
pub fn put_private(path: &Path, bytes: &[u8]) {
    fs::write(path, bytes).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

fn copy_tree(from: &Path, to: &Path) {
    walk(from, &mut |path| {
        let target = to.join(path.strip_prefix(from).unwrap());
        if path.is_symlink() {
            std::os::unix::fs::symlink(fs::read_link(path).unwrap(), &target).unwrap();
        } else if path.is_dir() {
            make_private_dir(&target);
        } else {
            put_private(&target, &fs::read(path).unwrap());
        }
    });
}
