//! The training step.
//!
//! Everything is placed when the trainer is made: the fakes are written straight into the second half of the
//! discriminator's batch, whose gradient is the generator's output gradient. A step allocates nothing and does not
//! wait for the device; what changes from step to step (its number, learning rates, random numbers) lives there.

use super::options::{Latents, Metrics, Plan, Preset, TrainerOptions, Update, Weights};
use super::sampler::Sampler;
use super::mlp;
use crate::checkpoint::NamedTensor;
use crate::data::ImageShape;
use crate::device::{Buffer, Device};
use crate::nn::parameters::{first_not_finite, restore};
use crate::nn::{Arena, Backward, Builder, Forward, Layout, Mode, Network, Parameters, Value};
use crate::ops::adam::{self, Adam};
use crate::ops::log_partition::{self, Evaluation};
use crate::ops::state::{self, State, StateBuffer};
use crate::ops::pixels::{self, Augment};
use crate::ops::random;
use crate::{Error, Result};

/// Which random numbers of a step: each use has its own stream.
pub(super) const LATENTS: u32 = 0;
const PIXELS: u32 = 1;

/// The running statistics' momentum while training, PyTorch's default.
const MOMENTUM: f32 = 0.1;

/// Updates for which the average is a copy of the weights.
const AVERAGE_START: u32 = 200;

/// The layouts of a generator and a discriminator, found by building them once.
#[derive(Default)]
pub(super) struct Layouts {
    pub generator: Layout,
    pub discriminator: Layout,
    /// Running statistics of the generator; the discriminator has none.
    pub running: Layout,
}

/// All that a step reads and writes, but for the parameters.
struct Workspace {
    generator: Network,
    discriminator: Network,
    /// (M, latent)
    z: Value,
    /// (N, H, W, C) as the loader gives them.
    images: Buffer<u8>,
    /// (N + M, H, W, C): real ones, then fakes.
    batch: Value,
    /// (N + M); its gradient is 1 everywhere: the seed of the one backward pass.
    logits: Value,
    evaluation: Evaluation,
    loss_workspace: Buffer<f32>,
    /// (2): the gradients' norms of G and D.
    norms: Buffer<f32>,
    adam_workspace: Buffer<f32>,
}

impl Workspace {
    fn build(options: &TrainerOptions, device: &Device, layouts: &mut Layouts, arena: &mut Arena) -> Result<Workspace> {
        let ImageShape { height: h, width: w, channels: c } = options.shape;
        let (n, m) = (options.batch, options.batch);
        let mut none = Layout::default();
        let mut build = Builder { parameters: &mut layouts.discriminator, running: &mut none, arena, gradients: true };
        let batch = build.value(n + m, h, w, c)?;
        let (discriminator, logits) = discriminator(options, &mut build, &batch)?;
        let mut build =
            Builder { parameters: &mut layouts.generator, running: &mut layouts.running, arena, gradients: true };
        let z = Value { dx: None, ..build.value(m, 1, 1, options.latent)? };
        let generator = generator(options, &mut build, &z, &batch.rows(&(n..n + m)))?;
        let workspace = |layout: &Layout| adam::workspace_len(device, layout.len());
        let adam_len = workspace(&layouts.generator).max(workspace(&layouts.discriminator));
        Ok(Workspace {
            generator,
            discriminator,
            z,
            images: arena.take(n * h * w * c)?,
            batch,
            logits,
            evaluation: Evaluation {
                statistics: arena.take(4)?,
                seed_d: arena.take(n + m)?,
                seed_g: arena.take(m)?,
            },
            loss_workspace: arena.take(log_partition::workspace_len(device, n + m))?,
            norms: arena.take(2)?,
            adam_workspace: arena.take(adam_len)?,
        })
    }
}

/// The generator of a preset, from `z` into `image`.
pub(super) fn generator(options: &TrainerOptions, build: &mut Builder, z: &Value, image: &Value) -> Result<Network> {
    match options.preset {
        Preset::SoftmaxGan => mlp::generator(build, &[128, 256, 512, 1024], z, image),
    }
}

fn discriminator(options: &TrainerOptions, build: &mut Builder, image: &Value) -> Result<(Network, Value)> {
    match options.preset {
        Preset::SoftmaxGan => mlp::discriminator(build, &[512, 256], image),
    }
}

