//! The study as one HTML file, which needs nothing from the network.

use std::collections::HashSet;
use std::fmt::Write;

use super::{Ladder, MODELLED, MeasuredLadder, MeasuredRung, Point, StepForm, StepForms, Study, share};
use crate::device::kernel_text;
use crate::instruments::bench::{Caches, Ceilings, MeasuredStep};
use crate::instruments::plot::{self, Axis, Bar, Chart, bars, bars_to, escape, short};

/// A whole page with this body.
pub fn document(title: &str, body: &str) -> String {
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n<title>{}</title>\n\
         <style>\n{}{}</style>\n</head>\n<body>\n{body}\
         <footer><p>Made by zgan {}.</p></footer>\n</body>\n</html>\n",
        escape(title),
        plot::STYLE,
        include_str!("page.css"),
        env!("CARGO_PKG_VERSION")
    )
}

/// A table with its headings.
pub(super) fn table<const N: usize>(headings: [&str; N], rows: impl Iterator<Item = [String; N]>) -> String {
    let row = |cells: [String; N], tag: &str| {
        let cells: String = cells.iter().map(|cell| format!("<{tag}>{}</{tag}>", escape(cell))).collect();
        format!("<tr>{cells}</tr>\n")
    };
    let body: String = rows.map(|cells| row(cells, "td")).collect();
    let head = row(headings.map(String::from), "th");
    format!("<div class=\"wide\"><table><thead>{head}</thead><tbody>{body}</tbody></table></div>")
}

/// The page of a study.
pub fn page(study: &Study) -> String {
    let Study { device, provenance, settings, ceilings, steps, ladders, kernels, .. } = study;
    let caches = match settings.caches {
        Caches::Cold => "cold: other memory was walked through before each run",
        Caches::Warm => "warm: what the run before left",
    };
    let said = |name: &str| provenance[name].as_str().unwrap_or("unknown").to_string();
    let mut body = String::from("<header><h1>What fusion buys</h1>\n");
    if let Some(busy) = study.busy() {
        let _ = writeln!(body, "<p><mark>{}</mark></p>", escape(&busy));
    }
    steps.iter().for_each(|step| whole_step(&mut body, step));
    let _ = writeln!(
        body,
        "<p class=\"soft\">{}{}; commit {}, {}. Ceilings measured in the same run: {} GFLOP/s of multiply-adds in \
         registers, {} GB/s of a copy. Times are medians; the forms of an operation were checked against each other, then \
         timed in turns, with caches {caches}.</p>",
        escape(device),
        provenance["name"].as_str().map_or(String::new(), |name| escape(&format!(", {name}"))),
        escape(&said("commit")),
        escape(&said("date")),
        short(ceilings.flops * 1e-9),
        short(ceilings.bandwidth * 1e-9),
    );
    contents(&mut body, ladders, kernels);
    body.push_str("</header>\n");
    if !ladders.is_empty() {
        let graph = if provenance["execution"] == "cuda" {
            " All rungs are timed as captured graphs, so that what separate kernels lose is not the time of the CPU."
        } else {
            ""
        };
        let _ = writeln!(
            body,
            "<p class=\"soft\">In the ladders below, bytes are those of the buffers that launches were given, each once a \
             launch; memory is all of these buffers, each once. The share of the ceiling is the time that the machine would need at its ceilings for the bytes and the \
             products of the last rung, which moves least, the longer of the two, by the time that a rung took. The least \
             times of cards are computed from their published rates; nothing ran on these cards. In the text of a kernel, \
             lines are marked that no kernel of the rung before has.{graph}</p>"
        );
    }
    for (number, ladder) in ladders.iter().enumerate() {
        section(&mut body, number, ladder, ceilings);
    }
    if ladders.iter().any(has_log_partition) {
        standalone(&mut body);
    }
    if !kernels.is_empty() {
        roofline(&mut body, kernels, ceilings);
    }
    document("zgan: what fusion buys", &body)
}

