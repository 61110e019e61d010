//! Drawing from the generator, in f32 whatever the precision of the training.

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::Arc;

use super::latents::{self, LABELS, LATENTS, Latents};
use super::networks::{self, Latent};
use super::player::{Layouts, Player};
use super::setup::{Setup, Weights};
use crate::checkpoint::NamedTensor;
use crate::data::ImageShape;
use crate::device::{Buffer, Device, Reals};
use crate::nn::parameters::{self, Entry};
use crate::nn::{Arena, Builder, Forward, Labels, Layout, Mode, Network, Value};
use crate::ops::state::{State, StateBuffer};
use crate::ops::{pixels, random};
use crate::sizes::{product, reserved};
use crate::{Error, Result};

/// Images drawn at once.
const BATCH: usize = 64;

/// Batches over which batch statistics are gathered for averaged weights.
const GATHERED: u32 = 16;

/// Numbers of `count` images, the last batch of them filled up.
fn room(count: usize, features: usize) -> usize {
    product([count.next_multiple_of(BATCH), features])
}

/// A generator of its own batch size, on the weights of a player.
pub(super) struct Sampler {
    setup: Setup,
    state: StateBuffer,
    network: Network,
    latent: Latent,
    image: Value,
    bytes: Buffer<u8>,
    /// Statistics gathered under the averaged weights: those of training belong to other weights.
    gathered: Reals,
    /// Whether they are those of the weights that will draw.
    known: Cell<bool>,
}

/// What stands before the names of the average's statistics in a checkpoint.
const AVERAGE: &str = "average.generator.";

/// What a forward pass draws with: weights, and the running statistics that belong to them.
struct Source<'a> {
    weights: &'a Reals,
    running: &'a Reals,
}

impl Sampler {
    pub fn new(device: &Device, setup: &Setup) -> Result<(Sampler, Layouts)> {
        let device = &device.with_convolution(setup.training.convolution);
        let (mut layouts, bytes) = Sampler::measure(device, setup)?;
        let mut arena = Arena::new(device, bytes)?;
        Ok((Sampler::build(device, setup, &mut arena, &mut layouts)?, layouts))
    }

    /// Device memory that it takes besides a player.
    pub fn bytes(setup: &Setup) -> Result<usize> {
        Ok(Sampler::measure(&Device::unbacked(), setup)?.1)
    }

    /// The layouts, and the bytes of an arena, found by building everything without memory.
    fn measure(device: &Device, setup: &Setup) -> Result<(Layouts, usize)> {
        let mut layouts = Layouts::default();
        let mut measuring = Arena::measuring(device);
        Sampler::build(&Device::unbacked(), setup, &mut measuring, &mut layouts)?;
        Ok((layouts, measuring.used()))
    }

    fn build(device: &Device, setup: &Setup, arena: &mut Arena, layouts: &mut Layouts) -> Result<Sampler> {
        let ImageShape { height: h, width: w, channels: c } = setup.shape;
        let mut build =
            Builder { gradients: false, ..Builder::new(&mut layouts.parameters, &mut layouts.running, arena) };
        let (z, numbers) = (build.value(BATCH, 1, 1, setup.networks.latent)?, build.arena.take(BATCH)?);
        let vectors = setup.vectors.as_ref().map(|vectors| Arc::new(vectors.of_fakes()));
        let latent = Latent { z, labels: Labels::new(build.arena, &numbers, vectors)? };
        let image = build.value(BATCH, h, w, c)?;
        let network = networks::generator(setup, &mut build, &latent, &image)?;
        Ok(Sampler {
            setup: setup.clone(),
            state: StateBuffer::new(device, &State::new(0, [0.0; 2], 0, 0))?,
            network,
            bytes: arena.take(product([BATCH, h, w, c]))?,
            gathered: arena.take(layouts.running.len())?,
            known: Cell::new(false),
            latent,
            image,
        })
    }