pub struct Trainer {
    options: TrainerOptions,
    device: Device,
    state: StateBuffer,
    step: u64,
    generator: Parameters,
    discriminator: Parameters,
    running_layout: Layout,
    running: Buffer<f32>,
    workspace: Workspace,
    adam: Adam,
    sampler: Option<Sampler>,
}

impl Trainer {
    pub fn new(device: &Device, options: &TrainerOptions) -> Result<Trainer> {
        let (_, bytes) = measure(device, options)?;
        let mut layouts = Layouts::default();
        let mut arena = Arena::new(device, bytes)?;
        let workspace = Workspace::build(options, device, &mut layouts, &mut arena)?;
        workspace.logits.dx.as_ref().map_or(Ok(()), |ones| ones.write(&vec![1.0; ones.len()]))?;
        let state = State::new(options.seed, [options.lr_g, options.lr_d], 0, 0);
        let running = device.upload(&layouts.running.initial_values(0))?;
        // Two streams of seeds, so that the players' weights are independent.
        let seed_d = options.seed ^ 0x9e37_79b9_7f4a_7c15;
        Ok(Trainer {
            device: device.clone(),
            state: StateBuffer::new(device, &state)?,
            step: 0,
            generator: Parameters::new(device, layouts.generator, options.average > 0.0, options.seed)?,
            discriminator: Parameters::new(device, layouts.discriminator, false, seed_d)?,
            running_layout: layouts.running,
            running,
            workspace,
            adam: Adam { beta1: options.beta1.into(), beta2: options.beta2.into(), eps: 1e-8 },
            sampler: None,
            options: options.clone(),
        })
    }

    /// What a trainer of these options would take.
    pub fn plan(options: &TrainerOptions) -> Result<Plan> {
        let (layouts, arena) = measure(&Device::unbacked(), options)?;
        let (g, d) = (&layouts.generator, &layouts.discriminator);
        let averages = if options.average > 0.0 { g.len() } else { 0 };
        let list = |layout: &Layout| layout.entries().iter().map(|e| format!("  {:<28} {:?}\n", e.name, e.shape)).collect();
        Ok(Plan {
            generator: list(g),
            discriminator: list(d),
            parameters_g: g.count(),
            parameters_d: d.count(),
            bytes: arena + 4 * (4 * g.len() + 4 * d.len() + averages + layouts.running.len()),
        })
    }

    pub fn options(&self) -> &TrainerOptions {
        &self.options
    }

    /// Steps done.
    pub fn step_number(&self) -> u64 {
        self.step
    }

    pub fn parameter_counts(&self) -> (usize, usize) {
        (self.generator.layout.count(), self.discriminator.layout.count())
    }

    /// One training step on a batch of images (N, H, W, C) and their labels (N).
    pub fn step(&mut self, images: &[u8], _labels: &[u32]) -> Result<()> {
        random::normal(&self.workspace.z.x, &self.state, LATENTS)?;
        self.update(images)
    }

    /// One training step with given latents (M, latent) instead of drawn ones, to compare with another program.
    pub fn step_given(&mut self, images: &[u8], latents: &[f32]) -> Result<()> {
        self.workspace.z.x.write(latents)?;
        self.update(images)
    }

    fn update(&mut self, images: &[u8]) -> Result<()> {
        let n = self.options.batch;
        let w = &self.workspace;
        w.images.write(images)?;
        let real = w.batch.rows(&(0..n));
        pixels::load(&real.x, &w.images, &self.state, PIXELS, Augment::default(), [n, real.h, real.w, real.c])?;
        let rows = 0..w.batch.n;
        match self.options.update {
            Update::Simultaneous => {
                self.forward_generator()?;
                self.forward_discriminator()?;
                self.backward_discriminator(true, rows)?;
                self.backward_generator()?;
                self.update_discriminator()?;
                self.update_generator()?;
            }
            Update::Alternating => {
                self.forward_generator()?;
                self.forward_discriminator()?;
                self.backward_discriminator(true, rows.clone())?;
                self.update_discriminator()?;
                self.forward_discriminator()?;
                self.backward_discriminator(false, n..rows.end)?;
                self.backward_generator()?;
                self.update_generator()?;
            }
        }
        state::advance(&self.state)?;
        self.step += 1;
        Ok(())
    }

