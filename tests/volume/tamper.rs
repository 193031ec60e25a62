//! Any change of the bytes on disk is found at open or at the read, and is never data.

use std::io::IoSlice;
use std::sync::Arc;

use ssefs::format::{BlockIndex, PlainSize, cipher_size, entry_place};
use ssefs::store::BackingFile;
use ssefs::store::memory::MemoryFile;
use ssefs::volume::VolumeError;

use super::harness::{TestVolume, pattern};
use super::model::content;

fn bytes_of(backing: &MemoryFile) -> Vec<u8> {
    let mut bytes = vec![0; backing.size().unwrap() as usize];
    backing.read_at(&mut bytes, 0).unwrap();
    bytes
}

fn file_of(bytes: &[u8]) -> Arc<MemoryFile> {
    let backing = Arc::new(MemoryFile::new());
    backing.write_at(&[IoSlice::new(bytes)], 0).unwrap();
    backing
}

/// A file of `len` bytes whose epoch has ended cleanly.
fn settled(volume: &mut TestVolume, seed: u64, len: usize) -> Vec<u8> {
    let backing = Arc::new(MemoryFile::new());
    let file = volume.open(&backing).unwrap();
    file.write(0, &pattern(seed, len)).unwrap();
    file.settle().unwrap();
    drop(file);
    volume.remount();
    bytes_of(&backing)
}

/// Opens and reads all of it.
fn read_all(volume: &TestVolume, bytes: &[u8]) -> Result<Vec<u8>, VolumeError> {
    content(&volume.open_read_only(&file_of(bytes))?)
}

fn assert_refused(volume: &TestVolume, bytes: &[u8], what: &str) {
    if let Ok(read) = read_all(volume, bytes) {
        panic!("{what}: {} bytes were read", read.len());
    }
}

#[test]
fn every_flipped_byte_of_a_small_file_is_found() {
    let mut volume = TestVolume::new();
    let bytes = settled(&mut volume, 1, 300);
    assert_eq!(read_all(&volume, &bytes).unwrap(), pattern(1, 300));
    for at in 0..bytes.len() {
        for bit in [1, 0x80] {
            let mut bytes = bytes.clone();
            bytes[at] ^= bit;
            assert_refused(&volume, &bytes, &format!("byte {at}"));
        }
    }
}

#[test]
fn every_flipped_byte_of_an_overwritten_file_is_found() {
    let mut volume = TestVolume::new();
    let backing = file_of(&settled(&mut volume, 1, 5000));
    for seed in 2..5 {
        let file = volume.open(&backing).unwrap();
        file.write(0, &pattern(seed, 5000)).unwrap();
        file.settle().unwrap();
        drop(file);
        volume.remount();
    }
    let bytes = bytes_of(&backing);
    for at in (0..4096).chain((4096..bytes.len()).step_by(97)) {
        let mut bytes = bytes.clone();
        bytes[at] ^= 4;
        assert_refused(&volume, &bytes, &format!("byte {at}"));
    }
}

#[test]
fn sampled_flips_of_a_large_file_are_found() {
    let mut volume = TestVolume::new();
    let len = 300 * 4096 + 77;
    let bytes = settled(&mut volume, 1, len);
    let tag_pages = (0..300).map(|block| entry_place(BlockIndex(block)).0.start().0 as usize);
    let entries = tag_pages.flat_map(|page| [page, page + 29, page + 63].into_iter());
    let last_tag_page = entry_place(BlockIndex(300)).0.start().0 as usize;
    let used = |at: &usize| !(last_tag_page..last_tag_page + 4096).contains(at);
    for at in entries.filter(used).chain((0..bytes.len()).step_by(4999)).filter(used) {
        let mut bytes = bytes.clone();
        bytes[at] ^= 1;
        assert_refused(&volume, &bytes, &format!("byte {at}"));
    }
}

#[test]
fn every_truncation_is_found() {
    let mut volume = TestVolume::new();
    let bytes = settled(&mut volume, 1, 100 * 4096 + 5);
    for blocks in 0..100 {
        let cut = cipher_size(PlainSize(blocks * 4096)).0 as usize;
        assert_refused(&volume, &bytes[..cut], &format!("cut to {blocks} blocks"));
    }
    for cut in [1, 127, 4095, 4097, 17 * 4096 + 1, 18 * 4096, bytes.len() - 1] {
        assert_refused(&volume, &bytes[..cut], &format!("cut to {cut} bytes"));
    }
}