    /// Images as bytes, (count, H, W, C).
    pub fn images(&self, player: &Player, weights: Weights, latents: &Latents) -> Result<Vec<u8>> {
        self.prepare(player, weights)?;
        self.bytes_from(&self.source(player, weights), &latents.draw(&self.setup.networks)?, &latents.labels)
    }

    /// The same a batch at a time, on the device: `take` gets the bytes of each batch, (batch, H, W, C).
    pub fn each(
        &self,
        player: &Player,
        weights: Weights,
        latents: &Latents,
        take: &mut dyn FnMut(&Buffer<u8>) -> Result<()>,
    ) -> Result<()> {
        self.prepare(player, weights)?;
        let mut left = latents.count;
        self.draw(&self.source(player, weights), &latents.draw(&self.setup.networks)?, &latents.labels, || {
            pixels::store(&self.bytes, &self.image.x)?;
            let count = left.min(BATCH);
            left -= count;
            take(&self.bytes.view(0..count * self.image.features()))
        })
    }

    /// What the generator gives as it is, (count, H, W, C): the points of a ring.
    pub fn values(&self, player: &Player, weights: Weights, latents: &Latents) -> Result<Vec<f32>> {
        self.prepare(player, weights)?;
        self.values_from(&self.source(player, weights), &latents.draw(&self.setup.networks)?, &latents.labels)
    }

    /// The statistics that belong to the average, for a checkpoint. None without an average, or without norms.
    pub fn statistics(&self, player: &Player) -> Result<Vec<NamedTensor>> {
        if player.average.is_none() {
            return Ok(Vec::new());
        }
        self.prepare(player, Weights::Average)?;
        let layout = &player.layouts.running;
        let tensor = |(entry, values): (&Entry, Vec<f32>)| NamedTensor {
            name: format!("{AVERAGE}{}", entry.name),
            shape: entry.shape.clone(),
            values,
        };
        Ok(layout.read(&self.gathered)?.into_iter().map(tensor).collect())
    }

    /// Takes the average's statistics up from a checkpoint. Files of format 1 have none: they are gathered anew.
    fn restore(&self, player: &Player, tensors: &HashMap<&str, &NamedTensor>) -> Result<()> {
        if tensors.keys().any(|name| is_statistic(name)) {
            let find = |name: &str| tensors.get(name).map(|t| (t.shape.as_slice(), t.values.as_slice()));
            parameters::restore(&player.layouts.running, &self.gathered, AVERAGE, find)?;
            self.known.set(true);
        }
        Ok(())
    }

    /// Says that the weights have changed.
    pub fn forget(&self) {
        self.known.set(false);
    }

    /// Normalises the weights that will draw, and gathers statistics for averaged ones, where they are not known.
    fn prepare(&self, player: &Player, weights: Weights) -> Result<()> {
        player.normalise_from(player.choose(weights), false)?;
        let averaged = player.average.is_some() && weights == Weights::Average;
        if !averaged || self.gathered.is_empty() || self.known.get() {
            return Ok(());
        }
        // The first batch replaces what is there, but as 0 times that, which is NaN where it is.
        self.gathered.zero()?;
        for i in 0..GATHERED {
            self.state.write(&State { step: i, ..State::new(0, [0.0; 2], 0, 0) })?;
            latents::draw(&self.latent.z.x, &self.state, LATENTS, self.setup.networks.latent_distribution)?;
            random::labels(&self.latent.labels.numbers, &self.state, LABELS, self.setup.labels() as u32)?;
            let mode = Mode::Train { momentum: 1.0 / (i + 1) as f32 };
            self.run(&Source { running: &self.gathered, ..self.source(player, weights) }, mode)?;
        }
        self.known.set(true);
        Ok(())
    }

    /// What draws, once it is prepared.
    fn source<'a>(&'a self, player: &'a Player, weights: Weights) -> Source<'a> {
        let averaged = player.average.is_some() && weights == Weights::Average;
        let running = if averaged { &self.gathered } else { &player.running };
        Source { weights: player.weights_of(player.choose(weights)), running }
    }

