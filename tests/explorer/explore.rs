//! All that a crash may leave of one sequence, opened by the real recovery and judged.
//!
//! Each state is read through a volume that is mounted for reading only, recovered, read,
//! closed, and read again in a later epoch, which must find nothing to recover. Of some states
//! the recovery itself is recorded and crashes too.

use std::collections::HashSet;
use std::collections::hash_map::DefaultHasher;
use std::fmt;
use std::hash::Hasher;
use std::sync::Arc;

use ssefs::store::BackingFile;
use ssefs::store::memory::MemoryFile;
use ssefs::store::recorder::{Change, DroppedSyncs, Fate, RecordedFile, Segment};
use ssefs::volume::{Durability, Severity};

use super::checker;
use super::harness::TestVolume;
use super::journal::{IS_HEARD, JournalLog};
use super::model::{Allowed, Found, Promise};
use super::play::{Played, close, look, play};
use super::sequences::Sequence;
use super::settings::Random;
use super::states::{Fates, crashes, text};

/// What crashes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Death {
    /// The machine: what was not synced may be missing.
    OfPower,
    /// The process alone: all that it has written is there.
    OfProcess,
}

/// How much is looked at.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Crashes between two syncs.
    pub crashes: usize,
    /// One state in so many crashes again within its recovery.
    pub second_in: usize,
    /// Crashes between two syncs of a recovery.
    pub second_crashes: usize,
    /// One power cut in so many leaves more of the journal than was synced of it: each state with a
    /// journal takes some mounts.
    pub journals_in: usize,
}

/// A promise that was broken, with what leads to it.
#[derive(Debug, Clone)]
pub struct Finding {
    pub sequence: Sequence,
    /// The crash, as it is printed.
    pub crash: String,
    pub what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.what)?;
        writeln!(f, "    SSEFS_EXPLORER_SEQUENCE=\"{}\"", self.sequence)?;
        write!(f, "    {}", self.crash)
    }
}

/// What was looked at.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tally {
    pub sequences: u64,
    pub states: u64,
    /// Recoveries that were recorded and the crashes within them.
    pub recoveries: u64,
    pub second_states: u64,
    /// Files that were never synced and of which a torn header is left.
    pub torn_headers: u64,
    /// Syncs that the journal answered.
    pub in_journal: u64,
}

impl Tally {
    pub fn add(&mut self, other: &Self) {
        self.sequences += other.sequences;
        self.states += other.states;
        self.recoveries += other.recoveries;
        self.second_states += other.second_states;
        self.torn_headers += other.torn_headers;
        self.in_journal += other.in_journal;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} sequences with {} syncs in the journal, {} states, {} recoveries with {} crashes \
             within, {} torn headers of files never synced",
            self.sequences,
            self.in_journal,
            self.states,
            self.recoveries,
            self.second_states,
            self.torn_headers
        )
    }
}

/// What a crash has left, and what is promised of it.
struct State<'a> {
    content: MemoryFile,
    /// The journals of the mounts that crashed, each with its epoch.
    journals: Vec<(u64, Vec<u8>)>,
    allowed: Allowed<'a>,
    crash: String,
    has_torn_header: bool,
}

/// One sequence with its crashes.
pub struct Exploration<'a> {
    pub sequence: &'a Sequence,
    pub death: Death,
    /// What the mounts promise.
    pub durability: Durability,
    /// Syncs of the file that are not done.
    pub dropped: DroppedSyncs,
    pub limits: Limits,
}

