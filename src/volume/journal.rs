//! The journal of a mount: what is gathered is also written there, so that it outlives the
//! process. It is never synced for its own sake: what a power cut takes of it was never promised.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io::{self, IoSlice};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;

use super::directory::VolumeDirectory;
use super::gather::Gathered;
use crate::crypto::{AeadKey, Secret};
use crate::format::{
    BLOCK_LEN, BlockIndex, Entry, FileId, JOURNAL_RECORD_LEN, JournalHead, JournalRecord, VolumeId,
    journal_name, slot_start,
};
use crate::store::disk::DiskFile;
use crate::store::{BackingFile, SyncScope};
use crate::sys::fail_point;

/// The journal of the current epoch. Its file is made when the first block is put into it.
pub(super) struct Journal {
    directory: Arc<VolumeDirectory>,
    head: JournalHead,
    key: AeadKey,
    /// Held across a sync that orders holes, so that nobody goes on before it is over. Outside of
    /// `slots`.
    order: Mutex<()>,
    slots: Mutex<Slots>,
}

#[derive(Default)]
struct Slots {
    file: Option<Arc<DiskFile>>,
    free: BTreeSet<u32>,
    /// From here on none was ever used.
    end: u32,
    sequence: u64,
    /// A record of a block that filled a hole was erased since the last sync.
    hole_erased: bool,
    /// Such a record may come back: it could not be erased, or not for good.
    hole_stays: bool,
}

/// A block's place in the journal. Dropped, the record is erased.
pub(super) struct Kept {
    journal: Arc<Journal>,
    slot: u32,
    /// The record must not be found again, even where its block is in the file.
    over_hole: bool,
    /// All of it was.
    written: bool,
    /// The block is in the file, so that the record does not count any more.
    done: bool,
}

impl Journal {
    /// The journal of `epoch`, which has just begun.
    pub(super) fn new(
        directory: Arc<VolumeDirectory>,
        volume: VolumeId,
        epoch: u64,
        volume_key: &Secret,
    ) -> Arc<Self> {
        let head = JournalHead::new(volume, epoch);
        let key = head.key(volume_key);
        Arc::new(Self { directory, head, key, order: Mutex::default(), slots: Mutex::default() })
    }

    /// Puts blocks of one file, in ascending order, where they outlive the process.
    pub(super) fn keep(
        self: &Arc<Self>,
        file: FileId,
        blocks: &mut [(BlockIndex, Gathered)],
    ) -> io::Result<()> {
        let (disk, places) = self.take(blocks)?;
        let records: Vec<[u8; JOURNAL_RECORD_LEN]> = places
            .iter()
            .zip(&*blocks)
            .map(|((sequence, _), (block, gathered))| {
                let Gathered { base, sealed, .. } = *gathered;
                JournalRecord { file, sequence: *sequence, block: *block, base, sealed }
                    .encode(&self.key)
            })
            .collect();
        let mut next = 0;
        while next < places.len() {
            let first = next;
            let mut run = Vec::with_capacity(2 * (places.len() - first).min(LONGEST_RUN));
            loop {
                let cipher = &blocks[next].1.cipher;
                run.extend([IoSlice::new(&records[next]), IoSlice::new(cipher)]);
                next += 1;
                let ends = cipher.len() as u64 != BLOCK_LEN || next - first == LONGEST_RUN;
                let adjacent =
                    next < places.len() && places[next].1.slot == places[next - 1].1.slot + 1;
                if ends || !adjacent {
                    break;
                }
            }
            disk.write_at(&run, slot_start(places[first].1.slot))?;
        }
        for ((_, mut kept), (_, gathered)) in places.into_iter().zip(blocks) {
            kept.written = true;
            gathered.kept = Some(kept);
        }
        fail_point::hit("volume.journal.after_keep");
        Ok(())
    }

