//! `zgan study`, `zgan study conditioning` and `zgan study modes`

use std::path::PathBuf;

use clap::{Args, Subcommand};
use zgan::Error;
use zgan::data::{DataSource, Split};
use zgan::instruments::bench;
use zgan::instruments::study::{self, conditioning, modes};
use zgan::settings::{Preset, Settings};

use super::bench::Timing;
use super::tuned::Place;
use super::{eval, say, tell, writable};

#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Study {
    #[command(subcommand)]
    of: Option<Of>,
    /// The page that is written: one HTML file, which needs no network
    #[arg(long, value_name = "FILE", default_value = "study.html")]
    out: PathBuf,
    /// Only these parts: steps, log-partition, projection, norm, block, attention, adam, spectral, roofline
    #[arg(long, value_name = "PART,...", value_delimiter = ',')]
    only: Vec<String>,
    /// Print one object of JSON as well
    #[arg(long)]
    json: bool,
    /// Measure nothing, and fail, where the machine has other work
    #[arg(long)]
    strict: bool,
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    timing: Timing,
}

#[derive(Subcommand)]
enum Of {
    /// Train the four discriminators that know labels alike, and compare what their generators learn
    Conditioning(Conditioning),
    /// Train losses alike on Gaussians in the plane, and show which cover all modes, and why
    Modes(Modes),
}

#[derive(Args)]
struct Conditioning {
    /// Networks and the settings that go with them [default: mnist, or as --config says]
    #[arg(long, value_name = "NAME")]
    preset: Option<Preset>,
    /// A TOML file of settings, named as the options of train are
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Images, as train takes them [default: the preset's]
    #[arg(long, value_name = "SOURCE")]
    data: Option<DataSource>,
    /// Length of each training, in steps [default: the preset's]
    #[arg(long, value_name = "STEPS")]
    steps: Option<u64>,
    /// Each discriminator is trained from each of these
    #[arg(long, value_name = "N,...", value_delimiter = ',', default_values_t = [1, 2, 3])]
    seeds: Vec<u64>,
    /// Images that are drawn of each class
    #[arg(long, value_name = "IMAGES", default_value_t = 100)]
    per_class: usize,
    /// Also write a page: one HTML file, which needs no network
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    place: Place,
}

/// What is printed for programs.
#[derive(Args)]
struct Output {
    /// Write one object of JSON instead of the table
    #[arg(long, conflicts_with = "csv")]
    json: bool,
    /// Write CSV instead of the table
    #[arg(long)]
    csv: bool,
}

impl Output {
    fn for_people(&self) -> bool {
        !self.json && !self.csv
    }

