//! Settings: one tree that the command line, TOML files and saved runs share.
//!
//! Each setting is named once, as a field of one of the tree's structs; its option (`--lr-g`), its key in a file (`lr-g`)
//! and its help follow from the field. Files are flat: they have the keys of all structs side by side. Values come from
//! the preset, then the file, then the command line.

mod architecture;
mod choices;
mod presets;
mod tree;

use std::path::Path;

use clap::parser::ValueSource;
use clap::{ArgMatches, Args, FromArgMatches};
use serde::{Deserialize, Deserializer, Serialize};

pub use architecture::{Architecture, Blocks, Residual, Widths};
pub use choices::{
    Change, Conditioning, LatentDistribution, Loss, Pool, PowerIterations, PrecisionChoice, SoftmaxTarget, Update,
    name_of,
};
pub use presets::{PRESETS, Preset};
pub use tree::{Batches, Images, Judging, Networks, Place, Training, Written};

use crate::Error;
use crate::cores::MOST_THREADS;
use crate::data::{DataOptions, DataSource, ImageShape, LoaderOptions, Size};
use crate::device::Convolution;
use crate::eval::judge::Metric;

type Result<T, E = Error> = std::result::Result<T, E>;

/// All settings of a training run. The numbers of a run depend on the preset, the networks, the training and the batches;
/// they do not depend on the rest, which may change whenever the run is resumed.
#[derive(Clone, Debug, PartialEq, Args, Serialize)]
pub struct Settings {
    /// Networks and the settings that go with them: one of those below
    #[arg(long, value_name = "NAME", hide_possible_values = true)]
    #[serde(with = "text")]
    pub preset: Preset,
    #[command(flatten)]
    #[serde(flatten)]
    pub images: Images,
    #[command(flatten)]
    #[serde(flatten)]
    pub networks: Networks,
    #[command(flatten)]
    #[serde(flatten)]
    pub training: Training,
    #[command(flatten)]
    #[serde(flatten)]
    pub batches: Batches,
    #[command(flatten)]
    #[serde(flatten)]
    pub place: Place,
    #[command(flatten)]
    #[serde(flatten)]
    pub judging: Judging,
    #[command(flatten)]
    #[serde(flatten)]
    pub written: Written,
}

/// What names the preset.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Named {
    #[serde(with = "text")]
    preset: Preset,
}

impl Default for Settings {
    fn default() -> Settings {
        Preset::default().settings()
    }
}

impl Settings {
    /// A preset with what `table` says over it. The preset is `preset`, else the table's, else the default.
    pub fn new(preset: Option<Preset>, table: &toml::Table) -> Result<Settings> {
        Settings::with_arguments(preset, table, None)
    }

    /// The same, with what the command line says over that. Where nobody says when the learning rates begin to fall, it is
    /// the preset's share of the training's length.
    pub fn with_arguments(
        preset: Option<Preset>,
        table: &toml::Table,
        arguments: Option<&ArgMatches>,
    ) -> Result<Settings> {
        if let Some(key) = unknown(table) {
            return Err(Error::Config(no_setting(key)));
        }
        let named: Named = table.clone().try_into().map_err(config)?;
        let base = preset.unwrap_or(named.preset).settings();
        let mut all = base.table()?;
        all.extend(table.clone());
        all.insert("preset".into(), base.preset.name.into());
        if is_of_a_run(table) {
            // What programs did that did not have these settings.
            let before: [(&str, toml::Value); 5] = [
                ("noise-within", false.into()),
                ("precision", "f32".into()),
                ("convolution", name_of(&Convolution::Direct).into()),
                ("softmax-target", name_of(&SoftmaxTarget::Uniform).into()),
                ("r1", 0.0.into()),
            ];
            for (name, value) in before {
                if !table.contains_key(name) {
                    all.insert(name.to_string(), value);
                }
            }
        }
        let mut settings = Settings::read(|| Ok(all.clone())).map_err(config)?;
        if let Some(arguments) = arguments {
            settings.update_from_arg_matches(arguments).map_err(config)?;
        }
        let source = arguments.and_then(|arguments| arguments.value_source("decay_from"));
        if source != Some(ValueSource::CommandLine) && !table.contains_key("decay-from") {
            let (steps, usual) = (u128::from(settings.training.steps), u128::from(base.training.steps));
            let moved = |from| (u128::from(from) * steps / usual) as u64;
            settings.training.decay_from = base.training.decay_from.map(moved);
        }
        Ok(settings)
    }

    /// The values that `open` leads to, and `mnist`'s for those that are missing. Each struct reads all of them anew and
    /// takes its own: as flattened parts of one struct, errors would not know the line and column of a value.
    fn read<'a, D: Deserializer<'a>>(open: impl Fn() -> Result<D, D::Error>) -> Result<Settings, D::Error> {
        Ok(Settings {
            preset: Named::deserialize(open()?)?.preset,
            images: Images::deserialize(open()?)?,
            networks: Networks::deserialize(open()?)?,
            training: Training::deserialize(open()?)?,
            batches: Batches::deserialize(open()?)?,
            place: Place::deserialize(open()?)?,
            judging: Judging::deserialize(open()?)?,
            written: Written::deserialize(open()?)?,
        })
    }

