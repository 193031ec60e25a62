//! The journal of the mount that runs a sequence: what came into it when, and what a crash may
//! leave of it. It lies on disk, beside the files in memory.

use std::io::IoSlice;
use std::sync::Arc;

use ssefs::store::memory::MemoryFile;
use ssefs::store::recorder::{Fate, Journal, RecordedFile};
use ssefs::store::{BackingFile, SyncScope};

use super::settings::Random;

/// Whether the journal is listened to: only a debug build tells what it does. In others every
/// crash takes all of it.
pub const IS_HEARD: bool = cfg!(debug_assertions);

/// What was done to the journal, each time with the position in the record of the file.
#[derive(Clone, Default)]
pub struct JournalLog {
    events: Vec<(usize, Done)>,
}

#[derive(Clone)]
#[cfg_attr(not(debug_assertions), allow(dead_code, reason = "nothing is heard"))]
enum Done {
    Written(Vec<u8>, u64),
    Synced,
}

impl JournalLog {
    /// Runs `work`, in which `file` is changed, and listens.
    #[cfg(not(debug_assertions))]
    pub fn of<T>(_: &Arc<RecordedFile>, work: impl FnOnce() -> T) -> (T, Self) {
        (work(), Self::default())
    }

    /// Runs `work`, in which `file` is changed, and listens.
    #[cfg(debug_assertions)]
    pub fn of<T>(file: &Arc<RecordedFile>, work: impl FnOnce() -> T) -> (T, Self) {
        use std::cell::RefCell;
        use std::os::fd::AsRawFd;
        use std::rc::Rc;

        use ssefs::store::observer::{Event, FileEvent, observe};
        let log = Rc::new(RefCell::new(Self::default()));
        let (heard, file) = (Rc::clone(&log), Arc::clone(file));
        observe(Some(Box::new(move |event| {
            let Event::File(fd, event) = event else { return };
            let link = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).unwrap();
            if !link.to_str().unwrap().contains("/.ssefs/journal-") {
                return;
            }
            let done = match event {
                FileEvent::Written { bufs, offset } => {
                    Done::Written(bufs.iter().flat_map(|buf| buf.to_vec()).collect(), *offset)
                }
                FileEvent::Synced(_) => Done::Synced,
                _ => panic!("a journal is only written and synced"),
            };
            heard.borrow_mut().events.push((file.position(), done));
        })));
        let result = work();
        observe(None);
        let log = log.borrow().clone();
        (result, log)
    }

    /// What the death of the process leaves when the record of the file is `end` long: all that
    /// was done up to then.
    pub fn at_death(&self, end: usize) -> Option<Vec<u8>> {
        let journal = self.until(end);
        let segment = journal.segments().pop().expect("there is always one");
        bytes(&segment.content(&vec![Fate::Whole; segment.changes().len()]))
    }

    /// What a power cut may leave then: of what was not synced all, nothing, or some pages; or
    /// nothing in any case, unless `more`.
    pub fn after_cut(&self, end: usize, more: bool, random: &mut Random) -> Option<Vec<u8>> {
        let segment = self.until(end).segments().pop().expect("there is always one");
        let way = if more { random.below(3) } else { 2 };
        let fate = |_| match way == 0 || way == 1 && random.one_in(2) {
            true => Fate::Whole,
            false => Fate::Missing,
        };
        let fates: Vec<Fate> = (0..segment.changes().len()).map(fate).collect();
        bytes(&segment.content(&fates))
    }

    fn until(&self, end: usize) -> Journal {
        let mut journal = Journal::over(&MemoryFile::new());
        for (_, done) in self.events.iter().filter(|(position, _)| *position <= end) {
            match done {
                Done::Written(bytes, offset) => {
                    journal.write_at(&[IoSlice::new(bytes)], *offset).unwrap();
                }
                Done::Synced => journal.sync(SyncScope::Data),
            }
        }
        journal
    }
}

fn bytes(file: &MemoryFile) -> Option<Vec<u8>> {
    let mut bytes = vec![0; file.size().unwrap() as usize];
    file.read_at(&mut bytes, 0).unwrap();
    (!bytes.is_empty()).then_some(bytes)
}
