//! The tables of `zgan bench`: for people, as CSV and as JSON.

use serde_json::{Map, Value, json};

use super::compare::{NOISY, means_json, means_of_forms, times};
use super::provenance::{load, provenance};
use super::{Caches, Ceilings, Measured, MeasuredStep, Problem, Settings, StepProblem, in_precision};
use crate::device::{Device, Precision};
use crate::instruments::record::{self, Cell, number};
use crate::{Error, Result};

/// What was measured of the forms of a problem.
pub struct Row {
    pub operation: &'static str,
    pub sizes: String,
    pub precision: Precision,
    pub forms: Vec<Measured>,
}

impl Row {
    pub fn new(problem: &Problem, forms: Vec<Measured>) -> Row {
        Row { operation: problem.operation, sizes: problem.sizes.clone(), precision: problem.precision, forms }
    }

    /// Multiplications and additions a second, and bytes a second. All forms are taken to do the operations that the first
    /// one counts.
    fn rates(&self, form: &Measured) -> [Option<f64>; 2] {
        [self.forms[0].flops, form.bytes].map(|count| (count > 0).then_some(count as f64 / form.seconds))
    }

    /// What is wrong with a form of ours that multiplies faster than the machine can. Another library may need fewer products.
    pub fn exceeded(&self, ceilings: &Ceilings) -> Option<String> {
        let ours = self.forms.iter().filter(|form| form.flops > 0);
        ours.filter_map(|form| ceilings.exceeded(self.precision, form.flops as f64 / form.seconds)).next()
    }

    /// The time of a form divided by that of the first form.
    fn ratio(&self, form: &Measured) -> f64 {
        form.seconds / self.forms[0].seconds
    }

    /// The columns of CSV and JSON.
    fn record(&self, form: &Measured, ceilings: &Ceilings) -> [(&'static str, Cell); 13] {
        let [rate, bandwidth] = self.rates(form);
        [
            ("operation", Cell::Name(self.operation.into())),
            ("sizes", Cell::Text(self.sizes.clone())),
            ("precision", Cell::Name(self.precision.name().into())),
            ("form", Cell::Name(form.form.into())),
            ("median_us", number(form.seconds * 1e6, 4)),
            ("spread", number(form.spread, 4)),
            ("gflops", Cell::Number(rate.map(|r| r * 1e-9), 5)),
            ("of_peak", Cell::Number(rate.map(|r| r / ceilings.peak(self.precision)), 5)),
            ("gb_per_s", Cell::Number(bandwidth.map(|b| b * 1e-9), 5)),
            ("of_copy", Cell::Number(bandwidth.and_then(|b| ceilings.of_copy(b)), 5)),
            ("launches", Cell::Count(form.launches)),
            ("bytes", Cell::Count(form.bytes)),
            ("ratio_to_first_form", number(self.ratio(form), 4)),
        ]
    }
}

/// The heading of [`table`].
pub fn heading() -> String {
    format!(
        "{:<10}{:>12} {:>5} {:>8} {:>7} {:>7} {:>7} {:>8} {:>9} {:>7}",
        "form", "median us", "+-", "GFLOP/s", "of peak", "GB/s", "of copy", "launches", "MB", "ratio"
    )
}

/// A line with the name of the problem, then a line for each form.
pub fn table(row: &Row, ceilings: &Ceilings) -> String {
    let mut text = in_precision(format!("{}, {}", row.operation, row.sizes), row.precision);
    let giga = |rate: Option<f64>| rate.map_or("-".into(), |rate| format!("{:.1}", rate * 1e-9));
    let share = |share: Option<f64>, none: &str| share.map_or(none.into(), |share| format!("{:.0} %", 100.0 * share));
    for form in &row.forms {
        let [rate, bandwidth] = row.rates(form);
        let (launches, megabytes) = match form.launches {
            0 => ("-".into(), "-".into()),
            n => (n.to_string(), format!("{:.3}", form.bytes as f64 * 1e-6)),
        };
        text.push_str(&format!(
            "\n{:<10}{:>12.2} {:>3.0} %{}{:>8} {:>7} {:>7} {:>7} {launches:>8} {megabytes:>9} {:>7.2}",
            form.form,
            form.seconds * 1e6,
            100.0 * form.spread,
            noisy(form.spread),
            giga(rate),
            share(rate.map(|rate| rate / ceilings.peak(row.precision)), "-"),
            giga(bandwidth),
            share(bandwidth.and_then(|b| ceilings.of_copy(b)), if bandwidth.is_some() { "cache" } else { "-" }),
            row.ratio(form)
        ));
    }
    text
}

/// Marks a spread that says that a figure means little.
pub(super) fn noisy(spread: f64) -> char {
    if spread > NOISY { '!' } else { ' ' }
}

/// Tables for other programs, each with its name. Those without rows are left out.
pub fn csv(report: &Report) -> Vec<(&'static str, String)> {
    let Report { rows, steps, ceilings, .. } = report;
    let forms: Vec<_> = rows.iter().flat_map(|row| row.forms.iter().map(|form| row.record(form, ceilings))).collect();
    let steps: Vec<_> = steps.iter().map(|step| step.csv_record(ceilings)).collect();
    let tables = [("operations", record::csv(&forms)), ("steps", record::csv(&steps))];
    tables.into_iter().filter(|(_, text)| !text.is_empty()).collect()
}

/// Something that could not be timed, or was not.
#[derive(Clone, Debug)]
pub struct Failure {
    pub name: String,
    /// Whether it is a step, not an operation.
    pub step: bool,
    /// What it is, for other programs.
    record: Vec<(&'static str, Cell)>,
    pub error: String,
}

impl Failure {
    pub fn of_operation(problem: &Problem, error: String) -> Failure {
        let record = vec![
            ("operation", Cell::Name(problem.operation.into())),
            ("sizes", Cell::Text(problem.sizes.clone())),
            ("precision", Cell::Name(problem.precision.name().into())),
        ];
        Failure { name: problem.name(), step: false, record, error }
    }

