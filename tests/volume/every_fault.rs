//! Every backing call of a set of scenarios fails in turn, once and from then on, with each errno
//! and with parts of a write let through. The errno reaches the caller; every block is the old
//! one or a new one; what a sync has covered stays, also after a death of the daemon and
//! recovery; and a sync that has failed never turns into a later success.
//!
//! A file of the trait retries `EINTR` and short writes by itself, as its conformance tests say;
//! that the real one does is tested on a mount.

use ssefs::store::SyncScope;
use ssefs::store::faulty::{CallKind, Fault, FaultPlan};
use ssefs::volume::{EncryptedFile, VolumeError};

use super::faults::faulty;
use super::model::{Step, content};

const EIO: i32 = 5;
const ENOSPC: i32 = 28;
const EDQUOT: i32 = 122;

/// What has been done, and is synced where it says so, before what fails.
struct Scenario {
    name: &'static str,
    before: Vec<Step>,
    then: Vec<Step>,
}

fn scenarios() -> Vec<Scenario> {
    let write = |at: u64, len: usize, seed| Step::Write { at, len, seed };
    let synced = || vec![write(0, 90 * 4096 + 100, 1), Step::Sync];
    let of = |name, before, then| Scenario { name, before, then };
    let grown = || vec![write(0, 100, 1), Step::SetSize(300_000), write(299_000, 900, 2)];
    vec![
        of("create", vec![], vec![write(0, 5000, 1), Step::Sync]),
        of("create behind a gap", vec![], vec![write(200_000, 5000, 1), Step::Settle]),
        of("append", synced(), vec![write(90 * 4096 + 100, 9000, 2), Step::Sync]),
        of("append in small parts", synced(), small_appends()),
        of("overwrite", synced(), vec![write(4000, 9000, 2), Step::Sync]),
        of("overwrite all", synced(), vec![write(0, 90 * 4096 + 100, 2), Step::Settle]),
        of(
            "overwrite twice",
            synced(),
            vec![write(8192, 4096, 2), Step::Sync, write(8192, 4096, 3), Step::Sync],
        ),
        of("overwrite what is not synced", grown(), vec![write(0, 9000, 3), Step::Settle]),
        of("cut", synced(), vec![Step::SetSize(70_000), Step::Sync]),
        of("cut in a block", synced(), vec![Step::SetSize(90 * 4096 + 50), Step::Sync]),
        of("cut to nothing", synced(), vec![Step::SetSize(0), write(0, 5000, 2), Step::Sync]),
        of("grow", synced(), vec![Step::SetSize(500_000), Step::Sync]),
        of(
            "punch",
            synced(),
            vec![Step::Punch { at: 100, len: 200_000 }, write(8192, 100, 2), Step::Sync],
        ),
        of(
            "zero and allocate",
            synced(),
            vec![
                Step::Zero { at: 5000, len: 20_000, keep_size: true },
                Step::Allocate { at: 0, len: 450_000, keep_size: false },
                Step::Sync,
            ],
        ),
        of("close", grown(), vec![Step::Settle]),
    ]
}

fn small_appends() -> Vec<Step> {
    let write =
        |number: u64| Step::Write { at: 90 * 4096 + 100 + number * 1000, len: 1000, seed: number };
    (0..6).flat_map(|number| [write(number), Step::Sync]).collect()
}

/// One way in which a call fails.
#[derive(Clone, Copy, Debug)]
struct Way {
    errno: i32,
    torn_after: Option<u64>,
    from_then_on: bool,
    modifications_only: bool,
}

impl Way {
    fn fault(self, nth: u64) -> Fault {
        let mut fault = Fault::at(nth, self.errno);
        if self.modifications_only {
            fault = fault.of_modifications();
        }
        if let Some(bytes) = self.torn_after {
            fault = fault.after_bytes(bytes);
        }
        if self.from_then_on { fault.from_then_on() } else { fault }
    }
}

fn ways() -> Vec<Way> {
    let any = Way { errno: EIO, torn_after: None, from_then_on: false, modifications_only: false };
    let full = Way { errno: ENOSPC, from_then_on: true, modifications_only: true, ..any };
    vec![
        any,
        Way { from_then_on: true, ..any },
        full,
        Way { torn_after: Some(4096), ..full },
        Way { torn_after: Some(1000), errno: EDQUOT, ..full },
        Way { from_then_on: false, torn_after: Some(3 * 4096), ..full },
    ]
}

