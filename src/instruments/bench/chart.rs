//! `zgan bench --chart`: how many times as long as ours the other forms take, as a picture.

use std::fmt::Write;

use super::compare::{Timed, means_of_forms, ratios};
use crate::instruments::plot::{self, Axis, SERIES, escape};

const TITLE: &str = "Times as long as zgan; a line is the geometric mean of its dots";
const LABELS: f64 = 230.0;
const ACROSS: f64 = 510.0;
const ROW: f64 = 22.0;
const TOP: f64 = 78.0;

/// An SVG that stands alone: a row for each operation and for the steps of each preset, and in it a dot for each problem and
/// form, at the form's time divided by ours. An upright line in the form's colour is the geometric mean of its dots. `from`
/// says where the times come from.
pub fn chart(times: &[Timed], from: &str) -> String {
    // Steps are told apart by preset.
    let row = |timed: &Timed| match timed.kind.as_str() {
        "step" => timed.name.split(", ").take(2).collect::<Vec<_>>().join(", "),
        kind => kind.split(':').next().unwrap_or(kind).to_string(),
    };
    let times: Vec<Timed> = times.iter().map(|timed| Timed { kind: row(timed), ..timed.clone() }).collect();
    let means: Vec<_> = means_of_forms(&times).into_iter().filter(|mean| mean.kind != "all").collect();
    let (mut rows, mut forms): (Vec<&str>, Vec<&str>) = (Vec::new(), Vec::new());
    for mean in &means {
        for (names, name) in [(&mut rows, &mean.kind), (&mut forms, &mean.form)] {
            if !names.contains(&name.as_str()) {
                names.push(name);
            }
        }
    }
    let dots = ratios(&times);
    let axis = Axis::around("", dots.iter().map(|(_, ratio)| *ratio).chain([1.0]));
    let across = |ratio: f64| LABELS + ACROSS * axis.at(ratio);
    let down = |kind: &str| TOP + ROW * (0.5 + rows.iter().position(|row| *row == kind).unwrap_or(0) as f64);
    let series = |form: &str| forms.iter().position(|known| *known == form).unwrap_or(0) % SERIES;
    let (width, bottom) = (LABELS + ACROSS + 30.0, TOP + ROW * rows.len() as f64);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" role=\"img\" aria-label=\"{TITLE}\">\n\
         <style>{style}</style>\n<rect width=\"{width}\" height=\"{height}\" style=\"fill: var(--paper)\"/>\n\
         <text x=\"8\" y=\"20\" font-weight=\"600\">{TITLE}</text>\n\
         <text class=\"soft\" x=\"8\" y=\"38\">{from}</text>\n",
        height = bottom + 30.0,
        from = escape(from),
        style = plot::STYLE
    );
    let mut legend = 8.0;
    for form in &forms {
        let (dot, text) = (legend + 5.0, legend + 15.0);
        let _ = writeln!(
            svg,
            "<circle class=\"s{} dot\" cx=\"{dot}\" cy=\"56\" r=\"5\"/><text class=\"soft\" x=\"{text}\" y=\"60\">{}</text>",
            series(form),
            escape(form)
        );
        legend += 34.0 + 6.4 * form.chars().count() as f64;
    }
    for tick in axis.ticks() {
        let (x, class) = (across(tick), if tick == 1.0 { "axis" } else { "grid" });
        let _ = writeln!(svg, "<line class=\"{class}\" x1=\"{x:.1}\" y1=\"{TOP}\" x2=\"{x:.1}\" y2=\"{bottom}\"/>");
        if let Some(name) = axis.name(tick) {
            let y = bottom + 16.0;
            let _ = writeln!(svg, "<text class=\"soft\" x=\"{x:.1}\" y=\"{y}\" text-anchor=\"middle\">{name}x</text>");
        }
    }
    for row in &rows {
        let (x, y) = (LABELS - 8.0, down(row) + 4.0);
        let _ = writeln!(svg, "<text x=\"{x}\" y=\"{y}\" text-anchor=\"end\">{}</text>", escape(row));
    }
    for (timed, ratio) in &dots {
        let (x, y, series) = (across(*ratio), down(&timed.kind), series(&timed.form));
        let title = escape(&format!("{}, {}: {ratio:.2}x", timed.name, timed.form));
        let _ = writeln!(
            svg,
            "<circle class=\"s{series} dot\" cx=\"{x:.1}\" cy=\"{y}\" r=\"4\"><title>{title}</title></circle>"
        );
    }
    for mean in &means {
        let (x, y, series) = (across(mean.ratio), down(&mean.kind) - 8.0, series(&mean.form));
        let _ = writeln!(svg, "<path class=\"s{series}\" stroke-width=\"2\" d=\"M{x:.1} {y}v16\"/>");
    }
    svg + "</svg>\n"
}
