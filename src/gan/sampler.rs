//! Drawing from the generator.

use super::networks::{self, Latent};
use super::options::{Latents, TrainerOptions, Weights};
use super::player::{Player, Players};
use super::trainer::{LABELS, LATENTS};
use crate::data::ImageShape;
use crate::device::{Buffer, Device};
use crate::nn::{Arena, Builder, Forward, Mode, Network, Value};
use crate::ops::state::{State, StateBuffer};
use crate::ops::{pixels, random};
use crate::{Error, Result};

/// Images drawn at once.
const BATCH: usize = 64;

/// Batches over which batch statistics are gathered for averaged weights.
const GATHERED: u32 = 16;

/// A generator of its own batch size, on the trainer's weights.
pub(super) struct Sampler {
    options: TrainerOptions,
    state: StateBuffer,
    network: Network,
    latent: Latent,
    image: Value,
    bytes: Buffer<u8>,
    /// Statistics gathered under the averaged weights: those of training belong to other weights.
    gathered: Buffer<f32>,
}

impl Sampler {
    pub fn new(device: &Device, options: &TrainerOptions) -> Result<Sampler> {
        let mut measuring = Arena::measuring();
        Sampler::build(device, options, &mut measuring)?;
        Sampler::build(device, options, &mut Arena::new(device, measuring.used())?)
    }

    fn build(device: &Device, options: &TrainerOptions, arena: &mut Arena) -> Result<Sampler> {
        let mut players = Players::default();
        let ImageShape { height: h, width: w, channels: c } = options.shape;
        let mut build = Builder {
            parameters: &mut players.generator.parameters,
            running: &mut players.generator.running,
            arena,
            gradients: false,
        };
        let latent = Latent { z: build.value(BATCH, 1, 1, options.latent)?, labels: build.arena.take(BATCH)? };
        let image = build.value(BATCH, h, w, c)?;
        let network = networks::generator(options, &mut build, &latent, &image)?;
        Ok(Sampler {
            options: options.clone(),
            state: StateBuffer::new(device, &State::new(0, [0.0; 2], 0, 0))?,
            network,
            bytes: arena.take(BATCH * h * w * c)?,
            gathered: arena.take(players.generator.running.len())?,
            latent,
            image,
        })
    }

    /// Images as bytes, (count, H, W, C). Averaged weights get statistics of their own, gathered anew.
    pub fn draw(&self, player: &Player, weights: Weights, latents: &Latents) -> Result<Vec<u8>> {
        let conditional = self.options.conditional();
        if conditional && latents.labels.len() != latents.count {
            let (labels, count) = (latents.labels.len(), latents.count);
            return Err(Error::Shape(format!("sample: {labels} labels for {count} images of a class-conditional run")));
        }
        if let Some(label) = latents.labels.iter().find(|label| **label as usize >= self.options.classes) {
            return Err(Error::Shape(format!("sample: label {label}, there are {} classes", self.options.classes)));
        }
        let averaged = player.average.as_ref().filter(|_| weights == Weights::Average);
        player.normalise_from(averaged.unwrap_or(&player.values), false)?;
        let weights = player.weights_of(averaged.unwrap_or(&player.values));
        let running = if averaged.is_some() {
            for i in 0..GATHERED {
                self.latents(0, i)?;
                random::labels(&self.latent.labels, &self.state, LABELS, self.options.classes as u32)?;
                self.run(weights, &self.gathered, Mode::Train { momentum: 1.0 / (i + 1) as f32 })?;
            }
            &self.gathered
        } else {
            &player.running
        };
        let mut images = Vec::with_capacity(latents.count.next_multiple_of(BATCH) * self.image.features());
        let mut labels = [0; BATCH];
        for batch in 0..latents.count.div_ceil(BATCH) {
            let wanted = latents.labels.iter().skip(batch * BATCH);
            labels.iter_mut().zip(wanted).for_each(|(label, wanted)| *label = *wanted);
            self.latents(latents.seed, batch as u32)?;
            self.latent.labels.write(&labels)?;
            self.run(weights, running, Mode::Evaluate)?;
            pixels::store(&self.bytes, &self.image.x)?;
            images.extend(self.bytes.read()?);
        }
        images.truncate(latents.count * self.image.features());
        Ok(images)
    }

    fn latents(&self, seed: u64, batch: u32) -> Result<()> {
        let mut state = State::new(seed, [0.0; 2], 0, 0);
        state.step = batch;
        self.state.write(&state)?;
        random::normal(&self.latent.z.x, &self.state, LATENTS)
    }

    fn run(&self, weights: &Buffer<f32>, running: &Buffer<f32>, mode: Mode) -> Result<()> {
        self.network.forward(&Forward { weights, running, mode, rows: 0..BATCH })
    }
}
