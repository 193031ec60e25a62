//! Damage of every kind but single flips: cuts, zeros, swaps, replays, foreign files. The
//! findings name the blocks, and nothing of it is repaired.

use std::fs::{self, File};
use std::os::fd::OwnedFd;

use serde_json::{Value, json};
use ssefs::store::disk::DiskFile;
use ssefs::store::faulty::{CallKind, Fault, FaultPlan, FaultyFile};
use ssefs::volume::Problem;

use crate::harness::{Bench, DAMAGED, block_at, contents, entry_at, pattern};

/// The findings of one file as (kind, first block, number of blocks).
fn findings(report: &Value, path: &str) -> Vec<(String, Value, Value)> {
    let all = report["findings"].as_array().unwrap();
    let of_file = all.iter().filter(|finding| finding["path"] == path);
    of_file
        .map(|it| {
            let kind = it["kind"].as_str().unwrap().to_owned();
            (kind, it["first_block"].clone(), it["blocks"].clone())
        })
        .collect()
}

fn in_blocks(kind: &str, first: u64, count: u64) -> (String, Value, Value) {
    (kind.to_owned(), json!(first), json!(count))
}

fn of_file(kind: &str) -> (String, Value, Value) {
    (kind.to_owned(), Value::Null, Value::Null)
}

/// A file of 100 blocks, altered; what is found, also after an attempt to repair it, which must
/// leave it alone.
#[track_caller]
fn altered(change: impl FnOnce(&Bench)) -> Vec<(String, Value, Value)> {
    let bench = Bench::new();
    bench.write(&[("f", &pattern(1, 100 * 4096)), ("other", &pattern(2, 100 * 4096))]);
    change(&bench);
    let before = contents(&bench.root());
    let report = bench.report(&[], DAMAGED);
    assert_eq!(contents(&bench.root()), before, "a check changes nothing");
    let found = findings(&report, "f");
    let repaired = bench.report(&["--repair"], DAMAGED);
    assert_eq!(findings(&repaired, "f"), found);
    assert_eq!(repaired["repairs"], json!([]));
    let file = |name| before.iter().find(|(path, _)| path.ends_with(name)).unwrap().1.clone();
    assert!(fs::read(bench.backing("f")).unwrap() == file("f"), "it was repaired");
    found
}

#[test]
fn a_file_that_was_cut() {
    let found = altered(|bench| bench.alter("f", |bytes| bytes.truncate(block_at(90) + 100)));
    assert_eq!(found, [of_file("size"), in_blocks("block", 90, 10)]);
    let found = altered(|bench| bench.alter("f", |bytes| bytes.truncate(block_at(60))));
    assert_eq!(found, [of_file("size"), in_blocks("block", 60, 40)]);
    let found = altered(|bench| bench.alter("f", |bytes| bytes.truncate(4096)));
    assert_eq!(found, [of_file("size"), in_blocks("block", 0, 100)]);
    let found = altered(|bench| bench.alter("f", |bytes| bytes.truncate(1000)));
    assert_eq!(found, [of_file("header")]);
    let found = altered(|bench| bench.alter("f", |bytes| bytes.extend([0; 5000])));
    assert_eq!(found, [of_file("size")]);
}

#[test]
fn blocks_that_were_zeroed_with_and_without_their_entries() {
    let found = altered(|bench| {
        bench.alter("f", |bytes| {
            for block in [5, 6, 70] {
                bytes[block_at(block)..][..4096].fill(0);
            }
            for block in [6, 7, 8] {
                bytes[entry_at(block)..][..64].fill(0);
            }
        });
    });
    let expected = [in_blocks("block", 5, 1), in_blocks("zeroed", 6, 3), in_blocks("block", 70, 1)];
    assert_eq!(found, expected);
}

