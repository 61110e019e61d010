//! What the times of a report come to: means over kinds, what is noisy, a table in Markdown, and how they compare with those
//! of an earlier report. All of it is read from the object that `--json` prints, so that a file serves as well.

use serde_json::{Map, Value, json};

use super::report::FORMAT;
use crate::{Error, Result};

/// Something that was timed, in one of its forms.
#[derive(Clone, Debug, PartialEq)]
pub struct Timed {
    /// The operation, or `step`.
    pub kind: String,
    pub name: String,
    pub form: String,
    /// Median.
    pub seconds: f64,
    /// The distance between the quartiles, relative to the median.
    pub spread: f64,
    pub turns: f64,
    /// Bytes of memory that it takes, where that is known.
    pub memory: Option<u64>,
    /// Whether it is the first form, which the others are compared with.
    pub first: bool,
}

impl Timed {
    /// What `--json` has of it in `beside`.
    pub fn json(&self) -> Value {
        let Timed { name, form, seconds, spread, turns, memory, .. } = self;
        json!({
            "name": name,
            "form": form,
            "median_us": seconds * 1e6,
            "spread": spread,
            "turns": turns,
            "memory_bytes": memory,
        })
    }
}

/// Quartiles that are further apart say that a figure means little.
pub const NOISY: f64 = 0.3;

/// The times of a report, in its order. What failed or was left out has none.
pub fn times(report: &Value) -> Result<Vec<Timed>> {
    check_format(report, "zgan bench --json")?;
    let mut all: Vec<Timed> = Vec::new();
    for row in list(report, "operations") {
        let timed = operation(row)?;
        let first = all.last().is_none_or(|before| before.name != timed.name);
        all.push(Timed { first, ..timed });
    }
    for row in list(report, "steps") {
        let turns = number(row, "turns")?;
        let others = row["others"].as_array().map(Vec::as_slice).unwrap_or_default();
        for (i, timed) in std::iter::once(row).chain(others).enumerate() {
            let form = if i == 0 { "fused".into() } else { text(timed, "form") };
            let (seconds, spread) = (number(timed, "median_ms")? * 1e-3, number(timed, "spread")?);
            let (kind, name, memory) = ("step".into(), text(row, "step"), timed["memory_bytes"].as_u64());
            all.push(Timed { kind, name, form, seconds, spread, turns, memory, first: i == 0 });
        }
    }
    Ok(all)
}

/// What PyTorch was timed at in a report of `benches/pytorch.py`, of what is among `ours`.
pub fn beside(report: &Value, ours: &[Timed]) -> Result<Vec<Timed>> {
    check_format(report, "benches/pytorch.py --json")?;
    let step = |row: &Value| -> Result<Timed> {
        let (seconds, spread, turns) =
            (number(row, "median_ms")? * 1e-3, number(row, "spread")?, number(row, "turns")?);
        let (name, form, memory) = (text(row, "step"), text(row, "form"), row["memory_bytes"].as_u64());
        Ok(Timed { kind: "step".into(), name, form, seconds, spread, turns, memory, first: false })
    };
    let all = list(report, "operations").map(operation).chain(list(report, "steps").map(step));
    let all = all.map(|timed| timed.map(|timed| Timed { form: format!("PyTorch {}", timed.form), ..timed }));
    let all: Vec<Timed> = all.collect::<Result<_>>()?;
    Ok(all.into_iter().filter(|timed| ours.iter().any(|our| our.name == timed.name)).collect())
}

fn check_format(report: &Value, program: &str) -> Result<()> {
    match &report["format"] {
        format if *format == FORMAT => Ok(()),
        format => Err(Error::Config(format!("its format is {format}, expected {FORMAT}: what {program} prints"))),
    }
}

/// The rows of a report that did not fail.
fn list<'a>(report: &'a Value, name: &str) -> impl Iterator<Item = &'a Value> {
    report[name].as_array().into_iter().flatten().filter(|row| row["error"].is_null())
}