    /// To come before a hole is made: an erased record of a block that filled a hole must not come
    /// back by a power cut, when there is a hole again.
    pub(super) fn order_holes(&self) -> io::Result<()> {
        let _alone = self.order.lock().unwrap_or_else(PoisonError::into_inner);
        let file = {
            let mut slots = self.lock();
            if slots.hole_stays {
                return Err(Errno::IO.into());
            }
            if !std::mem::take(&mut slots.hole_erased) {
                return Ok(());
            }
            slots.file.clone()
        };
        let synced = file.map_or(Ok(()), |file| file.sync(SyncScope::Data));
        // After a failed sync the kernel takes the next one for complete.
        self.lock().hole_stays |= synced.is_err();
        synced
    }

    /// Gives its space back while nothing waits, and leaves the less to be looked at after a
    /// crash.
    pub(super) fn empty(&self) -> io::Result<()> {
        let mut slots = self.lock();
        let (Some(file), true) = (&slots.file, slots.end > 0) else { return Ok(()) };
        if slots.free.len() == slots.end as usize {
            file.set_size(slot_start(0))?;
            slots.free.clear();
            slots.end = 0;
        }
        Ok(())
    }

    /// Removes the file: the epoch has ended, and nothing waits.
    pub(super) fn remove(&self) {
        if self.lock().file.take().is_some()
            && let Err(error) = self.remove_file()
        {
            log::warn!("the journal of this mount cannot be removed: {error}");
        }
    }

    fn remove_file(&self) -> io::Result<()> {
        self.directory.remove(OsStr::new(&journal_name(self.head.epoch)))
    }

    /// A place for each block, each with a sequence.
    fn take(self: &Arc<Self>, blocks: &[(BlockIndex, Gathered)]) -> io::Result<Places> {
        let mut slots = self.lock();
        if slots.end as usize - slots.free.len() + blocks.len() > MOST_SLOTS as usize {
            return Err(Errno::NOSPC.into());
        }
        let file = match &slots.file {
            Some(file) => Arc::clone(file),
            None => {
                let name = journal_name(self.head.epoch);
                let file = Arc::new(self.directory.make(OsStr::new(&name))?);
                if let Err(error) = file.write_at(&[IoSlice::new(&self.head.encode())], 0) {
                    let _ = self.remove_file();
                    return Err(error);
                }
                slots.file = Some(Arc::clone(&file));
                file
            }
        };
        let places = blocks.iter().map(|(_, gathered)| {
            let slot = slots.free.pop_first().unwrap_or_else(|| {
                slots.end += 1;
                slots.end - 1
            });
            slots.sequence += 1;
            let over_hole = gathered.base == Entry::Hole;
            (
                slots.sequence,
                Kept { journal: Arc::clone(self), slot, over_hole, written: false, done: false },
            )
        });
        let places = places.collect();
        Ok((file, places))
    }

    fn lock(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The file, and for each block the sequence of its record and where it goes.
type Places = (Arc<DiskFile>, Vec<(u64, Kept)>);

impl Kept {
    /// The block is in its file: the entry there is another one now than the record asks for,
    /// so it need not be erased.
    pub(super) fn end(mut self) {
        self.done = true;
    }

    fn erase(&self) -> bool {
        let Some(file) = self.journal.lock().file.clone() else { return true };
        let at = slot_start(self.slot) + JournalRecord::ERASED_AT;
        let erased = file.write_at(&[IoSlice::new(&JournalRecord::ERASED)], at);
        erased
            .inspect_err(|error| log::debug!("a record of the journal is not erased: {error}"))
            .is_ok()
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        // Of others the entry tells that they do not count.
        let is_erased = self.done && !self.over_hole || self.erase();
        let mut slots = self.journal.lock();
        slots.hole_erased |= self.over_hole;
        slots.hole_stays |= self.over_hole && self.written && !is_erased;
        slots.free.insert(self.slot);
    }
}

/// More is never gathered, by far; what is longer was not written by this program.
pub(super) const MOST_SLOTS: u32 = 1 << 16;
/// Blocks of one write; the kernel takes 1024 buffers.
const LONGEST_RUN: usize = 256;
