//! `zgan check`: runs every kernel as real thread blocks, under four checkers.

use std::process::ExitCode;

use clap::Args;
use serde_json::json;
use zgan::instruments::check::{self, Options, Report};

use super::{profile, say, thousands};

#[derive(Args)]
pub struct Check {
    /// Only cases or kernels with this in their name
    filter: Option<String>,
    /// The first seed of the order in which threads and blocks run; 0 keeps their order
    #[arg(long, default_value_t = 0)]
    schedule_seed: u64,
    /// How many seeds, one after the other
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=65536))]
    seeds: u64,
    /// Leave out the cases that take long
    #[arg(long)]
    quick: bool,
    /// Count what a GPU's memory would feel instead: sectors, bank conflicts, bytes, each by line of source
    #[arg(long, conflicts_with_all = ["seeds", "quick"])]
    profile: bool,
    /// Of a profile, the lines of source that are shown
    #[arg(long, value_name = "N", default_value_t = 20)]
    lines: usize,
    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,
}

impl Check {
    pub fn run(&self) -> anyhow::Result<ExitCode> {
        if self.profile {
            return self.show_profile();
        }
        let schedule_seeds = (0..self.seeds).map(|i| self.schedule_seed.wrapping_add(i)).collect();
        let options = Options { filter: self.filter.clone(), schedule_seeds, quick: self.quick };
        let report = check::run_all(&options)?;
        if self.json {
            say(serde_json::to_string_pretty(&as_json(&report, &options))?);
        } else {
            print(&report, &options);
        }
        Ok(if report.clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    fn show_profile(&self) -> anyhow::Result<ExitCode> {
        let profiles = check::profile(self.filter.as_deref().unwrap_or(""), self.schedule_seed, false)?;
        if self.json {
            say(serde_json::to_string_pretty(&profile::as_json(&profiles))?);
        } else {
            profile::print(&profiles, self.lines);
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn print(report: &Report, options: &Options) {
    let width = report.kernels.keys().map(|name| name.len()).max().unwrap_or(0).max("kernel".len());
    say(format_args!(
        "{:width$}  {:>6}  {:>8}  {:>13}  {:>8}  {:>8}",
        "kernel", "shapes", "launches", "accesses", "findings", "seconds"
    ));
    let mut accesses = 0;
    for (name, row) in &report.kernels {
        accesses += row.accesses;
        say(format_args!(
            "{name:width$}  {:>6}  {:>8}  {:>13}  {:>8}  {:>8.2}",
            row.cases,
            thousands(row.launches as usize),
            thousands(row.accesses as usize),
            row.findings,
            row.time.as_secs_f64()
        ));
    }
    for (case, finding) in &report.findings {
        say(format_args!("{finding}\n    in {case}"));
    }
    for (case, difference) in &report.differences {
        say(format_args!("differs: {difference}\n    in {case}"));
    }
    let found = report.findings.len() + report.differences.len();
    say(format_args!(
        "{} kernels, {} cases under {} schedules, {} accesses checked, {} in {:.1} s",
        report.kernels.len(),
        report.cases,
        options.schedule_seeds.len(),
        thousands(accesses as usize),
        match found {
            0 => "nothing found".into(),
            1 => "1 finding".into(),
            n => format!("{n} findings"),
        },
        report.time.as_secs_f64()
    ));
}

fn as_json(report: &Report, options: &Options) -> serde_json::Value {
    let kernels: Vec<_> = report
        .kernels
        .iter()
        .map(|(name, row)| {
            json!({
                "kernel": name,
                "shapes": row.cases,
                "launches": row.launches,
                "accesses": row.accesses,
                "findings": row.findings,
                "seconds": row.time.as_secs_f64(),
            })
        })
        .collect();
    let findings: Vec<_> = report
        .findings
        .iter()
        .map(|(case, f)| {
            json!({
                "check": f.check.to_string(),
                "kernel": f.kernel,
                "case": case,
                "block": f.block,
                "thread": f.thread,
                "source": f.source,
                "what": f.what,
                "memory": f.memory,
                "other": f.other,
                "times": f.times,
            })
        })
        .collect();
    let differences: Vec<_> =
        report.differences.iter().map(|(case, what)| json!({ "case": case, "what": what })).collect();
    json!({
        "schedule_seeds": options.schedule_seeds,
        "cases": report.cases,
        "kernels": kernels,
        "findings": findings,
        "differences": differences,
        "seconds": report.time.as_secs_f64(),
    })
}