fn text(row: &Value, name: &str) -> String {
    row[name].as_str().unwrap_or_default().to_string()
}

fn operation(row: &Value) -> Result<Timed> {
    let (kind, precision) = (text(row, "operation"), text(row, "precision"));
    let name = format!("{kind} {}", text(row, "sizes"));
    let name = if precision == "f32" { name } else { format!("{name}, {precision}") };
    let (seconds, spread, turns) = (number(row, "median_us")? * 1e-6, number(row, "spread")?, number(row, "turns")?);
    let memory = row["memory_bytes"].as_u64();
    Ok(Timed { kind, name, form: text(row, "form"), seconds, spread, turns, memory, first: false })
}

fn number(row: &Value, name: &str) -> Result<f64> {
    row[name].as_f64().ok_or_else(|| Error::Config(format!("a row has no number {name}: {row}")))
}

/// A geometric mean of ratios, and of how many.
#[derive(Clone, Debug, PartialEq)]
pub struct Mean {
    /// The kind, or `all`.
    pub kind: String,
    pub form: String,
    pub ratio: f64,
    pub count: usize,
}

/// The mean of each kind, in the order in which kinds come, and that of all, of (kind, form, ratio).
fn means(ratios: &[(&str, &str, f64)]) -> Vec<Mean> {
    let mut means: Vec<(String, String, f64, usize)> = Vec::new();
    for (own, form, ratio) in ratios {
        for kind in [*own, "all"] {
            match means.iter_mut().find(|mean| mean.0 == kind && mean.1 == *form) {
                Some((.., sum, count)) => (*sum, *count) = (*sum + ratio.ln(), *count + 1),
                None => means.push((kind.into(), form.to_string(), ratio.ln(), 1)),
            }
        }
    }
    means.sort_by_key(|mean| mean.0 == "all");
    let mean = |(kind, form, sum, count): (String, String, f64, usize)| {
        let ratio = (sum / count as f64).exp();
        Mean { kind, form, ratio, count }
    };
    means.into_iter().map(mean).collect()
}

/// The other forms, each with its time divided by that of the first form of the same problem.
pub(super) fn ratios(times: &[Timed]) -> Vec<(&Timed, f64)> {
    let first = |of: &Timed| times.iter().find(|timed| timed.first && timed.name == of.name).map(|timed| timed.seconds);
    let others = times.iter().filter(|timed| !timed.first);
    others.filter_map(|timed| Some((timed, timed.seconds / first(timed)?))).collect()
}

/// The geometric means of the times of all other forms, each divided by that of the first.
pub fn means_of_forms(times: &[Timed]) -> Vec<Mean> {
    let ratios: Vec<_> =
        ratios(times).into_iter().map(|(timed, ratio)| (timed.kind.as_str(), timed.form.as_str(), ratio)).collect();
    means(&ratios)
}

/// One time beside an earlier one.
#[derive(Clone, Debug, PartialEq)]
pub struct Compared {
    pub timed: Timed,
    pub before: f64,
    /// Now divided by before.
    pub ratio: f64,
    /// How many of its standard errors the logarithm of the ratio is away from 0. Both medians are taken to be off by what
    /// their quartiles and turns let expect of normal noise.
    pub errors: f64,
}

/// From so many standard errors on a difference is no chance: one of twenty is further away by chance alone.
const SIGNIFICANT: f64 = 1.96;

impl Compared {
    pub fn significant(&self) -> bool {
        self.errors.abs() >= SIGNIFICANT
    }

    /// Whether it takes longer than before by more than this share, and not by chance.
    pub fn worse(&self, share: f64) -> bool {
        self.ratio > 1.0 + share && self.significant()
    }
}