/// What a step takes with everything fused and with its parts taken apart: a sentence and a picture.
fn whole_step(body: &mut String, step: &StepForms) {
    let (Some(fused), Some(apart)) = (step.fused(), step.unfused()) else { return };
    let name = step.name.trim_start_matches("step, ");
    let _ = write!(
        body,
        "<section>\n<p class=\"lead\">A training step of <b>{}</b> takes {}, in {} launches that move {}. From separate \
         kernels it takes {}, <b>{} times</b> as long, in {} launches that move {}, and {} of memory instead of {}.",
        escape(name),
        microseconds(fused.seconds),
        fused.launches,
        size(fused.bytes),
        microseconds(apart.seconds),
        short(apart.seconds / fused.seconds),
        apart.launches,
        size(apart.bytes),
        size(apart.memory as u64),
        size(fused.memory as u64),
    );
    if fused.graph {
        let times = short(fused.launched.0 / fused.seconds);
        let _ = write!(body, " Launched one by one instead of as a graph, the fused step takes {times} times as long.");
    }
    for rival in &fused.rivals {
        let times = short(rival.seconds / fused.seconds);
        // Another library's step is no other form of ours.
        let where_one = if rival.name.starts_with("libtorch") { "" } else { " where one serves both players," };
        let _ = write!(body, " With {},{where_one} {times} times.", escape(rival.name));
    }
    let chart = |title: &str, value: &dyn Fn(&MeasuredStep) -> (f64, String)| {
        let bar = |form: &StepForm| {
            let (value, shown) = value(&form.measured);
            Bar { label: form.name.clone(), value, shown, range: None }
        };
        bars(title, &step.forms.iter().map(bar).collect::<Vec<_>>())
    };
    let _ = write!(
        body,
        "</p>\n<div class=\"charts\">\n{}{}{}{}</div>\n</section>\n",
        chart("Time", &|m| (m.seconds, microseconds(m.seconds))),
        chart("Launches", &|m| (m.launches as f64, m.launches.to_string())),
        chart("Bytes read and written", &|m| (m.bytes as f64, size(m.bytes))),
        chart("Memory", &|m| (m.memory as f64, size(m.memory as u64))),
    );
}

/// Where a section begins.
fn anchor(number: usize) -> String {
    format!("ladder-{number}")
}

fn contents(body: &mut String, ladders: &[MeasuredLadder], kernels: &[Point]) {
    let heading = |ladder: &Ladder| format!("{}, {}", ladder.title, ladder.problem.sizes);
    let mut all: Vec<(String, String)> =
        ladders.iter().enumerate().map(|(number, measured)| (anchor(number), heading(&measured.ladder))).collect();
    if ladders.iter().any(has_log_partition) {
        all.push(("standalone".into(), STANDALONE_TITLE.into()));
    }
    if !kernels.is_empty() {
        all.push(("roofline".into(), "Every kernel under its roof".into()));
    }
    if all.len() > 1 {
        let lines = all.iter().map(|(to, title)| format!("<li><a href=\"#{to}\">{}</a></li>\n", escape(title)));
        let _ = writeln!(body, "<nav><ul>\n{}</ul></nav>", lines.collect::<String>());
    }
}

fn microseconds(seconds: f64) -> String {
    match seconds * 1e6 {
        us if us >= 9_995.0 => format!("{} ms", short(us * 1e-3)),
        us => format!("{} \u{b5}s", short(us)),
    }
}

fn size(bytes: u64) -> String {
    match bytes as f64 {
        b if b >= 1e6 => format!("{} MB", short(b * 1e-6)),
        b if b >= 1e3 => format!("{} kB", short(b * 1e-3)),
        b => format!("{b} B"),
    }
}

fn percent(share: f64) -> String {
    format!("{} %", short(100.0 * share))
}

/// The share of the ceiling that a rung reaches, measured by the bytes and products of the last rung.
fn rung_share(rung: &MeasuredRung, last: &MeasuredRung, ceilings: &Ceilings) -> f64 {
    share(last.measured.bytes as f64, last.measured.flops as f64, rung.measured.seconds, ceilings)
}

