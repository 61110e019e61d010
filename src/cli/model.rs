//! `zgan bench --model`

use serde_json::json;
use zgan::device::Device;
use zgan::instruments::bench::{self, Card, CardChoice, MeasuredStep, Modelled, Scale, Settings, Times};
use zgan::instruments::record::{self, Cell};

use super::bench::Bench;
use super::{planning, say, thousands};

/// The modelled times of one form of a problem, and the seconds that it took where it was timed as well.
struct Row {
    modelled: Modelled,
    measured: Option<f64>,
}

pub fn run(asked: &Bench, card: CardChoice, settings: Settings) -> anyhow::Result<()> {
    let (card, device) = match card {
        CardChoice::Named(card) if asked.and_measure => (card, Some(asked.place.open()?)),
        CardChoice::Named(card) => (card, None),
        CardChoice::Auto => {
            let device = asked.place.open()?;
            (Card::of(&device)?, asked.and_measure.then_some(device))
        }
    };
    if !asked.ranks.is_empty() {
        return planning::run(asked, card, device.as_ref());
    }
    // What people train on a card like this, where they named it.
    let scale = match &device {
        Some(device) => Scale::of(device),
        None if asked.preset.is_empty() => Scale::Small,
        None => Scale::Real,
    };
    let (operations, steps) = asked.problems(scale)?;
    let mut rows = Vec::new();
    for problem in &operations {
        let measured = match &device {
            Some(device) => bench::measure(device, problem, settings)?,
            None => Vec::new(),
        };
        rows.extend(bench::model(card, problem)?.into_iter().map(|modelled| {
            let found = measured.iter().find(|measured| measured.form == modelled.form);
            Row { measured: found.map(|found| found.seconds), modelled }
        }));
    }
    for problem in &steps {
        let measured = match &device {
            Some(device) => Some(bench::measure_step(device, problem, settings)?),
            None => None,
        };
        rows.extend(bench::model_step(card, problem)?.into_iter().map(|modelled| {
            // On the host there is no graph: the whole step was launched, and stands beside the first form.
            let seconds = |step: &MeasuredStep| if modelled.form == "graph" { step.seconds } else { step.launched.0 };
            Row { measured: measured.as_ref().map(seconds), modelled }
        }));
    }
    match asked.json {
        true => say(serde_json::to_string_pretty(&as_json(card, device.as_ref(), &rows))?),
        false => print(card, device.as_ref(), &rows),
    }
    Ok(asked.write_csv(&[("model", csv(&rows))], &bench::provenance(device.as_ref()))?)
}

fn print(card: &Card, device: Option<&Device>, rows: &[Row]) {
    let rate = |rate: Option<f64>| rate.map_or("-".into(), |rate| format!("{:.1}", rate * 1e-12));
    say(format_args!(
        "A MODEL, nothing of it is measured: the least time that the published rates of an {} allow",
        card.title
    ));
    match card.multiprocessor.loops {
        Some(arch) => say(format_args!(
            "issue, shared: all instructions of a product's loop, and its shared memory, as counted in the code for {arch}"
        )),
        None => say("the loops of its code are not counted: products run at the published rate"),
    }
    say(format_args!(
        "TFLOP/s: {:.1} f32 multiply-adds; tensor cores, dense: {} tf32, {} bf16, {} f16; {:.0} GB/s",
        card.fma * 1e-12,
        rate(card.tf32),
        rate(card.bf16),
        rate(card.f16),
        card.bandwidth * 1e-9
    ));
    say(format_args!("from: {}; between kernels, what NVIDIA measured on a V100", card.source));
    if let Some(device) = device {
        say(format_args!("measured: {}", device.description()));
    }
    say(format_args!(
        "{:<38}{:>10} {:>10} {:>10} {:>10} {:>10} {:>10} {:>9}  {:<9} {:>11} {:>7}",
        "us", "least", "products", "issue", "shared", "memory", "between", "launches", "bound", "measured", "ratio"
    ));
    let mut name = "";
    for row in rows {
        if name != row.modelled.name {
            name = &row.modelled.name;
            say(name);
        }
        say(line(&format!("  {}", row.modelled.form), &row.modelled.total, row.measured));
        // A step without a graph has the same kernels as with one.
        if row.modelled.form != "launched" && row.modelled.kernels.len() > 1 {
            row.modelled.kernels.iter().for_each(|(kernel, times)| say(line(&format!("    {kernel}"), times, None)));
        }
    }
}

fn line(what: &str, times: &Times, measured: Option<f64>) -> String {
    let both =
        measured.map_or(String::new(), |seconds| format!("{:>11.2} {:>7.2}", seconds * 1e6, seconds / times.least));
    let text = format!(
        "{what:<38}{:>10.2} {:>10.2} {:>10.2} {:>10.2} {:>10.2} {:>10.2} {:>9}  {:<9} {both}",
        times.least * 1e6,
        times.products * 1e6,
        times.issue * 1e6,
        times.shared * 1e6,
        times.memory * 1e6,
        times.overhead * 1e6,
        thousands(times.launches as usize),
        times.bound()
    );
    text.trim_end().into()
}

/// A line for each form, in which the kernel is empty, and a line for each of its kernels.
fn csv(rows: &[Row]) -> String {
    let line = |modelled: &Modelled, kernel: &str, times: &Times, measured: Option<f64>| {
        let names = [
            ("problem", Cell::Text(modelled.name.clone())),
            ("form", Cell::Name(modelled.form.into())),
            ("kernel", Cell::Name(kernel.into())),
        ];
        let measured = ("measured_us", Cell::Number(measured.map(|seconds| seconds * 1e6), 4));
        names.into_iter().chain(times.record()).chain([measured]).collect::<Vec<_>>()
    };
    let lines = rows.iter().flat_map(|Row { modelled, measured }| {
        let kernels = modelled.kernels.iter().map(|(kernel, times)| line(modelled, kernel, times, None));
        [line(modelled, "", &modelled.total, *measured)].into_iter().chain(kernels)
    });
    record::csv(&lines.collect::<Vec<_>>())
}

fn as_json(card: &Card, device: Option<&Device>, rows: &[Row]) -> serde_json::Value {
    let row = |Row { modelled, measured }: &Row| {
        let kernels =
            modelled.kernels.iter().map(|(kernel, of)| (kernel.to_string(), record::json(&of.record()).into()));
        json!({
            "problem": modelled.name,
            "form": modelled.form,
            "modelled": record::json(&modelled.total.record()),
            "measured_us": measured.map(|seconds| seconds * 1e6),
            "kernels": kernels.collect::<serde_json::Map<_, _>>(),
        })
    };
    json!({
        "model": card.name,
        "card": card.title,
        "source": card.source,
        "measured_on_the_card": false,
        "provenance": bench::provenance(device),
        "problems": rows.iter().map(row).collect::<Vec<_>>(),
    })
}