/// All that both reports have, and the geometric means of the ratios.
pub fn compare(now: &[Timed], before: &[Timed]) -> (Vec<Compared>, Vec<Mean>) {
    // The relative standard error of a median of normal numbers, of which the quartiles lie 1.349 deviations apart.
    let error = |timed: &Timed| (std::f64::consts::FRAC_PI_2 / timed.turns.max(1.0)).sqrt() * timed.spread / 1.349;
    let one = |timed: &Timed| {
        let then = before.iter().find(|then| then.name == timed.name && then.form == timed.form)?;
        let ratio = timed.seconds / then.seconds;
        // Without any spread known, every difference counts.
        let errors = ratio.ln() / error(timed).hypot(error(then)).max(1e-9);
        Some(Compared { timed: timed.clone(), before: then.seconds, ratio, errors })
    };
    let all: Vec<Compared> = now.iter().filter_map(one).collect();
    let first = all.iter().filter(|compared| compared.timed.first);
    let ratios: Vec<_> = first.map(|c| (c.timed.kind.as_str(), "now / before", c.ratio)).collect();
    let means = means(&ratios);
    (all, means)
}

/// A comparison for people: a line each, with a `*` where the difference is no chance, then the means.
pub fn comparison_table(all: &[Compared], means: &[Mean], share: f64) -> String {
    let mut text = format!("{:>12} {:>12} {:>7}", "before us", "now us", "ratio");
    for compared in all {
        let Compared { timed, before, ratio, .. } = compared;
        let mark = match (compared.worse(share), compared.significant()) {
            (true, _) => "worse",
            (_, true) => "*",
            _ => "",
        };
        let (before, now, Timed { name, form, .. }) = (before * 1e6, timed.seconds * 1e6, timed);
        text += &format!("\n{before:>12.2} {now:>12.2} {ratio:>7.3} {mark:<5} {name}, {form}");
    }
    text + &means_table(means)
}

/// Lines like `geometric mean of 12 conv: unfused / fused 1.25`, each after the end of a line.
pub fn means_table(means: &[Mean]) -> String {
    let line = |Mean { kind, form, ratio, count }: &Mean| {
        let of = if form.contains('/') { form.clone() } else { format!("{form} / fused") };
        format!("\ngeometric mean of {count} {kind}: {of} {ratio:.3}")
    };
    means.iter().map(line).collect()
}

pub fn means_json(means: &[Mean]) -> Value {
    let one =
        |Mean { kind, form, ratio, count }: &Mean| json!({"kind": kind, "form": form, "ratio": ratio, "count": count});
    means.iter().map(one).collect()
}

pub fn comparison_json(all: &[Compared], means: &[Mean], share: f64) -> Value {
    let one = |compared: &Compared| {
        let Compared { timed, before, ratio, errors } = compared;
        json!({
            "name": timed.name,
            "form": timed.form,
            "before_us": before * 1e6,
            "now_us": timed.seconds * 1e6,
            "ratio": ratio,
            "standard_errors": errors,
            "significant": compared.significant(),
            "worse": compared.worse(share),
        })
    };
    json!({ "worse_past": share, "rows": all.iter().map(one).collect::<Vec<_>>(), "geometric_means": means_json(means) })
}

/// Where the figures come from, and [`tables`].
pub fn markdown(report: &Value, times: &[Timed]) -> String {
    provenance_lines(report).join("\n") + "\n" + &tables(times)
}

