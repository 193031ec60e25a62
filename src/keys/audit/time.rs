//! Times of records: microseconds since 1970-01-01 UTC, and as text RFC 3339 with six digits of
//! a second, `2026-11-22T07:05:12.000123Z`. What is parsed may also be coarser, or a time ago.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

/// A time in UTC, from 1970 to 9999.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UtcTime {
    /// Microseconds since 1970-01-01.
    pub micros: u64,
}

impl UtcTime {
    /// The length of its text.
    pub const TEXT_LEN: usize = "2026-11-22T07:05:12.000123Z".len();

    /// The present.
    pub fn now() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        let micros = since.map_or(0, |since| u64::try_from(since.as_micros()).unwrap_or(u64::MAX));
        Self { micros: micros.min(LAST_MICROS) }
    }

    /// Of RFC 3339, with or without a fraction, in UTC (`Z`) or with an offset.
    pub fn parse(text: &str) -> Option<Self> {
        let (date, time) = text.split_once(['T', 't', ' '])?;
        let (clock, offset_minutes) = split_offset(time)?;
        let (clock, fraction) = clock.split_once('.').unwrap_or((clock, "0"));
        let [hour, minute, second] = fields(clock, ':', [2, 2, 2])?;
        if hour > 23 || minute > 59 || second > 60 {
            return None;
        }
        let seconds = i64::try_from(parse_date(date)? * DAY + hour * 3600 + minute * 60 + second);
        let seconds = u64::try_from(seconds.ok()? - offset_minutes * 60).ok()?;
        Self::from_parts(seconds, micros_of(fraction)?)
    }

    /// Of what a person writes: RFC 3339, a date, a date and a time in UTC without its `Z`, or
    /// how long before `now`: `45s`, `30m`, `2h`, `7d`, `4w`.
    pub fn parse_loosely(text: &str, now: Self) -> Option<Self> {
        if let Some(ago) = parse_duration(text) {
            return Some(Self { micros: now.micros.saturating_sub(ago) });
        }
        if let Some(time) = Self::parse(text).or_else(|| Self::parse(&format!("{text}Z"))) {
            return Some(time);
        }
        if let Some(time) = Self::parse(&format!("{text}:00Z")) {
            return Some(time);
        }
        Self::from_parts(parse_date(text)? * DAY, 0)
    }

    /// Appends its text of RFC 3339.
    pub fn write_to(self, out: &mut Vec<u8>) {
        let [year, month, day, hour, minute, second] = self.fields();
        let fraction = self.micros % SECOND_MICROS;
        let mut text = *b"0000-00-00T00:00:00.000000Z";
        put_digits(&mut text[..4], year);
        for (at, number) in [(5, month), (8, day), (11, hour), (14, minute), (17, second)] {
            put_digits(&mut text[at..at + 2], number);
        }
        put_digits(&mut text[20..26], fraction);
        out.extend_from_slice(&text);
    }

    /// Year, month, day, hour, minute, second.
    pub fn fields(self) -> [u64; 6] {
        let seconds = self.micros / SECOND_MICROS;
        let (days, second) = (seconds / DAY, seconds % DAY);
        // Years start in March, so that the leap day is the last one; eras have 400 years.
        let shifted = days + DAYS_TO_1970;
        let (era, day_of_era) = (shifted / ERA_DAYS, shifted % ERA_DAYS);
        let leap_days = day_of_era / 1_460 + day_of_era / 146_096 - day_of_era / 36_524;
        let year_of_era = (day_of_era - leap_days) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * month + 2) / 5 + 1;
        let calendar_month = if month < 10 { month + 3 } else { month - 9 };
        let year = 400 * era + year_of_era + u64::from(calendar_month <= 2);
        [year, calendar_month, day, second / 3600, second / 60 % 60, second % 60]
    }

    fn from_parts(seconds: u64, micros: u64) -> Option<Self> {
        let micros = seconds.checked_mul(SECOND_MICROS)?.checked_add(micros)?;
        (micros <= LAST_MICROS).then_some(Self { micros })
    }
}

impl fmt::Display for UtcTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = Vec::with_capacity(Self::TEXT_LEN);
        self.write_to(&mut text);
        f.write_str(std::str::from_utf8(&text).expect("digits and punctuation"))
    }
}

/// Puts the last digits of a number into the place that there is for them.
fn put_digits(place: &mut [u8], mut number: u64) {
    for digit in place.iter_mut().rev() {
        *digit = b"0123456789"[(number % 10) as usize];
        number /= 10;
    }
}

