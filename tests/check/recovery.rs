//! What a crash leaves: a check tells what recovery will do, changes nothing, and --repair does
//! it. Damage in a file that a crash has left is damage all the same.

use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use serde_json::{Value, json};
use ssefs::crypto::{MacKey, derive};
use ssefs::format::{Header, Prologue, STATE_MAC_LABEL};
use ssefs::keys::{Access, Binding};
use ssefs::store::SyncScope;
use ssefs::store::disk::DiskFile;
use ssefs::store::faulty::{Fault, FaultPlan, FaultyFile};
use ssefs::volume::{EncryptedFile, VolumeError};

use crate::harness::{Bench, DAMAGED, REPAIRED, block_at, contents, entry_at, pattern};

fn kinds(report: &Value) -> Vec<&str> {
    let all = report["findings"].as_array().unwrap();
    all.iter().map(|finding| finding["kind"].as_str().unwrap()).collect()
}

/// A file of 40 blocks of which two were overwritten, and one more added without a sync, in an
/// epoch that crashed. `change` gets what the backing file was before that epoch.
fn crashed(change: impl FnOnce(&Bench, &[u8])) -> Bench {
    let bench = Bench::new();
    bench.write(&[("f", &pattern(1, 40 * 4096)), ("clean", &pattern(5, 70_000))]);
    let before = fs::read(bench.backing("f")).unwrap();
    let session = bench.session(false);
    let file = session.file("f");
    file.write(30 * 4096, &pattern(2, 2 * 4096)).unwrap();
    session.close(&file);
    file.write(40 * 4096, &pattern(3, 4096)).unwrap();
    drop(file);
    session.crash();
    change(&bench, &before);
    bench
}

/// Checks such a volume, repairs it, and answers what the file reads as.
#[track_caller]
fn repaired(bench: &Bench, expected: &[&str]) -> Vec<u8> {
    let before = contents(&bench.root());
    let report = bench.report(&[], 0);
    assert_eq!(kinds(&report), expected, "{report}");
    assert_eq!((&report["needs_recovery"], &report["ok"]), (&json!(1), &json!(1)), "{report}");
    assert_eq!(contents(&bench.root()), before, "a check changes nothing");

    let report = bench.report(&["--repair"], REPAIRED);
    assert_eq!((&report["repaired"], &report["ok"]), (&json!(1), &json!(1)), "{report}");
    assert_eq!(report["findings"], json!([]), "{report}");
    assert_eq!(report["repairs"].as_array().unwrap().len(), expected.len(), "{report}");
    assert_eq!(report["epochs_cleared"], true);
    let epochs = fs::read_to_string(bench.backing(".ssefs/epochs.json")).unwrap();
    assert!(epochs.contains("\"unclean\":[]"), "{epochs}");
    let report = bench.report(&[], 0);
    assert_eq!((&report["ok"], &report["unclean_epochs"]), (&json!(2), &json!(0)), "{report}");
    let session = bench.session(true);
    assert!(session.read("clean") == pattern(5, 70_000));
    session.read("f")
}

/// What the file of [`crashed`] holds when nothing of it is lost.
fn plain() -> Vec<u8> {
    let mut plain = pattern(1, 40 * 4096);
    plain[30 * 4096..32 * 4096].copy_from_slice(&pattern(2, 2 * 4096));
    plain.extend(pattern(3, 4096));
    plain
}

#[test]
fn a_file_that_lost_nothing_is_only_moved_on() {
    let bench = crashed(|_, _| {});
    assert!(repaired(&bench, &["unclean"]) == plain());
}

#[test]
fn the_spare_generation_counts_where_only_it_opens() {
    let bench = crashed(|bench, before| {
        put_back_block_31(bench, before);
        fs::remove_file(bench.backing(".ssefs/journal-2")).unwrap();
    });
    let mut expected = plain();
    expected[31 * 4096..32 * 4096].copy_from_slice(&pattern(1, 40 * 4096)[31 * 4096..32 * 4096]);
    assert!(repaired(&bench, &["unclean", "spare_generation"]) == expected);
}

/// The power cut that took the block has left the journal.
#[test]
fn a_block_that_is_in_the_journal_is_not_lost() {
    let bench = crashed(put_back_block_31);
    assert!(repaired(&bench, &["unclean"]) == plain());
    assert!(!bench.backing(".ssefs/journal-2").exists());
}

fn put_back_block_31(bench: &Bench, before: &[u8]) {
    bench.alter("f", |bytes| {
        let at = block_at(31);
        bytes[at..][..4096].copy_from_slice(&before[at..][..4096]);
    });
}

/// Killed before any of it was put into the file.
#[test]
fn what_only_the_journal_holds_is_told_and_put_into_the_file() {
    let bench = Bench::new();
    bench.write(&[("f", &pattern(1, 40 * 4096)), ("clean", &pattern(5, 70_000))]);
    let session = bench.session(false);
    let file = session.file("f");
    file.write(30 * 4096, &pattern(2, 2 * 4096)).unwrap();
    let journal = fs::read(bench.backing(".ssefs/journal-2")).unwrap();
    drop(file);
    session.crash();
    fs::write(bench.backing(".ssefs/journal-2"), journal).unwrap();
    let report = bench.report(&[], 0);
    let what = report["findings"][1]["what"].as_str().unwrap();
    assert!(what.contains("its data is in the journal"), "{report}");
    let read = repaired(&bench, &["unclean", "spare_generation"]);
    assert!(read == plain()[..40 * 4096]);
}