/// Tables of Markdown: a row for each problem with the time of every form, in brackets how many times as long as ours it
/// takes, and the memory where that of others is known; then the means.
pub fn tables(times: &[Timed]) -> String {
    let mut text = String::new();
    let of_others =
        times.iter().any(|timed| !timed.first && timed.memory.is_some() && timed.form.starts_with("PyTorch"));
    let memory = |timed: &Timed| match timed.memory.filter(|_| of_others) {
        Some(bytes) => format!(", {:.1} MB", bytes as f64 * 1e-6),
        None => String::new(),
    };
    let mut forms: Vec<&str> = Vec::new();
    for timed in times.iter().filter(|timed| !timed.first) {
        if !forms.contains(&timed.form.as_str()) {
            forms.push(&timed.form);
        }
    }
    let heading = |what: &str| {
        let columns: String = forms.iter().map(|form| format!(" {form} |")).collect();
        format!("\n| {what} | zgan |{columns}\n|---|---|{}\n", "---|".repeat(forms.len()))
    };
    for (what, steps) in [("operation", false), ("step", true)] {
        let mut rows = times.iter().filter(|timed| timed.first && (timed.kind == "step") == steps).peekable();
        if rows.peek().is_some() {
            text += &heading(what);
        }
        for ours in rows {
            text += &format!("| {} | {}{} |", ours.name, time(ours), memory(ours));
            for form in &forms {
                let other = times.iter().find(|timed| timed.name == ours.name && timed.form == *form && !timed.first);
                let cell = other.map(|o| format!("{} ({:.2}x){}", time(o), o.seconds / ours.seconds, memory(o)));
                text += &format!(" {} |", cell.unwrap_or_default());
            }
            text.push('\n');
        }
    }
    let means = means_of_forms(times);
    if !means.is_empty() {
        text += "\n| geometric mean | of | form | times as long |\n|---|---|---|---|\n";
    }
    for Mean { kind, form, ratio, count } in means {
        text += &format!("| {kind} | {count} | {form} | {ratio:.2} |\n");
    }
    text
}

fn time(timed: &Timed) -> String {
    let spread = 100.0 * timed.spread;
    match timed.seconds {
        s if s < 1e-3 => format!("{:.1} µs ± {spread:.0} %", s * 1e6),
        s => format!("{:.2} ms ± {spread:.0} %", s * 1e3),
    }
}

/// Where the figures come from, in two lines for people, and a third one where the machine was busy.
pub fn provenance_lines(report: &Value) -> Vec<String> {
    let from = &report["provenance"];
    let text = |value: &Value| value.as_str().map(String::from);
    let mut first: Vec<String> =
        [&report["device"], &from["name"], &from["date"]].into_iter().filter_map(text).collect();
    first.extend(
        text(&from["commit"]).map(|commit| format!("zgan {} at {commit}", from["zgan"].as_str().unwrap_or("?"))),
    );
    for (name, what) in [("driver", "driver"), ("cuda_driver", "CUDA"), ("nvrtc", "NVRTC"), ("libtorch", "libtorch")] {
        first.extend(text(&from[name]).map(|version| format!("{what} {version}")));
    }
    let peaks: Vec<String> = report["peaks_gflops"]
        .as_object()
        .unwrap_or(&Map::new())
        .iter()
        .map(|(precision, peak)| format!("{:.1} in {precision}", peak.as_f64().unwrap_or(f64::NAN)))
        .collect();
    let copy = report["copy_gb_per_s"].as_f64().unwrap_or(f64::NAN);
    let caches = report["caches"].as_str().unwrap_or("?");
    let mut lines = vec![
        first.join(", "),
        format!(
            "ceilings of this run: multiply-adds, GFLOP/s: {}; a copy, {copy:.1} GB/s; caches {caches}",
            peaks.join(", ")
        ),
    ];
    lines.extend(busy(report));
    lines
}

/// What says that the machine had other work to do, where something does.
pub fn busy(report: &Value) -> Option<String> {
    let mut why = Vec::new();
    let load = &report["load"];
    if let Some(before) = load["before"].as_f64().filter(|_| load["busy"] == true) {
        why.push(format!("load {before:.1} before"));
    }
    if let Some(noisy) = report["noisy"].as_array().filter(|noisy| !noisy.is_empty()) {
        let names: Vec<&str> = noisy.iter().take(3).filter_map(Value::as_str).collect();
        let more = if noisy.len() > names.len() { ", ..." } else { "" };
        why.push(format!("{} spread over {:.0} %: {}{more}", noisy.len(), 100.0 * NOISY, names.join("; ")));
    }
    (!why.is_empty()).then(|| format!("THE MACHINE WAS BUSY, these times say little: {}", why.join("; ")))
}
