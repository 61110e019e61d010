//! Drawing from the generator.

use super::options::{Latents, TrainerOptions};
use super::trainer::{LATENTS, Layouts, generator};
use crate::Result;
use crate::data::ImageShape;
use crate::device::{Buffer, Device};
use crate::nn::{Arena, Builder, Forward, Mode, Network, Value};
use crate::ops::state::{State, StateBuffer};
use crate::ops::{pixels, random};

/// Images drawn at once.
const BATCH: usize = 64;

/// Batches over which batch statistics are gathered for averaged weights.
const GATHERED: u32 = 16;

/// A generator of its own batch size, on the trainer's weights.
pub(super) struct Sampler {
    state: StateBuffer,
    network: Network,
    z: Value,
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
        let mut layouts = Layouts::default();
        let ImageShape { height: h, width: w, channels: c } = options.shape;
        let mut build = Builder {
            parameters: &mut layouts.generator,
            running: &mut layouts.running,
            arena,
            gradients: false,
        };
        let z = build.value(BATCH, 1, 1, options.latent)?;
        let image = build.value(BATCH, h, w, c)?;
        let network = generator(options, &mut build, &z, &image)?;
        Ok(Sampler {
            state: StateBuffer::new(device, &State::new(0, [0.0; 2], 0, 0))?,
            network,
            bytes: arena.take(BATCH * h * w * c)?,
            gathered: arena.take(layouts.running.len())?,
            z,
            image,
        })
    }

    /// Images as bytes, (count, H, W, C). `running` are the statistics that belong to `weights`; without them they
    /// are gathered anew.
    pub fn draw(&self, weights: &Buffer<f32>, running: Option<&Buffer<f32>>, latents: &Latents) -> Result<Vec<u8>> {
        if running.is_none() {
            for i in 0..GATHERED {
                let mode = Mode::Train { momentum: 1.0 / (i + 1) as f32 };
                self.run(weights, &self.gathered, mode, 0, i)?;
            }
        }
        let running = running.unwrap_or(&self.gathered);
        let mut images = Vec::with_capacity(latents.count.next_multiple_of(BATCH) * self.image.features());
        for batch in 0..latents.count.div_ceil(BATCH) {
            self.run(weights, running, Mode::Evaluate, latents.seed, batch as u32)?;
            pixels::store(&self.bytes, &self.image.x)?;
            images.extend(self.bytes.read()?);
        }
        images.truncate(latents.count * self.image.features());
        Ok(images)
    }

    fn run(&self, weights: &Buffer<f32>, running: &Buffer<f32>, mode: Mode, seed: u64, batch: u32) -> Result<()> {
        let mut state = State::new(seed, [0.0; 2], 0, 0);
        state.step = batch;
        self.state.write(&state)?;
        random::normal(&self.z.x, &self.state, LATENTS)?;
        self.network.forward(&Forward { weights, running, mode, rows: 0..BATCH })
    }
}
