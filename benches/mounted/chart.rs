//! The report as a picture: for each row a bar for each system, as long as the logarithm of its
//! speed relative to gocryptfs. Readable on light and on dark ground.

use std::fmt::Write;

use crate::report::{Line, Report, distinct};

/// The chart of the first backing store.
pub fn of(report: &Report) -> String {
    let backing = report.lines.first().map_or("", |line| line.backing.as_str());
    let lines = report.lines.iter().filter(|line| line.backing == backing);
    let lines: Vec<&Line> = lines.filter(|line| line.of("gocryptfs").is_some()).collect();
    let drawn = lines.iter().flat_map(|line| &line.cells).map(|cell| cell.system);
    let systems = distinct(drawn.filter(|system| BARS.contains(system)));
    let scale = Scale::of(&lines, &systems);
    let row_height = systems.len() as u32 * BAR + GAP;
    let height = TOP + lines.len() as u32 * row_height + 2 * GAP;
    let mut svg = String::new();
    let _ = writeln!(
        svg,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
         role=\"img\" aria-label=\"Speed relative to gocryptfs on {}\">\n{STYLE}",
        escaped(backing)
    );
    legend(&mut svg, backing, &systems);
    for power in scale.low..=scale.high {
        let (x, class) =
            (scale.x(f64::from(power).exp2()), if power == 0 { "one" } else { "grid" });
        let label = if power < 0 { format!("1/{}", 1 << -power) } else { (1 << power).to_string() };
        let _ = writeln!(
            svg,
            "<line class=\"{class}\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{TOP}\" y2=\"{}\"/>\
             <text class=\"tick\" x=\"{x:.1}\" y=\"{}\">{label}\u{d7}</text>",
            height - GAP,
            TOP - 5
        );
    }
    for (index, line) in lines.iter().enumerate() {
        let top = TOP + GAP + index as u32 * row_height;
        let _ = writeln!(
            svg,
            "<text class=\"name\" x=\"{}\" y=\"{}\">{}</text>",
            LEFT - 8,
            top + (row_height - GAP) / 2 + 4,
            escaped(line.row.name)
        );
        for (place, system) in systems.iter().enumerate() {
            let Some(speed) = line.speed(system, "gocryptfs") else { continue };
            let (one, end) = (scale.x(1.0), scale.x(speed));
            let _ = writeln!(
                svg,
                "<rect class=\"s{}\" x=\"{:.1}\" y=\"{}\" width=\"{:.1}\" height=\"{}\">\
                 <title>{}: {speed:.2}</title></rect>",
                class_of(system),
                one.min(end),
                top + place as u32 * BAR,
                (one - end).abs().max(1.0),
                BAR - 1,
                escaped(system),
            );
        }
    }
    svg.push_str("</svg>\n");
    svg
}

/// Powers of two from the least to the greatest speed.
struct Scale {
    low: i32,
    high: i32,
}

impl Scale {
    fn of(lines: &[&Line], systems: &[&str]) -> Self {
        let (mut low, mut high) = (-1, 2);
        for line in lines {
            for speed in systems.iter().filter_map(|system| line.speed(system, "gocryptfs")) {
                let power = speed.clamp(1.0 / 1024.0, 1024.0).log2();
                low = low.min(power.floor() as i32);
                high = high.max(power.ceil() as i32);
            }
        }
        Self { low, high }
    }

    fn x(&self, speed: f64) -> f64 {
        let range = f64::from(self.high - self.low);
        let part = (speed.log2() - f64::from(self.low)).clamp(0.0, range) / range;
        f64::from(LEFT) + part * f64::from(WIDTH - LEFT - 24)
    }
}

fn legend(svg: &mut String, backing: &str, systems: &[&str]) {
    let _ = writeln!(
        svg,
        "<text class=\"title\" x=\"8\" y=\"18\">Speed relative to gocryptfs, on {}; \
         longer to the right is faster</text>",
        escaped(backing)
    );
    for (place, system) in systems.iter().enumerate() {
        let x = 8 + place as u32 * 150;
        let _ = writeln!(
            svg,
            "<rect class=\"s{}\" x=\"{x}\" y=\"28\" width=\"12\" height=\"10\"/>\
             <text x=\"{}\" y=\"37\">{}</text>",
            class_of(system),
            x + 17,
            escaped(system)
        );
    }
}

fn class_of(system: &str) -> usize {
    BARS.iter().position(|bar| *bar == system).unwrap_or(BARS.len())
}

/// Text as it may stand in SVG.
pub fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('"', "&quot;")
}

/// What is drawn; a chart of everything shows nothing.
const BARS: [&str; 7] =
    ["ssefs-uring", "ssefs", "ssefs-classic", "ssefs-process", "securefs", "cryfs", "encfs"];
const WIDTH: u32 = 820;
const LEFT: u32 = 140;
const TOP: u32 = 66;
const BAR: u32 = 8;
const GAP: u32 = 7;
/// Colours of the things that are drawn, `s` for areas and `l` for lines.
pub const STYLE: &str = "<style>\
text{font:12px sans-serif;fill:#1f2328}.title{font-weight:bold;font-size:14px}\
.key{font-size:11px}.tick{text-anchor:middle;font-size:10px}.name{text-anchor:end}\
.grid{stroke:#8c959f;stroke-opacity:.4}.one{stroke:#6e7781;stroke-width:1.5}\
.s0{fill:#1f77d0}.s1{fill:#7db3ea}.s2{fill:#2f9e8f}.s3{fill:#e08a2e}.s4{fill:#b86ac4}\
.s5{fill:#9a8c3c}.s6{fill:#8c959f}\
.l0{stroke:#1f77d0}.l1{stroke:#7db3ea}.l2{stroke:#2f9e8f}.l3{stroke:#e08a2e}.l4{stroke:#b86ac4}\
@media(prefers-color-scheme:dark){text{fill:#e6edf3}}\
</style>";
