//! `zgan bench`

use std::time::Duration;

use clap::Args;
use zgan::device::{DeviceChoice, Precision};
use zgan::instruments::bench::{self, Caches, Card, Ceilings, Row, Settings};
use zgan::nn::Fusion;

use super::{model, say, scaling, tuned};

#[derive(Args)]
pub struct Bench {
    /// Only what holds this text: an operation with its sizes, or "step" with a preset
    #[arg(value_name = "TEXT")]
    pub filter: Option<String>,
    /// auto, host, cuda, cuda:N or simt
    #[arg(long, default_value_t = DeviceChoice::Auto)]
    pub device: DeviceChoice,
    /// Threads of the host, 0 for one a core
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub threads: usize,
    /// Time the products of layers, and the steps, in tf32, bf16 or f16
    #[arg(long, value_name = "NAME", default_value_t = Precision::F32, conflicts_with_all = ["unfused", "scaling"])]
    precision: Precision,
    /// Let each run find in the caches what the run before left there
    #[arg(long)]
    warm: bool,
    /// Time steps also with these from separate kernels, each beside its fused form
    #[arg(long, value_name = "WHAT,...", value_delimiter = ',')]
    unfused: Vec<Fusion>,
    /// Seconds for each problem
    #[arg(long, value_name = "SECONDS", default_value_t = 0.5)]
    time: f64,
    /// Sizes that only try the program; their times say nothing
    #[arg(long)]
    pub tiny: bool,
    /// Do not time anything: tell the least time that the published rates of a card allow: h100, a100, rtx4090 or t4
    #[arg(long, value_name = "CARD")]
    model: Option<&'static Card>,
    /// With --model: time it on the device as well, and tell both
    #[arg(long, requires = "model")]
    measure: bool,
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

impl Bench {
    pub fn run(&self) -> anyhow::Result<()> {
        let time = Duration::try_from_secs_f64(self.time)
            .map_err(|_| zgan::Error::Config(format!("--time {}: a number of seconds, 0 or more", self.time)))?;
        let caches = if self.warm { Caches::Warm } else { Caches::Cold };
        let settings = Settings { caches, time };
        if self.scaling {
            return scaling::run(self, settings);
        }
        let open = || tuned::open(self.device, self.threads).map(|(device, _)| device);
        if let Some(card) = self.model {
            let measured = if self.measure { Some((open()?, settings)) } else { None };
            let filter = self.filter.as_deref();
            return model::run(&model::Asked {
                card,
                filter,
                precision: self.precision,
                tiny: self.tiny,
                json: self.json,
                csv: self.csv,
                measured,
            });
        }
        let device = open()?;
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
                if self.warm { "warm" } else { "cold" }
            ));
            #[cfg(feature = "libtorch")]
            say(bench::libtorch::description(&device)?);
        }
        let wanted = |name: &str| self.filter.as_ref().is_none_or(|text| name.contains(text.as_str()));
        let (mut rows, mut steps) = (Vec::new(), Vec::new());
        for problem in bench::problems_in(self.precision, self.tiny).iter().filter(|problem| wanted(&problem.name())) {
            let row = Row::new(problem, bench::measure(&device, problem, settings)?);
            if for_people {
                if rows.is_empty() {
                    say(bench::heading());
                }
                say(bench::table(&row, &ceilings));
            }
            rows.push(row);
        }
        let mut problems = bench::steps_in(self.precision, self.tiny);
        problems.retain(|problem| wanted(&problem.name));
        #[cfg(feature = "libtorch")]
        problems.retain(|problem| !markdown || bench::libtorch::has(&problem.setup));
        let both = problems.into_iter().flat_map(|problem| {
            let unfused = problem.unfused(&self.unfused);
            [Some(problem), unfused]
        });
        for problem in &both.flatten().collect::<Vec<_>>() {
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
            let filter = self.filter.as_deref().unwrap_or_default();
            return Err(zgan::Error::Config(format!("nothing is called {filter:?}; zgan bench lists all")).into());
        }
        #[cfg(feature = "libtorch")]
        if markdown {
            say(bench::libtorch::markdown(&device, &ceilings, &rows, &steps)?.trim_end());
        }
        if self.json {
            say(serde_json::to_string_pretty(&bench::json(&device.description(), &rows, &steps, &ceilings))?);
        } else if self.csv {
            if !rows.is_empty() {
                say(bench::csv(&rows, &ceilings).trim_end());
            }
            if !steps.is_empty() {
                say(bench::MeasuredStep::csv_header());
                steps.iter().for_each(|step| say(step.csv(&ceilings)));
            }
        }
        Ok(())
    }
}
