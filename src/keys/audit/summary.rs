//! What a log comes to: uses, changes and refusals by key, by user and file, and over time.

use std::collections::{BTreeMap, BTreeSet};

use super::filter::Filter;
use super::reader::{AuditReader, AuditRecord, Outcome};
use super::time::UtcTime;
use crate::keys::error::KeyError;

/// The sums of a log, or of a part of it.
#[derive(Debug, Default)]
pub struct Summary {
    /// What it was limited to.
    pub since: Option<UtcTime>,
    /// What it was limited to.
    pub until: Option<UtcTime>,
    /// The first and last record about keys.
    pub span: Option<Span>,
    /// Of all keys and users.
    pub total: Counts,
    /// By key id; `""` gathers what named no key.
    pub keys: BTreeMap<String, KeySummary>,
    /// By user id.
    pub users: BTreeMap<u32, UserSummary>,
    /// By minute since 1970.
    minutes: BTreeMap<u64, Counts>,
    /// The last refusals, the newest first; at most [`MAX_REFUSALS`].
    pub refusals: Vec<Refusal>,
    /// What the log tells of itself, other than checkpoints.
    pub incidents: Vec<Incident>,
    /// Lines that are no records.
    pub damaged_lines: u64,
}

/// How often.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Successful uses of key material.
    pub uses: u64,
    /// Those of them that needed no unwrapping, because the DEK was in memory.
    pub from_cache: u64,
    /// Successful changes to keys.
    pub changes: u64,
    /// Successful questions.
    pub queries: u64,
    /// Refused by a policy.
    pub denied: u64,
    /// Refused for another reason.
    pub errors: u64,
}

/// From when to when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// The first.
    pub first: UtcTime,
    /// The last.
    pub last: UtcTime,
}

/// One key.
#[derive(Debug, Default)]
pub struct KeySummary {
    /// How often.
    pub counts: Counts,
    /// From when to when.
    pub span: Option<Span>,
    /// By user id.
    pub users: BTreeMap<u32, Counts>,
    /// The versions of its material that were used.
    pub versions: BTreeSet<u64>,
}

/// One user.
#[derive(Debug, Default)]
pub struct UserSummary {
    /// The name, or the number.
    pub label: String,
    /// How often.
    pub counts: Counts,
    /// From when to when.
    pub span: Option<Span>,
    /// By key id.
    pub keys: BTreeMap<String, Counts>,
    /// By volume id and file id.
    pub files: BTreeMap<(String, String), FileSummary>,
}

/// One file, for one user.
#[derive(Debug, Default)]
pub struct FileSummary {
    /// The path at the last time.
    pub path: String,
    /// How often.
    pub counts: Counts,
    /// From when to when.
    pub span: Option<Span>,
}

/// One refusal.
#[derive(Debug)]
pub struct Refusal {
    /// When.
    pub time: UtcTime,
    /// Who.
    pub user: String,
    /// What was asked for.
    pub event: String,
    /// Which key.
    pub key: String,
    /// The file's path, if it was about a file.
    pub path: String,
    /// The error's name.
    pub code: String,
}

/// Something that the log tells of itself.
#[derive(Debug)]
pub struct Incident {
    /// The record's number.
    pub seq: u64,
    /// When.
    pub time: UtcTime,
    /// The event's name.
    pub name: String,
    /// Its details, as JSON.
    pub details: String,
}

/// The counts of a stretch of time.
#[derive(Debug, Clone, Copy)]
pub struct Bucket {
    /// Where it begins.
    pub start: UtcTime,
    /// How often.
    pub counts: Counts,
}

impl Summary {
    /// Reads a log.
    pub fn of(reader: &AuditReader, filter: &Filter) -> Result<Self, KeyError> {
        let mut summary = Self { since: filter.since, until: filter.until, ..Self::default() };
        for record in reader.records() {
            match record {
                Ok(record) if filter.matches(&record) => summary.add(&record),
                Ok(_) => {}
                Err(KeyError::Damaged { .. }) => summary.damaged_lines += 1,
                Err(error) => return Err(error),
            }
        }
        summary.refusals.reverse();
        Ok(summary)
    }

