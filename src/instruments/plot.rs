//! Charts as SVG, for pages that fetch nothing: axes, lines, points and bars. Their colours are the classes `s0` to `s9` of
//! `plot.css`, which has them for light pages and for dark ones.

use std::fmt::Write;

/// Their style.
pub const STYLE: &str = include_str!("plot.css");

/// How many colours there are to tell series apart; with more series they repeat.
pub const SERIES: usize = 10;

/// Makes a text safe to stand in HTML and SVG.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// A number with three significant digits.
pub fn short(value: f64) -> String {
    match value.abs() {
        v if v == 0.0 || !v.is_finite() => format!("{value}"),
        v if v >= 99.95 => format!("{value:.0}"),
        v if v >= 9.995 => format!("{value:.1}"),
        v if v >= 0.9995 => format!("{value:.2}"),
        v if v >= 0.0995 => format!("{value:.3}"),
        v if v >= 0.001 => format!("{value:.4}"),
        _ => format!("{value:.1e}"),
    }
}

/// An axis, logarithmic or not.
#[derive(Clone, Debug)]
pub struct Axis {
    pub label: &'static str,
    low: f64,
    high: f64,
    /// Between two ticks; None where it is logarithmic.
    even: Option<f64>,
}

impl Axis {
    /// An axis that encloses all positive numbers among `values`. Its ends are 1, 2 or 5 times a power of ten.
    pub fn around(label: &'static str, values: impl IntoIterator<Item = f64>) -> Axis {
        let (mut low, mut high) = (f64::INFINITY, 0.0f64);
        for value in values.into_iter().filter(|value| *value > 0.0 && value.is_finite()) {
            (low, high) = (low.min(value), high.max(value));
        }
        if high == 0.0 {
            (low, high) = (1.0, 10.0);
        }
        let steps = || ticks(low / 10.0, high * 10.0);
        let below = steps().filter(|tick| *tick <= 0.9 * low).last().unwrap_or(low / 2.0);
        let above = steps().find(|tick| *tick >= 1.1 * high).unwrap_or(2.0 * high);
        Axis { label, low: below, high: above, even: None }
    }

    /// An even axis that encloses all numbers among `values`.
    pub fn even(label: &'static str, values: impl IntoIterator<Item = f64>) -> Axis {
        const TICKS: f64 = 6.0;
        let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
        for value in values.into_iter().filter(|value| value.is_finite()) {
            (low, high) = (low.min(value), high.max(value));
        }
        if low > high {
            (low, high) = (0.0, 1.0);
        }
        let span = if high > low { high - low } else { low.abs().max(1.0) };
        let power = 10f64.powf((span / TICKS).log10().floor());
        let tick = [1.0, 2.0, 5.0, 10.0].map(|digit| digit * power).into_iter().find(|tick| span / tick <= TICKS);
        let tick = tick.unwrap_or(10.0 * power);
        let (low, high) = ((low / tick).floor() * tick, ((high / tick).ceil() * tick));
        Axis { label, low, high: if high > low { high } else { low + tick }, even: Some(tick) }
    }

    pub fn ticks(&self) -> Vec<f64> {
        match self.even {
            None => ticks(self.low, self.high).collect(),
            Some(tick) => {
                let count = ((self.high - self.low) / tick).round() as usize;
                (0..=count).map(|i| self.low + i as f64 * tick).collect()
            }
        }
    }

    /// The number of a tick, or nothing where there is no room for it: a long axis has room for its powers of ten alone.
    pub fn name(&self, tick: f64) -> Option<String> {
        match self.even {
            None => {
                let named = self.decades() < 2.5 || (tick.log10() - tick.log10().round()).abs() < 1e-9;
                named.then(|| plain(tick))
            }
            Some(between) => {
                let places = (-between.log10()).ceil().clamp(0.0, 12.0) as usize;
                // Not -0.
                let tick = if tick.abs() < between / 2.0 { 0.0 } else { tick };
                Some(format!("{tick:.places$}"))
            }
        }
    }

    pub fn low(&self) -> f64 {
        self.low
    }

    pub fn high(&self) -> f64 {
        self.high
    }

    /// Where a value lies: 0 at the low end of the axis, 1 at its high end.
    pub fn at(&self, value: f64) -> f64 {
        match self.even {
            None => (value.max(self.low * 1e-3) / self.low).ln() / (self.high / self.low).ln(),
            Some(_) => (value - self.low) / (self.high - self.low),
        }
    }

    fn decades(&self) -> f64 {
        (self.high / self.low).log10()
    }
}

/// 1, 2 and 5 times the powers of ten from `low` to `high`.
fn ticks(low: f64, high: f64) -> impl Iterator<Item = f64> {
    let (first, last) = (low.log10().floor() as i32, high.log10().ceil() as i32);
    let all = (first..=last).flat_map(|power| [1.0, 2.0, 5.0].map(|digit| digit * 10f64.powi(power)));
    all.filter(move |tick| *tick >= 0.999 * low && *tick <= 1.001 * high)
}

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 460.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 14.0;
const BOTTOM: f64 = 46.0;

