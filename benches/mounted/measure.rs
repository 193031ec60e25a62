//! What a daemon spends: processor time and memory as the kernel accounts them, requests and
//! flushes as ssefs counts them.

use std::fs;
use std::ops::AddAssign;
use std::time::Duration;

use serde_json::Value;

use crate::systems::System;

/// What a daemon has spent since it was started.
pub struct Usage {
    processor: Option<Duration>,
    counted: Option<Counted>,
}

#[derive(Clone, Copy)]
struct Counted {
    requests: u64,
    flushes: Option<u64>,
    dek_hits: Option<u64>,
}

/// What a daemon spent on something; `None` is unknown.
#[derive(Clone, Copy)]
pub struct Spent {
    pub processor: Option<Duration>,
    pub requests: Option<u64>,
    pub flushes: Option<u64>,
    /// DEKs that were found in the cache.
    pub dek_hits: Option<u64>,
}

impl Usage {
    /// Of a system, until now.
    pub fn of(system: &System) -> Self {
        Self {
            processor: system.daemon().and_then(processor_time),
            counted: system.statistics().map(|statistics| Counted::from(&statistics)),
        }
    }

    /// What was spent between an earlier look and this one.
    pub fn since(&self, earlier: &Self) -> Spent {
        let counted = self.counted.zip(earlier.counted);
        let processor = self.processor.zip(earlier.processor);
        Spent {
            processor: processor.map(|(now, then)| now.saturating_sub(then)),
            // Looking is a request too.
            requests: counted.map(|(now, then)| (now.requests - then.requests).saturating_sub(1)),
            flushes: counted.and_then(|(now, then)| Some(now.flushes? - then.flushes?)),
            dek_hits: counted.and_then(|(now, then)| Some(now.dek_hits? - then.dek_hits?)),
        }
    }
}

impl From<&Value> for Counted {
    fn from(statistics: &Value) -> Self {
        // The kernel does not wait for its forgets.
        let counts = statistics["operations"].as_object().into_iter().flatten();
        let requests = counts.filter(|(name, _)| *name != "forgets");
        Self {
            requests: requests.filter_map(|(_, count)| count.as_u64()).sum(),
            flushes: statistics["backing_flushes"].as_u64(),
            dek_hits: statistics["dek_cache"]["hits"].as_u64(),
        }
    }
}

impl Default for Spent {
    fn default() -> Self {
        let none = Some(0);
        Self { processor: Some(Duration::ZERO), requests: none, flushes: none, dek_hits: none }
    }
}

impl AddAssign for Spent {
    fn add_assign(&mut self, other: Self) {
        self.processor = self.processor.zip(other.processor).map(|(one, other)| one + other);
        let sum = |one: Option<u64>, other: Option<u64>| Some(one? + other?);
        self.requests = sum(self.requests, other.requests);
        self.flushes = sum(self.flushes, other.flushes);
        self.dek_hits = sum(self.dek_hits, other.dek_hits);
    }
}

/// The most memory that a process has had resident, in KiB, since [`forget_peak`].
pub fn peak_kib(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().trim_end_matches("kB").trim().parse().ok()
}

/// Lets the peak start anew from what is resident now, where the kernel allows it.
pub fn forget_peak(pid: u32) {
    // Refused for the process of another user: then the peak is that of all workloads so far.
    let _ = fs::write(format!("/proc/{pid}/clear_refs"), "5");
}

/// proc(5): fields 14 and 15, counted from 1, in ticks; the name before them may hold blanks.
fn processor_time(pid: u32) -> Option<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<u64>().ok();
    Some(Duration::from_millis((ticks()? + ticks()?) * 1000 / TICKS_PER_SECOND))
}

/// What Linux tells user space, whatever its own clock is.
const TICKS_PER_SECOND: u64 = 100;