#[test]
fn a_torn_tail_is_cut_off() {
    let bench = crashed(|bench, _| {
        bench.alter("f", |bytes| bytes[block_at(40)..].fill(0x77));
    });
    let read = repaired(&bench, &["unclean", "torn_tail"]);
    assert!(read == plain()[..40 * 4096]);
}

/// Recovery made the block a hole in a file without holes: it could not be read any more.
#[test]
fn an_appended_block_whose_data_never_came_reads_as_zeros() {
    let bench = crashed(|bench, _| {
        bench.alter("f", |bytes| bytes[block_at(40)..].fill(0));
    });
    let mut expected = plain();
    expected[40 * 4096..].fill(0);
    assert!(repaired(&bench, &["unclean", "spare_generation"]) == expected);
}

#[test]
fn one_state_record_that_was_not_written_whole() {
    let bench = crashed(|bench, _| {
        bench.alter("f", |bytes| {
            let sequence = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
            let older = if sequence(128) < sequence(256) { 128 } else { 256 };
            bytes[older + 100] ^= 1;
        });
    });
    let report = bench.report(&[], 0);
    let what = report["findings"][0]["what"].as_str().unwrap();
    assert!(what.contains("one of its two state records"), "{what}");
    assert!(repaired(&bench, &["unclean"]) == plain());
}

#[test]
fn damage_before_the_synced_end_is_damage_and_the_rest_is_recovered() {
    let bench = crashed(|bench, _| {
        bench.alter("f", |bytes| {
            bytes[block_at(2)] ^= 1;
            bytes[block_at(20)..][..4096].fill(0);
            bytes[block_at(40)..].fill(0x77);
        });
    });
    let report = bench.report(&[], DAMAGED);
    assert_eq!(kinds(&report), ["unclean", "block", "block", "torn_tail"], "{report}");
    let report = bench.report(&["--repair"], DAMAGED);
    assert_eq!(kinds(&report), ["block", "block"], "{report}");
    assert_eq!(report["repairs"].as_array().unwrap().len(), 2, "{report}");
    let report = bench.report(&[], DAMAGED);
    assert_eq!(kinds(&report), ["block", "block"], "{report}");
}

#[test]
fn a_part_of_the_volume_is_repaired_and_the_epochs_stay() {
    let bench = crashed(|_, _| {});
    let checked = bench.check(&["--repair"], &["clean"]);
    assert_eq!(checked.code, 0, "{checked:?}");
    let checked = bench.check(&["--repair"], &["f"]);
    assert_eq!(checked.code, REPAIRED, "{checked:?}");
    assert!(checked.out.starts_with("repaired: f: was recovered (last written in"), "{checked:?}");
    let epochs = fs::read_to_string(bench.backing(".ssefs/epochs.json")).unwrap();
    assert!(epochs.contains("\"unclean\":[2]"), "{epochs}");
    assert_eq!(bench.report(&[], 0)["ok"], 2);
}

type Operation = fn(&EncryptedFile) -> Result<(), VolumeError>;

/// Operations that take several writes.
const OPERATIONS: &[(&str, Operation)] = &[
    ("cut within a block", |file| file.set_size(20 * 4096 - 7)),
    ("cut at a block's edge", |file| file.set_size(20 * 4096)),
    ("grow from within a block", |file| file.set_size(60 * 4096)),
    ("overwrite", |file| file.write(10 * 4096, &pattern(9, 10 * 4096))),
    ("overwrite within a block", |file| file.write(10 * 4096 + 5, &pattern(9, 100))),
    ("append", |file| file.write(30 * 4096 + 100, &pattern(9, 5000))),
    ("punch", |file| file.punch_hole(4096, 20 * 4096)),
];

#[test]
fn whatever_an_operation_was_cut_short_at_is_repaired_to_before_or_after() {
    for (name, operation) in OPERATIONS {
        let mut points = 0;
        loop {
            let bench = Bench::new();
            let before = pattern(1, 30 * 4096 + 100);
            bench.write(&[("f", &before), ("after", &before)]);
            let session = bench.session(false);
            let whole = session.file("after");
            operation(&whole).unwrap();
            session.close(&whole);
            drop(whole);
            let after = session.read("after");
            let plan = FaultPlan::new();
            let disk = File::options().read(true).write(true).open(bench.backing("f")).unwrap();
            let faulty = FaultyFile::new(DiskFile::from(OwnedFd::from(disk)), &plan);
            let file = session.open(Arc::new(faulty));
            plan.add(Fault::at(points, libc::EIO).of_modifications().then_dead());
            let done = operation(&file).and_then(|()| file.sync(SyncScope::All));
            drop(file);
            session.crash();
            let when = format!("{name}, cut short at change {points}");
            for options in [&["--headers-only"][..], &[]] {
                let report = bench.report(options, 0);
                assert_eq!(report["damaged"], 0, "{when}: {report}");
            }
            let report = bench.report(&["--repair"], REPAIRED);
            assert_eq!(report["findings"], json!([]), "{when}: {report}");
            let read = bench.session(true).read("f");
            assert!(blocks_of_either(&read, &before, &after), "{when}: {} bytes", read.len());
            points += 1;
            if done.is_ok() {
                break;
            }
        }
        assert!(points > 1, "{name}: nothing was cut short");
    }
}

