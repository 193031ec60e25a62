//! Any single flip anywhere in a backing file is found, but in bytes that mean nothing: the
//! data in a hole.

use std::io::IoSlice;

use proptest::prelude::{ProptestConfig, any, proptest};
use ssefs::store::BackingFile;
use ssefs::store::memory::MemoryFile;
use ssefs::volume::{Problem, Severity, VolumeError};

use crate::harness::{Bench, Session, block_at, pattern};

/// Files with every sort of byte: one and two generations, a short last block, tag pages, holes.
struct Files {
    bench: Bench,
    images: Vec<(&'static str, Vec<u8>)>,
}

impl Files {
    fn make() -> Self {
        let bench = Bench::new();
        let session = bench.session(false);
        session.write("small", &pattern(1, 5000));
        session.write("large", &pattern(2, 90 * 4096 + 100));
        for block in [0, 3, 20, 85, 90] {
            let file = session.file("large");
            file.write(block * 4096, &pattern(block, 100)).unwrap();
            session.close(&file);
        }
        session.write("cut", &pattern(3, 30 * 4096));
        let file = session.file("cut");
        file.set_size(18 * 4096 - 9).unwrap();
        session.close(&file);
        drop(file);
        session.write("holes", &pattern(4, 25 * 4096));
        let file = session.file("holes");
        file.punch_hole(4096, 2 * 4096).unwrap();
        file.punch_hole(18 * 4096, 4096).unwrap();
        session.close(&file);
        drop(file);
        session.end();
        let read = |name| (name, std::fs::read(bench.backing(name)).unwrap());
        let images = ["small", "large", "cut", "holes"].map(read).to_vec();
        Self { bench, images }
    }
}

fn memory(bytes: &[u8]) -> MemoryFile {
    let file = MemoryFile::new();
    file.write_at(&[IoSlice::new(bytes)], 0).unwrap();
    file
}

/// Whether the byte lies in a block that is a hole.
fn means_nothing(name: &str, at: usize) -> bool {
    let holes = [1, 2, 18].map(|block| block_at(block)..block_at(block) + 4096);
    name == "holes" && holes.iter().any(|hole| hole.contains(&at))
}

#[track_caller]
fn found(session: &Session, name: &str, image: &[u8], at: usize, bit: u8, headers_only: bool) {
    let file = memory(image);
    file.write_at(&[IoSlice::new(&[image[at] ^ 1 << bit])], at as u64).unwrap();
    let report = match session.check(file, headers_only) {
        Ok(report) => report,
        // An envelope that names another key, or another version of it, may well be whole.
        Err(VolumeError::Key(_)) if (384..3072).contains(&at) => return,
        Err(error) => panic!("{name}: bit {bit} of byte {at}: {error}"),
    };
    let worst = report.findings.worst();
    if means_nothing(name, at) {
        assert_eq!(worst, Some(Severity::Note), "{name}: bit {bit} of byte {at}");
        assert!(report.findings.tell_of(Problem::DataInHole));
    } else {
        assert_eq!(worst, Some(Severity::Damaged), "{name}: bit {bit} of byte {at}: {report:?}");
    }
}

#[test]
fn whole_files_are_found_whole() {
    let files = Files::make();
    let session = files.bench.session(true);
    for (name, image) in &files.images {
        for headers_only in [false, true] {
            let report = session.check(memory(image), headers_only).unwrap();
            assert_eq!(report.findings.list(), [], "{name}");
            assert_eq!(report.blocks, report.size.div_ceil(4096), "{name}");
        }
    }
}

#[test]
fn a_flip_in_every_byte_of_headers_and_entries_is_found_without_data() {
    let files = Files::make();
    let session = files.bench.session(true);
    for (name, image) in &files.images {
        // Every byte of each sort once; where another file has the same again, some.
        let step = |whole: &str| if *name == whole { 1 } else { 29 };
        let header = (0..4096).step_by(step("small"));
        let tag_page = (17 * 4096..18 * 4096).step_by(step("large"));
        for at in header.chain(tag_page.filter(|at| *at < image.len())) {
            found(&session, name, image, at, (at % 8) as u8, true);
        }
    }
}

#[test]
fn flips_in_the_data_are_found() {
    let files = Files::make();
    let session = files.bench.session(true);
    for (name, image) in &files.images {
        for at in (4096..image.len()).step_by(1597).chain([4096, image.len() - 1]) {
            found(&session, name, image, at, (at % 8) as u8, false);
        }
    }
}

#[test]
fn any_flip_is_found() {
    let files = Files::make();
    let session = files.bench.session(true);
    let config = ProptestConfig::with_cases(300);
    proptest!(config, |(file in 0..4usize, place in any::<u64>(), bit in 0..8u8)| {
        let (name, image) = &files.images[file];
        let at = (place % image.len() as u64) as usize;
        found(&session, name, image, at, bit, false);
    });
}