fn section(body: &mut String, number: usize, measured: &MeasuredLadder, ceilings: &Ceilings) {
    let MeasuredLadder { ladder, rungs } = measured;
    let Some(last) = rungs.last() else { return };
    let each = |value: &dyn Fn(&MeasuredRung) -> (f64, String)| -> Vec<Bar> {
        let bar = |(number, rung): (usize, &MeasuredRung)| {
            let (value, shown) = value(rung);
            Bar { label: format!("{} {}", number + 1, rung.measured.form), value, shown, range: None }
        };
        rungs.iter().enumerate().map(bar).collect()
    };
    let share = |rung: &MeasuredRung| rung_share(rung, last, ceilings);
    let charts = [
        bars("Time", &each(&|r| (r.measured.seconds, microseconds(r.measured.seconds)))),
        bars("Launches", &each(&|r| (r.measured.launches as f64, r.measured.launches.to_string()))),
        bars("Bytes read and written", &each(&|r| (r.measured.bytes as f64, size(r.measured.bytes)))),
        bars("Memory", &each(&|r| (r.measured.memory as f64, size(r.measured.memory)))),
        bars_to("Share of the ceiling, of 100 %", 1.0, &each(&|r| (share(r), percent(share(r))))),
    ];
    let _ = write!(
        body,
        "<section id=\"{}\">\n<h2>{}, {}</h2>\n<p class=\"formula\">{}</p>\n<p>{}</p>\n<div class=\"charts\">\n{}</div>\n",
        anchor(number),
        escape(ladder.title),
        escape(&ladder.problem.sizes),
        escape(ladder.formula),
        escape(ladder.idea),
        charts.concat()
    );
    figures(body, rungs, share);
    let mut shown = Vec::new();
    for (i, rung) in rungs.iter().enumerate() {
        let what = ladder.rungs.get(i).map_or("", |rung| rung.what);
        let name = escape(rung.measured.form);
        let _ = write!(body, "<div class=\"rung\">\n<h3>{}. {name}</h3>\n<p>{}</p>\n", i + 1, escape(what));
        let before = i.checked_sub(1).map(|before| &rungs[before]);
        kernels(body, i, rung, before, &mut shown);
        body.push_str("</div>\n");
    }
    body.push_str("</section>\n");
}

/// A table with a column for each rung.
fn figures(body: &mut String, rungs: &[MeasuredRung], share: impl Fn(&MeasuredRung) -> f64) {
    let Some(first) = rungs.first().map(|rung| rung.measured.seconds) else { return };
    body.push_str("<div class=\"wide\"><table class=\"figures\"><tbody>\n");
    let mut row = |name: &str, tag: &str, cell: &dyn Fn(usize, &MeasuredRung) -> String| {
        let cells = rungs.iter().enumerate().map(|(i, rung)| format!("<{tag}>{}</{tag}>", escape(&cell(i, rung))));
        let _ = writeln!(body, "<tr><th>{name}</th>{}</tr>", cells.collect::<String>());
    };
    row("", "th", &|i, rung| format!("{}. {}", i + 1, rung.measured.form));
    let rate = |amount: u64, rung: &MeasuredRung| short(amount as f64 / rung.measured.seconds * 1e-9);
    row("time", "td", &|_, rung| {
        let m = &rung.measured;
        format!("{} \u{b1} {:.0} %, {} runs", microseconds(m.seconds), 50.0 * m.spread, m.turns)
    });
    row("times as fast as the first", "td", &|_, rung| short(first / rung.measured.seconds));
    row("launches", "td", &|_, rung| rung.measured.launches.to_string());
    row("bytes", "td", &|_, rung| format!("{}, {} GB/s", size(rung.measured.bytes), rate(rung.measured.bytes, rung)));
    row("memory", "td", &|_, rung| size(rung.measured.memory));
    if rungs.iter().any(|rung| rung.measured.flops > 0) {
        row("products", "td", &|_, rung| format!("{} GFLOP/s", rate(rung.measured.flops, rung)));
    }
    row("share of the ceiling", "td", &|_, rung| percent(share(rung)));
    for (i, card) in MODELLED.iter().enumerate() {
        let least = |_, rung: &MeasuredRung| rung.least.get(i).map_or("-".into(), |least| microseconds(*least));
        row(&format!("least on {card}, a model"), "td", &least);
    }
    body.push_str("</tbody></table></div>\n");
}