/// Days since 1970-01-01 of `YYYY-MM-DD`.
fn parse_date(text: &str) -> Option<u64> {
    let [year, month, day] = fields(text, '-', [4, 2, 2])?;
    if year < 1970 || !(1..=12).contains(&month) || day == 0 {
        return None;
    }
    let (shifted_year, shifted_month) =
        if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let (era, year_of_era) = (shifted_year / 400, shifted_year % 400);
    let day_of_year = (153 * shifted_month + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    let days = era * ERA_DAYS + day_of_era - DAYS_TO_1970;
    // A day that its month does not have comes out as one of the next month.
    let [y, m, d, ..] = UtcTime::from_parts(days * DAY, 0)?.fields();
    ([y, m, d] == [year, month, day]).then_some(days)
}

/// Splits `Z` or an offset from a time of day; the offset in minutes east of UTC.
fn split_offset(time: &str) -> Option<(&str, i64)> {
    if let Some(clock) = time.strip_suffix(['Z', 'z']) {
        return Some((clock, 0));
    }
    let at = time.rfind(['+', '-'])?;
    let [hours, minutes] = fields(&time[at + 1..], ':', [2, 2])?;
    if hours > 23 || minutes > 59 {
        return None;
    }
    let minutes = i64::try_from(hours * 60 + minutes).ok()?;
    Some((&time[..at], if time[at..].starts_with('-') { -minutes } else { minutes }))
}

/// Numbers of exactly these many digits each.
fn fields<const N: usize>(text: &str, separator: char, digits: [usize; N]) -> Option<[u64; N]> {
    let mut parts = text.split(separator);
    let mut numbers = [0; N];
    for (number, digits) in numbers.iter_mut().zip(digits) {
        let part = parts.next()?;
        if part.len() != digits || !part.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        *number = part.parse().ok()?;
    }
    parts.next().is_none().then_some(numbers)
}

fn micros_of(fraction: &str) -> Option<u64> {
    if fraction.is_empty() || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let digits = fraction.bytes().chain(std::iter::repeat(b'0')).take(6);
    Some(digits.fold(0, |number, digit| number * 10 + u64::from(digit - b'0')))
}

/// Microseconds of a number with its unit.
fn parse_duration(text: &str) -> Option<u64> {
    let (at, unit) = text.char_indices().next_back()?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => DAY,
        'w' => 7 * DAY,
        _ => return None,
    };
    let number = &text[..at];
    if number.is_empty() || !number.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    number.parse::<u64>().ok()?.checked_mul(seconds * SECOND_MICROS)
}

const SECOND_MICROS: u64 = 1_000_000;
const DAY: u64 = 86_400;
const ERA_DAYS: u64 = 146_097;
/// From 0000-03-01.
const DAYS_TO_1970: u64 = 719_468;
/// The end of the year 9999.
const LAST_MICROS: u64 = 253_402_300_800 * SECOND_MICROS - 1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_times_are_written_and_read_back() {
        for (micros, text) in [
            (0, "1970-01-01T00:00:00.000000Z"),
            (951_782_399_999_999, "2000-02-28T23:59:59.999999Z"),
            (951_782_400_000_001, "2000-02-29T00:00:00.000001Z"),
            (1_709_251_199_500_000, "2024-02-29T23:59:59.500000Z"),
            (4_107_542_400_000_000, "2100-03-01T00:00:00.000000Z"),
            (LAST_MICROS, "9999-12-31T23:59:59.999999Z"),
        ] {
            assert_eq!(UtcTime { micros }.to_string(), text);
            assert_eq!(UtcTime::parse(text), Some(UtcTime { micros }));
        }
        for days in (0..2_932_896).step_by(97) {
            let time = UtcTime { micros: days * DAY * SECOND_MICROS };
            assert_eq!(UtcTime::parse(&time.to_string()), Some(time));
        }
    }

    #[test]
    fn what_people_write() {
        let now = UtcTime::parse("2026-11-22T07:00:00Z").unwrap();
        for (text, meant) in [
            ("2h", "2026-11-22T05:00:00.000000Z"),
            ("7d", "2026-11-15T07:00:00.000000Z"),
            ("2026-11-20", "2026-11-20T00:00:00.000000Z"),
            ("2026-11-20 08:15", "2026-11-20T08:15:00.000000Z"),
            ("2026-11-20T08:15:09", "2026-11-20T08:15:09.000000Z"),
            ("2026-11-20T08:15:09.25Z", "2026-11-20T08:15:09.250000Z"),
            ("2026-11-20T08:15:09+02:00", "2026-11-20T06:15:09.000000Z"),
            ("2026-11-20T20:15:09-05:30", "2026-11-21T01:45:09.000000Z"),
        ] {
            let parsed = UtcTime::parse_loosely(text, now).map(|time| time.to_string());
            assert_eq!(parsed.as_deref(), Some(meant), "{text}");
        }
        for text in [
            "",
            "h",
            "-1h",
            "yesterday",
            "2026-02-30",
            "2026-13-01",
            "1969-12-31",
            "2026-1-1",
            "2026-11-20T24:00:00Z",
            "2026-11-20T08:15:09.Z",
            "99999999999999999d",
            "2026-11-20T",
        ] {
            assert_eq!(UtcTime::parse_loosely(text, now), None, "{text}");
        }
    }
}
