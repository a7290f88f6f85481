//! The comparison as a picture: SVG written by hand, so that equal figures give equal bytes and no
//! plotting library is needed.

use std::fmt::Write as _;
use std::time::Duration;

use crate::compare::Outcome;
use crate::report::false_death_rate;
use crate::scenario::Figures;

const WIDTH: f64 = 980.0;
const HEIGHT: f64 = 470.0;
/// One colour for each engine.
const COLOURS: [&str; 2] = ["#00695c", "#c62828"];
/// False deaths are shown on a logarithmic scale from this on; fewer than it are none.
const RATE_FIRST: f64 = 1.0;

/// A rectangle in which data is drawn, and what its edges mean.
#[derive(Clone, Copy, Debug)]
struct Panel {
    left: f64,
    top: f64,
    width: f64,
    height: f64,
    x_most: f64,
    y_most: f64,
}

impl Panel {
    fn x(&self, value: f64) -> f64 {
        self.left + value / self.x_most * self.width
    }

    fn y(&self, value: f64) -> f64 {
        self.top + self.height - value.min(self.y_most) / self.y_most * self.height
    }
}

/// The picture.
pub(crate) fn svg(outcomes: &[Outcome]) -> String {
    let panel = |left, x_most, y_most| Panel {
        left,
        top: 70.0,
        width: 395.0,
        height: 320.0,
        x_most,
        y_most,
    };
    let plain = outcomes
        .iter()
        .filter(|outcome| outcome.scenario.is_plain());
    let (of_plain, of_all) = (slowest(plain, 0.99), slowest(outcomes, 0.5));
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
         font-family=\"sans-serif\" font-size=\"12\" fill=\"#222\">\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#fff\"/>\n"
    );
    by_loss(&mut svg, &panel(60.0, 30.0, of_plain), outcomes);
    by_false_deaths(&mut svg, &panel(545.0, 6.0, of_all), outcomes);
    legend(&mut svg);
    svg.push_str("</svg>\n");
    svg
}

/// Seconds, up to the next five, within which this share was out of all views everywhere.
fn slowest<'a>(outcomes: impl IntoIterator<Item = &'a Outcome>, share: f64) -> f64 {
    let figures = outcomes.into_iter().flat_map(|outcome| &outcome.figures);
    let times = figures.filter_map(|(_, figures)| figures.all.share(share));
    let most = times.max().unwrap_or_default().as_secs_f64();
    (most / 5.0).ceil().max(1.0) * 5.0
}

/// Left: detection times as more and more is lost.
fn by_loss(svg: &mut String, panel: &Panel, outcomes: &[Outcome]) {
    text(
        svg,
        panel.left,
        30.0,
        "start",
        "Host silent until out of every view, by packet loss",
    );
    text(
        svg,
        panel.left,
        48.0,
        "start",
        "solid: median, dashed: 99 %; seconds",
    );
    axes(svg, panel, "packets lost, %");
    for loss in [0.0, 10.0, 20.0, 30.0] {
        tick(svg, panel, loss, &loss.to_string());
    }
    for (engine, colour) in COLOURS.iter().enumerate() {
        for (share, dash) in [(0.5, ""), (0.99, " stroke-dasharray=\"5 4\"")] {
            let points = outcomes
                .iter()
                .filter(|outcome| outcome.scenario.is_plain());
            let points = points.filter_map(|outcome| {
                let time = outcome.figures[engine].1.all.share(share)?;
                let x = panel.x(outcome.scenario.conditions.loss * 100.0);
                Some(format!("{x:.1},{:.1}", panel.y(time.as_secs_f64())))
            });
            let points: Vec<_> = points.collect();
            let _ = writeln!(
                svg,
                "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"{dash}/>",
                points.join(" ")
            );
        }
    }
}

/// Right: every scenario as a point of each engine.
fn by_false_deaths(svg: &mut String, panel: &Panel, outcomes: &[Outcome]) {
    text(
        svg,
        panel.left,
        30.0,
        "start",
        "Every scenario: median time against false deaths",
    );
    text(
        svg,
        panel.left,
        48.0,
        "start",
        "left and low is better; lines join the two of one scenario",
    );
    axes(
        svg,
        panel,
        "members that ran and were taken for dead, per 1,000 member-hours",
    );
    let labels = ["0", "1", "10", "100", "1,000", "10,000", "100,000"];
    for (at, label) in labels.iter().enumerate() {
        tick(svg, panel, at as f64, label);
    }
    for outcome in outcomes {
        let places = [0, 1].map(|engine| place(panel, &outcome.figures[engine].1));
        let [(x1, y1), (x2, y2)] = places;
        let _ = writeln!(
            svg,
            "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" stroke=\"#ccc\"/>"
        );
    }
    for outcome in outcomes {
        for (engine, colour) in COLOURS.iter().enumerate() {
            let (name, figures) = &outcome.figures[engine];
            let (x, y) = place(panel, figures);
            let _ = writeln!(
                svg,
                "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"5\" fill=\"{colour}\" fill-opacity=\"0.75\">\
                 <title>{}, {name}</title></circle>",
                outcome.scenario.name
            );
        }
    }
}

/// Where the right panel has a point; what was never found stands at the top.
fn place(panel: &Panel, figures: &Figures) -> (f64, f64) {
    let time = figures.all.share(0.5).unwrap_or(Duration::MAX);
    let rate = false_death_rate(figures);
    let x = if rate < RATE_FIRST {
        0.0
    } else {
        (1.0 + rate.log10()).min(panel.x_most)
    };
    (panel.x(x), panel.y(time.as_secs_f64()))
}

fn axes(svg: &mut String, panel: &Panel, below: &str) {
    let Panel {
        left,
        width,
        y_most,
        ..
    } = *panel;
    let mut value = 0.0;
    while value <= y_most {
        let y = panel.y(value);
        let _ = writeln!(
            svg,
            "<line x1=\"{left}\" y1=\"{y:.1}\" x2=\"{:.1}\" y2=\"{y:.1}\" stroke=\"#eee\"/>",
            left + width
        );
        text(svg, left - 8.0, y + 4.0, "end", &value.to_string());
        value += 5.0;
    }
    let bottom = panel.y(0.0);
    let _ = writeln!(
        svg,
        "<line x1=\"{left}\" y1=\"{bottom:.1}\" x2=\"{:.1}\" y2=\"{bottom:.1}\" stroke=\"#222\"/>",
        left + width
    );
    text(svg, left + width / 2.0, bottom + 38.0, "middle", below);
}

fn tick(svg: &mut String, panel: &Panel, value: f64, label: &str) {
    text(svg, panel.x(value), panel.y(0.0) + 18.0, "middle", label);
}

fn legend(svg: &mut String) {
    let names = ["tidings", "memberlist's rules and defaults"];
    for (at, (colour, name)) in COLOURS.iter().zip(names).enumerate() {
        let x = 60.0 + 110.0 * at as f64;
        let y = HEIGHT - 14.0;
        let _ = writeln!(
            svg,
            "<circle cx=\"{x:.1}\" cy=\"{:.1}\" r=\"5\" fill=\"{colour}\"/>",
            y - 4.0
        );
        text(svg, x + 10.0, y, "start", name);
    }
}

fn text(svg: &mut String, x: f64, y: f64, anchor: &str, what: &str) {
    let _ = writeln!(
        svg,
        "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{what}</text>"
    );
}