/// A chart of points and lines.
pub struct Chart {
    x: Axis,
    y: Axis,
    name: String,
    body: String,
}

impl Chart {
    pub fn new(name: &str, x: Axis, y: Axis) -> Chart {
        Chart { x, y, name: name.into(), body: String::new() }
    }

    fn place(&self, x: f64, y: f64) -> (f64, f64) {
        (LEFT + self.x.at(x) * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - self.y.at(y) * (HEIGHT - TOP - BOTTOM))
    }

    /// A line through points, all of which lie within the axes.
    pub fn line(&mut self, points: &[(f64, f64)], series: usize) {
        let places = points.iter().map(|&(x, y)| self.place(x, y));
        let path: Vec<String> = places.map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let series = series % SERIES;
        let _ = writeln!(self.body, "<polyline class=\"s{series} curve\" points=\"{}\"/>", path.join(" "));
    }

    /// A dot that shows `title` when the mouse rests on it.
    pub fn point(&mut self, (x, y): (f64, f64), series: usize, title: &str) {
        let ((x, y), series) = (self.place(x, y), series % SERIES);
        let title = escape(title);
        let _ = writeln!(
            self.body,
            "<circle class=\"s{series} dot\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"5\"><title>{title}</title></circle>"
        );
    }

    /// A text that ends (or, where `ends` is false, starts) `dx` and `dy` pixels from a point.
    pub fn note(&mut self, (x, y): (f64, f64), (dx, dy): (f64, f64), ends: bool, text: &str) {
        let (x, y) = self.place(x, y);
        let anchor = if ends { "end" } else { "start" };
        let (x, y, text) = (x + dx, y + dy, escape(text));
        let _ = writeln!(self.body, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{text}</text>");
    }

    /// What lies between the second and the third number of these points.
    pub fn band(&mut self, points: &[(f64, f64, f64)], series: usize) {
        let low = points.iter().map(|&(x, low, _)| self.place(x, low));
        let high = points.iter().rev().map(|&(x, _, high)| self.place(x, high));
        let path: Vec<String> = low.chain(high).map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let series = series % SERIES;
        let _ = writeln!(self.body, "<polygon class=\"s{series} band\" points=\"{}\"/>", path.join(" "));
    }

    pub fn svg(&self) -> String {
        let mut svg =
            format!("<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{}\">\n", escape(&self.name));
        let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
        for tick in self.x.ticks() {
            let (x, _) = self.place(tick, self.y.low);
            let _ = writeln!(svg, "<line class=\"grid\" x1=\"{x:.1}\" y1=\"{TOP}\" x2=\"{x:.1}\" y2=\"{bottom}\"/>");
            if let Some(tick) = self.x.name(tick) {
                let y = bottom + 17.0;
                let _ =
                    writeln!(svg, "<text class=\"soft\" x=\"{x:.1}\" y=\"{y}\" text-anchor=\"middle\">{tick}</text>");
            }
        }
        for tick in self.y.ticks() {
            let (_, y) = self.place(self.x.low, tick);
            let _ = writeln!(svg, "<line class=\"grid\" x1=\"{LEFT}\" y1=\"{y:.1}\" x2=\"{right}\" y2=\"{y:.1}\"/>");
            if let Some(tick) = self.y.name(tick) {
                let (x, y) = (LEFT - 7.0, y + 4.0);
                let _ = writeln!(svg, "<text class=\"soft\" x=\"{x}\" y=\"{y:.1}\" text-anchor=\"end\">{tick}</text>");
            }
        }
        let (middle, low) = ((LEFT + right) / 2.0, HEIGHT - 8.0);
        let (across, height) = ((TOP + bottom) / 2.0, bottom - TOP);
        let _ = write!(
            svg,
            "<rect class=\"axis\" x=\"{LEFT}\" y=\"{TOP}\" width=\"{}\" height=\"{height}\" fill=\"none\"/>\n\
             <text x=\"{middle}\" y=\"{low}\" text-anchor=\"middle\">{}</text>\n\
             <text transform=\"translate(14 {across}) rotate(-90)\" text-anchor=\"middle\">{}</text>\n{}</svg>\n",
            right - LEFT,
            escape(self.x.label),
            escape(self.y.label),
            self.body
        );
        svg
    }
}

/// The number of a tick, written without an exponent.
fn plain(tick: f64) -> String {
    if tick >= 1.0 { format!("{tick:.0}") } else { format!("{:.*}", (-tick.log10()).ceil() as usize, tick) }
}

/// The points of a line from left to right.
pub type Curve = Vec<(f64, f64)>;

/// Lines on a linear, or where `log` says so logarithmic, axis from left to right, and on a linear one upwards, whose ends are
/// given; lines are cut off there. Their series are 0, 1 and so on.
pub fn curves(
    name: &str,
    (x_label, log): (&str, bool),
    (y_label, (low, high)): (&str, (f64, f64)),
    all: &[Curve],
) -> String {
    let scale = |x: f64| if log { x.log10() } else { x };
    let ends = all.iter().flatten().map(|(x, _)| scale(*x));
    let (first, last) = ends.fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), x| (a.min(x), b.max(x)));
    let (first, last) = if first < last { (first, last) } else { (0.0, 1.0) };
    let place = |x: f64, y: f64| {
        let (across, up) = ((scale(x) - first) / (last - first), (y.clamp(low, high) - low) / (high - low));
        (LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM))
    };
    let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
    let mut svg = format!("<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{}\">\n", escape(name));
    for i in 0..=4 {
        let t = f64::from(i) / 4.0;
        let at = first + t * (last - first);
        let (x, y) = (if log { 10f64.powf(at) } else { at }, low + t * (high - low));
        let (px, py) = (place(x, low).0, place(x, y).1);
        let _ = write!(
            svg,
            "<line class=\"grid\" x1=\"{px:.1}\" y1=\"{TOP}\" x2=\"{px:.1}\" y2=\"{bottom}\"/>\n\
             <text class=\"soft\" x=\"{px:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>\n\
             <line class=\"grid\" x1=\"{LEFT}\" y1=\"{py:.1}\" x2=\"{right}\" y2=\"{py:.1}\"/>\n\
             <text class=\"soft\" x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>\n",
            bottom + 17.0,
            short(x),
            LEFT - 7.0,
            py + 4.0,
            short(y)
        );
    }
    for (series, curve) in all.iter().enumerate() {
        let places = curve.iter().map(|&(x, y)| place(x, y)).map(|(x, y)| format!("{x:.1},{y:.1}"));
        let path = places.collect::<Vec<_>>().join(" ");
        let _ = writeln!(svg, "<polyline class=\"s{} curve\" points=\"{path}\"/>", series % SERIES);
    }
    let _ = write!(
        svg,
        "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">{}</text>\n\
         <text transform=\"translate(14 {}) rotate(-90)\" text-anchor=\"middle\">{}</text>\n</svg>\n",
        (LEFT + right) / 2.0,
        HEIGHT - 8.0,
        escape(x_label),
        (TOP + bottom) / 2.0,
        escape(y_label)
    );
    svg
}

