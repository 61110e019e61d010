//! `zgan bench`

use std::time::Duration;

use clap::Args;
use zgan::bench::{self, Caches, Ceilings, Row, Settings};
use zgan::device::{Device, DeviceChoice};

use super::say;

#[derive(Args)]
pub struct Bench {
    /// Only problems whose name (operation and sizes) holds this text
    #[arg(value_name = "TEXT")]
    filter: Option<String>,
    /// auto, host, cuda, cuda:N or simt
    #[arg(long, default_value_t = DeviceChoice::Auto)]
    device: DeviceChoice,
    /// Threads of the host, 0 for one a core
    #[arg(long, value_name = "N", default_value_t = 0)]
    threads: usize,
    /// Let each run find in the caches what the run before left there
    #[arg(long)]
    warm: bool,
    /// Seconds for each problem
    #[arg(long, value_name = "SECONDS", default_value_t = 0.5)]
    time: f64,
    /// Sizes that only try the program; their times say nothing
    #[arg(long)]
    tiny: bool,
    /// Print one JSON object instead of the table
    #[arg(long, conflicts_with = "csv")]
    json: bool,
    /// Print CSV instead of the table
    #[arg(long)]
    csv: bool,
}

impl Bench {
    pub fn run(&self) -> anyhow::Result<()> {
        let (device, _) = Device::open(self.device, self.threads)?;
        let time = Duration::try_from_secs_f64(self.time)
            .map_err(|_| zgan::Error::Config(format!("--time {}: a number of seconds, 0 or more", self.time)))?;
        let caches = if self.warm { Caches::Warm } else { Caches::Cold };
        let ceilings = Ceilings::measure(&device)?;
        let for_people = !self.json && !self.csv;
        if for_people {
            say(device.description());
            say(format!(
                "ceilings of this run: {:.1} GFLOP/s of multiply-adds, {:.1} GB/s of a copy; caches {}",
                ceilings.flops * 1e-9,
                ceilings.bandwidth * 1e-9,
                if self.warm { "warm" } else { "cold" }
            ));
            say(bench::heading());
        }
        let mut rows = Vec::new();
        for make in bench::problems(self.tiny) {
            let problem = make(&device)?;
            if self.filter.as_ref().is_some_and(|text| !problem.name().contains(text.as_str())) {
                continue;
            }
            let row = Row::new(&problem, bench::measure(&device, &problem, Settings { caches, time })?);
            if for_people {
                say(bench::table(&row, &ceilings));
            }
            rows.push(row);
        }
        if rows.is_empty() {
            let filter = self.filter.as_deref().unwrap_or_default();
            return Err(zgan::Error::Config(format!("no problem is called {filter:?}; zgan bench lists all")).into());
        }
        if self.json {
            say(serde_json::to_string_pretty(&bench::json(&device.description(), &rows, &ceilings))?);
        } else if self.csv {
            say(bench::csv(&rows, &ceilings).trim_end());
        }
        Ok(())
    }
}
