//! Runs every target over its corpus: the seeds that it makes, the lines of its file in `corpus/`
//! (one input each, hexadecimal; what the fuzzer found worth keeping, and what once failed), and
//! small changes to all of them. `SSEFS_TEST_SCALE` multiplies the changes.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};

use data_encoding::HEXLOWER;

use super::bounds::{bounded, in_time};
use super::targets::{TARGETS, Target};

/// Inputs that are changes of corpus entries, for each target; less for those of more effort.
const CHANGES: u64 = 2000;
/// A corpus is a sample, not an archive.
const LARGEST_CORPUS: u64 = 16 << 10;
const LONGEST_KEPT: usize = 512;

/// One test for each target, so that they run at the same time and fail by name.
macro_rules! corpora {
    ($($name:ident)*) => {
        $(
            #[test]
            fn $name() {
                run_corpus(stringify!($name));
            }
        )*

        const NAMES: &[&str] = &[$(stringify!($name)),*];
    };
}

corpora! {
    prologue entry envelope state_record header descriptor epoch_record backing_file
    rewrap_request root_json managed_record volumes_record cmk_record aliases_record
    ciphertext_blob policy grant audit_lines audit_head mount_options text
}

#[test]
fn every_target_has_its_test_and_a_small_corpus() {
    let mut names = TARGETS.map(|target| target.name);
    assert_eq!(names, NAMES);
    names.sort_unstable();
    for entry in fs::read_dir(corpus_dir()).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap();
        assert!(names.binary_search(&name).is_ok(), "{name} is no target");
        let len = fs::metadata(&path).unwrap().len();
        assert!(len <= LARGEST_CORPUS, "{}: {len} bytes", path.display());
    }
}

/// For the fuzzer: writes each corpus into files under `$SSEFS_FUZZ_CORPORA`, one for each input.
#[test]
#[ignore = "part of scripts/fuzz"]
fn unpack() {
    let root = PathBuf::from(std::env::var_os("SSEFS_FUZZ_CORPORA").unwrap());
    for target in TARGETS {
        let dir = root.join(target.name);
        fs::create_dir_all(&dir).unwrap();
        for (number, input) in corpus(&target).iter().enumerate() {
            fs::write(dir.join(format!("seed-{number:03}")), input).unwrap();
        }
    }
}

/// For the fuzzer: takes inputs from `$SSEFS_FUZZ_CORPORA/TARGET` into the corpora, the shortest
/// first, as many as have room.
#[test]
#[ignore = "part of scripts/fuzz"]
fn pack() {
    let root = PathBuf::from(std::env::var_os("SSEFS_FUZZ_CORPORA").unwrap());
    for target in TARGETS {
        let Ok(entries) = fs::read_dir(root.join(target.name)) else { continue };
        let mut inputs: Vec<_> =
            entries.map(|entry| fs::read(entry.unwrap().path()).unwrap()).collect();
        inputs.retain(|input| input.len() <= LONGEST_KEPT);
        inputs.sort_by_key(|input| (input.len(), input.clone()));
        let known = corpus(&target);
        let path = corpus_file(target.name);
        let mut text = fs::read_to_string(&path).unwrap_or_default();
        for input in inputs.iter().filter(|input| !known.contains(input)) {
            let line = HEXLOWER.encode(input);
            if (text.len() + line.len() + 1) as u64 > LARGEST_CORPUS / 2 {
                break;
            }
            text.push_str(&line);
            text.push('\n');
        }
        if !text.is_empty() {
            fs::write(&path, text).unwrap();
        }
    }
}

fn run_corpus(name: &str) {
    let target = TARGETS.into_iter().find(|target| target.name == name).unwrap();
    let corpus = corpus(&target);
    // What is made once is no part of any bound.
    corpus.first().inspect(|first| (target.run)(first));
    for input in &corpus {
        check(&target, input);
    }
    let mut random = Random(0x5eed);
    for _ in 0..CHANGES * scale() / target.effort {
        let mut input = corpus[random.below(corpus.len())].clone();
        for _ in 0..=random.below(4) {
            change(&mut input, &corpus, &mut random);
        }
        check(&target, &input);
    }
}

/// Runs the target within its bounds; what fails is shown as a line for its corpus.
fn check(target: &Target, input: &[u8]) {
    let run = || in_time(|| bounded(target.memory, || (target.run)(input)));
    if let Err(panic) = catch_unwind(AssertUnwindSafe(run)) {
        eprintln!("{}: {}", target.name, HEXLOWER.encode(input));
        resume_unwind(panic);
    }
}

fn change(input: &mut Vec<u8>, corpus: &[Vec<u8>], random: &mut Random) {
    let at = random.below(input.len() + 1);
    match random.below(8) {
        0 => input.truncate(at),
        1 => input.insert(at, random.next() as u8),
        2 => drop(input.splice(at..at, [0xff; 8])),
        3 => {
            let other = &corpus[random.below(corpus.len())];
            let from = random.below(other.len() + 1);
            let len = random.below(other.len() - from + 1);
            input.splice(at..at, other[from..from + len].iter().copied());
        }
        4 => {
            let end = at + random.below(input.len() - at + 1);
            input.drain(at..end);
        }
        5 if at + 8 <= input.len() => {
            let number = [0, 1, u64::MAX, 1 << 40, u64::from(u32::MAX), 4096][random.below(6)];
            input[at..at + 8].copy_from_slice(&number.to_le_bytes());
        }
        _ if at < input.len() => input[at] ^= 1 << random.below(8),
        _ => {}
    }
    input.truncate(LONGEST_INPUT);
}

const LONGEST_INPUT: usize = 64 << 10;

fn corpus(target: &Target) -> Vec<Vec<u8>> {
    let mut inputs = (target.seeds)();
    let text = fs::read_to_string(corpus_file(target.name)).unwrap_or_default();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    inputs.extend(lines.map(|line| HEXLOWER.decode(line.as_bytes()).unwrap()));
    inputs
}

fn corpus_file(name: &str) -> PathBuf {
    corpus_dir().join(format!("{name}.hex"))
}

fn corpus_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/hostile_bytes/corpus")
}

fn scale() -> u64 {
    std::env::var("SSEFS_TEST_SCALE").map_or(1, |text| text.parse().unwrap())
}

/// A sequence that is the same in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        // xorshift64*
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 8
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }
}