/// The models of a file that are possible.
struct Models {
    /// Before the scenario's last steps, and after each.
    then: Vec<Vec<u8>>,
    /// From the last sync before them on: what was done since may wait for a commit, which a
    /// failed sync keeps from coming.
    earlier: Vec<Vec<u8>>,
}

impl Models {
    fn of(scenario: &Scenario) -> Self {
        let mut model = Vec::new();
        let mut earlier = vec![model.clone()];
        for step in &scenario.before {
            if matches!(step, Step::Sync) {
                earlier.clear();
            }
            step.apply_to(&mut model);
            earlier.push(model.clone());
        }
        let mut then = vec![model.clone()];
        for step in &scenario.then {
            step.apply_to(&mut model);
            then.push(model.clone());
        }
        Self { then, earlier }
    }

    fn last(&self) -> &[u8] {
        self.then.last().expect("begins with one")
    }

    /// Whether each block is that of one of the models that are left after `outcome`; past its
    /// end a model has zeros.
    fn allow(&self, now: &[u8], outcome: &Outcome) -> bool {
        let earlier = match outcome.sync_failed && outcome.synced == 0 {
            true => &self.earlier[..],
            false => &[],
        };
        let possible = || self.then[outcome.synced..].iter().chain(earlier);
        possible().any(|model| model.len() <= now.len())
            && now.chunks(4096).enumerate().all(|(index, block)| {
                let at = index * 4096;
                possible().any(|model| {
                    let stored = &model[at.min(model.len())..model.len().min(at + block.len())];
                    block.starts_with(stored) && block[stored.len()..].iter().all(|it| *it == 0)
                })
            })
    }
}

/// What became of a scenario in which a call failed.
struct Outcome {
    /// The models before this one are gone: a sync after it has succeeded.
    synced: usize,
    failed: Option<VolumeError>,
    /// Whether a sync of the backing file was what failed.
    sync_failed: bool,
    /// Whether any call failed.
    struck: bool,
}

fn run(steps: &[Step], file: &EncryptedFile, plan: &FaultPlan) -> Outcome {
    let mut synced = 0;
    let mut failed = None;
    for (index, step) in steps.iter().enumerate() {
        match step.apply(file) {
            Ok(()) if matches!(step, Step::Sync) => synced = index + 1,
            Ok(()) => {}
            Err(error) => {
                failed = Some(error);
                break;
            }
        }
    }
    let calls = plan.take_calls();
    let sync_failed =
        calls.iter().any(|call| call.failed && matches!(call.kind, CallKind::Sync(_)));
    let struck = calls.iter().any(|call| call.failed);
    Outcome { synced, failed, sync_failed, struck }
}

fn read(file: &EncryptedFile, what: &str) -> Vec<u8> {
    content(file).unwrap_or_else(|error| panic!("{what}: {error:?}"))
}

/// Fails the `nth` call; false once there is none.
fn fail_nth(scenario: &Scenario, models: &Models, way: Way, nth: u64) -> bool {
    let what = format!("{}: call {nth}, {way:?}", scenario.name);
    let (mut volume, plan, backing) = faulty();
    let file = volume.open(&backing).unwrap();
    scenario.before.iter().for_each(|step| step.apply(&file).unwrap());
    plan.take_calls();
    plan.add(way.fault(nth));
    let outcome = run(&scenario.then, &file, &plan);
    match &outcome.failed {
        None if !outcome.sync_failed => {
            // Nothing failed, or only what need not succeed.
            plan.heal();
            assert!(read(&file, &what) == models.last(), "{what}");
            return outcome.struck;
        }
        None => panic!("{what}: a failed sync was taken for success"),
        Some(VolumeError::Backing(error)) => {
            assert_eq!(error.raw_os_error(), Some(way.errno), "{what}");
        }
        Some(other) => panic!("{what}: {other:?}"),
    }
    if way.modifications_only {
        // A full disk can be read.
        assert!(models.allow(&read(&file, &what), &outcome), "{what}: while it lasts");
    }
    plan.heal();
    // A cut that broke off while nothing could be read is looked into when the file is opened.
    let unreadable = way.from_then_on && !way.modifications_only;
    if !unreadable {
        assert!(models.allow(&read(&file, &what), &outcome), "{what}: healed");
    }
    let settled = file.settle().and_then(|()| file.sync(SyncScope::Data));
    assert_eq!(settled.is_err(), outcome.sync_failed, "{what}: {settled:?}");
    if settled.is_err() {
        // Not the second time either.
        file.sync(SyncScope::All).unwrap_err();
    }
    if !unreadable {
        assert!(models.allow(&read(&file, &what), &outcome), "{what}: settled");
    }
    drop(file);
    // The daemon dies, or the file is only closed; in both cases it can be used again.
    if nth.is_multiple_of(2) {
        volume.crash();
    }
    let file = volume.open(&backing).unwrap_or_else(|error| panic!("{what}: {error:?}"));
    let now = read(&file, &what);
    assert!(models.allow(&now, &outcome), "{what}: opened again");
    scenario.then.iter().for_each(|step| step.apply(&file).unwrap());
    file.sync(SyncScope::All).unwrap();
    let again = read(&file, &what);
    drop(file);
    volume.remount();
    assert!(read(&volume.open(&backing).unwrap(), &what) == again, "{what}: mounted again");
    true
}

