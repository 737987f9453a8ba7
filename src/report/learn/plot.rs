//! The curves of a suite as one SVG: a row per task, a column per axis, mean over seeds with its 95 % interval.
//!
//! Drawn by hand: lines, areas and words need no library, and the words no font but the reader's own.

use std::fmt::Write;

use super::compare::mean_curve;
use super::curve::{Axis, Interval, RunCurve};

/// Okabe and Ito's colours, which the colour-blind tell apart; black is for words.
const COLOURS: [&str; 7] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f00"];
/// Where there are more algorithms than colours.
const DASHES: [&str; 4] = ["", "6 3", "2 2", "8 2 2 2"];

const PANEL_WIDTH: f64 = 300.0;
const PANEL_HEIGHT: f64 = 200.0;
const LEFT: f64 = 54.0;
const TOP: f64 = 34.0;
const GAP_X: f64 = 30.0;
const GAP_Y: f64 = 64.0;
const LEGEND_LINE: f64 = 16.0;
const LEGEND_COLUMN: f64 = 320.0;
/// Places of a curve.
const PLACES: u32 = 60;

/// One panel: where it stands and what its axes span.
struct Panel {
    left: f64,
    top: f64,
    most_x: f64,
    most_y: f64,
}

impl Panel {
    fn x(&self, value: f64) -> f64 {
        self.left + PANEL_WIDTH * value / self.most_x.max(1e-9)
    }

    fn y(&self, share: f64) -> f64 {
        self.top + PANEL_HEIGHT * (1.0 - share.clamp(0.0, self.most_y) / self.most_y)
    }

    fn points(&self, points: impl Iterator<Item = (f64, f64)>) -> String {
        points.map(|(x, y)| format!("{:.1},{:.1}", self.x(x), self.y(y))).collect::<Vec<_>>().join(" ")
    }
}

/// The plot of `tasks` with the algorithms in their order; `limits` are the tokens of the tasks, 0 for none.
pub fn plot(tasks: &[(&str, u64)], algorithms: &[&str], runs: &[RunCurve]) -> String {
    let columns = Axis::ALL.len();
    let width = LEFT + columns as f64 * (PANEL_WIDTH + GAP_X);
    let legend_columns = ((width - LEFT) / LEGEND_COLUMN).floor().max(1.0) as usize;
    let legend_top = TOP + tasks.len() as f64 * (PANEL_HEIGHT + GAP_Y);
    let height = legend_top + algorithms.len().div_ceil(legend_columns) as f64 * LEGEND_LINE + 8.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width:.0}\" height=\"{height:.0}\" viewBox=\"0 0 {width:.0} {height:.0}\" \
         font-family=\"sans-serif\" font-size=\"11\">\n<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n"
    );
    for (row, &(task, limit)) in tasks.iter().enumerate() {
        let top = TOP + row as f64 * (PANEL_HEIGHT + GAP_Y);
        let own: Vec<&RunCurve> = runs.iter().filter(|run| run.task == task && !run.points.is_empty()).collect();
        for (column, axis) in Axis::ALL.into_iter().enumerate() {
            let left = LEFT + column as f64 * (PANEL_WIDTH + GAP_X);
            let curves: Vec<Vec<(f64, Interval)>> =
                algorithms.iter().map(|name| curve(name, &own, axis, limit)).collect();
            let ends = curves.iter().filter_map(|curve| curve.last()).map(|(x, _)| *x);
            let highs = curves.iter().flatten().map(|(_, interval)| interval.high.min(1.0));
            let most_y = (10.0 * highs.fold(0.1, f64::max)).ceil() / 10.0;
            let panel = Panel { left, top, most_x: ends.fold(0.0, f64::max), most_y };
            frame(&mut svg, &panel, task, axis, column == 0);
            for (index, curve) in curves.iter().enumerate() {
                draw(&mut svg, &panel, index, curve);
            }
        }
    }
    for (index, name) in algorithms.iter().enumerate() {
        let (row, column) = (index / legend_columns, index % legend_columns);
        let (x, y) = (LEFT + column as f64 * LEGEND_COLUMN, legend_top + row as f64 * LEGEND_LINE);
        let _ = writeln!(
            svg,
            "<line x1=\"{x:.0}\" y1=\"{y:.0}\" x2=\"{:.0}\" y2=\"{y:.0}\" {}/>\n<text x=\"{:.0}\" y=\"{:.0}\">{}</text>",
            x + 26.0,
            stroke(index),
            x + 32.0,
            y + 4.0,
            escaped(name)
        );
    }
    svg + "</svg>\n"
}

/// The mean curve of an algorithm, as far as all its runs go.
fn curve(name: &str, runs: &[&RunCurve], axis: Axis, limit: u64) -> Vec<(f64, Interval)> {
    let own: Vec<&RunCurve> = runs.iter().copied().filter(|run| run.algorithm == name).collect();
    let shortest = own.iter().map(|run| run.end(axis)).fold(f64::INFINITY, f64::min);
    let until = match (axis, limit) {
        (Axis::GeneratedTokens, 1..) => limit as f64,
        _ if shortest.is_finite() => shortest,
        _ => return Vec::new(),
    };
    mean_curve(&own, axis, until, PLACES)
}

