//! The study of what fusion buys: whole steps, ladders from naive to fused, and every kernel under the roofs of the machine.

mod apart;
pub mod conditioning;
mod ladders;
pub mod modes;
pub mod page;
mod roofline;
mod steps;

pub use ladders::{Ladder, Rung, ladders};
pub use page::page;
pub use roofline::{Point, share};
pub use steps::{StepForm, StepForms};

use std::path::Path;

use serde_json::{Value, json};

use crate::device::{Device, Launched, trace};
use crate::instruments::bench::{self, CARDS, Caches, Ceilings, Measured, Settings};
use crate::{Error, Result, files};

/// What was measured on one device in one run.
pub struct Study {
    pub device: String,
    /// [`bench::provenance`], when it began.
    pub provenance: Value,
    /// [`bench::load_json`], when it ended.
    pub load: Value,
    pub settings: Settings,
    pub ceilings: Ceilings,
    pub steps: Vec<StepForms>,
    pub ladders: Vec<MeasuredLadder>,
    pub kernels: Vec<Point>,
}

pub struct MeasuredLadder {
    pub ladder: Ladder,
    pub rungs: Vec<MeasuredRung>,
}

pub struct MeasuredRung {
    pub measured: Measured,
    /// The kernels that it launches, in the order of their first launches, and how often it launches each.
    pub kernels: Vec<(&'static str, usize)>,
    /// The least seconds that the published rates of [`MODELLED`] allow for these launches.
    pub least: Vec<f64>,
}

/// The cards whose least times stand beside what is measured, by their names in [`bench::CARDS`].
pub const MODELLED: [&str; 3] = ["h100", "a100", "rtx4090"];

/// The parts of a study besides its ladders: whole steps, and the kernels under their roofs.
pub const STEPS: &str = "steps";
pub const ROOFLINE: &str = "roofline";

/// Refuses a part of a study that there is not.
pub fn check(only: &[String]) -> Result<()> {
    let ladders = ladders(true);
    let parts = || [STEPS].into_iter().chain(ladders.iter().map(|ladder| ladder.key)).chain([ROOFLINE]);
    match only.iter().find(|name| parts().all(|part| part != *name)) {
        Some(name) => {
            let mut all: Vec<&str> = parts().collect();
            all.dedup();
            Err(Error::Config(format!("only: {name}, expected of {}", all.join(", "))))
        }
        None => Ok(()),
    }
}

/// Measures everything, or `only` these parts. Before the rungs of a ladder are timed, it checks that they compute the same. `tell` gets a line for
/// people when a part is done.
pub fn measure(
    device: &Device,
    settings: Settings,
    tiny: bool,
    only: &[String],
    tell: &mut dyn FnMut(String),
) -> Result<Study> {
    check(only)?;
    let wanted = |part: &str| only.is_empty() || only.iter().any(|name| name == part);
    let (provenance, load) = (bench::provenance(Some(device)), bench::load());
    let ceilings = Ceilings::measure(device, &[])?;
    let mut measured = Vec::new();
    // All rungs share this time, and a median needs more than a few runs of each.
    let long = Settings { time: settings.time.saturating_mul(4), ..settings };
    let steps = if wanted(STEPS) { steps::measure(device, settings, tiny, tell)? } else { Vec::new() };
    for ladder in ladders(tiny).into_iter().filter(|ladder| wanted(ladder.key)) {
        let forms = bench::measure(device, &ladder.problem, long)?;
        let mut rungs = Vec::new();
        let models = models(&ladder)?;
        for (form, measured) in (ladder.problem.make)(device)?.iter().zip(forms) {
            let mut kernels: Vec<(&'static str, usize)> = Vec::new();
            for launched in trace(|| form.run())?.into_iter().filter(Launched::is_kernel) {
                match kernels.iter_mut().find(|(kernel, _)| *kernel == launched.kernel) {
                    Some((_, count)) => *count += 1,
                    None => kernels.push((launched.kernel, 1)),
                }
            }
            let least = models.iter().map(|card| card.get(rungs.len()).copied().unwrap_or(f64::NAN)).collect();
            rungs.push(MeasuredRung { measured, kernels, least });
        }
        let times: Vec<String> = rungs.iter().map(|rung| format!("{:.1}", rung.measured.seconds * 1e6)).collect();
        tell(format!("{}: {} us", ladder.problem.name(), times.join(", ")));
        measured.push(MeasuredLadder { ladder, rungs });
    }
    let mut kernels = Vec::new();
    let problems = if wanted(ROOFLINE) { bench::problems(tiny) } else { Vec::new() };
    for problem in &problems {
        kernels.extend(roofline::measure(device, problem, settings)?);
    }
    if wanted(ROOFLINE) {
        tell(format!("{} kernels of {} problems", kernels.len(), problems.len()));
    }
    let load = bench::load_json(load);
    Ok(Study { device: device.description(), provenance, load, settings, ceilings, steps, ladders: measured, kernels })
}

impl Study {
    /// The names of what has quartiles that are far apart.
    fn noisy(&self) -> Vec<String> {
        let steps = self.steps.iter().flat_map(|step| {
            step.forms.iter().map(|form| (form.measured.spread, format!("{}, {}", step.name, form.name)))
        });
        let rungs = self.ladders.iter().flat_map(|MeasuredLadder { ladder, rungs }| {
            rungs
                .iter()
                .map(|rung| (rung.measured.spread, format!("{}, {}", ladder.problem.name(), rung.measured.form)))
        });
        steps.chain(rungs).filter(|(spread, _)| *spread > bench::NOISY).map(|(_, name)| name).collect()
    }

    /// What says that the machine had other work to do, where something does.
    pub fn busy(&self) -> Option<String> {
        bench::busy(&json!({ "load": self.load, "noisy": self.noisy() }))
    }
}

/// For each of [`MODELLED`], the least seconds of each form of a ladder.
fn models(ladder: &Ladder) -> Result<Vec<Vec<f64>>> {
    let cards = MODELLED.iter().filter_map(|name| CARDS.iter().find(|card| card.name == *name));
    let least = |card| Ok(bench::model(card, &ladder.problem)?.iter().map(|form| form.total.least).collect());
    cards.map(least).collect()
}

/// All that the page shows, for other programs; docs/timing.md has the fields.
pub fn json(study: &Study) -> Value {
    let Study { provenance, settings, ceilings, steps, ladders, kernels, .. } = study;
    let steps = steps.iter().map(|step| {
        let forms = step.forms.iter().map(|form| {
            let mut object = form.measured.json(ceilings);
            object.insert("form".into(), form.name.as_str().into());
            object
        });
        json!({ "step": step.name, "forms": forms.collect::<Vec<_>>() })
    });
    let ladders = ladders.iter().map(|MeasuredLadder { ladder, rungs }| {
        let rungs = rungs.iter().map(|MeasuredRung { measured, kernels, least }| {
            let least = MODELLED.iter().zip(least).map(|(card, least)| (card.to_string(), (1e6 * least).into()));
            json!({
                "form": measured.form,
                "median_us": 1e6 * measured.seconds,
                "spread": measured.spread,
                "turns": measured.turns,
                "launches": measured.launches,
                "bytes": measured.bytes,
                "memory_bytes": measured.memory,
                "flops": measured.flops,
                "kernels": kernels.iter().map(|(name, count)| json!({ "kernel": name, "launches": count })).collect::<Vec<_>>(),
                "least_us": Value::Object(least.collect()),
            })
        });
        json!({ "ladder": ladder.key, "sizes": ladder.problem.sizes, "rungs": rungs.collect::<Vec<_>>() })
    });
    let kernels = kernels.iter().map(|point| {
        json!({
            "kernel": point.kernel,
            "operation": point.operation,
            "sizes": point.sizes,
            "launches": point.launches,
            "bytes": point.bytes,
            "flops": point.flops,
            "median_us": 1e6 * point.seconds,
            "of_ceiling": point.share(ceilings),
        })
    });
    json!({
        "format": 1,
        "provenance": provenance,
        "load": study.load,
        "noisy": study.noisy(),
        "caches": if settings.caches == Caches::Warm { "warm" } else { "cold" },
        "seconds_each": settings.time.as_secs_f64(),
        "ceilings": { "gflops": 1e-9 * ceilings.flops, "gb_per_s": 1e-9 * ceilings.bandwidth },
        "steps": steps.collect::<Vec<_>>(),
        "ladders": ladders.collect::<Vec<_>>(),
        "kernels": kernels.collect::<Vec<_>>(),
    })
}

/// Writes a page; the file is then either whole or not there.
pub fn write(path: &Path, page: &str) -> Result<()> {
    files::write_bytes(path, page.as_bytes())
}
