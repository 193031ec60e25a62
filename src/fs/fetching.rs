//! Files that will soon be opened are fetched from the disk meanwhile. Who reads a tree of small
//! files waits for the disk at each of them, as Linux reads ahead within a file and not from one to
//! the next. Nothing but the cache of the kernel is changed, and no key is used: what is fetched is
//! ciphertext. Where the file system below does not tell whether it would wait (overlayfs, network
//! file systems), or keeps all in memory, nothing is fetched.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use lru::LruCache;

use super::locks::lock;
use super::sweep::{Listed, Manner, Sweep};
use super::{FileSystem, NodeId};
use crate::store::disk::DiskFile;
use crate::store::tree::{DirFd, FileKind, OpenFlags, Stat};

/// What the thread that fetches is told, and tells.
pub(super) struct Fetching {
    is_at_hand: fn(&DiskFile) -> bool,
    openings: Mutex<Vec<Opening>>,
    called: Condvar,
    /// Somebody goes through a directory: what does not wait is to be told of as well. Changed
    /// under the lock.
    follows: AtomicBool,
    ends: AtomicBool,
    fetched: AtomicU64,
}

/// A file is opened.
struct Opening {
    parent: NodeId,
    directory: Arc<DirFd>,
    ino: u64,
    waits: bool,
}

/// What was seen in a directory, and when the last of it.
struct Seen {
    what: What,
    at: Instant,
}

enum What {
    /// A file that had to wait for the disk.
    File(u64),
    /// Somebody who goes through it.
    Somebody(Followed),
}

struct Followed {
    sweep: Sweep,
    /// That was taken for granted after the first file.
    is_guess: bool,
    /// So many files in a row were in the cache already.
    in_vain: u32,
}

/// How often a directory was listed since somebody went through it, and when.
struct Listings {
    in_vain: u32,
    last: Instant,
}

/// Has a file fetched; false if it was in the cache already, nothing where that cannot be.
type Fetch<'a> = dyn FnMut(&DirFd, &Listed) -> Option<bool> + 'a;

/// Sees who goes through which directories.
struct Follower<'a> {
    fs: &'a FileSystem,
    fetch: Box<Fetch<'a>>,
    directories: LruCache<NodeId, Seen>,
    listings: LruCache<NodeId, Listings>,
    /// How the last one did it, and when: the next directory is likely to be gone through as well.
    habit: Option<(Manner, Instant)>,
}

impl Fetching {
    pub fn new() -> Self {
        Self {
            is_at_hand: DiskFile::is_at_hand,
            openings: Mutex::default(),
            called: Condvar::new(),
            follows: AtomicBool::new(false),
            ends: AtomicBool::new(false),
            fetched: AtomicU64::new(0),
        }
    }

    fn tell(&self, opening: Opening) {
        let mut openings = match opening.waits {
            true => lock(&self.openings),
            // Not worth waiting for.
            false => match self.openings.try_lock() {
                Ok(openings) => openings,
                Err(_) => return,
            },
        };
        let is_of_use = opening.waits || self.follows.load(Ordering::Relaxed);
        if !is_of_use || self.is_over() || openings.len() >= MOST_WAITING {
            return;
        }
        let is_urgent = opening.waits;
        openings.push(opening);
        // To wake a thread for each of them would cost more than it saves.
        if is_urgent || openings.len() >= TOLD_TOGETHER {
            drop(openings);
            self.called.notify_one();
        }
    }

    /// What there is to hear; nothing if nothing comes `within` that time.
    fn hear(&self, within: Duration) -> Vec<Opening> {
        let is_quiet = |openings: &mut Vec<Opening>| openings.is_empty() && !self.is_over();
        let heard = self.called.wait_timeout_while(lock(&self.openings), within, is_quiet);
        std::mem::take(&mut *heard.unwrap_or_else(PoisonError::into_inner).0)
    }

    /// Notes whether somebody is followed. If not, what does not wait is of no use any more.
    fn set_follows(&self, follows: bool) {
        if self.follows.load(Ordering::Relaxed) != follows {
            let mut openings = lock(&self.openings);
            self.follows.store(follows, Ordering::Relaxed);
            openings.retain(|opening| follows || opening.waits);
        }
    }

