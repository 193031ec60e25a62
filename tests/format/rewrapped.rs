//! Rewrapped files and requests to rewrap, against what FORMAT.md says of them.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use ssefs::crypto::Secret;
use ssefs::format::{Envelope, FileId, VolumeId};
use ssefs::keys::{Access, Binding, KeyProvider, SuppliedProvider, SuppliedSource};
use ssefs::store::disk::DiskFile;
use ssefs::volume::{ClosedFile, RewrapRequest};

use super::fixture::pattern;
use super::independent::file::{Reading, read};
use super::independent::keys::supplied_wrap_key;
use super::independent::primitives::{hkdf, hmac};
use super::mount::{Keys, Mounted};

const OLD: [u8; 32] = [0x5e; 32];
const NEW: [u8; 32] = [0x5f; 32];

#[test]
fn a_reader_made_from_the_page_alone_opens_a_rewrapped_file() {
    let scratch = tempfile::tempdir().unwrap();
    let key = SuppliedSource::Key(Secret::copy_from(&OLD));
    let mounted = Mounted::create(scratch.path(), Keys::Supplied(key));
    let plain = pattern(1, 300_000);
    mounted.write("file", &plain);
    let path = scratch.path().join("file");
    let access = Access::own(&PathBuf::new);
    let before = fs::read(&path).unwrap();
    let volume = mounted.volume();
    let backing = fs::File::options().read(true).write(true).open(&path).unwrap();
    let backing = DiskFile::from(OwnedFd::from(backing));
    let file = ClosedFile::read(volume.id(), &backing).unwrap().unwrap();
    let file = file.unlock(volume, &access).unwrap();
    let provider = SuppliedProvider::new(Secret::copy_from(&NEW), volume.id());
    let current = Some(file.envelope());
    let envelope = provider.wrap(file.dek(), current, file.binding(), &access).unwrap();
    file.install(&backing, envelope).unwrap();
    let id = volume.id().0;
    let epoch = volume.epoch();
    mounted.end();

    let bytes = fs::read(&path).unwrap();
    let reading = |key| Reading {
        volume: id,
        last_epoch: epoch,
        unclean: &[],
        material: match key {
            OLD => &|_| Some(supplied_wrap_key(&OLD)),
            _ => &|_| Some(supplied_wrap_key(&NEW)),
        },
    };
    assert!(read(&bytes, &reading(NEW)).unwrap() == plain);
    assert!(read(&bytes, &reading(OLD)).is_err());
    assert!(before[3072..] == bytes[3072..], "more than the header changed");
    assert!(bytes[384..1728] == [0; 1344], "the old slot is not empty");
    let sequences =
        |page: &[u8]| [128, 256].map(|at| u64::from_le_bytes(page[at..at + 8].try_into().unwrap()));
    let [was, is] = [&before, &bytes].map(|page| sequences(page).into_iter().max().unwrap());
    assert_eq!(is, was + 2);
}

#[test]
fn a_request_has_the_bytes_of_the_page() {
    let (dek, volume, file) = ([0xde; 32], [0x01; 16], [0xf1; 16]);
    let binding = Binding { volume: VolumeId(volume), file: FileId(file) };
    let access = Access::own(&PathBuf::new);
    let secret = Secret::copy_from(&dek);
    let [current, new] = [OLD, NEW].map(|key| -> Envelope {
        let provider = SuppliedProvider::new(Secret::copy_from(&key), binding.volume);
        provider.wrap(&secret, None, binding, &access).unwrap()
    });
    for (may_lock_out, flags) in [(false, 0), (true, 1)] {
        let request =
            RewrapRequest::encode(&secret, binding, &current, &new, may_lock_out).unwrap();
        let head = [&[1, flags][..], &new.encode().unwrap()].concat();
        let current = current.encode().unwrap();
        let len = (current.len() as u64).to_le_bytes();
        let domain = b"ssefs rewrap request\0";
        let message = [&domain[..], &volume, &file, &len, &current, &head].concat();
        let mac = hmac(&hkdf(&dek, b"ssefs/v1/rewrap"), &message);
        assert_eq!(request, [&head[..], &mac].concat());
        assert!(RewrapRequest::decode(&request).is_ok());
    }
}
