//! The warning of a DEK that has sealed half of what is safe.

use std::sync::{Mutex, Once};

use log::{Level, LevelFilter, Log, Metadata, Record};

use crate::ahead::{PIECE, with_seals_told};
use crate::harness::pattern;

/// Once, by small writes or large ones, with the file settled and opened again in between.
///
/// Regression: it was given for seals that were reserved, and again after each settling that gave
/// back those that were not made.
#[test]
fn the_warning_is_given_once_where_the_count_goes_over_half_of_the_limit() {
    Collected::lines();
    for piece in [PIECE, 4096] {
        let (mut volume, backing) = with_seals_told(WARNING - 70_000);
        let (mut before, mut after) = (0, 0);
        for _ in 0..6 {
            let file = volume.open(&backing).unwrap();
            let end = file.size() + 3000 * 4096;
            while file.size() < end {
                file.write(file.size(), &pattern(file.size(), piece)).unwrap();
            }
            file.settle().unwrap();
            let description = file.description().unwrap();
            let warned = warnings(&description.file_id.to_string());
            let is_over = description.seal_count >= WARNING;
            assert_eq!(warned, usize::from(is_over), "{piece}: {}", description.seal_count);
            *(if is_over { &mut after } else { &mut before }) += 1;
            drop(file);
            volume.remount();
        }
        assert!(before > 0 && after > 2, "{before} times below it, {after} times over it");
    }
}

/// How often the warning was given of this file.
fn warnings(file: &str) -> usize {
    let all = Collected::lines().lock().unwrap();
    all.iter().filter(|line| line.contains(file) && line.contains("2^31")).count()
}

const WARNING: u64 = 1 << 31;

/// What is logged in this process.
#[derive(Default)]
struct Collected(Mutex<Vec<String>>);

impl Collected {
    fn lines() -> &'static Mutex<Vec<String>> {
        static COLLECTED: Collected = Collected(Mutex::new(Vec::new()));
        static SET: Once = Once::new();
        SET.call_once(|| {
            log::set_logger(&COLLECTED).unwrap();
            log::set_max_level(LevelFilter::Warn);
        });
        &COLLECTED.0
    }
}

impl Log for Collected {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= Level::Warn
    }

    fn log(&self, record: &Record<'_>) {
        self.0.lock().unwrap().push(record.args().to_string());
    }

    fn flush(&self) {}
}
