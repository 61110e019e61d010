//! `zgan bench`

use std::time::{Duration, Instant};

use clap::Args;
use zgan::Error;
use zgan::device::{Device, Precision};
use zgan::instruments::bench::{
    self, Caches, CardChoice, Ceilings, Failure, Problem, Report, Row, Scale, Selection, Settings, StepProblem,
};
use zgan::nn::Fusion;
use zgan::settings::Preset;

use super::tuned::Place;
use super::{model, say, scaling};

#[derive(Args)]
pub struct Bench {
    /// Only what holds this text: an operation with its sizes, or "step" with a preset
    #[arg(value_name = "TEXT")]
    pub filter: Option<String>,
    #[command(flatten)]
    pub place: Place,
    /// Time the products of layers, and the steps, in these: f32, tf32, bf16, f16
    #[arg(long, value_name = "NAME,...", value_delimiter = ',', default_value = "f32", conflicts_with_all = ["unfused", "scaling"])]
    pub precision: Vec<Precision>,
    /// Time the step of these presets alone, each by its own update rule
    #[arg(long, value_name = "NAME,...", value_delimiter = ',', conflicts_with = "scaling")]
    pub preset: Vec<Preset>,
    /// Width of their networks [default: the preset's on a GPU, a small one on the CPU]
    #[arg(long, value_name = "N", requires = "preset", value_parser = clap::value_parser!(u64).range(1..=4096))]
    width: Option<u64>,
    /// Images of a batch [default: likewise]
    #[arg(long, value_name = "N", requires = "preset", value_parser = clap::value_parser!(u64).range(1..=1 << 20))]
    batch: Option<u64>,
    /// Time steps also with these from separate kernels, each beside its fused form
    #[arg(long, value_name = "WHAT,...", value_delimiter = ',')]
    unfused: Vec<Fusion>,
    #[command(flatten)]
    pub timing: Timing,
    /// Begin nothing more after so many seconds, and list what is left out
    #[arg(long, value_name = "SECONDS", conflicts_with_all = ["model", "scaling"])]
    time_limit: Option<f64>,
    /// Do not time anything: tell the least time that the published rates of a card allow: h100, rtx4090 and others, or
    /// auto for that of this machine
    #[arg(long, value_name = "CARD")]
    model: Option<CardChoice>,
    /// With --model: time it on the device as well, and tell both
    #[arg(long = "measure", requires = "model")]
    pub and_measure: bool,
    /// Print one JSON object instead of the table
    #[arg(long, conflicts_with = "csv")]
    pub json: bool,
    /// Print CSV instead of the table
    #[arg(long)]
    pub csv: bool,
    /// Step time against batch, width and threads instead, with the exponents of power laws that fit
    #[arg(long)]
    scaling: bool,
    /// Print what is compared with libtorch as a table in Markdown, with what was aimed at
    #[cfg(feature = "libtorch")]
    #[arg(long, conflicts_with_all = ["json", "csv", "scaling", "precision"])]
    markdown: bool,
}

/// The options of a command that times operations.
#[derive(Args)]
pub struct Timing {
    /// Let each run find in the caches what the run before left there
    #[arg(long)]
    warm: bool,
    /// Seconds for each problem
    #[arg(long, value_name = "SECONDS", default_value_t = 0.5)]
    time: f64,
    /// Sizes that only try the program; their times say nothing
    #[arg(long)]
    pub tiny: bool,
}

impl Timing {
    pub fn settings(&self) -> Result<Settings, Error> {
        let caches = if self.warm { Caches::Warm } else { Caches::Cold };
        Ok(Settings { caches, time: seconds(self.time)? })
    }
}

/// The value of `--time`.
pub fn seconds(time: f64) -> Result<Duration, Error> {
    duration("--time", time)
}

fn duration(option: &str, time: f64) -> Result<Duration, Error> {
    const MOST: f64 = 1e9;
    // Neither a negative number nor NaN is one.
    let duration = Duration::try_from_secs_f64(time).ok().filter(|_| time <= MOST);
    duration.ok_or_else(|| Error::Config(format!("{option} {time}: a number of seconds, expected 0 to {MOST}")))
}

impl Bench {
    pub fn run(&self) -> anyhow::Result<()> {
        let settings = self.timing.settings()?;
        match self.model {
            _ if self.scaling => scaling::run(self, settings),
            Some(card) => model::run(self, card, settings),
            None => self.measure(settings),
        }
    }

    /// Whether the text that was given, if any, is in this name.
    pub fn wants(&self, name: &str) -> bool {
        self.filter.as_ref().is_none_or(|text| name.contains(text.as_str()))
    }

    /// The error where there is nothing of this name.
    pub fn nothing(&self) -> Error {
        let filter = self.filter.as_deref().unwrap_or_default();
        Error::Config(format!("nothing is called {filter:?}; zgan bench lists all"))
    }

    /// The operations to time. Where presets are named, only steps are.
    pub fn problems(&self) -> Vec<Problem> {
        let precisions = if self.preset.is_empty() { &self.precision[..] } else { &[] };
        let all = precisions.iter().flat_map(|&precision| bench::problems_in(precision, self.timing.tiny));
        all.filter(|problem| self.wants(&problem.name())).collect()
    }

