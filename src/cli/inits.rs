//! The weights that `zgan train` begins with, where they are not random.

use std::path::{Path, PathBuf};
use std::rc::Rc;

use clap::Args;
use zgan::checkpoint::NamedTensor;
use zgan::exchange::{ClassMap, Incoming, Newcomers, Side};
use zgan::gan::Setup;
use zgan::settings::Preset;
use zgan::{Error, Result, run};

#[derive(Args)]
#[command(next_help_heading = "Weights to begin with")]
pub struct Inits {
    /// Begin with the G of this file: an export or checkpoint of zgan, or weights with crcrpar's or PyTorch-GAN's names
    #[arg(long, value_name = "FILE", conflicts_with = "resume")]
    init_g: Option<PathBuf>,
    /// Begin with the D of this file
    #[arg(long, value_name = "FILE", conflicts_with = "resume")]
    init_d: Option<PathBuf>,
    /// Begin with both networks of the newest checkpoint of another run, by name or folder
    #[arg(long, value_name = "RUN", conflicts_with_all = ["resume", "init_g", "init_d"])]
    init_from: Option<String>,
    /// Which class of those weights each class of the data goes on from, by name or number
    #[arg(long, value_name = "OLD:NEW,...", value_delimiter = ',')]
    class_map: Vec<String>,
    /// How classes begin that --class-map does not name
    #[arg(long, value_name = "HOW", default_value = "mean")]
    new_classes: Newcomers,
}

/// The files that were read, by the networks that begin with them.
pub struct Beginning {
    files: Vec<(Side, Rc<Incoming>)>,
    pairs: Vec<(String, String)>,
    newcomers: Newcomers,
}

impl Inits {
    /// Reads the files. None where no option names any.
    pub fn read(&self, runs_dir: &Path) -> Result<Option<Beginning>> {
        let mut files = Vec::new();
        if let Some(name) = &self.init_from {
            let both = Rc::new(Incoming::read(&run::newest_checkpoint(runs_dir, name)?)?);
            files = vec![(Side::Generator, both.clone()), (Side::Discriminator, both)];
        }
        for (side, file) in [(Side::Generator, &self.init_g), (Side::Discriminator, &self.init_d)] {
            if let Some(file) = file {
                files.push((side, Rc::new(Incoming::read(file)?)));
            }
        }
        let pair = |text: &String| match text.split_once(':') {
            Some((old, new)) => Ok((old.to_string(), new.to_string())),
            None => Err(Error::Config(format!("class-map: {text:?}, expected two classes, as OLD:NEW"))),
        };
        let pairs = self.class_map.iter().map(pair).collect::<Result<Vec<_>>>()?;
        if files.is_empty() {
            return match pairs.is_empty() {
                true => Ok(None),
                false => Err(Error::Config("class-map: needs weights: --init-from, --init-g or --init-d".into())),
            };
        }
        Ok(Some(Beginning { files, pairs, newcomers: self.new_classes }))
    }
}

impl Beginning {
    /// The settings of the networks that the weights are of. `preset` is what the user says.
    pub fn settings(&self, preset: Option<Preset>) -> Result<toml::Table> {
        let preset = preset.or_else(|| self.files.iter().find_map(|(_, file)| file.preset())).ok_or_else(|| {
            let path = self.files[0].1.path().display();
            Error::Config(format!("preset: {path} does not say of which its networks are; --preset names it"))
        })?;
        let mut all = toml::Table::from_iter([("preset".to_string(), preset.name.into())]);
        for (side, file) in &self.files {
            for (name, value) in file.settings(preset, *side)? {
                all.entry(name).or_insert(value);
            }
        }
        Ok(all)
    }

    /// The tensors that networks of this setup begin with, under the names of a checkpoint, and lines that say what becomes of
    /// the files' tensors. `classes` are the names of those of the data.
    pub fn take(&self, setup: &Setup, classes: &[String]) -> Result<(Vec<NamedTensor>, Vec<String>)> {
        let (mut tensors, mut notes) = (Vec::new(), Vec::new());
        for (side, file) in &self.files {
            let there = (file.classes(setup, *side)?, file.class_names.as_deref());
            let taken = file.take(setup, *side, &ClassMap::new(&self.pairs, there, classes, self.newcomers)?)?;
            tensors.extend(taken.tensors);
            notes.extend(taken.notes);
        }
        for side in [Side::Generator, Side::Discriminator] {
            if self.files.iter().all(|(other, _)| *other != side) {
                notes.push(format!("{}: no file, so it begins as that of a new run", side.letter()));
            }
        }
        Ok((tensors, notes))
    }
}
