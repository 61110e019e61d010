//! `zgan study`, and `zgan study conditioning`

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};
use zgan::Error;
use zgan::data::{DataSource, Split};
use zgan::device::DeviceChoice;
use zgan::instruments::bench::{self, Caches};
use zgan::instruments::study::{self, conditioning};
use zgan::settings::{Preset, Settings};

use super::{eval, say, tuned};

#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Study {
    #[command(subcommand)]
    of: Option<Of>,
    /// The page that is written: one HTML file, which needs no network
    #[arg(long, value_name = "FILE", default_value = "study.html")]
    out: PathBuf,
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
}

#[derive(Subcommand)]
enum Of {
    /// Train the four discriminators that know labels alike, and compare what their generators learn
    Conditioning(Conditioning),
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
    /// Write one object of JSON instead of the table
    #[arg(long, conflicts_with = "csv")]
    json: bool,
    /// Write CSV instead of the table
    #[arg(long)]
    csv: bool,
    /// auto, host, cuda, cuda:N or simt
    #[arg(long, default_value_t = DeviceChoice::Auto)]
    device: DeviceChoice,
    /// Threads of the host, 0 for one a core
    #[arg(long, value_name = "N", default_value_t = 0)]
    threads: usize,
}

impl Study {
    pub fn run(&self) -> anyhow::Result<()> {
        if let Some(Of::Conditioning(conditioning)) = &self.of {
            return conditioning.run();
        }
        writable(&self.out)?;
        let time = Duration::try_from_secs_f64(self.time)
            .map_err(|_| Error::Config(format!("--time {}: a number of seconds, 0 or more", self.time)))?;
        let caches = if self.warm { Caches::Warm } else { Caches::Cold };
        let (device, _) = tuned::open(self.device, self.threads)?;
        say(device.description());
        let study = study::measure(&device, bench::Settings { caches, time }, self.tiny, &mut |line| say(line))?;
        study::write(&self.out, &study::page(&study))?;
        say(format!("page    {}", self.out.display()));
        Ok(())
    }
}

/// Refuses a place that nothing can be written to before minutes are spent on what would be.
fn writable(path: &Path) -> Result<(), Error> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if path.file_name().is_none() || path.is_dir() {
        return Err(Error::Config(format!("out: {} is a folder, expected a file's name", path.display())));
    }
    if !folder.is_dir() {
        return Err(Error::Config(format!("out: there is no folder {}", folder.display())));
    }
    Ok(())
}

impl Conditioning {
    fn run(&self) -> anyhow::Result<()> {
        let settings = self.settings()?;
        if let Some(out) = &self.out {
            writable(out)?;
        }
        let data = settings.images.data.open(Split::Train, &settings.data_options())?;
        conditioning::check(&settings, &data.info())?;
        eval::check(&data.info())?;
        let (device, _) = tuned::open(self.device, self.threads)?;
        let for_people = !self.json && !self.csv;
        // What is for other programs has the standard output for itself.
        let mut tell = |line: String| match for_people {
            true => say(line),
            false => drop(writeln!(std::io::stderr(), "{line}")),
        };
        tell(format!("{}; {}, {} steps each", device.description(), settings.preset, settings.training.steps));
        let Some(ready) = eval::classifier(&device, &settings, &data, &mut tell, &|| true)? else { return Ok(()) };
        let comparison = conditioning::Comparison {
            settings: &settings,
            seeds: &self.seeds,
            data: &data,
            classifier: &ready.classifier,
            per_class: self.per_class,
            real_per_class: eval::REAL,
        };
        let outcomes = comparison.run(&device, &mut tell)?;
        if let Some(out) = &self.out {
            let page = conditioning::page(&device.description(), &settings, &outcomes);
            study::write(out, &page)?;
            tell(format!("page    {}", out.display()));
        }
        if self.json {
            let object = serde_json::json!({
                "device": device.description(),
                "preset": settings.preset.name,
                "steps": settings.training.steps,
                "summary": conditioning::summaries(&outcomes),
                "trainings": outcomes,
            });
            say(serde_json::to_string_pretty(&object)?);
        } else if self.csv {
            say(conditioning::csv(&outcomes).trim_end());
        } else {
            say(conditioning::table(&outcomes));
        }
        Ok(())
    }

    fn settings(&self) -> anyhow::Result<Settings> {
        let table = self.config.as_deref().map(Settings::read_table).transpose()?.unwrap_or_default();
        let mut settings = Settings::new(self.preset, &table)?;
        if let Some(data) = &self.data {
            settings.images.data = data.clone();
        }
        settings.training.steps = self.steps.unwrap_or(settings.training.steps);
        settings.images.data = settings.images.data.absolute();
        settings.check()?;
        if self.per_class == 0 || self.per_class > 1 << 16 {
            return Err(Error::Config(format!("per-class: {}, expected 1 to {}", self.per_class, 1 << 16)).into());
        }
        if let Some(seed) = self.seeds.iter().find(|seed| **seed > i64::MAX as u64) {
            return Err(Error::Config(format!("seeds: {seed}, expected 0 to {}", i64::MAX)).into());
        }
        Ok(settings)
    }
}