    fn is_over(&self) -> bool {
        self.ends.load(Ordering::Relaxed)
    }

    fn end(&self) {
        let mut openings = lock(&self.openings);
        self.ends.store(true, Ordering::Relaxed);
        self.follows.store(false, Ordering::Relaxed);
        openings.clear();
        drop(openings);
        self.called.notify_all();
    }
}

/// Tells nobody any more who would not be heard.
struct Ending<'a>(&'a Fetching);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.end();
    }
}

impl FileSystem {
    /// A file is about to be opened for reading. If that waits for the disk, all of a small one is
    /// fetched at once, and meanwhile those that are likely to be opened next.
    pub(super) fn fetch_at_once(&self, node: NodeId, disk: &DiskFile, stat: &Stat) {
        let waits = stat.size > 0 && !(self.fetching.is_at_hand)(disk);
        if waits {
            disk.fetch_if_small(stat.size);
        }
        if !waits && !self.fetching.follows.load(Ordering::Relaxed) {
            return;
        }
        let name = self.nodes.place(node).and_then(|place| place.names.into_iter().next());
        let found = name.and_then(|name| Some((name.parent, self.directories.find(name.parent)?)));
        if let Some((parent, directory)) = found {
            self.fetching.tell(Opening { parent, directory, ino: stat.ino, waits });
        }
    }

    /// Fetches what is likely to be opened next, until [`Self::end_fetching`].
    pub fn fetch_ahead(&self) {
        let fetching = &self.fetching;
        let _ending = Ending(fetching);
        let fetch = |directory: &DirFd, file: &Listed| self.fetch_file(directory, file);
        let mut follower = Follower::new(self, fetch);
        while !fetching.is_over() {
            let is_idle = follower.directories.is_empty();
            // With nobody to forget there is nothing to do until somebody comes.
            for opening in fetching.hear(if is_idle { Duration::MAX } else { LONGEST_PAUSE }) {
                follower.follow(&opening);
            }
            follower.forget(LONGEST_PAUSE);
        }
    }

    /// Ends [`Self::fetch_ahead`].
    pub fn end_fetching(&self) {
        self.fetching.end();
    }

    /// How many files were fetched because others were opened.
    pub(super) fn files_fetched(&self) -> u64 {
        self.fetching.fetched.load(Ordering::Relaxed)
    }

    fn fetch_file(&self, directory: &DirFd, file: &Listed) -> Option<bool> {
        let opened = self.tree.open_file_with_stat(directory, &file.name, OpenFlags::READ);
        let (fd, stat) = opened.ok()?;
        let is_noticed = self.daemon.uid != 0 && self.daemon.uid != stat.uid;
        if is_noticed || stat.size == 0 {
            return None;
        }
        let disk = DiskFile::from(fd);
        // In this order, as asking has the kernel read a part of it by itself.
        disk.fetch_if_small(stat.size);
        let was_fetched = !(self.fetching.is_at_hand)(&disk);
        if was_fetched {
            self.fetching.fetched.fetch_add(1, Ordering::Relaxed);
        }
        Some(was_fetched)
    }

    /// The files of a directory, which nobody is to notice; none where that cannot be.
    fn regular_files(&self, directory: &DirFd) -> Vec<Listed> {
        let (mut files, mut entries) = (Vec::new(), 0);
        let Ok(mut stream) = self.tree.read_dir_unnoticed(directory) else { return files };
        while let Ok(Some(entry)) = stream.next_entry()
            && entries < MOST_ENTRIES
            && !self.fetching.is_over()
        {
            entries += 1;
            if entry.kind == FileKind::Regular {
                files.push(Listed { ino: entry.ino, name: entry.name.to_owned() });
            }
        }
        files
    }
}

impl<'a> Follower<'a> {
    fn new(fs: &'a FileSystem, fetch: impl FnMut(&DirFd, &Listed) -> Option<bool> + 'a) -> Self {
        let bounded = |most| NonZeroUsize::new(most).expect("not zero");
        Self {
            fs,
            fetch: Box::new(fetch),
            directories: LruCache::new(bounded(MOST_DIRECTORIES)),
            listings: LruCache::new(bounded(MOST_LISTINGS)),
            habit: None,
        }
    }

