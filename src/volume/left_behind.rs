//! What mounts that did not end left in their journals: blocks that were gathered and are not in
//! their files yet. Each file gets its own back when it is recovered.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::io::{self, IoSlice};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;

use super::content::Content;
use super::directory::VolumeDirectory;
use super::error::VolumeError;
use super::foreseen::growing;
use super::gather::Gathered;
use super::journal::{MOST_SLOTS, read_record};
use super::own_page::OwnPage;
use super::pages::entry_in;
use super::read::opens_as;
use crate::crypto::Secret;
use crate::format::{
    BLOCK_LEN, BlockIndex, Entry, FileId, FormatError, JOURNAL_HEAD_LEN, JOURNAL_RECORD_LEN,
    JOURNAL_SLOT_LEN, JournalHead, JournalRecord, PlainSize, VolumeId, blocks_in, epoch_of_journal,
    journal_name, slot_start, stored_len,
};
use crate::store::disk::DiskFile;
use crate::store::{BackingFile, SyncScope};

/// The journals of earlier epochs.
pub(super) struct LeftBehind {
    directory: Arc<VolumeDirectory>,
    read_only: bool,
    journals: Mutex<Vec<LeftJournal>>,
    /// Whether there are any; spares each opening the lock.
    any: AtomicBool,
}

struct LeftJournal {
    epoch: u64,
    disk: Arc<DiskFile>,
    /// Of each file the records of each block, the newest last.
    files: HashMap<FileId, Blocks>,
    /// The last blocks that any of them may have grown in, from what length to what.
    growing: HashMap<BlockIndex, Range<u16>>,
}

pub(super) type Blocks = BTreeMap<BlockIndex, Vec<(JournalRecord, u32)>>;

