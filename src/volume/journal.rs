//! The journal of a mount: what is gathered is also written there, so that it outlives the
//! process. A sync of a file whose changes are all there syncs the journal instead: from then on
//! those records are promised, and stay until their blocks are durable in their files.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ffi::OsStr;
use std::io::{self, IoSlice};
use std::ops::Range;
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
use crate::sys::buffer::with_scratch;
use crate::sys::fail_point;

/// The journal of the current epoch. Its file is made when the first block is put into it.
pub(super) struct Journal {
    directory: Arc<VolumeDirectory>,
    head: JournalHead,
    key: AeadKey,
    /// Held across a sync, so that nobody goes on before it is over. Outside of `slots`.
    order: Mutex<()>,
    /// Held while zeros are written ahead, so that meanwhile those go on who need none. Outside of
    /// `slots`.
    growing: Mutex<()>,
    slots: Mutex<Slots>,
}

#[derive(Default)]
struct Slots {
    file: Option<Arc<DiskFile>>,
    /// The first one comes out first.
    free: BinaryHeap<Reverse<u32>>,
    /// From here on none is used.
    end: u32,
    /// Up to here there are zeros at least, so that a sync need not bring a larger file to the
    /// medium.
    reserved: u32,
    sequence: u64,
    /// The number of the sync that began last, and of the last one that succeeded.
    begun: u64,
    synced: u64,
    /// A sync has failed. After that the kernel takes the next one for complete.
    failed: bool,
    /// A record of a block that filled a hole was erased since the last sync.
    hole_erased: bool,
    /// Such a record may come back: a sync after it was erased has failed.
    hole_stays: bool,
    /// Where such records may be that could not be erased.
    unerased: Vec<u32>,
}

