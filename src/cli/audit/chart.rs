//! Charts as SVG within a page: bars over time and bars by name. Colours come from the page's
//! classes, so that they follow its light and dark looks; numbers stand in titles and labels, so
//! that nothing is told by colour alone.

use super::page::escape;
use crate::keys::audit::{Bucket, Counts};

/// One part of each bar.
pub struct Series {
    /// What it counts.
    pub name: &'static str,
    /// The class that colours it.
    pub class: &'static str,
    /// The number.
    pub count: fn(&Counts) -> u64,
}

/// Bars over time, the series upon each other.
pub fn over_time(title: &str, buckets: &[Bucket], series: &[Series]) -> String {
    let highest = buckets.iter().map(|bucket| sum(series, &bucket.counts)).max();
    let top = round_up(highest.unwrap_or(0));
    let mut svg = open(title, WIDTH, HEIGHT);
    for step in 0..=STEPS {
        let y = PLOT_TOP + PLOT_HEIGHT * (1.0 - step as f64 / STEPS as f64);
        svg += &format!("<path class=\"grid\" d=\"M{PLOT_LEFT} {y:.1}H{WIDTH}\"/>");
        let count = (top * step / STEPS).to_string();
        svg += &text("axis", "end", (PLOT_LEFT - 8.0, y + 4.0), &count);
    }
    let slot = (WIDTH - PLOT_LEFT) / buckets.len().max(1) as f64;
    let bar = (slot * 0.8).clamp(1.0, 48.0);
    for (index, bucket) in buckets.iter().enumerate() {
        let counts = &bucket.counts;
        if sum(series, counts) == 0 {
            continue;
        }
        let told = series.iter().map(|part| format!("\n{}: {}", part.name, (part.count)(counts)));
        let told: String = told.collect();
        svg += &format!("<g><title>{}{told}</title>", short_time(bucket));
        let x = PLOT_LEFT + slot * index as f64 + (slot - bar) / 2.0;
        let mut y = PLOT_TOP + PLOT_HEIGHT;
        for part in series.iter().filter(|part| (part.count)(counts) > 0) {
            let height = (part.count)(counts) as f64 / top as f64 * PLOT_HEIGHT;
            let height = height.max(LEAST_SEEN);
            y -= height;
            svg += &rectangle(part.class, (x, y), (bar, height));
        }
        svg += "</g>";
    }
    for index in labelled(buckets.len()) {
        let middle = PLOT_LEFT + slot * (index as f64 + 0.5);
        let (anchor, x) = match middle {
            x if x < PLOT_LEFT + 60.0 => ("start", PLOT_LEFT),
            x if x > WIDTH - 60.0 => ("end", WIDTH),
            x => ("middle", x),
        };
        svg += &text("axis", anchor, (x, HEIGHT - 6.0), &short_time(&buckets[index]));
    }
    svg + "</svg>"
}

/// A bar for each name, the longest first.
pub fn by_name(title: &str, rows: &[(String, Counts)], series: &[Series]) -> String {
    let mut rows: Vec<_> = rows.iter().filter(|row| sum(series, &row.1) > 0).collect();
    rows.sort_by_key(|row| std::cmp::Reverse(sum(series, &row.1)));
    let left_out = rows.len().saturating_sub(MAX_BARS);
    rows.truncate(MAX_BARS);
    let top = rows.first().map_or(1, |row| sum(series, &row.1));
    let lines = rows.len().max(1) + usize::from(left_out > 0);
    let mut svg = open(title, NARROW_WIDTH, ROW_HEIGHT * lines as f64);
    let plot = NARROW_WIDTH - NAME_WIDTH - COUNT_WIDTH;
    for (index, (name, counts)) in rows.iter().enumerate() {
        let y = ROW_HEIGHT * index as f64;
        svg += &format!("<g><title>{}</title>", escape(name));
        let place = (NAME_WIDTH - 8.0, y + BASELINE);
        svg += &text("label", "end", place, &escape(&beginning(name)));
        let mut x = NAME_WIDTH;
        for part in series.iter().filter(|part| (part.count)(counts) > 0) {
            let width = (part.count)(counts) as f64 / top as f64 * plot;
            let width = width.max(LEAST_SEEN);
            svg += &rectangle(part.class, (x, y + 4.0), (width, BAR_HEIGHT));
            x += width;
        }
        let count = sum(series, counts).to_string();
        svg += &text("count", "start", (x + 6.0, y + BASELINE), &count);
        svg += "</g>";
    }
    if rows.is_empty() {
        svg += &text("axis", "start", (0.0, BASELINE), "none");
    }
    if left_out > 0 {
        let y = ROW_HEIGHT * rows.len() as f64 + BASELINE;
        svg += &text("axis", "start", (NAME_WIDTH, y), &format!("and {left_out} more"));
    }
    svg + "</svg>"
}