    fn forward_generator(&self) -> Result<()> {
        let pass = Forward {
            weights: &self.generator.values,
            running: &self.running,
            mode: Mode::Train { momentum: MOMENTUM },
            rows: 0..self.workspace.z.n,
        };
        self.workspace.generator.forward(&pass)
    }

    /// The logits of the whole batch, the losses and their seeds.
    fn forward_discriminator(&self) -> Result<()> {
        let w = &self.workspace;
        let mode = Mode::Train { momentum: MOMENTUM };
        let (weights, rows) = (&self.discriminator.values, 0..w.batch.n);
        w.discriminator.forward(&Forward { weights, running: &self.running, mode, rows })?;
        let n = self.options.batch;
        let (real, fake) = (w.logits.x.view(0..n), w.logits.x.view(n..w.logits.n));
        log_partition::fused(&w.evaluation, &real, &fake, 1.0, &w.loss_workspace)?;
        state::check(&self.state, &w.evaluation.statistics)
    }

    /// The backward pass with seed 1 per sample, of these rows: the parameters' gradients of L_D (each sample's part
    /// scaled by its seed) where they are wanted, and the signal at the fakes.
    fn backward_discriminator(&self, parameters: bool, rows: std::ops::Range<usize>) -> Result<()> {
        if parameters {
            self.discriminator.gradients.zero()?;
        }
        self.workspace.discriminator.backward(&Backward {
            weights: &self.discriminator.values,
            gradients: parameters.then_some(&self.discriminator.gradients),
            parameter_scale: Some(&self.workspace.evaluation.seed_d),
            signal_scale: None,
            rows,
            input_rows: self.options.batch..self.workspace.batch.n,
        })
    }

    /// From the signal at the fakes, each scaled by its seed in L_G, to the generator's gradients.
    fn backward_generator(&self) -> Result<()> {
        self.generator.gradients.zero()?;
        let rows = 0..self.workspace.z.n;
        self.workspace.generator.backward(&Backward {
            weights: &self.generator.values,
            gradients: Some(&self.generator.gradients),
            parameter_scale: None,
            signal_scale: Some(&self.workspace.evaluation.seed_g),
            rows: rows.clone(),
            input_rows: rows,
        })
    }

    fn update_generator(&self) -> Result<()> {
        self.adam(&self.generator, state::Network::Generator)
    }

    fn update_discriminator(&self) -> Result<()> {
        self.adam(&self.discriminator, state::Network::Discriminator)
    }

    fn adam(&self, player: &Parameters, network: state::Network) -> Result<()> {
        let buffers = adam::Buffers {
            parameters: &player.values,
            first_moment: &player.first_moment,
            second_moment: &player.second_moment,
            gradient: &player.gradients,
        };
        let average = player.average.as_ref().map(|values| adam::Average {
            values,
            decay: self.options.average,
            start: AVERAGE_START,
        });
        let slot = network as usize;
        let norm = self.workspace.norms.view(slot..slot + 1);
        let workspace = adam::workspace_len(&self.device, player.layout.len());
        let workspace = self.workspace.adam_workspace.view(0..workspace);
        adam::update(&buffers, average.as_ref(), &norm, &self.state, network, &self.adam, &workspace)
    }

    /// Waits for the device. [`Error::NotFinite`] once a loss was not finite: from that step on nothing was updated.
    pub fn metrics(&self) -> Result<Metrics> {
        let state = self.state.read()?;
        if state.halted != 0 {
            let what = self.first_not_finite()?;
            return Err(Error::NotFinite { step: u64::from(state.step) + 1, what });
        }
        let s = self.workspace.evaluation.statistics.read()?;
        let norms = self.workspace.norms.read()?;
        let n = self.options.batch as f64;
        Ok(Metrics {
            step: self.step,
            loss_d: s[0],
            loss_g: s[1],
            kl_d: (f64::from(s[0]) - n.ln()) as f32,
            kl_g: (f64::from(s[1]) - (2.0 * n).ln()) as f32,
            real_logit: s[2],
            fake_logit: s[3],
            grad_norm_g: norms[0],
            grad_norm_d: norms[1],
        })
    }

