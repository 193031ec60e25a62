//! Sealing ahead of the write that it is for: nobody waits for a write that is under way, and what
//! is counted for it is counted once.

use std::io::IoSlice;
use std::ops::Range;
use std::sync::Arc;
use std::sync::mpsc::channel;

use ssefs::crypto::{MacKey, Secret, derive};
use ssefs::format::{Header, SEALS_LIMIT, STATE_MAC_LABEL, StateRecord};
use ssefs::store::memory::MemoryFile;
use ssefs::store::{BackingFile, SyncScope};
use ssefs::volume::{EncryptedFile, VolumeError};

use crate::gate::{Gate, Kept, PATIENCE};
use crate::harness::{TestVolume, pattern};
use crate::oracle::unwrap_dek;

pub const PIECE: usize = 64 * 4096;

fn write_pieces(write: impl Fn(u64, &[u8]), pieces: Range<usize>) {
    for piece in pieces {
        write((piece * PIECE) as u64, &pattern(piece as u64, PIECE));
    }
}

#[test]
fn who_seals_ahead_does_not_wait_for_a_write_under_way() {
    let volume = TestVolume::new();
    let backing = Arc::new(Gate::default());
    let file = volume.open(&backing).unwrap();
    write_pieces(|at, data| file.write(at, data).unwrap(), 0..4);
    backing.close(Kept::Writes);
    std::thread::scope(|scope| {
        scope.spawn(|| file.write(4 * PIECE as u64, &pattern(4, PIECE)).unwrap());
        backing.wait_for_call();
        let (sealed, has_sealed) = channel();
        let file = &file;
        scope.spawn(move || {
            let (at, data) = (5 * PIECE as u64, pattern(5, PIECE));
            let written = file.preseal(at, &data, |presealed| {
                sealed.send(presealed.is_some()).unwrap();
                file.write_presealed(at, &data, presealed)
            });
            written.unwrap().unwrap();
        });
        let sealed = has_sealed.recv_timeout(PATIENCE);
        // Before anything is asserted, so that nobody is waited for in vain.
        backing.open();
        assert_eq!(sealed, Ok(true));
    });
    let mut content = vec![0; 6 * PIECE];
    assert_eq!(file.read(0, &mut content).unwrap(), content.len());
    for (piece, found) in content.chunks(PIECE).enumerate() {
        assert!(found == pattern(piece as u64, PIECE), "piece {piece}");
    }
}

#[test]
fn what_was_counted_ahead_and_not_sealed_does_not_count() {
    let mut volume = TestVolume::new();
    let backing = Arc::new(MemoryFile::new());
    let file = volume.open(&backing).unwrap();
    // The last piece leaves nearly as much of the allowance as there can be.
    let pieces = 70;
    write_pieces(|at, data| file.write(at, data).unwrap(), 0..pieces);
    file.settle().unwrap();
    let blocks = (pieces * PIECE / 4096) as u64;
    let check = |file: &EncryptedFile| {
        let count = file.description().unwrap().seal_count;
        assert!((blocks..blocks + 1100).contains(&count), "{count} for {blocks}");
    };
    check(&file);
    drop(file);
    volume.remount();
    check(&volume.open(&backing).unwrap());
}

fn header_of(backing: &MemoryFile) -> (Box<[u8; 4096]>, Header) {
    let mut page = Box::new([0; 4096]);
    backing.read_at(&mut *page, 0).unwrap();
    let header = Header::parse(&page).unwrap();
    (page, header)
}

/// A volume with a file of one piece, whose state tells this count.
pub fn with_seals_told(seal_count: u64) -> (TestVolume, Arc<MemoryFile>) {
    let mut volume = TestVolume::new();
    let backing = Arc::new(MemoryFile::new());
    let file = volume.open(&backing).unwrap();
    file.write(0, &pattern(0, PIECE)).unwrap();
    file.settle().unwrap();
    drop(file);
    volume.remount();
    let (mut page, header) = header_of(&backing);
    let dek = unwrap_dek(&header, header.envelopes[0].as_ref().unwrap());
    let key = MacKey::new(&derive(&Secret::copy_from(&dek), STATE_MAC_LABEL));
    let state = header.claimed_state(&page).unwrap();
    header.encode_both_states(&StateRecord { seal_count, ..state }, &key, &mut page);
    backing.write_at(&[IoSlice::new(&*page)], 0).unwrap();
    (volume, backing)
}