    /// The uses over time, in at most `limit` stretches of one length, and that length in words.
    pub fn timeline(&self, limit: u64) -> (&'static str, Vec<Bucket>) {
        let (Some((&first, _)), Some((&last, _))) =
            (self.minutes.first_key_value(), self.minutes.last_key_value())
        else {
            return (WIDTHS[0].1, Vec::new());
        };
        let fits = |width: u64| last / width - first / width < limit;
        let &(width, name) = WIDTHS.iter().find(|(width, _)| fits(*width)).unwrap_or(&LAST_WIDTH);
        let mut buckets: Vec<Bucket> = (first / width..=last / width)
            .map(|index| Bucket { start: minute(index * width), counts: Counts::default() })
            .collect();
        for (at, counts) in &self.minutes {
            let index = usize::try_from(at / width - first / width).expect("within the limit");
            buckets[index].counts.add(counts);
        }
        (name, buckets)
    }

    fn add(&mut self, record: &AuditRecord) {
        if !record.is_about_keys() {
            self.add_incident(record);
            return;
        }
        let counts = Counts::of(record);
        let identity = record.identity();
        let key = record.key_id().unwrap_or_default().to_owned();
        self.total.add(&counts);
        extend(&mut self.span, record.time);
        self.minutes.entry(record.time.micros / MINUTE_MICROS).or_default().add(&counts);

        let by_key = self.keys.entry(key.clone()).or_default();
        by_key.counts.add(&counts);
        extend(&mut by_key.span, record.time);
        by_key.users.entry(identity.uid).or_default().add(&counts);
        by_key.versions.extend(record.key_version());

        let by_user = self.users.entry(identity.uid).or_default();
        by_user.label = identity.label();
        by_user.counts.add(&counts);
        extend(&mut by_user.span, record.time);
        by_user.keys.entry(key.clone()).or_default().add(&counts);
        if let Some(file_id) = record.file_id() {
            let volume = record.volume_id().unwrap_or_default().to_owned();
            let file = by_user.files.entry((volume, file_id.to_owned())).or_default();
            file.path = record.path().unwrap_or_default().to_owned();
            file.counts.add(&counts);
            extend(&mut file.span, record.time);
        }
        if record.outcome() != Outcome::Success {
            self.add_refusal(record, key);
        }
    }

    fn add_refusal(&mut self, record: &AuditRecord, key: String) {
        if self.refusals.len() == MAX_REFUSALS {
            self.refusals.remove(0);
        }
        self.refusals.push(Refusal {
            time: record.time,
            user: record.identity().label(),
            event: record.event_name().to_owned(),
            key,
            path: record.path().unwrap_or_default().to_owned(),
            code: record.error_code().unwrap_or_default().to_owned(),
        });
    }

    fn add_incident(&mut self, record: &AuditRecord) {
        let details: Vec<String> = INCIDENT_DETAILS
            .iter()
            .filter_map(|name| Some(format!("{name}: {}", record.detail(name)?)))
            .collect();
        if INCIDENTS.contains(&record.event_name()) {
            self.incidents.push(Incident {
                seq: record.seq(),
                time: record.time,
                name: record.event_name().to_owned(),
                details: details.join(", "),
            });
        }
    }
}

impl Counts {
    fn of(record: &AuditRecord) -> Self {
        let mut counts = Self::default();
        match record.outcome() {
            Outcome::Denied => counts.denied = 1,
            Outcome::Error => counts.errors = 1,
            Outcome::Success if record.is_use() => {
                counts.uses = 1;
                counts.from_cache = u64::from(record.cache_hit() == Some(true));
            }
            Outcome::Success if record.is_change() => counts.changes = 1,
            Outcome::Success => counts.queries = 1,
        }
        counts
    }

    fn add(&mut self, other: &Self) {
        self.uses += other.uses;
        self.from_cache += other.from_cache;
        self.changes += other.changes;
        self.queries += other.queries;
        self.denied += other.denied;
        self.errors += other.errors;
    }

    /// Everything together.
    pub fn all(&self) -> u64 {
        self.uses + self.changes + self.queries + self.denied + self.errors
    }
}

