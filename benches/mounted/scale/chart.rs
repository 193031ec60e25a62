//! The curves in three panels, both axes logarithmic: a cost that does not grow is a level line.

use std::fmt::Write;

use super::{Curve, Panel, sizes_of};
use crate::chart::{STYLE, escaped};
use crate::report::distinct;

/// The chart of all curves.
pub fn of(curves: &[Curve]) -> String {
    let mut svg = String::new();
    let width = LEFT + Panel::ALL.len() as u32 * PANEL;
    let _ = writeln!(
        svg,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {HEIGHT}\" \
         role=\"img\" aria-label=\"Costs by size\">\n{STYLE}"
    );
    let (low, high) =
        decades(curves.iter().flat_map(|curve| curve.points.iter().map(|point| point.micros)));
    let y = |micros: f64| {
        let part = (micros.log10() - f64::from(low)) / f64::from(high - low);
        f64::from(BOTTOM) - part * f64::from(BOTTOM - TOP)
    };
    for power in low..=high {
        let y = y(10_f64.powi(power));
        let _ = writeln!(
            svg,
            "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
             <text class=\"name\" x=\"{}\" y=\"{:.1}\">{} us</text>",
            width - GAP,
            LEFT - 6,
            y + 4.0,
            10_f64.powi(power)
        );
    }
    for (place, panel) in Panel::ALL.into_iter().enumerate() {
        let own: Vec<&Curve> = curves.iter().filter(|curve| curve.panel == panel).collect();
        draw(&mut svg, panel, &own, LEFT + place as u32 * PANEL, &y);
    }
    svg.push_str("</svg>\n");
    svg
}

fn draw(svg: &mut String, panel: Panel, curves: &[&Curve], left: u32, y: &dyn Fn(f64) -> f64) {
    let sizes = sizes_of(curves.iter().copied());
    let (Some(least), Some(most)) = (sizes.iter().min().copied(), sizes.iter().max().copied())
    else {
        return;
    };
    let range = (most as f64 / least as f64).log10().max(1.0);
    let x = |size: u64| {
        let part = (size as f64 / least as f64).log10() / range;
        f64::from(left + INSET) + part * f64::from(PANEL - GAP - 2 * INSET)
    };
    let _ = writeln!(svg, "<text class=\"title\" x=\"{left}\" y=\"16\">{}</text>", panel.axis());
    for size in sizes {
        let _ = writeln!(
            svg,
            "<text class=\"tick\" x=\"{:.1}\" y=\"{}\">{}</text>",
            x(size),
            BOTTOM + 14,
            panel.label(size)
        );
    }
    let systems = distinct(curves.iter().map(|curve| curve.system));
    let works = distinct(curves.iter().map(|curve| curve.work));
    for curve in curves {
        let color = works.iter().position(|work| *work == curve.work).unwrap_or(0);
        let dash = systems.iter().position(|system| *system == curve.system).unwrap_or(0) * 4;
        let points: Vec<String> = curve
            .points
            .iter()
            .map(|point| format!("{:.1},{:.1}", x(point.size), y(point.micros)))
            .collect();
        let _ = writeln!(
            svg,
            "<polyline fill=\"none\" stroke-width=\"2\" stroke-dasharray=\"{dash}\" \
             class=\"l{color}\" points=\"{}\"><title>{} {}</title></polyline>",
            points.join(" "),
            escaped(curve.system),
            escaped(curve.work)
        );
    }
    for (line, work) in works.iter().enumerate() {
        let (x, y) = (left + (line as u32 % 3) * 88, BOTTOM + 34 + (line as u32 / 3) * 16);
        let _ = writeln!(
            svg,
            "<rect class=\"s{line}\" x=\"{x}\" y=\"{}\" width=\"12\" height=\"10\"/>\
             <text class=\"key\" x=\"{}\" y=\"{y}\">{}</text>",
            y - 9,
            x + 16,
            escaped(work)
        );
    }
}

/// Powers of ten around the values.
fn decades(values: impl Iterator<Item = f64>) -> (i32, i32) {
    let (mut low, mut high) = (0, 1);
    for value in values.filter(|value| *value > 0.0) {
        low = low.min(value.log10().floor() as i32);
        high = high.max(value.log10().ceil() as i32);
    }
    (low, high)
}

const HEIGHT: u32 = 340;
const LEFT: u32 = 70;
const PANEL: u32 = 280;
const GAP: u32 = 12;
const INSET: u32 = 22;
const TOP: u32 = 30;
const BOTTOM: u32 = 270;
