//! `zgan tune`

use std::path::PathBuf;

use clap::Args;
use zgan::Error;
use zgan::device::DeviceChoice;
use zgan::instruments::bench::{Caches, Settings};
use zgan::instruments::tune::{self, Line, Request, Trial, WORTH, file};

use super::bench::seconds;
use super::{say, tuned, writable};

#[derive(Args)]
pub struct Tune {
    /// Only the fields that hold this text, for example elements or tiles
    #[arg(value_name = "TEXT")]
    filter: Option<String>,
    /// auto, host, cuda or cuda:N
    #[arg(long, default_value_t = DeviceChoice::Auto)]
    device: DeviceChoice,
    /// Threads of the host, 0 for one a core
    #[arg(long, value_name = "N", default_value_t = 0)]
    threads: usize,
    /// Seconds for each operation that depends on a field
    #[arg(long, value_name = "SECONDS", default_value_t = 0.3)]
    time: f64,
    /// The file that is written [default: the one in the cache folder that all commands read]
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Measure and tell, and write nothing
    #[arg(long)]
    dry_run: bool,
    /// Sizes that only try the program; their times say nothing
    #[arg(long)]
    tiny: bool,
}

impl Tune {
    pub fn run(&self) -> anyhow::Result<()> {
        let time = seconds(self.time)?;
        if self.tiny && self.output.is_none() && !self.dry_run {
            let what = "--tiny: its times say nothing, so all commands should not use them; give --output or --dry-run";
            return Err(Error::Config(what.into()).into());
        }
        let (device, _) = tuned::open(self.device, self.threads)?;
        let place = match &self.output {
            _ if self.dry_run => None,
            Some(file) => Some(file.clone()),
            None => match file::place(&device) {
                Some(place) => Some(place),
                None => {
                    let what =
                        "there is no cache folder (neither XDG_CACHE_HOME nor HOME is set): --output says where to";
                    return Err(Error::Config(what.into()).into());
                }
            },
        };
        if let Some(place) = &place {
            writable("output", place)?;
        }
        say(device.description());
        say(format!(
            "time and again: a candidate's over the present value's; below {:.2} both times it is taken",
            1.0 - WORTH
        ));
        let caches = if self.tiny { Caches::Warm } else { Caches::Cold };
        let request = Request { settings: Settings { caches, time }, tiny: self.tiny, filter: self.filter.as_deref() };
        let mut above = None;
        let found = tune::tune(&device, &request, &mut |line| tell(&line, &mut above))?;
        if found == *device.tuning() {
            let least = 100.0 * WORTH;
            say(format!("\nnothing else was more than {least:.0} % faster: all stays as it is"));
        }
        match &place {
            Some(place) => {
                file::write(place, &device.with_tuning(found)?)?;
                say(format!("\nwritten {}", place.display()));
                if self.output.is_none() {
                    say(
                        "        train, sample, eval, bench and study use it from now on; ZGAN_TUNING=off leaves it out",
                    );
                } else {
                    say(format!("        ZGAN_TUNING={} uses it", place.display()));
                }
            }
            None => say("nothing is written: --dry-run"),
        }
        Ok(())
    }
}

/// Prints a row of the table. `above` is the field of the row above, if there is one: the same name is not repeated.
fn tell(line: &Line, above: &mut Option<&'static str>) {
    if above.is_none() {
        say(format!("\n{:<13} {:>9} {:>12} {:>7} {:>7}  problems", "field", "present", "tried", "time", "again"));
    }
    let field = match line {
        Line::Cost { family, .. } => family,
        Line::Trial(trial) => trial.field,
        Line::Untried { field, .. } => field,
    };
    let name = if *above == Some(field) { "" } else { field };
    *above = Some(field);
    say(match line {
        Line::Cost { precision, tile, cost, .. } => {
            let precision = precision.name();
            format!("{name:<13} {tile:>9} {precision:>12} {cost:>7.3} {:>7}  measured cost", "")
        }
        Line::Trial(Trial { present, tried, ratio, again, problems, taken, .. }) => {
            let again = again.map(|again| format!("{again:.3}")).unwrap_or_default();
            let taken = if *taken { "  taken" } else { "" };
            format!("{name:<13} {present:>9} {tried:>12} {ratio:>7.3} {again:>7}  {problems}{taken}")
        }
        Line::Untried { present, .. } => format!("{name:<13} {present:>9} {:>28}  none depends on it", ""),
    });
}
