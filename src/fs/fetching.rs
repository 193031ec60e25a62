//! Files that will soon be opened are fetched from the disk meanwhile. Who reads a tree of small
//! files waits for the disk at each of them, as Linux reads ahead within a file and not from one to
//! the next. Nothing but the cache of the kernel is changed, and no key is used: what is fetched is
//! ciphertext.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use lru::LruCache;

use super::locks::lock;
use super::sweep::{Listed, Manner, Sweep};
use super::{FileSystem, NodeId};
use crate::store::disk::DiskFile;
use crate::store::tree::{DirFd, FileKind, OpenFlags, Stat};

/// What the thread that fetches is told.
#[derive(Default)]
pub(super) struct Fetching {
    openings: Mutex<Vec<Opening>>,
    called: Condvar,
    /// Somebody goes through a directory: what does not wait is to be told of as well.
    follows: AtomicBool,
    ends: AtomicBool,
}

/// A file was opened.
struct Opening {
    parent: NodeId,
    directory: Arc<DirFd>,
    ino: u64,
    waits: bool,
}

/// What is known of a directory of which files were opened.
enum Seen {
    /// One of them, which had to wait for the disk, after so many that had nothing to do with it.
    One { ino: u64, unrelated: u32 },
    /// Somebody who goes through it; whether that was taken for granted after the first file.
    Sweep { sweep: Sweep, is_guess: bool },
}

type Fetch<'a> = dyn FnMut(&DirFd, &Listed) + 'a;

/// Sees who goes through which directories.
struct Follower<'a> {
    fs: &'a FileSystem,
    fetch: Box<Fetch<'a>>,
    directories: LruCache<NodeId, Seen>,
    /// How the last one did it: the next directory is likely to be gone through as well.
    habit: Option<Manner>,
}

impl Fetching {
    fn tell(&self, opening: Opening) {
        let mut openings = lock(&self.openings);
        let is_urgent = opening.waits;
        if openings.len() < MOST_WAITING {
            openings.push(opening);
        }
        // To wake a thread for each of them would cost more than it saves.
        if is_urgent || openings.len() >= TOLD_TOGETHER {
            drop(openings);
            self.called.notify_one();
        }
    }

    /// What there is to hear; nothing if nothing comes `within` that time.
    fn hear(&self, within: Option<Duration>) -> Vec<Opening> {
        let openings = lock(&self.openings);
        let is_quiet =
            |openings: &mut Vec<Opening>| openings.is_empty() && !self.ends.load(Ordering::Acquire);
        let mut openings = match within {
            Some(within) => match self.called.wait_timeout_while(openings, within, is_quiet) {
                Ok((openings, _)) => openings,
                Err(poisoned) => poisoned.into_inner().0,
            },
            None => {
                self.called.wait_while(openings, is_quiet).unwrap_or_else(PoisonError::into_inner)
            }
        };
        std::mem::take(&mut *openings)
    }
}

impl FileSystem {
    /// A file is about to be opened for reading. If that waits for the disk, all of a small one is
    /// fetched at once, and so are, meanwhile, those that are likely to be opened next.
    pub(super) fn note_opening(&self, node: NodeId, disk: &DiskFile, stat: &Stat) {
        let waits = stat.size > 0 && !disk.is_at_hand();
        if waits {
            disk.fetch_start(stat.size);
        }
        if !waits && !self.fetching.follows.load(Ordering::Relaxed) {
            return;
        }
        let name = self.nodes.place(node).and_then(|place| place.names.into_iter().next());
        let found = name.and_then(|name| Some((name.parent, self.directories.find(name.parent)?)));
        if let Some((parent, directory)) = found {
            let opening = Opening { parent, directory, ino: stat.ino, waits };
            self.fetching.tell(opening);
        }
    }

    /// Fetches what is likely to be opened next, until [`Self::end_fetching`].
    pub fn fetch_ahead(&self) {
        let fetch = |directory: &DirFd, file: &Listed| self.fetch_file(directory, file);
        let mut follower = Follower::new(self, fetch);
        while !self.fetching.ends.load(Ordering::Acquire) {
            let is_idle = follower.directories.is_empty();
            let openings = self.fetching.hear((!is_idle).then_some(LONGEST_PAUSE));
            if openings.is_empty() {
                follower.forget();
            }
            for opening in &openings {
                follower.follow(opening);
            }
        }
    }

