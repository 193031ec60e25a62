//! An independent implementation of AES-GCM, HKDF apart, opens what was sealed, and what it
//! seals is opened.

use std::io::IoSlice;
use std::sync::Arc;

use aes_gcm::aead::{Aead, Payload};
use aes_gcm::{Aes256Gcm, KeyInit};
use ssefs::crypto::{Secret, derive};
use ssefs::format::{
    BlockIndex, DATA_KEY_LABEL, Entry, Envelope, Header, PlainSize, Sealed, cipher_size,
    entry_place, stored_len,
};
use ssefs::store::BackingFile;
use ssefs::store::memory::MemoryFile;

use super::harness::{TestVolume, WRAPPING_KEY, pattern};
use super::model::content;

pub fn unwrap_dek(header: &Header, envelope: &Envelope) -> [u8; 32] {
    let (nonce, sealed) = envelope.wrapped_dek.split_first_chunk::<12>().unwrap();
    let aad = envelope.aad(header.prologue.volume_id, header.prologue.file_id);
    Aes256Gcm::new(&WRAPPING_KEY.into())
        .decrypt(nonce.into(), Payload { msg: sealed, aad: &aad })
        .unwrap()
        .try_into()
        .unwrap()
}

fn data_cipher(bytes: &[u8]) -> Aes256Gcm {
    let page = bytes[..4096].try_into().unwrap();
    let header = Header::parse(page).unwrap();
    let dek = unwrap_dek(&header, header.envelopes[0].as_ref().unwrap());
    let key = derive(&Secret::copy_from(&dek), DATA_KEY_LABEL);
    Aes256Gcm::new(key.expose().into())
}

fn entry_at(block: u64) -> usize {
    let (page, index) = entry_place(BlockIndex(block));
    page.start().0 as usize + if page.0 == 0 { 3072 } else { 0 } + index * 64
}

#[test]
fn the_oracle_opens_every_block() {
    let volume = TestVolume::new();
    let backing = Arc::new(MemoryFile::new());
    let plain = pattern(1, 90 * 4096 + 1234);
    let file = volume.open(&backing).unwrap();
    file.write(0, &plain).unwrap();
    file.settle().unwrap();
    let size = PlainSize(plain.len() as u64);
    assert_eq!(backing.size().unwrap(), cipher_size(size).0);
    let mut bytes = vec![0; backing.size().unwrap() as usize];
    backing.read_at(&mut bytes, 0).unwrap();

    let cipher = data_cipher(&bytes);
    for (block, expected) in plain.chunks(4096).enumerate() {
        let block = block as u64;
        let entry: &[u8; 64] = bytes[entry_at(block)..].first_chunk().unwrap();
        let Entry::Stored(marked) = Entry::decode(entry).unwrap() else { panic!("stored") };
        let len = stored_len(BlockIndex(block), size);
        assert_eq!(usize::from(marked.current.len), len);
        let start = BlockIndex(block).cipher_start().0 as usize;
        let sealed = [&bytes[start..start + len], &marked.current.tag].concat();
        let aad = block.to_le_bytes();
        let opened =
            cipher.decrypt((&marked.current.nonce).into(), Payload { msg: &sealed, aad: &aad });
        assert!(opened.unwrap() == expected, "block {block}");
    }
}

#[test]
fn what_the_oracle_seals_is_opened() {
    let volume = TestVolume::new();
    let backing = Arc::new(MemoryFile::new());
    let file = volume.open(&backing).unwrap();
    file.write(0, &pattern(1, 20 * 4096)).unwrap();
    file.settle().unwrap();
    drop(file);
    let mut bytes = vec![0; 4096];
    backing.read_at(&mut bytes, 0).unwrap();

    let plain = pattern(2, 4096);
    let nonce = [7; 12];
    let aad = 18_u64.to_le_bytes();
    let sealed =
        data_cipher(&bytes).encrypt((&nonce).into(), Payload { msg: &plain, aad: &aad }).unwrap();
    let (data, tag) = sealed.split_at(4096);
    let entry = Entry::Hole.succeeded_by(Sealed { nonce, tag: tag.try_into().unwrap(), len: 4096 });
    backing.write_at(&[IoSlice::new(&entry.encode())], entry_at(18) as u64).unwrap();
    let start = BlockIndex(18).cipher_start().0;
    backing.write_at(&[IoSlice::new(data)], start).unwrap();

    let read = content(&volume.open(&backing).unwrap()).unwrap();
    assert!(read[18 * 4096..19 * 4096] == plain);
    assert!(read[..18 * 4096] == pattern(1, 20 * 4096)[..18 * 4096]);
}