/// Whether each block is that of one of the two; a write is not all or nothing as a whole.
fn blocks_of_either(read: &[u8], before: &[u8], after: &[u8]) -> bool {
    let lengths = [before.len(), after.len(), 31 * 4096];
    lengths.contains(&read.len())
        && read.chunks(4096).enumerate().all(|(block, found)| {
            [before, after].iter().any(|side| {
                let side = &side[(block * 4096).min(side.len())..];
                side.len() >= found.len() && side[..found.len()] == *found
                    || side.len() < found.len()
                        && found[..side.len()] == *side
                        && found[side.len()..].iter().all(|byte| *byte == 0)
            })
        })
}

#[test]
fn the_spare_slot_is_emptied_where_the_header_proves_that_it_was() {
    let bench = Bench::new();
    bench.write(&[("f", &pattern(1, 9000))]);
    let whole = fs::read(bench.backing("f")).unwrap();
    bench.alter("f", |bytes| bytes[1728..1800].fill(0x55));
    let report = bench.report(&[], DAMAGED);
    assert_eq!(kinds(&report), ["spare_slot"]);
    let report = bench.report(&["--repair"], REPAIRED);
    assert_eq!((kinds(&report), &report["repaired"]), (vec![], &json!(1)), "{report}");
    assert!(fs::read(bench.backing("f")).unwrap() == whole);
    // The slot in force proves nothing when it is gone itself.
    bench.alter("f", |bytes| bytes[500] ^= 1);
    let report = bench.report(&["--repair"], DAMAGED);
    assert_eq!(kinds(&report), ["envelope"], "{report}");
}

#[test]
fn a_first_write_that_was_lost_leaves_an_empty_file() {
    let bench = crashed(|_, _| {});
    fs::write(bench.backing("lost"), [0; 9000]).unwrap();
    let report = bench.report(&[], 0);
    assert_eq!((kinds(&report), &report["needs_recovery"]), (vec!["unclean"; 2], &json!(2)));
    let report = bench.report(&["--repair"], REPAIRED);
    assert_eq!((&report["repaired"], &report["epochs_cleared"]), (&json!(2), &json!(true)));
    assert_eq!(fs::metadata(bench.backing("lost")).unwrap().len(), 0);
}

/// Two envelopes of the same DEK, of which the one in force was written broken: our own writer
/// never leaves that.
#[test]
fn the_spare_envelope_is_put_in_force_where_the_first_does_not_open() {
    let bench = Bench::new();
    bench.write(&[("f", &pattern(1, 9000))]);
    let session = bench.session(true);
    bench.alter("f", |bytes| {
        let page: &mut [u8; 4096] = bytes.first_chunk_mut().unwrap();
        let mut header = Header::parse(page).unwrap();
        let envelope = header.envelopes[0].clone().unwrap();
        let Prologue { file_id: file, volume_id: volume, .. } = header.prologue;
        let (path, binding) = (PathBuf::new, Binding { volume, file });
        let dek = session.volume.keyring().dek(&envelope, binding, &Access::own(&path)).unwrap();
        let key = MacKey::new(&derive(&dek, STATE_MAC_LABEL));
        let state = header.verify(page, &key, false).unwrap();
        let mut broken = envelope.clone();
        broken.wrapped_dek[20] ^= 1;
        header.envelopes = [Some(broken), Some(envelope)];
        header.encode_into(page).unwrap();
        Header::parse(page).unwrap().encode_both_states(&state, &key, page);
    });
    drop(session);
    let report = bench.report(&[], 0);
    assert_eq!((kinds(&report), &report["ok"]), (vec!["spare_envelope"], &json!(1)), "{report}");
    let report = bench.report(&["--repair"], REPAIRED);
    assert_eq!((kinds(&report), &report["repaired"]), (vec![], &json!(1)), "{report}");
    assert_eq!(bench.report(&[], 0)["findings"], json!([]));
    assert!(bench.session(true).read("f") == pattern(1, 9000));
}

#[test]
fn what_is_damaged_in_a_clean_file_stays_so_beside_one_that_is_recovered() {
    let bench = crashed(|bench, _| {
        bench.alter("clean", |bytes| bytes[entry_at(3) + 5] ^= 1);
    });
    let report = bench.report(&["--repair"], DAMAGED);
    assert_eq!(kinds(&report), ["entry"], "{report}");
    assert_eq!((&report["repaired"], &report["damaged"]), (&json!(1), &json!(1)), "{report}");
}