fn extend(span: &mut Option<Span>, time: UtcTime) {
    let span = span.get_or_insert(Span { first: time, last: time });
    // The clock may have been set back between records.
    span.first = span.first.min(time);
    span.last = span.last.max(time);
}

fn minute(number: u64) -> UtcTime {
    UtcTime { micros: number * MINUTE_MICROS }
}

/// More refusals are counted, but not listed.
pub const MAX_REFUSALS: usize = 200;
const MINUTE_MICROS: u64 = 60_000_000;
/// In minutes.
const WIDTHS: [(u64, &str); 8] = [
    (1, "minute"),
    (5, "5 minutes"),
    (15, "15 minutes"),
    (60, "hour"),
    (6 * 60, "6 hours"),
    (24 * 60, "day"),
    (7 * 24 * 60, "7 days"),
    (30 * 24 * 60, "30 days"),
];
const LAST_WIDTH: (u64, &str) = (3650 * 24 * 60, "10 years");
const INCIDENTS: [&str; 4] = [
    super::recovery::REPAIRED,
    super::recovery::LOST,
    super::recovery::TAMPERED,
    super::recovery::NOT_WRITTEN,
];
const INCIDENT_DETAILS: [&str; 7] =
    ["finding", "bytesCut", "firstLost", "lastLost", "count", "since", "until"];

#[cfg(test)]
mod tests {
    use super::super::lines::tests::log_of;
    use super::*;

    fn line(minute: u64, uid: u32, name: &str, rest: &str) -> String {
        format!(
            "{{\"eventTime\":\"{}\",\"eventSource\":\"ssefs.kms\",\"eventName\":\"{name}\",\
             \"seq\":1,\"userIdentity\":{{\"uid\":{uid}}}{rest}}}\n",
            super::minute(minute)
        )
    }

    #[test]
    fn sums_by_key_user_file_and_time() {
        let key = ",\"resources\":[{\"type\":\"\",\"keyId\":\"k1\"}]";
        let file = format!("{key},\"requestParameters\":{{\"fileId\":\"f\",\"path\":\"/new\"}}");
        let old = file.replace("/new", "/old");
        let denied = format!("{file},\"errorCode\":\"AccessDeniedException\"");
        let error = format!("{key},\"errorCode\":\"DisabledException\"");
        let text = [
            line(100, 1, "CreateKey", key),
            line(101, 1, "Decrypt", &old),
            line(101, 1, "Decrypt", &file),
            line(170, 2, "Decrypt", &denied),
            line(170, 2, "GenerateDataKey", &error),
            line(171, 2, "ListKeys", ",\"readOnly\":true"),
            "no record\n".to_owned(),
        ];
        let dir = log_of(&text.concat());
        let reader = AuditReader::at(dir.path()).unwrap();
        let summary = Summary::of(&reader, &Filter::default()).unwrap();
        let total = Counts { uses: 2, from_cache: 0, changes: 1, queries: 1, denied: 1, errors: 1 };
        assert_eq!((summary.total, summary.total.all()), (total, 6));
        assert_eq!(summary.damaged_lines, 1);
        assert_eq!(summary.keys["k1"].counts.all(), 5);
        assert_eq!(summary.keys["k1"].users[&1].uses, 2);
        assert_eq!(summary.keys[""].counts.queries, 1);
        assert_eq!((summary.users[&1].counts.uses, summary.users[&2].counts.denied), (2, 1));
        let file = &summary.users[&1].files[&(String::new(), "f".to_owned())];
        assert_eq!((file.path.as_str(), file.counts.uses), ("/new", 2));
        let span = Span { first: super::minute(100), last: super::minute(171) };
        assert_eq!(summary.span, Some(span));
        let refused: Vec<&str> = summary.refusals.iter().map(|r| r.code.as_str()).collect();
        assert_eq!(refused, ["DisabledException", "AccessDeniedException"]);

        let (width, buckets) = summary.timeline(20);
        assert_eq!((width, buckets.len()), ("5 minutes", 15));
        assert_eq!((buckets[0].counts.all(), buckets[14].counts.all()), (3, 3));
        assert_eq!(summary.timeline(100).1.len(), 72);
        assert_eq!(summary.timeline(1).0, "6 hours");
    }
}
