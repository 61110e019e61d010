//! `zgan plot`

use std::fmt::Write;
use std::path::PathBuf;

use clap::Args;
use zgan::instruments::plot::{Axis, Chart, SERIES, escape};
use zgan::instruments::study::page::document;
use zgan::run::{self, Log};
use zgan::{Error, files};

use super::{say, writable};

#[derive(Args)]
pub struct Plot {
    /// Runs, by name or folder
    #[arg(value_name = "RUN", required = true)]
    runs: Vec<String>,
    /// Folder of all runs
    #[arg(long, value_name = "DIR", default_value = "runs")]
    runs_dir: PathBuf,
    /// The page that is written: one HTML file with a chart for each column of metrics.csv, which needs no network
    #[arg(long, value_name = "FILE", default_value = "plot.html")]
    out: PathBuf,
}

impl Plot {
    pub fn run(&self) -> anyhow::Result<()> {
        writable("out", &self.out)?;
        let logs: Vec<(String, Log)> = self
            .runs
            .iter()
            .map(|name| Ok((name.clone(), run::log(&run::find(&self.runs_dir, name)?)?)))
            .collect::<Result<_, Error>>()?;
        files::write_bytes(&self.out, page(&logs).as_bytes())?;
        say(format!("written {}", self.out.display()));
        Ok(())
    }
}

/// A chart for each column that a run has, with a curve for each run that has it.
fn page(logs: &[(String, Log)]) -> String {
    let mut names: Vec<&str> = Vec::new();
    for (name, _) in logs.iter().flat_map(|(_, log)| &log.columns) {
        if !names.contains(&name.as_str()) {
            names.push(name);
        }
    }
    let runs: Vec<&str> = logs.iter().map(|(run, _)| run.as_str()).collect();
    let mut body = format!("<h1>{}</h1>\n<div class=\"legend\">", escape(&runs.join(", ")));
    for (i, run) in runs.iter().enumerate() {
        let _ = write!(body, "<span><i class=\"s{}\"></i>{}</span>", i % SERIES, escape(run));
    }
    body.push_str("</div>\n");
    for name in names {
        let curves = || {
            let of =
                |log: &'_ Log| log.columns.iter().find(|(column, _)| column == name).map(|(_, points)| points.clone());
            logs.iter().enumerate().filter_map(move |(i, (_, log))| Some((i, of(log)?)))
        };
        let points: Vec<(f64, f64)> = curves().flat_map(|(_, points)| points).collect();
        let x = Axis::even("step", points.iter().map(|(x, _)| *x));
        let mut chart = Chart::new(name, x, Axis::even("", points.iter().map(|(_, y)| *y)));
        for (i, points) in curves() {
            match points[..] {
                // A line of one point would not be seen.
                [point] => chart.point(point, i, runs[i]),
                _ => chart.line(&points, i),
            }
        }
        let _ = write!(body, "<h2>{}</h2>\n<div class=\"wide\">{}</div>\n", escape(name), chart.svg());
    }
    document(&runs.join(", "), &body)
}