/// A bar with the text above it.
pub struct Bar {
    pub label: String,
    pub value: f64,
    /// The value as text.
    pub shown: String,
    /// The least and the greatest of the numbers whose mean the value is.
    pub range: Option<(f64, f64)>,
}

/// Horizontal bars from 0, each under its label. The longest one fills the chart.
pub fn bars(title: &str, bars: &[Bar]) -> String {
    let ends = bars.iter().map(|bar| bar.range.map_or(bar.value, |(_, high)| high.max(bar.value)));
    bars_to(title, ends.filter(|end| end.is_finite()).fold(0.0, f64::max), bars)
}

/// The same, where a bar of the value `most` fills the chart: 1 for shares.
pub fn bars_to(title: &str, most: f64, bars: &[Bar]) -> String {
    const ACROSS: f64 = 264.0;
    const EACH: f64 = 36.0;
    let height = 24.0 + EACH * bars.len() as f64;
    let mut svg = format!(
        "<svg viewBox=\"0 0 {ACROSS} {height}\" role=\"img\" aria-label=\"{0}\">\n\
         <text x=\"0\" y=\"13\" font-weight=\"600\">{0}</text>\n",
        escape(title)
    );
    for (i, bar) in bars.iter().enumerate() {
        let top = 24.0 + EACH * i as f64;
        let share = |value: f64| if most > 0.0 && value.is_finite() { (value / most).min(1.0) } else { 0.0 };
        let scaled = |value: f64| ACROSS * share(value);
        let (text, beam, series) = (top + 12.0, top + 17.0, i % SERIES);
        let _ = write!(
            svg,
            "<text class=\"soft\" x=\"0\" y=\"{text}\">{}</text>\n\
             <text x=\"{ACROSS}\" y=\"{text}\" text-anchor=\"end\">{}</text>\n\
             <rect class=\"s{series}\" stroke-width=\"0\" x=\"0\" y=\"{beam}\" width=\"{:.1}\" height=\"9\"/>\n",
            escape(&bar.label),
            escape(&bar.shown),
            scaled(bar.value).max(1.0)
        );
        if let Some((low, high)) = bar.range {
            let (low, high, y) = (scaled(low), scaled(high), beam + 4.5);
            let _ = writeln!(
                svg,
                "<path d=\"M{low:.1} {y}H{high:.1}M{low:.1} {beam}v9M{high:.1} {beam}v9\" fill=\"none\" stroke=\"var(--ink)\"/>"
            );
        }
    }
    svg.push_str("</svg>\n");
    svg
}