    /// The keys and values of a file, checked one by one.
    pub fn read_table(path: &Path) -> Result<toml::Table> {
        let text = crate::files::read_text(path)?;
        let fail = |what: String| Error::Config(format!("{}: {what}", path.display()));
        let table: toml::Table = toml::from_str(&text).map_err(|e| fail(e.to_string()))?;
        if let Some(key) = unknown(&table) {
            let line = text.lines().position(|l| l.trim_start().trim_start_matches('[').starts_with(key));
            let line = line.map_or(String::new(), |n| format!("line {}: ", n + 1));
            return Err(fail(format!("{line}{}", no_setting(key))));
        }
        // For the sake of its errors: they know line and column.
        Settings::read(|| toml::Deserializer::parse(&text)).map_err(|e| fail(e.to_string()))?;
        Ok(table)
    }

    /// The names of all settings.
    pub fn names() -> Vec<String> {
        let command = Settings::augment_args_for_update(clap::Command::new("zgan"));
        command.get_arguments().filter_map(|a| a.get_long()).map(String::from).collect()
    }

    /// As a file would say it.
    pub fn to_toml(&self) -> Result<String> {
        toml::to_string(self).map_err(config)
    }

    /// Refuses values that cannot work on their own, or that a file cannot hold.
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
        let Settings { preset, images, networks, training, batches, place, judging, written } = self;
        if preset.architecture.draws_points() != matches!(images.data, DataSource::Points(_)) {
            let what = format!("preset {preset} cannot learn from data {}; ring and grid go with ring", images.data);
            return Err(Error::Config(what));
        }
        if let Some(labels) = images.labels.as_ref().filter(|_| !matches!(images.data, DataSource::Folder(_))) {
            let what = format!("labels: {} goes with images of folder:DIR, not with {}", labels.display(), images.data);
            return Err(Error::Config(what));
        }
        within("classes", images.classes, 1, 256)?;
        within("size", images.size.height, 1, 4096)?;
        within("size", images.size.width, 1, 4096)?;
        if let Architecture::Residual(networks) = preset.architecture {
            networks.blocks(images.size)?;
        }
        if !matches!(images.channels, 1 | 3) {
            return Err(Error::Config(format!("channels: {}, expected 1 or 3", images.channels)));
        }
        within("data-memory", images.data_memory, 0, usize::MAX >> 20)?;
        within("max-pixels", batches.max_pixels, 1, 1 << 32)?;
        within("depth", batches.depth, 1, 16)?;
        within("latent", networks.latent, 1, 65_536)?;
        within("steps", training.steps, 1, u64::from(u32::MAX))?;
        // Checkpoints and TOML hold whole numbers up to 2^63 - 1.
        within("seed", training.seed, 0, i64::MAX as u64)?;
        within("batch", training.batch, 1, 1 << 20)?;
        within("batch-g", training.batch_of_g(), 1, 1 << 20)?;
        within("micro-batch", training.micro_batch.unwrap_or(1), 1, 1 << 20)?;
        within("freeze-d", training.freeze_d, 0, 1000)?;
        within("n-dis", training.n_dis, 1, 1000)?;
        within("width", networks.width, 1, 4096)?;
        within("pool-factor", networks.pool_factor, 1e-9, 1e9)?;
        within("aux-weight-d", training.aux_weight_d, 0.0, 1e9)?;
        within("aux-weight-g", training.aux_weight_g, 0.0, 1e9)?;
        within("gp-weight", training.gp_weight, 0.0, 1e9)?;
        within("r1", training.r1, 0.0, 1e9)?;
        within("r2", training.r2, 0.0, 1e9)?;
        within("penalty-every", training.penalty_every, 1, 1 << 20)?;
        // Beyond these, the weighted part of a sum of f32 would be lost in the other.
        within("real-weight", training.real_weight, 1e-3, 1e3)?;
        within("noise", batches.noise, 0.0, 1.0)?;
        // Written so that NaN fails.
        if !(batches.limit_data > 0.0 && batches.limit_data <= 1.0) {
            let what = format!("limit-data: {}, expected more than 0 and at most 1", batches.limit_data);
            return Err(Error::Config(what));
        }
        if batches.limit_data < 1.0 && matches!(images.data, DataSource::Points(_)) {
            let what =
                format!("limit-data: {}, and points are drawn as they are needed; expected 1", batches.limit_data);
            return Err(Error::Config(what));
        }
        within("lr-g", training.lr_g, 0.0, 1e9)?;
        within("lr-d", training.lr_d, 0.0, 1e9)?;
        decay("beta1", training.beta1)?;
        decay("beta2", training.beta2)?;
        decay("average", training.average)?;
        within("threads", place.threads, 0, MOST_THREADS)?;
        within("log-every", written.log_every, 1, i64::MAX as u64)?;
        within("sample-every", written.sample_every, 0, i64::MAX as u64)?;
        within("checkpoint-every", written.checkpoint_every, 0, i64::MAX as u64)?;
        within("keep-checkpoints", written.keep_checkpoints as u64, 0, i64::MAX as u64)?;
        within("eval-every", judging.eval_every, 0, i64::MAX as u64)?;
        within("eval-images", judging.eval_images, 2, 10_000_000)?;
        if judging.metrics().contains(&Metric::Fid50k) {
            return Err(Error::Config("eval-metrics: fid50k, which is fid with --eval-images 50000".into()));
        }
        if judging.metrics().contains(&Metric::Cas) {
            return Err(Error::Config(
                "eval-metrics: cas, which trains a classifier each time; zgan eval tells it".into(),
            ));
        }
        if let Some(best) = judging.keep_best.filter(|_| judging.eval_every == 0) {
            let what = format!("keep-best: {}, which is only known with --eval-every STEPS", best.name());
            return Err(Error::Config(what));
        }
        if judging.eval_every > 0 && matches!(images.data, DataSource::Points(_)) {
            return Err(Error::Config("eval-every: points are not judged; expected 0".into()));
        }
        if let Some(from) = training.decay_from {
            within("decay-from", from, 0, u64::from(u32::MAX))?;
        }
        if let Some(stop) = written.stop_at {
            within("stop-at", stop, 1, training.steps)?;
        }
        Ok(())
    }

    /// Refuses learning rates that would never fall although they are told to. A run of an older program may have them.
    pub fn check_decay(&self) -> Result<()> {
        let Training { decay_from, steps, .. } = self.training;
        match decay_from.filter(|from| *from >= steps) {
            Some(from) => Err(Error::Config(format!(
                "decay-from: {from} is past the end: there are {steps} steps; a smaller --decay-from or more --steps"
            ))),
            None => Ok(()),
        }
    }

    /// Refuses images of another size than the networks are to have.
    pub fn check_images(&self, shape: ImageShape) -> Result<()> {
        let (wanted, found) = (self.images.size, shape.size());
        if !self.preset.architecture.is_convolutional() || wanted == found {
            return Ok(());
        }
        let both = |size: Size| format!("{}x{}", size.height, size.width);
        Err(Error::Config(format!(
            "preset {} makes {} images, the data has {}; --size {found} builds networks for these",
            self.preset,
            both(wanted),
            both(found)
        )))
    }

    /// The values by their names.
    pub fn table(&self) -> Result<toml::Table> {
        toml::Table::try_from(self).map_err(config)
    }

    /// What determines the numbers of a run, besides the images. Naming every part of the tree makes a new one choose.
    pub fn numbers(&self) -> Result<toml::Table> {
        let Settings { preset, networks, training, batches, images: _, place: _, judging: _, written: _ } = self;
        let mut table = toml::Table::from_iter([("preset".to_string(), preset.name.into())]);
        table.extend(toml::Table::try_from(networks).map_err(config)?);
        table.extend(toml::Table::try_from(training).map_err(config)?);
        table.extend(toml::Table::try_from(batches).map_err(config)?);
        Ok(table)
    }

    pub fn data_options(&self) -> DataOptions {
        let Images { classes, size, channels, data_memory, pack, .. } = self.images;
        let Batches { unreadable, max_pixels, depth, .. } = self.batches;
        let (memory, threads) = (data_memory << 20, self.place.threads);
        let labels = self.images.labels.clone();
        DataOptions {
            classes,
            size,
            channels,
            unreadable,
            memory,
            pack,
            max_pixels,
            depth,
            threads,
            labels,
            like: None,
        }
    }

    pub fn loader_options(&self) -> LoaderOptions {
        let (training, batches) = (&self.training, &self.batches);
        let (share, last) = (batches.limit_data, batches.last_batch);
        LoaderOptions { batch: training.batch, seed: training.seed, share, last }
    }

    pub fn runs_dir(&self) -> &Path {
        self.written.runs_dir.as_deref().unwrap_or(Path::new("runs"))
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

/// Whether this table is of a run, which has every setting that the program had which wrote it.
fn is_of_a_run(table: &toml::Table) -> bool {
    ["preset", "flip", "noise", "last-batch"].iter().all(|name| table.contains_key(*name))
}

/// A key that is no setting's name.
fn unknown(table: &toml::Table) -> Option<&str> {
    let names = Settings::names();
    table.keys().find(|key| !names.contains(key)).map(String::as_str)
}

fn no_setting(key: &str) -> String {
    let names = Settings::names();
    let nearest = match nearest(key, &names) {
        Some(name) => format!("did you mean {name}?"),
        None => format!("there are {}", names.join(", ")),
    };
    format!("there is no setting {key}; {nearest}")
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
