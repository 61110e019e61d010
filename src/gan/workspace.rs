//! What a training step works on, placed once.

use std::sync::Arc;

use super::classes::ClassLoss;
use super::networks::{self, Discriminator, Latent};
use super::penalty::Penalties;
use super::player::Players;
use super::setup::Setup;
use crate::data::ImageShape;
use crate::device::{Buffer, Device, Reals};
use crate::nn::{Arena, Builder, Labels, Network, Value};
use crate::ops::adam;
use crate::ops::log_partition::Evaluation;
use crate::sizes::product;
use crate::{Error, Result};

/// All that a step reads and writes, but for the parameters.
pub(super) struct Workspace {
    /// M of the G step; it has gradients.
    pub generator: Network,
    pub latent: Latent,
    /// M of a D step, where that is another.
    pub drawing: Option<(Network, Latent)>,
    pub discriminator: Network,
    /// One for each slot of the device.
    pub inputs: Vec<Input>,
    /// (N + M, H, W, C): what D sees of real images, then of fakes; then the rows of gradient penalties.
    pub batch: Value,
    /// (N + M, H, W, C): these images themselves, where D sees them changed; else the same memory.
    pub images: Value,
    pub labels: Buffer<u32>,
    pub logits: Value,
    /// The gradient of the logits, which D's backward pass starts from. Without a class loss it is 1, or the loss scale,
    /// everywhere, so that one pass serves both players: the derivatives of their losses scale what it leaves, sample by
    /// sample. With a class loss it is, at the real images and the fakes, the derivative of one player's loss at a time.
    pub backward_seed: Reals,
    pub classes: Option<ClassLoss>,
    pub penalties: Option<Penalties>,
    /// Of the last D step and the last G step.
    pub of_d: Evaluation,
    pub of_g: Evaluation,
    pub loss_workspace: Reals,
    /// (2): the gradients' norms of G and D.
    pub norms: Reals,
    pub adam_workspace: Reals,
}

/// What a step is given: (n_dis, N, H, W, C) and (n_dis, N) as the loader gives them; none where points are drawn here.
pub(super) struct Input {
    pub images: Buffer<u8>,
    pub labels: Buffer<u32>,
}

impl Input {
    pub fn bytes(&self) -> usize {
        self.images.len() + size_of::<u32>() * self.labels.len()
    }
}

impl Workspace {
    pub fn build(setup: &Setup, device: &Device, players: &mut Players, arena: &mut Arena) -> Result<Workspace> {
        let ImageShape { height: h, width: w, channels: c } = setup.shape;
        let training = &setup.training;
        let (n, m_d, m_g) = (training.batch, training.batch, training.batch_of_g());
        let most = setup.samples();
        let rows = most + Penalties::rows(setup);
        let mut build = Builder {
            parameters: &mut players.discriminator.parameters,
            running: &mut players.discriminator.running,
            arena,
            gradients: true,
            unfused: &training.unfused,
            precision: training.precision(),
        };
        let batch = build.value(rows, h, w, c)?;
        let images = match setup.diffaug() {
            Some(_) => build.value(most, h, w, c)?,
            None => batch.rows(&(0..most)),
        };
        let labels = build.arena.take(rows)?;
        let known = Labels::new(build.arena, &labels, setup.vectors.clone())?;
        let Discriminator { network: discriminator, logits, classes } =
            networks::discriminator(setup, &mut build, &batch, &known)?;
        let classes = classes.map(|logits| ClassLoss::new(setup, arena, logits, &labels)).transpose()?;
        let penalties = Penalties::new(setup, arena, &discriminator, most)?;
        let of_fakes = setup.vectors.as_ref().map(|vectors| Arc::new(vectors.of_fakes()));
        let mut generator = |fakes: usize, gradients| -> Result<(Network, Latent)> {
            let mut build = Builder {
                parameters: &mut players.generator.parameters,
                running: &mut players.generator.running,
                arena,
                gradients,
                unfused: &training.unfused,
                precision: training.precision(),
            };
            let z = Value { dx: None, ..build.value(fakes, 1, 1, setup.networks.latent)? };
            let labels = Labels::new(build.arena, &labels.view(n..n + fakes), of_fakes.clone())?;
            let latent = Latent { z, labels };
            let network = networks::generator(setup, &mut build, &latent, &images.rows(&(n..n + fakes)))?;
            Ok((network, latent))
        };
        let (of_step, latent) = generator(m_g, true)?;
        let drawing = if m_d == m_g { None } else { Some(generator(m_d, false)?) };
        let mut evaluation = |fakes: usize| -> Result<Evaluation> {
            let (statistics, seed_d, seed_g) = (arena.take(4)?, arena.take(n + fakes)?, arena.take(fakes)?);
            Ok(Evaluation { statistics, seed_d, seed_g })
        };
        let (of_d, of_g) = (evaluation(m_d)?, evaluation(m_g)?);
        // Some of the logits may be split among more blocks than all of them.
        let loss_len = [m_d, m_g].map(|fakes| training.loss.workspace_len(device, n + fakes, &training.unfused));
        let loaded = if setup.draws_points() { 0 } else { product([training.n_dis, n]) };
        let input = |_| Ok(Input { images: arena.take(product([loaded, h, w, c]))?, labels: arena.take(loaded)? });
        let inputs = (0..device.input_slots()).map(input).collect::<Result<_>>()?;
        let updated = [&players.generator, &players.discriminator];
        let adam_len = updated.map(|p| adam::workspace_len(device, p.parameters.len()));
        Ok(Workspace {
            generator: of_step,
            latent,
            drawing,
            discriminator,
            inputs,
            batch,
            images,
            labels,
            backward_seed: gradient(&logits, "the logits")?.clone(),
            logits,
            classes,
            penalties,
            of_d,
            of_g,
            loss_workspace: arena.take(loss_len[0].max(loss_len[1]))?,
            norms: arena.take(2)?,
            adam_workspace: arena.take(adam_len[0].max(adam_len[1]))?,
        })
    }
}

/// The gradient of a value that was built with one.
pub(super) fn gradient<'a>(value: &'a Value, name: &str) -> Result<&'a Reals> {
    value.dx.as_ref().ok_or_else(|| Error::Shape(format!("{name}: built without a gradient")))
}