    /// Ends [`Self::fetch_ahead`].
    pub fn end_fetching(&self) {
        let openings = lock(&self.fetching.openings);
        self.fetching.ends.store(true, Ordering::Release);
        drop(openings);
        self.fetching.called.notify_all();
    }

    fn fetch_file(&self, directory: &DirFd, file: &Listed) {
        let opened = self.tree.open_file_with_stat(directory, &file.name, OpenFlags::READ);
        if let Ok((fd, stat)) = opened {
            DiskFile::from(fd).fetch_start(stat.size);
        }
    }

    fn regular_files(&self, directory: &DirFd) -> Vec<Listed> {
        let mut files = Vec::new();
        let Ok(mut stream) = self.tree.read_dir(directory) else { return files };
        while let Ok(Some(entry)) = stream.next_entry()
            && files.len() < MOST_FILES
        {
            if entry.kind == FileKind::Regular {
                files.push(Listed { ino: entry.ino, name: entry.name.to_owned() });
            }
        }
        files
    }
}

impl<'a> Follower<'a> {
    fn new(fs: &'a FileSystem, fetch: impl FnMut(&DirFd, &Listed) + 'a) -> Self {
        let most = NonZeroUsize::new(MOST_DIRECTORIES).expect("not zero");
        Self { fs, fetch: Box::new(fetch), directories: LruCache::new(most), habit: None }
    }

    fn follow(&mut self, opening: &Opening) {
        let Opening { parent, directory, ino, waits } = opening;
        let seen = match self.directories.pop(parent) {
            Some(Seen::Sweep { sweep, is_guess }) => Some(self.go_on(sweep, is_guess, *ino)),
            Some(Seen::One { ino: first, unrelated }) if *waits && first != *ino => {
                Some(self.compare(directory, first, *ino, unrelated))
            }
            None if *waits => Some(self.begin(directory, *ino)),
            other => other,
        };
        if let Some(mut seen) = seen {
            let is_over = match &mut seen {
                Seen::Sweep { sweep, .. } => {
                    for file in sweep.next() {
                        (self.fetch)(directory, file);
                    }
                    sweep.is_over()
                }
                Seen::One { .. } => false,
            };
            if !is_over {
                self.directories.put(*parent, seen);
            }
        }
        self.tell();
    }

    /// The first file of a directory.
    fn begin(&mut self, directory: &DirFd, ino: u64) -> Seen {
        let is_wrong = |seen: &Seen| match seen {
            Seen::Sweep { sweep, is_guess } => *is_guess && !sweep.was_right(),
            Seen::One { .. } => false,
        };
        if self.directories.iter().any(|(_, seen)| is_wrong(seen)) {
            self.habit = None;
        }
        let sweep =
            self.habit.and_then(|manner| Sweep::new(self.fs.regular_files(directory), manner, ino));
        match sweep {
            Some(sweep) => Seen::Sweep { sweep, is_guess: true },
            None => Seen::One { ino, unrelated: 0 },
        }
    }

    /// A second file of a directory, or one after some that had nothing to do with each other.
    fn compare(&self, directory: &DirFd, first: u64, second: u64, unrelated: u32) -> Seen {
        if unrelated >= MOST_UNRELATED {
            return Seen::One { ino: second, unrelated };
        }
        let files = self.fs.regular_files(directory);
        let manner = Manner::of(&files, first, second);
        match manner.and_then(|manner| Sweep::new(files, manner, second)) {
            Some(sweep) => Seen::Sweep { sweep, is_guess: false },
            None => Seen::One { ino: second, unrelated: unrelated + 1 },
        }
    }

