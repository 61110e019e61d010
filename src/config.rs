//! Settings: one struct that the command line, TOML files and saved runs share.
//!
//! Each setting is named once, as a field of [`Config`]; its option (`--lr-g`), its key in a file (`lr-g`) and its
//! help follow from the field. Values come from the preset, then the file, then the command line.

use std::path::{Path, PathBuf};

use clap::Args;
use serde::{Deserialize, Serialize};

use crate::data::{DataInfo, DataOptions, DataSource, LastBatch, LoaderOptions, Unreadable};
use crate::device::{DeviceChoice, Precision};
use crate::gan::{Conditioning, Loss, Pool, PowerIterations, Preset, TrainerOptions, Update};
use crate::nn::Fusion;
use crate::{Error, Result};

/// All settings of a training run.
#[derive(Clone, Debug, PartialEq, Args, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Config {
    /// Networks and the settings that go with them
    #[arg(long, value_name = "NAME", help_heading = "What is trained")]
    pub preset: Preset,
    /// Images: mnist-10k (inside this program), idx:DIR, cifar10:DIR, cifar100:DIR or folder:DIR; ring: points
    #[arg(long, value_name = "SOURCE", help_heading = "Data")]
    pub data: DataSource,
    /// How the networks meet the labels
    #[arg(long, value_name = "HOW", help_heading = "What is trained")]
    pub conditioning: Conditioning,
    /// What the players minimise
    #[arg(long, value_name = "LOSS", help_heading = "What is trained")]
    pub loss: Loss,
    /// Factor on the class loss of conditioning ac-gan in D's loss
    #[arg(long, value_name = "FACTOR", help_heading = "What is trained")]
    pub aux_weight_d: f64,
    /// The same in G's loss
    #[arg(long, value_name = "FACTOR", help_heading = "What is trained")]
    pub aux_weight_g: f64,
    /// Factor on the gradient penalty of loss wasserstein-gp
    #[arg(long, value_name = "FACTOR", help_heading = "What is trained")]
    pub gp_weight: f64,
    /// Base width of the residual networks, in channels
    #[arg(long, value_name = "CHANNELS", help_heading = "What is trained")]
    pub width: usize,
    /// Spectral normalisation of D's weights
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", action = clap::ArgAction::Set)]
    #[arg(help_heading = "What is trained")]
    pub spectral_norm: bool,
    /// Spectral normalisation of G's weights
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", action = clap::ArgAction::Set)]
    #[arg(help_heading = "What is trained")]
    pub spectral_norm_g: bool,
    /// When spectral normalisation makes a power iteration
    #[arg(long, value_name = "WHEN", help_heading = "What is trained")]
    pub sn_policy: PowerIterations,
    /// How D's features are pooled over the pixels
    #[arg(long, value_name = "HOW", help_heading = "What is trained")]
    pub pool: Pool,
    /// Factor on the pooled features
    #[arg(long, value_name = "FACTOR", help_heading = "What is trained")]
    pub pool_factor: f64,
    /// Classes that the labels of idx:DIR name
    #[arg(long, value_name = "N", help_heading = "Data")]
    pub classes: usize,
    /// Side that images of folder:DIR are cropped and scaled to, in pixels
    #[arg(long, value_name = "PIXELS", help_heading = "Data")]
    pub size: usize,
    /// Channels of images of folder:DIR: 1 (grey) or 3
    #[arg(long, value_name = "N", help_heading = "Data")]
    pub channels: usize,
    /// A file of folder:DIR that cannot be read: refuse to train, or skip it
    #[arg(long, value_name = "WHAT", help_heading = "Data")]
    pub unreadable: Unreadable,
    /// Most memory for the images of folder:DIR, in MiB; larger folders are streamed
    #[arg(long, value_name = "MIB", help_heading = "Data")]
    pub data_memory: usize,
    /// Mirror every other real image, by chance
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", action = clap::ArgAction::Set)]
    #[arg(help_heading = "Data")]
    pub flip: bool,
    /// Dimension of the latent z, in numbers
    #[arg(long, value_name = "N", help_heading = "What is trained")]
    pub latent: usize,
    /// Length of the training, in steps
    #[arg(long, value_name = "STEPS", help_heading = "Training")]
    pub steps: u64,
    /// Save and stop after this step, short of --steps; --resume goes on
    #[arg(long, value_name = "STEP", help_heading = "Training")]
    #[serde(skip_serializing)]
    pub stop_at: Option<u64>,
    /// Real images of a D step, and as many fakes
    #[arg(long, value_name = "IMAGES", help_heading = "Training")]
    pub batch: usize,
    /// Fakes of a G step [default: as --batch, but for some presets]
    #[arg(long, value_name = "IMAGES", help_heading = "Training")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch_g: Option<usize>,
    /// D steps for each G step; more than 1 needs --update alternating
    #[arg(long, value_name = "STEPS", help_heading = "Training")]
    pub n_dis: usize,
    /// An epoch's last images that fill no batch: drop them, or fill up from the next epoch
    #[arg(long, value_name = "WHAT", help_heading = "Data")]
    pub last_batch: LastBatch,
    /// All random numbers follow from this one
    #[arg(long, value_name = "N", help_heading = "Training")]
    pub seed: u64,
    /// What activations are stored as and products computed in: f32, tf32, bf16 or f16; weights stay f32
    #[arg(long, value_name = "NAME", help_heading = "Training")]
    #[serde(with = "text")]
    pub precision: Precision,
    /// Which network moves when
    #[arg(long, value_name = "RULE", help_heading = "Training")]
    pub update: Update,
    /// Learning rate of G, a step
    #[arg(long, value_name = "RATE", help_heading = "Training")]
    pub lr_g: f64,
    /// Learning rate of D, a step
    #[arg(long, value_name = "RATE", help_heading = "Training")]
    pub lr_d: f64,
    /// Step from which both rates fall linearly to 0 at the last step [default: never, but for some presets]
    #[arg(long, value_name = "STEP", help_heading = "Training")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decay_from: Option<u64>,
    /// Decay of Adam's mean of gradients, a step
    #[arg(long, value_name = "DECAY", help_heading = "Training")]
    pub beta1: f64,
    /// Decay of Adam's mean of squared gradients, a step
    #[arg(long, value_name = "DECAY", help_heading = "Training")]
    pub beta2: f64,
    /// Decay of the moving average of G's weights, a step; 0 keeps none
    #[arg(long, value_name = "DECAY", help_heading = "Training")]
    pub average: f64,
    /// Updates of G for which the average is a copy of the weights
    #[arg(long, value_name = "UPDATES", help_heading = "Training")]
    pub average_from: u32,
    /// Noise U(0, this) on real pixels, which are in [-1, 1]
    #[arg(long, value_name = "AMPLITUDE", help_heading = "Data")]
    pub noise: f64,
    /// Run these from separate kernels, to see what fusing them buys: the same training to rounding, slower
    #[arg(long, value_name = "WHAT,...", value_delimiter = ',', help_heading = "Where it runs")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unfused: Vec<Fusion>,
    /// auto, host, cuda, cuda:N or simt; auto takes the first usable GPU, else the host
    #[arg(long, value_name = "DEVICE", help_heading = "Where it runs")]
    #[serde(with = "text")]
    pub device: DeviceChoice,
    /// Threads of the host, 0 for one a core; the results do not depend on it
    #[arg(long, value_name = "N", help_heading = "Where it runs")]
    pub threads: usize,
    /// Name of the run, a folder in --runs-dir [default: a number and the preset's name]
    #[arg(long, value_name = "NAME", help_heading = "What is written")]
    #[serde(skip_serializing)]
    pub run: Option<String>,
    /// Folder of all runs [default: runs]
    #[arg(long, value_name = "DIR", help_heading = "What is written")]
    #[serde(skip_serializing)]
    pub runs_dir: Option<PathBuf>,
    /// Steps between lines of metrics.csv
    #[arg(long, value_name = "STEPS", help_heading = "What is written")]
    pub log_every: u64,
    /// Steps between pictures, 0 for one at the end alone
    #[arg(long, value_name = "STEPS", help_heading = "What is written")]
    pub sample_every: u64,
    /// Steps between checkpoints, 0 for one at the end alone
    #[arg(long, value_name = "STEPS", help_heading = "What is written")]
    pub checkpoint_every: u64,
    /// Newest checkpoints that are kept, 0 for all
    #[arg(long, value_name = "N", help_heading = "What is written")]
    pub keep_checkpoints: usize,
}