fn sum(series: &[Series], counts: &Counts) -> u64 {
    series.iter().map(|part| (part.count)(counts)).sum()
}

fn open(title: &str, width: f64, height: f64) -> String {
    format!(
        "<svg viewBox=\"0 0 {width:.0} {height:.0}\" role=\"img\" aria-label=\"{title}\" \
         xmlns=\"http://www.w3.org/2000/svg\">"
    )
}

fn rectangle(class: &str, (x, y): (f64, f64), (width, height): (f64, f64)) -> String {
    format!(
        "<rect class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" \
         height=\"{height:.1}\"/>"
    )
}

/// Text that is escaped already.
fn text(class: &str, anchor: &str, (x, y): (f64, f64), escaped: &str) -> String {
    format!(
        "<text class=\"{class}\" text-anchor=\"{anchor}\" x=\"{x:.1}\" y=\"{y:.1}\">{escaped}\
         </text>"
    )
}

/// The beginning of a name; the whole of it is in its title.
fn beginning(name: &str) -> String {
    if name.chars().count() <= NAME_CHARS {
        return name.to_owned();
    }
    let kept: String = name.chars().take(NAME_CHARS - 1).collect();
    format!("{kept}…")
}

fn short_time(bucket: &Bucket) -> String {
    let text = bucket.start.to_string();
    format!("{} {}", &text[..10], &text[11..16])
}

/// The next number that suits a scale: its quarters are whole.
fn round_up(count: u64) -> u64 {
    let mut unit = 4;
    loop {
        for factor in [1, 2, 3, 4, 5, 6, 8] {
            if unit * factor >= count {
                return unit * factor;
            }
        }
        unit *= 10;
    }
}

/// Which of `count` bars have their time written below.
fn labelled(count: usize) -> Vec<usize> {
    match count {
        0 => Vec::new(),
        1 => vec![0],
        2..=5 => vec![0, count - 1],
        _ => vec![0, count / 2, count - 1],
    }
}

const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 240.0;
const PLOT_LEFT: f64 = 64.0;
const PLOT_TOP: f64 = 12.0;
const PLOT_HEIGHT: f64 = 196.0;
const STEPS: u64 = 4;
const NARROW_WIDTH: f64 = 460.0;
const NAME_WIDTH: f64 = 160.0;
const COUNT_WIDTH: f64 = 60.0;
const NAME_CHARS: usize = 18;
const ROW_HEIGHT: f64 = 28.0;
const BAR_HEIGHT: f64 = 18.0;
const BASELINE: f64 = 18.0;
const MAX_BARS: usize = 12;
/// What happened is never too little to be seen.
const LEAST_SEEN: f64 = 1.5;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_end_at_round_numbers() {
        for (count, top) in
            [(0, 4), (4, 4), (5, 8), (9, 12), (21, 24), (33, 40), (199, 200), (7_000, 8_000)]
        {
            assert_eq!(round_up(count), top, "{count}");
            assert_eq!(round_up(count) % STEPS, 0);
        }
    }

    #[test]
    fn names_cannot_leave_their_place() {
        let uses = [Series { name: "uses", class: "uses", count: |counts| counts.uses }];
        let counts = Counts { uses: 3, ..Counts::default() };
        let svg = by_name("t", &[("<script>\"&".to_owned(), counts)], &uses);
        assert!(!svg.contains("<script") && svg.contains("&lt;script&gt;&quot;&amp;"), "{svg}");
    }
}