/// A crash may come at any time.
#[test]
fn the_count_in_the_backing_file_is_never_below_what_is_sealed() {
    let volume = TestVolume::new();
    let backing = Arc::new(MemoryFile::new());
    let file = volume.open(&backing).unwrap();
    let mut blocks = 0;
    for (number, more) in [16, 255, 16, 64, 255].into_iter().cycle().take(60).enumerate() {
        let (at, data) = (blocks * 4096, pattern(blocks, more as usize * 4096));
        blocks += more;
        let written = file.preseal(at, &data, |presealed| {
            assert!(presealed.is_some());
            if number > 0 {
                let (page, header) = header_of(&backing);
                let told = header.claimed_state(&page).unwrap().seal_count;
                assert!(told >= blocks, "{told} where {blocks} are sealed");
            }
            file.write_presealed(at, &data, presealed)
        });
        written.unwrap().unwrap();
    }
}

#[test]
fn nobody_seals_ahead_with_a_dek_that_was_withdrawn() {
    let volume = TestVolume::new();
    let file = volume.open(&Arc::new(MemoryFile::new())).unwrap();
    write_pieces(|at, data| file.write(at, data).unwrap(), 0..4);
    // So that nothing is to be settled when the DEK is withdrawn.
    file.settle().unwrap();
    let (at, data) = (4 * PIECE as u64, pattern(4, PIECE));
    let one_sealing = file.preseal(at, &data, |presealed| {
        assert!(presealed.is_some());
        file.withdraw();
        let refused = file.preseal(at, &data, |_| ());
        assert!(matches!(refused, Err(VolumeError::Withdrawn { .. })), "{refused:?}");
        file.write_presealed(at, &data, presealed)
    });
    assert!(matches!(one_sealing.unwrap(), Err(VolumeError::Withdrawn { .. })));
}

#[test]
fn what_a_sync_has_come_to_cover_is_not_sealed_ahead() {
    let volume = TestVolume::new();
    let file = volume.open(&Arc::new(MemoryFile::new())).unwrap();
    let write = |at: u64, data: &[u8]| file.write(at, data).unwrap();
    write_pieces(write, 0..2);
    file.sync(SyncScope::All).unwrap();
    write_pieces(write, 2..4);
    // A change that waits for a commit, and another one of the same block, for which all is synced.
    write(0, &pattern(7, 4096));
    file.commit().unwrap();
    write(0, &pattern(8, 4096));
    let is_sealed_ahead = |piece: usize| {
        file.preseal((piece * PIECE) as u64, &pattern(9, PIECE), |it| it.is_some()).unwrap()
    };
    assert!(!is_sealed_ahead(2), "what is gathered would be sealed twice");
    assert!(is_sealed_ahead(4), "what no sync covers was not sealed ahead");
}

#[test]
fn what_is_counted_ahead_takes_no_seals_from_a_file_near_their_limit() {
    let (volume, backing) = with_seals_told(SEALS_LIMIT - 400);
    let file = volume.open(&backing).unwrap();
    file.write(PIECE as u64, &pattern(1, PIECE)).unwrap();
    file.write(2 * PIECE as u64, &pattern(2, PIECE)).unwrap();
    let refused = (3..10).find_map(|piece| file.write(piece * PIECE as u64, &[1; PIECE]).err());
    assert!(matches!(refused, Some(VolumeError::SealsExhausted { .. })), "{refused:?}");
    file.write(0, &[1; 4096]).unwrap();
    file.settle().unwrap();
    assert!(file.description().unwrap().seal_count <= SEALS_LIMIT);
}
