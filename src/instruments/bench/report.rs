//! The table of `zgan bench`, for people, as CSV and as JSON.

use super::{Ceilings, Measured, MeasuredStep, Problem};

/// A problem's forms as measured.
pub struct Row {
    pub operation: &'static str,
    pub sizes: String,
    pub forms: Vec<Measured>,
}

impl Row {
    pub fn new(problem: &Problem, forms: Vec<Measured>) -> Row {
        Row { operation: problem.operation, sizes: problem.sizes.clone(), forms }
    }

    fn columns(&self, form: &Measured, ceilings: &Ceilings) -> Columns {
        let positive = |x: f64| (x > 0.0).then_some(x);
        let rate = positive(self.forms[0].flops as f64 / form.seconds);
        let bandwidth = positive(form.bytes as f64 / form.seconds);
        Columns {
            microseconds: form.seconds * 1e6,
            spread: form.spread,
            gflops: rate.map(|r| r * 1e-9),
            of_peak: rate.map(|r| r / ceilings.flops),
            gigabytes: bandwidth.map(|b| b * 1e-9),
            of_copy: bandwidth.map(|b| b / ceilings.bandwidth),
            launches: form.launches,
            bytes: form.bytes,
            ratio: form.seconds / self.forms[0].seconds,
        }
    }
}

struct Columns {
    microseconds: f64,
    /// Distance of the quartiles, relative to the median.
    spread: f64,
    gflops: Option<f64>,
    of_peak: Option<f64>,
    gigabytes: Option<f64>,
    of_copy: Option<f64>,
    launches: u64,
    bytes: u64,
    /// This form's time by the first form's.
    ratio: f64,
}

fn or_dash(value: Option<f64>, digits: usize) -> String {
    value.map_or("-".into(), |v| format!("{v:.digits$}"))
}

fn percent(value: Option<f64>) -> String {
    value.map_or("-".into(), |v| format!("{:.0} %", 100.0 * v))
}

/// The heading of [`table`].
pub fn heading() -> String {
    format!(
        "{:<10}{:>12} {:>5} {:>8} {:>7} {:>7} {:>7} {:>8} {:>9} {:>7}",
        "form", "median us", "+-", "GFLOP/s", "of peak", "GB/s", "of copy", "launches", "MB", "ratio"
    )
}

/// A line that names the problem, then one per form.
pub fn table(row: &Row, ceilings: &Ceilings) -> String {
    let mut text = format!("{}, {}", row.operation, row.sizes);
    for form in &row.forms {
        let c = row.columns(form, ceilings);
        let (launches, megabytes) = match c.launches {
            0 => ("-".into(), "-".into()),
            n => (n.to_string(), format!("{:.3}", c.bytes as f64 * 1e-6)),
        };
        text.push_str(&format!(
            "\n{:<10}{:>12.2} {:>3.0} % {:>8} {:>7} {:>7} {:>7} {launches:>8} {megabytes:>9} {:>7.2}",
            form.form,
            c.microseconds,
            100.0 * c.spread,
            or_dash(c.gflops, 1),
            percent(c.of_peak),
            or_dash(c.gigabytes, 1),
            percent(c.of_copy),
            c.ratio
        ));
    }
    text
}

/// With a header line.
pub fn csv(rows: &[Row], ceilings: &Ceilings) -> String {
    let mut text = String::from(
        "operation,sizes,form,median_us,spread,gflops,of_peak,gb_per_s,of_copy,launches,bytes,ratio_to_first_form\n",
    );
    let number = |value: Option<f64>| value.map_or(String::new(), |v| format!("{v:.5}"));
    for row in rows {
        for form in &row.forms {
            let c = row.columns(form, ceilings);
            text.push_str(&format!(
                "{},\"{}\",{},{:.4},{:.4},{},{},{},{},{},{},{:.4}\n",
                row.operation,
                row.sizes,
                form.form,
                c.microseconds,
                c.spread,
                number(c.gflops),
                number(c.of_peak),
                number(c.gigabytes),
                number(c.of_copy),
                c.launches,
                c.bytes,
                c.ratio
            ));
        }
    }
    text
}

/// One object: the device, its ceilings, every form of every problem, and every step.
pub fn json(device: &str, rows: &[Row], steps: &[MeasuredStep], ceilings: &Ceilings) -> serde_json::Value {
    let forms = rows.iter().flat_map(|row| {
        row.forms.iter().map(move |form| {
            let c = row.columns(form, ceilings);
            serde_json::json!({
                "operation": row.operation,
                "sizes": row.sizes,
                "form": form.form,
                "median_us": c.microseconds,
                "spread": c.spread,
                "turns": form.turns,
                "gflops": c.gflops,
                "of_peak": c.of_peak,
                "gb_per_s": c.gigabytes,
                "of_copy": c.of_copy,
                "launches": c.launches,
                "bytes": c.bytes,
                "ratio_to_first_form": c.ratio,
            })
        })
    });
    serde_json::json!({
        "device": device,
        "peak_gflops": ceilings.flops * 1e-9,
        "copy_gb_per_s": ceilings.bandwidth * 1e-9,
        "operations": forms.collect::<Vec<_>>(),
        "steps": steps.iter().map(|step| step.json(ceilings)).collect::<Vec<_>>(),
    })
}