    fn go_on(&mut self, mut sweep: Sweep, is_guess: bool, ino: u64) -> Seen {
        let goes_on = sweep.goes_on(ino);
        if sweep.was_right() {
            self.habit = Some(sweep.manner());
        } else if !goes_on && is_guess {
            self.habit = None;
        }
        if goes_on {
            return Seen::Sweep { sweep, is_guess };
        }
        let unrelated = if sweep.was_right() { 1 } else { MOST_UNRELATED };
        Seen::One { ino, unrelated }
    }

    fn forget(&mut self) {
        self.directories.clear();
        self.habit = None;
        self.tell();
    }

    fn tell(&self) {
        let follows = |(_, seen): (_, &Seen)| matches!(seen, Seen::Sweep { .. });
        self.fs.fetching.follows.store(self.directories.iter().any(follows), Ordering::Relaxed);
    }
}

/// Openings that the thread has not heard of yet: where it does not keep up, more of it is no use.
const MOST_WAITING: usize = 64;
const TOLD_TOGETHER: usize = 4;
const MOST_DIRECTORIES: usize = 8;
/// Of a larger directory the first.
const MOST_FILES: usize = 10_000;
/// A directory is listed no more often to see in which order its files are opened.
const MOST_UNRELATED: u32 = 3;
/// Who opens nothing for so long is not expected back.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::collections::HashMap;
    use std::ffi::OsStr;
    use std::process::Command;
    use std::time::Instant;

    use rustix::fs::{Advice, fadvise};

    use super::super::tests::{Fixture, ROOT_CALLER, os};
    use super::*;

    /// A directory of so many files, `00`, `01` and so on.
    fn directory(fx: &Fixture, name: &str, count: usize) -> NodeId {
        let made = fx.fs.make_directory(ROOT_CALLER, NodeId::ROOT, os(name), 0o755, 0).unwrap();
        for index in 0..count {
            fx.create(made.node, &format!("{index:02}"), &[7; 9000]);
        }
        made.node
    }

    /// A follower, and what it has fetched.
    struct Watched<'a> {
        fx: &'a Fixture,
        follower: Follower<'a>,
        fetched: &'a RefCell<Vec<String>>,
        numbers: HashMap<(NodeId, usize), u64>,
    }

    impl<'a> Watched<'a> {
        fn new(fx: &'a Fixture, fetched: &'a RefCell<Vec<String>>) -> Self {
            let note = |_: &DirFd, file: &Listed| {
                fetched.borrow_mut().push(file.name.to_str().unwrap().to_owned());
            };
            let follower = Follower::new(&fx.fs, note);
            Self { fx, follower, fetched, numbers: HashMap::new() }
        }

        fn number(&mut self, parent: NodeId, index: usize) -> u64 {
            let look_up = || {
                let node = self.fx.lookup(parent, &format!("{index:02}"));
                self.fx.fs.attributes(node, None).unwrap().ino
            };
            *self.numbers.entry((parent, index)).or_insert_with(look_up)
        }

        /// What is fetched when this file is opened.
        fn open(&mut self, parent: NodeId, index: usize, waits: bool) -> Vec<String> {
            let ino = self.number(parent, index);
            let directory = self.fx.fs.directory(parent).unwrap();
            self.follower.follow(&Opening { parent, directory, ino, waits });
            self.fetched.borrow_mut().drain(..).collect()
        }

        fn follows(&self) -> bool {
            self.fx.fs.fetching.follows.load(Ordering::Relaxed)
        }
    }

    fn names(indices: std::ops::Range<usize>) -> Vec<String> {
        indices.map(|index| format!("{index:02}")).collect()
    }

    #[test]
    fn after_two_files_the_next_are_fetched_and_in_the_next_directory_after_one() {
        let (fx, fetched) = (Fixture::new(), RefCell::default());
        let [one, other, third] = ["one", "other", "third"].map(|name| directory(&fx, name, 20));
        let mut watched = Watched::new(&fx, &fetched);
        assert!(watched.open(one, 3, true).is_empty() && !watched.follows());
        let listed_by = watched.open(one, 4, true);
        // A file system may list names in their order, or from behind.
        assert_eq!(listed_by, names(5..9));
        assert!(watched.follows());
        let mut all = listed_by;
        for index in 5..20 {
            all.extend(watched.open(one, index, false));
        }
        assert_eq!(all, names(5..20));
        assert!(!watched.follows(), "it is over");

        assert_eq!(watched.open(other, 0, true), names(1..5));
        assert_eq!(watched.open(other, 13, true), names(14..18));
        watched.follower.forget();
        assert!(watched.open(third, 0, true).is_empty());
    }

    #[test]
    fn a_guess_that_is_wrong_is_not_made_again() {
        let (fx, fetched) = (Fixture::new(), RefCell::default());
        let [one, other, third] = ["one", "other", "third"].map(|name| directory(&fx, name, 20));
        let mut watched = Watched::new(&fx, &fetched);
        (0..3).for_each(|index| drop(watched.open(one, index, true)));
        assert_eq!(watched.open(other, 7, true), names(8..12));
        assert!(watched.open(third, 7, true).is_empty(), "only one was opened there");
        assert!(!watched.open(third, 8, true).is_empty());
    }

    #[test]
    fn what_does_not_wait_for_the_disk_begins_nothing() {
        let (fx, fetched) = (Fixture::new(), RefCell::default());
        let parent = directory(&fx, "d", 20);
        let mut watched = Watched::new(&fx, &fetched);
        assert!((0..20).all(|index| watched.open(parent, index, false).is_empty()));
        assert!(watched.follower.directories.is_empty());
        // The same file again is not a second one.
        assert!((0..20).all(|_| watched.open(parent, 3, true).is_empty()));
    }

    #[test]
    fn a_directory_is_not_listed_for_each_file_that_is_opened_here_and_there() {
        let (fx, fetched) = (Fixture::new(), RefCell::default());
        let parent = directory(&fx, "d", 60);
        let mut watched = Watched::new(&fx, &fetched);
        let files = fx.fs.regular_files(&fx.fs.directory(parent).unwrap());
        let mut last = files[0].ino;
        for step in 0..20 {
            let apart =
                |file: &&Listed| file.ino != last && Manner::of(&files, last, file.ino).is_none();
            let next = files.iter().cycle().skip(7 * step).find(apart).unwrap();
            let index = next.name.to_str().unwrap().parse().unwrap();
            assert!(watched.open(parent, index, true).is_empty(), "{index}");
            last = next.ino;
        }
        let seen = watched.follower.directories.peek(&parent);
        assert!(matches!(seen, Some(Seen::One { unrelated: MOST_UNRELATED, .. })));
        // From now on not even neighbours have it listed.
        assert!((0..60).all(|index| watched.open(parent, index, true).is_empty()));
    }

    fn is_at_hand(fx: &Fixture, name: &str) -> Option<bool> {
        let mut fincore = Command::new("fincore");
        let said = fincore.args(["-b", "-n", "-o", "RES"]).arg(fx.backing("d").join(name)).output();
        let said = said.inspect_err(|error| println!("skipped: fincore: {error}")).ok()?;
        Some(String::from_utf8(said.stdout).unwrap().trim() != "0")
    }

    #[test]
    fn files_are_in_the_cache_before_they_are_opened() {
        let mut fx = Fixture::new();
        directory(&fx, "d", 40);
        fx.remount();
        for name in names(0..40) {
            let file = std::fs::File::open(fx.backing("d").join(name)).unwrap();
            file.sync_all().unwrap();
            fadvise(&file, 0, None, Advice::DontNeed).unwrap();
        }
        let Some(kept) = is_at_hand(&fx, "39") else { return };
        if kept {
            return println!("skipped: the kernel keeps what it is told to let go of");
        }
        let parent = fx.lookup(NodeId::ROOT, "d");
        std::thread::scope(|scope| {
            scope.spawn(|| fx.fs.fetch_ahead());
            for name in names(0..40) {
                let give_up = Instant::now() + Duration::from_secs(10);
                let is_next = OsStr::new(&name) >= OsStr::new("02");
                while is_next && is_at_hand(&fx, &name) == Some(false) {
                    assert!(Instant::now() < give_up, "{name} is not fetched");
                }
                assert_eq!(fx.content(fx.lookup(parent, &name)), [7; 9000]);
            }
            fx.fs.end_fetching();
        });
    }
}