impl LeftBehind {
    /// Reads the journals of the epochs of which `unclean` says that they did not end. Others,
    /// and what is no journal, are removed unless `read_only`.
    pub(super) fn read(
        directory: Arc<VolumeDirectory>,
        volume: VolumeId,
        volume_key: &Secret,
        read_only: bool,
        unclean: impl Fn(u64) -> bool,
    ) -> Result<Self, VolumeError> {
        let mut journals = Vec::new();
        for name in directory.names()? {
            let Some(epoch) = name.to_str().and_then(epoch_of_journal) else { continue };
            let disk = match directory.open(&name) {
                Ok(disk) => Arc::new(disk),
                // The mount that is looked at has just ended.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) if is_no_file(&error) => {
                    log::warn!(".ssefs/{} is no journal, it is not a file", name.display());
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            let files = match unclean(epoch) {
                true => read_journal(&disk, volume, epoch, volume_key)?,
                false => HashMap::new(),
            };
            let growing = growing(files.values());
            let left = LeftJournal { epoch, disk, files, growing };
            match left.files.is_empty() {
                true => remove(&directory, &left, read_only),
                false => {
                    let (blocks, files) =
                        (left.files.values().map(BTreeMap::len).sum::<usize>(), left.files.len());
                    log::info!(
                        "the mount of epoch {epoch} did not end: {blocks} blocks of {files} files \
                         are in its journal"
                    );
                    journals.push(left);
                }
            }
        }
        let any = AtomicBool::new(!journals.is_empty());
        Ok(Self { directory, read_only, journals: Mutex::new(journals), any })
    }

    /// The records of a file that was last written in `epoch`, and where their blocks are.
    fn find(&self, file: FileId, epoch: u64) -> Option<(Arc<DiskFile>, Blocks)> {
        self.look(file, epoch, |disk, blocks| (Arc::clone(disk), blocks.clone()))
    }

    fn look<T>(
        &self,
        file: FileId,
        epoch: u64,
        look: impl FnOnce(&Arc<DiskFile>, &Blocks) -> T,
    ) -> Option<T> {
        let journals = self.lock();
        let journal = journals.iter().find(|journal| journal.epoch == epoch)?;
        Some(look(&journal.disk, journal.files.get(&file)?))
    }

    /// Whether anything is left.
    pub(super) fn is_any(&self) -> bool {
        self.any.load(Ordering::Acquire)
    }

    /// Whether any file may be longer than its backing file says, which ends in this block after
    /// `len` bytes.
    pub(super) fn may_grow(&self, block: BlockIndex, len: usize) -> bool {
        let grows = |lengths: &Range<u16>| lengths.contains(&(len as u16));
        self.lock().iter().any(|journal| journal.growing.get(&block).is_some_and(grows))
    }

    /// What is left of a block of a file that was last written in `epoch`, the newest last.
    pub(super) fn records_of(
        &self,
        file: FileId,
        epoch: u64,
        block: BlockIndex,
    ) -> Vec<JournalRecord> {
        let of_block = |_: &Arc<DiskFile>, blocks: &Blocks| {
            let records = blocks.get(&block).into_iter().flatten();
            records.map(|(record, _)| *record).collect()
        };
        self.look(file, epoch, of_block).unwrap_or_default()
    }

    /// The file has what was left of it, as it is open for writing: it was recovered, then or
    /// before, and what any other journal has of it does not count any more.
    pub(super) fn forget(&self, file: FileId) {
        if self.is_any() {
            self.forget_where(|journal| _ = journal.files.remove(&file));
        }
    }

    /// Every file was recovered.
    pub(super) fn forget_all(&self) {
        self.forget_where(|journal| journal.files.clear());
    }

    fn forget_where(&self, change: impl Fn(&mut LeftJournal)) {
        let mut journals = self.lock();
        journals.retain_mut(|journal| {
            change(journal);
            if journal.files.is_empty() {
                remove(&self.directory, journal, self.read_only);
            }
            !journal.files.is_empty()
        });
        self.any.store(!journals.is_empty(), Ordering::Release);
    }

    fn lock(&self) -> MutexGuard<'_, Vec<LeftJournal>> {
        self.journals.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Content {
    /// Gathers what an earlier mount had gathered of this file and not put into it, as far as it
    /// still is what comes next: the entry that a record asks for is there, its block opens.
    pub(super) fn gather_left_behind(&mut self) -> Result<(), VolumeError> {
        let file = self.file_id();
        let Some((disk, blocks)) = self.left_in_journal()? else { return Ok(()) };
        let mut taken = 0;
        for (block, records) in blocks {
            let Some(held) = self.held(block)? else { continue };
            // The newest may be one that the process died over.
            for (record, slot) in records.iter().rev() {
                let (sealed, len) = (record.sealed, usize::from(record.sealed.len));
                // After a sync of the file has failed, that may be so in memory alone.
                let is_there =
                    self.writable && matches!(&held, Entry::Stored(held) if held.current == sealed);
                if !(is_there || self.counts(record, &held)?) {
                    continue;
                }
                let mut cipher = OwnPage::take();
                let mut plain = [0; BLOCK_LEN as usize];
                let at = slot_start(*slot) + JOURNAL_RECORD_LEN as u64;
                let read = disk.read_at(&mut cipher[..len], at)?;
                let (cipher_there, plain) = (&cipher[..read], &mut plain[..len]);
                if !opens_as(self.sealing()?, block, &sealed, cipher_there, plain) {
                    continue;
                }
                if is_there {
                    self.backing
                        .write_at(&[IoSlice::new(&cipher[..len])], block.cipher_start().0)?;
                } else {
                    self.end_at(record);
                    self.gather.put(block, Gathered::new(held, sealed, cipher));
                    taken += 1;
                }
                break;
            }
        }
        if self.writable {
            // What is in the file already may be there in memory alone. How far the file is
            // durable is for recovery to find out.
            self.backing.sync(SyncScope::Data)?;
        }
        if taken > 0 {
            log::info!("file {file}: {taken} blocks that were written last are in the journal");
        }
        Ok(())
    }

    /// The records of this file: of the mount that wrote it last, which may be this one.
    fn left_in_journal(&self) -> Result<Option<(Arc<DiskFile>, Blocks)>, VolumeError> {
        let (file, volume, epoch) = (self.file_id(), &self.volume, self.sealing()?.state.epoch);
        if epoch != volume.epoch() || volume.read_only() {
            return Ok(volume.left_behind().find(file, epoch));
        }
        let Some(journal) = volume.journal() else { return Ok(None) };
        let Some(disk) = journal.disk() else { return Ok(None) };
        volume.with_stranded(file, |kept| {
            if kept.is_empty() {
                return Ok(None);
            }
            let mut blocks = Blocks::new();
            for (record, slot) in journal.records(&disk, kept)? {
                blocks.entry(record.block).or_default().push((record, slot));
            }
            sort(&mut blocks);
            Ok(Some((disk, blocks)))
        })
    }

    /// The entry of what the file holds at a block; `None` where it holds nothing that opens.
    fn held(&self, block: BlockIndex) -> Result<Option<Entry>, VolumeError> {
        if block.0 >= blocks_in(self.size) {
            return Ok(None);
        }
        let Ok(entry) = entry_in(&*self.entry_page_uncached(block)?, block) else {
            return Ok(None);
        };
        let authenticated = self.sealing()?.state.size;
        let hole_allowed = self.may_be_hole(block) || block.plain_start().0 >= authenticated;
        self.entry_that_opens(block, &entry, hole_allowed)
    }

    /// Whether a record counts, where the file holds `held`: it is what the record asks for.
    fn counts(&self, record: &JournalRecord, held: &Entry) -> Result<bool, VolumeError> {
        let (block, state) = (record.block, self.sealing()?.state);
        let len = usize::from(record.sealed.len);
        // The file was made longer within its last block, and that size may be lost. A hole there
        // is no generation by which an outdated record would be told.
        if len > stored_len(block, self.size) && record.base == Entry::Hole {
            return Ok(false);
        }
        // A change of size announces itself when nothing waits, and then seals the last block
        // anew: that is for whoever finishes it.
        let changing = PlainSize(state.size).min(self.size);
        if state.flags.resizing && block.0 + 1 >= blocks_in(changing) {
            return Ok(false);
        }
        // It ends the file, which was to grow further. What was synced is never cut off.
        let ends_at = block.plain_start().0 + len as u64;
        if len < stored_len(block, self.size) && ends_at < self.durable.size().0 {
            return Ok(false);
        }
        Ok(match (held, &record.base) {
            (Entry::Hole, Entry::Hole) => true,
            (Entry::Stored(held), Entry::Stored(base)) => held.current == base.current,
            _ => false,
        })
    }

    /// The file ends with this block where the block is shorter or longer than its place.
    fn end_at(&mut self, record: &JournalRecord) {
        if usize::from(record.sealed.len) != stored_len(record.block, self.size) {
            let end = record.block.plain_start().0 + u64::from(record.sealed.len);
            self.size = PlainSize(end);
        }
    }
}

fn is_no_file(error: &io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    errno.is_some_and(|errno| {
        [Errno::INVAL, Errno::ISDIR, Errno::LOOP, Errno::NXIO].contains(&errno)
    })
}

fn remove(directory: &VolumeDirectory, journal: &LeftJournal, read_only: bool) {
    if read_only {
        return;
    }
    let name = journal_name(journal.epoch);
    if let Err(error) = directory.remove(OsStr::new(&name)) {
        log::warn!(".ssefs/{name} is of no use any more and cannot be removed: {error}");
    }
}

/// The records that verify, of each block the newest last.
fn read_journal(
    disk: &DiskFile,
    volume: VolumeId,
    epoch: u64,
    volume_key: &Secret,
) -> Result<HashMap<FileId, Blocks>, VolumeError> {
    let mut files: HashMap<FileId, Blocks> = HashMap::new();
    let mut head = [0; JOURNAL_HEAD_LEN];
    let read = disk.read_at(&mut head, 0)?;
    let head = match JournalHead::decode(&head) {
        Ok(head) if (head.volume, head.epoch) == (volume, epoch) => head,
        Err(error @ FormatError::UnknownVersion { .. }) => {
            let name = journal_name(epoch);
            return Err(VolumeError::Volume(format!("the journal .ssefs/{name} is of {error}")));
        }
        // It was just being made.
        _ if read < JOURNAL_HEAD_LEN => return Ok(files),
        _ => {
            log::warn!("the journal of epoch {epoch} is not of this volume, or damaged");
            return Ok(files);
        }
    };
    let key = head.key(volume_key);
    let slots = disk.size()?.saturating_sub(slot_start(0)).div_ceil(JOURNAL_SLOT_LEN);
    for slot in 0..u32::try_from(slots).unwrap_or(u32::MAX).min(MOST_SLOTS) {
        let Some(record) = read_record(disk, slot, &key)? else { continue };
        let blocks = files.entry(record.file).or_default();
        blocks.entry(record.block).or_default().push((record, slot));
    }
    files.values_mut().for_each(sort);
    Ok(files)
}

fn sort(blocks: &mut Blocks) {
    for records in blocks.values_mut() {
        records.sort_by_key(|(record, _)| record.sequence);
    }
}