impl Exploration<'_> {
    /// Looks at all of it.
    pub fn run(&self, random: &mut Random) -> (Tally, Vec<Finding>) {
        let mut volume = TestVolume::with(self.durability);
        let played = play(&mut volume, self.sequence, self.dropped);
        let states = self.states(&played, random);
        let (states_seen, in_journal) = (states.len() as u64, played.in_journal);
        let mut tally = Tally { sequences: 1, states: states_seen, in_journal, ..Tally::default() };
        let (with_journal, without): (Vec<&State<'_>>, Vec<_>) =
            states.iter().partition(|state| !state.journals.is_empty());
        let mut findings = self.check(&mut volume, &without, &mut tally);
        for state in with_journal {
            // Each in a mount of its own: what one file was left is not left any more then.
            findings.extend(self.check(&mut volume, &[state], &mut tally));
        }
        let seconds = self.crash_again(&mut volume, &states, &mut tally, random);
        findings.extend(self.check_second(&mut volume, &seconds));
        (tally, findings)
    }

    /// The crashes within a segment, each with the position in the record up to which the
    /// model counts.
    fn crashes_of(
        &self,
        segment: &Segment,
        limit: usize,
        random: &mut Random,
    ) -> Vec<(Fates, usize)> {
        let records = segment.records();
        match self.death {
            Death::OfPower => {
                let all = crashes(segment, limit, random);
                all.into_iter().map(|fates| (fates, records.end)).collect()
            }
            Death::OfProcess => deaths(segment).into_iter().zip(records.start..).collect(),
        }
    }

    fn states<'p>(&self, played: &'p Played, random: &mut Random) -> Vec<State<'p>> {
        let mut seen = HashSet::new();
        let mut states = Vec::new();
        let least = match (self.death, self.durability) {
            (Death::OfPower, _) => Promise::Synced,
            (Death::OfProcess, Durability::Power) if !IS_HEARD => Promise::Closed,
            (Death::OfProcess, _) => Promise::Answered,
        };
        for (number, segment) in played.segments.iter().enumerate() {
            for (fates, end) in self.crashes_of(segment, self.limits.crashes, random) {
                let content = segment.content(&fates);
                let journal = self.left_of(&played.journal, end, random);
                let is_new = seen.insert((number, fingerprint(&content), journal.clone()));
                let journals = journal.map(|bytes| (played.epoch, bytes)).into_iter().collect();
                if self.death == Death::OfProcess || is_new {
                    let allowed = played.history.allowed(end, least);
                    let crash = describe(number, segment, &fates);
                    let has_torn_header = tears_header(segment, &fates);
                    states.push(State { content, journals, allowed, crash, has_torn_header });
                }
            }
        }
        states
    }

    /// What a crash may leave of a journal.
    fn left_of(&self, log: &JournalLog, end: usize, random: &mut Random) -> Option<Vec<u8>> {
        match self.death {
            Death::OfProcess => log.at_death(end),
            Death::OfPower => log.after_cut(end, random.one_in(self.limits.journals_in), random),
        }
    }

    fn check(
        &self,
        volume: &mut TestVolume,
        states: &[&State<'_>],
        tally: &mut Tally,
    ) -> Vec<Finding> {
        let Some(first) = states.first() else { return Vec::new() };
        let mut findings = Vec::new();
        let mut found_wrong = |state: &State<'_>, when: &str, what: String| {
            findings.push(self.finding(state, format!("{when}: {what}")));
        };
        volume.leave_journals(&first.journals);
        volume.crash_and_look();
        let looked =
            |state: &&State<'_>| (read_only(volume, state), checker::ask(volume, &state.content));
        let looked: Vec<_> = states.iter().map(looked).collect();

        volume.leave_journals(&first.journals);
        volume.crash();
        let mut recovered = Vec::new();
        for (state, (shown, checked)) in states.iter().zip(looked) {
            let backing = Arc::new(state.content.snapshot());
            let found = recover(volume, &backing);
            if found.is_err() && state.has_torn_header && state.allowed.promises_nothing() {
                // Pages are taken to be written whole. Where one is not, what is lost is a
                // file that never was durable.
                tally.torn_headers += 1;
            } else if let Err(what) = judge(state, &found) {
                found_wrong(state, "recovered", what);
            } else if let Err(what) = shown.and_then(|shown| state.allowed.judge_reader(&shown)) {
                found_wrong(state, "read-only", what);
            } else {
                let size = found.as_ref().map_or(0, |found| found.size);
                if let Err(what) = checker::agrees(checked, size, Severity::Recoverable) {
                    found_wrong(state, "checked", what);
                }
                recovered.push((state, backing, found));
            }
        }

        volume.remount();
        for (state, backing, before) in recovered {
            let size = before.as_ref().map_or(0, |before| before.size);
            let checked = checker::ask(volume, &backing);
            if let Err(what) = checker::agrees(checked, size, Severity::Note) {
                found_wrong(state, "checked after recovery", what);
            }
            let after = volume.open(&backing).map(|file| look(&file));
            match after.map_err(|error| error.to_string()) {
                Ok(after) if Some(&after) == before.as_ref().ok() => {}
                Ok(_) => found_wrong(state, "next epoch", "not what was recovered".to_owned()),
                Err(error) => found_wrong(state, "next epoch", error),
            }
        }
        findings
    }

    /// Records the recovery of some states, and what crashes within it leave.
    fn crash_again<'a>(
        &self,
        volume: &mut TestVolume,
        states: &[State<'a>],
        tally: &mut Tally,
        random: &mut Random,
    ) -> Vec<State<'a>> {
        let mut seconds = Vec::new();
        for state in states {
            if !random.one_in(self.limits.second_in) {
                continue;
            }
            volume.leave_journals(&state.journals);
            volume.crash();
            let backing = Arc::new(RecordedFile::over(&state.content));
            let (recovered, journal) = JournalLog::of(&backing, || recover(volume, &backing));
            if recovered.is_err() {
                continue;
            }
            let epoch = volume.volume().epoch();
            tally.recoveries += 1;
            for (number, segment) in backing.segments().iter().enumerate() {
                for (fates, end) in self.crashes_of(segment, self.limits.second_crashes, random) {
                    let left = self.left_of(&journal, end, random);
                    let journals = state.journals.iter().cloned();
                    seconds.push(State {
                        content: segment.content(&fates),
                        journals: journals.chain(left.map(|bytes| (epoch, bytes))).collect(),
                        allowed: state.allowed,
                        crash: format!(
                            "{}\n    then in its recovery, {}",
                            state.crash,
                            describe(number, segment, &fates)
                        ),
                        has_torn_header: false,
                    });
                }
            }
        }
        tally.second_states += seconds.len() as u64;
        seconds
    }

    fn check_second(&self, volume: &mut TestVolume, states: &[State<'_>]) -> Vec<Finding> {
        volume.leave_journals(&[]);
        volume.crash();
        let wrong = |state: &State<'_>| {
            if !state.journals.is_empty() {
                volume.leave_journals(&state.journals);
                volume.crash();
            }
            let found = recover(volume, &Arc::new(state.content.snapshot()));
            let what = judge(state, &found).err()?;
            Some(self.finding(state, format!("recovered again: {what}")))
        };
        states.iter().filter_map(wrong).collect()
    }

    fn finding(&self, state: &State<'_>, what: String) -> Finding {
        Finding { sequence: self.sequence.clone(), crash: state.crash.clone(), what }
    }
}

