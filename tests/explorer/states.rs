//! Which crashes of a stretch between two syncs are looked at: all of them where they are few,
//! else the telling ones and a sample.

use ssefs::store::recorder::{Fate, Segment};

use super::settings::Random;

/// The fate of each change of a segment.
pub type Fates = Vec<Fate>;

/// Crashes within `segment`, at most about `limit`. Each of them is there once.
pub fn crashes(segment: &Segment, limit: usize, random: &mut Random) -> Vec<Fates> {
    let count = segment.changes().len();
    let mut found = if count < usize::BITS as usize && 1_usize << count <= limit {
        (0..1_usize << count).map(|set| subset(count, |change| set >> change & 1 == 1)).collect()
    } else {
        telling(count)
    };
    let tearable: Vec<usize> = (0..count).filter(|change| segment.may_tear(*change)).collect();
    let complete = count < usize::BITS as usize && found.len() == 1 << count;
    let torn = if tearable.is_empty() { 0 } else { (limit / 4).max(8) };
    let sampled = if complete { 0 } else { limit.saturating_sub(found.len() + torn) };
    for number in 0..sampled + torn {
        let mut fates = subset(count, |_| random.one_in(2));
        if number >= sampled {
            for _ in 0..1 + random.below(2) {
                fates[tearable[random.below(tearable.len())]] = tear(random);
            }
        }
        found.push(fates);
    }
    found.sort_by_key(|fates| text(fates));
    found.dedup();
    found
}

/// Nothing, everything, everything up to a point, all but one, one alone, and pairs of those
/// that stand next to each other.
fn telling(count: usize) -> Vec<Fates> {
    let mut found = vec![subset(count, |_| false), subset(count, |_| true)];
    for at in 0..count {
        found.push(subset(count, |change| change < at));
        found.push(subset(count, |change| change > at));
        found.push(subset(count, |change| change != at));
        found.push(subset(count, |change| change == at));
        found.push(subset(count, |change| change == at || change == at + 1));
    }
    found
}

fn subset(count: usize, is_there: impl FnMut(usize) -> bool) -> Fates {
    let fate = |there| if there { Fate::Whole } else { Fate::Missing };
    (0..count).map(is_there).map(fate).collect()
}

fn tear(random: &mut Random) -> Fate {
    match random.below(3) {
        // From the front, from the back, any.
        0 => Fate::Torn((1 << (1 + random.below(7))) - 1),
        1 => Fate::Torn(0xff << (1 + random.below(7))),
        _ => Fate::Torn(random.number() as u8),
    }
}

/// Fates as they are printed: one sign for each change, and the sectors of a torn page.
pub fn text(fates: &[Fate]) -> String {
    let sign = |fate: &Fate| match fate {
        Fate::Missing => "-".to_owned(),
        Fate::Whole => "+".to_owned(),
        Fate::Torn(sectors) => format!("[{sectors:08b}]"),
    };
    fates.iter().map(sign).collect()
}
