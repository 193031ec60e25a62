//! What bounds a run, from the environment, and where its chances come from.

use std::time::{Duration, Instant};

/// How long, how and what.
pub struct Settings {
    /// `SSEFS_EXPLORER_SEED`; else one of the clock, which is printed.
    pub seed: u64,
    /// `SSEFS_EXPLORER_SECONDS`: for each of the explorations; `None` (0) until all is done.
    seconds: Option<u64>,
    /// `SSEFS_EXPLORER_SEQUENCE`: this one alone, with all its crashes.
    pub sequence: Option<String>,
    /// Threads: all processors where the time was asked for, one where others test too.
    pub workers: usize,
}

impl Settings {
    /// `seconds` is what an exploration takes that is not told otherwise.
    pub fn from_environment(seconds: u64) -> Self {
        let number = |name| {
            let text = std::env::var(name).ok()?;
            Some(text.parse().unwrap_or_else(|_| panic!("{name} is a number, not {text:?}")))
        };
        let clock = || {
            let now = std::time::SystemTime::now();
            now.duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64
        };
        let asked_for = number("SSEFS_EXPLORER_SECONDS");
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let seconds = asked_for.unwrap_or(seconds);
        Self {
            seed: number("SSEFS_EXPLORER_SEED").unwrap_or_else(clock),
            seconds: (seconds > 0).then_some(seconds),
            sequence: std::env::var("SSEFS_EXPLORER_SEQUENCE").ok(),
            workers: if asked_for.is_some() { processors } else { 1 },
        }
    }

    /// Whether nothing but the end of all sequences ends a run.
    pub fn is_exhaustive(&self) -> bool {
        self.seconds.is_none()
    }

    /// When a run that starts now is to end.
    pub fn deadline(&self) -> Option<Instant> {
        self.seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds))
    }
}

/// Chances, the same ones for the same seed.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        // Scrambled, so that neighbouring seeds have nothing in common.
        let mut state = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        state = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        state = (state ^ (state >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Self((state ^ (state >> 31)) | 1)
    }

    pub fn number(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 >> 8
    }

    /// Less than `limit`, which is not zero.
    pub fn below(&mut self, limit: usize) -> usize {
        (self.number() % limit as u64) as usize
    }

    pub fn one_in(&mut self, chances: usize) -> bool {
        self.below(chances) == 0
    }
}
