//! `zgan bench`

use std::time::Duration;

use clap::Args;
use zgan::Error;
use zgan::device::Precision;
use zgan::instruments::bench::{self, Caches, Card, Ceilings, Row, Settings, StepProblem};
use zgan::nn::Fusion;

use super::tuned::Place;
use super::{model, say, scaling};

#[derive(Args)]
pub struct Bench {
    /// Only what holds this text: an operation with its sizes, or "step" with a preset
    #[arg(value_name = "TEXT")]
    pub filter: Option<String>,
    #[command(flatten)]
    pub place: Place,
    /// Time the products of layers, and the steps, in tf32, bf16 or f16
    #[arg(long, value_name = "NAME", default_value_t = Precision::F32, conflicts_with_all = ["unfused", "scaling"])]
    pub precision: Precision,
    /// Time steps also with these from separate kernels, each beside its fused form
    #[arg(long, value_name = "WHAT,...", value_delimiter = ',')]
    unfused: Vec<Fusion>,
    #[command(flatten)]
    pub timing: Timing,
    /// Do not time anything: tell the least time that the published rates of a card allow: h100, a100, rtx4090 or t4
    #[arg(long, value_name = "CARD")]
    model: Option<&'static Card>,
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
    Duration::try_from_secs_f64(time)
        .map_err(|_| Error::Config(format!("--time {time}: a number of seconds, 0 or more")))
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

    fn measure(&self, settings: Settings) -> anyhow::Result<()> {
        let device = self.place.open()?;
        device.check_precision(self.precision)?;
        let ceilings = Ceilings::measure(&device)?;
        #[cfg(not(feature = "libtorch"))]
        let markdown = false;
        #[cfg(feature = "libtorch")]
        let markdown = self.markdown;
        let for_people = !self.json && !self.csv && !markdown;
        if for_people {
            say(device.description());
            say(format!(
                "ceilings of this run: {:.1} GFLOP/s of multiply-adds, {:.1} GB/s of a copy; caches {}",
                ceilings.flops * 1e-9,
                ceilings.bandwidth * 1e-9,
                if settings.caches == Caches::Warm { "warm" } else { "cold" }
            ));
            #[cfg(feature = "libtorch")]
            say(bench::libtorch::description(&device)?);
        }
        let (mut rows, mut steps) = (Vec::new(), Vec::new());
        for problem in bench::problems_in(self.precision, self.timing.tiny).iter().filter(|p| self.wants(&p.name())) {
            let row = Row::new(problem, bench::measure(&device, problem, settings)?);
            if for_people {
                if rows.is_empty() {
                    say(bench::heading());
                }
                say(bench::table(&row, &ceilings));
            }
            rows.push(row);
        }
        for problem in &self.steps() {
            let step = bench::measure_step(&device, problem, settings)?;
            if for_people {
                if steps.is_empty() {
                    say(bench::step_heading());
                }
                say(step.row(&ceilings));
            }
            steps.push(step);
        }
        if rows.is_empty() && steps.is_empty() {
            return Err(self.nothing().into());
        }
        #[cfg(feature = "libtorch")]
        if markdown {
            say(bench::libtorch::markdown(&device, &ceilings, &rows, &steps)?.trim_end());
        }
        if self.json {
            say(serde_json::to_string_pretty(&bench::json(&device.description(), &rows, &steps, &ceilings))?);
        } else if self.csv {
            say(bench::csv(&rows, &steps, &ceilings).trim_end());
        }
        Ok(())
    }

    /// The steps to time, each followed by its form from separate kernels where one is asked for.
    fn steps(&self) -> Vec<StepProblem> {
        let mut problems = bench::steps_in(self.precision, self.timing.tiny);
        problems.retain(|problem| self.wants(&problem.name));
        #[cfg(feature = "libtorch")]
        problems.retain(|problem| !self.markdown || bench::libtorch::has(&problem.setup));
        let both = problems.into_iter().flat_map(|problem| {
            let unfused = problem.unfused(&self.unfused);
            [Some(problem), unfused]
        });
        both.flatten().collect()
    }
}