/// Settings that no number depends on: the others make up [`Config::numbers`].
const NOT_NUMBERS: &[&str] = &[
    "data", // a checkpoint remembers the images themselves: `DataInfo`
    "classes",
    "size",
    "channels",
    "data-memory",
    "device",
    "threads",
    "log-every",
    "sample-every",
    "checkpoint-every",
    "keep-checkpoints",
];

impl Default for Config {
    fn default() -> Config {
        Config::preset(Preset::default())
    }
}

impl Config {
    /// The settings of a preset.
    pub fn preset(preset: Preset) -> Config {
        // The default, and what the others are told apart from.
        let mnist = Config {
            preset,
            data: DataSource::Mnist10k,
            conditioning: Conditioning::Projection,
            loss: Loss::Softmax,
            // As in Gulrajani et al. 2017, for both: a G that follows the class loss as much as D's opinion draws what
            // is easy to classify.
            aux_weight_d: 1.0,
            aux_weight_g: 0.1,
            gp_weight: 10.0,
            width: 16,
            spectral_norm: false,
            spectral_norm_g: false,
            sn_policy: PowerIterations::PerStep,
            pool: Pool::Mean,
            pool_factor: 4.0,
            classes: 10,
            latent: 64,
            steps: 1500,
            stop_at: None,
            batch: 64,
            batch_g: None,
            n_dis: 1,
            last_batch: LastBatch::Drop,
            seed: 1,
            precision: Precision::F32,
            update: Update::Simultaneous,
            lr_g: 1e-3,
            lr_d: 1e-3,
            decay_from: None,
            beta1: 0.5,
            beta2: 0.9,
            average: 0.995,
            average_from: 200,
            noise: 0.0,
            flip: false,
            size: 32,
            channels: 3,
            unreadable: Unreadable::Refuse,
            data_memory: 2048,
            unfused: Vec::new(),
            device: DeviceChoice::Auto,
            threads: 0,
            run: None,
            runs_dir: None,
            log_every: 50,
            sample_every: 500,
            checkpoint_every: 500,
            keep_checkpoints: 3,
        };
        let sngan = Config {
            loss: Loss::Hinge,
            width: 64,
            spectral_norm: true,
            pool: Pool::Sum,
            pool_factor: 1.0,
            latent: 128,
            n_dis: 5,
            update: Update::Alternating,
            lr_g: 2e-4,
            lr_d: 2e-4,
            beta1: 0.0,
            average: 0.0,
            average_from: 0,
            noise: 1.0 / 128.0,
            flip: true,
            checkpoint_every: 1000,
            sample_every: 1000,
            ..mnist.clone()
        };
        match preset {
            Preset::Mnist => mnist,
            Preset::SnganProjection32 => {
                Config { width: 128, batch_g: Some(128), steps: 50_000, decay_from: Some(0), ..sngan }
            }
            Preset::SnganProjection64 | Preset::Crcrpar64 => {
                Config { steps: 250_000, decay_from: Some(200_000), ..sngan }
            }
            Preset::SnganProjection128 => Config { steps: 450_000, decay_from: Some(400_000), ..sngan },
            Preset::Sagan64 => Config {
                spectral_norm_g: true,
                lr_g: 1e-4,
                lr_d: 4e-4,
                beta2: 0.999,
                n_dis: 1,
                average: 0.999,
                steps: 250_000,
                ..sngan
            },
            Preset::Ring => Config {
                data: DataSource::Ring,
                conditioning: Conditioning::None,
                width: 128,
                latent: 16,
                batch: 256,
                steps: 5000,
                average: 0.0,
                average_from: 0,
                ..mnist
            },
            Preset::SoftmaxGan => Config {
                conditioning: Conditioning::None,
                latent: 100,
                steps: 2000,
                lr_g: 2e-4,
                lr_d: 2e-4,
                beta2: 0.999,
                average: 0.0,
                average_from: 0,
                ..mnist
            },
        }
    }