    /// In the order in which a step computes them, the first tensor with a value that is not finite.
    fn first_not_finite(&self) -> Result<String> {
        let w = &self.workspace;
        let sides = [
            ("generator", &self.generator, &w.generator),
            ("discriminator", &self.discriminator, &w.discriminator),
        ];
        for (player, parameters, network) in sides {
            if let Some(name) = first_not_finite(&parameters.layout, &parameters.values)? {
                return Ok(format!("{player}.{name} is not finite"));
            }
            for layer in &network.layers {
                if layer.output().x.read()?.iter().any(|x| !x.is_finite()) {
                    return Ok(format!("the output of {player}.{} is not finite", layer.name()));
                }
            }
        }
        Ok("the loss is not finite, though every logit is".into())
    }

    /// Everything that a checkpoint needs to go on from here.
    pub fn tensors(&self) -> Result<Vec<NamedTensor>> {
        let mut tensors = Vec::new();
        for (player, layout, prefix, flat) in self.flat_buffers() {
            for (entry, values) in layout.read(flat)? {
                let name = format!("{prefix}{player}.{}", entry.name);
                tensors.push(NamedTensor { name, shape: entry.shape.clone(), values });
            }
        }
        Ok(tensors)
    }

    fn flat_buffers(&self) -> Vec<(&'static str, &Layout, &'static str, &Buffer<f32>)> {
        let mut all = Vec::new();
        for (player, parameters) in [("generator", &self.generator), ("discriminator", &self.discriminator)] {
            all.extend(parameters.kept().into_iter().map(|(prefix, flat)| (player, &parameters.layout, prefix, flat)));
        }
        all.push(("generator", &self.running_layout, "", &self.running));
        all
    }

    /// Goes on from a checkpoint after `step` steps: every tensor of [`Trainer::tensors`] must be there, and no other.
    pub fn restore(&mut self, step: u64, tensors: &[NamedTensor]) -> Result<()> {
        let by_name: std::collections::HashMap<&str, &NamedTensor> =
            tensors.iter().map(|t| (t.name.as_str(), t)).collect();
        let mut wanted = 0;
        for (player, layout, prefix, flat) in self.flat_buffers() {
            wanted += layout.entries().len();
            restore(layout, flat, &format!("{prefix}{player}."), |name| {
                by_name.get(name).map(|t| (t.shape.as_slice(), t.values.as_slice()))
            })?;
        }
        if by_name.len() != wanted {
            return Err(Error::Shape(format!("{} tensors, expected {wanted}", by_name.len())));
        }
        let number = u32::try_from(step).map_err(|_| Error::Shape(format!("step {step} is above {}", u32::MAX)))?;
        let base = [self.options.lr_g, self.options.lr_d];
        let mut state = State::new(self.options.seed, base, 0, 0);
        state.step = number;
        state.updates = [number; 2];
        self.state.write(&state)?;
        self.step = step;
        Ok(())
    }

    /// Draws images, (count, H, W, C) bytes.
    pub fn sample(&mut self, weights: Weights, latents: &Latents) -> Result<Vec<u8>> {
        let sampler = match self.sampler.take() {
            Some(sampler) => sampler,
            None => Sampler::new(&self.device, &self.options)?,
        };
        let sampler = self.sampler.insert(sampler);
        match (&self.generator.average, weights) {
            (Some(average), Weights::Average) => sampler.draw(average, None, latents),
            _ => sampler.draw(&self.generator.values, Some(&self.running), latents),
        }
    }

    pub fn generator(&self) -> &Parameters {
        &self.generator
    }

    pub fn discriminator(&self) -> &Parameters {
        &self.discriminator
    }
}

/// The layouts, and the bytes of an arena, found by building everything without memory. Block sizes, and with them
/// some workspaces, are the device's.
fn measure(device: &Device, options: &TrainerOptions) -> Result<(Layouts, usize)> {
    let mut layouts = Layouts::default();
    let mut arena = Arena::measuring();
    Workspace::build(options, device, &mut layouts, &mut arena)?;
    Ok((layouts, arena.used()))
}
