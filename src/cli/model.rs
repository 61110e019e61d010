//! `zgan bench --model`

use serde_json::json;
use zgan::device::{Device, Precision};
use zgan::instruments::bench::{self, Card, Modelled, Settings, Times};

use super::{say, thousands};

/// What is asked for on the command line.
pub struct Asked<'a> {
    pub card: &'static Card,
    pub filter: Option<&'a str>,
    pub precision: Precision,
    pub tiny: bool,
    pub json: bool,
    pub csv: bool,
    /// Where it is timed as well, and how long.
    pub measured: Option<(Device, Settings)>,
}

/// The modelled forms of one problem, each with its measured seconds.
struct Row {
    modelled: Modelled,
    measured: Option<f64>,
}

pub fn run(asked: &Asked) -> anyhow::Result<()> {
    let wanted = |name: &str| asked.filter.is_none_or(|text| name.contains(text));
    let mut rows = Vec::new();
    for problem in bench::problems_in(asked.precision, asked.tiny).iter().filter(|problem| wanted(&problem.name())) {
        let measured = match &asked.measured {
            Some((device, settings)) => bench::measure(device, problem, *settings)?,
            None => Vec::new(),
        };
        rows.extend(bench::model(asked.card, problem)?.into_iter().map(|modelled| {
            let found = measured.iter().find(|measured| measured.form == modelled.form);
            Row { measured: found.map(|found| found.seconds), modelled }
        }));
    }
    for problem in bench::steps_in(asked.precision, asked.tiny).iter().filter(|problem| wanted(&problem.name)) {
        let measured = match &asked.measured {
            Some((device, settings)) => Some(bench::measure_step(device, problem, *settings)?.seconds),
            None => None,
        };
        // Whole steps are timed as the device does them: as a graph.
        let beside = |modelled: Modelled| Row { measured: measured.filter(|_| modelled.form == "graph"), modelled };
        rows.extend(bench::model_step(asked.card, problem)?.into_iter().map(beside));
    }
    if rows.is_empty() {
        let filter = asked.filter.unwrap_or_default();
        return Err(zgan::Error::Config(format!("nothing is called {filter:?}; zgan bench lists all")).into());
    }
    match (asked.json, asked.csv) {
        (true, _) => say(serde_json::to_string_pretty(&as_json(asked.card, &rows))?),
        (_, true) => print_csv(&rows),
        _ => print(asked, &rows),
    }
    Ok(())
}

fn print(asked: &Asked, rows: &[Row]) {
    let card = asked.card;
    let rate = |rate: Option<f64>| rate.map_or("-".into(), |rate| format!("{:.1}", rate * 1e-12));
    say(format_args!(
        "A MODEL, nothing of it is measured: the least time that the published rates of an {} allow",
        card.title
    ));
    say(format_args!(
        "TFLOP/s: {:.1} f32 multiply-adds; tensor cores, dense: {} tf32, {} bf16, {} f16; {:.0} GB/s",
        card.fma * 1e-12,
        rate(card.tf32),
        rate(card.bf16),
        rate(card.f16),
        card.bandwidth * 1e-9
    ));
    say(format_args!("from: {}; between kernels, what NVIDIA measured on a V100", card.source));
    if let Some((device, _)) = &asked.measured {
        say(format_args!("measured: {}", device.description()));
    }
    say(format_args!(
        "{:<38}{:>10} {:>10} {:>10} {:>10} {:>9}  {:<9} {:>11} {:>7}",
        "us", "least", "products", "memory", "between", "launches", "bound", "measured", "ratio"
    ));
    let mut name = "";
    for row in rows {
        if name != row.modelled.name {
            name = &row.modelled.name;
            say(name);
        }
        say(line(&format!("  {}", row.modelled.form), &row.modelled.total, row.measured));
        // The kernels of a launched step are those of the graph.
        if row.modelled.form != "launched" && row.modelled.kernels.len() > 1 {
            row.modelled.kernels.iter().for_each(|(kernel, times)| say(line(&format!("    {kernel}"), times, None)));
        }
    }
}

fn line(what: &str, times: &Times, measured: Option<f64>) -> String {
    let both =
        measured.map_or(String::new(), |seconds| format!("{:>11.2} {:>7.2}", seconds * 1e6, seconds / times.least));
    let text = format!(
        "{what:<38}{:>10.2} {:>10.2} {:>10.2} {:>10.2} {:>9}  {:<9} {both}",
        times.least * 1e6,
        times.products * 1e6,
        times.memory * 1e6,
        times.overhead * 1e6,
        thousands(times.launches as usize),
        times.bound().name()
    );
    text.trim_end().into()
}

/// A line for each form, with no kernel, and one for each kernel of it.
fn print_csv(rows: &[Row]) {
    say("problem,form,kernel,least_us,products_us,memory_us,between_us,launches,flops,bytes,bound,measured_us");
    for Row { modelled, measured } in rows {
        let total = [("", &modelled.total, *measured)];
        let kernels = modelled.kernels.iter().map(|(kernel, times)| (*kernel, times, None));
        for (kernel, times, measured) in total.into_iter().chain(kernels) {
            say(format_args!(
                "\"{}\",{},{kernel},{:.4},{:.4},{:.4},{:.4},{},{},{},{},{}",
                modelled.name,
                modelled.form,
                times.least * 1e6,
                times.products * 1e6,
                times.memory * 1e6,
                times.overhead * 1e6,
                times.launches,
                times.flops,
                times.bytes,
                times.bound().name(),
                measured.map_or(String::new(), |seconds| format!("{:.4}", seconds * 1e6)),
            ));
        }
    }
}

fn as_json(card: &Card, rows: &[Row]) -> serde_json::Value {
    let times = |times: &Times| {
        json!({
            "least_us": times.least * 1e6,
            "products_us": times.products * 1e6,
            "memory_us": times.memory * 1e6,
            "between_us": times.overhead * 1e6,
            "launches": times.launches,
            "flops": times.flops,
            "bytes": times.bytes,
            "bound": times.bound().name(),
        })
    };
    let row = |Row { modelled, measured }: &Row| {
        let kernels: serde_json::Map<String, serde_json::Value> =
            modelled.kernels.iter().map(|(kernel, of)| (kernel.to_string(), times(of))).collect();
        json!({
            "problem": modelled.name,
            "form": modelled.form,
            "modelled": times(&modelled.total),
            "measured_us": measured.map(|seconds| seconds * 1e6),
            "kernels": kernels,
        })
    };
    json!({
        "model": card.name,
        "card": card.title,
        "source": card.source,
        "measured_on_the_card": false,
        "problems": rows.iter().map(row).collect::<Vec<_>>(),
    })
}