    /// A preset with what `table` says over it. The preset is `preset`, else the table's, else the default.
    pub fn new(preset: Option<Preset>, table: &toml::Table) -> Result<Config> {
        let named = match table.get("preset") {
            Some(value) => Some(value.clone().try_into::<Preset>().map_err(config)?),
            None => None,
        };
        let base = Config::preset(preset.or(named).unwrap_or_default());
        let mut all = toml::Table::try_from(&base).map_err(config)?;
        all.extend(table.iter().map(|(key, value)| (key.clone(), value.clone())));
        if preset.is_some() {
            all.insert("preset".into(), base.preset.to_string().into());
        }
        all.try_into().map_err(config)
    }

    /// The keys and values of a file, checked one by one.
    pub fn read_table(path: &Path) -> Result<toml::Table> {
        let text = std::fs::read_to_string(path).map_err(Error::io(path))?;
        let fail = |what: String| Error::Config(format!("{}: {what}", path.display()));
        let table: toml::Table = toml::from_str(&text).map_err(|e| fail(e.to_string()))?;
        let names = Config::names();
        for key in table.keys() {
            if !names.contains(key) {
                let line = text.lines().position(|l| l.trim_start().trim_start_matches('[').starts_with(key.as_str()));
                let line = line.map_or(String::new(), |n| format!("line {}: ", n + 1));
                let nearest = match nearest(key, &names) {
                    Some(name) => format!("did you mean {name}?"),
                    None => format!("there are {}", names.join(", ")),
                };
                return Err(fail(format!("{line}there is no setting {key}; {nearest}")));
            }
        }
        // Read as a whole once for the sake of its errors: they know line and column.
        toml::from_str::<Config>(&text).map_err(|e| fail(e.to_string()))?;
        Ok(table)
    }