    fn bytes_from(&self, source: &Source, z: &[f32], labels: &[u32]) -> Result<Vec<u8>> {
        let count = z.len() / self.setup.networks.latent;
        let mut images = reserved("drawn images", room(count, self.image.features()))?;
        self.draw(source, z, labels, || {
            pixels::store(&self.bytes, &self.image.x)?;
            images.extend(self.bytes.read()?);
            Ok(())
        })?;
        images.truncate(count * self.image.features());
        Ok(images)
    }

    fn values_from(&self, source: &Source, z: &[f32], labels: &[u32]) -> Result<Vec<f32>> {
        let count = z.len() / self.setup.networks.latent;
        let mut values = reserved("drawn points", room(count, self.image.features()))?;
        self.draw(source, z, labels, || {
            values.extend(self.image.x.read()?);
            Ok(())
        })?;
        values.truncate(count * self.image.features());
        Ok(values)
    }

    /// Draws from `z` (count, latent) and, of a class-conditional run, `labels` (count), a batch at a time; each is
    /// taken from `image` by `take`. What fills the last batch up is drawn in vain.
    fn draw(&self, source: &Source, z: &[f32], labels: &[u32], mut take: impl FnMut() -> Result<()>) -> Result<()> {
        let (latent, classes) = (self.setup.networks.latent, self.setup.labels());
        let count = z.len() / latent;
        if z.len() != count * latent {
            return Err(Error::Shape(format!("sample: z has {} numbers, no multiple of {latent}", z.len())));
        }
        if self.setup.conditional() && labels.len() != count {
            let labels = labels.len();
            return Err(Error::Shape(format!("sample: {labels} labels for {count} images of a class-conditional run")));
        }
        if let Some(label) = labels.iter().find(|label| **label as usize >= classes) {
            let what = if self.setup.vectors.is_some() { "vectors" } else { "classes" };
            return Err(Error::Shape(format!("sample: label {label}, there are {classes} {what}")));
        }
        let (mut batch_z, mut batch_labels) = (vec![0.0; BATCH * latent], [0; BATCH]);
        for (i, z) in z.chunks(BATCH * latent).enumerate() {
            batch_z[..z.len()].copy_from_slice(z);
            batch_labels.iter_mut().zip(labels.iter().skip(i * BATCH)).for_each(|(to, label)| *to = *label);
            self.latent.z.x.write(&batch_z)?;
            self.latent.labels.numbers.write(&batch_labels)?;
            self.run(source, Mode::Evaluate)?;
            take()?;
        }
        Ok(())
    }

    fn run(&self, source: &Source, mode: Mode) -> Result<()> {
        self.network.forward(&Forward { weights: source.weights.into(), running: source.running, mode, rows: 0..BATCH })
    }
}

/// The generator of a checkpoint, to draw from and not to train.
pub struct Generator {
    player: Player,
    sampler: Sampler,
    weights: Weights,
    /// The weights on the way from one class to another.
    blended: Option<Reals>,
}

impl Generator {
    /// `tensors` are those of a checkpoint, [`super::Trainer::tensors`]; only the generator's are looked at, and not its
    /// moments. Without an average in it, the raw weights draw.
    pub fn new(device: &Device, setup: &Setup, tensors: &[NamedTensor], weights: Weights) -> Result<Generator> {
        let tensors = tensors.iter().map(|t| (t.name.as_str(), t)).collect::<HashMap<_, _>>();
        // Before memory is asked for: a file may speak of networks that no machine has room for.
        Sampler::measure(device, setup)?.0.check("generator", &tensors)?;
        let (sampler, layouts) = Sampler::new(device, setup)?;
        let player = Player::drawing(device, layouts, setup)?;
        player.restore(&tensors)?;
        sampler.restore(&player, &tensors)?;
        sampler.prepare(&player, weights)?;
        Ok(Generator { player, sampler, weights, blended: None })
    }

