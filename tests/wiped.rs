//! After an unmount: a volume and its file system are opened in this very process, used, shut
//! down as the daemon does it, and then no key is left in its memory.
//!
//! A test program of its own, with one test: nothing else fills the memory that is searched.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::BufRead;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ssefs::crypto::{Secret, derive};
use ssefs::format::{
    DATA_KEY_LABEL, Descriptor, FORMAT_VERSION, FileId, Header, KeySlot, Mode, STATE_MAC_LABEL,
    VolumeId,
};
use ssefs::fs::{FileSystem, FsOptions, NodeId};
use ssefs::keys::{Access, Binding, Caller, DekCache, KeyProvider, Keyring, SuppliedProvider};
use ssefs::store::tree::DiskTree;
use ssefs::volume::{Volume, VolumeDirectory, VolumeUse};

const CALLER: Caller = Caller { uid: 0, gid: 0, pid: 0 };
const MASK: u8 = 0xa5;
/// How much of a key is searched for.
const NEEDLE_LEN: usize = 16;

/// Both halves of a key, masked so that the search does not find itself.
struct Needle([[u8; NEEDLE_LEN]; 2]);

impl Needle {
    fn of(key: &Secret) -> Self {
        let bytes = key.expose();
        let half = |from: usize| std::array::from_fn(|index| bytes[from + index] ^ MASK);
        Self([half(0), half(NEEDLE_LEN)])
    }

    /// How often either half is in this process's writable memory.
    fn found(&self) -> usize {
        const CHUNK: usize = 1 << 20;
        let memory = File::open("/proc/self/mem").unwrap();
        let mut buffer = vec![0; CHUNK + NEEDLE_LEN - 1];
        let own = buffer.as_ptr() as u64..buffer.as_ptr() as u64 + buffer.len() as u64;
        let mut found = 0;
        for line in fs::read_to_string("/proc/self/maps").unwrap().lines() {
            let mut fields = line.split_ascii_whitespace();
            let (from, to) = fields.next().unwrap().split_once('-').unwrap();
            let [from, to] = [from, to].map(|text| u64::from_str_radix(text, 16).unwrap());
            if !fields.next().unwrap().starts_with("rw") {
                continue;
            }
            for at in (from..to).step_by(CHUNK) {
                let len = buffer.len().min((to - at) as usize);
                // It may have been unmapped meanwhile.
                let Ok(read) = memory.read_at(&mut buffer[..len], at) else { continue };
                let places = self.places(&buffer[..read]);
                found += places.filter(|&place| !own.contains(&(at + place as u64))).count();
            }
        }
        found
    }

    /// Where either half starts. `skip_until` is fast also in test builds.
    fn places<'a>(&'a self, memory: &'a [u8]) -> impl Iterator<Item = usize> + 'a {
        self.0.iter().flat_map(move |half| {
            let mut rest = memory;
            std::iter::from_fn(move || {
                loop {
                    if rest.skip_until(half[0] ^ MASK).expect("memory is read") == 0 {
                        return None;
                    }
                    let place = memory.len() - rest.len() - 1;
                    let here = &memory[place..];
                    if here.len() >= NEEDLE_LEN
                        && half.iter().zip(here).all(|(a, b)| a ^ MASK == *b)
                    {
                        return Some(place);
                    }
                }
            })
        })
    }
}

/// A mount without its kernel side.
struct Opened {
    fs: FileSystem,
    volume: Arc<Volume>,
    volume_key: Needle,
}

fn open(backing: &Path, key: Secret, volume_id: VolumeId) -> Opened {
    let tree = Arc::new(DiskTree::open(backing).unwrap());
    let directory = VolumeDirectory::claim(Arc::clone(&tree), "a test").unwrap();
    let provider = SuppliedProvider::new(key, volume_id);
    let cache = DekCache::new(64, Duration::from_secs(3600));
    let keyring = Keyring::new(vec![Box::new(provider)], Mode::Supplied, cache);
    let binding = Binding { volume: volume_id, file: FileId::VOLUME };
    let made = keyring.generate(binding, &Access::own(&PathBuf::new)).unwrap();
    let descriptor = Descriptor {
        format_version: FORMAT_VERSION,
        volume_id,
        created: 0,
        key_slots: vec![KeySlot { envelope: made.envelope, supplied: None }],
    };
    directory.create(&descriptor, &made.dek).unwrap();
    let volume = directory.start(&descriptor, &made.dek, keyring, VolumeUse::default()).unwrap();
    let options = FsOptions::default();
    let fs = FileSystem::new(Arc::clone(&volume), tree, options).unwrap();
    Opened { fs, volume, volume_key: Needle::of(&made.dek) }
}

/// The DEK of a backing file and the two keys derived from it.
fn keys_of(path: &Path, key: &Secret) -> [Needle; 3] {
    let mut page = [0; 4096];
    File::open(path).unwrap().read_exact_at(&mut page, 0).unwrap();
    let header = Header::parse(&page).unwrap();
    let (_, envelope) = header.slots_by_claim(&page).next().expect("an envelope");
    let (volume, file) = (header.prologue.volume_id, header.prologue.file_id);
    let provider = SuppliedProvider::new(key.duplicate(), volume);
    let access = Access::own(&PathBuf::new);
    let dek = provider.unwrap(envelope, Binding { volume, file }, &access).unwrap();
    let derived = |label| Needle::of(&derive(&dek, label));
    [Needle::of(&dek), derived(DATA_KEY_LABEL), derived(STATE_MAC_LABEL)]
}

#[test]
fn no_key_outlives_the_unmount() {
    let backing = tempfile::tempdir().unwrap();
    let key = Secret::random();
    let supplied = Needle::of(&key);
    let Opened { fs, volume, volume_key } =
        open(backing.path(), key.duplicate(), VolumeId::random());

    let flags = libc::O_RDWR | libc::O_CREAT | libc::O_EXCL;
    let data = vec![0x5a; 200_000];
    let make = |name: &str| {
        let (entry, opened) =
            fs.create(CALLER, NodeId::ROOT, OsStr::new(name), 0o644, 0, flags).unwrap();
        fs.write(opened.handle, 0, &data, false).unwrap();
        (entry.node, opened.handle)
    };
    let (closed, handle) = make("closed");
    fs.release(handle).unwrap();
    let reading = fs.open(CALLER, closed, libc::O_RDONLY).unwrap().handle;
    let mut back = vec![0; data.len()];
    assert_eq!(fs.read(reading, 0, &mut back).unwrap(), data.len());
    assert_eq!(back, data);
    fs.release(reading).unwrap();
    // The kernel need not close what is open when a mount is torn off.
    let (_, handle) = make("open");
    fs.read(handle, 0, &mut back).unwrap();

    let of_closed = keys_of(&backing.path().join("closed"), &key);
    let of_open = keys_of(&backing.path().join("open"), &key);
    drop(key);
    assert_ne!(of_closed[0].found(), 0, "a cached DEK is found");
    assert_ne!(of_open[0].found(), 0, "the DEK of an open file is found");
    assert_ne!(of_open[1].found(), 0, "the data key of an open file is found");

    fs.shut_down();
    volume.end_epoch().unwrap();
    volume.keyring().wipe();
    drop((fs, volume));
    assert_eq!(supplied.found(), 0, "the supplied key");
    assert_eq!(volume_key.found(), 0, "the volume key");
    for (file, keys) in [("closed", &of_closed), ("open", &of_open)] {
        for (name, needle) in ["DEK", "data key", "key of the state MAC"].iter().zip(keys) {
            assert_eq!(needle.found(), 0, "{name} of the file that was {file}");
        }
    }
}
