//! Names through crashes: the file system's own calls on a scratch directory, its backing
//! operations recorded in order, and what a power cut may leave of names and contents together
//! mounted and read again. A name must lead to what was promised of its file; what was renamed
//! over another file is promised whole.

mod disk;
mod mounted;
mod player;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;
use std::time::Instant;

use ssefs::store::recorder::{Change, Fate, Segment};
use ssefs::volume::Durability;

use self::disk::{Names, Object};
use self::mounted::Mounted;
use self::player::{ACTS, Act, Played, play};
use super::model::{Found, Promise};
use super::report::by_kind;
use super::settings::{Random, Settings};
use super::states::{crashes, text};

/// What was looked at.
#[derive(Debug, Default)]
struct Tally {
    scripts: u64,
    states: u64,
    files: u64,
}

/// A promise that was broken, with what leads to it.
struct Finding {
    what: String,
    crash: String,
    acts: Vec<Act>,
}

/// A crash: when, which names, and what became of each file's open changes.
struct Crash<'a> {
    end: usize,
    names: usize,
    changes: &'a BTreeMap<u64, Segment>,
    fates: BTreeMap<u64, Vec<Fate>>,
}

/// Runs one script and all its crashes; what was broken.
fn explore(
    acts: &[Act],
    durability: Durability,
    each: usize,
    random: &mut Random,
    tally: &mut Tally,
) -> Vec<Finding> {
    let root = scratch();
    let played = play(root.path(), acts, durability);
    tally.scripts += 1;
    let mut broken = Vec::new();
    let ends = (0..=played.log.position()).filter(|end| played.log.is_sync(*end));
    for end in ends {
        let changes = played.log.open_changes(end);
        for names in played.log.names_after_crash(end) {
            for fates in fates(&changes, each, random) {
                let crash = Crash { end, names, changes: &changes, fates };
                let found = check(root.path(), &played, &crash, tally);
                broken.extend(found.err().map(|what| {
                    let acts = acts.to_vec();
                    Finding { what, crash: describe(&crash), acts }
                }));
            }
        }
    }
    broken
}

/// What may have become of the open changes of all files: nothing, all, and some.
fn fates(
    changes: &BTreeMap<u64, Segment>,
    each: usize,
    random: &mut Random,
) -> Vec<BTreeMap<u64, Vec<Fate>>> {
    let open: usize = changes.values().map(|segment| segment.changes().len()).sum();
    let of_all = |fate: Fate| {
        let of = |(ino, segment): (&u64, &Segment)| (*ino, vec![fate; segment.changes().len()]);
        changes.iter().map(of).collect()
    };
    if open == 0 {
        return vec![of_all(Fate::Whole)];
    }
    let mut found = vec![of_all(Fate::Missing), of_all(Fate::Whole)];
    let choices: BTreeMap<u64, Vec<Vec<Fate>>> = changes
        .iter()
        .map(|(ino, segment)| {
            let mut all = crashes(segment, 64, random);
            // Pages are taken to be written whole; torn ones are for the contents' own test.
            all.retain(|fates| !fates.iter().any(|fate| matches!(fate, Fate::Torn(_))));
            (*ino, all)
        })
        .collect();
    for _ in 0..each.min(1 << open.min(20)) {
        let mut choose = |all: &Vec<Vec<Fate>>| all[random.below(all.len())].clone();
        found.push(choices.iter().map(|(ino, all)| (*ino, choose(all))).collect());
    }
    found
}

/// Makes what the crash leaves, mounts it, and reads everything, twice.
fn check(
    volume: &Path,
    played: &Played,
    crash: &Crash<'_>,
    tally: &mut Tally,
) -> Result<(), String> {
    let names = played.log.names(crash.names);
    let root = scratch();
    disk::make(root.path(), volume, names, crash.changes, &crash.fates);
    tally.states += 1;
    let mounted = Mounted::new(root.path(), Durability::Power);
    let mut recovered = BTreeMap::new();
    for (path, ino, attributes) in files(names) {
        tally.files += 1;
        if mounted.attribute(path) != attributes.first().map(|(_, value)| value.clone()) {
            return Err(format!("{path}: not the attribute that it had"));
        }
        let found = mounted.look(path).map_err(|error| format!("{path}: {error}"))?;
        judge(played, crash, ino, &found).map_err(|error| format!("{path}: {error}"))?;
        recovered.insert(path, found);
    }
    mounted.unmount();
    let mounted = Mounted::new(root.path(), Durability::Power);
    for (path, before) in recovered {
        let after = mounted.look(path).map_err(|error| format!("{path}, next epoch: {error}"))?;
        if after != before {
            return Err(format!("{path}, next epoch: not what was recovered"));
        }
    }
    mounted.unmount();
    Ok(())
}

fn judge(played: &Played, crash: &Crash<'_>, ino: u64, found: &Found) -> Result<(), String> {
    let renamed = played.renamed_over.iter();
    let renamed = renamed.filter(|renamed| renamed.ino == ino && renamed.names <= crash.names);
    let least = renamed.map(|renamed| renamed.version).max().unwrap_or_default();
    let history = &played.histories[&ino];
    history.allowed_from(crash.end, Promise::Synced, least).judge(found)
}

