//! What a training step works on, placed once.

use std::sync::Arc;

use super::classes::ClassLoss;
use super::networks::{self, Discriminator, Latent};
use super::passes::{OfD, OfG, Split, Whole};
use super::penalty::Penalties;
use super::player::Players;
use super::setup::Setup;
use crate::data::ImageShape;
use crate::device::{Buffer, Device, Reals};
use crate::nn::{Arena, Builder, HeadParts, Labels, Value};
use crate::ops::adam;
use crate::ops::log_partition::Evaluation;
use crate::sizes::product;
use crate::{Error, Result};

/// All that a step reads and writes, but for the parameters.
pub(super) struct Workspace {
    /// With the fakes of a G step; it has gradients.
    pub generator: OfG,
    /// With those of a D step, where that has another number.
    pub drawing: Option<OfG>,
    pub discriminator: OfD,
    pub whole: Whole,
    /// One for each slot of the device.
    pub inputs: Vec<Input>,
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
        // Without parts, D works on the batch's own memory.
        let part_of_d = setup.part_of_d();
        let samples = part_of_d.map_or(most, |part| 2 * part);
        let rows = samples + Penalties::rows(setup, part_of_d.unwrap_or(n));
        let mut build = Builder {
            parameters: &mut players.discriminator.parameters,
            running: &mut players.discriminator.running,
            arena,
            gradients: true,
            unfused: &training.unfused,
            precision: training.precision(),
        };
        let shown = build.value(rows, h, w, c)?;
        let seen = if part_of_d.is_some() { build.value(most, h, w, c)? } else { shown.rows(&(0..most)) };
        let images = if setup.diffaug().is_some() { build.value(most, h, w, c)? } else { seen.clone() };
        let labels_of_d = build.arena.take(rows)?;
        let labels = if part_of_d.is_some() { build.arena.take(most)? } else { labels_of_d.view(0..most) };
        let known = Labels::new(build.arena, &labels_of_d, setup.vectors.clone())?;
        let Discriminator { network, logits: logits_of_d, classes, head } =
            networks::discriminator(setup, &mut build, &shown, &known)?;
        let logits = match part_of_d {
            Some(_) => Value { n: most, x: arena.take(most)?, dx: None, ..logits_of_d },
            None => logits_of_d.rows(&(0..most)),
        };
        let of_fakes = setup.vectors.as_ref().map(|vectors| Arc::new(vectors.of_fakes()));
        let discriminator = OfD {
            classes: classes.map(|logits| ClassLoss::new(setup, arena, logits, &labels_of_d)).transpose()?,
            penalties: Penalties::new(setup, arena, &network, samples)?,
            split: match part_of_d {
                Some(part) => {
                    let of_batch = |head: &HeadParts| -> Result<HeadParts> {
                        let features = arena.take(product([most, head.features.len() / rows]))?;
                        Ok(HeadParts { features, labels: Labels::new(arena, &labels, None)?, ..head.clone() })
                    };
                    let head = head.as_ref().filter(|_| setup.vectors.is_none()).map(of_batch).transpose()?;
                    Some(Split { most: part, seeds: arena.take(2 * part)?, head })
                }
                None => None,
            },
            head,
            network,
            images: shown,
            labels: labels_of_d,
            logits: logits_of_d,
        };
        let mut generator = |fakes: usize, gradients| -> Result<OfG> {
            let mut build = Builder {
                parameters: &mut players.generator.parameters,
                running: &mut players.generator.running,
                arena,
                gradients,
                unfused: &training.unfused,
                precision: training.precision(),
            };
            let latents = |build: &mut Builder, count, labels: &Buffer<u32>| -> Result<Latent> {
                let z = build.value(count, 1, 1, setup.networks.latent)?;
                let labels = Labels::new(build.arena, labels, of_fakes.clone())?;
                Ok(Latent { z: Value { dx: None, ..z }, labels })
            };
            let latent = latents(&mut build, fakes, &labels.view(n..n + fakes))?;
            let part = match setup.part_of_g().filter(|part| *part < fakes) {
                Some(part) => {
                    let labels = build.arena.take(part)?;
                    Some((latents(&mut build, part, &labels)?, build.value(part, h, w, c)?))
                }
                None => None,
            };
            let network = match &part {
                Some((latent, images)) => networks::generator(setup, &mut build, latent, images)?,
                None => networks::generator(setup, &mut build, &latent, &images.rows(&(n..n + fakes)))?,
            };
            Ok(OfG { network, latent, part })
        };
        let of_step = generator(m_g, true)?;
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
            drawing,
            discriminator,
            whole: Whole { seen, images, labels, logits },
            inputs,
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