    /// The names of all settings.
    pub fn names() -> Vec<String> {
        let command = Config::augment_args_for_update(clap::Command::new("zgan"));
        command.get_arguments().filter_map(|a| a.get_long()).map(String::from).collect()
    }

    /// As a file would say it.
    pub fn to_toml(&self) -> Result<String> {
        toml::to_string(self).map_err(config)
    }

    /// Refuses values that cannot work on their own.
    pub fn check(&self) -> Result<()> {
        fn within<T: PartialOrd + std::fmt::Display>(name: &str, value: T, least: T, most: T) -> Result<()> {
            // Written so that NaN fails.
            if value >= least && value <= most {
                return Ok(());
            }
            Err(Error::Config(format!("{name}: {value}, expected {least} to {most}")))
        }
        fn decay(name: &str, value: f64) -> Result<()> {
            if (0.0..1.0).contains(&value) {
                return Ok(());
            }
            Err(Error::Config(format!("{name}: {value}, expected at least 0 and less than 1")))
        }
        if (self.preset == Preset::Ring) != (self.data == DataSource::Ring) {
            let what = format!("preset {} cannot learn from data {}; ring goes with ring", self.preset, self.data);
            return Err(Error::Config(what));
        }
        within("classes", self.classes, 1, 256)?;
        within("size", self.size, 1, 4096)?;
        if !matches!(self.channels, 1 | 3) {
            return Err(Error::Config(format!("channels: {}, expected 1 or 3", self.channels)));
        }
        within("data-memory", self.data_memory, 0, usize::MAX >> 20)?;
        within("latent", self.latent, 1, 65_536)?;
        within("steps", self.steps, 1, u64::from(u32::MAX))?;
        // Checkpoints and TOML hold whole numbers up to 2^63 - 1.
        within("seed", self.seed, 0, i64::MAX as u64)?;
        within("batch", self.batch, 1, 1 << 20)?;
        within("batch-g", self.batch_g.unwrap_or(self.batch), 1, 1 << 20)?;
        within("n-dis", self.n_dis, 1, 1000)?;
        within("width", self.width, 1, 4096)?;
        within("pool-factor", self.pool_factor, 1e-9, 1e9)?;
        for (name, weight) in
            [("aux-weight-d", self.aux_weight_d), ("aux-weight-g", self.aux_weight_g), ("gp-weight", self.gp_weight)]
        {
            within(name, weight, 0.0, 1e9)?;
        }
        within("noise", self.noise, 0.0, 1.0)?;
        for (name, rate) in [("lr-g", self.lr_g), ("lr-d", self.lr_d)] {
            within(name, rate, 0.0, 1e9)?;
        }
        decay("beta1", self.beta1)?;
        decay("beta2", self.beta2)?;
        decay("average", self.average)?;
        within("threads", self.threads, 0, 1024)?;
        within("log-every", self.log_every, 1, i64::MAX as u64)?;
        if let Some(stop) = self.stop_at {
            within("stop-at", stop, 1, self.steps)?;
        }
        Ok(())
    }