#[test]
fn blocks_that_were_moved_within_a_file_and_between_files() {
    let found = altered(|bench| {
        let other = fs::read(bench.backing("other")).unwrap();
        bench.alter("f", |bytes| {
            for at in [block_at, entry_at] {
                let len = if at(0) == block_at(0) { 4096 } else { 64 };
                let (one, two) = (bytes[at(3)..][..len].to_vec(), bytes[at(40)..][..len].to_vec());
                bytes[at(3)..][..len].copy_from_slice(&two);
                bytes[at(40)..][..len].copy_from_slice(&one);
                bytes[at(81)..][..len].copy_from_slice(&other[at(81)..][..len]);
            }
        });
    });
    let expected = [in_blocks("block", 3, 1), in_blocks("block", 40, 1), in_blocks("block", 81, 1)];
    assert_eq!(found, expected);
}

#[test]
fn files_of_others() {
    let found = altered(|bench| {
        let elsewhere = Bench::new();
        elsewhere.write(&[("f", &pattern(1, 9000))]);
        fs::copy(elsewhere.backing("f"), bench.backing("f")).unwrap();
    });
    assert_eq!(found, [of_file("other_volume")]);
    for text in [&b"short"[..], &[7; 9000]] {
        let found = altered(|bench| fs::write(bench.backing("f"), text).unwrap());
        assert_eq!(found, [of_file("foreign")]);
    }
    let found = altered(|bench| {
        let other = fs::read(bench.backing("other")).unwrap();
        bench.alter("f", |bytes| bytes[384..3072].copy_from_slice(&other[384..3072]));
    });
    assert_eq!(found, [of_file("envelope")]);
}

#[test]
fn a_block_put_back_without_its_entry() {
    let bench = Bench::new();
    bench.write(&[("f", &pattern(1, 100 * 4096))]);
    let old = fs::read(bench.backing("f")).unwrap();
    let session = bench.session(false);
    let file = session.file("f");
    file.write(50 * 4096, &pattern(9, 4096)).unwrap();
    session.close(&file);
    drop(file);
    session.end();
    bench.report(&[], 0);
    bench.alter("f", |bytes| {
        let at = block_at(50);
        bytes[at..][..4096].copy_from_slice(&old[at..][..4096]);
    });
    let report = bench.report(&[], DAMAGED);
    assert_eq!(findings(&report, "f"), [in_blocks("older_block", 50, 1)]);
    let repaired = bench.report(&["--repair"], DAMAGED);
    assert_eq!(findings(&repaired, "f"), [in_blocks("older_block", 50, 1)]);
}

/// A file of `blocks` blocks of which one was overwritten, and what was before.
fn overwritten(blocks: usize, block: usize) -> (Bench, Vec<u8>) {
    let bench = Bench::new();
    bench.write(&[("f", &pattern(1, blocks * 4096))]);
    let old = fs::read(bench.backing("f")).unwrap();
    let session = bench.session(false);
    let file = session.file("f");
    file.write(block as u64 * 4096, &pattern(9, 4096)).unwrap();
    session.close(&file);
    drop(file);
    session.end();
    bench.report(&[], 0);
    (bench, old)
}

#[test]
fn a_block_put_back_with_its_entry_or_with_its_page_of_entries() {
    for (blocks, block, entries) in [
        (100, 50, entry_at(50)..entry_at(51)),
        (100, 50, entry_at(16)..block_at(16)),
        (10, 3, entry_at(3)..entry_at(4)),
    ] {
        let (bench, old) = overwritten(blocks, block);
        bench.alter("f", |bytes| {
            for part in [block_at(block)..block_at(block) + 4096, entries.clone()] {
                bytes[part.clone()].copy_from_slice(&old[part]);
            }
        });
        let report = bench.report(&[], DAMAGED);
        assert_eq!(findings(&report, "f"), [of_file("replayed")], "{entries:?}");
        let report = bench.report(&["--headers-only"], DAMAGED);
        assert_eq!(findings(&report, "f"), [of_file("replayed")], "{entries:?}");
        let report = bench.report(&["--repair"], DAMAGED);
        assert_eq!(findings(&report, "f"), [of_file("replayed")], "{entries:?}");
    }
}