    /// Images (count, H, W, C) from `z` (count, latent) and, of a class-conditional run, `labels` (count).
    pub fn images(&self, z: &[f32], labels: &[u32]) -> Result<Vec<u8>> {
        self.sampler.bytes_from(&self.sampler.source(&self.player, self.weights), z, labels)
    }

    /// What the generator gives as it is, (count, H, W, C).
    pub fn values(&self, z: &[f32], labels: &[u32]) -> Result<Vec<f32>> {
        self.sampler.values_from(&self.sampler.source(&self.player, self.weights), z, labels)
    }

    /// What it draws with, under the names of a checkpoint's `generator.` tensors: the weights, the batch statistics that
    /// belong to them and, where there are such, the vectors of their spectral norms.
    pub fn tensors(&self) -> Result<Vec<NamedTensor>> {
        let running = self.sampler.source(&self.player, self.weights).running;
        let (layouts, weights) = (&self.player.layouts, self.player.choose(self.weights));
        let mut parts = vec![(&layouts.parameters, weights), (&layouts.running, running)];
        parts.extend(self.player.spectral_vectors());
        let mut tensors = Vec::new();
        for (layout, flat) in parts {
            let tensor = |(entry, values): (&Entry, Vec<f32>)| NamedTensor {
                name: format!("generator.{}", entry.name),
                shape: entry.shape.clone(),
                values,
            };
            tensors.extend(layout.read(flat)?.into_iter().map(tensor));
        }
        Ok(tensors)
    }

    /// Images from `z` (count, latent) on the way from class `from` to class `to`: each parameter that has a row per
    /// class gets, as `from`'s row, `(1 - t)` of that row plus `t` of `to`'s. At 0 and 1 that is the class itself.
    pub fn morph(&mut self, z: &[f32], [from, to]: [u32; 2], t: f32) -> Result<Vec<u8>> {
        let Source { weights, running } = self.sampler.source(&self.player, self.weights);
        let setup = &self.sampler.setup;
        if !setup.conditional() || setup.vectors.is_some() {
            return Err(Error::Config("morph: the run is not class-conditional".into()));
        }
        if let Some(label) = [from, to].iter().find(|label| **label as usize >= setup.classes) {
            return Err(Error::Shape(format!("morph: label {label}, there are {} classes", setup.classes)));
        }
        let mut values = weights.read()?;
        for (start, columns) in class_rows(&self.player.layouts.parameters, setup) {
            for i in start..start + columns {
                let (a, b) = (values[i + from as usize * columns], values[i + to as usize * columns]);
                values[i + from as usize * columns] = (1.0 - t) * a + t * b;
            }
        }
        let blended = match self.blended.take() {
            Some(blended) => blended,
            None => weights.device().zeros(weights.len())?,
        };
        blended.write(&values)?;
        let labels = vec![from; z.len() / setup.networks.latent];
        let images = self.sampler.bytes_from(&Source { weights: &blended, running }, z, &labels);
        self.blended = Some(blended);
        images
    }
}

/// Whether a tensor of a checkpoint is one of the average's statistics, which follow from the average.
pub(super) fn is_statistic(name: &str) -> bool {
    name.starts_with(AVERAGE) && [".running_mean", ".running_var"].iter().any(|end| name.ends_with(end))
}

/// Where the parameters with a row per class begin in a flat buffer, and how long a row is: the conditional norms' scale
/// and shift, and the rows of a first layer that is fed the label.
fn class_rows(layout: &Layout, setup: &Setup) -> Vec<(usize, usize)> {
    let (inputs, label) = networks::latent_inputs(setup);
    let mut rows = Vec::new();
    for entry in layout.entries() {
        let [n, columns] = entry.shape[..] else { continue };
        let norm = entry.name.rsplit('.').nth(1).is_some_and(|layer| layer.starts_with("norm"));
        if norm && n == setup.classes {
            rows.push((entry.at.offset(), columns));
        } else if label.is_some() && entry.name == "linear.weight" && n == inputs {
            rows.push((entry.at.offset() + (inputs - setup.classes) * columns, columns));
        }
    }
    rows
}
