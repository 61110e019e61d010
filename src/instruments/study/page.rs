//! The study as one HTML file, which needs nothing from the network.

use std::fmt::Write;

use super::{MeasuredLadder, MeasuredRung, Point, Study, share};
use crate::device::kernel_text;
use crate::instruments::bench::{Caches, Ceilings};
use crate::instruments::plot::{self, Axis, Bar, Chart, bars, escape, short};

/// A whole page with this body.
pub fn document(title: &str, body: &str) -> String {
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n<title>{}</title>\n\
         <style>\n{}</style>\n</head>\n<body>\n{body}\
         <footer><p>Made by zgan {}.</p></footer>\n</body>\n</html>\n",
        escape(title),
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
    let Study { device, settings, ceilings, ladders, kernels } = study;
    let caches = match settings.caches {
        Caches::Cold => "cold: other memory was walked through before each run",
        Caches::Warm => "warm: what the run before left",
    };
    let mut body = format!(
        "<header><h1>What fusion buys</h1>\n<p>{}. Ceilings measured in the same run: {} GFLOP/s of multiply-adds in \
         registers, {} GB/s of a copy. Caches {caches}. Times are medians; the rungs of a ladder were checked against \
         each other, then timed in turns.</p>\n\
         <p class=\"soft\">Bytes are those of the buffers that launches were given, each once a launch. The share of the \
         ceiling is the time that the machine would need at its ceilings for the bytes and the products of the last \
         rung, which moves least, the longer of the two, by the time that a rung took.</p></header>\n",
        escape(device),
        short(ceilings.flops * 1e-9),
        short(ceilings.bandwidth * 1e-9),
    );
    for ladder in ladders {
        section(&mut body, ladder, ceilings);
    }
    roofline(&mut body, kernels, ceilings);
    document("zgan: what fusion buys", &body)
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

fn section(body: &mut String, measured: &MeasuredLadder, ceilings: &Ceilings) {
    let MeasuredLadder { ladder, rungs } = measured;
    let chart = |title: &str, value: &dyn Fn(&MeasuredRung) -> (f64, String)| {
        let bar = |(number, rung): (usize, &MeasuredRung)| {
            let (value, shown) = value(rung);
            Bar { label: format!("{} {}", number + 1, rung.measured.form), value, shown, range: None }
        };
        bars(title, &rungs.iter().enumerate().map(bar).collect::<Vec<_>>())
    };
    let (Some(first), Some(last)) = (rungs.first(), rungs.last()) else { return };
    let share = |rung: &MeasuredRung| rung_share(rung, last, ceilings);
    let charts = [
        chart("Time", &|r| (r.measured.seconds, microseconds(r.measured.seconds))),
        chart("Launches", &|r| (r.measured.launches as f64, r.measured.launches.to_string())),
        chart("Bytes read and written", &|r| (r.measured.bytes as f64, size(r.measured.bytes))),
        chart("Share of the ceiling", &|r| (share(r), percent(share(r)))),
    ];
    let _ = write!(
        body,
        "<section>\n<h2>{}, {}</h2>\n<p class=\"formula\">{}</p>\n<p>{}</p>\n<div class=\"charts\">\n{}</div>\n",
        escape(ladder.title),
        escape(&ladder.problem.sizes),
        escape(ladder.formula),
        escape(ladder.idea),
        charts.concat()
    );
    for (i, rung) in rungs.iter().enumerate() {
        let what = ladder.rungs.get(i).map_or("", |rung| rung.what);
        card(body, i, rung, what, first, share(rung));
    }
    body.push_str("</section>\n");
}

/// A rung shows its kernels at once until they have this many lines; the others must be opened.
const OPEN: usize = 16;

/// A rung's numbers, and the text of its kernels beside them.
fn card(body: &mut String, i: usize, rung: &MeasuredRung, what: &str, first: &MeasuredRung, share: f64) {
    let m = &rung.measured;
    let time = format!("{} \u{b1} {:.0} %", microseconds(m.seconds), 50.0 * m.spread);
    let mut rows = vec![("time", time), ("runs", m.turns.to_string())];
    if i > 0 {
        rows.push(("against the first rung", format!("{} times as fast", short(first.measured.seconds / m.seconds))));
    }
    rows.push(("launches", m.launches.to_string()));
    rows.push(("bytes", size(m.bytes)));
    rows.push(("bandwidth", format!("{} GB/s", short(m.bytes as f64 / m.seconds * 1e-9))));
    if m.flops > 0 {
        rows.push(("products", format!("{} GFLOP/s", short(m.flops as f64 / m.seconds * 1e-9))));
    }
    rows.push(("share of the ceiling", percent(share)));
    let rows: String =
        rows.iter().map(|(name, value)| format!("<tr><th>{name}</th><td>{}</td></tr>\n", escape(value))).collect();
    let name = escape(m.form);
    let _ = write!(
        body,
        "<div class=\"rung\">\n<div><h3>{}. {name}</h3>\n<p>{}</p>\n<table><tbody>{rows}</tbody></table></div>\n\
         <div class=\"kernels\">\n",
        i + 1,
        escape(what)
    );
    let mut lines = 0;
    for (kernel, count) in &rung.kernels {
        let text = kernel_text(kernel).unwrap_or_default();
        // So many kernels are open as fill the space beside the numbers.
        let open = if lines < OPEN { " open=\"open\"" } else { "" };
        lines += 4 + text.lines().count();
        let often = if *count > 1 { format!(", {count} times") } else { String::new() };
        let text = escape(&text);
        let kernel = escape(kernel);
        let _ = writeln!(
            body,
            "<details{open}><summary><code>{kernel}</code>{often}</summary><pre><code>{text}</code></pre></details>"
        );
    }
    body.push_str("</div>\n</div>\n");
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
    let series = |point: &Point| operations.iter().position(|operation| *operation == point.operation).unwrap_or(0);
    for point in kernels {
        let title = format!(
            "{}, {} {}: {}, {}",
            point.kernel,
            point.operation,
            point.sizes,
            microseconds(point.seconds),
            percent(point.share(ceilings))
        );
        chart.point(place(point), series(point), &title);
    }
    chart.svg()
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
        "<section>\n<h2>Every kernel under its roof</h2>\n\
         <p>A dot is a kernel at one of the sizes of <code>zgan bench</code>, in the form that training runs. The slope is \
         the bandwidth of a copy, the ceiling the multiply-add peak, both of this run. A dot above the slope found its \
         data in a cache, or read a part of a buffer, which counts whole: a head reads its labels' rows of an embedding. \
         Rest on a dot for its name.</p>\n\
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