#[test]
fn extension_is_found() {
    let mut volume = TestVolume::new();
    let mut bytes = settled(&mut volume, 1, 5000);
    bytes.push(0);
    assert_refused(&volume, &bytes, "one byte more");
    bytes.resize(20 * 4096, 0);
    assert_refused(&volume, &bytes, "pages more");
}

#[test]
fn blocks_moved_within_and_between_files_are_found() {
    let mut volume = TestVolume::new();
    let one = settled(&mut volume, 1, 40 * 4096);
    let two = settled(&mut volume, 2, 40 * 4096);
    let place = |block: u64| {
        let start = BlockIndex(block).cipher_start().0 as usize;
        let (page, index) = entry_place(BlockIndex(block));
        let base = page.start().0 as usize + if page.0 == 0 { 3072 } else { 0 };
        (start..start + 4096, base + index * 64..base + index * 64 + 64)
    };
    for (from, to) in [(0, 1), (3, 30), (30, 3), (20, 21)] {
        let ((data_from, entry_from), (data_to, entry_to)) = (place(from), place(to));
        let mut moved = one.clone();
        moved.copy_within(data_from.clone(), data_to.start);
        assert_refused(&volume, &moved, "data moved");
        moved.copy_within(entry_from.clone(), entry_to.start);
        assert_refused(&volume, &moved, "data and entry moved");
    }
    for block in [0, 5, 16, 39] {
        let (data, entry) = place(block);
        let mut foreign = one.clone();
        foreign[data.clone()].copy_from_slice(&two[data]);
        assert_refused(&volume, &foreign, "data of another file");
        foreign[entry.clone()].copy_from_slice(&two[entry]);
        assert_refused(&volume, &foreign, "data and entry of another file");
    }
    let mut headed = one.clone();
    headed[..4096].copy_from_slice(&two[..4096]);
    assert_refused(&volume, &headed, "page 0 of another file");
    headed[..3072].copy_from_slice(&two[..3072]);
    headed[3072..4096].copy_from_slice(&one[3072..4096]);
    assert_refused(&volume, &headed, "header of another file");
}

#[test]
fn zeroing_makes_no_hole() {
    let mut volume = TestVolume::new();
    let bytes = settled(&mut volume, 1, 40 * 4096);
    let mut zeroed = bytes.clone();
    zeroed[3072..3072 + 64].fill(0);
    assert_refused(&volume, &zeroed, "entry of block 0");
    zeroed[4096..8192].fill(0);
    assert_refused(&volume, &zeroed, "block 0 and its entry");
    let mut zeroed = bytes.clone();
    zeroed[17 * 4096..18 * 4096].fill(0);
    assert_refused(&volume, &zeroed, "a whole tag page");
    let mut zeroed = bytes;
    zeroed[4096..8192].fill(0);
    assert_refused(&volume, &zeroed, "block 0");
}

#[test]
fn a_replayed_block_is_found() {
    let mut volume = TestVolume::new();
    let old = settled(&mut volume, 1, 3 * 4096);
    let backing = file_of(&old);
    let file = volume.open(&backing).unwrap();
    file.write(0, &pattern(2, 3 * 4096)).unwrap();
    file.settle().unwrap();
    drop(file);
    volume.remount();
    let mut replayed = bytes_of(&backing);
    replayed[4096..8192].copy_from_slice(&old[4096..8192]);
    assert_refused(&volume, &replayed, "the old data of block 0, whose generation is still known");
}

#[test]
fn a_file_of_another_volume_is_refused() {
    let mut volume = TestVolume::new();
    let mut other = TestVolume::new();
    let bytes = settled(&mut other, 1, 100);
    let refused = read_all(&volume, &bytes).unwrap_err();
    assert!(matches!(refused, VolumeError::OtherVolume { .. }), "{refused}");
    settled(&mut volume, 1, 100);
}

#[test]
fn foreign_files_are_refused_by_name() {
    let volume = TestVolume::new();
    let of = |bytes: &[u8]| read_all(&volume, bytes).unwrap_err().to_string();
    assert!(of(b"hello world").contains("not an ssefs file"));
    assert!(of(&[7; 10_000]).contains("not an ssefs file"));
    let header = b"\x89ssefs\r\n\x01\0\x01\0\0\0\0\0";
    assert!(of(header).contains("truncated header"));
    let mut newer = vec![0; 4096];
    newer[..16].copy_from_slice(header);
    newer[8] = 9;
    assert!(of(&newer).contains("format version 9"));
}