fn fail_all(way: Way) {
    let mut faults = 0;
    for scenario in scenarios() {
        let models = Models::of(&scenario);
        let count = (0..).take_while(|nth| fail_nth(&scenario, &models, way, *nth)).count();
        assert!(count > 0, "{}: no call failed", scenario.name);
        faults += count;
    }
    println!("{faults} faults: {way:?}");
}

#[test]
fn any_call_fails_once() {
    fail_all(ways()[0]);
}

#[test]
fn any_call_fails_from_then_on() {
    fail_all(ways()[1]);
}

#[test]
fn the_disk_is_full_from_a_call_on() {
    fail_all(ways()[2]);
}

#[test]
fn the_disk_is_full_after_a_page() {
    fail_all(ways()[3]);
}

#[test]
fn the_quota_is_used_up_within_a_page() {
    fail_all(ways()[4]);
}

#[test]
fn a_write_is_torn_once() {
    fail_all(ways()[5]);
}

/// The block that a cut leaves shorter was written and the rest of the commit was not: its new
/// seal was forgotten, and the block answered `EIO` until the file was opened anew.
#[test]
fn a_cut_whose_last_block_was_written_all_the_same() {
    fail_scenario("cut in a block", ways()[3]);
}

/// Recovery began with a new account of what is durable, and a sync that had failed in the middle
/// of a cut was followed by one that succeeded.
#[test]
fn recovery_does_not_forget_a_failed_sync() {
    fail_scenario("cut", ways()[0]);
}

/// What there was of the header stayed, and the file could not be opened any more.
#[test]
fn a_header_of_which_a_part_was_written_is_taken_back() {
    fail_scenario("create behind a gap", ways()[4]);
}

fn fail_scenario(name: &str, way: Way) {
    let scenario = scenarios().into_iter().find(|scenario| scenario.name == name).unwrap();
    let models = Models::of(&scenario);
    assert!((0..).take_while(|nth| fail_nth(&scenario, &models, way, *nth)).count() > 0);
}

/// Recovery itself fails at each of its calls: the open fails with the errno, and the next one
/// recovers.
#[test]
fn recovery_fails_at_every_call() {
    let mut faults = 0;
    for scenario in scenarios() {
        let models = Models::of(&scenario);
        for nth in 0.. {
            let from_then_on = nth % 2 == 1;
            let (mut volume, plan, backing) = faulty();
            let file = volume.open(&backing).unwrap();
            scenario.before.iter().for_each(|step| step.apply(&file).unwrap());
            scenario.then.iter().for_each(|step| step.apply(&file).unwrap());
            drop(file);
            volume.crash();
            plan.take_calls();
            let fault = Fault::at(nth, EIO);
            plan.add(if from_then_on { fault.from_then_on() } else { fault });
            let opened = volume.open(&backing);
            let what = format!("{}: call {nth}", scenario.name);
            match &opened {
                Err(VolumeError::Backing(error)) => {
                    assert_eq!(error.raw_os_error(), Some(EIO), "{what}");
                }
                Err(other) => panic!("{what}: {other:?}"),
                Ok(_) => {}
            }
            let struck = plan.has_struck();
            plan.heal();
            drop(opened);
            let file = volume.open(&backing).unwrap();
            let synced = Outcome {
                synced: models.then.len() - 1,
                failed: None,
                sync_failed: false,
                struck: true,
            };
            assert!(models.allow(&read(&file, &what), &synced), "{what}");
            if !struck {
                break;
            }
            faults += 1;
        }
    }
    assert!(faults > 100, "only {faults} calls failed");
}