    pub fn of_step(problem: &StepProblem, error: String) -> Failure {
        let mut record = problem.record();
        record.push(("step", Cell::Text(problem.name.clone())));
        Failure { name: problem.name.clone(), step: true, record, error }
    }

    fn json(&self) -> Map<String, Value> {
        let mut object = record::json(&self.record);
        object.insert("error".into(), self.error.as_str().into());
        object
    }
}

/// All that one run timed on a device.
pub struct Report<'a> {
    pub device: &'a Device,
    pub settings: Settings,
    pub ceilings: Ceilings,
    pub rows: Vec<Row>,
    pub steps: Vec<MeasuredStep>,
    pub failures: Vec<Failure>,
    /// Of the machine, before anything was timed.
    pub load: Option<f64>,
}

/// The meaning of the fields of [`json`]; docs/timing.md has them.
pub(super) const FORMAT: u32 = 1;

/// Above this load before, the machine has other work.
const IDLE: f64 = 0.7;

/// What `--json` tells of the machine's load, with that from before anything was timed.
pub fn load_json(before: Option<f64>) -> Value {
    json!({ "before": before, "after": load(), "busy": before.is_some_and(|load| load > IDLE) })
}

/// Refuses a machine that has other work.
pub fn check_idle(load: Option<f64>) -> Result<()> {
    match load.filter(|load| *load > IDLE) {
        Some(load) => {
            Err(Error::Check(format!("strict: the machine is busy, with a load of {load:.1}, expected at most {IDLE}")))
        }
        None => Ok(()),
    }
}

/// One object: where it comes from, the ceilings, every form of every problem, and every step.
pub fn json(report: &Report) -> Result<Value> {
    let Report { device, settings, ceilings, rows, steps, failures, load: before } = report;
    let form = |row: &Row, form: &Measured| {
        let mut object = record::json(&row.record(form, ceilings));
        object.insert("turns".into(), form.turns.into());
        object.insert("runs_per_turn".into(), form.runs_per_turn.into());
        object.insert("memory_bytes".into(), (form.memory > 0).then_some(form.memory).into());
        object
    };
    let failed = |step: bool| failures.iter().filter(move |failure| failure.step == step).map(Failure::json);
    let forms = rows.iter().flat_map(|row| row.forms.iter().map(move |measured| form(row, measured)));
    let peaks = ceilings.peaks().map(|(precision, peak)| (precision.name().into(), (peak * 1e-9).into()));
    let mut object = json!({
        "format": FORMAT,
        "device": device.description(),
        "provenance": provenance(Some(device)),
        "load": load_json(*before),
        "caches": if settings.caches == Caches::Cold { "cold" } else { "warm" },
        "time_s": settings.time.as_secs_f64(),
        "peak_gflops": ceilings.flops * 1e-9,
        "peaks_gflops": peaks.collect::<Map<_, _>>(),
        "copy_gb_per_s": ceilings.bandwidth * 1e-9,
        "copied_bytes": ceilings.copied,
        "operations": forms.chain(failed(false)).collect::<Vec<_>>(),
        "steps": steps.iter().map(|step| step.json(ceilings)).chain(failed(true)).collect::<Vec<_>>(),
    });
    let times = times(&object)?;
    let noisy =
        times.iter().filter(|timed| timed.spread > NOISY).map(|timed| format!("{}, {}", timed.name, timed.form));
    object["noisy"] = noisy.collect();
    object["geometric_means"] = means_json(&means_of_forms(&times));
    Ok(object)
}
