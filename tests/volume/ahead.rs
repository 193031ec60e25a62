//! Sealing ahead of the write that it is for: nobody waits for a write that is under way, and what
//! is counted for it is counted once.

use std::io::{self, IoSlice};
use std::ops::Range;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ssefs::store::memory::MemoryFile;
use ssefs::store::{BackingFile, SyncScope};
use ssefs::volume::VolumeError;

use crate::harness::{TestVolume, pattern};

const PIECE: usize = 64 * 4096;

/// A backing file whose next write, when that is asked for, says that it has begun and lasts until
/// it is told to go on.
struct Slow {
    inner: MemoryFile,
    held: Mutex<Option<(Sender<()>, Receiver<()>)>>,
}

impl Slow {
    fn hold_next_write(&self) -> (Receiver<()>, Sender<()>) {
        let ((begins, begun), (go_on, told)) = (channel(), channel());
        *self.held.lock().unwrap() = Some((begins, told));
        (begun, go_on)
    }
}

impl BackingFile for Slow {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.inner.read_at(buf, offset)
    }

    fn write_at(&self, bufs: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        let held = self.held.lock().unwrap().take();
        if let Some((begins, told)) = held {
            begins.send(()).unwrap();
            told.recv().unwrap();
        }
        self.inner.write_at(bufs, offset)
    }

    fn size(&self) -> io::Result<u64> {
        self.inner.size()
    }

    fn set_size(&self, size: u64) -> io::Result<()> {
        self.inner.set_size(size)
    }

    fn allocate(&self, offset: u64, len: u64, keep_size: bool) -> io::Result<()> {
        self.inner.allocate(offset, len, keep_size)
    }

    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        self.inner.punch(offset, len)
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<u64>> {
        self.inner.next_data(offset)
    }

    fn sync(&self, scope: SyncScope) -> io::Result<()> {
        self.inner.sync(scope)
    }
}

fn write_pieces(write: impl Fn(u64, &[u8]), pieces: Range<usize>) {
    for piece in pieces {
        write((piece * PIECE) as u64, &pattern(piece as u64, PIECE));
    }
}

#[test]
fn who_seals_ahead_does_not_wait_for_a_write_under_way() {
    let volume = TestVolume::new();
    let backing = Arc::new(Slow { inner: MemoryFile::new(), held: Mutex::default() });
    let file = volume.open(&backing).unwrap();
    write_pieces(|at, data| file.write(at, data).unwrap(), 0..4);
    let (begun, go_on) = backing.hold_next_write();
    std::thread::scope(|scope| {
        scope.spawn(|| file.write(4 * PIECE as u64, &pattern(4, PIECE)).unwrap());
        begun.recv().unwrap();
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
        let sealed = has_sealed.recv_timeout(Duration::from_secs(30));
        // Before anything is asserted, so that nobody is waited for in vain.
        go_on.send(()).unwrap();
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
    let count = |file: &ssefs::volume::EncryptedFile| file.description().unwrap().seal_count;
    assert!((blocks..blocks + 1100).contains(&count(&file)), "{} for {blocks}", count(&file));
    drop(file);
    volume.remount();
    let file = volume.open(&backing).unwrap();
    assert!((blocks..blocks + 1100).contains(&count(&file)), "{} for {blocks}", count(&file));
}

/// The count in the header is never below what has been sealed: a crash may come at any time.
#[test]
fn the_header_counts_what_is_sealed_ahead_before_it_is() {
    let volume = TestVolume::new();
    let file = volume.open(&Arc::new(MemoryFile::new())).unwrap();
    for piece in 0..100_u64 {
        let (at, data) = (piece * PIECE as u64, pattern(piece, PIECE));
        let written = file.preseal(at, &data, |presealed| {
            assert!(presealed.is_some());
            if let Some(description) = file.description() {
                let sealed = (piece + 1) * (PIECE as u64 / 4096);
                assert!(description.seal_count >= sealed, "piece {piece}: {description:?}");
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
    file.withdraw();
    let refused = file.preseal(4 * PIECE as u64, &pattern(4, PIECE), |_| ());
    assert!(matches!(refused, Err(VolumeError::Withdrawn { .. })), "{refused:?}");
}

#[test]
fn what_a_sync_covers_is_sealed_for_nothing_once_at_most() {
    let volume = TestVolume::new();
    let file = volume.open(&Arc::new(MemoryFile::new())).unwrap();
    write_pieces(|at, data| file.write(at, data).unwrap(), 0..4);
    file.sync(SyncScope::All).unwrap();
    let sealed_ahead = |piece: usize| {
        let (at, data) = ((piece * PIECE) as u64, pattern(9, PIECE));
        let written = file.preseal(at, &data, |presealed| {
            let was = presealed.is_some();
            file.write_presealed(at, &data, presealed).map(|()| was)
        });
        written.unwrap().unwrap()
    };
    sealed_ahead(1);
    assert!(!sealed_ahead(2), "what is gathered was sealed twice");
    assert!(sealed_ahead(4), "what no sync covers was not sealed ahead");
}