/// The text of a rung's kernels, each to be opened. Lines that no kernel of the rung before has are marked. What a rung
/// before has shown already is not shown again.
fn kernels(
    body: &mut String,
    i: usize,
    rung: &MeasuredRung,
    before: Option<&MeasuredRung>,
    shown: &mut Vec<(&'static str, String, usize)>,
) {
    let before = before.map(|before| before.kernels.iter().filter_map(|(kernel, _)| kernel_text(kernel)).collect());
    let before = before.map(|texts: Vec<String>| lines_of(&texts.concat()));
    for (kernel, count) in &rung.kernels {
        let often = if *count > 1 { format!(", {count} times") } else { String::new() };
        let text = kernel_text(kernel).unwrap_or_default();
        // Kernels that differ in their tiles alone have one text.
        if let Some((other, _, first)) = shown.iter().find(|(_, shown, _)| *shown == text) {
            let from =
                if other == kernel { "as in".into() } else { format!("the text of <code>{}</code> in", escape(other)) };
            let kernel = escape(kernel);
            let _ =
                writeln!(body, "<span class=\"again\"><code>{kernel}</code>{often}, {from} rung {}</span>", first + 1);
            continue;
        }
        shown.push((kernel, text.clone(), i));
        let text = marked(&text, before.as_ref());
        let kernel = escape(kernel);
        let _ = writeln!(
            body,
            "<details><summary><code>{kernel}</code>{often}</summary><pre><code>{text}</code></pre></details>"
        );
    }
}

fn lines_of(text: &str) -> HashSet<String> {
    text.lines().map(|line| line.trim().to_string()).collect()
}

/// The text with its lines marked that are not among these; nothing is marked where there are none.
fn marked(text: &str, before: Option<&HashSet<String>>) -> String {
    let line = |line: &str| {
        let plain = escape(line);
        let is_new = before.is_some_and(|before| !line.trim().is_empty() && !before.contains(line.trim()));
        if is_new { format!("<mark>{plain}</mark>") } else { plain }
    };
    text.lines().map(line).collect::<Vec<_>>().join("\n")
}

/// The log-partition in plain CUDA: what all kernels have in common, then each after a line such as `// 1. Title: more`.
const STANDALONE: &str = include_str!("../../../kernels/study/log_partition.cu");
const STANDALONE_TITLE: &str = "Four kernels to begin with";

fn has_log_partition(measured: &MeasuredLadder) -> bool {
    measured.ladder.key == "log-partition"
}

fn standalone(body: &mut String) {
    let (mut parts, mut rest) = (Vec::new(), STANDALONE);
    while let Some((part, after)) = rest.split_once(&format!("// {}. ", parts.len() + 1)) {
        parts.push(part);
        rest = after;
    }
    parts.push(rest);
    let _ = write!(
        body,
        "<section id=\"standalone\">\n<h2>{STANDALONE_TITLE}</h2>\n<p>The log-partition in plain CUDA, from the formulas to \
         one look at each logit. <code>kernels/study/log_partition.cu</code> compiles alone, and needs nothing of zgan; its \
         times are not measured here. Lines are marked that the kernel before does not have.</p>\n\
         <pre><code>{}</code></pre>\n",
        escape(parts[0].trim_end())
    );
    for (number, text) in parts.iter().enumerate().skip(1) {
        let before = (number > 1).then(|| lines_of(parts[number - 1]));
        let (title, marked) = (text.split(':').next().unwrap_or_default(), marked(text.trim_end(), before.as_ref()));
        let _ = writeln!(
            body,
            "<details><summary>{number}. {}</summary><pre><code>// {marked}</code></pre></details>",
            escape(title)
        );
    }
    body.push_str("</section>\n");
}

/// A chart of all kernels; the operations, in this order, have the series 0, 1 and so on.
fn roofline_chart(kernels: &[Point], operations: &[&str], ceilings: &Ceilings) -> String {
    let ridge = ceilings.flops / ceilings.bandwidth;
    let intensities = kernels.iter().filter_map(Point::intensity).chain([ridge]);
    let x = Axis::around("operations for each byte", intensities);
    let low = x.low();
    // A kernel that computes nothing stands at the left edge, as far below the roof as its bandwidth is below the copy's.
    let place = |point: &Point| {
        let intensity = point.intensity().unwrap_or(low);
        (intensity, intensity * point.bandwidth() * 1e-9)
    };
    let peak = ceilings.flops * 1e-9;
    let y = Axis::around("GFLOP/s", kernels.iter().map(|point| place(point).1).chain([peak]));
    let (right, bottom) = (x.high(), y.low());
    let mut chart = Chart::new("Roofline of every kernel", x, y);
    let slope = ceilings.bandwidth * 1e-9;
    let left = low.max(bottom / slope);
    chart.line(&[(left, left * slope), (ridge, peak), (right, peak)], 8);
    chart.note((right, peak), (-6.0, -7.0), true, &format!("{} GFLOP/s", short(peak)));
    // There is room here: few kernels lie between those that wait for memory and the products.
    chart.note((0.3 * ridge, 0.3 * peak), (-10.0, -4.0), true, &format!("{} GB/s", short(slope)));
    let named = longest(kernels, place);
    let series = |point: &Point| operations.iter().position(|operation| *operation == point.operation).unwrap_or(0);
    for (number, point) in kernels.iter().enumerate() {
        let title = format!(
            "{}, {} {}: {}, {}",
            point.kernel,
            point.operation,
            point.sizes,
            microseconds(point.seconds),
            percent(point.share(ceilings))
        );
        chart.point(place(point), series(point), &title);
        // The kernels that take longest, and of those below them that are near the same place, none.
        if named.contains(&number) {
            let (x, _) = place(point);
            chart.note(place(point), (if x > ridge { -9.0 } else { 9.0 }, 4.0), x > ridge, point.kernel);
        }
    }
    chart.svg()
}

/// The kernels that a chart names: those of the most time, one of a kind, and none at the place of another.
fn longest(kernels: &[Point], place: impl Fn(&Point) -> (f64, f64)) -> Vec<usize> {
    const NAMED: usize = 7;
    let mut by_time: Vec<usize> = (0..kernels.len()).collect();
    by_time.sort_by(|a, b| kernels[*b].seconds.total_cmp(&kernels[*a].seconds));
    let mut named: Vec<usize> = Vec::new();
    for number in by_time {
        let point = &kernels[number];
        let (x, y) = place(point);
        let near = |other: &usize| {
            let (there, height) = place(&kernels[*other]);
            (x / there).log10().abs() < 1.2 && (y / height).log10().abs() < 0.17
        };
        let of_a_kind = |other: &usize| kernels[*other].operation == point.operation;
        if !named.iter().any(|other| near(other) || of_a_kind(other)) {
            named.push(number);
        }
        if named.len() == NAMED {
            break;
        }
    }
    named
}

/// Every kernel between the roofs of the machine: the chart, and its numbers as a table.
fn roofline(body: &mut String, kernels: &[Point], ceilings: &Ceilings) {
    let mut operations: Vec<&str> = Vec::new();
    for point in kernels {
        if !operations.contains(&point.operation) {
            operations.push(point.operation);
        }
    }
    let legend: String = operations
        .iter()
        .enumerate()
        .map(|(i, operation)| format!("<span><i class=\"s{}\"></i>{}</span>\n", i % plot::SERIES, escape(operation)))
        .collect();
    let _ = write!(
        body,
        "<section id=\"roofline\">\n<h2>Every kernel under its roof</h2>\n\
         <p>A dot is a kernel at one of the sizes of <code>zgan bench</code>, in the form that training runs. The slope is \
         the bandwidth of a copy, the ceiling the multiply-add peak, both of this run. A dot above the slope found its \
         data in a cache, or read a part of a buffer, which counts whole: a head reads its labels' rows of an embedding. \
         Those that take longest have their names; rest on another dot for its own, or open the table below.</p>\n\
         <div class=\"legend\">\n{legend}</div>\n<div class=\"wide\">\n{}</div>\n\
         <p class=\"soft\">Multiplications and additions of products are counted as they are launched; what other kernels \
         compute is counted by hand for each number that they move, an exponential as 12. A kernel that computes \
         nothing stands at the left edge, as far below the roof as its bandwidth is below the copy's.</p>\n",
        roofline_chart(kernels, &operations, ceilings)
    );
    let rows = kernels.iter().map(|point| {
        [
            point.kernel.to_string(),
            format!("{} {}", point.operation, point.sizes),
            point.launches.to_string(),
            microseconds(point.seconds),
            size(point.bytes),
            short(point.bandwidth() * 1e-9),
            point.flops.map_or("-".to_string(), |flops| short(flops / point.seconds * 1e-9)),
            percent(point.share(ceilings)),
        ]
    });
    let headings = ["kernel", "operation", "launches", "time", "bytes", "GB/s", "GFLOP/s", "share of the ceiling"];
    let _ = write!(
        body,
        "<details><summary>All {} as a table</summary>\n{}</details>\n</section>\n",
        kernels.len(),
        table(headings, rows)
    );
}