    fn follow(&mut self, opening: &Opening) {
        if self.fs.fetching.is_over() {
            return;
        }
        let seen = self.directories.pop(&opening.parent).map(|seen| seen.what);
        let what = match seen {
            Some(What::Somebody(followed)) => self.go_on(opening, followed),
            Some(What::File(first)) if opening.waits && first != opening.ino => {
                Some(self.compare(opening, first))
            }
            None if opening.waits => Some(self.begin(opening)),
            seen => seen,
        };
        if matches!(what, Some(What::Somebody(_))) {
            // Before they are fetched: who opens files meanwhile is not to go unheard.
            self.fs.fetching.set_follows(true);
        }
        if let Some(what) = what.and_then(|what| self.fetch_next(opening, what)) {
            self.directories.put(opening.parent, Seen { what, at: Instant::now() });
        }
        self.tell();
    }

    /// Fetches what comes next. Nothing is left when that was the end.
    fn fetch_next(&mut self, opening: &Opening, mut what: What) -> Option<What> {
        let What::Somebody(Followed { sweep, in_vain, .. }) = &mut what else { return Some(what) };
        for file in sweep.next() {
            if *in_vain >= MOST_IN_VAIN || self.fs.fetching.is_over() {
                break;
            }
            match (self.fetch)(&opening.directory, file) {
                Some(true) => *in_vain = 0,
                Some(false) => *in_vain += 1,
                None => {}
            }
        }
        if !sweep.is_over() && *in_vain < MOST_IN_VAIN {
            return Some(what);
        }
        if sweep.was_right() {
            self.listings.pop(&opening.parent);
        }
        None
    }

    /// The first file of a directory.
    fn begin(&mut self, opening: &Opening) -> What {
        let is_wrong = |seen: &Seen| match &seen.what {
            What::Somebody(followed) => followed.is_guess && !followed.sweep.was_right(),
            What::File(_) => false,
        };
        if self.directories.iter().any(|(_, seen)| is_wrong(seen)) {
            self.habit = None;
        }
        let habit = self.habit.filter(|(_, at)| at.elapsed() < LONGEST_PAUSE);
        let sweep = habit.and_then(|(manner, _)| {
            let files = self.list(opening)?;
            Sweep::new(files, manner, opening.ino)
        });
        match sweep {
            Some(sweep) => What::Somebody(Followed { sweep, is_guess: true, in_vain: 0 }),
            None => What::File(opening.ino),
        }
    }

    /// A second file of a directory, or one after some that had nothing to do with each other.
    fn compare(&mut self, opening: &Opening, first: u64) -> What {
        let sweep = self.list(opening).and_then(|files| {
            let manner = Manner::of(&files, first, opening.ino)?;
            Sweep::new(files, manner, opening.ino)
        });
        match sweep {
            Some(sweep) => What::Somebody(Followed { sweep, is_guess: false, in_vain: 0 }),
            None => What::File(opening.ino),
        }
    }

    fn go_on(&mut self, opening: &Opening, mut followed: Followed) -> Option<What> {
        let sweep = &mut followed.sweep;
        let goes_on = sweep.goes_on(opening.ino);
        if goes_on && sweep.was_right() {
            self.habit = Some((sweep.manner(), Instant::now()));
        } else if !goes_on && followed.is_guess {
            self.habit = None;
        }
        match goes_on {
            true => Some(What::Somebody(followed)),
            false => opening.waits.then_some(What::File(opening.ino)),
        }
    }

    /// The files of the directory, unless it was listed for nothing too often.
    fn list(&mut self, opening: &Opening) -> Option<Vec<Listed>> {
        let now = Instant::now();
        let none = || Listings { in_vain: 0, last: now };
        let listings = self.listings.get_or_insert_mut(opening.parent, none);
        let may_be = listings.in_vain < MOST_LISTED_IN_VAIN
            || now.duration_since(listings.last) >= LISTED_AGAIN_AFTER;
        if !may_be {
            return None;
        }
        listings.in_vain += 1;
        listings.last = now;
        Some(self.fs.regular_files(&opening.directory))
    }