#[test]
fn an_old_page_0_put_back_under_newer_blocks() {
    let (bench, old) = overwritten(100, 50);
    bench.alter("f", |bytes| bytes[..4096].copy_from_slice(&old[..4096]));
    let report = bench.report(&[], DAMAGED);
    assert_eq!(findings(&report, "f"), [of_file("replayed")]);
}

#[test]
fn a_hole_in_place_of_a_block_where_holes_are_allowed() {
    let bench = Bench::new();
    let session = bench.session(false);
    session.write("f", &pattern(1, 60 * 4096));
    let file = session.file("f");
    file.punch_hole(4096, 4096).unwrap();
    session.close(&file);
    drop(file);
    session.end();
    bench.report(&[], 0);
    bench.alter("f", |bytes| {
        bytes[block_at(40)..][..4096].fill(0);
        bytes[entry_at(40)..][..64].fill(0);
    });
    assert_eq!(findings(&bench.report(&[], DAMAGED), "f"), [of_file("replayed")]);
}

#[test]
fn a_record_that_was_put_back() {
    let bench = Bench::new();
    bench.write(&[("f", &pattern(1, 9000))]);
    bench.alter("f", |bytes| {
        // The record in force is the one with the odd number: the other one, and no other.
        let newer = u64::from_le_bytes(bytes[128..136].try_into().unwrap())
            < u64::from_le_bytes(bytes[256..264].try_into().unwrap());
        let (from, to) = if newer { (128, 256) } else { (256, 128) };
        let record = bytes[from..from + 128].to_vec();
        bytes[to..to + 128].copy_from_slice(&record);
    });
    let report = bench.report(&[], DAMAGED);
    assert_eq!(findings(&report, "f"), [of_file("state_record")]);
}

#[test]
fn what_the_disk_cannot_read_is_not_taken_for_altered() {
    let bench = Bench::new();
    bench.write(&[("f", &pattern(1, 100 * 4096))]);
    let session = bench.session(true);
    let file = File::open(bench.backing("f")).unwrap();
    let plan = FaultPlan::new();
    let faulty = FaultyFile::new(DiskFile::from(OwnedFd::from(file)), &plan);
    // Page 0, the run as a whole, and then page by page: the fourth is block 1.
    for nth in [1, 3] {
        plan.add(Fault::at(nth, libc::EIO).of(CallKind::Read));
    }
    let report = session.check(faulty, false).unwrap();
    let found: Vec<_> =
        report.findings.list().iter().map(|it| (it.problem, it.blocks.clone())).collect();
    assert_eq!(found, [(Problem::Unreadable, Some(1..2))]);
    assert_eq!(report.blocks, 99);
}

#[test]
fn what_is_damaged_in_the_volume_s_own_directory() {
    let bench = Bench::new();
    bench.write(&[("f", &pattern(1, 9000))]);
    let epochs = fs::read_to_string(bench.backing(".ssefs/epochs.json")).unwrap();
    let (last, more) = (epochs.replace("\"last\":1", "\"last\":2"), format!("{epochs}x"));
    for altered in [&last, &more, ""] {
        fs::write(bench.backing(".ssefs/epochs.json"), altered).unwrap();
        let report = bench.report(&[], DAMAGED);
        assert_eq!(report["volume_findings"][0]["path"], ".ssefs/epochs.json", "{report}");
    }
    fs::remove_file(bench.backing(".ssefs/epochs.json")).unwrap();
    bench.report(&[], DAMAGED);
    fs::write(bench.backing(".ssefs/epochs.json"), &epochs).unwrap();
    bench.report(&[], 0);
    bench.alter(".ssefs/volume.json", |bytes| bytes[0] = b'x');
    let report = bench.report(&[], DAMAGED);
    assert_eq!(report["volume_findings"][0]["path"], ".ssefs/volume.json");
}