/// A block's place in the journal. Dropped, the record is erased; one that is promised stays, and
/// its place is lost until the next mount.
pub(super) struct Kept {
    journal: Arc<Journal>,
    sequence: u64,
    slot: u32,
    /// A sync has been answered, or is about to be, because the record is there.
    promised: bool,
    /// The record must not be found again, even where its block is in the file.
    over_hole: bool,
    /// It was written, or that was tried: it may be there.
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
        let (order, growing, slots) = Default::default();
        Arc::new(Self { directory, head, key, order, growing, slots })
    }

    /// Puts blocks of one file, in ascending order, where they outlive the process.
    pub(super) fn keep(
        self: &Arc<Self>,
        file: FileId,
        blocks: &mut [(BlockIndex, Gathered)],
    ) -> io::Result<()> {
        let disk = self.take(blocks)?;
        let mut rest = &mut *blocks;
        let mut written = Ok(());
        while written.is_ok() && !rest.is_empty() {
            let (run, behind) = rest.split_at_mut(run_len(rest));
            let places = run.iter_mut().filter_map(|(_, gathered)| gathered.kept.as_mut());
            places.for_each(|kept| kept.written = true);
            written = self.put(&disk, file, run);
            rest = behind;
        }
        if written.is_err() {
            blocks.iter_mut().for_each(|(_, gathered)| gathered.kept = None);
        }
        written.inspect(|()| fail_point::hit("volume.journal.after_keep"))
    }

    /// Writes blocks whose places follow one another, each behind its record.
    fn put(&self, disk: &DiskFile, file: FileId, run: &[(BlockIndex, Gathered)]) -> io::Result<()> {
        with_scratch(run.len() * JOURNAL_RECORD_LEN, |records| {
            let records = records.as_chunks_mut().0;
            for (record, (block, gathered)) in records.iter_mut().zip(run) {
                let Gathered { base, sealed, .. } = *gathered;
                let (sequence, block) = (gathered.place().sequence, *block);
                *record = JournalRecord { file, sequence, block, base, sealed }.encode(&self.key);
            }
            let mut buffers = [IoSlice::new(&[]); 2 * LONGEST_RUN];
            let pairs = buffers.as_chunks_mut().0.iter_mut().zip(&*records).zip(run);
            for ((pair, record), (_, gathered)) in pairs {
                *pair = [IoSlice::new(record), IoSlice::new(gathered.cipher())];
            }
            disk.write_at(&buffers[..2 * run.len()], slot_start(run[0].1.place().slot))
        })
    }

    /// To come before a hole is made: an erased record of a block that filled a hole must not come
    /// back by a power cut, when there is a hole again.
    pub(super) fn order_holes(&self) -> io::Result<()> {
        let _alone = self.order.lock().unwrap_or_else(PoisonError::into_inner);
        let file = {
            let slots = self.lock();
            if slots.hole_stays {
                return Err(Errno::IO.into());
            }
            if !slots.hole_erased && slots.unerased.is_empty() {
                return Ok(());
            }
            slots.file.clone()
        };
        let Some(file) = file else { return Ok(()) };
        self.erase_again(&file)?;
        self.lock().hole_erased = false;
        let synced = self.sync_alone(&file);
        self.lock().hole_stays |= synced.is_err();
        synced
    }

    /// Tries again what could not be erased; its places are free after that.
    fn erase_again(&self, file: &DiskFile) -> io::Result<()> {
        loop {
            let Some(slot) = self.lock().unerased.pop() else { return Ok(()) };
            let erased = erase(file, slot);
            let mut slots = self.lock();
            if erased.is_err() {
                slots.unerased.push(slot);
                return erased;
            }
            slots.hole_erased = true;
            slots.free.push(Reverse(slot));
        }
    }

    /// Makes durable what was put here before. Callers who come meanwhile share the next sync.
    pub(super) fn sync(&self) -> io::Result<()> {
        let begun = self.lock().begun;
        let _alone = self.order.lock().unwrap_or_else(PoisonError::into_inner);
        let file = {
            let slots = self.lock();
            if slots.synced > begun {
                return Ok(());
            }
            slots.file.clone()
        };
        file.map_or_else(|| Err(Errno::IO.into()), |file| self.sync_alone(&file))
    }

    fn sync_alone(&self, file: &DiskFile) -> io::Result<()> {
        let (number, is_first) = {
            let mut slots = self.lock();
            if slots.failed {
                return Err(Errno::IO.into());
            }
            slots.begun += 1;
            (slots.begun, slots.synced == 0)
        };
        // The name of the file, which was made in this mount.
        let named = if is_first { self.directory.sync() } else { Ok(()) };
        let synced = named.and_then(|()| file.sync(SyncScope::Data));
        let mut slots = self.lock();
        match synced {
            Ok(()) => slots.synced = number,
            Err(_) => slots.failed = true,
        }
        synced
    }

    /// The number of the newest record.
    pub(super) fn newest(&self) -> u64 {
        self.lock().sequence
    }

    /// The file that the records are in, once there is one.
    pub(super) fn disk(&self) -> Option<Arc<DiskFile>> {
        self.lock().file.clone()
    }

    /// What `kept` are, with their slots in `disk`.
    pub(super) fn records(
        &self,
        disk: &DiskFile,
        kept: &[Kept],
    ) -> io::Result<Vec<(JournalRecord, u32)>> {
        let mut records = Vec::new();
        for Kept { slot, .. } in kept {
            records.extend(read_record(disk, *slot, &self.key)?.map(|record| (record, *slot)));
        }
        Ok(records)
    }

    /// Gives most of its space back while nothing waits, and leaves nothing to be looked at after a
    /// crash.
    pub(super) fn empty(&self) -> io::Result<()> {
        let _alone = self.growing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut slots = self.lock();
        let Some(file) = slots.file.clone().filter(|_| slots.end > 0) else { return Ok(()) };
        if slots.free.len() == slots.end as usize {
            slots.reserved = slots.reserved.min(MOST_RESERVED);
            file.set_size(slot_start(slots.reserved))?;
            put_zeros(&file, 0..slots.end.min(slots.reserved))?;
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

    /// Gives each block a place. Returns the file that they are in.
    fn take(self: &Arc<Self>, blocks: &mut [(BlockIndex, Gathered)]) -> io::Result<Arc<DiskFile>> {
        let (mut slots, file) = loop {
            let mut slots = self.lock();
            let file = self.file_in(&mut slots)?;
            let more = blocks.len().saturating_sub(slots.free.len());
            let end = slots.end as usize + more;
            if end > MOST_SLOTS as usize {
                return Err(Errno::NOSPC.into());
            }
            if slots.reserved as usize >= end {
                break (slots, file);
            }
            drop(slots);
            self.grow(&file, end as u32)?;
        };
        for (_, gathered) in blocks {
            let slot = slots.free.pop().map(|Reverse(slot)| slot).unwrap_or_else(|| {
                slots.end += 1;
                slots.end - 1
            });
            slots.sequence += 1;
            debug_assert!(gathered.kept.is_none(), "its drop would take the lock");
            gathered.kept = Some(Kept {
                journal: Arc::clone(self),
                sequence: slots.sequence,
                slot,
                promised: false,
                over_hole: gathered.base == Entry::Hole,
                written: false,
                done: false,
            });
        }
        Ok(file)
    }

    /// The file that the records are in, made if there is none yet.
    fn file_in(&self, slots: &mut Slots) -> io::Result<Arc<DiskFile>> {
        if let Some(file) = &slots.file {
            return Ok(Arc::clone(file));
        }
        let name = journal_name(self.head.epoch);
        let file = Arc::new(self.directory.make(OsStr::new(&name))?);
        if let Err(error) = file.write_at(&[IoSlice::new(&self.head.encode())], 0) {
            let _ = self.remove_file();
            return Err(error);
        }
        slots.file = Some(Arc::clone(&file));
        Ok(file)
    }

    /// Writes zeros up to `end` at least.
    fn grow(&self, file: &DiskFile, end: u32) -> io::Result<()> {
        let _alone = self.growing.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let reserved = self.lock().reserved;
            if reserved >= end {
                return Ok(());
            }
            let more = reserved.clamp(LEAST_RESERVED, MOST_RESERVED);
            put_zeros(file, reserved..reserved + more)?;
            self.lock().reserved += more;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The record in a slot, if there is one that verifies.
pub(super) fn read_record(
    disk: &DiskFile,
    slot: u32,
    key: &AeadKey,
) -> io::Result<Option<JournalRecord>> {
    let mut bytes = [0; JOURNAL_RECORD_LEN];
    disk.read_at(&mut bytes, slot_start(slot))?;
    Ok(JournalRecord::decode(&bytes, key))
}

/// How many of `blocks`, from the first on, can be written in one go: their places follow one
/// another, and what is shorter ends a run.
fn run_len(blocks: &[(BlockIndex, Gathered)]) -> usize {
    let goes_on = |pair: &&[(BlockIndex, Gathered)]| {
        let (one, next) = (&pair[0].1, &pair[1].1);
        one.cipher().len() as u64 == BLOCK_LEN && next.place().slot == one.place().slot + 1
    };
    1 + blocks.windows(2).take(LONGEST_RUN - 1).take_while(goes_on).count()
}

fn erase(file: &DiskFile, slot: u32) -> io::Result<()> {
    let at = slot_start(slot) + JournalRecord::ERASED_AT;
    file.write_at(&[IoSlice::new(&JournalRecord::ERASED)], at)
}

fn put_zeros(file: &DiskFile, slots: Range<u32>) -> io::Result<()> {
    let zeros = vec![0; (slot_start(slots.end) - slot_start(slots.start)) as usize];
    file.write_at(&[IoSlice::new(&zeros)], slot_start(slots.start))
}

impl Kept {
    /// The block is in its file, durably where the record was promised: the entry there is another
    /// one now than the record asks for, so it need not be erased. Nor need one that a newer
    /// record of the same block has come after.
    pub(super) fn end(mut self) {
        self.done = true;
    }

    /// From now on the record stays until [`Self::end`].
    pub(super) fn promise(&mut self) {
        self.promised = true;
    }

    /// Whether it has to stay.
    pub(super) fn is_promised(&self) -> bool {
        self.promised
    }

    /// Whether it may be promised. A hole is no generation by which an outdated record is told.
    pub(super) fn may_be_promised(&self) -> bool {
        !self.over_hole
    }

    /// The number of its record.
    pub(super) fn sequence(&self) -> u64 {
        self.sequence
    }

    fn erase(&self) -> bool {
        let Some(file) = self.journal.lock().file.clone() else { return true };
        erase(&file, self.slot)
            .inspect_err(|error| log::debug!("a record of the journal is not erased: {error}"))
            .is_ok()
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        if self.promised && !self.done {
            return;
        }
        // Of others the entry tells that they do not count.
        let is_erased = self.done && !self.over_hole || self.erase();
        let mut slots = self.journal.lock();
        slots.hole_erased |= self.over_hole;
        match self.over_hole && self.written && !is_erased {
            true => slots.unerased.push(self.slot),
            false => slots.free.push(Reverse(self.slot)),
        }
    }
}

/// More is never gathered, by far; what is longer was not written by this program.
pub(super) const MOST_SLOTS: u32 = 1 << 16;
/// So many slots are written ahead, as many as there are already between these.
const LEAST_RESERVED: u32 = 16;
const MOST_RESERVED: u32 = 256;
/// Blocks of one write; the kernel takes 1024 buffers.
const LONGEST_RUN: usize = 256;

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::OwnedFd;

    use super::super::own_page::OwnPage;
    use super::*;
    use crate::crypto::{NONCE_LEN, TAG_LEN};
    use crate::format::Sealed;
    use crate::store::tree::DiskTree;

    #[test]
    fn a_record_over_a_hole_whose_write_failed_may_be_there() {
        let scratch = tempfile::tempdir().unwrap();
        let tree = Arc::new(DiskTree::open(scratch.path()).unwrap());
        let directory = Arc::new(VolumeDirectory::claim(tree, "a test").unwrap());
        let key = Secret::copy_from(&[7; 32]);
        let journal = Journal::new(directory, VolumeId::random(), 1, &key);
        let len = BLOCK_LEN as u16;
        let sealed = Sealed { nonce: [0; NONCE_LEN], tag: [0; TAG_LEN], len };
        let over_hole = || [(BlockIndex(3), Gathered::new(Entry::Hole, sealed, OwnPage::take()))];
        let mut there = over_hole();
        journal.keep(FileId([1; 16]), &mut there).unwrap();
        drop(there);
        journal.order_holes().unwrap();
        let mut found = std::fs::read_dir(scratch.path().join(".ssefs")).unwrap().flatten();
        let name = journal_name(1);
        let found = found.find(|found| found.file_name() == *name).unwrap();
        let unwritable = OwnedFd::from(File::open(found.path()).unwrap());
        let unwritable = Some(Arc::new(DiskFile::from(unwritable)));
        let writable = std::mem::replace(&mut journal.lock().file, unwritable);
        let mut failed = over_hole();
        assert!(journal.keep(FileId([1; 16]), &mut failed).is_err() && failed[0].1.kept.is_none());
        assert!(journal.order_holes().is_err());
        // The disk may have been full.
        journal.lock().file = writable;
        journal.order_holes().unwrap();
        let slots = journal.lock();
        assert_eq!((slots.free.len(), slots.unerased.len()), (slots.end as usize, 0));
    }
}