/// The fates that the death of the process leaves: everything up to a point. What a write adds to
/// the size comes with its pages.
fn deaths(segment: &Segment) -> Vec<Fates> {
    let fate = |there: usize| {
        move |(at, change): (usize, &Change)| match change {
            Change::Grow { by_write: true, .. } => Fate::Missing,
            _ if at < there => Fate::Whole,
            _ => Fate::Missing,
        }
    };
    let changes = || segment.changes().iter().enumerate();
    (0..=segment.changes().len()).map(|there| changes().map(fate(there)).collect()).collect()
}

fn read_only(volume: &TestVolume, state: &State<'_>) -> Result<Found, String> {
    let file = volume.open_read_only(&Arc::new(state.content.snapshot()));
    file.map(|file| look(&file)).map_err(|error| error.to_string())
}

/// Opens for writing, which recovers, reads, closes.
fn recover(
    volume: &TestVolume,
    backing: &Arc<impl BackingFile + 'static>,
) -> Result<Found, String> {
    let file = volume.open(backing).map_err(|error| format!("does not open: {error}"))?;
    let found = look(&file);
    close(&file);
    Ok(found)
}

fn judge(state: &State<'_>, found: &Result<Found, String>) -> Result<(), String> {
    state.allowed.judge(found.as_ref().map_err(String::clone)?)
}

fn tears_header(segment: &Segment, fates: &[Fate]) -> bool {
    segment.changes().iter().zip(fates).any(|(change, fate)| {
        matches!((change, fate), (Change::Page { page: 0, .. }, Fate::Torn(_)))
    })
}

/// A crash as it is printed: each change with what became of it.
fn describe(number: usize, segment: &Segment, fates: &[Fate]) -> String {
    let name = |change: &Change| match change {
        Change::Page { page, image } if image.len() < 4096 => format!("page{page}:{}", image.len()),
        Change::Page { page, .. } => format!("page{page}"),
        Change::SetSize { size } => format!("size{size}"),
        Change::Grow { size, .. } => format!("grow{size}"),
        Change::Punch { offset, len } => format!("punch{offset}:{len}"),
    };
    let changes = segment.changes().iter().zip(fates);
    let changes: Vec<_> =
        changes.map(|(change, fate)| format!("{}{}", name(change), text(&[*fate]))).collect();
    format!("after sync {number}: {}", changes.join(" "))
}

fn fingerprint(file: &MemoryFile) -> u64 {
    let mut bytes = vec![0; file.size().unwrap() as usize];
    file.read_at(&mut bytes, 0).unwrap();
    let mut hasher = DefaultHasher::new();
    hasher.write(&bytes);
    hasher.finish()
}
