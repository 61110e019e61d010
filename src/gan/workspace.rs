//! What a training step works on, placed once.

use std::sync::Arc;

use super::classes::ClassLoss;
use super::networks::{self, Discriminator, Latent};
use super::passes::{Judgement, OfD, OfG, Split, Whole};
use super::penalty::Penalties;
use super::player::Players;
use super::setup::Setup;
use super::share::{Rows, Share};
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
    pub of_d: Judgement,
    pub of_g: Judgement,
    /// The points that all ranks draw as real samples, where there are others.
    pub points: Option<Reals>,
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
    /// `setup` is that of the share alone.
    pub fn build(
        setup: &Setup,
        share: &Share,
        device: &Device,
        players: &mut Players,
        arena: &mut Arena,
    ) -> Result<Workspace> {
        let ImageShape { height: h, width: w, channels: c } = setup.shape;
        let training = &setup.training;
        let n = training.batch;
        let (all, others) = (share.of_d.all, device.ranks().is_some());
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
            whole: None,
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
            classes: classes.map(|logits| ClassLoss::new(setup, share, arena, logits, &labels_of_d)).transpose()?,
            penalties: Penalties::new(setup, share, arena, &network, samples)?,
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
        let mut generator = |rows: &Rows, gradients| -> Result<OfG> {
            let fakes = rows.own.len();
            let mut build = Builder {
                parameters: &mut players.generator.parameters,
                running: &mut players.generator.running,
                arena,
                gradients,
                unfused: &training.unfused,
                precision: training.precision(),
                whole: (!training.local_norm).then_some(rows.all),
            };
            let latents = |build: &mut Builder, rows: &Rows, labels: &Buffer<u32>| -> Result<(Latent, Reals)> {
                let z = build.value(rows.all, 1, 1, setup.networks.latent)?;
                let labels = Labels::new(build.arena, labels, of_fakes.clone())?;
                Ok((Latent { z: Value { dx: None, ..z.rows(&rows.own) }, labels }, z.x))
            };
            let (latent, z) = latents(&mut build, rows, &labels.view(n..n + fakes))?;
            let part = match setup.part_of_g().filter(|part| *part < fakes) {
                Some(part) => {
                    let labels = build.arena.take(part)?;
                    Some((latents(&mut build, &Rows::whole(part), &labels)?.0, build.value(part, h, w, c)?))
                }
                None => None,
            };
            let network = match &part {
                Some((latent, images)) => networks::generator(setup, &mut build, latent, images)?,
                None => networks::generator(setup, &mut build, &latent, &images.rows(&(n..n + fakes)))?,
            };
            let labels = if others { Some(build.arena.take(rows.all)?) } else { None };
            Ok(OfG { network, latent, part, rows: rows.clone(), all: (z, labels) })
        };
        let of_step = generator(&share.of_g, true)?;
        let drawing = if share.has_one_kind_of_fakes() { None } else { Some(generator(&share.of_d, false)?) };
        let mut evaluation = |n: usize, fakes: usize| -> Result<Evaluation> {
            let (statistics, seed_d, seed_g) = (arena.take(4)?, arena.take(n + fakes)?, arena.take(fakes)?);
            Ok(Evaluation { statistics, seed_d, seed_g })
        };
        let mut judgement = |fakes: &Rows| -> Result<Judgement> {
            let own = evaluation(n, fakes.own.len())?;
            let of_all = if others { Some(evaluation(all, fakes.all)?) } else { None };
            Ok(Judgement::new(own, of_all, fakes.clone()))
        };
        let (of_d, of_g) = (judgement(&share.of_d)?, judgement(&share.of_g)?);
        let fakes = [share.of_d.all, share.of_g.all];
        // Some of the logits may be split among more blocks than all of them.
        let loss_len = fakes.map(|fakes| training.loss.workspace_len(device, all + fakes, &training.unfused));
        let gathered = if others { Some(arena.take(all + fakes[0].max(fakes[1]))?) } else { None };
        let points = if others && setup.draws_points() {
            Some(arena.take_in(product([all, h, w, c]), training.precision())?)
        } else {
            None
        };
        let loaded = if setup.draws_points() { 0 } else { product([training.n_dis, n]) };
        let input = |_| Ok(Input { images: arena.take(product([loaded, h, w, c]))?, labels: arena.take(loaded)? });
        let inputs = (0..device.input_slots()).map(input).collect::<Result<_>>()?;
        let updated = [&players.generator, &players.discriminator];
        let adam_len = updated.map(|p| adam::workspace_len(device, p.parameters.len()));
        Ok(Workspace {
            generator: of_step,
            drawing,
            discriminator,
            whole: Whole { seen, images, labels, logits, gathered },
            points,
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
