//! `zgan sample`

use std::path::PathBuf;

use clap::Args;
use zgan::config::Config;
use zgan::device::{Device, DeviceChoice};
use zgan::gan::{Trainer, Weights};
use zgan::picture::Picture;
use zgan::{Error, checkpoint, run};

use super::{say, train};

#[derive(Args)]
pub struct Sample {
    /// Draw from this run, by name or folder: its newest checkpoint
    #[arg(long, value_name = "RUN", required_unless_present = "checkpoint")]
    run: Option<String>,
    /// Draw from this checkpoint
    #[arg(long, value_name = "FILE", conflicts_with = "run")]
    checkpoint: Option<PathBuf>,
    /// Folder of all runs
    #[arg(long, value_name = "DIR", default_value = "runs")]
    runs_dir: PathBuf,
    /// All random numbers follow from this one
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Images, rounded up to full rows of a class
    #[arg(long, value_name = "IMAGES", default_value_t = 64)]
    count: usize,
    /// The PNG file to write
    #[arg(long, value_name = "FILE", default_value = "grid.png")]
    out: PathBuf,
    /// Draw with G's weights of the last step, not their moving average
    #[arg(long)]
    raw_weights: bool,
    /// auto, host, cuda, cuda:N or simt
    #[arg(long, value_name = "DEVICE", default_value_t = DeviceChoice::Auto)]
    device: DeviceChoice,
    /// Threads of the host, 0 for one a core
    #[arg(long, value_name = "N", default_value_t = 0)]
    threads: usize,
}

impl Sample {
    pub fn run(&self) -> anyhow::Result<()> {
        if self.count == 0 || self.count > 1 << 16 {
            return Err(Error::Config(format!("count: {}, expected 1 to {}", self.count, 1 << 16)).into());
        }
        let path = match (&self.checkpoint, &self.run) {
            (Some(file), _) => file.clone(),
            (None, name) => {
                let name = name.as_deref().unwrap_or_default();
                match run::checkpoints(&run::find(&self.runs_dir, name)?)?.pop() {
                    Some((_, path)) => path,
                    None => return Err(Error::Config(format!("run {name} has no checkpoint yet")).into()),
                }
            }
        };
        let (header, tensors) = checkpoint::load(&path)?;
        let config = Config::new(None, &header.config)?;
        let options = config.trainer_options(&header.data);
        let (device, _) = Device::open(self.device, self.threads)?;
        let mut trainer = Trainer::new(&device, &options)?;
        trainer.restore(header.step, &tensors)?;
        let weights = if self.raw_weights || config.average == 0.0 { Weights::Raw } else { Weights::Average };
        let (latents, columns) = train::grid(&options, self.seed, self.count);
        let images = trainer.sample(weights, &latents)?;
        Picture::grid(&images, options.shape, columns)?.save(&self.out)?;
        say(format!("{} images after step {}: {}", latents.count, header.step, self.out.display()));
        Ok(())
    }
}
