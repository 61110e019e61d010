//! `zgan export`

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use zgan::gan::{Generator, Setup, Weights};
use zgan::{Error, checkpoint, exchange, run};

use super::tuned::Place;
use super::{say, settings_of, unfit};

#[derive(Args)]
pub struct Export {
    /// Export this run, by name or folder: its newest checkpoint
    #[arg(long, value_name = "RUN", required_unless_present = "checkpoint")]
    run: Option<String>,
    /// Export this checkpoint
    #[arg(long, value_name = "FILE", conflicts_with = "run")]
    checkpoint: Option<PathBuf>,
    /// Folder of all runs
    #[arg(long, value_name = "DIR", default_value = "runs")]
    runs_dir: PathBuf,
    /// Folder for the files
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// G's weights of the last step, not their moving average
    #[arg(long)]
    raw_weights: bool,
    /// Divide weights by their spectral norms, instead of writing the norms' vectors beside them
    #[arg(long)]
    fold_spectral_norm: bool,
    /// Write both networks as ONNX files besides
    #[arg(long)]
    onnx: bool,

    #[command(flatten, next_help_heading = "Where it runs")]
    place: Place,
}

impl Export {
    pub fn run(&self) -> anyhow::Result<()> {
        let path = match &self.checkpoint {
            Some(file) => file.clone(),
            None => run::newest_checkpoint(&self.runs_dir, self.run.as_deref().unwrap_or_default())?,
        };
        if self.out.is_file() {
            return Err(Error::Config(format!("out: {} is a file, expected a folder", self.out.display())).into());
        }
        let (header, tensors) = checkpoint::load(&path)?;
        let setup = Setup::new(&settings_of(&path, &header)?, &header.data);
        let device = self.place.open()?;
        let weights = if self.raw_weights { Weights::Raw } else { Weights::Average };
        let unfit = || unfit(&path, "exported");
        let generator = Generator::new(&device, &setup, &tensors, weights).with_context(unfit)?;
        let source = exchange::Source {
            setup: &setup,
            header: &header,
            tensors: &tensors,
            generator: &generator,
            folded: self.fold_spectral_norm,
            onnx: self.onnx,
        };
        for file in source.write(&self.out).with_context(unfit)? {
            say(format!("wrote {}", file.display()));
        }
        Ok(())
    }
}