fn frame(svg: &mut String, panel: &Panel, task: &str, axis: Axis, is_first: bool) {
    let (left, top) = (panel.left, panel.top);
    let (right, bottom) = (left + PANEL_WIDTH, top + PANEL_HEIGHT);
    let _ = writeln!(
        svg,
        "<rect x=\"{left:.0}\" y=\"{top:.0}\" width=\"{PANEL_WIDTH:.0}\" height=\"{PANEL_HEIGHT:.0}\" fill=\"none\" stroke=\"#888888\"/>"
    );
    let tenths = (10.0 * panel.most_y).round() as u32;
    for tenth in (0..=tenths).step_by(if tenths > 5 { 2 } else { 1 }) {
        let y = panel.y(f64::from(tenth) / 10.0);
        let _ = writeln!(
            svg,
            "<line x1=\"{left:.0}\" y1=\"{y:.1}\" x2=\"{right:.0}\" y2=\"{y:.1}\" stroke=\"#dddddd\"/>\n\
             <text x=\"{:.0}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            left - 5.0,
            y + 4.0,
            10 * tenth
        );
    }
    let step = round_step(panel.most_x / 5.0);
    let mut value = 0.0;
    while value <= panel.most_x * 1.0001 && step > 0.0 {
        let x = panel.x(value);
        let _ = writeln!(
            svg,
            "<text x=\"{x:.1}\" y=\"{:.0}\" text-anchor=\"middle\">{}</text>",
            bottom + 15.0,
            short(value)
        );
        value += step;
    }
    let _ = writeln!(
        svg,
        "<text x=\"{:.0}\" y=\"{:.0}\" text-anchor=\"middle\">{}</text>",
        left + PANEL_WIDTH / 2.0,
        bottom + 31.0,
        axis.label()
    );
    if is_first {
        let _ = writeln!(
            svg,
            "<text x=\"{left:.0}\" y=\"{:.0}\" font-weight=\"bold\">{}: held-out pass@1, %</text>",
            top - 8.0,
            escaped(task)
        );
    }
}

fn draw(svg: &mut String, panel: &Panel, index: usize, curve: &[(f64, Interval)]) {
    if curve.is_empty() {
        return;
    }
    let upper = curve.iter().map(|(x, interval)| (*x, interval.high));
    let lower = curve.iter().rev().map(|(x, interval)| (*x, interval.low));
    let colour = COLOURS[index % COLOURS.len()];
    let _ = writeln!(
        svg,
        "<polygon points=\"{}\" fill=\"{colour}\" fill-opacity=\"0.13\"/>\n<polyline points=\"{}\" fill=\"none\" {}/>",
        panel.points(upper.chain(lower)),
        panel.points(curve.iter().map(|(x, interval)| (*x, interval.mean))),
        stroke(index)
    );
}

fn stroke(index: usize) -> String {
    let dash = match DASHES[index / COLOURS.len() % DASHES.len()] {
        "" => String::new(),
        dash => format!(" stroke-dasharray=\"{dash}\""),
    };
    format!("stroke=\"{}\" stroke-width=\"1.8\"{dash}", COLOURS[index % COLOURS.len()])
}

/// 1, 2 or 5 times a power of ten, at least `value`.
fn round_step(value: f64) -> f64 {
    if !(value.is_finite() && value > 0.0) {
        return 0.0;
    }
    let power = 10f64.powf(value.log10().floor());
    [1.0, 2.0, 5.0, 10.0].map(|factor| factor * power).into_iter().find(|&step| step >= value).unwrap_or(10.0 * power)
}

/// 250000 as `250k`.
fn short(value: f64) -> String {
    match value {
        _ if value >= 1e6 => format!("{}M", value / 1e6),
        _ if value >= 1e3 => format!("{}k", value / 1e3),
        _ => format!("{value}"),
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::super::curve::tests::run;
    use super::*;

    #[test]
    fn every_algorithm_has_a_line_in_every_panel() {
        let runs = [
            run("tree", 1, &[(0.0, 0.1), (500.0, 0.3), (1000.0, 0.52)]),
            run("tree", 2, &[(0.0, 0.1), (500.0, 0.4), (1100.0, 0.5)]),
            run("grpo", 1, &[(0.0, 0.1), (1000.0, 0.3)]),
        ];
        let svg = plot(&[("sums", 1000)], &["tree", "grpo", "a<b"], &runs);
        assert_eq!(svg.matches("<polyline").count(), 6, "{svg}");
        assert_eq!(svg.matches("<polygon").count(), 6);
        assert!(svg.contains("a&lt;b") && svg.contains("sums: held-out pass@1, %") && svg.ends_with("</svg>\n"));
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        let empty = plot(&[("sums", 0)], &["tree"], &[]);
        assert!(!empty.contains("<polyline") && !empty.contains("NaN"), "{empty}");
    }

    #[test]
    fn steps_of_an_axis_are_round() {
        assert_eq!([0.0, 0.7, 1.0, 13.0, 41_000.0].map(round_step), [0.0, 1.0, 1.0, 20.0, 50_000.0]);
        assert_eq!([0.0, 200.0, 50_000.0, 1_500_000.0].map(short), ["0", "200", "50k", "1.5M"]);
    }
}