    /// Forgets those whom nothing was heard of for so long.
    fn forget(&mut self, age: Duration) {
        let is_due = |seen: &Seen| seen.at.elapsed() >= age;
        while self.directories.peek_lru().is_some_and(|(_, seen)| is_due(seen)) {
            self.directories.pop_lru();
        }
        self.tell();
    }

    fn tell(&self) {
        let is_sweep = |seen: &Seen| matches!(seen.what, What::Somebody(_));
        self.fs.fetching.set_follows(self.directories.iter().any(|(_, seen)| is_sweep(seen)));
    }
}

/// Openings that the thread has not heard of yet: where it does not keep up, more of it is no use.
const MOST_WAITING: usize = 64;
const TOLD_TOGETHER: usize = 4;
const MOST_DIRECTORIES: usize = 8;
/// Of a larger directory the first.
const MOST_ENTRIES: usize = 10_000;
/// After so many files in a row that were in the cache the rest is thought to be there as well.
const MOST_IN_VAIN: u32 = 8;
/// A directory is listed no more often, for some time, unless somebody goes through it to the end,
/// or to what is in the cache.
const MOST_LISTED_IN_VAIN: u32 = 3;
const LISTED_AGAIN_AFTER: Duration = Duration::from_secs(60);
/// Of so many directories this is known.
const MOST_LISTINGS: usize = 1024;
/// Who opens nothing for so long is not expected back.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};
    use std::collections::HashMap;
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
                Some(true)
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
        let mut all = watched.open(one, 4, true);
        assert_eq!(all, names(5..9));
        assert!(watched.follows());
        for index in 5..20 {
            all.extend(watched.open(one, index, false));
        }
        assert_eq!(all, names(5..20));
        assert!(!watched.follows(), "it is over");
        watched.follower.forget(LONGEST_PAUSE);

        assert_eq!(watched.open(other, 0, true), names(1..5));
        assert_eq!(watched.open(other, 13, true), names(14..20));
        watched.follower.forget(Duration::ZERO);
        assert!(watched.follower.directories.is_empty() && !watched.follows());
        let (_, at) = watched.follower.habit.as_mut().unwrap();
        *at = at.checked_sub(LONGEST_PAUSE).unwrap();
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
        let listings = watched.follower.listings.peek(&parent).unwrap();
        assert_eq!(listings.in_vain, MOST_LISTED_IN_VAIN);
        // From now on not even neighbours have it listed.
        assert!((0..60).all(|index| watched.open(parent, index, true).is_empty()));
    }

    #[test]
    fn what_is_in_the_cache_ends_it() {
        let fx = Fixture::new();
        let parent = directory(&fx, "d", 60);
        let directory = fx.fs.directory(parent).unwrap();
        let asked = RefCell::new(0_u32);
        let mut follower = Follower::new(&fx.fs, |_: &DirFd, _: &Listed| {
            *asked.borrow_mut() += 1;
            Some(false)
        });
        let mut files = fx.fs.regular_files(&directory);
        files.sort_by(|one, other| one.name.cmp(&other.name));
        for (index, file) in files.iter().enumerate() {
            let (directory, ino, waits) = (Arc::clone(&directory), file.ino, index < 2);
            follower.follow(&Opening { parent, directory, ino, waits });
        }
        assert_eq!(*asked.borrow(), MOST_IN_VAIN);
        assert!(!fx.fs.fetching.follows.load(Ordering::Relaxed));
    }

    #[test]
    fn what_is_told_is_bounded_and_nobody_is_told_after_the_end() {
        let fx = Fixture::new();
        let parent = directory(&fx, "d", 1);
        let directory = fx.fs.directory(parent).unwrap();
        let tell = |waits| {
            let directory = Arc::clone(&directory);
            fx.fs.fetching.tell(Opening { parent, directory, ino: 1, waits });
            lock(&fx.fs.fetching.openings).len()
        };
        assert_eq!(tell(false), 0, "nobody is followed");
        fx.fs.fetching.set_follows(true);
        assert_eq!((tell(false), tell(true)), (1, 2));
        fx.fs.fetching.set_follows(false);
        assert_eq!(lock(&fx.fs.fetching.openings).len(), 1);
        assert_eq!((0..1000).map(|_| tell(true)).max(), Some(MOST_WAITING));
        fx.fs.end_fetching();
        assert_eq!(tell(true), 0);
        fx.fs.fetch_ahead();
    }

    #[test]
    fn openings_reach_the_thread_that_fetches() {
        let mut fx = Fixture::new();
        directory(&fx, "d", 40);
        fx.remount();
        // For the thread that fetches nothing is.
        thread_local!(static IS_AT_HAND: Cell<bool> = const { Cell::new(false) });
        fx.fs.fetching.is_at_hand = |_| IS_AT_HAND.get();
        let parent = fx.lookup(NodeId::ROOT, "d");
        std::thread::scope(|scope| {
            let _ending = Ending(&fx.fs.fetching);
            scope.spawn(|| fx.fs.fetch_ahead());
            let begun = Instant::now();
            let enough = |least| fx.fs.files_fetched() >= least;
            for name in names(0..40) {
                // Only the first two wait for the disk, and have the first four of others fetched.
                IS_AT_HAND.set(name.as_str() > "01");
                assert_eq!(fx.content(fx.lookup(parent, &name)), [7; 9000]);
                while name.as_str() > "00" && !enough(4) {
                    assert!(begun.elapsed() < Duration::from_secs(10));
                    std::thread::yield_now();
                }
                std::thread::sleep(Duration::from_millis(2));
            }
        });
        let fetched = fx.fs.files_fetched();
        assert!((5..=38).contains(&fetched), "{fetched}");
    }

    fn is_in_cache(fx: &Fixture, name: &str) -> Option<bool> {
        let mut fincore = Command::new("fincore");
        let said = fincore.args(["-b", "-n", "-o", "RES"]).arg(fx.backing("d").join(name)).output();
        let said = said.inspect_err(|error| println!("skipped: fincore: {error}")).ok()?;
        Some(String::from_utf8(said.stdout).unwrap().trim() != "0")
    }

    /// Has the kernel let go of a file; whether it did, and tells that it would wait for it.
    fn is_let_go(fx: &Fixture, name: &str) -> bool {
        let file = std::fs::File::open(fx.backing("d").join(name)).unwrap();
        let let_go = || fadvise(&file, 0, None, Advice::DontNeed).unwrap();
        file.sync_all().unwrap();
        let_go();
        let disk = DiskFile::from(std::os::fd::OwnedFd::from(file.try_clone().unwrap()));
        let would_wait = !disk.is_at_hand();
        // Asking has some of it read.
        let give_up = Instant::now() + Duration::from_secs(1);
        while is_in_cache(fx, name) == Some(true) && Instant::now() < give_up {
            let_go();
        }
        would_wait && is_in_cache(fx, name) == Some(false)
    }

    #[test]
    fn files_are_in_the_cache_before_they_are_opened() {
        let mut fx = Fixture::new();
        directory(&fx, "d", 40);
        fx.remount();
        if is_in_cache(&fx, "00").is_none() {
            return;
        }
        if !names(0..40).iter().all(|name| is_let_go(&fx, name)) {
            return println!("skipped: what lies below does not tell that it would wait");
        }
        let parent = fx.lookup(NodeId::ROOT, "d");
        std::thread::scope(|scope| {
            let _ending = Ending(&fx.fs.fetching);
            scope.spawn(|| fx.fs.fetch_ahead());
            for (index, name) in names(0..40).into_iter().enumerate() {
                // Who would not wait for it opens it all the same, and has the next ones fetched.
                let give_up = Instant::now() + Duration::from_millis(250);
                let waits = || Instant::now() < give_up;
                while index >= 2 && is_in_cache(&fx, &name) == Some(false) && waits() {}
                assert_eq!(fx.content(fx.lookup(parent, &name)), [7; 9000]);
            }
        });
        assert!(fx.fs.files_fetched() > 10, "{}", fx.fs.files_fetched());
    }
}