    /// What determines the numbers of a run, besides the images: everything but names, places and intervals.
    pub fn numbers(&self) -> Result<toml::Table> {
        let mut table = toml::Table::try_from(self).map_err(config)?;
        for name in NOT_NUMBERS {
            table.remove(*name);
        }
        Ok(table)
    }

    pub fn data_options(&self) -> DataOptions {
        DataOptions {
            classes: self.classes,
            size: self.size,
            channels: self.channels,
            unreadable: self.unreadable,
            memory: self.data_memory << 20,
        }
    }

    pub fn loader_options(&self) -> LoaderOptions {
        LoaderOptions { batch: self.batch, seed: self.seed, last: self.last_batch }
    }

    pub fn trainer_options(&self, data: &DataInfo) -> TrainerOptions {
        TrainerOptions {
            preset: self.preset,
            shape: data.shape,
            classes: data.classes.len(),
            conditioning: self.conditioning,
            width: self.width,
            spectral_norm: self.spectral_norm,
            spectral_norm_g: self.spectral_norm_g,
            sn_policy: self.sn_policy,
            pool: self.pool,
            pool_factor: self.pool_factor as f32,
            loss: self.loss,
            precision: self.precision,
            aux_weight_d: self.aux_weight_d as f32,
            aux_weight_g: self.aux_weight_g as f32,
            gp_weight: self.gp_weight as f32,
            batch: self.batch,
            batch_g: self.batch_g.unwrap_or(self.batch),
            n_dis: self.n_dis,
            steps: self.steps,
            decay_from: self.decay_from,
            seed: self.seed,
            update: self.update,
            lr_g: self.lr_g as f32,
            lr_d: self.lr_d as f32,
            beta1: self.beta1,
            beta2: self.beta2,
            latent: self.latent,
            average: self.average as f32,
            average_from: self.average_from,
            noise: self.noise as f32,
            flips: self.flip,
            unfused: self.unfused.clone(),
        }
    }

    pub fn runs_dir(&self) -> &Path {
        self.runs_dir.as_deref().unwrap_or(Path::new("runs"))
    }
}

/// `batch is 64 there, 32 here`, for each setting that two tables disagree on.
pub fn differences(there: &toml::Table, here: &toml::Table) -> Vec<String> {
    let shown = |value: Option<&toml::Value>| value.map_or("missing".to_string(), |v| v.to_string());
    let mut names: Vec<&String> = there.keys().chain(here.keys()).collect();
    names.sort();
    names.dedup();
    let differing = names.into_iter().filter(|name| there.get(*name) != here.get(*name));
    differing
        .map(|name| format!("{name} is {} there, {} here", shown(there.get(name)), shown(here.get(name))))
        .collect()
}

/// The candidate that `word` was probably meant to be.
pub fn nearest<'a>(word: &str, candidates: &'a [String]) -> Option<&'a String> {
    let word = word.to_lowercase().replace('_', "-");
    let rated = candidates.iter().map(|name| (strsim::jaro_winkler(&word, name), name));
    rated.filter(|(likeness, _)| *likeness > 0.7).max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, name)| name)
}

fn config(error: impl std::fmt::Display) -> Error {
    Error::Config(error.to_string())
}

/// Values that are written as they are on the command line.
mod text {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<T: std::fmt::Display, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    pub fn deserialize<'a, T, D: Deserializer<'a>>(deserializer: D) -> Result<T, D::Error>
    where
        T: std::str::FromStr<Err: std::fmt::Display>,
    {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}