fn files(names: &Names) -> impl Iterator<Item = (&str, u64, &[(OsString, Vec<u8>)])> {
    names.iter().filter_map(|(path, object)| match object {
        Object::File { ino, attributes } if !path.starts_with(disk::OWN) => {
            Some((path.as_str(), *ino, &attributes[..]))
        }
        Object::File { .. } | Object::Directory => None,
    })
}

fn describe(crash: &Crash<'_>) -> String {
    let mut described = format!("before operation {}, names {}", crash.end, crash.names);
    for (ino, segment) in crash.changes {
        for (change, fate) in segment.changes().iter().zip(&crash.fates[ino]) {
            let name = match change {
                Change::Page { page, .. } => format!("page{page}"),
                Change::SetSize { size } => format!("size{size}"),
                Change::Grow { size, .. } => format!("grow{size}"),
                Change::Punch { offset, len } => format!("punch{offset}:{len}"),
            };
            described.push_str(&format!(" {ino}:{name}{}", text(&[*fate])));
        }
    }
    described
}

/// In memory where there is such a place: each state is a volume that is mounted twice.
fn scratch() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let parent = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
    tempfile::tempdir_in(parent).unwrap()
}

fn script(text: &str) -> Vec<Act> {
    let act = |word: &str| {
        let found = ACTS.iter().find(|(_, name)| *name == word);
        found.unwrap_or_else(|| panic!("{word:?} is nothing that can be done")).0
    };
    text.split_whitespace().map(act).collect()
}

fn text_of(acts: &[Act]) -> String {
    let name = |act: &Act| ACTS.iter().find(|(other, _)| other == act).expect("all have one").1;
    acts.iter().map(name).collect::<Vec<_>>().join(" ")
}

fn nth(len: usize, mut number: u64) -> Vec<Act> {
    let count = ACTS.len() as u64;
    let mut digit = || {
        let digit = number % count;
        number /= count;
        ACTS[digit as usize].0
    };
    (0..len).map(|_| digit()).collect()
}

#[test]
fn names_lead_to_what_was_promised_after_a_power_cut() {
    let settings = Settings::from_environment(15);
    let (mut random, mut tally) = (Random::new(settings.seed), Tally::default());
    let mut broken = Vec::new();
    let mut run = |acts: &[Act], each: usize| {
        broken.extend(explore(acts, Durability::Power, each, &mut random, &mut tally));
        broken.len() < MANY
    };
    if let Ok(text) = std::env::var("SSEFS_EXPLORER_NAMES") {
        run(&script(&text), 200);
    } else if settings.is_exhaustive() {
        let all = (1..=3).flat_map(|len| {
            (0..(ACTS.len() as u64).pow(len)).map(move |number| nth(len as usize, number))
        });
        all.into_iter().all(|acts| run(&acts, 20));
    } else {
        let (deadline, mut lens) = (settings.deadline(), Random::new(settings.seed ^ 2));
        (0..ACTS.len() as u64).all(|number| run(&nth(1, number), 8));
        // Some also on a machine that is busy with other things.
        let mut left = 20;
        while left > 0 || deadline.is_some_and(|deadline| Instant::now() < deadline) {
            left -= left.min(1);
            let len = 2 + lens.below(2);
            let acts = nth(len, lens.number() % (ACTS.len() as u64).pow(len as u32));
            if !run(&acts, 4) {
                break;
            }
        }
    }
    println!("names: {tally:?}, {} broken, seed {}", broken.len(), settings.seed);
    let length = |finding: &Finding| finding.acts.len();
    for (count, finding) in by_kind(&broken, |finding| &finding.what, length) {
        println!("{count} times {}", finding.what);
        println!("    SSEFS_EXPLORER_NAMES=\"{}\"", text_of(&finding.acts));
        println!("    {}", finding.crash);
    }
    assert!(broken.is_empty(), "{} promises broken: see above", broken.len());
    let by_hand = std::env::var_os("SSEFS_EXPLORER_NAMES").is_some();
    assert!(by_hand || tally.scripts >= 17 && tally.states >= 200, "{tally:?}");
}

fn by_hand(acts: &str, durability: Durability) -> Vec<Finding> {
    let (mut random, mut tally) = (Random::new(1), Tally::default());
    let broken = explore(&script(acts), durability, 60, &mut random, &mut tally);
    assert!(tally.states >= 10, "{tally:?}");
    broken
}

#[test]
fn what_a_rename_has_synced_is_not_written_over_in_place() {
    let broken = by_hand("save overwrite sync-b", Durability::Power);
    assert!(broken.is_empty(), "{}\n    {}", broken[0].what, broken[0].crash);
}

#[test]
fn without_the_sync_before_a_rename_it_fails() {
    for acts in ["save", "save-open", "append rename-over"] {
        assert!(by_hand(acts, Durability::Power).is_empty(), "{acts}");
        assert!(!by_hand(acts, Durability::Process).is_empty(), "{acts}");
    }
}

const MANY: usize = 500;
