//! Charts as SVG within a page: bars over time and bars by name. Colours come from the page's
//! classes, so that they follow its light and dark looks; numbers stand in titles and labels, so
//! that nothing is told by colour alone.

use std::fmt::Write;

use super::page::escape;
use super::table::shorten;
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
    let sum = |counts: &Counts| series.iter().map(|part| (part.count)(counts)).sum::<u64>();
    let top = round_up(buckets.iter().map(|bucket| sum(&bucket.counts)).max().unwrap_or(0));
    let mut svg = open(title, WIDTH, HEIGHT);
    let height_of = |count: u64| count as f64 / top as f64 * PLOT_HEIGHT;
    for step in 0..=STEPS {
        let y = PLOT_TOP + PLOT_HEIGHT * (1.0 - step as f64 / STEPS as f64);
        let count = top * step / STEPS;
        push(
            &mut svg,
            format_args!(
                "<line class=\"grid\" x1=\"{PLOT_LEFT}\" x2=\"{WIDTH}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
             <text class=\"axis\" text-anchor=\"end\" x=\"{:.1}\" y=\"{:.1}\">{count}</text>",
                PLOT_LEFT - 8.0,
                y + 4.0,
            ),
        );
    }
    let slot = (WIDTH - PLOT_LEFT) / buckets.len().max(1) as f64;
    let bar = (slot * 0.8).clamp(1.0, 48.0);
    for (index, bucket) in buckets.iter().enumerate() {
        let x = PLOT_LEFT + slot * index as f64 + (slot - bar) / 2.0;
        let mut y = PLOT_TOP + PLOT_HEIGHT;
        if sum(&bucket.counts) > 0 {
            push(&mut svg, format_args!("<g><title>{}", short_time(bucket)));
            for part in series {
                push(&mut svg, format_args!("\n{}: {}", part.name, (part.count)(&bucket.counts)));
            }
            svg.push_str("</title>");
            for part in series.iter().filter(|part| (part.count)(&bucket.counts) > 0) {
                // What happened is never too little to be seen.
                let height = height_of((part.count)(&bucket.counts)).max(1.5);
                y -= height;
                push(
                    &mut svg,
                    format_args!(
                        "<rect class=\"{}\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{bar:.1}\" \
                     height=\"{height:.1}\"/>",
                        part.class,
                    ),
                );
            }
            svg.push_str("</g>");
        }
    }
    for index in labelled(buckets.len()) {
        let x = PLOT_LEFT + slot * (index as f64 + 0.5);
        let anchor = match x {
            x if x < PLOT_LEFT + 60.0 => "start",
            x if x > WIDTH - 60.0 => "end",
            _ => "middle",
        };
        let x = match anchor {
            "start" => PLOT_LEFT,
            "end" => WIDTH,
            _ => x,
        };
        push(
            &mut svg,
            format_args!(
                "<text class=\"axis\" text-anchor=\"{anchor}\" x=\"{x:.1}\" y=\"{:.1}\">{}</text>",
                HEIGHT - 6.0,
                short_time(&buckets[index]),
            ),
        );
    }
    svg.push_str("</svg>");
    svg
}

/// A bar for each name, the longest first.
pub fn by_name(title: &str, rows: &[(String, Counts)], series: &[Series]) -> String {
    let sum = |counts: &Counts| series.iter().map(|part| (part.count)(counts)).sum::<u64>();
    let mut rows: Vec<&(String, Counts)> = rows.iter().filter(|row| sum(&row.1) > 0).collect();
    rows.sort_by_key(|row| std::cmp::Reverse(sum(&row.1)));
    let left_out = rows.len().saturating_sub(MAX_BARS);
    rows.truncate(MAX_BARS);
    let top = rows.first().map_or(1, |row| sum(&row.1)).max(1);
    let height = ROW_HEIGHT * (rows.len().max(1) + usize::from(left_out > 0)) as f64;
    let mut svg = open(title, NARROW_WIDTH, height);
    let plot = NARROW_WIDTH - NAME_WIDTH - COUNT_WIDTH;
    for (index, (name, counts)) in rows.iter().enumerate() {
        let y = ROW_HEIGHT * index as f64;
        push(
            &mut svg,
            format_args!(
                "<g><title>{}</title><text class=\"label\" text-anchor=\"end\" x=\"{:.1}\" \
             y=\"{:.1}\">{}</text>",
                escape(name),
                NAME_WIDTH - 8.0,
                y + 18.0,
                escape(&shorten(name, NAME_CHARS)),
            ),
        );
        let mut x = NAME_WIDTH;
        for part in series.iter().filter(|part| (part.count)(counts) > 0) {
            let width = ((part.count)(counts) as f64 / top as f64 * plot).max(1.5);
            push(
                &mut svg,
                format_args!(
                    "<rect class=\"{}\" x=\"{x:.1}\" y=\"{:.1}\" width=\"{width:.1}\" height=\"18\" \
                 rx=\"2\"/>",
                    part.class,
                    y + 4.0,
                ),
            );
            x += width;
        }
        push(
            &mut svg,
            format_args!(
                "<text class=\"count\" x=\"{:.1}\" y=\"{:.1}\">{}</text></g>",
                x + 6.0,
                y + 18.0,
                sum(counts),
            ),
        );
    }
    if rows.is_empty() {
        push(&mut svg, format_args!("<text class=\"axis\" x=\"0\" y=\"18\">none</text>"));
    }
    if left_out > 0 {
        let y = ROW_HEIGHT * rows.len() as f64 + 18.0;
        push(
            &mut svg,
            format_args!(
                "<text class=\"axis\" x=\"{NAME_WIDTH}\" y=\"{y:.1}\">and {left_out} more</text>"
            ),
        );
    }
    svg.push_str("</svg>");
    svg
}

fn open(title: &str, width: f64, height: f64) -> String {
    format!(
        "<svg viewBox=\"0 0 {width:.0} {height:.0}\" role=\"img\" aria-label=\"{title}\" \
         xmlns=\"http://www.w3.org/2000/svg\">"
    )
}

fn push(svg: &mut String, text: std::fmt::Arguments<'_>) {
    svg.write_fmt(text).expect("a string takes all");
}

fn short_time(bucket: &Bucket) -> String {
    let text = bucket.start.to_string();
    format!("{} {}", &text[..10], &text[11..16])
}

/// The next number of the form 4, 8, 20, 40, 80, ...: its quarters are whole.
fn round_up(count: u64) -> u64 {
    let mut unit = 4;
    loop {
        for factor in [1, 2, 5] {
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
const NAME_WIDTH: f64 = 150.0;
const COUNT_WIDTH: f64 = 60.0;
const NAME_CHARS: usize = 20;
const ROW_HEIGHT: f64 = 28.0;
const MAX_BARS: usize = 12;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_end_at_round_numbers() {
        for (count, top) in
            [(0, 4), (4, 4), (5, 8), (9, 20), (21, 40), (41, 80), (199, 200), (7_000, 8_000)]
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
