//! The table of `docs/benchmarks.md`: the times of libtorch and ours, their ratio, and the ratio that is aimed at.

use super::{NAME, REFERENCE, description};
use crate::Result;
use crate::device::Device;
use crate::instruments::bench::rivals::TWO_BACKWARDS;
use crate::instruments::bench::{Ceilings, MeasuredStep, Row};

/// What names begin with, and the least ratio that is aimed at for them on a machine with two cores.
const AIMS: &[(&str, f64)] = &[
    ("log_partition 64+64", 50.0),
    ("log_partition 65536+65536", 8.0),
    ("projection ", 3.0),
    ("norm conditional", 2.0),
    ("adam ", 1.5),
    ("conv 3x3", 0.9),
    ("step, softmax-gan,", 2.0),
    ("step, mnist,", 1.5),
    ("step, sngan-projection-32, width 64, batch 32, simultaneous", 1.4),
    ("step, sngan-projection-32, width 64, batch 32, alternating, n_dis 5", 1.2),
];
const AIM_OF_REFERENCE: f64 = 2.5;
/// The aim for the geometric mean over all 3x3 convolutions.
const AIM_OF_CONVOLUTIONS: f64 = 1.0;

/// What the names begin with for which there is an aim.
pub fn aimed_at() -> impl Iterator<Item = &'static str> {
    AIMS.iter().map(|(start, _)| *start)
}

fn aim(name: &str) -> Option<f64> {
    AIMS.iter().find(|(start, _)| name.starts_with(start)).map(|(_, aim)| *aim)
}

/// The end of a line: the ratio, the aim, and whether it was met.
fn verdict(ratio: f64, aim: Option<f64>) -> String {
    match aim {
        None => format!("{ratio:.2} | | |"),
        Some(aim) if ratio >= aim => format!("{ratio:.2} | {aim} | met |"),
        Some(aim) => format!("{ratio:.2} | {aim} | **missed** |"),
    }
}

fn time(seconds: f64, spread: f64) -> String {
    let spread = 100.0 * spread;
    match seconds {
        s if s < 1e-3 => format!("{:.1} µs ± {spread:.0} %", s * 1e6),
        s => format!("{:.2} ms ± {spread:.0} %", s * 1e3),
    }
}

const HEADING: &str = "| zgan | libtorch | libtorch / zgan | aim | |\n|---|---|---|---|---|---|\n";

/// A table of the operations, then one of the steps. Only what also runs in libtorch is in them.
pub fn markdown(device: &Device, ceilings: &Ceilings, rows: &[Row], steps: &[MeasuredStep]) -> Result<String> {
    let mut text = format!(
        "zgan on {}; {}. Peak of this run {:.0} GFLOP/s, copy {:.1} GB/s. Medians ± the distance of the quartiles.\n\n",
        device.description(),
        description(device)?,
        ceilings.flops * 1e-9,
        ceilings.bandwidth * 1e-9
    );
    if !rows.is_empty() {
        text += &format!("| operation {HEADING}");
    }
    let mut convolutions = Vec::new();
    for row in rows {
        let ours = &row.forms[0];
        let Some(theirs) = row.forms.iter().find(|form| form.form == NAME) else { continue };
        let (name, ratio) = (format!("{} {}", row.operation, row.sizes), theirs.seconds / ours.seconds);
        if name.starts_with("conv 3x3") {
            convolutions.push(ratio.ln());
        }
        let [ours, theirs] = [ours, theirs].map(|form| time(form.seconds, form.spread));
        text += &format!("| {name} | {ours} | {theirs} | {}\n", verdict(ratio, aim(&name)));
    }
    if !convolutions.is_empty() {
        let mean = (convolutions.iter().sum::<f64>() / convolutions.len() as f64).exp();
        let verdict = verdict(mean, Some(AIM_OF_CONVOLUTIONS));
        text += &format!("| geometric mean of the {} conv 3x3 | | | {verdict}\n", convolutions.len());
    }
    if !steps.is_empty() {
        // An empty line separates it from the table above, if there is one.
        let gap = if rows.is_empty() { "" } else { "\n" };
        text += &format!("{gap}| step, with two D backwards {HEADING}");
    }
    for step in steps {
        let find = |name| step.rivals.iter().find(|rival| rival.name == name);
        let mut ours = time(step.seconds, step.spread);
        if let Some(two) = find(TWO_BACKWARDS) {
            ours += &format!(" ({})", time(two.seconds, two.spread));
        }
        let lines = [(NAME, aim(&step.name), ""), (REFERENCE, Some(AIM_OF_REFERENCE), ", the reference's way")];
        for (name, aim, way) in lines {
            if let Some(rival) = find(name) {
                let (theirs, verdict) = (time(rival.seconds, rival.spread), verdict(rival.seconds / step.seconds, aim));
                text += &format!("| {}{way} | {ours} | {theirs} | {verdict}\n", step.name);
            }
        }
    }
    Ok(text)
}