    fn print(&self, object: &serde_json::Value, csv: &str, table: String) -> anyhow::Result<()> {
        match (self.json, self.csv) {
            (true, _) => say(serde_json::to_string_pretty(object)?),
            (_, true) => say(csv.trim_end()),
            _ => say(table),
        }
        Ok(())
    }
}

#[derive(Args)]
struct Modes {
    /// ring (eight Gaussians on a circle) or grid (5 x 5)
    #[arg(long, value_name = "SOURCE", default_value = "ring")]
    data: DataSource,
    /// Length of each training, in steps [default: the preset's, 5000]
    #[arg(long, value_name = "STEPS")]
    steps: Option<u64>,
    /// Each loss is trained from each of these
    #[arg(long, value_name = "N,...", value_delimiter = ',', default_values_t = [1, 2, 3])]
    seeds: Vec<u64>,
    /// The page that is written: one HTML file, which needs no network
    #[arg(long, value_name = "FILE", default_value = "modes.html")]
    out: PathBuf,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    place: Place,
}

impl Study {
    pub fn run(&self) -> anyhow::Result<()> {
        match &self.of {
            Some(Of::Conditioning(conditioning)) => return conditioning.run(),
            Some(Of::Modes(modes)) => return modes.run(),
            None => {}
        }
        writable("out", &self.out)?;
        let settings = self.timing.settings()?;
        study::check(&self.only)?;
        if self.strict {
            bench::check_idle(bench::load())?;
        }
        let device = self.place.open()?;
        let tell = |line: String| tell(!self.json, line);
        tell(device.description());
        let study = study::measure(&device, settings, self.timing.tiny, &self.only, &mut |line| tell(line))?;
        study::write(&self.out, &study::page(&study))?;
        tell(format!("page    {}", self.out.display()));
        study.busy().into_iter().for_each(&tell);
        if self.json {
            say(serde_json::to_string_pretty(&study::json(&study))?);
        }
        Ok(())
    }
}

impl Conditioning {
    fn run(&self) -> anyhow::Result<()> {
        let settings = self.settings()?;
        if let Some(out) = &self.out {
            writable("out", out)?;
        }
        let data = settings.images.data.open(Split::Train, &settings.data_options())?;
        conditioning::check(&settings, &data.info())?;
        eval::check(&data.info())?;
        if data.classes().len() < 2 {
            let what = format!("conditioning: {} have one class, and there is nothing to compare", data.info());
            return Err(Error::Config(what).into());
        }
        let device = self.place.open()?;
        let tell = |line: String| tell(self.output.for_people(), line);
        tell(format!("{}; {}, {} steps each", device.description(), settings.preset, settings.training.steps));
        let ready = eval::classifier(&device, &settings, &data, &tell)?;
        let comparison = conditioning::Comparison {
            settings: &settings,
            seeds: &self.seeds,
            data: &data,
            classifier: &ready.classifier,
            per_class: self.per_class,
            real_per_class: eval::REAL,
        };
        let outcomes = comparison.run(&device, &mut |line| tell(line))?;
        if let Some(out) = &self.out {
            let page = conditioning::page(&device.description(), &settings, data.info().shape, &outcomes);
            study::write(out, &page)?;
            tell(format!("page    {}", out.display()));
        }
        let object = serde_json::json!({
            "device": device.description(),
            "preset": settings.preset.name,
            "steps": settings.training.steps,
            "summary": conditioning::summaries(&outcomes),
            "trainings": outcomes,
        });
        self.output.print(&object, &conditioning::csv(&outcomes), conditioning::table(&outcomes))
    }

    fn settings(&self) -> anyhow::Result<Settings> {
        let mut table = self.config.as_deref().map(Settings::read_table).transpose()?.unwrap_or_default();
        table.extend(self.steps.map(|steps| ("steps".to_string(), (steps as i64).into())));
        let mut settings = Settings::new(self.preset, &table)?;
        if let Some(data) = &self.data {
            settings.images.data = data.clone();
        }
        settings.images.data = settings.images.data.absolute();
        settings.check()?;
        settings.check_decay()?;
        eval::check_per_class(self.per_class)?;
        check_seeds(&self.seeds)?;
        Ok(settings)
    }
}

fn check_seeds(seeds: &[u64]) -> Result<(), Error> {
    match seeds.iter().find(|seed| **seed > i64::MAX as u64) {
        Some(seed) => Err(Error::Config(format!("seeds: {seed}, expected 0 to {}", i64::MAX))),
        None => Ok(()),
    }
}

impl Modes {
    fn run(&self) -> anyhow::Result<()> {
        let steps = self.steps.map(|steps| ("steps".to_string(), (steps as i64).into()));
        let mut settings = Settings::new(Some("ring".parse::<Preset>()?), &steps.into_iter().collect())?;
        settings.images.data = self.data.clone();
        settings.check()?;
        check_seeds(&self.seeds)?;
        writable("out", &self.out)?;
        let info = settings.images.data.open(Split::Train, &settings.data_options())?.info();
        let device = self.place.open()?;
        let tell = |line: String| tell(self.output.for_people(), line);
        tell(format!("{}; {info}, {} steps each", device.description(), settings.training.steps));
        let outcomes = modes::run(&device, &settings, &info, &self.seeds, &mut |line| tell(line))?;
        study::write(&self.out, &modes::page(&device.description(), &settings, &info, &outcomes))?;
        tell(format!("page    {}", self.out.display()));
        let object = serde_json::json!({
            "device": device.description(),
            "data": info.name,
            "steps": settings.training.steps,
            "trainings": outcomes,
        });
        self.output.print(&object, &modes::csv(&outcomes), modes::table(&outcomes))
    }
}