    /// The steps to time at this scale, unless all of them are to be tiny.
    pub fn steps(&self, scale: Scale) -> Vec<StepProblem> {
        let number = |n: Option<u64>| n.map(|n| n as usize);
        let selection = Selection {
            presets: self.preset.clone(),
            scale: if self.timing.tiny { Scale::Tiny } else { scale },
            width: number(self.width),
            batch: number(self.batch),
        };
        let all = self.precision.iter().flat_map(|&precision| bench::steps_of(&selection, precision));
        all.filter(|problem| self.wants(&problem.name)).collect()
    }

    fn measure(&self, settings: Settings) -> anyhow::Result<()> {
        let begun = Instant::now();
        let limit = self.time_limit.map(|limit| duration("--time-limit", limit)).transpose()?;
        let device = self.place.open()?;
        self.precision.iter().try_for_each(|&precision| device.check_precision(precision))?;
        #[cfg(not(feature = "libtorch"))]
        let markdown = false;
        #[cfg(feature = "libtorch")]
        let markdown = self.markdown;
        let (problems, steps) = (self.problems(), self.all_steps(&device));
        if problems.is_empty() && steps.is_empty() {
            return Err(self.nothing().into());
        }
        let for_people = !self.json && !self.csv && !markdown;
        let ceilings = Ceilings::measure(&device, &self.precision)?;
        if for_people {
            say(device.description());
            let peaks: Vec<String> =
                ceilings.peaks().map(|(precision, peak)| format!("{:.1} in {precision}", peak * 1e-9)).collect();
            say(format!(
                "ceilings of this run: multiply-adds, GFLOP/s: {}; a copy, {:.1} GB/s; caches {}",
                peaks.join(", "),
                ceilings.bandwidth * 1e-9,
                if settings.caches == Caches::Warm { "warm" } else { "cold" }
            ));
            #[cfg(feature = "libtorch")]
            say(bench::libtorch::description(&device)?);
        }
        let mut report =
            Report { device: &device, settings, ceilings, rows: Vec::new(), steps: Vec::new(), failures: Vec::new() };
        let mut left_out = 0;
        let mut in_time = || {
            let late = limit.is_some_and(|limit| begun.elapsed() >= limit);
            left_out += usize::from(late);
            if late { Err("left out: the time limit had come".to_string()) } else { Ok(()) }
        };
        let failed = |failure: Failure, failures: &mut Vec<Failure>| {
            if for_people {
                say(format!("{}: {}", failure.name, failure.error));
            }
            failures.push(failure);
        };
        for problem in &problems {
            let measured = || bench::measure(&device, problem, settings).map_err(|error| error.to_string());
            match in_time().and_then(|()| measured()) {
                Ok(forms) => {
                    let row = Row::new(problem, forms);
                    if for_people {
                        if report.rows.is_empty() {
                            say(bench::heading());
                        }
                        say(bench::table(&row, &ceilings));
                    }
                    report.rows.push(row);
                }
                Err(error) => failed(Failure::of_operation(problem, error), &mut report.failures),
            }
        }
        for problem in &steps {
            let measured = || bench::measure_step(&device, problem, settings).map_err(|error| error.to_string());
            match in_time().and_then(|()| measured()) {
                Ok(step) => {
                    if for_people {
                        if report.steps.is_empty() {
                            say(bench::step_heading());
                        }
                        say(step.row(&ceilings));
                    }
                    report.steps.push(step);
                }
                Err(error) => failed(Failure::of_step(problem, error), &mut report.failures),
            }
        }
        #[cfg(feature = "libtorch")]
        if markdown {
            say(bench::libtorch::markdown(&device, &ceilings, &report.rows, &report.steps)?.trim_end());
        }
        if self.json {
            say(serde_json::to_string_pretty(&bench::json(&report))?);
        } else if self.csv {
            say(bench::csv(&report.rows, &report.steps, &ceilings).trim_end());
        }
        let failures = report.failures.len() - left_out;
        match report.failures.iter().find(|failure| !failure.error.starts_with("left out")) {
            Some(first) => {
                let all = problems.len() + steps.len();
                let what = format!("{failures} of {all} were not timed; the first, {}: {}", first.name, first.error);
                Err(Error::Check(what).into())
            }
            None => Ok(()),
        }
    }

    /// The steps to time on this device, each followed by its form from separate kernels where one is asked for.
    fn all_steps(&self, device: &Device) -> Vec<StepProblem> {
        #[cfg_attr(not(feature = "libtorch"), allow(unused_mut))]
        let mut problems = self.steps(Scale::of(device));
        #[cfg(feature = "libtorch")]
        problems.retain(|problem| !self.markdown || bench::libtorch::has(&problem.setup));
        let both = problems.into_iter().flat_map(|problem| {
            let unfused = problem.unfused(&self.unfused);
            [Some(problem), unfused]
        });
        both.flatten().collect()
    }
}
